//! What ends the program, how soon, and what does not end it.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
#[cfg(unix)]
use std::process::Command;
use std::thread;
use std::time::Instant;

use serde_json::Value;

use crate::connection::Connection;
use crate::support::{LIMIT, REPORT, Server, is_under_wine};
#[cfg(unix)]
use crate::support::{TASKS, is_skipped_under_wine, start_limited};

/// Of this report a debug build is not done for a long time after the stop; another may be.
#[test]
fn it_stops_though_a_report_is_being_taken_apart() {
    let mut server = Server::start(&["--http"]);
    let connection = send_large_report(&server);

    let finished = server.stop();

    assert_eq!(finished.code, Some(0));
    let unfinished = "\n  not counted: 1 request still on the way at the end\n";
    let journal = server.journal();
    let is_told = journal.iter().any(|event| event["event"] == "request");
    assert_eq!(finished.stdout.contains(unfinished), !is_told, "{}", finished.stdout);
    assert!(!is_told || !cfg!(debug_assertions) || is_under_wine(), "the stop waited for the handler");
    assert_eq!(journal.last().expect("an event")["event"], "stop");
    assert_eq!(kept(&server), 0, "something is left");
    assert!(!server.record.path().join("ready.json").exists());
    drop(connection);
}

#[cfg(unix)]
#[test]
fn a_second_ctrl_c_ends_it_at_once() {
    if is_skipped_under_wine("Ctrl+C twice, which wine's launcher takes for itself") || !cfg!(debug_assertions) {
        return;
    }
    let mut server = Server::start(&["--http"]);
    let connection = send_large_report(&server);

    let finished = server.interrupt_again_and_again();

    assert_eq!(finished.code, None, "{}", finished.stdout);
    assert!(!finished.stdout.contains("What the client did"), "{}", finished.stdout);
    drop(connection);
}

#[cfg(unix)]
#[test]
fn a_hangup_ends_it_with_the_checklist_but_not_under_nohup() {
    if is_skipped_under_wine("SIGHUP, which Windows does not have") {
        return;
    }
    // Where the tests themselves run under nohup, only the second half can be tried.
    let tried = Command::new("sh").args(["-c", "trap 'exit 1' HUP; kill -HUP $$"]).status();
    if !tried.expect("a shell").success() {
        let mut server = Server::start(&[]);
        server.signal("HUP");
        let finished = server.wait_for_end();
        assert_eq!(finished.code, Some(0));
        assert!(finished.stdout.contains("\nWhat the client did:\n"), "{}", finished.stdout);
    }
    let mut server = start_limited("trap '' HUP", &[]);
    server.signal("HUP");
    assert_eq!(server.get(TASKS).status, 200);
    assert_eq!(server.terminate().code, Some(0));
}

/// The server has ended its side of the connection and waits for the client's, before it writes down why.
#[test]
fn what_a_client_has_seen_is_told_before_the_end() {
    let mut server = Server::start(&[]);
    let mut stream = TcpStream::connect(server.address()).expect("the server listens");
    stream.write_all(b"\x16\x03\x01\x00\x04\x05\x00\x00\x00").expect("the server reads");
    stream.read_to_end(&mut Vec::new()).expect("an end in order");

    server.stop();

    let is_told = |event: &Value| event["event"] == "connection" && event["error"].is_string();
    assert!(server.journal().iter().any(is_told), "{:?}", server.journal());
    drop(stream);
}

/// In a container standard input is often closed from the start.
#[test]
fn it_says_that_standard_input_ended_it() {
    let finished = Server::start(&[]).stop();
    let said = finished.stdout.matches("  stops, since standard input is closed (--exit-on-stdin-close)\n").count();
    assert_eq!(said, 1, "{}", finished.stdout);
}

/// All but the end of a report, so large that it takes a debug build some seconds, which the loop has begun to read.
fn send_large_report(server: &Server) -> Connection {
    let head = "--frontier\r\nContent-Disposition: form-data; name=\"f\"; filename=\"a.zip\"\r\n\r\n";
    let length = 200_000_000;
    let mut connection = server.connect();
    connection.send(format!(
        "POST {REPORT} HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data; boundary=frontier\r\n\
         Content-Length: {}\r\n\r\n{head}",
        head.len() + length
    ));
    // Slow for `multipart` whatever its boundary: it skips bytes by their low six bits, and these are those of a dash.
    let piece = vec![b'm'; 1_000_000];
    (0..length / piece.len()).for_each(|_| connection.send(&piece));
    let deadline = Instant::now() + LIMIT;
    while kept(server) == 0 {
        assert!(Instant::now() < deadline, "the report was not begun");
        thread::yield_now();
    }
    connection
}

/// Files of reports, whole or not.
fn kept(server: &Server) -> usize {
    fs::read_dir(server.record.path().join("reports")).expect("a folder").count()
}
