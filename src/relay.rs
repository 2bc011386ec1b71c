//! From the proxy to the loop and back: one connection to tiny_http within the program, made at the start. A request's
//! head is passed on over it, its body through the table beside (reply.rs), and the reply is read back.
//!
//! The listener that tiny_http accepts it from is closed as soon as it stands. Nobody else can reach the loop then:
//! tiny_http would let any local program end this one, e.g. by a `Content-Length` of terabytes.

use crate::http1::Head;
use crate::lock::lock;
use crate::reply::{Body, Handover, Reply};
use crate::server::HEADERS_READ;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io::{self, ErrorKind, Read, Write};
use std::sync::{Arc, Mutex};
use std::thread::{self, Thread};
use std::time::Duration;
use tempfile::SpooledTempFile;

#[cfg(target_os = "linux")]
use abstract_unix as loopback;
#[cfg(not(target_os = "linux"))]
use tcp as loopback;

/// The private header with the number of a request. The proxy never passes on one that a client has sent.
pub const REQUEST_NUMBER: &str = "Request-Number";

pub struct Relay {
    state: Mutex<State>,
    handover: Arc<Handover>,
}

/// Requests that come while the connection is in use wait together, and then go together: each step on the way wakes a
/// thread, and so it wakes it once for many.
struct State {
    waiting: Vec<Waiting>,
    /// `None` while it is in use, and once it is broken.
    connection: Option<Connection>,
    /// Only somebody's tampering with this program's sockets does that.
    is_broken: bool,
}

struct Waiting {
    head: Vec<u8>,
    /// To HEAD there is no body in the reply.
    is_head: bool,
    seat: Arc<Seat>,
}

/// Where the thread of a client waits until it is its turn.
struct Seat {
    thread: Thread,
    turn: Mutex<Option<Turn>>,
}

enum Turn {
    /// The connection is free: take all that wait over it.
    Lead,
    Done(io::Result<Reply>),
}

struct Connection {
    stream: loopback::Stream,
    /// Beyond the last reply that has been read.
    received: Vec<u8>,
}

impl Relay {
    /// Starts tiny_http, connects to it, and closes its listener.
    pub fn open(handover: Arc<Handover>) -> io::Result<(tiny_http::Server, Relay)> {
        let listener = loopback::listen()?;
        let address = listener.local_addr()?;
        let door = listener.try_clone()?;
        let server = tiny_http::Server::from_listener(listener, None).map_err(io::Error::other)?;
        let mut connection = Connection { stream: loopback::connect(&address)?, received: Vec::new() };
        connection.introduce(&server)?;
        // tiny_http's accepting thread ends at its first error. That is forced here: one more connection wakes it, and
        // the next call of accept finds the listener non-blocking and nobody waiting. On Windows that rests on a word of
        // Microsoft's, that duplicates of a socket have all its state in common; hence the limit.
        door.set_nonblocking(true)?;
        drop(loopback::connect(&address)?);
        while let Ok(Some(_)) = server.recv_timeout(CLOSING_LIMIT) {}
        let state = State { waiting: Vec::new(), connection: Some(connection), is_broken: false };
        Ok((server, Relay { state: Mutex::new(state), handover }))
    }

    /// Has the loop answer a request. Waits for its turn, and for the handler.
    pub fn ask(&self, number: u64, head: &Head, body: Option<SpooledTempFile>) -> io::Result<Reply> {
        self.pass(number, head, body).inspect_err(|_| {
            // Nobody else would ask for them.
            drop((self.handover.take_body(number), self.handover.take_reply(number)));
        })
    }

    fn pass(&self, number: u64, head: &Head, body: Option<SpooledTempFile>) -> io::Result<Reply> {
        if let Some(body) = body {
            self.handover.put_body(number, body);
        }
        let seat = Arc::new(Seat { thread: thread::current(), turn: Mutex::default() });
        let waiting =
            Waiting { head: head_bytes(number, head), is_head: head.method == "HEAD", seat: Arc::clone(&seat) };
        let mut state = lock(&self.state);
        if state.is_broken {
            return Err(broken());
        }
        state.waiting.push(waiting);
        let mut reply = loop {
            if let Some(connection) = state.connection.take() {
                let batch = std::mem::take(&mut state.waiting);
                drop(state);
                self.lead(connection, batch);
            } else {
                drop(state);
            }
            match seat.wait() {
                Turn::Done(reply) => break reply?,
                Turn::Lead => state = lock(&self.state),
            }
        };
        if let Some((file, learnt)) = self.handover.take_reply(number) {
            reply.learnt = learnt;
            if let Some(piece) = file {
                reply.body = Body::File(piece);
            }
        }
        Ok(reply)
    }

    /// Takes all of `batch` over `connection`, and then lets another lead if there are more by now.
    fn lead(&self, mut connection: Connection, batch: Vec<Waiting>) {
        let heads: Vec<&[u8]> = batch.iter().map(|waiting| waiting.head.as_slice()).collect();
        let mut sent = connection.stream.write_all(&heads.concat());
        for Waiting { is_head, seat, .. } in batch {
            let reply = sent.and_then(|()| connection.read_reply(is_head));
            sent = reply.as_ref().map(drop).map_err(|error| error.kind().into());
            seat.give(Turn::Done(reply));
        }
        let mut state = lock(&self.state);
        match sent {
            Ok(()) => state.connection = Some(connection),
            Err(_) => {
                state.is_broken = true;
                state.waiting.drain(..).for_each(|waiting| waiting.seat.give(Turn::Done(Err(broken()))));
            }
        }
        // While the lock is held, so that nobody else can have taken it along.
        if let Some(next) = state.waiting.first() {
            next.seat.give(Turn::Lead);
        }
    }
}

impl Seat {
    fn give(&self, turn: Turn) {
        *lock(&self.turn) = Some(turn);
        self.thread.unpark();
    }

    fn wait(&self) -> Turn {
        loop {
            if let Some(turn) = lock(&self.turn).take() {
                return turn;
            }
            thread::park();
        }
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

impl Connection {
    /// Makes sure that tiny_http has accepted this very connection, by a first exchange that no stranger can know.
    fn introduce(&mut self, server: &tiny_http::Server) -> io::Result<()> {
        let secret = format!("/{:x}", unguessable());
        write!(self.stream, "HEAD {secret} HTTP/1.1\r\n\r\n")?;
        let mut request = server.recv()?;
        while request.url() != secret {
            request = server.recv()?;
        }
        request.respond(tiny_http::Response::empty(200))?;
        self.read_reply(true).map(drop)
    }

    fn read_reply(&mut self, is_head: bool) -> io::Result<Reply> {
        let (mut reply, head_bytes, body_bytes) = loop {
            match parse_reply(&self.received)? {
                Some(parsed) => break parsed,
                None => self.receive()?,
            }
        };
        let sent_bytes = if is_head { 0 } else { body_bytes };
        let end = head_bytes + usize::try_from(sent_bytes).map_err(io::Error::other)?;
        while self.received.len() < end {
            self.receive()?;
        }
        let body = self.received[head_bytes..end].to_vec();
        self.received.drain(..end);
        reply.body = if is_head { Body::Omitted(body_bytes) } else { Body::Bytes(body) };
        Ok(reply)
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

fn broken() -> io::Error {
    io::Error::new(ErrorKind::NotConnected, "the connection to the loop is broken; start the server anew")
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
