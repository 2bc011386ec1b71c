//! The client's side: accepts connections, one thread for each; does the TLS handshake or says why it failed; reads one
//! whole request at a time, has the loop answer it (relay.rs), and sends the answer at the client's own pace. All limits
//! and timeouts are here. Knows nothing of tasks and reports.

use crate::http1::{self, Framing, Head, Refusal};
use crate::journal::{Journal, RequestEvent};
use crate::link::{Link, NoLink, Tls, is_timeout, no_request};
use crate::relay::Relay;
use crate::reply::{Body, FilePiece, Reply};
use crate::threads::lock;
use crate::words::{grouped, quoted};
use std::io::{self, BufReader, ErrorKind, Read, Seek, SeekFrom, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant, SystemTime};
use tempfile::SpooledTempFile;

pub struct Proxy {
    /// `None`: plain HTTP.
    pub tls: Option<Tls>,
    /// For what is said to people, e.g. `https://localhost:5000`.
    pub url: String,
    /// How long a client may be silent.
    pub timeout: Duration,
    pub max_upload_bytes: u64,
    pub relay: Relay,
    pub journal: Journal,
    pub traffic: Traffic,
}

/// What is going on right now.
#[derive(Default)]
pub struct Traffic {
    connections: AtomicUsize,
    requests: Mutex<Requests>,
    less_busy: Condvar,
}

#[derive(Default)]
struct Requests {
    seen: u64,
    /// So many are being answered.
    busy: usize,
    is_stopping: bool,
}

impl Proxy {
    /// Accepts connections for as long as the program runs.
    pub fn accept_all(self: &Arc<Proxy>, listener: &TcpListener) {
        let mut last_failure: Option<Instant> = None;
        loop {
            match listener.accept() {
                Ok((stream, client)) => self.admit(stream, client),
                // The client was gone before it could be accepted.
                Err(error) if error.kind() == ErrorKind::ConnectionAborted => {}
                Err(error) => {
                    if last_failure.is_none_or(|last| last.elapsed() > ACCEPT_QUIET) {
                        self.journal.warn(&format!("cannot accept connections: {error}; trying again until it works"));
                    }
                    last_failure = Some(Instant::now());
                    std::thread::sleep(ACCEPT_PAUSE);
                }
            }
        }
    }

    /// Gives the connection a thread. One too many still gets one, to be told so; a flood of them does not.
    fn admit(self: &Arc<Proxy>, stream: TcpStream, client: SocketAddr) {
        let admitted = Admitted::new(Arc::clone(self));
        if admitted.count > MAX_CONNECTIONS + MAX_REFUSED_CONNECTIONS {
            return self.journal.connection(client, "closed at once: there are far too many connections");
        }
        let serve = move || {
            let proxy = &admitted.proxy;
            let is_crowded = admitted.count > MAX_CONNECTIONS;
            let served = catch_unwind(AssertUnwindSafe(|| proxy.serve(stream, client, is_crowded)));
            if served.is_err() {
                proxy.journal.connection(client, "the server made a mistake over this connection and closed it");
            }
        };
        let thread = std::thread::Builder::new().name(format!("client {client}")).stack_size(STACK_BYTES);
        if let Err(error) = thread.spawn(serve) {
            self.journal.connection(client, &format!("closed at once: cannot start a thread for it: {error}"));
        }
    }

    /// One connection, from the first byte to the last.
    fn serve(&self, stream: TcpStream, client: SocketAddr, is_crowded: bool) {
        let timeout = if is_crowded { self.timeout.min(CROWDED_TIMEOUT) } else { self.timeout };
        let link = match Link::open(stream, self.tls.as_ref(), timeout) {
            Ok(link) => link,
            Err(NoLink::Failed(sentence)) => return self.journal.connection(client, &sentence),
            Err(NoLink::IsTls) => {
                let sentence = format!("closed: it speaks TLS, but this port speaks plain HTTP: use {}", self.url);
                return self.journal.connection(client, &sentence);
            }
            Err(NoLink::IsPlain(link)) => return self.journal.connection(client, &self.refuse_plain(link)),
        };
        let mut input = BufReader::with_capacity(BUFFER_BYTES, link);
        let mut is_first = true;
        loop {
            input.get_mut().limit_time(Some(timeout));
            let head = http1::read_head(&mut input);
            input.get_mut().limit_time(None);
            let Some(head) = head.transpose() else {
                if is_first {
                    self.journal.connection(client, &no_request(self.tls.as_ref()));
                }
                break;
            };
            match self.exchange(&mut input, client, head, is_crowded) {
                Next::Request => is_first = false,
                Next::Close => break,
                Next::Abandon => return,
            }
        }
        input.into_inner().close(timeout);
    }

    /// Answers a client that speaks no TLS where it should, if it is at least HTTP.
    fn refuse_plain(&self, mut link: Link) -> String {
        let first = link.peek();
        let mut input = BufReader::new(link);
        let head = http1::read_head(&mut input).ok().flatten();
        let looks_like_http = memchr::memmem::find(&first, b" /").is_some();
        if head.is_none() && !looks_like_http {
            return format!("closed: what it sent is neither TLS nor HTTP; it begins {}", quoted(&first));
        }
        let target = head.as_ref().map_or("/", Head::origin_form);
        let path = if target.starts_with('/') { target } else { "/" };
        let sentence = format!("this port speaks HTTPS: use {}{path}", self.url);
        let mut reply = Reply::error(400, sentence.clone());
        if head.is_some_and(|head| head.method == "HEAD") {
            reply.omit_body();
        }
        match send(input.get_mut(), &mut reply, false, false).trouble {
            None => input.into_inner().close(CROWDED_TIMEOUT),
            Some(trouble) => return format!("{sentence} ({trouble})"),
        }
        sentence
    }

    /// One request: its answer, and its event.
    fn exchange(
        &self,
        input: &mut BufReader<Link>,
        client: SocketAddr,
        head: Result<Head, Refusal>,
        is_crowded: bool,
    ) -> Next {
        let started = Instant::now();
        let busy = self.traffic.begin();
        let number = busy.number;
        let mut bytes_in = 0;
        let outcome = match &head {
            Err(refusal) => Err(refusal.clone()),
            Ok(_) if busy.is_stopping => Err(Refusal::new(503, "the server is stopping")),
            Ok(_) if is_crowded => Err(Refusal::new(503, CROWDED)),
            Ok(head) => {
                let memory_bytes = if busy.count <= MAX_MEMORY_BODIES { MAX_MEMORY_BYTES } else { 0 };
                self.answer(input, head, number, SpooledTempFile::new(memory_bytes), &mut bytes_in)
            }
        };
        let head = head.ok();
        let goes_on = outcome.is_ok() && head.as_ref().is_some_and(Head::keeps_alive);
        let mut reply = outcome.unwrap_or_else(|Refusal { status, sentence }| Reply::error(status, sentence));
        if head.as_ref().is_some_and(|head| head.method == "HEAD") {
            reply.omit_body();
        }
        let says_keep_alive = goes_on && head.as_ref().is_some_and(|head| head.minor_version == 0);
        let sent = send(input.get_mut(), &mut reply, goes_on, says_keep_alive);
        let next = match &sent.trouble {
            Some(_) => Next::Abandon,
            None if goes_on => Next::Request,
            None => Next::Close,
        };
        self.journal.request(&RequestEvent {
            client,
            number,
            head,
            status: reply.status,
            bytes_in,
            bytes_out: sent.body_bytes,
            duration: started.elapsed(),
            undelivered: sent.trouble,
            learnt: reply.learnt,
        });
        next
    }

    /// Reads the body into `body`, and has the loop answer.
    fn answer(
        &self,
        input: &mut BufReader<Link>,
        head: &Head,
        number: u64,
        mut body: SpooledTempFile,
        bytes_in: &mut u64,
    ) -> Result<Reply, Refusal> {
        let framing = head.framing(self.max_upload_bytes)?;
        let expects_continue = head.expects_continue()?;
        if framing != Framing::Length(0) {
            if expects_continue && input.buffer().is_empty() {
                // Where this fails the client is gone, and reading the body says so.
                input.get_mut().write_all(b"HTTP/1.1 100 Continue\r\n\r\n").ok();
            }
            let read = http1::read_body(input, framing, self.max_upload_bytes, &mut body);
            *bytes_in = body.stream_position().map_err(|error| http1::not_stored(&error))?;
            read?;
            body.rewind().map_err(|error| http1::not_stored(&error))?;
        }
        let reply = self.relay.ask(number, head, body);
        reply.map_err(|error| Refusal::new(500, format!("the request was read, but could not be answered: {error}")))
    }

    /// Waits until no request is being answered, but not long for slow clients. New requests are refused.
    pub fn finish(&self) {
        let mut requests = lock(&self.traffic.requests);
        requests.is_stopping = true;
        drop(self.traffic.less_busy.wait_timeout_while(requests, FINISH_LIMIT, |requests| requests.busy > 0));
    }
}

/// What comes after an answer.
enum Next {
    Request,
    Close,
    /// The client takes nothing more, or is gone.
    Abandon,
}

/// What became of an answer.
struct Sent {
    body_bytes: u64,
    trouble: Option<String>,
}

/// Writes an answer: head and beginning of the body together, so that a small one is one segment.
fn send(link: &mut Link, reply: &mut Reply, goes_on: bool, says_keep_alive: bool) -> Sent {
    let length = match &reply.body {
        Body::Bytes(bytes) => bytes.len() as u64,
        Body::Omitted(length) => *length,
        Body::File(piece) => piece.length_bytes,
    };
    let mut buffer = head_bytes(reply, length, goes_on, says_keep_alive);
    let mut sent = 0;
    let outcome = match &mut reply.body {
        Body::Omitted(_) => link.write_all(&buffer),
        Body::Bytes(bytes) => {
            buffer.extend_from_slice(bytes);
            link.write_all(&buffer).inspect(|()| sent = length)
        }
        Body::File(piece) => send_file(link, buffer, piece, &mut sent),
    };
    let trouble = outcome.err().map(|error| {
        let (sent, length) = (grouped(sent), grouped(length));
        match error.kind() {
            _ if is_timeout(&error) => format!("the client stopped reading after {sent} of {length} bytes"),
            ErrorKind::UnexpectedEof => {
                format!("the file became shorter while it was sent, after {sent} of {length} bytes")
            }
            _ => format!("the client closed the connection after {sent} of {length} bytes"),
        }
    });
    Sent { body_bytes: sent, trouble }
}

fn send_file(link: &mut Link, mut buffer: Vec<u8>, piece: &mut FilePiece, sent: &mut u64) -> io::Result<()> {
    piece.file.seek(SeekFrom::Start(piece.start_byte))?;
    let mut file = (&piece.file).take(piece.length_bytes);
    loop {
        let head_bytes = buffer.len();
        buffer.resize(FILE_BUFFER_BYTES.max(head_bytes), 0);
        let count = file.read(&mut buffer[head_bytes..])?;
        link.write_all(&buffer[..head_bytes + count])?;
        *sent += count as u64;
        if *sent == piece.length_bytes {
            return Ok(());
        }
        if count == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        buffer.clear();
    }
}

fn head_bytes(reply: &Reply, length: u64, goes_on: bool, says_keep_alive: bool) -> Vec<u8> {
    let status = tiny_http::StatusCode(reply.status);
    let date = httpdate::HttpDate::from(SystemTime::now());
    let mut head =
        format!("HTTP/1.1 {} {}\r\nServer: {SERVER}\r\nDate: {date}\r\n", reply.status, status.default_reason_phrase());
    for (name, value) in &reply.headers {
        head.extend([name, ": ", value, "\r\n"]);
    }
    // A 304 has no body, and its length would be that of the 200 (RFC 9110, 8.6).
    if reply.status != 304 {
        head.push_str(&format!("Content-Length: {length}\r\n"));
    }
    if !goes_on {
        head.push_str("Connection: close\r\n");
    } else if says_keep_alive {
        head.push_str("Connection: keep-alive\r\n");
    }
    head.push_str("\r\n");
    head.into_bytes()
}

/// A connection that counts for as long as it exists.
struct Admitted {
    proxy: Arc<Proxy>,
    /// Connections there were with this one.
    count: usize,
}

impl Admitted {
    fn new(proxy: Arc<Proxy>) -> Admitted {
        let count = proxy.traffic.connections.fetch_add(1, Ordering::Relaxed) + 1;
        Admitted { proxy, count }
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        self.proxy.traffic.connections.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A request that counts for as long as it is answered.
struct Busy<'a> {
    traffic: &'a Traffic,
    /// Counted from 1.
    number: u64,
    /// Requests there were with this one.
    count: usize,
    is_stopping: bool,
}

impl Traffic {
    /// So many requests are being answered.
    pub fn busy(&self) -> usize {
        lock(&self.requests).busy
    }

    fn begin(&self) -> Busy<'_> {
        let mut requests = lock(&self.requests);
        requests.seen += 1;
        requests.busy += 1;
        let Requests { seen, busy, is_stopping } = *requests;
        Busy { traffic: self, number: seen, count: busy, is_stopping }
    }
}

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        let mut requests = lock(&self.traffic.requests);
        requests.busy -= 1;
        if requests.is_stopping {
            self.traffic.less_busy.notify_all();
        }
    }
}

const MAX_CONNECTIONS: usize = 512;
/// So many more at a time are told that there are too many; a flood beyond that is closed without a word.
const MAX_REFUSED_CONNECTIONS: usize = 128;
const CROWDED: &str = "there are more than 512 connections; close those that are not used";
/// For those who are refused anyway.
const CROWDED_TIMEOUT: Duration = Duration::from_secs(2);
/// How long answers that are on their way at the end may take.
const FINISH_LIMIT: Duration = Duration::from_secs(2);
/// Between attempts to accept while descriptors are used up.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// After so long without such a failure the next one is said again.
const ACCEPT_QUIET: Duration = Duration::from_secs(60);
/// Enough for rustls in a debug build.
const STACK_BYTES: usize = 512 * 1024;
const BUFFER_BYTES: usize = 16 * 1024;
const FILE_BUFFER_BYTES: usize = 32 * 1024;
/// A larger body goes to a temporary file.
const MAX_MEMORY_BYTES: usize = 1024 * 1024;
/// While so many requests are being answered, the bodies of further ones go to temporary files whatever their size.
const MAX_MEMORY_BODIES: usize = 16;
const SERVER: &str = concat!("cleaner-test-server/", env!("CARGO_PKG_VERSION"));
