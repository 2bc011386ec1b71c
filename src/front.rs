//! The client's side: accepts connections, one thread for each; does the TLS handshake or says why it failed; reads one
//! whole request at a time, has the loop answer it, and sends the answer. All limits are here. Knows nothing of tasks and
//! reports.

mod answer;
mod body;
pub mod certificate;
mod fault;
mod http1;
pub mod listen;
mod socket;
pub mod tls;

use crate::bridge::Bridge;
use crate::journal::Journal;
use crate::message::{Blame, Exchange, Fault, Reply, Request};
use crate::text::{Failure, quoted};
use http1::Refusal;
use socket::{Limit, Socket};
use std::io::{self, BufReader, ErrorKind, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};
use tls::{Stream, TLS_HANDSHAKE, Tls};

pub struct Front {
    /// `None`: plain HTTP.
    pub tls: Option<Tls>,
    /// For what is said to people, e.g. `https://localhost:5000`.
    pub url: String,
    /// How long a client may be silent.
    pub timeout: Duration,
    pub max_upload_bytes: u64,
    pub strict: bool,
    pub fault: Option<Fault>,
    pub bridge: &'static Bridge,
    pub journal: Journal,
    pub traffic: Traffic,
}

/// What is going on right now.
#[derive(Default)]
pub struct Traffic {
    connections: Arc<()>,
    /// Connections that do not wait for a request, until all is told of them.
    busy: Arc<()>,
    requests: Arc<()>,
    seen_requests: AtomicU64,
    turns: fault::Turns,
    is_stopping: AtomicBool,
}

/// The token of a busy connection.
type Busy = Option<Arc<()>>;

impl Front {
    /// Accepts connections for as long as the program runs.
    pub fn start(&'static self, listeners: Vec<TcpListener>) -> Result<(), Failure> {
        for listener in listeners {
            let thread = thread::Builder::new().name("accept".to_owned());
            thread.spawn(move || self.accept_all(&listener)).map_err(Failure::no_thread)?;
        }
        Ok(())
    }

    /// Waits until no client is busy, but not long for slow ones; new requests are refused. Returns how many are still on
    /// their way.
    pub fn finish(&self) -> usize {
        self.traffic.is_stopping.store(true, Ordering::Relaxed);
        wait_for_end(&self.traffic.busy, FINISH_LIMIT);
        count(&self.traffic.requests)
    }

    /// Once the client has ended: waits for the end of its connections, so that all is told of them. The last may not
    /// have been accepted yet.
    pub fn see_off(&self) {
        thread::sleep(ACCEPT_PAUSE);
        wait_for_end(&self.traffic.connections, SEE_OFF_LIMIT);
    }

    fn accept_all(&'static self, listener: &TcpListener) {
        let mut last_failure: Option<Instant> = None;
        let mut is_full_since: Option<Instant> = None;
        loop {
            // Those who do not get on make room soon. Where nobody does, the next are refused, and not made to wait.
            let open = || count(&self.traffic.connections);
            while open() >= MAX_CONNECTIONS + MAX_REFUSED_CONNECTIONS
                || open() >= MAX_CONNECTIONS && is_full_since.get_or_insert_with(Instant::now).elapsed() < ROOM_LIMIT
            {
                thread::sleep(LOOK);
            }
            is_full_since = is_full_since.filter(|_| open() >= MAX_CONNECTIONS);
            match listener.accept() {
                Ok((stream, client)) => self.admit(stream, client),
                // The client was gone before it could be accepted.
                Err(error) if matches!(error.kind(), ErrorKind::ConnectionAborted | ErrorKind::ConnectionReset) => {}
                Err(error) => {
                    if last_failure.is_none_or(|last| last.elapsed() > ACCEPT_QUIET) {
                        self.journal
                            .say(&format!("warning: cannot accept connections: {error}; trying until it works"));
                    }
                    last_failure = Some(Instant::now());
                    thread::sleep(ACCEPT_PAUSE);
                }
            }
        }
    }

    /// Gives the connection a thread. One too many gets one, too, to be told so.
    fn admit(&'static self, stream: TcpStream, client: SocketAddr) {
        let token = Arc::clone(&self.traffic.connections);
        let is_refused = count(&token) > MAX_CONNECTIONS;
        let socket = Socket::new(stream, self.timeout, Arc::downgrade(&token), is_refused);
        let serve = move || {
            let mut busy = None;
            let served = catch_unwind(AssertUnwindSafe(|| self.serve(socket, client, &mut busy)));
            match served {
                Ok(Ok(())) => {}
                Ok(Err(sentence)) => self.journal.connection(client, &sentence, Blame::Client),
                Err(_) => self.journal.connection(client, MISTAKE, Blame::Server),
            }
            // Not before all is told.
            drop((busy, token));
        };
        let thread = thread::Builder::new().name(format!("client {client}")).stack_size(STACK_BYTES);
        if let Err(error) = thread.spawn(serve) {
            let sentence = format!("closed at once: cannot start a thread for it: {error}");
            self.journal.connection(client, &sentence, Blame::Server);
        }
    }

    /// One connection, from the first byte to the last. The error says why it came to no request.
    fn serve(&self, socket: io::Result<Socket>, client: SocketAddr, busy: &mut Busy) -> Result<(), String> {
        let began = socket.and_then(|mut socket| {
            let first = socket.fill()?.to_vec();
            Ok((socket, first))
        });
        *busy = Some(Arc::clone(&self.traffic.busy));
        let (mut socket, first) = match began {
            Ok((socket, first)) if !first.is_empty() => (socket, first),
            Err(error) if error.kind() == ErrorKind::TimedOut => {
                return Err("closed: it connected and sent nothing in time".to_owned());
            }
            // Closed or reset.
            _ => {
                let sentence = "connected and closed again without a word, as port scanners do";
                self.journal.connection(client, sentence, Blame::Nobody);
                return Ok(());
            }
        };
        match (&self.tls, first.first()) {
            (Some(tls), Some(&TLS_HANDSHAKE)) => self.converse(tls.shake_hands(socket)?, client, busy),
            (Some(_), _) => Err(self.refuse_plain(socket, &first)),
            (None, Some(&TLS_HANDSHAKE)) => {
                // Where this fails, the client does without.
                socket.write_all(&TLS_ALERT).ok();
                socket.end().ok();
                Err(format!("closed: it speaks TLS, but this port speaks plain HTTP: use {}", self.url))
            }
            (None, _) => self.converse(Stream { socket, tls: None }, client, busy),
        }
    }

    /// The requests of a connection, one after the other.
    fn converse(&self, stream: Stream, client: SocketAddr, busy: &mut Busy) -> Result<(), String> {
        let mut input = BufReader::with_capacity(BUFFER_BYTES, stream);
        let mut is_first = true;
        loop {
            input.get_mut().socket.limit(Limit::Start);
            *busy = None;
            let head = http1::read_head(&mut input);
            *busy = Some(Arc::clone(&self.traffic.busy));
            input.get_mut().socket.limit(Limit::Silence);
            let Some(head) = head.transpose() else { break };
            is_first = false;
            if !self.exchange(&mut input, client, head) {
                return Ok(());
            }
        }
        let (sentence, blame) = match (&self.tls, &mut input.get_mut().tls) {
            (Some(tls), Some(connection)) => tls.why_no_request(connection),
            _ => ("connected, but sent no request".to_owned(), Blame::Nobody),
        };
        let was_reset = input.get_mut().close();
        if is_first {
            self.journal.connection(client, &sentence, if was_reset { Blame::Client } else { blame });
        }
        Ok(())
    }

    /// Answers a client that speaks no TLS where it should, if it is at least HTTP. Returns what is to be told.
    fn refuse_plain(&self, socket: Socket, first: &[u8]) -> String {
        let mut input = BufReader::new(Stream { socket, tls: None });
        let request = http1::read_head(&mut input).ok().flatten();
        // A target comes soon, behind a method.
        let looks_like_http = memchr::memmem::find(&first[..first.len().min(32)], b" /").is_some();
        if request.is_none() && !looks_like_http {
            return format!("closed: what it sent is neither TLS nor HTTP; it begins {}", quoted(first));
        }
        let path = request.as_ref().map(Request::origin_form).filter(|target| target.starts_with('/')).unwrap_or("/");
        let sentence = match &request {
            Some(request) if request.method == "CONNECT" => PROXY.to_owned(),
            _ => format!("this port speaks HTTPS: use {}{path}", self.url),
        };
        let mut reply = Reply::error(400, sentence.clone()).with("Connection", "close");
        fault::send_with(None, input.get_mut(), &mut reply, request.as_ref());
        input.get_mut().close();
        sentence
    }

    /// One request and its answer, told when it is known what became of it. Returns whether another may follow.
    fn exchange(&self, input: &mut BufReader<Stream>, client: SocketAddr, head: Result<Request, Refusal>) -> bool {
        // Until the request is told.
        let _token = Arc::clone(&self.traffic.requests);
        let started = Instant::now();
        let number = self.traffic.seen_requests.fetch_add(1, Ordering::Relaxed) + 1;
        let (request, mut reply, is_whole) = match head {
            Err(refusal) => (None, *refusal, false),
            Ok(request) => self.answer(input, request),
        };
        let whole = request.as_ref().filter(|_| is_whole);
        let fault = self.fault.filter(|fault| fault::met(*fault, &self.traffic.turns, whole));
        // Of a slow answer it is to be known whether the client has waited for the last piece.
        let keeps_alive = whole.is_some_and(http1::keeps_alive) && fault != Some(Fault::Slow);
        if fault == Some(Fault::Unavailable) {
            reply = fault::unavailable(reply);
        }
        reply = reply.with("Connection", if keeps_alive { "keep-alive" } else { "close" });
        let (bytes_out, mut undelivered) = fault::send_with(fault, input.get_mut(), &mut reply, request.as_ref());
        let (status, notes, duration) = (reply.status, reply.notes, started.elapsed());
        let keeps_alive = keeps_alive && undelivered.is_none();
        if !keeps_alive && undelivered.is_none() && input.get_mut().close() {
            undelivered = Some(RESET.to_owned());
        }
        let exchange = Exchange { client, number, request, status, bytes_out, duration, undelivered, fault, notes };
        self.journal.request(&exchange);
        keeps_alive
    }

    /// Has a request answered, once it is whole, which is said with the reply.
    fn answer(&self, input: &mut BufReader<Stream>, mut request: Request) -> (Option<Request>, Reply, bool) {
        let findings = http1::findings(&request);
        let refusal = if self.traffic.is_stopping.load(Ordering::Relaxed) {
            Some(Reply::error(503, "the server is stopping"))
        } else if input.get_ref().socket.is_refused {
            Some(Reply::error(503, CROWDED))
        } else if let Some(first) = findings.first().filter(|_| self.strict) {
            Some(Reply::refusal(first))
        } else {
            body::read(input, &mut request, self.max_upload_bytes).err().map(|refusal| *refusal)
        };
        let is_whole = refusal.is_none();
        let (request, mut reply) = match refusal {
            Some(reply) => (request, reply),
            None => self.bridge.ask(request),
        };
        reply.notes.findings.extend(findings);
        (Some(request), reply, is_whole)
    }
}

/// Waits until nobody holds a clone of the token any more, but not beyond the limit.
fn wait_for_end(token: &Arc<()>, limit: Duration) {
    let deadline = Instant::now() + limit;
    while count(token) > 0 && Instant::now() < deadline {
        thread::sleep(LOOK);
    }
}

/// How many clones there are of a token, of which each connection or request holds one.
fn count(token: &Arc<()>) -> usize {
    Arc::strong_count(token) - 1
}

const MAX_CONNECTIONS: usize = 512;
/// So many more at a time are told that there are too many.
const MAX_REFUSED_CONNECTIONS: usize = 128;
const PROXY: &str = "takes this server for a proxy: unset https_proxy, or set no_proxy=localhost";
const MISTAKE: &str = "the server made a mistake over this connection and closed it";
const CROWDED: &str = "there are more than 512 connections; close those that are not used";
/// Somewhat longer than those who do not get on keep their place among so many.
const ROOM_LIMIT: Duration = Duration::from_millis(2500);
const RESET: &str =
    "the client reset the connection instead of closing it: it has probably not read the answer to its end";
/// internal_error (RFC 8446, 6.2): the version of TLS is not to blame.
const TLS_ALERT: [u8; 7] = [21, 3, 1, 0, 2, 2, 80];
/// How long answers that are on their way at the end may take.
const FINISH_LIMIT: Duration = Duration::from_millis(1500);
/// A program that the client has left behind may keep connections.
const SEE_OFF_LIMIT: Duration = Duration::from_millis(500);
/// How soon it is noticed that connections have ended.
const LOOK: Duration = Duration::from_millis(2);
/// Between attempts to accept while descriptors are used up, and for what is still to be accepted at the end.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// After so long without such a failure the next one is said again.
const ACCEPT_QUIET: Duration = Duration::from_secs(60);
/// Enough for rustls in a debug build.
const STACK_BYTES: usize = 512 * 1024;
const BUFFER_BYTES: usize = 16 * 1024;
