//! A small HTTP/1.1 client that hides nothing: bytes out, answers in, every wait limited, and an
//! answer that is framed wrongly ends the test.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::Arc;

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned, SupportedProtocolVersion};

use crate::support::LIMIT;

/// One connection to the server, over which a test sends what it likes.
#[derive(Debug)]
pub struct Connection {
    stream: BufReader<Stream>,
}

impl Connection {
    pub fn plain(address: SocketAddr) -> Connection {
        Connection { stream: BufReader::new(Stream::Plain(open(address))) }
    }

    /// Returns after the handshake; the error is the client's view of why it failed.
    pub fn tls(address: SocketAddr, name: &str, configuration: Arc<ClientConfig>) -> io::Result<Connection> {
        let name = ServerName::try_from(name.to_owned()).expect("a name or an address");
        let tls = ClientConnection::new(configuration, name).expect("a TLS client");
        let mut stream = StreamOwned::new(tls, open(address));
        while stream.conn.is_handshaking() {
            stream.conn.complete_io(&mut stream.sock)?;
        }
        Ok(Connection { stream: BufReader::new(Stream::Tls(Box::new(stream))) })
    }

    /// What TLS has agreed on.
    pub fn agreed(&self) -> &ClientConnection {
        match self.stream.get_ref() {
            Stream::Tls(stream) => &stream.conn,
            Stream::Plain(_) => panic!("the connection is plain"),
        }
    }

    #[track_caller]
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        let stream = self.stream.get_mut();
        let sent = stream.write_all(bytes.as_ref());
        sent.and_then(|()| stream.flush()).expect("the server reads");
    }

    /// The same where the server may have closed already.
    pub fn try_send(&mut self, bytes: &[u8]) -> io::Result<()> {
        let stream = self.stream.get_mut();
        stream.write_all(bytes).and_then(|()| stream.flush())
    }

    /// Tells the server that nothing more will come; its answer can still be read.
    pub fn finish_sending(&mut self) {
        let finished = match self.stream.get_mut() {
            Stream::Plain(stream) => stream.shutdown(Shutdown::Write),
            Stream::Tls(stream) => {
                stream.conn.send_close_notify();
                stream.flush()
            }
        };
        finished.expect("the connection is open");
    }

    /// Reads one answer. One to a HEAD request is `head_only`: its length is that of the body
    /// that GET would have got.
    #[track_caller]
    pub fn read_response(&mut self, head_only: bool) -> Response {
        let status_line = self.read_line();
        let status = status_line
            .strip_prefix("HTTP/1.1 ")
            .and_then(|rest| rest.get(..3)?.parse().ok())
            .unwrap_or_else(|| panic!("no status line: {status_line:?}"));
        let mut headers = Vec::new();
        loop {
            let line = self.read_line();
            if line.is_empty() {
                break;
            }
            let (name, value) = line.split_once(": ").expect("a header has a colon");
            headers.push((name.to_owned(), value.to_owned()));
        }
        let mut response = Response { status, headers, body: Vec::new() };
        let has_body = !head_only && status >= 200 && status != 204 && status != 304;
        if has_body {
            response.body = vec![0; response.content_length()];
            let whole = self.stream.read_exact(&mut response.body);
            whole.unwrap_or_else(|error| panic!("{response:?} breaks off: {error}"));
        }
        response
    }

    /// So many bytes of whatever comes.
    #[track_caller]
    pub fn read_bytes(&mut self, count: usize) -> Vec<u8> {
        let mut bytes = vec![0; count];
        self.stream.read_exact(&mut bytes).expect("the server answers");
        bytes
    }

    /// All that comes until the end; the error is why that is no clean one.
    pub fn read_to_end(&mut self) -> Result<Vec<u8>, (Vec<u8>, io::Error)> {
        let mut bytes = Vec::new();
        match self.stream.read_to_end(&mut bytes) {
            Ok(_) => Ok(bytes),
            Err(error) => Err((bytes, error)),
        }
    }

    /// Waits for the next bytes or for the end, and tells whether it is the end.
    #[track_caller]
    pub fn has_ended(&mut self) -> bool {
        self.stream.fill_buf().expect("the server answers or closes").is_empty()
    }

    /// Nothing more has come, and the connection was closed as its protocol wants it. Over TLS
    /// that is a close_notify: without it rustls reports an error.
    #[track_caller]
    pub fn assert_closed(&mut self) {
        let mut rest = Vec::new();
        let end = self.stream.read_to_end(&mut rest);
        let rest = rest.escape_ascii();
        assert!(end.is_ok(), "no clean end: {end:?}, after {rest}");
        assert_eq!(rest.to_string(), "", "bytes after the last answer");
    }

    #[track_caller]
    fn read_line(&mut self) -> String {
        let mut line = String::new();
        self.stream.read_line(&mut line).expect("the server answers");
        let end = line.strip_suffix("\r\n").map(str::len);
        let end = end.unwrap_or_else(|| panic!("a line without CRLF: {line:?}"));
        line.truncate(end);
        line
    }
}

/// An answer; its headers in the server's order.
#[derive(Debug)]
pub struct Response {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Response {
    /// The value of a header that may be there once.
    #[track_caller]
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut values =
            self.headers.iter().filter(|(other, _)| other.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str());
        let value = values.next();
        assert_eq!(values.next(), None, "{name} is there twice");
        value
    }

    #[track_caller]
    pub fn content_length(&self) -> usize {
        let length = self.header("Content-Length");
        let length = length.and_then(|length| length.parse().ok());
        length.unwrap_or_else(|| panic!("no Content-Length: {:?}", self.headers))
    }

    #[track_caller]
    pub fn json(&self) -> serde_json::Value {
        assert_eq!(self.header("Content-Type"), Some("application/json"));
        serde_json::from_slice(&self.body).expect("the body is JSON")
    }

    /// The methods of `Allow`, sorted: the order in the header means nothing.
    pub fn allowed_methods(&self) -> Vec<&str> {
        let allow = self.header("Allow").unwrap_or_default();
        let mut methods: Vec<&str> = allow.split(", ").collect();
        methods.sort_unstable();
        methods
    }

    /// What holds for every error: the status, and JSON with one sentence, which is returned.
    #[track_caller]
    pub fn assert_error(&self, status: u16) -> String {
        let body = String::from_utf8_lossy(&self.body);
        assert_eq!(self.status, status, "{body}");
        let answer = self.json();
        let sentence = answer["error"].as_str().expect("error is a text");
        assert!(sentence.contains(' '), "not a sentence: {sentence:?}");
        let one_line = !sentence.contains(char::is_control);
        assert!(one_line, "more than one line: {sentence:?}");
        sentence.to_owned()
    }
}

/// A client that trusts these roots only and speaks these versions of TLS only.
pub fn client_configuration(roots: RootCertStore, versions: &[&'static SupportedProtocolVersion]) -> ClientConfig {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)
        .expect("ring has suites for every version")
        .with_root_certificates(roots)
        .with_no_client_auth()
}

fn open(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect_timeout(&address, LIMIT)
        .unwrap_or_else(|error| panic!("cannot connect to {address}: {error}"));
    stream.set_nodelay(true).expect("TCP has this option");
    let limited = stream.set_read_timeout(Some(LIMIT)).and_then(|()| stream.set_write_timeout(Some(LIMIT)));
    limited.expect("the limit is not zero");
    stream
}

#[derive(Debug)]
enum Stream {
    Plain(TcpStream),
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Stream::Plain(stream) => stream.read(buffer),
            Stream::Tls(stream) => stream.read(buffer),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Stream::Plain(stream) => stream.write(bytes),
            Stream::Tls(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Stream::Plain(stream) => stream.flush(),
            Stream::Tls(stream) => stream.flush(),
        }
    }
}
