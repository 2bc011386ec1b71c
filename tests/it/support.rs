//! A running server for a test: how to ask it, what its console says, and the data it serves.

use std::fs;
use std::io::{self, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::path::{self, Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use ring::digest::{self, Digest};
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use serde_json::Value;
use tempfile::TempDir;

use crate::connection::{Connection, Response, client_configuration};
use crate::process::Process;
pub use crate::process::{Finished, LIMIT, command, is_skipped_under_wine, is_under_wine, program, run};

pub const TASKS: &str = "/xyz/api/cleaner/tasks";
pub const DOWNLOAD: &str = "/xyz/api/cleaner/tasks/download";
pub const REPORT: &str = "/xyz/api/cleaner/tasks/report";

/// What the basic tests run with: the same answers are promised with TLS and without.
pub const WITH_AND_WITHOUT_TLS: [&[&str]; 2] = [&[], &["--http"]];

pub struct Server {
    // Dropped in this order: the process ends before its record folder goes.
    process: Process,
    pub record: TempDir,
    pub ready: Value,
}

impl Server {
    /// Starts the program with these arguments, on a free port, and returns once it is ready.
    pub fn start(arguments: &[&str]) -> Server {
        Server::launch(command(&program()).arg("--exit-on-stdin-close").args(arguments))
    }

    /// The same for a command that a test has made itself, from `command`.
    pub fn launch(command: &mut Command) -> Server {
        let record = TempDir::new().expect("a folder for the record");
        let process = Process::spawn(command.args(["--port", "0", "--record"]).arg(record.path()));
        let ready = process.wait_until_ready(&record.path().join("ready.json"));
        Server { process, record, ready }
    }

    pub fn url(&self) -> &str {
        self.ready["url"].as_str().expect("url is a text")
    }

    pub fn port(&self) -> u16 {
        let port = self.ready["port"].as_u64().expect("port is a number");
        u16::try_from(port).expect("port is a port")
    }

    /// For sockets that a test opens itself.
    pub fn address(&self) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, self.port()))
    }

    pub fn process_id(&self) -> u32 {
        self.process.child.id()
    }

    /// The CA that the program asks its clients to trust, as a client would read it.
    pub fn authority(&self) -> RootCertStore {
        let file = self.record.path().join("certificate.pem");
        let authority = CertificateDer::from_pem_file(file).expect("a certificate in PEM");
        let mut roots = RootCertStore::empty();
        roots.add(authority).expect("the certificate can be a root");
        roots
    }

    /// A new connection to the server: verified TLS, or plain where it runs with `--http`.
    pub fn connect(&self) -> Connection {
        self.connect_to(Ipv4Addr::LOCALHOST.into(), "localhost")
    }

    pub fn connect_to(&self, address: IpAddr, name: &str) -> Connection {
        let address = SocketAddr::new(address, self.port());
        if self.url().starts_with("http:") {
            return Connection::plain(address);
        }
        let configuration = client_configuration(self.authority(), rustls::ALL_VERSIONS);
        Connection::tls(address, name, Arc::new(configuration)).expect("a verified connection")
    }

    pub fn get(&self, target: &str) -> Response {
        self.request("GET", target, &[])
    }

    /// One request without a body on a connection of its own; nothing may follow the answer.
    pub fn request(&self, method: &str, target: &str, headers: &[&str]) -> Response {
        let mut lines = vec![format!("{method} {target} HTTP/1.1"), "Host: localhost".into()];
        lines.extend(headers.iter().map(ToString::to_string));
        lines.push("Connection: close\r\n\r\n".into());
        let mut connection = self.connect();
        connection.send(lines.join("\r\n"));
        let response = connection.read_response(method == "HEAD");
        connection.assert_closed();
        response
    }

    /// One POST, as `request`.
    pub fn post(&self, target: &str, content_type: &str, body: &[u8]) -> Response {
        let mut connection = self.connect();
        connection.send(format!(
            "POST {target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\
             Content-Type: {content_type}\r\nContent-Length: {}\r\n\r\n",
            body.len()
        ));
        connection.send(body);
        let response = connection.read_response(false);
        connection.assert_closed();
        response
    }

    /// Sends exactly these bytes on a new connection and reads the first answer.
    pub fn raw(&self, bytes: impl AsRef<[u8]>) -> Response {
        let mut connection = self.connect();
        connection.send(&bytes);
        connection.read_response(bytes.as_ref().starts_with(b"HEAD "))
    }

    /// The first line of standard output, now or soon, that is wanted.
    #[track_caller]
    pub fn wait_for_line(&self, wanted: impl Fn(&str) -> bool) -> String {
        let found =
            self.process.stdout.wait_for(LIMIT, |captured| captured.lines.iter().find(|line| wanted(line)).cloned());
        found.unwrap_or_else(|| panic!("no such line in:\n{}", self.process.stdout.text()))
    }

    /// The same, but the line is taken from standard output together with all that are before it.
    #[track_caller]
    pub fn take_lines_through(&self, wanted: impl Fn(&str) -> bool) -> Vec<String> {
        let taken = self.process.stdout.take_through(LIMIT, wanted);
        taken.unwrap_or_else(|| panic!("no such line in:\n{}", self.process.stdout.text()))
    }

    /// What the console says about the first request with this method and target.
    #[track_caller]
    pub fn wait_for_request(&self, method: &str, target: &str) -> LoggedRequest {
        let is_wanted = |line: &String| columns(line).get(2..4) == Some(&[method, target]);
        let logged = self.process.stdout.wait_for(LIMIT, |captured| {
            let at = captured.lines.iter().position(is_wanted)?;
            let logged = LoggedRequest::parse(&captured.lines[at]);
            let sentence = captured.lines.get(at + 1).and_then(|line| line.strip_prefix("    error: "));
            // The line below comes with it.
            (logged.status < 400 || sentence.is_some())
                .then(|| LoggedRequest { sentence: sentence.map(str::to_owned), ..logged })
        });
        logged.unwrap_or_else(|| panic!("no such line in:\n{}", self.process.stdout.text()))
    }

    /// What the console says about the first connection that came to no request.
    #[track_caller]
    pub fn wait_for_failed_connection(&self) -> String {
        let is_peer = |field: &str| field.parse::<SocketAddr>().is_ok();
        let line = self.wait_for_line(|line| line.split("  ").nth(1).is_some_and(is_peer));
        let sentence = line.splitn(3, "  ").nth(2);
        sentence.unwrap_or_else(|| panic!("no sentence in: {line}")).to_owned()
    }

    /// The events of journal.jsonl so far, the first of which is the start.
    pub fn journal(&self) -> Vec<Value> {
        journal_in(self.record.path())
    }

    /// The event at this place in the journal, which is there or comes soon.
    #[track_caller]
    pub fn wait_for_event(&self, index: usize) -> Value {
        self.wait_for_journal(|journal| journal.get(index).cloned())
    }

    /// The first such event.
    #[track_caller]
    pub fn wait_for_event_where(&self, is_wanted: impl Fn(&Value) -> bool) -> Value {
        self.wait_for_journal(|journal| journal.iter().find(|event| is_wanted(event)).cloned())
    }

    #[track_caller]
    fn wait_for_journal(&self, find: impl Fn(&[Value]) -> Option<Value>) -> Value {
        let deadline = Instant::now() + LIMIT;
        loop {
            let journal = self.journal();
            if let Some(event) = find(&journal) {
                return event;
            }
            // As in `Process::wait_until_ready`, the wait for a file is made of short waits for the program's end.
            let has_ended = self.process.stdout.wait_for_end(Duration::from_millis(2));
            assert!(!has_ended && Instant::now() < deadline, "no such event in: {journal:#?}");
        }
    }

    /// The answer to a request, and what the journal says of it; nothing else may be going on meanwhile.
    #[track_caller]
    pub fn recorded(&self, request: impl FnOnce(&Server) -> Response) -> (Response, Value) {
        let index = self.journal().len();
        let response = request(self);
        (response, self.wait_for_event(index))
    }

    /// Ends what `start` has started, in the way that all systems have, and returns all that it printed.
    pub fn stop(&mut self) -> Finished {
        self.close_stdin();
        self.wait_for_end()
    }

    /// Interrupts the program as Ctrl+C does, under wine too.
    #[cfg(unix)]
    pub fn interrupt(&mut self) -> Finished {
        self.signal("INT");
        self.process.finish()
    }

    /// As somebody does who does not want to wait.
    #[cfg(unix)]
    pub fn interrupt_again_and_again(&mut self) -> Finished {
        while !self.process.stdout.wait_for_end(Duration::from_millis(10)) {
            self.signal("INT");
        }
        self.process.finish()
    }

    /// Windows has no such signal; Ctrl+C takes its place there.
    #[cfg(unix)]
    pub fn terminate(&mut self) -> Finished {
        self.signal(if is_under_wine() { "INT" } else { "TERM" });
        self.process.finish()
    }

    /// What happens to the program's standard input when whoever started it ends.
    pub fn close_stdin(&mut self) {
        drop(self.process.child.stdin.take());
    }

    pub fn wait_for_end(&mut self) -> Finished {
        self.process.finish()
    }

    #[cfg(unix)]
    pub fn signal(&self, name: &str) {
        let sent = Command::new("kill")
            .args(["-s", name, &self.process_id().to_string()])
            .status()
            .expect("kill can be started");
        assert!(sent.success(), "SIG{name} was not sent");
    }

    /// The most memory that the program ever used, where the system tells.
    #[cfg(target_os = "linux")]
    pub fn peak_memory_kib(&self) -> u64 {
        if is_skipped_under_wine("the memory used, since wine adds a megabyte of its own for each thread") {
            return 0;
        }
        let status =
            fs::read_to_string(format!("/proc/{}/status", self.process_id())).expect("the process has a status");
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let peak = peak.expect("the status has VmHWM").trim();
        let peak = peak.strip_suffix(" kB").expect("VmHWM is in kB");
        peak.parse().expect("VmHWM is a number")
    }
}

impl Drop for Server {
    /// Serving never writes to standard error, so whatever is there fails the test.
    fn drop(&mut self) {
        self.process.kill();
        if !thread::panicking() {
            let complaints = self.process.stderr.text();
            assert!(complaints.is_empty(), "on standard error:\n{complaints}");
        }
    }
}

/// The events of the journal in a record.
pub fn journal_in(record: &Path) -> Vec<Value> {
    let journal = fs::read(record.join("journal.jsonl")).expect("a journal");
    // The last line may be half written.
    let lines = journal.split_inclusive(|byte| *byte == b'\n').filter(|line| line.ends_with(b"\n"));
    lines.map(|line| serde_json::from_slice(line).expect("a line of the journal is JSON")).collect()
}

/// A request's line on the console, taken apart.
pub struct LoggedRequest {
    pub status: u16,
    /// The size of the answer's body as printed, such as `1,024 bytes`.
    pub size: String,
    pub sentence: Option<String>,
}

impl LoggedRequest {
    #[track_caller]
    fn parse(line: &str) -> LoggedRequest {
        let [time, status, _, _, size, duration @ ..] = &*columns(line) else { panic!("too few columns in: {line}") };
        assert_eq!(time.len(), "14:02:09".len(), "the time in: {line}");
        assert!(size.ends_with(" bytes") || *size == "1 byte", "the size in: {line}");
        for duration in duration {
            let milliseconds = duration.strip_suffix(" ms").expect("milliseconds").replace(',', "");
            assert!(milliseconds.parse::<u64>().is_ok_and(|number| number > 0), "the duration in: {line}");
        }
        LoggedRequest {
            status: status.parse().expect("the status is a number"),
            size: size.to_string(),
            sentence: None,
        }
    }
}

/// The columns of a line of the console.
pub fn columns(line: &str) -> Vec<&str> {
    line.split("  ").map(str::trim).filter(|column| !column.is_empty()).collect()
}

/// How long it takes for each of two, the median of many times. They take turns, so that both bear the same load.
pub fn medians<T>(subjects: [T; 2], mut act: impl FnMut(&T)) -> [Duration; 2] {
    let mut durations = [Vec::new(), Vec::new()];
    for _ in 0..51 {
        for (subject, durations) in subjects.iter().zip(&mut durations) {
            let started = Instant::now();
            act(subject);
            durations.push(started.elapsed());
        }
    }
    durations.map(|mut durations| *durations.select_nth_unstable(25).1)
}

/// The addresses on which the program is to answer.
pub fn loopback_addresses() -> Vec<IpAddr> {
    let mut addresses = vec![Ipv4Addr::LOCALHOST.into()];
    if TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).is_ok() {
        addresses.push(Ipv6Addr::LOCALHOST.into());
    } else {
        // Unlike `eprintln!`, this is shown for a test that passes, too.
        writeln!(io::stderr(), "skipped: ::1, since this machine has no IPv6").expect("standard error is open");
    }
    addresses
}

/// A file of the data that is built into the program.
pub fn built_in(name: &str) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("data").join(name);
    fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// As journal and console write it.
pub fn sha256(content: &[u8]) -> String {
    hex(&digest::digest(&digest::SHA256, content))
}

pub fn hex(digest: &Digest) -> String {
    digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A folder for `--data` with a copy of the built-in files, for the test to change.
pub fn data_folder() -> TempDir {
    let folder = TempDir::new().expect("a folder for the data");
    for name in ["tasks.json", "report.json", "1797242037.zip"] {
        fs::write(folder.path().join(name), built_in(name)).expect("a data file");
    }
    folder
}

/// A folder for `--data` with a download of 200 MB: a hole instead of content, which costs no disk.
pub fn folder_with_a_large_download() -> TempDir {
    let folder = data_folder();
    let file = fs::File::create(folder.path().join("1797242037.zip")).expect("the file");
    file.set_len(200_000_000).expect("a file with a hole");
    folder
}

/// The executable under a name of its own, in a new folder with nothing else in it.
///
/// It is a link. A copy could not be started while another test starts a process, since that
/// process holds for a moment whatever file is open for writing.
pub fn program_alone() -> (TempDir, PathBuf) {
    let original = path::absolute(program()).expect("the executable has a path");
    let folder = original.parent().expect("the executable is in a folder");
    let home = TempDir::new_in(folder).expect("a folder for the executable");
    let alone = home.path().join(original.file_name().expect("the executable has a name"));
    fs::hard_link(&original, &alone).expect("a link to the executable");
    (home, alone)
}

/// A temporary path as an argument, and as the program prints it: under wine this system's root is the drive Z.
pub fn text(path: &Path) -> &str {
    let text = path.to_str().expect("temporary folders have plain names");
    // Leaked, so that a test can use it like the path itself.
    if is_under_wine() { format!("Z:{}", text.replace('/', "\\")).leak() } else { text }
}

/// The other way round: a path that the program tells, for the test to open.
pub fn local(path: &str) -> PathBuf {
    match path.strip_prefix("Z:") {
        Some(path) if is_under_wine() => path.replace('\\', "/").into(),
        _ => path.into(),
    }
}

/// A server with the limits that a shell sets for it.
#[cfg(unix)]
pub fn start_limited(limits: &str, arguments: &[&str]) -> Server {
    let server = command(&program());
    let mut shell = Command::new("sh");
    shell.args(["-c", &format!("{limits}; exec \"$@\""), "sh"]).arg(server.get_program()).args(server.get_args());
    Server::launch(shell.args(arguments))
}
