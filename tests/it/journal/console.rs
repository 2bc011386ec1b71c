//! The lines of the console about requests, in the words of their answers.

use std::fs;
use std::io::Read;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::Stdio;
use std::thread;
use std::time::Instant;

use serde_json::Value;

use crate::api::report::{MULTIPART, form, text_part};
use crate::connection::Connection;
#[cfg(unix)]
use crate::support::is_skipped_under_wine;
use crate::support::{LIMIT, REPORT, Server, TASKS, WITH_AND_WITHOUT_TLS, columns, command, program, text};

#[test]
fn the_console_lists_the_parts_of_a_report() {
    let server = Server::start(&[]);

    server.post(REPORT, MULTIPART, &[text_part("id", "1").as_bytes(), &form(b"hello")].concat());

    server.wait_for_line(|line| {
        line == "    part file: \"report.zip\", application/zip, 5 bytes, sha256 2cf24dba5fb0..."
    });
    server.wait_for_line(|line| line == "    part id = \"1\"");
}

#[test]
fn the_console_shows_a_request_with_its_status_and_size() {
    let server = Server::start(&[]);

    server.get("/xyz/api/cleaner/tasks?from=console");

    let logged = server.wait_for_request("GET", "/xyz/api/cleaner/tasks?from=console");
    assert_eq!(logged.status, 200);
    assert_eq!(logged.size, "128 bytes");
    assert_eq!(logged.sentence, None);
}

#[test]
fn the_console_says_of_an_error_what_the_answer_says() {
    for arguments in WITH_AND_WITHOUT_TLS {
        let server = Server::start(arguments);
        for (method, target, status) in [
            ("GET", "/xyz/api/cleaner/nothing", 404),
            ("DELETE", TASKS, 405),
            ("TRACE", TASKS, 405),
            ("CONNECT", TASKS, 405),
            ("CONNECT", "production.example:443", 404),
        ] {
            let response = server.request(method, target, &[]);

            let sentence = response.assert_error(status);
            if status == 405 {
                assert!(sentence.contains(method), "{sentence}");
                assert!(response.allowed_methods().contains(&"GET"), "{method} {target}");
            }
            let logged = server.wait_for_request(method, target);
            assert_eq!(logged.status, status);
            assert_eq!(logged.sentence, Some(sentence), "{method} {target}");
        }
    }
}

#[test]
fn the_end_loses_no_line_about_a_request() {
    let mut server = Server::start(&[]);
    // In the order of the alphabet: they come on 100 connections, and so are told in any order.
    let targets: Vec<String> = (100..200).map(|i| format!("{TASKS}?i={i}")).collect();
    for target in &targets {
        assert_eq!(server.get(target).status, 200);
    }

    let ended = server.stop();

    let events = ended.stdout.lines().filter(|line| line.starts_with(|first: char| first.is_ascii_digit()));
    let mut logged: Vec<&str> = events.filter_map(|line| columns(line).get(3).copied()).collect();
    logged.sort_unstable();
    assert_eq!(logged, targets);
}

/// As programs of Node and of asyncio make theirs, which is then so for all that have it.
#[cfg(unix)]
#[test]
fn pipes_that_never_wait_lose_nothing_and_end_nothing() {
    use std::os::fd::OwnedFd;
    use std::os::unix::net::UnixStream;
    if is_skipped_under_wine("pipes that never wait") {
        return;
    }
    let record = tempfile::TempDir::new().expect("a folder");
    let [(our_input, input), (mut our_output, output)] = [(); 2].map(|()| UnixStream::pair().expect("a pair"));
    [&input, &output].iter().for_each(|end| end.set_nonblocking(true).expect("a socket can do that"));
    let mut child = command(&program())
        .args(["--http", "--port", "0", "--exit-on-stdin-close", "--record", text(record.path())])
        .stdin(OwnedFd::from(input))
        .stdout(OwnedFd::from(output))
        .spawn()
        .expect("the program can be started");
    let mut connection = Connection::plain(SocketAddr::from((Ipv4Addr::LOCALHOST, port_in(record.path()))));
    let requests = 1_200;
    for _ in 0..requests {
        connection.send("GET /nothing HTTP/1.1\r\nHost: localhost\r\n\r\n");
        assert_eq!(connection.read_response(false).status, 404);
    }

    drop(our_input);
    let mut said = String::new();
    our_output.read_to_string(&mut said).expect("text");

    assert_eq!(child.wait().expect("an end").code(), Some(0));
    assert_eq!(said.lines().filter(|line| line.contains("  404  ")).count(), requests);
    assert!(said.contains("What the client did:") && !said.contains("lost here"), "{said}");
}

/// Of a server that starts or has started.
fn port_in(record: &Path) -> u16 {
    let ready = record.join("ready.json");
    let deadline = Instant::now() + LIMIT;
    while !ready.exists() {
        assert!(Instant::now() < deadline, "not ready");
        thread::yield_now();
    }
    let ready: Value = serde_json::from_slice(&fs::read(&ready).expect("ready.json")).expect("JSON");
    ready["port"].as_u64().expect("a port") as u16
}

/// A pipe that nobody reads, or a Windows console that a mouse selection has frozen.
#[test]
fn output_that_nobody_reads_holds_nothing_up_and_what_is_lost_is_counted() {
    let record = tempfile::TempDir::new().expect("a folder");
    let arguments = ["--http", "--port", "0", "--exit-on-stdin-close", "--record", text(record.path())];
    let mut child = command(&program())
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the program can be started");
    let mut connection = Connection::plain(SocketAddr::from((Ipv4Addr::LOCALHOST, port_in(record.path()))));
    let path = "/x".repeat(40);
    let requests = 8_000;
    for _ in 0..requests / 50 {
        connection.send(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n").repeat(50));
        for _ in 0..50 {
            assert_eq!(connection.read_response(false).status, 404);
        }
    }

    drop(child.stdin.take());
    let mut said = String::new();
    child.stdout.take().expect("a pipe").read_to_string(&mut said).expect("text");

    assert_eq!(child.wait().expect("an end").code(), Some(0));
    let is_told =
        |line: &&str| line.contains("  404  ") || line.starts_with("    error: ") || line.starts_with("    expected: ");
    let told = said.lines().filter(is_told).count();
    let lost: usize = said
        .lines()
        .filter_map(|line| line.strip_prefix('(')?.strip_suffix(" lost here: what reads this output was too slow)"))
        .map(|lost| lost.split(' ').next().expect("a number").replace(',', "").parse::<usize>().expect("a number"))
        .sum();
    assert!(told > 100 && lost > 100, "{told} lines told, {lost} lost");
    // The checklist and the verdict may be lost too.
    let lines = 3 * requests;
    assert!((lines..lines + 14).contains(&(told + lost)), "{told} lines told, {lost} lost");
}
