//! The connection to a client: with TLS or without, and closed so that no answer is lost. Says why a handshake failed.
//! Knows no HTTP.

use super::socket::{Socket, is_reset};
use crate::message::Blame;
use crate::text::quoted;
use rustls::{AlertDescription, PeerIncompatible as Lacks, PeerMisbehaved, ServerConfig, ServerConnection};
use std::io::{self, ErrorKind, Read, Write};
use std::sync::Arc;
use std::time::Duration;

pub struct Tls {
    pub config: Arc<ServerConfig>,
    /// What the certificate is for; empty where that is not known.
    pub names: Vec<String>,
    /// What to tell the user of a client that does not trust the certificate.
    pub trust_advice: String,
}

/// A connection to a client.
pub struct Stream {
    pub socket: Socket,
    /// `None`: it is plain.
    pub tls: Option<ServerConnection>,
}

impl Stream {
    /// Ends the connection. Says whether the client has reset it, as systems do where an answer was not read to its end.
    pub fn close(&mut self) -> bool {
        let Some(tls) = &mut self.tls else { return self.socket.end().is_err_and(|error| is_reset(&error)) };
        // A close_notify that nobody reads leads to a reset too, even if the answer was read. So the client may close
        // first, for a moment; after that a reset says nothing. Windows knows no waits so short.
        let ended = if cfg!(windows) { Ok(1) } else { self.socket.look(MOMENT) };
        tls.send_close_notify();
        let said = rustls::Stream::new(tls, &mut self.socket).flush();
        // Says nothing any more.
        self.socket.end().ok();
        [ended.err(), said.err()].iter().flatten().any(is_reset)
    }
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let Some(tls) = &mut self.tls else { return self.socket.read(buffer) };
        match rustls::Stream::new(tls, &mut self.socket).read(buffer) {
            // Many clients close without the close_notify of TLS. Whether a request is whole, its framing says.
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => Ok(0),
            result => result,
        }
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let Some(tls) = &mut self.tls else { return self.socket.write(bytes) };
        let count = tls.writer().write(bytes)?;
        // The `write` of rustls tells of an error only at the next one.
        rustls::Stream::new(tls, &mut self.socket).flush()?;
        Ok(count)
    }

    /// Nothing waits in here.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Tls {
    /// The error says why there is no connection.
    pub fn shake_hands(&self, mut socket: Socket) -> Result<Stream, String> {
        let connection = ServerConnection::new(Arc::clone(&self.config));
        let mut connection = connection.expect("the start has made the configuration, or has read it");
        while connection.is_handshaking() {
            if let Err(error) = connection.complete_io(&mut socket) {
                // It gets to read the alert.
                socket.end().ok();
                return Err(self.why_no_handshake(&error, connection.server_name()));
            }
        }
        Ok(Stream { socket, tls: Some(connection) })
    }

    /// What to do about a certificate that is not trusted, with the name that the client asked for; one that uses an
    /// address asks for none.
    fn advice(&self, name: Option<&str>) -> String {
        let (advice, own) = (&self.trust_advice, self.names.join(", "));
        match name.map(|name| (quoted(name.as_bytes()), self.is_own(name))) {
            Some((name, true)) => format!("{advice} (it asked for {name})"),
            Some((name, false)) => format!(
                "it asked for {name}, and the certificate is for {own}: correct its URL, or start the server with --name \
                    {name}; else {advice}"
            ),
            None if own.is_empty() => advice.clone(),
            None => format!("{advice} (the certificate is for {own}; --name NAME adds another)"),
        }
    }

    /// So far as that is known.
    fn is_own(&self, name: &str) -> bool {
        let parent = name.split_once('.').map(|(_, parent)| format!("*.{parent}"));
        let is_it =
            |own: &String| [Some(name), parent.as_deref()].iter().flatten().any(|it| own.eq_ignore_ascii_case(it));
        self.names.is_empty() || self.names.iter().any(is_it)
    }

    /// What a client developer has to know about a handshake that failed.
    fn why_no_handshake(&self, error: &io::Error, name: Option<&str>) -> String {
        let cause = error.get_ref().and_then(|cause| cause.downcast_ref::<rustls::Error>());
        match (cause, error.kind()) {
            (Some(cause), _) => self.why_refused(cause, name),
            (None, ErrorKind::TimedOut) => "closed: it did not finish the TLS handshake in time".to_owned(),
            (None, kind) if kind == ErrorKind::UnexpectedEof || is_reset(error) => {
                format!("{PROBABLY} (it hung up in the TLS handshake): {}", self.advice(name))
            }
            _ => format!("the connection broke in the TLS handshake: {error}"),
        }
    }

    /// The same where one of both sides gave a reason.
    fn why_refused(&self, cause: &rustls::Error, name: Option<&str>) -> String {
        use rustls::Error::{self, AlertReceived, NoApplicationProtocol, PeerIncompatible};
        // Of the user's own certificate the kind is not known here.
        let (suite, kind) = if self.names.is_empty() { ("ECDHE", "") } else { ("ECDHE_ECDSA", ": ECDSA with P-256") };
        match cause {
            AlertReceived(AlertDescription::ProtocolVersion)
            | PeerIncompatible(
                Lacks::Tls12NotOffered
                | Lacks::Tls12NotOfferedOrEnabled
                | Lacks::SupportedVersionsExtensionRequired
                | Lacks::SignatureAlgorithmsExtensionRequired
                | Lacks::NamedGroupsExtensionRequired,
            ) => "offers only TLS 1.1 or older: it needs TLS 1.2 or 1.3".to_owned(),
            AlertReceived(AlertDescription::CertificateExpired) => {
                "says that the certificate has expired (TLS alert certificate_expired): look at its dates, and at the \
                    client's clock"
                    .to_owned()
            }
            AlertReceived(alert) => match DISTRUST.iter().find(|(distrust, ..)| distrust == alert) {
                Some((_, opening, word)) => format!("{opening} (TLS alert {word}): {}", self.advice(name)),
                None => format!("gave up in the TLS handshake (TLS alert {}): {UPDATE}", u8::from(*alert)),
            },
            NoApplicationProtocol => {
                "offers no protocol that is spoken here (ALPN): let it offer HTTP/1.1, as curl does with --http1.1"
                    .to_owned()
            }
            Error::PeerMisbehaved(PeerMisbehaved::ServerNameMustContainOneHostName) => {
                "asks for a server name that cannot be one (SNI): look for spaces in the host of its URL".to_owned()
            }
            PeerIncompatible(Lacks::NoCipherSuitesInCommon) => format!(
                "offers no cipher suite that is safe: it needs TLS 1.3, or for TLS 1.2 one with {suite} and AES-GCM or ChaCha20"
            ),
            PeerIncompatible(Lacks::NoKxGroupsInCommon) => {
                "offers no group for the key exchange that is known here: it needs X25519, P-256 or P-384, and for TLS 1.2 \
                    a cipher suite with ECDHE"
                    .to_owned()
            }
            PeerIncompatible(Lacks::NoSignatureSchemesInCommon) => {
                format!("accepts no signature that the certificate's key can make{kind}: {UPDATE}")
            }
            error => format!("closed: what it sent does not fit TLS: {error}"),
        }
    }

    /// Why no request came after the handshake, and whose fault that is as far as it is known. Some clients look at the
    /// certificate only then; others connect in advance.
    pub fn why_no_request(&self, connection: &mut ServerConnection) -> (String, Blame) {
        if let Err(cause) = connection.process_new_packets() {
            return (self.why_refused(&cause, connection.server_name()), Blame::Client);
        }
        let name = connection.server_name();
        let why = "it sent no request after the TLS handshake, as clients do too that connect in advance";
        let sentence = format!("{PROBABLY} ({why}): {}", self.advice(name));
        let is_wrong = name.is_some_and(|name| !self.is_own(name));
        (sentence, if is_wrong { Blame::Client } else { Blame::Nobody })
    }
}

const UPDATE: &str = "update it, or its TLS library, or give the server another certificate with --cert and --key";
const CERTAINLY: &str = "does not trust the certificate";
const PROBABLY: &str = "probably does not trust the certificate";
/// The first byte of a TLS handshake (RFC 8446, 5.1).
pub const TLS_HANDSHAKE: u8 = 22;
/// A client on the same machine that has read its answer needs less.
const MOMENT: Duration = Duration::from_millis(5);
/// How clients say that they do not accept the certificate (RFC 8446, 6.2).
const DISTRUST: [(AlertDescription, &str, &str); 9] = [
    (AlertDescription::UnknownCA, CERTAINLY, "unknown_ca"),
    (AlertDescription::BadCertificate, CERTAINLY, "bad_certificate"),
    (AlertDescription::CertificateUnknown, CERTAINLY, "certificate_unknown"),
    (AlertDescription::CertificateRevoked, CERTAINLY, "certificate_revoked"),
    (AlertDescription::UnsupportedCertificate, CERTAINLY, "unsupported_certificate"),
    (AlertDescription::AccessDenied, CERTAINLY, "access_denied"),
    // Of the signature of a CA.
    (AlertDescription::DecryptError, CERTAINLY, "decrypt_error"),
    (AlertDescription::InternalError, PROBABLY, "internal_error, which Java sends where it has no CA to trust"),
    (AlertDescription::HandshakeFailure, PROBABLY, "handshake_failure, which Erlang sends for a wrong name"),
];
