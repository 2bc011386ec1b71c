//! Clients of other makes, written as their developers write them: each verifies the certificate,
//! lists the tasks, downloads the tool and uploads two reports. README shows them as examples.
//!
//! `CLEANER_TEST_PYTHON` names a Python that has `requests` and `pytest`. Where a client's tools are not
//! installed, its tests are skipped; with `CI` in the environment they fail.

use std::env;
use std::fs;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use crate::process::{Finished, Process, command};
use crate::support::{DOWNLOAD, REPORT, Server, TASKS, built_in, program_alone, sha256};

#[test]
fn curl_does_the_three_steps() {
    does_the_three_steps(curl());
}

#[test]
fn curl_with_the_wrong_certificate_is_told_about_trust() {
    is_told_about_trust(curl());
}

#[test]
fn python_requests_does_the_three_steps() {
    does_the_three_steps(python_requests());
}

#[test]
fn python_requests_with_the_wrong_certificate_is_told_about_trust() {
    is_told_about_trust(python_requests());
}

/// This client verifies with `VERIFY_X509_STRICT`.
#[test]
fn python_http_client_does_the_three_steps() {
    does_the_three_steps(python_http_client());
}

#[test]
fn python_http_client_with_the_wrong_certificate_is_told_about_trust() {
    is_told_about_trust(python_http_client());
}

#[test]
fn node_does_the_three_steps() {
    does_the_three_steps(node());
}

/// Node sends no alert; it just hangs up.
#[test]
fn node_with_the_wrong_certificate_is_told_about_trust() {
    is_told_about_trust(node());
}

/// Here Node hangs up only after the handshake, which looks to the server like a client that has nothing to ask.
#[test]
fn node_with_the_wrong_certificate_over_tls_1_2_is_told_about_trust() {
    is_told_about_trust(node().map(|node| Client { options: &["--tls-max-v1.2"], ..node }));
}

#[test]
fn java_does_the_three_steps() {
    does_the_three_steps(java());
}

#[test]
fn java_with_the_wrong_certificate_is_told_about_trust() {
    is_told_about_trust(java());
}

fn curl() -> Option<Client> {
    Client::find("sh", &["-c", "curl --version"], "curl.sh")
}

fn python_requests() -> Option<Client> {
    Client::find(&python(), &["-c", "import requests"], "requests_client.py")
}

fn python_http_client() -> Option<Client> {
    Client::find(&python(), &["-c", "import ssl"], "http_client.py")
}

fn node() -> Option<Client> {
    Client::find("node", &["--version"], "node_client.mjs")
}

/// Java runs a source file only where its compiler is installed too.
fn java() -> Option<Client> {
    let probe = ["--describe-module", "jdk.compiler"];
    Client::find("java", &probe, "JavaClient.java")
}

pub fn python() -> String {
    env::var("CLEANER_TEST_PYTHON").unwrap_or_else(|_| "python3".to_owned())
}

/// Neither the server nor the client is started in the repository, and the executable is alone in its folder.
fn does_the_three_steps(client: Option<Client>) {
    let Some(client) = client else { return };
    let (_home, executable) = program_alone();
    let folder = TempDir::new().expect("a folder to work in");
    let server = Server::launch(command(&executable).current_dir(folder.path()));
    let reports =
        [("small.zip", report(204_800), "204,800 bytes"), ("large.zip", report(20_971_520), "20,971,520 bytes")];
    for (name, content, _) in &reports {
        fs::write(folder.path().join(name), content).expect("a report");
    }

    let certificate = server.record.path().join("certificate.pem");
    let finished = client.run(&server, &certificate, folder.path());

    assert_eq!(finished.code, Some(0), "{}", finished.stderr);
    assert_eq!(finished.stdout, "ok\n");
    let tool = fs::read(folder.path().join("tool.zip")).expect("the tool is saved");
    assert!(tool == built_in("1797242037.zip"), "the tool arrives changed");
    assert_eq!(server.wait_for_request("GET", TASKS).status, 200);
    let download = format!("{DOWNLOAD}?id=1");
    assert_eq!(server.wait_for_request("GET", &download).status, 200);
    let upload = format!("{REPORT}?id=1");
    assert_eq!(server.wait_for_request("POST", &upload).status, 200);
    for (name, content, size) in &reports {
        let start = format!("    file  \"{name}\"  ");
        let end = format!("  {size}  sha256 {}", sha256(content));
        server.wait_for_line(|line| line.starts_with(&start) && line.ends_with(&end));
    }
}

/// A client is given no certificate, then the one of an earlier run, which is as easily done.
fn is_told_about_trust(client: Option<Client>) {
    let Some(client) = client else { return };
    let earlier = Server::start(&[]);
    let outdated = earlier.record.path().join("certificate.pem");
    for certificate in [Path::new(""), &outdated] {
        let server = Server::start(&[]);
        let folder = TempDir::new().expect("a folder to work in");

        let finished = client.run(&server, certificate, folder.path());

        assert_eq!(finished.code, Some(1), "{}", finished.stderr);
        assert!(finished.stderr.to_lowercase().contains("cert"), "{}", finished.stderr);
        server.wait_for_line(|line| {
            let peer = line.split("  ").nth(1).unwrap_or_default();
            peer.parse::<SocketAddr>().is_ok() && line.contains("trust")
        });
    }
}

/// Whether the probe works; what needs it is skipped where it does not.
pub fn is_installed(interpreter: &str, probe: &[&str], needed_by: &str) -> bool {
    let probed = Command::new(interpreter).args(probe).output();
    let is_installed = probed.is_ok_and(|output| output.status.success());
    if !is_installed {
        let reason = format!("{needed_by} needs a working `{interpreter} {}`", probe.join(" "));
        assert!(env::var_os("CI").is_none(), "{reason}");
        // Unlike `eprintln!`, this is shown for a test that passes, too.
        writeln!(io::stderr(), "skipped: {reason}").expect("standard error is open");
    }
    is_installed
}

/// A client's script and what runs it.
struct Client {
    interpreter: String,
    options: &'static [&'static str],
    script: PathBuf,
}

impl Client {
    /// `None` where the probe shows that the script cannot run here.
    fn find(interpreter: &str, probe: &[&str], script: &str) -> Option<Client> {
        let scripts = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/clients");
        is_installed(interpreter, probe, script).then(|| Client {
            interpreter: interpreter.to_owned(),
            options: &[],
            script: scripts.join(script),
        })
    }

    /// Runs the client in this folder.
    fn run(&self, server: &Server, certificate: &Path, folder: &Path) -> Finished {
        let mut command = Command::new(&self.interpreter);
        command.current_dir(folder).env("no_proxy", "localhost");
        command.args(self.options).arg(&self.script).arg(server.url()).arg(certificate);
        command.args(["tool.zip", "small.zip", "large.zip"]);
        Process::spawn(&mut command).finish()
    }
}

/// A report of this size: bytes of every kind, the same in each run.
fn report(size: u32) -> Vec<u8> {
    let scattered = (0..size).map(|index| index.wrapping_mul(2_654_435_761));
    scattered.map(|number| number.to_be_bytes()[0]).collect()
}
