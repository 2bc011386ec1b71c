//! The connection to a client: with TLS or without, limited in time, and closed so that no answer is lost. Says why a
//! handshake failed. Knows no HTTP.

use crate::text::quoted;
use rustls::{AlertDescription, PeerIncompatible as Lacks, ServerConfig, ServerConnection};
use std::io::{self, BufReader, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

pub struct Tls {
    pub config: Arc<ServerConfig>,
    /// What the certificate is for; empty where that is not known.
    pub names: Vec<String>,
    /// What to tell the user of a client that does not trust the certificate.
    pub trust_advice: String,
}

/// A connection to a client.
pub enum Stream {
    Plain(Socket),
    Tls(Box<ServerConnection>, Socket),
}

impl Stream {
    /// What the time allowed is for, from now on.
    pub fn limit(&mut self, limit: Limit) {
        let socket = self.socket();
        (socket.limit, socket.waited) = (limit, Duration::ZERO);
    }

    fn socket(&mut self) -> &mut Socket {
        match self {
            Stream::Plain(socket) | Stream::Tls(_, socket) => socket,
        }
    }

    /// Ends the connection so that the client can read the last answer even while it is still sending: what it sends
    /// is read and dropped, for as long as it keeps coming but no longer than `limit`. Closing a socket that has
    /// unread bytes would destroy what is on its way to the client (RFC 9112, 9.6).
    pub fn close(mut self, limit: Duration) {
        let said = match &mut self {
            Stream::Plain(_) => Ok(()),
            Stream::Tls(connection, socket) => {
                connection.send_close_notify();
                write_all_tls(connection, socket)
            }
        };
        let stream = self.socket().stream.get_ref();
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

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Stream::Plain(socket) => socket.read(buffer),
            Stream::Tls(connection, socket) => read_tls(connection, socket, buffer),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Stream::Plain(socket) => socket.write(bytes),
            Stream::Tls(connection, socket) => {
                let count = connection.writer().write(bytes)?;
                write_all_tls(connection, socket)?;
                Ok(count)
            }
        }
    }

    /// Nothing waits in here.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Decrypts what has come, or waits for more.
fn read_tls(connection: &mut ServerConnection, socket: &mut Socket, buffer: &mut [u8]) -> io::Result<usize> {
    loop {
        match connection.reader().read(buffer) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            // Many clients close without the close_notify of TLS. Whether a request is whole, its framing says.
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(0),
            result => return result,
        }
        connection.read_tls(socket)?;
        let processed = connection.process_new_packets();
        // Among others the alert that tells the client what was wrong.
        write_all_tls(connection, socket)?;
        processed.map_err(|error| io::Error::new(ErrorKind::InvalidData, error))?;
    }
}

fn write_all_tls(connection: &mut ServerConnection, socket: &mut Socket) -> io::Result<()> {
    while connection.wants_write() {
        connection.write_tls(socket)?;
    }
    Ok(())
}

/// A blocking socket that knows how long its client may keep it waiting. It waits in short turns, and only their time
/// counts: not that in which this whole program stood still (Ctrl+Z, the sleep of a laptop).
pub struct Socket {
    /// rustls reads in pieces of 4 KiB, which would each be a system call.
    stream: BufReader<TcpStream>,
    timeout: Duration,
    limit: Limit,
    waited: Duration,
    write_waited: Duration,
}

/// What a client's time is for.
#[derive(Clone, Copy, PartialEq)]
pub enum Limit {
    /// Every next byte.
    Silence,
    /// The first byte; and then everything behind it altogether.
    Start,
    Whole,
}

impl Socket {
    pub fn new(stream: TcpStream, timeout: Duration) -> io::Result<Socket> {
        stream.set_read_timeout(Some(timeout.min(TURN)))?;
        stream.set_write_timeout(Some(if cfg!(windows) { timeout } else { timeout.min(TURN) }))?;
        let stream = BufReader::with_capacity(READ_BYTES, stream);
        let limit = Limit::Start;
        Ok(Socket { stream, timeout, limit, waited: Duration::ZERO, write_waited: Duration::ZERO })
    }

    /// The first bytes that come, which tell TLS from plain HTTP; they stay to be read.
    pub fn peek(&mut self) -> Result<Vec<u8>, String> {
        let mut first = vec![0; 32];
        match self.wait(|stream| stream.get_ref().peek(&mut first)) {
            Ok(0) => Err("connected and closed again without a word, as port scanners do".to_owned()),
            Ok(count) => Ok(first[..count].to_vec()),
            Err(error) if error.kind() == ErrorKind::TimedOut => {
                Err(format!("closed: it connected and sent nothing for {} s", self.timeout.as_secs()))
            }
            Err(error) => Err(format!("the connection broke: {error}")),
        }
    }

    /// The error is TimedOut where the client's time is over.
    fn wait<T>(&mut self, mut read: impl FnMut(&mut BufReader<TcpStream>) -> io::Result<T>) -> io::Result<T> {
        loop {
            if self.waited >= self.timeout {
                return Err(ErrorKind::TimedOut.into());
            }
            let began = Instant::now();
            let outcome = read(&mut self.stream);
            self.waited += began.elapsed().min(TURN);
            match outcome {
                Err(error) if is_timeout(&error) || error.kind() == ErrorKind::Interrupted => continue,
                Ok(_) if self.limit == Limit::Start => (self.limit, self.waited) = (Limit::Whole, Duration::ZERO),
                Ok(_) if self.limit == Limit::Silence => self.waited = Duration::ZERO,
                _ => {}
            }
            return outcome;
        }
    }
}

impl Read for Socket {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.wait(|stream| {
            // Windows may lose what comes in the very moment in which a read gives up waiting, and nothing where it
            // was only looked for (Microsoft, "SOL_SOCKET Socket Options", SO_RCVTIMEO).
            #[cfg(windows)]
            if stream.buffer().is_empty() {
                stream.get_ref().peek(&mut [0])?;
            }
            stream.read(buffer)
        })
    }
}

impl Write for Socket {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.write_vectored(&[io::IoSlice::new(bytes)])
    }

    /// As much as the client takes at once. The error is TimedOut where it has taken next to nothing for its whole time.
    fn write_vectored(&mut self, pieces: &[io::IoSlice]) -> io::Result<usize> {
        let all: usize = pieces.iter().map(|piece| piece.len()).sum();
        loop {
            let began = Instant::now();
            let outcome = self.stream.get_mut().write_vectored(pieces);
            self.write_waited += began.elapsed().min(TURN);
            match outcome {
                Ok(count) if count == all => self.write_waited = Duration::ZERO,
                Err(error) if !is_timeout(&error) && error.kind() != ErrorKind::Interrupted => return Err(error),
                // Windows does not tell how much has gone before a timeout, so that there the first one is the last.
                _ if self.write_waited >= self.timeout || cfg!(windows) => return Err(ErrorKind::TimedOut.into()),
                Err(_) => continue,
                Ok(_) => {}
            }
            return outcome;
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Tls {
    /// The error says why there is no connection.
    pub fn shake_hands(&self, mut socket: Socket) -> Result<Stream, String> {
        let connection = ServerConnection::new(Arc::clone(&self.config));
        let mut connection = connection.map_err(|error| format!("closed at once: {error}"))?;
        while connection.is_handshaking() {
            if let Err(error) = connection.complete_io(&mut socket) {
                Stream::Plain(socket).close(GOODBYE);
                return Err(self.why_no_handshake(&error) + &self.wrong_name(connection.server_name()));
            }
        }
        Ok(Stream::Tls(Box::new(connection), socket))
    }

    /// That the client asked for a name which the certificate is not for; else nothing.
    fn wrong_name(&self, name: Option<&str>) -> String {
        let is_own = |name: &&str| self.names.iter().any(|own| own.eq_ignore_ascii_case(name));
        match name.filter(|name| !self.names.is_empty() && !is_own(name)) {
            None => String::new(),
            Some(name) => {
                let (name, names) = (quoted(name.as_bytes()), self.names.join(", "));
                format!(" (it asked for {name}; the certificate is for {names})")
            }
        }
    }

    /// What a client developer has to know about a handshake that failed.
    fn why_no_handshake(&self, error: &io::Error) -> String {
        let advice = &self.trust_advice;
        match error.get_ref().and_then(|cause| cause.downcast_ref::<rustls::Error>()) {
            Some(cause) => self.why_refused(cause),
            None => match error.kind() {
                ErrorKind::TimedOut => "closed: it did not finish the TLS handshake in time".to_owned(),
                ErrorKind::UnexpectedEof
                | ErrorKind::ConnectionReset
                | ErrorKind::BrokenPipe
                | ErrorKind::ConnectionAborted => {
                    format!("hung up in the TLS handshake; perhaps it does not trust the certificate: {advice}")
                }
                _ => format!("the connection broke in the TLS handshake: {error}"),
            },
        }
    }

    /// The same where one of both sides gave a reason.
    fn why_refused(&self, cause: &rustls::Error) -> String {
        match cause {
            rustls::Error::AlertReceived(alert) => match DISTRUST.iter().find(|(distrust, _)| distrust == alert) {
                Some((_, name)) => format!("does not trust the certificate (TLS alert {name}): {}", self.trust_advice),
                None if *alert == AlertDescription::ProtocolVersion => OLD_TLS.to_owned(),
                None => format!("gave up in the TLS handshake (TLS alert {})", u8::from(*alert)),
            },
            rustls::Error::PeerIncompatible(
                Lacks::Tls12NotOffered
                | Lacks::Tls12NotOfferedOrEnabled
                | Lacks::SupportedVersionsExtensionRequired
                | Lacks::SignatureAlgorithmsExtensionRequired
                | Lacks::NamedGroupsExtensionRequired,
            ) => OLD_TLS.to_owned(),
            rustls::Error::PeerIncompatible(Lacks::NoCipherSuitesInCommon) => {
                "offers no cipher suite that is safe: it needs TLS 1.3, or for TLS 1.2 one with ECDHE_ECDSA (ECDHE_RSA \
                 where --cert is RSA) and AES-GCM or ChaCha20"
                    .to_owned()
            }
            rustls::Error::PeerIncompatible(Lacks::NoKxGroupsInCommon) => {
                "offers no group for the key exchange that is known here: it needs X25519, P-256 or P-384".to_owned()
            }
            rustls::Error::PeerIncompatible(Lacks::NoSignatureSchemesInCommon) => {
                "accepts no signature that the certificate's key can make: the one made here is ECDSA with P-256"
                    .to_owned()
            }
            error => format!("closed: what it sent does not fit TLS: {error}"),
        }
    }
}

/// Some clients look at the certificate only when the handshake is over.
pub fn no_request(tls: Option<&Tls>) -> String {
    let Some(Tls { trust_advice, .. }) = tls else { return "connected, but sent no request".to_owned() };
    format!("shook hands over TLS, but sent no request; perhaps it does not trust the certificate: {trust_advice}")
}

/// A wait that took longer than the time allowed is WouldBlock on Unix and TimedOut on Windows.
fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut)
}

/// The first byte of a TLS handshake (RFC 8446, 5.1).
pub const TLS_HANDSHAKE: u8 = 22;
const READ_BYTES: usize = 16 * 1024;
/// So long is waited at a time.
const TURN: Duration = Duration::from_secs(1);
/// How long a client that is still sending may pause before its connection is closed.
const LINGER: Duration = Duration::from_secs(1);
/// For a client whose handshake failed: it gets to read the alert.
const GOODBYE: Duration = Duration::from_secs(2);
const OLD_TLS: &str = "offers only TLS 1.1 or older: it needs TLS 1.2 or 1.3";
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
