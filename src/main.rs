//! A local HTTPS test server with the three answers of the cleaner API, for people who write clients for it.
//!
//! ```text
//!            a thread for each client: proxy.rs              one loop for all: server.rs
//!
//! client ==TLS==> accept; handshake, or say why not
//!                 read ONE WHOLE request (http1.rs)
//!                 hand it over (relay.rs)  ---- loopback --->  tiny_http, match on method and path
//!                                                              tasks.rs | download.rs | report.rs
//!        <======= send the answer, a file from disk  <-------  reply.rs (bodies, both ways: handover.rs)
//!                 tell it: console and journal (journal.rs)
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
//! It speaks to the proxy alone. Its own TLS is a version of rustls that seven bytes can keep busy for ever
//! (RUSTSEC-2024-0336); it reserves as much memory as a Content-Length claims, drops connections without a word, and
//! lets a client that stalls hold up all others. None of that can be reached through the proxy, which passes on only
//! whole, well-formed requests of limited size.
//!
//! # Other users of the machine
//!
//! They can connect to the server's port and send requests, as everybody who reaches it can; nobody is asked for a
//! password. They cannot reach the loop: its own listener, under a name or port that nobody knows, is closed as soon as
//! the proxy has its connection, within a millisecond or so. Somebody who finds it in that moment could end the program
//! or ask the loop for answers, but never gets at requests or answers of others.
//!
//! # It keeps nothing unless told to
//!
//! A body over 1 MiB waits in a temporary file that the system removes. Only --record writes anything that stays.
//!
//! # Where to read on
//!
//! `run` below; then options, data, server, tasks, download, report with parts, reply; then what carries them: proxy,
//! link, http1, relay with handover, listen, certificate, threads; then what is told: journal, record, console, words.

mod certificate;
mod console;
mod data;
mod download;
mod handover;
mod http1;
mod journal;
mod link;
mod listen;
mod options;
mod parts;
mod proxy;
mod record;
mod relay;
mod reply;
mod report;
mod server;
mod tasks;
mod threads;
mod words;

use console::{Console, Failure};
use data::Data;
use handover::Handover;
use journal::Journal;
use link::Tls;
use options::{HELP, Options, Wish};
use proxy::{Proxy, Traffic};
use record::Record;
use relay::Relay;
use server::Server;
use std::fmt::Display;
use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use time::UtcOffset;

fn main() -> ExitCode {
    let done = match Wish::parse(std::env::args_os().skip(1)) {
        Err(sentence) => {
            console::print_failure(&sentence);
            return ExitCode::from(2);
        }
        Ok(Wish::Help) => {
            console::print_now(HELP);
            Ok(())
        }
        Ok(Wish::Version) => {
            console::print_now(concat!("cleaner-test-server ", env!("CARGO_PKG_VERSION")));
            Ok(())
        }
        Ok(Wish::WriteData(folder)) => data::write_built_in(&folder).map(|told| console::print_now(&told.join("\n"))),
        Ok(Wish::Serve(options)) => run(options),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            console::print_failure(&failure);
            ExitCode::FAILURE
        }
    }
}

/// A server from its start to its end. The order matters: nothing is promised (ready.json, the banner) before it holds.
fn run(options: Options) -> Result<(), Failure> {
    // Before there is a second thread: later the system's time zone cannot be asked for safely. UTC where it fails.
    let time_zone = UtcOffset::current_local_offset().unwrap_or(UtcOffset::UTC);
    let data = Data::open(options.data.clone())?;
    let record = options.record.clone().map(Record::open).transpose()?;
    let security = Security::prepare(&options, record.as_ref())?;
    let listeners = listen::listen(options.host.as_deref(), options.port)?;
    let addresses = addresses(&listeners)?;
    let url = url(options.http, options.host.as_deref(), addresses[0].port());

    let console = Console::open()?;
    let handover = Arc::<Handover>::default();
    let (requests, relay) = Relay::open(Arc::clone(&handover)).map_err(|error| {
        Failure::new(format!("cannot connect within this program: {error}"), "allow it connections to 127.0.0.1")
    })?;
    let proxy = Arc::new(Proxy {
        tls: security.tls,
        url: url.clone(),
        timeout: options.timeout,
        max_upload_bytes: options.max_upload_bytes,
        relay,
        journal: Journal::open(console.clone(), time_zone, record.as_ref().map(Record::journal).transpose()?),
        traffic: Traffic::default(),
    });

    stop_on_signal(&proxy)?;
    if options.exit_on_stdin_close {
        stop_on_stdin_close(&proxy)?;
    }
    console.print(&banner(&url, &addresses, &data, &security.about)?);
    proxy.journal.start(&url);
    for listener in listeners {
        let proxy = Arc::clone(&proxy);
        threads::start("accept", move || proxy.accept_all(&listener))?;
    }
    if let Some(record) = &record {
        record.write_ready(&url, addresses[0].port(), security.ca_path.as_deref())?;
    }
    let reports = record.as_ref().map(Record::reports);
    Server { data, handover, strict: options.strict, reports, url }.serve(requests);

    proxy.journal.stop(proxy.traffic.busy());
    let removed = record.as_ref().map_or(Ok(()), Record::remove_ready);
    if let Err(error) = removed {
        console.print(&format!("warning: cannot remove ready.json: {error}"));
    }
    console.flush();
    Ok(())
}

/// How this run speaks TLS, and what a client needs for it.
struct Security {
    tls: Option<Tls>,
    ca_path: Option<PathBuf>,
    /// For the banner.
    about: String,
}

impl Security {
    fn prepare(options: &Options, record: Option<&Record>) -> Result<Security, Failure> {
        let both = "give both: --cert is the certificate, --key its private key; with --http neither makes sense";
        match (&options.certificate, &options.key) {
            (None, None) if options.http => {
                Ok(Security { tls: None, ca_path: None, about: "none: this is plain HTTP".to_owned() })
            }
            (Some(certificate), Some(key)) if !options.http => {
                let (config, about) = (certificate::load(certificate, key)?, certificate.display().to_string());
                let trust_advice =
                    format!("give it the CA that signed {about}, or switch its verification off for tests");
                Ok(Security { tls: Some(Tls { config, names: Vec::new(), trust_advice }), ca_path: None, about })
            }
            (None, None) => {
                let names = certificate::names(options.host.as_deref());
                let (config, ca_pem) = certificate::make(&names)?;
                let ca_path = record.map(|record| record.write_certificate(&ca_pem)).transpose()?;
                let (about, ca) = match ca_path.as_ref().map(|path| path.display()) {
                    Some(path) => (format!("made for this run; the CA to trust is {path}"), path.to_string()),
                    None => (
                        "made for this run; start with --record DIR to get the CA to trust".to_owned(),
                        "certificate.pem (see --record)".to_owned(),
                    ),
                };
                let trust_advice = format!("give it the CA in {ca}, or switch its verification off for tests");
                Ok(Security { tls: Some(Tls { config, names, trust_advice }), ca_path, about })
            }
            (Some(_), Some(_)) => Err(Failure::new("--http serves without --cert and --key", both)),
            (Some(_), None) => Err(Failure::new("--cert is given without --key", both)),
            (None, Some(_)) => Err(Failure::new("--key is given without --cert", both)),
        }
    }
}

fn addresses(listeners: &[TcpListener]) -> Result<Vec<SocketAddr>, Failure> {
    let addresses: io::Result<Vec<SocketAddr>> = listeners.iter().map(TcpListener::local_addr).collect();
    addresses.map_err(|error| Failure::new(format!("cannot tell the port: {error}"), "name one with --port"))
}

/// What a client on this machine can use: `localhost` where the server listens on it.
fn url(http: bool, host: Option<&str>, port: u16) -> String {
    let scheme = if http { "http" } else { "https" };
    let host = match host.map(|host| (host, host.parse::<IpAddr>())) {
        None => "localhost".to_owned(),
        Some((_, Ok(address))) if address.is_unspecified() => "localhost".to_owned(),
        Some((_, Ok(IpAddr::V6(address)))) => format!("[{address}]"),
        Some((host, _)) => host.to_owned(),
    };
    format!("{scheme}://{host}:{port}")
}

fn banner(url: &str, addresses: &[SocketAddr], data: &Data, certificate: &str) -> Result<String, Failure> {
    let data = data.describe().map_err(|what| Failure::new(what, "mend the data folder"))?.join("\n             ");
    let listening: Vec<String> = addresses.iter().map(ToString::to_string).collect();
    let mut banner = format!(
        "cleaner-test-server {}: for tests of clients, never for production\n\n  \
         GET   {url}/xyz/api/cleaner/tasks\n  \
         GET   {url}/xyz/api/cleaner/tasks/download?id=1\n  \
         POST  {url}/xyz/api/cleaner/tasks/report\n\n\
         Listens on   {}\n\
         Data         {data}\n\
         Certificate  {certificate}\n",
        env!("CARGO_PKG_VERSION"),
        listening.join(" and "),
    );
    if addresses.iter().any(|address| !address.ip().is_loopback()) {
        banner.push_str("Warning      other machines can reach this server, and it asks nobody who they are\n");
    }
    banner.push_str("Stop         Ctrl+C\n");
    Ok(banner)
}

/// Ctrl+C, SIGTERM or SIGHUP.
#[cfg(unix)]
fn stop_on_signal(proxy: &Arc<Proxy>) -> Result<(), Failure> {
    let proxy = Arc::clone(proxy);
    ctrlc::set_handler(move || stop(&proxy)).map_err(|error| unwatched(&error))
}

/// Ctrl+C, Ctrl+Break, or the console window closed.
#[cfg(windows)]
fn stop_on_signal(proxy: &Arc<Proxy>) -> Result<(), Failure> {
    let proxy = Arc::clone(proxy);
    simple_sigh::init().map_err(|error| unwatched(&error))?;
    let handle = move |event| {
        stop(&proxy);
        // Once the window is closed, Windows ends the program as soon as this returns. So it does not return: the end
        // of `main` ends this thread too.
        while matches!(event, simple_sigh::SigType::Term) {
            std::thread::park();
        }
    };
    simple_sigh::register(handle).map_err(|error| unwatched(&error))
}

fn unwatched(error: &dyn Display) -> Failure {
    Failure::new(format!("cannot watch for Ctrl+C: {error}"), "start it from another shell")
}

/// Standard input closes when the program that started this one ends, however it ends.
fn stop_on_stdin_close(proxy: &Arc<Proxy>) -> Result<(), Failure> {
    let proxy = Arc::clone(proxy);
    threads::start("stdin", move || {
        // An error is an end too: nothing can come from there any more.
        io::copy(&mut io::stdin(), &mut io::sink()).ok();
        stop(&proxy);
    })
}

/// Answers on their way are finished, then the loop ends.
fn stop(proxy: &Proxy) {
    proxy.finish();
    proxy.relay.close();
}
