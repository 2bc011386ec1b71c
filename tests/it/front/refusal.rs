//! What holds for every refusal: one answer with a sentence, the same on the console, and the next client served.

use std::io::{self, ErrorKind, Read};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::connection::Connection;
use crate::support::{LIMIT, Server, TASKS, WITH_AND_WITHOUT_TLS, columns};

pub type Row<'a> = (&'a str, String, u16, &'a [&'a str]);

/// Each row is what is sent, the status of the answer, and the words in its sentence.
#[track_caller]
pub fn assert_refused_with_and_without_tls(rows: &[Row]) {
    for arguments in WITH_AND_WITHOUT_TLS {
        let server = Server::start(&[arguments, &["--max-upload", "20K"]].concat());
        for (what, sent, status, words) in rows {
            let mut connection = server.connect();
            connection.send(sent);

            assert_refusal(&server, connection, what, *status, words);
        }
        #[cfg(target_os = "linux")]
        assert!(server.peak_memory_kib() < 64 * 1024, "{} KiB", server.peak_memory_kib());
    }
}

/// An answer with a sentence that has these words, which the console repeats once; and the next client is served.
#[track_caller]
pub fn assert_refusal(server: &Server, connection: Connection, what: &str, status: u16, words: &[&str]) {
    let sentence = assert_last_answer(connection, what, status, words);
    server.wait_for_line(|line| line.ends_with(&sentence));
    let console = next_client(server);
    let told = console.iter().filter(|line| line.ends_with(&sentence)).count();
    assert_eq!(told, 1, "{what}: {sentence}\nis not once in\n{}", console.join("\n"));
}

/// One answer with a sentence that has these words, and then the end. Returns the sentence.
#[track_caller]
pub fn assert_last_answer(mut connection: Connection, what: &str, status: u16, words: &[&str]) -> String {
    let response = connection.read_response(false);
    assert_eq!(response.status, status, "{what}: {}", response.body.escape_ascii());
    let sentence = response.assert_error(status);
    for word in words {
        assert!(sentence.contains(word), "{what}: no {word:?} in: {sentence}");
    }
    assert_eq!(response.header("Connection"), Some("close"), "{what}");
    connection.assert_closed();
    sentence
}

/// The next client is served. Returns what the console has said since the last time.
#[track_caller]
pub fn next_client(server: &Server) -> Vec<String> {
    static CLIENTS: AtomicUsize = AtomicUsize::new(1);
    let target = format!("{TASKS}?client={}", CLIENTS.fetch_add(1, Ordering::Relaxed));
    assert_eq!(server.get(&target).status, 200, "the next client");
    // The journal comes behind the console.
    server.wait_for_event_where(|event| event["target"] == target);
    server.take_lines_through(|line| columns(line).get(1..4) == Some(&["200", "GET", &target]))
}

/// What is told about the connection of this client; the console does not say the same again and again.
#[track_caller]
pub fn wait_for_word_about(server: &Server, client: SocketAddr) -> String {
    let told = server.wait_for_event_where(|event| event["client"] == client.to_string());
    told["error"].as_str().or(told["note"].as_str()).expect("a sentence").to_owned()
}

pub fn open(server: &Server) -> TcpStream {
    let stream = TcpStream::connect(server.address()).expect("the server listens");
    stream.set_read_timeout(Some(LIMIT)).expect("the limit is not zero");
    stream
}

/// All that comes until the server closes, with or without a reset.
#[track_caller]
pub fn read_to_the_end(stream: &mut TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    let end = stream.read_to_end(&mut bytes);
    assert!(end.as_ref().is_ok() || end.as_ref().is_err_and(is_gone), "not closed: {end:?}");
    bytes
}

pub fn is_gone(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::ConnectionAborted | ErrorKind::BrokenPipe)
}
