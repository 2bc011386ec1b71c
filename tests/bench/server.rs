//! A server to measure: this program, or another one with the same paths. It is a child process, or runs already.

use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::iter;
use std::net::{Ipv4Addr, TcpListener, TcpStream, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::LazyLock;
use std::thread;
use std::time::{Duration, Instant};

use rustls::pki_types::ServerName;
use tempfile::TempDir;

use crate::Outcome;
use crate::client::{Client, Connection, tls};

/// What the command line says about another server.
pub struct Other {
    url: String,
    pub name: String,
    pub ca: Option<PathBuf>,
    pub start: Option<String>,
}

impl Other {
    pub fn at(url: String) -> Other {
        Other { name: url.trim_start_matches("https://").to_owned(), url, ca: None, start: None }
    }
}

pub struct Server {
    pub name: String,
    /// With the port, for the Host header.
    pub host: String,
    pub client: Client,
    /// The CA's file is there once the server accepts connections.
    ca: Option<PathBuf>,
    /// The program and its arguments; nothing where it runs already.
    start: Vec<String>,
    /// Dropped before the folder that it uses.
    process: Option<Process>,
    folder: TempDir,
}

impl Server {
    /// The release program, with a download of `FILE_BYTES`. Without --record: others are measured without a log too.
    pub fn own() -> Outcome<Server> {
        let program = env!("CARGO_BIN_EXE_cleaner-test-server");
        let folder = TempDir::new()?;
        let path = |name: &str| folder.path().join(name).display().to_string();
        let data = path("data");
        Command::new(program).args(["--write-data", &data]).stdout(Stdio::null()).status()?;
        let mut download = File::create(Path::new(&data).join("1797242037.zip"))?;
        for piece in file_pieces() {
            download.write_all(piece)?;
        }
        // Not just any free port: a client that tries one of those that systems give to clients can meet itself there.
        let port = (5001..=u16::MAX).find(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok());
        let port = port.ok_or("no port is free")?.to_string();
        let start = [program, "--port", &port, "--data", &data].map(str::to_owned).to_vec();
        Server::new("this program".to_owned(), &format!("https://localhost:{port}"), None, start, folder)
    }

    pub fn other(Other { url, name, ca, start }: Other) -> Outcome<Server> {
        let start = start.unwrap_or_default().split_whitespace().map(str::to_owned).collect();
        Server::new(name, &url, ca, start, TempDir::new()?)
    }

    fn new(name: String, url: &str, ca: Option<PathBuf>, start: Vec<String>, folder: TempDir) -> Outcome<Server> {
        let wrong = || format!("{url} is not like https://localhost:5000");
        let host = url.strip_prefix("https://").ok_or_else(wrong)?.trim_end_matches('/').to_owned();
        let (bare, _) = host.rsplit_once(':').ok_or_else(wrong)?;
        let server_name = ServerName::try_from(bare.trim_matches(['[', ']']).to_owned())?;
        let addresses: Vec<_> = host.to_socket_addrs()?.collect();
        let address = addresses.iter().find(|address| address.is_ipv4()).or(addresses.first());
        let client = Client { address: *address.ok_or_else(wrong)?, name: server_name, tls: tls(None)? };
        Ok(Server { name, host, client, ca, start, process: None, folder })
    }

    /// Ends it and starts it anew, where it can be started: milliseconds until the first answer is there.
    pub fn restart(&mut self) -> Outcome<Vec<f64>> {
        self.process = None;
        let began = Instant::now();
        if let Some((program, arguments)) = self.start.split_first() {
            let said = File::create(self.said_file())?;
            let mut command = Command::new(program);
            command.args(arguments).stdin(Stdio::null()).stdout(said.try_clone()?).stderr(said);
            let child = command.spawn().map_err(|error| format!("cannot start {program}: {error}"))?;
            self.process = Some(Process(child));
        }
        let socket = self.connect_once_it_listens(began)?;
        let client = Client { tls: tls(self.ca.as_deref())?, ..self.client.clone() };
        let mut connection = Connection::over(socket, &client)?;
        connection.send(&self.get_tasks())?;
        connection.read_answer()?;
        let milliseconds = began.elapsed().as_secs_f64() * 1000.0;
        // On Windows connecting to a port that is not open yet takes up to 2 s, whatever the server does.
        Ok(self.process.iter().filter(|_| !cfg!(windows)).map(|_| milliseconds).collect())
    }

    fn connect_once_it_listens(&mut self, began: Instant) -> Outcome<TcpStream> {
        loop {
            match TcpStream::connect(self.client.address) {
                Err(error) if error.kind() == ErrorKind::ConnectionRefused && began.elapsed() < START_LIMIT => {}
                connected => return Ok(connected.map_err(|error| format!("cannot reach {}: {error}", self.name))?),
            }
            let Some(process) = &mut self.process else { return Err(format!("{} does not run", self.name).into()) };
            if let Some(status) = process.0.try_wait()? {
                return Err(format!("{} has ended at once, with {status}", self.name).into());
            }
            // Nothing tells when a port of another program opens, so it is tried again and again.
            thread::sleep(PAUSE);
        }
    }

    /// In MB, where the system tells it (Linux) and this harness has started the server.
    pub fn resident_memory(&self) -> Vec<f64> {
        let status = self.process.as_ref().map(|process| format!("/proc/{}/status", process.0.id()));
        let status = status.and_then(|path| fs::read_to_string(path).ok()).unwrap_or_default();
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB"));
        resident.and_then(|kib| kib.parse::<f64>().ok()).map(|kib| kib * 1024.0 / 1e6).into_iter().collect()
    }

    pub fn get_tasks(&self) -> Vec<u8> {
        self.get("/xyz/api/cleaner/tasks")
    }

    pub fn get(&self, target: &str) -> Vec<u8> {
        format!("GET {target} HTTP/1.1\r\nHost: {}\r\n\r\n", self.host).into_bytes()
    }

    /// The last lines that it has printed.
    pub fn said(&self) -> String {
        let said = fs::read(self.said_file()).unwrap_or_default();
        let said = String::from_utf8_lossy(&said);
        let lines: Vec<&str> = said.lines().collect();
        lines[lines.len().saturating_sub(10)..].join("\n")
    }

    fn said_file(&self) -> PathBuf {
        self.folder.path().join("said.txt")
    }
}

/// A child process that does not outlive its owner.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        // Fails only where it has ended by itself.
        self.0.kill().and_then(|()| self.0.wait()).ok();
    }
}

/// The file that is sent in both directions: bytes without a pattern, as in a zip, one piece repeated.
pub fn file_pieces() -> impl Iterator<Item = &'static [u8]> {
    static PIECE: LazyLock<Vec<u8>> = LazyLock::new(|| {
        // The linear congruential generator of Knuth's MMIX.
        let next =
            |state: &u64| Some(state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407));
        iter::successors(Some(1), next).map(|state| (state >> 56) as u8).take(PIECE_BYTES).collect()
    });
    iter::repeat_n(PIECE.as_slice(), PIECES)
}

pub const FILE_BYTES: u64 = (PIECES * PIECE_BYTES) as u64;
/// 200 MB in pieces that each are a few TLS records.
const PIECES: usize = 2000;
const PIECE_BYTES: usize = 100_000;
const START_LIMIT: Duration = Duration::from_secs(30);
const PAUSE: Duration = Duration::from_micros(100);
