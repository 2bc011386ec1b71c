//! The connection to a client: with TLS or without, limited in time, and closed so that no answer is lost. Says why a
//! handshake failed. Knows no HTTP.

use crate::words::quoted;
use rustls::{AlertDescription, ServerConfig, ServerConnection};
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

/// A connection to a client, with TLS or without.
pub enum Link {
    Plain(Socket),
    Tls(Box<ServerConnection>, Socket),
}

/// Why a connection cannot be used.
pub enum NoLink {
    Failed(String),
    /// It speaks something else where it should speak TLS.
    IsPlain(Link),
    /// The other way round.
    IsTls,
}

impl Link {
    /// Looks at the first byte, which tells TLS from plain HTTP, and does the handshake.
    pub fn open(stream: TcpStream, tls: Option<&Tls>, timeout: Duration) -> Result<Link, NoLink> {
        let failed = |sentence: String| Err(NoLink::Failed(sentence));
        let prepared = stream.set_read_timeout(Some(timeout)).and_then(|()| stream.set_write_timeout(Some(timeout)));
        let mut first = [0];
        match prepared.and_then(|()| stream.peek(&mut first)) {
            Ok(0) => return failed("connected and closed again without a word, as port scanners do".to_owned()),
            Ok(_) => {}
            Err(error) if is_timeout(&error) => {
                return failed(format!("closed: it connected and sent nothing for {} s", timeout.as_secs()));
            }
            Err(error) => return failed(format!("the connection broke: {error}")),
        }
        let stream = BufReader::with_capacity(READ_BYTES, stream);
        let socket = Socket { stream, limit: Some(timeout), deadline: None };
        match (tls, first[0]) {
            (Some(tls), TLS_HANDSHAKE) => tls.shake_hands(socket).map_err(NoLink::Failed),
            (Some(_), _) => Err(NoLink::IsPlain(Link::Plain(socket))),
            (None, TLS_HANDSHAKE) => Err(NoLink::IsTls),
            (None, _) => Ok(Link::Plain(socket)),
        }
    }

    /// From the next byte on, reading may take so long altogether.
    pub fn limit_time(&mut self, limit: Option<Duration>) {
        let socket = self.socket();
        (socket.limit, socket.deadline) = (limit, None);
    }

    /// The first bytes that wait to be read, before TLS.
    pub fn peek(&mut self) -> Vec<u8> {
        let mut bytes = vec![0; 32];
        let count = self.socket().stream.get_ref().peek(&mut bytes).unwrap_or_default();
        bytes.truncate(count);
        bytes
    }

    fn socket(&mut self) -> &mut Socket {
        match self {
            Link::Plain(socket) => socket,
            Link::Tls(_, socket) => socket,
        }
    }

    /// Ends the connection so that the client can read the last answer even while it is still sending: what it sends
    /// is read and dropped, for as long as it keeps coming but no longer than `limit`. Closing a socket that has
    /// unread bytes would destroy what is on its way to the client (RFC 9112, 9.6).
    pub fn close(mut self, limit: Duration) {
        let said = match &mut self {
            Link::Plain(_) => Ok(()),
            Link::Tls(connection, socket) => {
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

impl Read for Link {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Link::Plain(socket) => socket.read(buffer),
            Link::Tls(connection, socket) => read_tls(connection, socket, buffer),
        }
    }
}

impl Write for Link {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Link::Plain(socket) => socket.write(bytes),
            Link::Tls(connection, socket) => {
                let count = connection.writer().write(bytes)?;
                write_all_tls(connection, socket)?;
                Ok(count)
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Link::Plain(socket) => socket.flush(),
            Link::Tls(_, socket) => socket.flush(),
        }
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

/// A socket with a limit on silence, which is its timeout, and at times one on how long a whole thing may take.
pub struct Socket {
    /// rustls reads in pieces of 4 KiB, which would each be a system call.
    stream: BufReader<TcpStream>,
    limit: Option<Duration>,
    deadline: Option<Instant>,
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
        whole(self.stream.get_mut().write(bytes)?, bytes.len())
    }

    fn write_vectored(&mut self, pieces: &[io::IoSlice]) -> io::Result<usize> {
        whole(self.stream.get_mut().write_vectored(pieces)?, pieces.iter().map(|piece| piece.len()).sum())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream.get_mut().flush()
    }
}

impl Tls {
    /// The error says why there is no connection.
    fn shake_hands(&self, mut socket: Socket) -> Result<Link, String> {
        let connection = ServerConnection::new(Arc::clone(&self.config));
        let mut connection = connection.map_err(|error| format!("closed at once: {error}"))?;
        while connection.is_handshaking() {
            if let Err(error) = connection.complete_io(&mut socket) {
                Link::Plain(socket).close(GOODBYE);
                let name = connection.server_name().filter(|name| {
                    !self.names.is_empty() && !self.names.iter().any(|own| own.eq_ignore_ascii_case(name))
                });
                let wrong_name = name.map(|name| {
                    format!(
                        " (it asked for {}; the certificate is for {})",
                        quoted(name.as_bytes()),
                        self.names.join(", ")
                    )
                });
                return Err(self.why_no_handshake(&error) + &wrong_name.unwrap_or_default());
            }
        }
        Ok(Link::Tls(Box::new(connection), socket))
    }

    /// What a client developer has to know about a handshake that failed.
    fn why_no_handshake(&self, error: &io::Error) -> String {
        let Some(cause) = error.get_ref().and_then(|cause| cause.downcast_ref::<rustls::Error>()) else {
            return match error.kind() {
                _ if is_timeout(error) => "closed: it did not finish the TLS handshake in time".to_owned(),
                ErrorKind::UnexpectedEof
                | ErrorKind::ConnectionReset
                | ErrorKind::BrokenPipe
                | ErrorKind::ConnectionAborted => {
                    format!(
                        "hung up in the TLS handshake; perhaps it does not trust the certificate: {}",
                        self.trust_advice
                    )
                }
                _ => format!("the connection broke in the TLS handshake: {error}"),
            };
        };
        use rustls::PeerIncompatible as Lacks;
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

/// A blocking socket takes all that it is given, or else has waited for as long as the timeout allows: such a client
/// takes nothing, or next to nothing.
fn whole(count: usize, wanted: usize) -> io::Result<usize> {
    if count == wanted { Ok(count) } else { Err(ErrorKind::TimedOut.into()) }
}

/// Some clients look at the certificate only when the handshake is over.
pub fn no_request(tls: Option<&Tls>) -> String {
    let Some(Tls { trust_advice, .. }) = tls else { return "connected, but sent no request".to_owned() };
    format!("shook hands over TLS, but sent no request; perhaps it does not trust the certificate: {trust_advice}")
}

/// A read that took longer than the time allowed is WouldBlock on Unix and TimedOut on Windows.
pub fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut)
}

/// The first byte of a TLS handshake (RFC 8446, 5.1).
const TLS_HANDSHAKE: u8 = 22;
const READ_BYTES: usize = 16 * 1024;
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
