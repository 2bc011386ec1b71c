//! From the proxy to the loop and back: a few connections to tiny_http within the program, made once at the start. A
//! request's head is passed on over one of them, its body through the table beside (reply.rs), and the reply is read back.
//!
//! The listener that tiny_http accepts them from is closed as soon as they stand. Nobody else can reach the loop then:
//! tiny_http would let any local program end this one, e.g. by a `Content-Length` of terabytes.

use crate::http1::Head;
use crate::reply::{Body, Handover, Reply};
use crate::server::HEADERS_READ;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io::{self, ErrorKind, Read, Write};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use tempfile::SpooledTempFile;

#[cfg(target_os = "linux")]
use abstract_unix as loopback;
#[cfg(not(target_os = "linux"))]
use tcp as loopback;

/// The private header with the number of a request. The proxy never passes on one that a client has sent.
pub const REQUEST_NUMBER: &str = "Request-Number";

pub struct Relay {
    connections: Mutex<Connections>,
    returned: Condvar,
    handover: Arc<Handover>,
}

struct Connections {
    idle: Vec<loopback::Stream>,
    /// Idle or in use. Only somebody's tampering with this program's sockets makes it less than at the start.
    open: usize,
}

impl Relay {
    /// Starts tiny_http, connects to it, and closes its listener.
    pub fn open(handover: Arc<Handover>) -> io::Result<(tiny_http::Server, Relay)> {
        let listener = loopback::listen()?;
        let address = listener.local_addr()?;
        let door = listener.try_clone()?;
        let server = tiny_http::Server::from_listener(listener, None).map_err(io::Error::other)?;
        let mut idle = Vec::new();
        while idle.len() < CONNECTIONS {
            let mut connection = loopback::connect(&address)?;
            introduce(&mut connection, &server)?;
            idle.push(connection);
        }
        // tiny_http's accepting thread ends at its first error. That is forced here: one more connection wakes it, and
        // the next call of accept finds the listener non-blocking and nobody waiting.
        door.set_nonblocking(true)?;
        drop(loopback::connect(&address)?);
        while server.recv().is_ok() {}
        let connections = Connections { open: idle.len(), idle };
        Ok((server, Relay { connections: Mutex::new(connections), returned: Condvar::new(), handover }))
    }

    /// Has the loop answer a request. Waits for its turn, and for the handler.
    pub fn ask(&self, number: u64, head: &Head, body: Option<SpooledTempFile>) -> io::Result<Reply> {
        if let Some(body) = body {
            self.handover.put_body(number, body);
        }
        let mut connection = self.take()?;
        let exchange = exchange(&mut connection, number, head);
        let mut connections = self.connections.lock().unwrap_or_else(PoisonError::into_inner);
        match &exchange {
            Ok(_) => connections.idle.push(connection),
            Err(_) => connections.open -= 1,
        }
        drop(connections);
        self.returned.notify_one();
        let mut reply = exchange?;
        if let Some((file, learnt)) = self.handover.take_reply(number) {
            reply.learnt = learnt;
            if let Some(piece) = file {
                reply.body = Body::File(piece);
            }
        }
        Ok(reply)
    }

    fn take(&self) -> io::Result<loopback::Stream> {
        let mut connections = self.connections.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Some(connection) = connections.idle.pop() {
                return Ok(connection);
            }
            if connections.open == 0 {
                return Err(io::Error::new(ErrorKind::NotConnected, "all connections inside the program are broken"));
            }
            connections = self.returned.wait(connections).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// Makes sure that tiny_http has accepted this very connection, by a first exchange that no stranger can know.
fn introduce(connection: &mut loopback::Stream, server: &tiny_http::Server) -> io::Result<()> {
    let secret = format!("/{:x}", RandomState::new().build_hasher().finish());
    write!(connection, "HEAD {secret} HTTP/1.1\r\n\r\n")?;
    let mut request = server.recv()?;
    while request.url() != secret {
        request = server.recv()?;
    }
    request.respond(tiny_http::Response::empty(200))?;
    read_reply(connection, true).map(drop)
}

fn exchange(connection: &mut loopback::Stream, number: u64, head: &Head) -> io::Result<Reply> {
    let Head { method, minor_version, .. } = head;
    let mut bytes = Vec::with_capacity(512);
    write!(bytes, "{method} {} HTTP/1.{minor_version}\r\n{REQUEST_NUMBER}: {number}\r\n", head.origin_form())?;
    if *minor_version == 0 {
        bytes.extend_from_slice(b"Connection: keep-alive\r\n");
    }
    for (name, value) in &head.headers {
        if HEADERS_READ.iter().any(|read| read.eq_ignore_ascii_case(name)) {
            write!(bytes, "{name}: ")?;
            // tiny_http drops a connection on which a byte beyond ASCII comes.
            bytes.extend(value.iter().map(|byte| if byte.is_ascii() { *byte } else { b'?' }));
            bytes.extend_from_slice(b"\r\n");
        }
    }
    bytes.extend_from_slice(b"\r\n");
    connection.write_all(&bytes)?;
    read_reply(connection, method == "HEAD")
}

fn read_reply(connection: &mut loopback::Stream, is_head: bool) -> io::Result<Reply> {
    let mut bytes = Vec::new();
    let mut buffer = [0; 4096];
    let (mut reply, head_bytes, body_bytes) = loop {
        match connection.read(&mut buffer)? {
            0 => return Err(ErrorKind::UnexpectedEof.into()),
            count => bytes.extend_from_slice(&buffer[..count]),
        }
        if let Some(parsed) = parse_reply(&bytes)? {
            break parsed;
        }
    };
    let mut body = bytes.split_off(head_bytes);
    if !is_head && reply.status != 304 {
        let missing = body_bytes.saturating_sub(body.len() as u64);
        if connection.take(missing).read_to_end(&mut body)? as u64 != missing {
            return Err(ErrorKind::UnexpectedEof.into());
        }
    }
    reply.body = if is_head { Body::Omitted(body_bytes) } else { Body::Bytes(body) };
    Ok(reply)
}

/// A reply without its body, the length of its head, and of its body. `None`: the head is not whole yet.
fn parse_reply(bytes: &[u8]) -> io::Result<Option<(Reply, usize, u64)>> {
    let mut headers = [httparse::EMPTY_HEADER; 32];
    let mut response = httparse::Response::new(&mut headers);
    let httparse::Status::Complete(head_bytes) = response.parse(bytes).map_err(io::Error::other)? else {
        return Ok(None);
    };
    let mut reply = Reply::empty(response.code.unwrap_or_default());
    let mut body_bytes = 0;
    for header in response.headers {
        let value = String::from_utf8_lossy(header.value).into_owned();
        match header.name {
            "Content-Length" => body_bytes = value.parse().map_err(io::Error::other)?,
            "Date" | "Server" => {}
            name => reply = reply.with(name, value),
        }
    }
    Ok(Some((reply, head_bytes, body_bytes)))
}

/// The loop answers one request at a time; a second can be on its way meanwhile. tiny_http has a thread for each.
const CONNECTIONS: usize = 8;

/// On Linux: sockets without a place in the file system, which take half the time of TCP's.
#[cfg(target_os = "linux")]
mod abstract_unix {
    use std::hash::{BuildHasher, Hasher, RandomState};
    use std::io;
    use std::os::linux::net::SocketAddrExt;
    use std::os::unix::net::{SocketAddr, UnixListener};

    pub use std::os::unix::net::UnixStream as Stream;

    pub fn listen() -> io::Result<UnixListener> {
        let name = format!("cleaner-test-server-{:x}", RandomState::new().build_hasher().finish());
        UnixListener::bind_addr(&SocketAddr::from_abstract_name(name)?)
    }

    pub fn connect(address: &SocketAddr) -> io::Result<Stream> {
        Stream::connect_addr(address)
    }
}

#[cfg(not(target_os = "linux"))]
mod tcp {
    use socket2::{Domain, Socket, Type};
    use std::io;
    use std::net::{Ipv4Addr, SocketAddr, TcpListener};

    pub use std::net::TcpStream as Stream;

    pub fn listen() -> io::Result<TcpListener> {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        // Accepted sockets inherit it; without it an answer of two segments waits 40 ms for an acknowledgement.
        socket.set_tcp_nodelay(true)?;
        socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into())?;
        socket.listen(8)?;
        Ok(socket.into())
    }

    pub fn connect(address: &SocketAddr) -> io::Result<Stream> {
        let stream = Stream::connect(address)?;
        stream.set_nodelay(true)?;
        Ok(stream)
    }
}
