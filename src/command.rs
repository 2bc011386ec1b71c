//! Runs a client (`-- COMMAND`) with what it needs in its environment: where the server is, and whom to trust.

use crate::message::Ended;
use crate::stop::Word;
use crate::text::{Failure, quoted};
use ring::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use std::ffi::OsString;
use std::io::{self, ErrorKind};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};
use std::{env, fs};

/// The client, to be run without a shell and on this program's own standard streams. `ca`: the file with the CA to
/// trust; the other files of that kind are written beside it.
pub fn prepare(words: &[OsString], url: &str, host: Option<&str>, ca: Option<&Path>) -> Result<Command, Failure> {
    let mut command = Command::new(&words[0]);
    command.args(&words[1..]).env("CLEANER_URL", url);
    let own = host.into_iter().chain(["localhost", "127.0.0.1", "::1"]).map(OsString::from);
    for name in ["no_proxy", "NO_PROXY"] {
        let before = env::var_os(name).filter(|before| !before.is_empty());
        let hosts: Vec<_> = before.into_iter().chain(own.clone()).collect();
        command.env(name, hosts.join(",".as_ref()));
    }
    let Some(ca) = ca else { return Ok(command) };
    let store = ca.with_file_name("truststore.jks");
    let der = CertificateDer::from_pem_file(ca).map_err(io::Error::other);
    let advice = "name a folder with --record that can be written to";
    let failed = Failure::of(format!("cannot write {}", store.display()), advice);
    der.and_then(|der| fs::write(&store, java_truststore(&der))).map_err(failed)?;
    // In quotes, since the path may have spaces. Of two such options Java takes the last.
    let trust = ["\"-Djavax.net.ssl.trustStore=".as_ref(), store.as_os_str(), JAVA_STORE.as_ref()].join("".as_ref());
    let java_options = env::var_os(JAVA_VARIABLE).into_iter().chain([trust]).collect::<Vec<_>>().join(" ".as_ref());
    // All together: a client that prefers one must not find another there that is stale.
    command.envs(PEM_VARIABLES.map(|name| (name, ca))).env(JAVA_VARIABLE, java_options);
    Ok(command)
}

/// Runs it until it ends. Once a word to stop has come, which Ctrl+C says to both, it gets `grace` to end, and where it
/// has not heard that, as much again.
pub fn run(mut command: Command, stopped: &Receiver<Word>, grace: Duration) -> Ended {
    let spawned = spawn(&mut command);
    let (exit_code, trouble, not_run) = match spawned.and_then(|(child, leash)| wait(child, leash, stopped, grace)) {
        Ok((exit_code, trouble)) => (exit_code, trouble, None),
        Err(error) => {
            // Where a path leads to a script, what is missing is its interpreter.
            let path = Path::new(command.get_program());
            let is_missing = error.kind() == ErrorKind::NotFound && !(path.components().count() > 1 && path.exists());
            let program = quoted(command.get_program().as_encoded_bytes());
            let why = match is_missing {
                true if program.contains(' ') && path.components().count() == 1 => APART.to_owned(),
                true => NOT_THERE.to_owned(),
                false => format!("cannot be run: {error}; {RUNNABLE}"),
            };
            (None, Some(format!("the command {program} {why}")), Some(if is_missing { 127 } else { 126 }))
        }
    };
    let words = [command.get_program()].into_iter().chain(command.get_args());
    Ended { command: words.map(|word| word.to_string_lossy().into_owned()).collect(), exit_code, trouble, not_run }
}

/// A program that does not outlive this one for long, even where this one is killed.
fn spawn(command: &mut Command) -> io::Result<(Child, Leash)> {
    let child = command.spawn()?;
    let mut shell = Command::new("/bin/sh");
    shell.args(["-c", "trap '' INT QUIT HUP; read _; kill $0; sleep 5; kill -KILL $0"]).arg(child.id().to_string());
    shell.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
    // Where there is no such shell, there is no leash.
    Ok((child, Leash(if cfg!(unix) { shell.spawn().ok() } else { None })))
}

/// A shell that waits for the end of its standard input, which this program holds, and ends the other then. Dropped, it
/// does nothing any more. Windows would need a job object, for which there is no small crate.
struct Leash(Option<Child>);

impl Drop for Leash {
    fn drop(&mut self) {
        if let Some(shell) = &mut self.0 {
            // An error would be that it has ended.
            shell.kill().and_then(|()| shell.wait()).ok();
        }
    }
}

/// Returns its exit code, if that says something, and what is wrong with its end. A second word to stop ends it at once;
/// otherwise SIGTERM comes first.
fn wait(
    mut child: Child,
    mut leash: Leash,
    stopped: &Receiver<Word>,
    grace: Duration,
) -> io::Result<(Option<i32>, Option<String>)> {
    let (mut deadline, mut is_last) = (None, false);
    loop {
        if let Some(status) = child.try_wait()? {
            let interrupted = deadline.map(|_| "the client was interrupted".to_owned());
            return Ok((status.code().filter(|_| deadline.is_none()), trouble(status).or(interrupted)));
        }
        let word = stopped.recv_timeout(LOOK).ok();
        let is_over = deadline.is_some_and(|deadline| Instant::now() > deadline);
        if is_last && is_over || deadline.is_some() && word.is_some() {
            child.kill()?;
            child.wait()?;
            return Ok((None, Some("the client did not end at the word to stop, and was killed".to_owned())));
        }
        if is_over || word.is_some() {
            is_last = is_over;
            deadline = Some(Instant::now() + grace);
        }
        if let (true, Some(shell)) = (is_last || word == Some(Word::Terminated), &mut leash.0) {
            drop(shell.stdin.take());
        }
    }
}

/// What is wrong with how a client has ended.
fn trouble(status: ExitStatus) -> Option<String> {
    match status.code() {
        Some(0) => None,
        Some(code) if code > 0 => Some(format!("the client ended with exit code {code}")),
        // Windows says so what a signal is elsewhere, such as 0xc0000005.
        Some(code) => Some(format!("the client ended with exit code {code:#x}")),
        None => Some(format!("the client was ended by {}", status.to_string().replacen("signal: ", "signal ", 1))),
    }
}

/// Java reads neither PEM nor, without a password, PKCS12. This is its own older form (JKS, version 2) with one trusted
/// certificate: read without a password, or with the one that everybody uses.
fn java_truststore(der: &[u8]) -> Vec<u8> {
    let text = |text: &str| [&(text.len() as u16).to_be_bytes(), text.as_bytes()].concat();
    let (version, entries, is_trusted, milliseconds_since_1970) = (2_u32, 1_u32, 2_u32, 0_u64);
    let mut store = [0xFEED_FEED, version, entries, is_trusted].map(u32::to_be_bytes).concat();
    store.extend([text("cleaner-test-server"), milliseconds_since_1970.to_be_bytes().into(), text("X.509")].concat());
    store.extend((der.len() as u32).to_be_bytes());
    store.extend(der);
    let password: Vec<u8> = "changeit".bytes().flat_map(|byte| [0, byte]).collect();
    let salted = [&password, b"Mighty Aphrodite".as_slice(), &store].concat();
    store.extend(digest(&SHA1_FOR_LEGACY_USE_ONLY, &salted).as_ref());
    store
}

/// What clients look at for the file with the CAs to trust: OpenSSL, and so Python, Ruby and PHP, and Go; requests;
/// curl; Node, bun and deno; Perl.
const PEM_VARIABLES: [&str; 6] = [
    "SSL_CERT_FILE",
    "REQUESTS_CA_BUNDLE",
    "CURL_CA_BUNDLE",
    "NODE_EXTRA_CA_CERTS",
    "DENO_CERT",
    "PERL_LWP_SSL_CA_FILE",
];
const NOT_THERE: &str =
    "is not there: name one that is on the PATH, or its path; on Windows a script with its ending, as npm.cmd";
const APART: &str = "is not there: a command and its arguments are words of their own, as -- python client.py";
const RUNNABLE: &str = "name a program, or the interpreter of a script, as python client.py";
const JAVA_STORE: &str = "\" -Djavax.net.ssl.trustStoreType=jks -Djavax.net.ssl.trustStorePassword=changeit";
const JAVA_VARIABLE: &str = "JAVA_TOOL_OPTIONS";
/// How long a client may take to end at the word to stop, and then at SIGTERM.
pub const GRACE: Duration = Duration::from_secs(1);
/// How soon it is noticed that it has ended.
const LOOK: Duration = Duration::from_millis(10);
