//! The client's side: accepts connections, one thread for each; does the TLS handshake or says why it failed; reads one
//! whole request at a time, has the loop answer it (relay.rs), and sends the answer at the client's own pace. All limits
//! and timeouts are here. Knows nothing of tasks and reports.

use crate::http1::{self, Fault, Head, quoted};
use crate::journal::{Journal, RequestEvent};
use crate::relay::Relay;
use crate::reply::{Body, FilePiece, Reply};
use rustls::{AlertDescription, ServerConfig, ServerConnection, StreamOwned};
use std::io::{self, BufReader, ErrorKind, Read, Seek, SeekFrom, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};
use tempfile::SpooledTempFile;

pub struct Proxy {
    /// `None`: plain HTTP.
    pub tls: Option<Arc<ServerConfig>>,
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
        let mut told = false;
        loop {
            match listener.accept() {
                Ok((stream, client)) => {
                    told = false;
                    self.admit(stream, client);
                }
                // The client was gone before it could be accepted.
                Err(error) if error.kind() == ErrorKind::ConnectionAborted => {}
                Err(error) => {
                    if !told {
                        self.journal.warn(&format!("cannot accept connections: {error}; trying again until it works"));
                    }
                    told = true;
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
        let link = match self.open_link(stream, timeout) {
            Ok(link) => link,
            Err(sentence) => return self.journal.connection(client, &sentence),
        };
        let mut input = BufReader::with_capacity(BUFFER_BYTES, link);
        let mut is_first = true;
        loop {
            input.get_mut().socket().limit_time(Some(timeout));
            let head = http1::read_head(&mut input);
            input.get_mut().socket().limit_time(None);
            let goes_on = match head {
                Ok(None) if is_first => {
                    self.journal.connection(client, NO_REQUEST);
                    false
                }
                Ok(None) => false,
                Ok(Some(head)) => self.exchange(&mut input, client, Ok(head), is_crowded),
                Err(fault) => self.exchange(&mut input, client, Err(fault), is_crowded),
            };
            if !goes_on {
                break;
            }
            is_first = false;
        }
        input.into_inner().close(timeout);
    }

    /// Looks at the first byte to tell TLS from plain HTTP. The error is for the console.
    fn open_link(&self, stream: TcpStream, timeout: Duration) -> Result<Link, String> {
        let prepared = stream.set_read_timeout(Some(timeout)).and_then(|()| stream.set_write_timeout(Some(timeout)));
        prepared.map_err(|error| format!("closed at once: {error}"))?;
        let mut first = [0];
        match stream.peek(&mut first) {
            Ok(0) => return Err("connected and closed again without a word, as port scanners do".to_owned()),
            Ok(_) => {}
            Err(error) if http1::is_timeout(&error) => {
                return Err(format!("closed: it connected and sent nothing for {} s", timeout.as_secs()));
            }
            Err(error) => return Err(format!("the connection broke: {error}")),
        }
        let socket = Socket { stream, limit: Some(timeout), deadline: None };
        match &self.tls {
            Some(config) if first[0] == TLS_HANDSHAKE => handshake(socket, config),
            Some(_) => Err(self.refuse_plain(socket)),
            None if first[0] == TLS_HANDSHAKE => {
                Err(format!("closed: it speaks TLS, but this port speaks plain HTTP: use {}", self.url))
            }
            None => Ok(Link::Plain(socket)),
        }
    }

    /// Answers a client that speaks no TLS where it should, if it is at least HTTP.
    fn refuse_plain(&self, socket: Socket) -> String {
        let mut first = [0; 32];
        let count = socket.stream.peek(&mut first).unwrap_or_default();
        let mut input = BufReader::new(Link::Plain(socket));
        match http1::read_head(&mut input) {
            Ok(Some(head)) => {
                let path = if head.target.starts_with('/') { head.target.as_str() } else { "/" };
                let sentence = format!("this port speaks HTTPS: use {}{path}", self.url);
                let mut reply = Reply::error(400, sentence.clone());
                if head.method == "HEAD" {
                    reply.omit_body();
                }
                let sent = send(input.get_mut(), &mut reply, false, false);
                input.into_inner().close(CROWDED_TIMEOUT);
                let told = if sent.trouble.is_none() { "" } else { " (it did not wait for the answer)" };
                format!("{sentence}{told}")
            }
            _ => format!("closed: what it sent is neither TLS nor HTTP; it begins {}", quoted(&first[..count])),
        }
    }

    /// One request: its answer, and its event. False: the connection ends.
    fn exchange(
        &self,
        input: &mut BufReader<Link>,
        client: SocketAddr,
        head: Result<Head, Fault>,
        is_crowded: bool,
    ) -> bool {
        let started = Instant::now();
        let busy = self.traffic.begin();
        let number = busy.number;
        let mut bytes_in = 0;
        let (head, outcome) = match head {
            Ok(head) if busy.is_stopping => (Some(head), Err(Fault::refused(503, "the server is stopping"))),
            Ok(head) if is_crowded => (Some(head), Err(Fault::refused(503, CROWDED))),
            Ok(head) => {
                let memory_bytes = if busy.count <= MAX_MEMORY_BODIES { MAX_MEMORY_BYTES } else { 0 };
                let mut body = SpooledTempFile::new(memory_bytes);
                let outcome = self.answer(input, &head, number, &mut body);
                // Both after reading and after passing it on, that is how much there is.
                bytes_in = body.stream_position().unwrap_or_default();
                (Some(head), outcome)
            }
            Err(Fault::Refused { status, sentence, head }) => {
                (head.map(|head| *head), Err(Fault::refused(status, sentence)))
            }
            Err(fault) => (None, Err(fault)),
        };
        let mut goes_on = false;
        let mut reply = match outcome {
            Ok(reply) => {
                goes_on = head.as_ref().is_some_and(|head| head.keep_alive);
                reply
            }
            Err(Fault::Refused { status, sentence, .. }) => Reply::error(status, sentence),
            Err(Fault::NotStored(error)) => {
                let folder = std::env::temp_dir();
                Reply::error(507, format!("cannot store the body in {}: {error}", folder.display()))
            }
            Err(Fault::Broken(error)) => {
                self.journal.connection(client, &format!("the connection broke in the middle of a request: {error}"));
                return false;
            }
        };
        if head.as_ref().is_some_and(|head| head.method == "HEAD") {
            reply.omit_body();
        }
        let says_keep_alive = goes_on && head.as_ref().is_some_and(|head| head.minor_version == 0);
        let sent = send(input.get_mut(), &mut reply, goes_on, says_keep_alive);
        let goes_on = goes_on && sent.trouble.is_none();
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
        goes_on
    }

    /// Reads the body into `body`, and has the loop answer.
    fn answer(
        &self,
        input: &mut BufReader<Link>,
        head: &Head,
        number: u64,
        body: &mut SpooledTempFile,
    ) -> Result<Reply, Fault> {
        http1::check_size(head.framing, self.max_upload_bytes)?;
        if head.expects_continue && input.buffer().is_empty() {
            let link = input.get_mut();
            link.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").and_then(|()| link.flush()).map_err(Fault::Broken)?;
        }
        let bytes = http1::read_body(input, head.framing, self.max_upload_bytes, body)?;
        body.rewind().map_err(Fault::NotStored)?;
        let reply = self.relay.ask(number, head, body, bytes);
        reply.map_err(|error| Fault::refused(500, format!("the request was read, but could not be answered: {error}")))
    }

    /// Waits until no request is being answered, but not long for slow clients. New requests are refused.
    pub fn finish(&self) {
        let mut requests = self.traffic.requests.lock().unwrap_or_else(PoisonError::into_inner);
        requests.is_stopping = true;
        drop(self.traffic.less_busy.wait_timeout_while(requests, FINISH_LIMIT, |requests| requests.busy > 0));
    }
}

fn handshake(mut socket: Socket, config: &Arc<ServerConfig>) -> Result<Link, String> {
    let mut connection =
        ServerConnection::new(Arc::clone(config)).map_err(|error| format!("closed at once: {error}"))?;
    while connection.is_handshaking() {
        if let Err(error) = connection.complete_io(&mut socket) {
            let sentence = why_no_handshake(&error);
            Link::Plain(socket).close(CROWDED_TIMEOUT);
            return Err(sentence);
        }
    }
    Ok(Link::Tls(Box::new(StreamOwned::new(connection, socket))))
}

/// What a client developer has to know about a handshake that failed.
fn why_no_handshake(error: &io::Error) -> String {
    let Some(cause) = error.get_ref().and_then(|cause| cause.downcast_ref::<rustls::Error>()) else {
        return match error.kind() {
            _ if http1::is_timeout(error) => "closed: it did not finish the TLS handshake in time".to_owned(),
            ErrorKind::UnexpectedEof
            | ErrorKind::ConnectionReset
            | ErrorKind::BrokenPipe
            | ErrorKind::ConnectionAborted => {
                format!("hung up in the TLS handshake; perhaps it does not trust the certificate: {TRUST}")
            }
            _ => format!("the connection broke in the TLS handshake: {error}"),
        };
    };
    use rustls::PeerIncompatible as Lacks;
    match cause {
        rustls::Error::AlertReceived(alert) => match DISTRUST.iter().find(|(distrust, _)| distrust == alert) {
            Some((_, name)) => format!("does not trust the certificate (TLS alert {name}): {TRUST}"),
            None if *alert == AlertDescription::ProtocolVersion => OLD_TLS.to_owned(),
            None => format!("gave up in the TLS handshake (TLS alert {})", u8::from(*alert)),
        },
        rustls::Error::PeerIncompatible(
            Lacks::Tls12NotOffered | Lacks::Tls12NotOfferedOrEnabled | Lacks::SupportedVersionsExtensionRequired,
        ) => OLD_TLS.to_owned(),
        rustls::Error::PeerIncompatible(Lacks::NoCipherSuitesInCommon) => {
            "offers no cipher suite that is safe: it needs one with ECDHE_ECDSA and AES-GCM or ChaCha20, or TLS 1.3"
                .to_owned()
        }
        rustls::Error::PeerIncompatible(Lacks::NoKxGroupsInCommon) => {
            "offers no group for the key exchange that is known here: it needs X25519, P-256 or P-384".to_owned()
        }
        rustls::Error::PeerIncompatible(Lacks::NoSignatureSchemesInCommon) => {
            "accepts no signature that the certificate's key can make: the one made here is ECDSA with P-256".to_owned()
        }
        error => format!("closed: what it sent does not fit TLS: {error}"),
    }
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
        Body::Omitted(_) => write(link, &buffer),
        Body::Bytes(bytes) => {
            buffer.extend_from_slice(bytes);
            write(link, &buffer).inspect(|()| sent = length)
        }
        Body::File(piece) => send_file(link, buffer, piece, &mut sent),
    };
    let trouble = outcome.err().map(|error| {
        let (sent, length) = (http1::grouped(sent), http1::grouped(length));
        match error.kind() {
            _ if http1::is_timeout(&error) => format!("the client stopped reading after {sent} of {length} bytes"),
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
        write(link, &buffer[..head_bytes + count])?;
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

fn write(link: &mut Link, bytes: &[u8]) -> io::Result<()> {
    link.write_all(bytes)?;
    link.flush()
}

/// A connection to a client, with TLS or without.
enum Link {
    Plain(Socket),
    Tls(Box<StreamOwned<ServerConnection, Socket>>),
}

impl Link {
    fn socket(&mut self) -> &mut Socket {
        match self {
            Link::Plain(socket) => socket,
            Link::Tls(stream) => &mut stream.sock,
        }
    }

    /// Ends the connection so that the client can read the last answer even while it is still sending: what it sends
    /// is read and dropped, for as long as it keeps coming but no longer than `limit`. Closing a socket that has
    /// unread bytes would destroy what is on its way to the client (RFC 9112, 9.6).
    fn close(mut self, limit: Duration) {
        let said = match &mut self {
            Link::Plain(_) => Ok(()),
            Link::Tls(stream) => {
                stream.conn.send_close_notify();
                stream.flush()
            }
        };
        let stream = &self.socket().stream;
        let closing = said.and_then(|()| stream.shutdown(Shutdown::Write));
        let lingering = closing.and_then(|()| stream.set_read_timeout(Some(LINGER)));
        let deadline = Instant::now() + limit;
        let mut rest = [0; 4096];
        // Each of these fails only where the client is gone already, and then there is no answer left to protect.
        let mut comes_more = lingering.is_ok();
        while comes_more && Instant::now() < deadline {
            comes_more = (&mut &*stream).read(&mut rest).is_ok_and(|count| count > 0);
        }
    }
}

impl Read for Link {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Link::Plain(socket) => socket.read(buffer),
            Link::Tls(stream) => match stream.read(buffer) {
                // Many clients close without the close_notify of TLS. Whether a request is whole, its framing says.
                Err(error) if error.kind() == ErrorKind::UnexpectedEof => Ok(0),
                result => result,
            },
        }
    }
}

impl Write for Link {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Link::Plain(socket) => socket.write(bytes),
            Link::Tls(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Link::Plain(socket) => socket.flush(),
            Link::Tls(stream) => stream.flush(),
        }
    }
}

/// A socket with a limit on silence, which is its timeout, and at times one on how long a whole thing may take.
struct Socket {
    stream: TcpStream,
    limit: Option<Duration>,
    deadline: Option<Instant>,
}

impl Socket {
    /// From the next byte on, reading may take so long altogether.
    fn limit_time(&mut self, limit: Option<Duration>) {
        self.limit = limit;
        self.deadline = None;
    }
}

impl Read for Socket {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.deadline.is_some_and(|deadline| Instant::now() > deadline) {
            return Err(ErrorKind::TimedOut.into());
        }
        let count = self.stream.read(buffer)?;
        if self.deadline.is_none() {
            self.deadline = self.limit.map(|limit| Instant::now() + limit);
        }
        Ok(count)
    }
}

impl Write for Socket {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.stream.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }
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
    fn begin(&self) -> Busy<'_> {
        let mut requests = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
        requests.seen += 1;
        requests.busy += 1;
        let Requests { seen, busy, is_stopping } = *requests;
        Busy { traffic: self, number: seen, count: busy, is_stopping }
    }
}

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        let mut requests = self.traffic.requests.lock().unwrap_or_else(PoisonError::into_inner);
        requests.busy -= 1;
        if requests.is_stopping {
            self.traffic.less_busy.notify_all();
        }
    }
}

const MAX_CONNECTIONS: usize = 512;
/// So many more are told that there are too many.
const MAX_REFUSED_CONNECTIONS: usize = 64;
const CROWDED: &str = "there are more than 512 connections; close those that are not used";
/// For those who are refused anyway.
const CROWDED_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a client that is still sending may pause before its connection is closed.
const LINGER: Duration = Duration::from_secs(1);
/// How long answers that are on their way at the end may take.
const FINISH_LIMIT: Duration = Duration::from_secs(2);
/// Between attempts to accept while descriptors are used up.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// Enough for rustls in a debug build.
const STACK_BYTES: usize = 512 * 1024;
const BUFFER_BYTES: usize = 16 * 1024;
const FILE_BUFFER_BYTES: usize = 64 * 1024;
/// A larger body goes to a temporary file.
const MAX_MEMORY_BYTES: usize = 1024 * 1024;
/// While so many requests are being answered, the bodies of further ones go to temporary files whatever their size.
const MAX_MEMORY_BODIES: usize = 16;
/// The first byte of a TLS handshake (RFC 8446, 5.1).
const TLS_HANDSHAKE: u8 = 22;
const SERVER: &str = concat!("cleaner-test-server/", env!("CARGO_PKG_VERSION"));
const NO_REQUEST: &str = "connected, but sent no request";
const OLD_TLS: &str = "offers only TLS 1.1 or older: it needs TLS 1.2 or 1.3";
const TRUST: &str = "give it the CA in certificate.pem (see --record), or switch its verification off for tests";
/// How clients say that they do not accept the certificate (RFC 8446, 6.2).
const DISTRUST: [(AlertDescription, &str); 7] = [
    (AlertDescription::UnknownCA, "unknown_ca"),
    (AlertDescription::BadCertificate, "bad_certificate"),
    (AlertDescription::CertificateUnknown, "certificate_unknown"),
    (AlertDescription::CertificateExpired, "certificate_expired"),
    (AlertDescription::CertificateRevoked, "certificate_revoked"),
    (AlertDescription::UnsupportedCertificate, "unsupported_certificate"),
    (AlertDescription::AccessDenied, "access_denied"),
];
