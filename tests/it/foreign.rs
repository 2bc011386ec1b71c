//! Clients of other makes, written as their developers write them: each verifies the certificate, trusting by its
//! environment alone, lists the tasks, downloads the tool and uploads two reports. README shows them as examples.
//!
//! `CLEANER_TEST_PYTHON` names a Python that has `requests` and `pytest`. Where a client's tools are not
//! installed, its tests are skipped; with `CI` in the environment they fail.

use std::env;
use std::ffi::OsStr;
use std::fs;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::process::{Finished, Process, command, is_skipped_under_wine, is_under_wine, program};
use crate::support::{DOWNLOAD, REPORT, Server, TASKS, built_in, journal_in, program_alone, sha256, text};

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
    if is_skipped_under_wine("a native Java, which a program of Windows cannot start with a truststore") {
        return;
    }
    does_the_three_steps(java());
}

#[test]
fn java_with_the_wrong_certificate_is_told_about_trust() {
    is_told_about_trust(java());
}

#[test]
fn curl_refuses_each_wrong_certificate() {
    refuses_each_wrong_certificate(curl());
}

#[test]
fn python_requests_refuses_each_wrong_certificate() {
    refuses_each_wrong_certificate(python_requests());
}

#[test]
fn node_refuses_each_wrong_certificate() {
    refuses_each_wrong_certificate(node());
}

#[test]
fn java_refuses_each_wrong_certificate() {
    refuses_each_wrong_certificate(java());
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

/// For a client behind `--`. `None` where there is none with TLS, or where a program of Windows would have to start it.
pub fn client_python() -> Option<String> {
    if is_skipped_under_wine("Python, which a program of Windows cannot start") {
        return None;
    }
    Some(python()).filter(|python| is_installed(python, &["-c", "import ssl"], "a client"))
}

/// Neither the server nor the client is started in the repository, and the executable is alone in its folder.
fn does_the_three_steps(client: Option<Client>) {
    let Some(client) = client else { return };
    let (_home, executable) = program_alone();
    let folder = TempDir::new().expect("a folder to work in");
    let reports = [("small.zip", report(204_800)), ("large.zip", report(20_971_520))];
    for (name, content) in &reports {
        fs::write(folder.path().join(name), content).expect("a report");
    }
    let record = folder.path().join("record");

    let (finished, journal) = if is_under_wine() {
        let server = Server::launch(command(&executable).current_dir(folder.path()));
        let finished = client.run_by_itself(&server, Some(server.record.path()), folder.path());
        // A start and four requests; the last is told after its client has ended.
        server.wait_for_event(4);
        (finished, server.journal())
    } else {
        let mut under = command(&executable);
        under.current_dir(folder.path()).args(["--strict", "--port", "0", "--record"]).arg(&record).arg("--");
        under.args(client.words()).env("no_proxy", "localhost");
        (Process::spawn(&mut under).finish(), journal_in(&record))
    };

    assert_eq!(finished.code, Some(0), "{}", finished.stderr);
    assert_eq!(finished.stdout, "ok\n");
    let tool = fs::read(folder.path().join("tool.zip")).expect("the tool is saved");
    assert!(tool == built_in("1797242037.zip"), "the tool arrives changed");
    let mut requests: Vec<&Value> = journal.iter().filter(|event| event["event"] == "request").collect();
    // Those of several connections are told in another order than they came.
    requests.sort_by_key(|event| event["request"].as_u64());
    let told: Vec<(&Value, &Value)> =
        requests.iter().map(|event| (&event["target"], &event["parts"][0]["sha256"])).collect();
    let [small, large] = reports.map(|(_, content)| json!(sha256(&content)));
    let (tasks, download) = (json!(TASKS), json!(format!("{DOWNLOAD}?id=1")));
    let (report, nothing) = (json!(format!("{REPORT}?id=1")), Value::Null);
    assert_eq!(told, [(&tasks, &nothing), (&download, &nothing), (&report, &small), (&report, &large)]);
}

/// A client is given no certificate, then those of an earlier run, which is as easily done.
fn is_told_about_trust(client: Option<Client>) {
    let Some(client) = client else { return };
    let earlier = TempDir::new().expect("a folder for a record");
    let executable = program();
    let mut run = command(&executable);
    run.args(["--port", "0", "--record", text(earlier.path()), "--"]).arg(&executable).arg("--version");
    assert_eq!(Process::spawn(&mut run).finish().code, Some(3));
    for certificates in [None, Some(earlier.path())] {
        let server = Server::start(&[]);
        let folder = TempDir::new().expect("a folder to work in");

        let finished = client.run_by_itself(&server, certificates, folder.path());

        assert_eq!(finished.code, Some(1), "{}", finished.stderr);
        assert!(finished.stderr.to_lowercase().contains("cert"), "{}", finished.stderr);
        server.wait_for_line(|line| {
            let peer = line.split("  ").nth(1).unwrap_or_default();
            peer.parse::<SocketAddr>().is_ok() && line.contains("trust")
        });
    }
}

/// Although it is given the CA: what is wrong, `--fault` says.
fn refuses_each_wrong_certificate(client: Option<Client>) {
    let Some(client) = client else { return };
    if is_skipped_under_wine("a native client, which a program of Windows cannot start") {
        return;
    }
    for fault in ["expired", "wrong-host", "untrusted-root"] {
        let folder = TempDir::new().expect("a folder to work in");
        let mut under = command(&program());
        under.current_dir(folder.path()).args(["--port", "0", "--fault", fault, "--"]);

        let finished = Process::spawn(under.args(client.words()).env("no_proxy", "localhost")).finish();

        assert_eq!((finished.code, finished.stdout.as_str()), (Some(0), ""), "{fault}: {}", finished.stderr);
        let last = finished.stderr.lines().last().unwrap_or_default();
        assert!(last.starts_with("ready: the client refused a"), "{fault}: {last}");
        assert!(finished.stderr.contains(&format!(": it is wrong on purpose (--fault {fault})\n")));
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

    fn words(&self) -> Vec<&OsStr> {
        let options = self.options.iter().map(OsStr::new);
        let files = ["tool.zip", "small.zip", "large.zip"].map(OsStr::new);
        [self.interpreter.as_ref()].into_iter().chain(options).chain([self.script.as_ref()]).chain(files).collect()
    }

    /// Runs the client beside a server, in this folder, and with what `-- COMMAND` would set in its environment.
    fn run_by_itself(&self, server: &Server, certificates: Option<&Path>, folder: &Path) -> Finished {
        let words = self.words();
        let mut client = Command::new(words[0]);
        client.args(&words[1..]).current_dir(folder).env("no_proxy", "localhost").env("CLEANER_URL", server.url());
        for name in ["SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "NODE_EXTRA_CA_CERTS"] {
            match certificates {
                Some(folder) => client.env(name, folder.join("certificate.pem")),
                None => client.env_remove(name),
            };
        }
        if let Some(folder) = certificates {
            let store = folder.join("truststore.jks");
            client.env("JAVA_TOOL_OPTIONS", format!("-Djavax.net.ssl.trustStore={}", store.display()));
        }
        Process::spawn(&mut client).finish()
    }
}

/// A report of this size: bytes of every kind, the same in each run.
fn report(size: u32) -> Vec<u8> {
    let scattered = (0..size).map(|index| index.wrapping_mul(2_654_435_761));
    scattered.map(|number| number.to_be_bytes()[0]).collect()
}
