//! A client that costs little: blocking sockets, each read by one large system call, answers counted and dropped.

use std::io::{self, BufRead, BufReader, IoSlice, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{
    ClientConfig, ClientConnection, DigitallySignedStruct, Error, RootCertStore, SignatureScheme, StreamOwned,
};

use crate::Outcome;

/// How to reach a server.
#[derive(Clone)]
pub struct Client {
    pub address: SocketAddr,
    pub name: ServerName<'static>,
    pub tls: Arc<ClientConfig>,
}

/// One connection, over which requests go one after the other.
pub struct Connection {
    stream: StreamOwned<ClientConnection, Socket>,
}

pub struct Answer {
    pub body_bytes: u64,
    /// The server closes the connection after this answer.
    pub is_last: bool,
}

impl Connection {
    /// Returns after the handshake.
    pub fn open(client: &Client) -> Outcome<Connection> {
        Connection::over(TcpStream::connect(client.address)?, client)
    }

    pub fn over(socket: TcpStream, client: &Client) -> Outcome<Connection> {
        socket.set_nodelay(true)?;
        socket.set_read_timeout(Some(LIMIT))?;
        socket.set_write_timeout(Some(LIMIT))?;
        let mut tls = ClientConnection::new(Arc::clone(&client.tls), client.name.clone())?;
        tls.set_buffer_limit(None);
        let mut socket = Socket(BufReader::with_capacity(READ_BYTES, socket));
        while tls.is_handshaking() {
            tls.complete_io(&mut socket)?;
        }
        Ok(Connection { stream: StreamOwned::new(tls, socket) })
    }

    pub fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)?;
        self.stream.flush()
    }

    /// Reads one answer, which must be a 200.
    pub fn read_answer(&mut self) -> Outcome<Answer> {
        let mut head = Vec::new();
        let answer = loop {
            let available = self.stream.fill_buf()?;
            if available.is_empty() {
                return Err("the server closed the connection instead of answering".into());
            }
            let (seen, count) = (head.len(), available.len());
            head.extend_from_slice(available);
            if let Some((head_bytes, answer)) = parse(&head)? {
                self.stream.consume(head_bytes - seen);
                break answer;
            }
            self.stream.consume(count);
        };
        let mut left = answer.body_bytes;
        while left > 0 {
            let available = self.stream.fill_buf()?.len();
            if available == 0 {
                return Err(
                    format!("the server closed the connection {left} bytes before the end of its answer").into()
                );
            }
            let count = available.min(usize::try_from(left)?);
            self.stream.consume(count);
            left -= count as u64;
        }
        Ok(answer)
    }

    /// Ends the connection as TLS wants it.
    pub fn close(mut self) -> io::Result<()> {
        self.stream.conn.send_close_notify();
        self.stream.flush()
    }
}

/// The length of the head, and what it says. `None`: it is not whole yet.
fn parse(bytes: &[u8]) -> Outcome<Option<(usize, Answer)>> {
    let mut headers = [httparse::EMPTY_HEADER; 32];
    let mut response = httparse::Response::new(&mut headers);
    let httparse::Status::Complete(head_bytes) = response.parse(bytes)? else { return Ok(None) };
    if response.code != Some(200) {
        return Err(format!("the answer is {}", bytes.escape_ascii()).into());
    }
    let header = |name: &str| {
        let header = response.headers.iter().find(|header| header.name.eq_ignore_ascii_case(name));
        header.map(|header| String::from_utf8_lossy(header.value))
    };
    let body_bytes = header("Content-Length").ok_or("the answer has no Content-Length")?.parse()?;
    let is_last = header("Connection").is_some_and(|value| value.eq_ignore_ascii_case("close"));
    Ok(Some((head_bytes, Answer { body_bytes, is_last })))
}

/// TLS for a client that does full handshakes only, and verifies the server with `ca` if there is one.
pub fn tls(ca: Option<&Path>) -> Outcome<Arc<ClientConfig>> {
    let provider = Arc::new(ring::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider)).with_safe_default_protocol_versions()?;
    let mut config = match ca {
        Some(file) => {
            let mut roots = RootCertStore::empty();
            roots.add(CertificateDer::from_pem_file(file)?)?;
            builder.with_root_certificates(roots).with_no_client_auth()
        }
        None => {
            let verifier = Arc::new(Trusting { provider });
            builder.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth()
        }
    };
    config.resumption = Resumption::disabled();
    Ok(Arc::new(config))
}

/// Verifies nothing: the two signatures would cost the client more than they cost the server to make, and the client
/// would be the limit of what is measured.
#[derive(Debug)]
struct Trusting {
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Trusting {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// A socket read in large pieces: rustls asks for 4 KB at a time.
struct Socket(BufReader<TcpStream>);

impl Read for Socket {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer)
    }
}

impl Write for Socket {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.get_mut().write(bytes)
    }

    /// Several TLS records by one system call.
    fn write_vectored(&mut self, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        self.0.get_mut().write_vectored(pieces)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.get_mut().flush()
    }
}

/// A server that is silent for so long is not measured.
const LIMIT: Duration = Duration::from_secs(30);
const READ_BYTES: usize = 64 * 1024;
