//! Whoever does not get on is closed after the timeout: with half a handshake, half a request or half an answer.

#[cfg(target_os = "linux")]
use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::front::refusal::{assert_last_answer, is_gone, next_client, open, read_to_the_end, wait_for_word_about};
use crate::front::tls::{SUITE, TLS_1_2, client_hello};
use crate::support::{
    DOWNLOAD, LIMIT, REPORT, Server, TASKS, WITH_AND_WITHOUT_TLS, folder_with_a_large_download, text,
};

#[test]
fn who_falls_silent_is_closed_after_the_timeout() {
    let timeout = Duration::from_secs(1);
    for arguments in WITH_AND_WITHOUT_TLS {
        let server = Server::start(&[arguments, &["--timeout", "1"]].concat());
        let started = Instant::now();
        let mut silent = open(&server);
        let mut half_head = server.connect();
        half_head.send("GET / HTTP/1.1\r\nHos");
        let mut half_body = server.connect();
        half_body.send(format!("POST {REPORT} HTTP/1.1\r\nHost: a\r\nContent-Length: 20000\r\n\r\n"));
        half_body.send([b'x'; 12_345]);
        let mut half_chunk = server.connect();
        half_chunk.send(format!("POST {REPORT} HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhe"));
        let mut idle = server.connect();
        idle.send(format!("GET {TASKS} HTTP/1.1\r\nHost: a\r\n\r\n"));
        assert_eq!(idle.read_response(false).status, 200);

        let client = silent.local_addr().expect("an address");
        assert_eq!(read_to_the_end(&mut silent), b"", "an answer to nobody");
        let told = wait_for_word_about(&server, client);
        assert!(told.contains("sent nothing in time"), "{told}");
        for (connection, what, word) in [
            (half_head, "half a head", "head"),
            (half_body, "half a body", "12,345 of 20,000 bytes"),
            (half_chunk, "half a chunk", "2 bytes"),
        ] {
            let sentence = assert_last_answer(connection, what, 408, &[word]);
            server.wait_for_line(|line| line.ends_with(&sentence));
        }
        idle.assert_closed();
        assert!(started.elapsed() >= timeout, "closed too early: {:?}", started.elapsed());
    }
}

#[test]
fn half_a_handshake_is_closed_after_the_timeout() {
    let server = Server::start(&["--timeout", "1"]);
    let hello = client_hello(TLS_1_2, &[SUITE], "localhost");
    for (what, sent) in [("one byte", &hello[..1]), ("half a hello", &hello[..40]), ("a hello", &hello)] {
        let mut stream = open(&server);
        let client = stream.local_addr().expect("an address");
        stream.write_all(sent).expect("the server reads");

        read_to_the_end(&mut stream);

        let told = wait_for_word_about(&server, client);
        assert!(told.contains("handshake"), "{what}: {told}");
        next_client(&server);
    }
}

/// Not even a byte now and then holds a connection for longer than twice the timeout, before there is a request.
#[test]
fn a_head_or_handshake_that_comes_in_drops_is_closed_after_the_timeout() {
    let server = Server::start(&["--http", "--timeout", "1"]);
    let (_, answer) = send_in_drops(&server, b"GET / HTTP/1.1\r\nHost: localhost");
    let answer = String::from_utf8(answer).expect("the answer is text");
    assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
    next_client(&server);

    let server = Server::start(&["--timeout", "1"]);
    let (client, answer) = send_in_drops(&server, &client_hello(TLS_1_2, &[SUITE], ""));
    assert_eq!(answer, b"", "half a hello is answered");
    let told = wait_for_word_about(&server, client);
    assert!(told.contains("handshake in time"), "{told}");
    next_client(&server);
}

#[test]
fn a_download_whose_client_stops_reading_ends_after_the_timeout() {
    let folder = folder_with_a_large_download();
    for arguments in WITH_AND_WITHOUT_TLS {
        let server = Server::start(&[arguments, &["--timeout", "2", "--data", text(folder.path())]].concat());
        next_client(&server);
        #[cfg(target_os = "linux")]
        let threads = thread_count(&server);
        let mut connection = server.connect();
        connection.send(format!("GET {DOWNLOAD} HTTP/1.1\r\nHost: a\r\n\r\n"));
        assert!(!connection.has_ended(), "no answer");

        // Two silent clients, one after the other, are the clock: each is closed after the timeout.
        read_to_the_end(&mut open(&server));
        let mut silent = open(&server);
        let second = silent.local_addr().expect("an address");
        read_to_the_end(&mut silent);

        wait_for_word_about(&server, second);
        let download = server.journal().into_iter().find(|event| event["target"] == DOWNLOAD);
        let told = download.expect("an event before two timeouts are over")["error"].to_string();
        assert!(told.contains("stopped reading"), "{told}");
        assert!(told.contains(" of 200,000,000 bytes"), "{told}");
        #[cfg(target_os = "linux")]
        wait_until("its thread has ended", || thread_count(&server) <= threads);
        next_client(&server);
    }
}

/// At 100 ms each they last for three timeouts, so that the server must not take them all.
const DROPS: usize = 30;

/// Sends a byte every 100 ms until the server closes, and returns who did and what came.
#[track_caller]
fn send_in_drops(server: &Server, bytes: &[u8]) -> (SocketAddr, Vec<u8>) {
    let mut stream = open(server);
    stream.set_read_timeout(Some(Duration::from_millis(100))).expect("the limit is not zero");
    let mut answer = Vec::new();
    for byte in &bytes[..DROPS] {
        let sent = stream.write_all(&[*byte]);
        let ended = sent.and_then(|()| stream.read_to_end(&mut answer).map(|_| true)).unwrap_or_else(|error| {
            let waits = matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut);
            assert!(waits || is_gone(&error), "{error}");
            !waits
        });
        if ended {
            return (stream.local_addr().expect("an address"), answer);
        }
    }
    panic!("the server took {DROPS} drops");
}

#[cfg(target_os = "linux")]
fn thread_count(server: &Server) -> usize {
    fs::read_dir(format!("/proc/{}/task", server.process_id())).expect("the process has threads").count()
}

/// For what the system tells only when asked.
#[cfg(target_os = "linux")]
#[track_caller]
fn wait_until(what: &str, is_so: impl Fn() -> bool) {
    let started = Instant::now();
    while !is_so() {
        assert!(started.elapsed() < LIMIT, "not within {LIMIT:?}: {what}");
        std::thread::yield_now();
    }
}
