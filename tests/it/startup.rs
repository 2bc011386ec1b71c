//! Starting and stopping: what the program says when it cannot start, and what it leaves behind.

use std::fs;
use std::io::ErrorKind;
#[cfg(unix)]
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::process::{self, Command};
use std::sync::atomic::{AtomicU32, Ordering};

use tempfile::TempDir;

use crate::foreign::is_installed;
use crate::process::Process;
#[cfg(unix)]
use crate::support::command;
use crate::support::{
    Finished, Server, TASKS, data_folder, is_skipped_under_wine, is_under_wine, loopback_addresses, program, run, text,
};

#[test]
fn ready_json_says_where_the_server_is_and_whom_to_trust() {
    let server = Server::start(&[]);

    let port = server.port();
    assert_ne!(port, 0);
    let certificate = server.record.path().join("certificate.pem");
    // Wine has process numbers of its own.
    let pid = if is_under_wine() { server.ready["pid"].clone() } else { server.process_id().into() };
    let expected = serde_json::json!({
        "url": format!("https://localhost:{port}"),
        "port": port,
        "pid": pid,
        "certificate": text(&certificate),
    });
    assert_eq!(server.ready, expected);
}

#[test]
fn ready_json_names_no_certificate_where_there_is_none() {
    let server = Server::start(&["--http"]);

    assert_eq!(server.url(), format!("http://localhost:{}", server.port()));
    assert_eq!(server.ready["certificate"], serde_json::Value::Null);
    assert!(server.ready.as_object().expect("an object").contains_key("certificate"));
    assert!(!server.record.path().join("certificate.pem").exists());
}

#[test]
fn a_missing_record_folder_is_made() {
    let parent = TempDir::new().expect("a folder");
    let record = parent.path().join("a").join("b");
    let (_listener, port) = taken(Ipv4Addr::LOCALHOST.into());

    // The port is taken, so that the program ends by itself.
    run(&["--record", text(&record), "--port", &port]);

    assert!(record.is_dir());
}

#[test]
fn a_stale_ready_json_is_gone_before_the_port_is_tried() {
    let record = TempDir::new().expect("a folder");
    let ready = record.path().join("ready.json");
    fs::write(&ready, "{\"pid\": 1}").expect("the stale file");
    fs::write(record.path().join(".cleaner-test-server.lock"), "").expect("what a run leaves too");
    let (_listener, port) = taken(Ipv4Addr::LOCALHOST.into());

    let refused = run(&["--record", text(record.path()), "--port", &port]);

    assert_eq!(refused.code, Some(1));
    assert!(!ready.exists());
}

#[test]
fn data_that_lack_something_are_warned_about() {
    let data = data_folder();
    fs::rename(data.path().join("1797242037.zip"), data.path().join("1.zip")).expect("another name");
    for (tasks, warning) in [
        ("{\"tasks\": [{\"id\": 1}, {\"id\": 2}]}", "warning: there is no file to download for task 2"),
        ("{\"tasks\": [{\"id\": 1}, {\"name\": \"a\"}]}", "in which each has an \"id\": ids are not checked"),
    ] {
        fs::write(data.path().join("tasks.json"), tasks).expect("tasks");
        // Without ids no file is for one task alone.
        let server = Server::start(&["--data", text(data.path())]);
        server.wait_for_line(|line| line.contains(warning));
    }
}

/// `--record .` where the user's own files are.
#[test]
fn files_that_no_run_has_written_stop_the_start_and_stay() {
    for name in ["ready.json", "certificate.pem", "truststore.jks", "journal.jsonl"] {
        let record = TempDir::new().expect("a folder");
        fs::write(record.path().join(name), "my own").expect("a file");

        let refused = run(&["--record", text(record.path()), "--port", "0", "--http"]);

        let (what, remedy) = failure(&refused);
        assert!(what.contains(&format!("holds a {name}, but no .cleaner-test-server.lock: it is no record")), "{what}");
        assert!(remedy.contains("--record"), "{remedy}");
        assert_eq!(fs::read_to_string(record.path().join(name)).expect("the file"), "my own");
        assert_eq!(fs::read_dir(record.path()).expect("a folder").count(), 1, "{name}");
    }
}

#[cfg(unix)]
#[test]
fn a_key_may_come_from_a_pipe() {
    if is_skipped_under_wine("/dev/stdin") {
        return;
    }
    let folder = TempDir::new().expect("a folder");
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
    let certificate = folder.path().join("c.pem");
    fs::write(&certificate, made.cert.pem()).expect("a file");
    let mut under = command(&program());
    under.args(["--port", "0", "--cert", text(&certificate), "--key", "/dev/stdin", "--", "true"]);
    let mut process = Process::spawn(&mut under);
    let mut input = process.child.stdin.take().expect("a pipe");
    input.write_all(made.signing_key.serialize_pem().as_bytes()).expect("a key");
    drop(input);

    let finished = process.finish();

    assert_eq!(finished.code, Some(3), "{}", finished.stderr);
}

#[test]
fn the_banner_has_the_full_urls_and_what_to_trust() {
    let server = Server::start(&[]);
    for path in ["/tasks", "/tasks/download", "/tasks/report"] {
        let url = format!("{}/xyz/api/cleaner{path}", server.url());
        server.wait_for_line(|line| line.contains(&url));
    }
    let certificate = server.ready["certificate"].as_str().expect("a path");
    server.wait_for_line(|line| line.contains(certificate));
    server.wait_for_line(|line| line.contains("Ctrl+C"));
}

#[test]
fn a_host_is_listened_on_alone_and_warned_about_beyond_loopback() {
    let server = Server::start(&["--host", "127.0.0.1"]);
    assert_eq!(server.get(TASKS).status, 200);
    for address in loopback_addresses().into_iter().filter(IpAddr::is_ipv6) {
        let refused = TcpStream::connect((address, server.port()));
        let error = refused.expect_err("nobody listens there").kind();
        assert_eq!(error, ErrorKind::ConnectionRefused, "{address}");
    }

    let server = Server::start(&["--host", "0.0.0.0"]);
    assert_eq!(server.get(TASKS).status, 200);
    server.wait_for_line(|line| line.starts_with("Warning") && line.contains("other machines"));
    if loopback_addresses().iter().any(IpAddr::is_ipv6) {
        for host in ["::", "[::]", "::1", "[::1]"] {
            let server = Server::start(&["--host", host]);
            assert_eq!(server.url(), format!("https://[::1]:{}", server.port()), "{host}");
            // Its certificate is for that address.
            let mut connection = server.connect_to(Ipv6Addr::LOCALHOST.into(), "::1");
            connection.send(format!("GET {TASKS} HTTP/1.1\r\nHost: localhost\r\n\r\n"));
            assert_eq!(connection.read_response(false).status, 200, "{host}");
        }
    }
}

#[test]
fn a_taken_port_is_named_and_another_one_offered() {
    for address in loopback_addresses() {
        let (listener, port) = taken(address);

        let refused = run(&["--port", &port]);

        let (what, remedy) = failure(&refused);
        let taken = listener.local_addr().expect("an address").to_string();
        assert_eq!(what, format!("cannot listen on {taken}: another program uses the port"));
        let (_, offered) = remedy.split_once("--port ").expect("an offer");
        assert_ne!(offered, port, "{remedy}");
        let free: u16 = offered.parse().expect("the offer ends with a port");
        assert!(free > 0);
    }
}

#[test]
fn broken_data_stop_the_start_with_file_line_and_column() {
    let folder = data_folder();
    for name in ["report-2.json", "report.json", "tasks.json"] {
        let file = folder.path().join(name);
        fs::write(&file, "{\n  \"a\": [,]\n}\n").expect("the broken file");

        let refused = run(&["--data", text(folder.path()), "--port", "0"]);

        let (what, remedy) = failure(&refused);
        assert!(what.contains(&format!("{} is not JSON: line 2, column 9", text(&file))), "{what}");
        assert!(remedy.contains("--write-data"), "{remedy}");
    }
}

#[test]
fn a_certificate_without_its_key_is_wrong_usage() {
    for (given, missing) in [("--cert", "--key"), ("--key", "--cert")] {
        let refused = run(&[given, "file.pem", "--port", "0"]);
        assert_eq!(refused.code, Some(2), "{}", refused.stderr);
        assert!(refused.stderr.starts_with(&format!("{given} is given without {missing}\n")), "{}", refused.stderr);
    }
}

#[test]
fn what_stops_the_start_is_named() {
    let folder = TempDir::new().expect("a folder");
    let write = |name: &str, content: &str| {
        let file = folder.path().join(name);
        fs::write(&file, content).expect("a file");
        text(&file).to_owned()
    };
    let [one, other] =
        [(); 2].map(|()| rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate"));
    let certificate = write("certificate.pem", &one.cert.pem());
    let key = write("key.pem", &one.signing_key.serialize_pem());
    let other_key = write("other-key.pem", &other.signing_key.serialize_pem());
    let damaged = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    let [empty, no_pem, damaged] =
        [("empty", ""), ("no PEM", "no PEM"), ("damaged", damaged)].map(|(n, c)| write(n, c));
    let missing = text(&folder.path().join("missing")).to_owned();
    // Permissions do not stop root; a file in the place of a folder stops everybody.
    let within_a_file = text(&folder.path().join("empty").join("record")).to_owned();
    for (arguments, named) in [
        (&["--host", "192.0.2.1"][..], &["192.0.2.1"][..]),
        (&["--host", "no.such.host.invalid"], &["no.such.host.invalid"]),
        (&["--data", &missing], &[&missing]),
        (&["--cert", &certificate, "--key", &other_key], &["pem"]),
        (&["--cert", &empty, "--key", &key], &[&empty]),
        (&["--cert", &no_pem, "--key", &key], &[&no_pem]),
        (&["--cert", &damaged, "--key", &key], &[&damaged]),
        (&["--record", &empty], &[&empty]),
        (&["--record", &within_a_file], &[&within_a_file]),
    ] {
        let refused = run(&[arguments, &["--port", "0"]].concat());

        let (what, remedy) = failure(&refused);
        for word in named {
            assert!(what.contains(word), "{word} in: {what}\n{remedy}");
        }
    }
}

#[cfg(unix)]
#[test]
fn a_start_with_few_descriptors_or_threads_works_or_says_why_not() {
    if is_skipped_under_wine("the shell's limit, which does not reach wine's own server, where the descriptors are") {
        return;
    }
    let (mut refused, mut limits) =
        (0, (5..40).map(|descriptors| format!("ulimit -n {descriptors}")).collect::<Vec<_>>());
    if cfg!(target_os = "linux") {
        // Every thread wants two MB or more of it.
        limits.extend((16..48).step_by(2).map(|megabytes| format!("ulimit -v {megabytes}000")));
    }
    for limit in &limits {
        let mut shell = Command::new("sh");
        shell.args(["-c", &format!("{limit}; exec \"$@\""), "sh"]).arg(program());
        let mut process = Process::spawn(shell.args(["--port", "0", "--exit-on-stdin-close"]));
        drop(process.child.stdin.take());
        let finished = process.finish();
        if finished.code != Some(0) {
            failure(&finished);
            refused += 1;
        }
    }
    assert!((1..limits.len()).contains(&refused), "{refused} of {limits:?}");
}

#[cfg(target_os = "linux")]
#[test]
fn a_clock_before_1970_stops_the_start() {
    let needed_by = "the test of a wrong clock";
    if is_skipped_under_wine("the clock") || !is_installed("faketime", &["1960-01-01 00:00:00", "true"], needed_by) {
        return;
    }
    let mut command = Command::new("faketime");
    let finished = Process::spawn(command.arg("1960-01-01 00:00:00").arg(program()).args(["--port", "0"])).finish();
    assert_eq!(failure(&finished).0, "the clock of this machine is before 1970");
}

/// What every failed start is: exit code 1, and two lines: what failed, and what to do.
#[track_caller]
fn failure(finished: &Finished) -> (String, String) {
    assert_eq!(finished.code, Some(1), "{}", finished.stderr);
    let lines: Vec<&str> = finished.stderr.lines().collect();
    let [what, remedy] = lines.as_slice() else {
        panic!("not two lines:\n{}", finished.stderr);
    };
    assert!(!what.is_empty() && !remedy.is_empty(), "{}", finished.stderr);
    (what.to_string(), remedy.to_string())
}

/// A port that another program, this one, uses for as long as the listener lives.
///
/// It lies below those that systems choose themselves: one of these could meanwhile be given to another test on the
/// address that is to stay free.
fn taken(address: IpAddr) -> (TcpListener, String) {
    static CALLS: AtomicU32 = AtomicU32::new(0);
    let call = CALLS.fetch_add(1, Ordering::Relaxed);
    let first = 10_000 + (process::id() + call) % 1000 * 20;
    let ports = (first..first + 20).filter_map(|port| u16::try_from(port).ok());
    let mut listeners = ports.filter_map(|port| TcpListener::bind(SocketAddr::new(address, port)).ok());
    let listener = listeners.next().expect("one of twenty ports is free");
    let port = listener.local_addr().expect("an address").port();
    (listener, port.to_string())
}
