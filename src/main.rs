//! A local HTTPS test server with the three answers of the cleaner API, for people who write clients for it.
//!
//! ```text
//!            a thread for each client: front.rs                    one loop for all: api.rs
//!
//! client ==TLS==> accept; handshake, or say why not
//!                 read ONE WHOLE request
//!                 hand it over  ---- bridge.rs ---------------->  tiny_http, match on method and path
//!                                                                 tasks.rs | download.rs | report.rs
//!        <======= send the answer, a file from disk  <----------  reply
//!                 tell it: journal.rs
//! ```
//!
//! # It answers one request at a time
//!
//! The loop is a single thread, and its handlers are plain, blocking, sequential code. It never waits for a client: a
//! request is complete before the loop sees it, and files are sent by the thread of the client that asked for them. While
//! it takes a large report apart, some three seconds for 1 GiB, other answers wait.
//!
//! # tiny_http never meets a client
//!
//! It speaks to the front alone. Its own TLS is a version of rustls that seven bytes can keep busy for ever
//! (RUSTSEC-2024-0336); it reserves as much memory as a Content-Length claims, drops connections without a word, and
//! lets a client that stalls hold up all others. The front passes on only whole, well-formed requests of limited size,
//! and neither bodies nor answers: what hides in an unread body is never taken for a request (CVE-2026-66752), and no
//! CR LF gets into the headers of an answer (CVE-2026-66753); tests/it/bridge.rs tries both.
//!
//! # Other users of the machine
//!
//! They can connect to the server's port and send requests, as everybody who reaches it can. They cannot reach the loop:
//! its own listener, at a port that nobody knows, is closed within a millisecond or so. Somebody who finds it in that
//! moment could end the program, but never gets at requests or answers of others.
//!
//! # It keeps nothing unless told to
//!
//! A body over 64 KiB waits in a temporary file that the system removes. Only --record and --write-data write what stays.
//!
//! # Where to read on
//!
//! `run` below, `api` with `tasks`, `download` and `report`, then the rest of the listing: a room is one file and the
//! folder of its name. `command` runs a client, `rounds` the whole program again for each fault. Imports run one way,
//! from `main` and `options` over `front` and `api` to `bridge`, `command`, `journal`, `message`, `stop` and `text`.

mod api;
mod bridge;
mod command;
mod front;
mod journal;
mod message;
mod options;
mod rounds;
mod stop;
mod text;

use api::{Api, Data};
use bridge::Bridge;
use front::tls::Tls;
use front::{Front, Traffic, certificate, listen};
use journal::Journal;
use journal::console::{self, Console};
use journal::record::{CERTIFICATE, Record};
use options::{Action, Options};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::sync::mpsc::Receiver;
use std::thread;
use std::time::{Duration, SystemTime};
use stop::Word;
use tempfile::TempDir;
use text::Failure;
use time::UtcOffset;

fn main() -> ExitCode {
    let done = match Action::parse(std::env::args_os().skip(1)) {
        Err(sentence) => {
            console::print_failure(&sentence);
            return ExitCode::from(2);
        }
        Ok(Action::Print(text)) => Ok(console::print_now(text)),
        Ok(Action::WriteData(folder)) => api::write_built_in(&folder).map(|told| console::print_now(&told.join("\n"))),
        Ok(Action::Serve(options)) => run(options),
        Ok(Action::ServeEach(options, given)) => rounds::run(&given, &options.command, options.record.as_deref()),
    };
    done.unwrap_or_else(|failure| {
        console::print_failure(&failure.0);
        // As other programs have it that run a command.
        if std::env::args_os().any(|argument| argument == "--") { 125 } else { 1 }
    })
    .into()
}

/// A server from its start to its end. The order matters: nothing is promised (ready.json, the banner) before it holds.
/// Returns the exit code.
fn run(options: Options) -> Result<u8, Failure> {
    // Before there is a second thread: later the system's time zone cannot be asked for safely. UTC where it fails.
    let time_zone = UtcOffset::current_local_offset().unwrap_or(UtcOffset::UTC);
    if SystemTime::now() < SystemTime::UNIX_EPOCH {
        let advice = "set it: certificates and HTTP need the date";
        return Err(Failure::new("the clock of this machine is before 1970", advice));
    }
    let data = Data::open(options.data.clone())?;
    let has_command = !options.command.is_empty();
    // What a command needs lies there where nothing is to be kept.
    let passing = (has_command && options.record.is_none()).then(TempDir::new).transpose();
    let passing = passing.map_err(Failure::of("cannot make a temporary folder", "name a folder with --record"))?;
    let folder = options.record.clone().or(passing.as_ref().map(|folder| folder.path().to_owned()));
    let record = folder.map(Record::open).transpose()?;
    let (tls, ca_path, certificate) = prepare_tls(&options, record.as_ref())?;
    let listeners = listen::listen(options.host.as_deref(), options.port)?;
    let addresses = listeners.iter().map(TcpListener::local_addr).collect::<io::Result<Vec<SocketAddr>>>();
    let addresses = addresses.map_err(Failure::of("cannot tell the port", "name one with --port"))?;
    let url = url(tls.is_some(), options.host.as_deref(), addresses[0].port());
    let banner = banner(&options, &url, &addresses, &data, &certificate);

    let advice = "allow it connections to 127.0.0.1, more threads and more open files";
    let bridge = Bridge::open().map_err(Failure::of("cannot connect within this program", advice))?;
    let kept = record.as_ref().filter(|_| options.record.is_some());
    let journal_file = kept.map(Record::journal).transpose()?;
    let front: &Front = Box::leak(Box::new(Front {
        tls,
        url: url.clone(),
        timeout: Duration::from_secs(options.timeout_seconds),
        max_upload_bytes: options.max_upload_bytes,
        strict: options.strict,
        fault: options.fault,
        bridge,
        journal: Journal::open(Console::open(has_command)?, time_zone, journal_file, options.fault),
        traffic: Traffic::default(),
    }));
    let api = Api { data, strict: options.strict, reports: kept.map(Record::reports), url: url.clone() };
    let client = || command::prepare(&options.command, &url, options.host.as_deref(), ca_path.as_deref());
    let client = has_command.then(client).transpose()?;
    let stopped = stop::words(options.exit_on_stdin_close, has_command)?;

    front.journal.start(&url, &banner);
    thread::Builder::new().name("loop".to_owned()).spawn(move || api.serve(bridge)).map_err(Failure::no_thread)?;
    front.start(listeners)?;
    if let Some(record) = &record {
        record.write_ready(&url, addresses[0].port(), ca_path.as_deref())?;
    }
    Ok(wait(client, &stopped, front, record.as_ref()))
}

/// Until the client has ended, or without one until somebody says so; then tells what was done. Returns the exit code.
fn wait(client: Option<Command>, stopped: &Receiver<Word>, front: &Front, record: Option<&Record>) -> u8 {
    let (mut ended, mut word) = (None, None);
    if let Some(client) = client {
        ended = Some(command::run(client, stopped, command::GRACE));
        front.see_off();
    } else {
        // An error would be that nothing can say it any more.
        word = stopped.recv().ok();
    }
    if word == Some(Word::StdinClosed) {
        front.journal.say("stops, since standard input is closed (--exit-on-stdin-close)");
    }
    let unfinished = front.finish();
    if let Some(Err(error)) = record.map(Record::close) {
        front.journal.say(&format!("warning: cannot remove ready.json: {error}"));
    }
    let verdict = if front.journal.stop(unfinished, ended.as_ref()) { 0 } else { 3 };
    if word == Some(Word::CtrlC) {
        console::hold_window();
    }
    ended.map_or(0, |ended| ended.not_run.unwrap_or(verdict))
}

/// How this run speaks TLS, the CA that a client needs for it, and what the banner says of the certificate.
fn prepare_tls(options: &Options, record: Option<&Record>) -> Result<(Option<Tls>, Option<PathBuf>, String), Failure> {
    let (config, names, ca_path, about, advice) = match (&options.certificate, &options.key) {
        _ if options.http => return Ok((None, None, "none: this is plain HTTP".to_owned())),
        (Some(certificate), Some(key)) => {
            let path = certificate.display();
            let (config, warning) = certificate::load(certificate, key)?;
            let (about, advice) = match warning {
                None => {
                    (path.to_string(), format!("give the client the CA that signed {path}, or that file if nobody did"))
                }
                Some(warning) => {
                    (format!("{path}; warning: {warning}"), format!("give the server another than {path}: {warning}"))
                }
            };
            (config, Vec::new(), None, about, advice)
        }
        _ => {
            let names = certificate::names(options.host.iter().chain(&options.names));
            let (config, ca_pem) = certificate::make(&names, options.fault)?;
            let ca_path = record.map(|record| record.write(CERTIFICATE, &ca_pem)).transpose()?;
            let how = ca_path.as_ref().map(|path| format!("the CA to trust is {}", path.display()));
            let about = format!("made for this run; {}", how.as_deref().unwrap_or(WITHOUT_RECORD));
            let advice = match &ca_path {
                None => HOW_TO_TRUST.to_owned(),
                Some(path) if options.command.is_empty() => format!("give the client the CA in {}", path.display()),
                Some(_) => "give the client the CA that SSL_CERT_FILE names".to_owned(),
            };
            (config, names, ca_path, about, advice)
        }
    };
    let trust_advice = format!("{advice}, or switch its verification off for tests");
    Ok((Some(Tls { config, names, trust_advice }), ca_path, about))
}

const WITHOUT_RECORD: &str = "-- COMMAND runs a client that trusts it, --record DIR writes the CA to trust";
const HOW_TO_TRUST: &str = "run the client by cleaner-test-server -- COMMAND, or start the server with --record DIR and \
    give the client the CA in DIR/certificate.pem";

/// What a client on this machine can use: `localhost` where the server listens on it.
fn url(has_tls: bool, host: Option<&str>, port: u16) -> String {
    let scheme = if has_tls { "https" } else { "http" };
    let host = host.unwrap_or("localhost");
    let host = match host.parse::<IpAddr>() {
        Ok(IpAddr::V4(address)) if address.is_unspecified() => "localhost".to_owned(),
        Ok(IpAddr::V6(address)) if address.is_unspecified() => "[::1]".to_owned(),
        Ok(IpAddr::V6(address)) => format!("[{address}]"),
        _ => host.to_owned(),
    };
    format!("{scheme}://{host}:{port}")
}

fn banner(options: &Options, url: &str, addresses: &[SocketAddr], data: &Data, certificate: &str) -> String {
    // A client can send that address as it stands.
    let id = data.task_ids().ok().flatten().and_then(|ids| ids.into_iter().next()).unwrap_or("N".to_owned());
    let id = utf8_percent_encode(&id, NON_ALPHANUMERIC);
    let data = data.about.join("\n             ");
    let listening: Vec<String> = addresses.iter().map(ToString::to_string).collect();
    let mut banner = format!(
        "cleaner-test-server {}: for tests of clients, never for production\n\n  \
         GET   {url}/xyz/api/cleaner/tasks\n  \
         GET   {url}/xyz/api/cleaner/tasks/download?id={id}\n  \
         POST  {url}/xyz/api/cleaner/tasks/report\n\n\
         Listens on   {}\n\
         Data         {data}\n\
         Certificate  {certificate}\n",
        env!("CARGO_PKG_VERSION"),
        listening.join(" and "),
    );
    if addresses.iter().any(|address| !address.ip().is_loopback()) {
        banner.push_str("Warning      other machines can reach this server, and it asks nobody who they are\n");
        if !options.http && options.certificate.is_none() {
            banner.push_str(
                "             --name NAME adds to the certificate the name or address by which they reach it\n",
            );
        }
    }
    if let Some(fault) = options.fault {
        let whom = if fault.is_of_certificate() { "every client" } else { "every other request of each step" };
        banner.push_str(&format!("Fault        {}: {whom} gets {}, on purpose\n", fault.name(), fault.what()));
    }
    banner.push_str("Stop         Ctrl+C\n");
    banner
}
