//! From the proxy to the loop and back: one connection to tiny_http within the program, made at the start. The heads of
//! requests and replies go over it, each with the number of its request; bodies go by the table beside (handover.rs).
//!
//! The listener that tiny_http accepts it from is closed as soon as it stands. Nobody else can reach the loop then:
//! tiny_http would let any local program end this one, e.g. by a `Content-Length` of terabytes.

use crate::handover::{Handover, UnderWay};
use crate::http1::Head;
use crate::reply::{Body, Learnt, Reply};
use crate::server::HEADERS_READ;
use crate::threads::{lock, stay_awake};
use std::collections::HashMap;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io::{self, ErrorKind, Read, Write};
use std::sync::mpsc::RecvTimeoutError;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;
use tempfile::SpooledTempFile;

#[cfg(target_os = "linux")]
use abstract_unix as loopback;
#[cfg(not(target_os = "linux"))]
use tcp as loopback;

/// The private header with the number of a request. The proxy never passes on one that a client has sent.
pub const REQUEST_NUMBER: &str = "Request-Number";

/// Tells which request a reply is for.
pub fn number_header(request: u64) -> tiny_http::Header {
    tiny_http::Header::from_bytes(REQUEST_NUMBER, request.to_string()).expect("a name and digits make a header")
}

pub struct Relay {
    server: &'static tiny_http::Server,
    /// Makes numbers of requests that no stranger can guess.
    secret: u64,
    /// Of requests, about to be sent together.
    heads: Mutex<Vec<u8>>,
    outgoing: Mutex<loopback::Stream>,
    incoming: Mutex<Incoming>,
    handover: Arc<Handover>,
}

struct Incoming {
    stream: loopback::Stream,
    /// Beyond the last reply that has been read.
    received: Vec<u8>,
    /// Of others, who are about to fetch them.
    replies: HashMap<u64, Reply>,
}

impl Relay {
    /// Starts tiny_http, connects to it, and closes its listener.
    pub fn open(handover: Arc<Handover>) -> io::Result<(&'static tiny_http::Server, Relay)> {
        let listener = loopback::listen()?;
        let address = listener.local_addr()?;
        let door = listener.try_clone()?;
        let server = tiny_http::Server::from_listener(listener, None).map_err(io::Error::other)?;
        // Never dropped: dropping it panics where its address is no path, as here on Linux.
        let server: &'static tiny_http::Server = Box::leak(Box::new(server));
        let stream = loopback::connect(&address)?;
        let outgoing = Mutex::new(stream.try_clone()?);
        let mut incoming = Incoming { stream, received: Vec::new(), replies: HashMap::new() };
        incoming.introduce(server)?;
        // tiny_http's accepting thread ends at its first error. That is forced here: one more connection wakes it, and
        // the next call of accept finds the listener non-blocking and nobody waiting. On Windows that rests on a word of
        // Microsoft's, that duplicates of a socket have all its state in common; hence the limit.
        door.set_nonblocking(true)?;
        drop(loopback::connect(&address)?);
        while let Ok(Some(_)) = server.recv_timeout(CLOSING_LIMIT) {}
        let (heads, incoming) = (Mutex::default(), Mutex::new(incoming));
        Ok((server, Relay { server, secret: unguessable(), heads, outgoing, incoming, handover }))
    }

    /// Has the loop answer a request, and waits for that.
    pub fn ask(&self, number: u64, head: &Head, body: SpooledTempFile) -> io::Result<Reply> {
        self.pass(number.wrapping_add(self.secret), head, body).ok_or_else(|| {
            self.handover.give_up();
            io::Error::new(ErrorKind::NotConnected, "the connection to the loop is broken; start the server anew")
        })
    }

    /// Lets the loop end.
    pub fn close(&self) {
        self.handover.close();
        self.server.unblock();
    }

    /// `None`: the connection is broken, for good. Only somebody's tampering with this program's sockets does that.
    fn pass(&self, number: u64, head: &Head, body: SpooledTempFile) -> Option<Reply> {
        let under_way = self.handover.put(number, body);
        self.send(&head_bytes(number, head)).ok()?;
        let answer = stay_awake(|| under_way.reply.try_recv().ok());
        let (body, learnt) = answer.or_else(|| self.wait(&under_way))?;
        // By now the head of the reply is there, or in the hands of a thread that came earlier.
        let reply = lock(&self.incoming).fetch(number).ok()?;
        Some(Reply { body, learnt, ..reply })
    }

    /// `None`: no answer comes.
    fn wait(&self, under_way: &UnderWay) -> Option<(Body, Learnt)> {
        loop {
            match under_way.reply.recv_timeout(LOOK_AGAIN) {
                Ok(answer) => return Some(answer),
                Err(RecvTimeoutError::Timeout) => self.look().ok()?,
                Err(RecvTimeoutError::Disconnected) => return None,
            }
        }
    }

    /// An error if the connection is broken. Nobody may send meanwhile, for `outgoing` is the same socket.
    fn look(&self) -> io::Result<()> {
        let (_outgoing, mut incoming) = (lock(&self.outgoing), lock(&self.incoming));
        incoming.stream.set_nonblocking(true)?;
        let received = incoming.receive();
        incoming.stream.set_nonblocking(false)?;
        received.or_else(|error| if error.kind() == ErrorKind::WouldBlock { Ok(()) } else { Err(error) })
    }

    /// Each sending wakes threads on the way, which takes longer than all the rest. So other threads that are about to
    /// send get a moment to add their heads, and the first to come back sends all of them.
    fn send(&self, head: &[u8]) -> io::Result<()> {
        lock(&self.heads).extend_from_slice(head);
        thread::yield_now();
        let mut outgoing = lock(&self.outgoing);
        let heads = std::mem::take(&mut *lock(&self.heads));
        outgoing.write_all(&heads)
    }
}

/// What the loop is to know of a request.
fn head_bytes(number: u64, head: &Head) -> Vec<u8> {
    let Head { method, minor_version, .. } = head;
    let target = head.origin_form();
    let mut bytes = format!("{method} {target} HTTP/1.{minor_version}\r\n{REQUEST_NUMBER}: {number}\r\n").into_bytes();
    if *minor_version == 0 {
        bytes.extend_from_slice(b"Connection: keep-alive\r\n");
    }
    for (name, value) in &head.headers {
        if HEADERS_READ.iter().any(|read| read.eq_ignore_ascii_case(name)) {
            bytes.extend_from_slice(name.as_bytes());
            bytes.extend_from_slice(b": ");
            // tiny_http drops a connection on which a byte beyond ASCII comes.
            bytes.extend(value.iter().map(|byte| if byte.is_ascii() { *byte } else { b'?' }));
            bytes.extend_from_slice(b"\r\n");
        }
    }
    bytes.extend_from_slice(b"\r\n");
    bytes
}

impl Incoming {
    /// Makes sure that tiny_http has accepted this very connection, by a first exchange that no stranger can know.
    fn introduce(&mut self, server: &tiny_http::Server) -> io::Result<()> {
        let secret = format!("/{:x}", unguessable());
        write!(self.stream, "GET {secret} HTTP/1.1\r\n\r\n")?;
        let mut request = server.recv()?;
        while request.url() != secret {
            request = server.recv()?;
        }
        request.respond(tiny_http::Response::empty(200).with_header(number_header(0)))?;
        self.fetch(0).map(drop)
    }

    fn fetch(&mut self, number: u64) -> io::Result<Reply> {
        loop {
            if let Some(reply) = self.replies.remove(&number) {
                return Ok(reply);
            }
            let (number, reply) = self.read_reply()?;
            self.replies.insert(number, reply);
        }
    }

    fn read_reply(&mut self) -> io::Result<(u64, Reply)> {
        loop {
            if let Some((number, reply, bytes)) = parse_reply(&self.received)? {
                self.received.drain(..bytes);
                return Ok((number, reply));
            }
            self.receive()?;
        }
    }

    fn receive(&mut self) -> io::Result<()> {
        let mut buffer = [0; 4096];
        match self.stream.read(&mut buffer)? {
            0 => return Err(ErrorKind::UnexpectedEof.into()),
            count => self.received.extend_from_slice(&buffer[..count]),
        }
        Ok(())
    }
}

fn unguessable() -> u64 {
    RandomState::new().build_hasher().finish()
}

/// The number of a request, the reply to it without its body, which is not on the wire, and the length of the head in
/// bytes. `None`: it is not whole yet.
fn parse_reply(bytes: &[u8]) -> io::Result<Option<(u64, Reply, usize)>> {
    let mut headers = [httparse::EMPTY_HEADER; 32];
    let mut response = httparse::Response::new(&mut headers);
    let httparse::Status::Complete(length) = response.parse(bytes).map_err(io::Error::other)? else {
        return Ok(None);
    };
    let mut reply = Reply::empty(response.code.unwrap_or_default());
    let mut number = Err(io::Error::other("a reply without a number"));
    for header in response.headers {
        let value = String::from_utf8_lossy(header.value);
        match header.name {
            REQUEST_NUMBER => number = value.parse().map_err(io::Error::other),
            "Content-Length" | "Date" | "Server" => {}
            name => reply = reply.with(name, value),
        }
    }
    Ok(Some((number?, reply, length)))
}

/// Whether the connection still stands, while a handler takes long.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// Closing takes a fraction of a millisecond.
const CLOSING_LIMIT: Duration = Duration::from_secs(1);

/// On Linux: sockets without a place in the file system, which take half the time of TCP's.
#[cfg(target_os = "linux")]
mod abstract_unix {
    use super::unguessable;
    use std::io;
    use std::os::linux::net::SocketAddrExt;
    use std::os::unix::net::{SocketAddr, UnixListener};

    pub use std::os::unix::net::UnixStream as Stream;

    pub fn listen() -> io::Result<UnixListener> {
        let name = format!("cleaner-test-server-{:x}", unguessable());
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
