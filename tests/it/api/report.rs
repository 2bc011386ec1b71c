//! POST /xyz/api/cleaner/tasks/report: whatever the body, it is read whole and the answer is PASSED.

use ring::digest::{Context, SHA256};

use crate::connection::{Connection, Response};
use crate::support::{REPORT, Server, WITH_AND_WITHOUT_TLS};

/// Byte for byte what the Flask script sends.
const FLASKS_ANSWER: &str = r#"{
  "id": 1,
  "name": "vuln scan",
  "status": "PASSED"
}
"#;

#[test]
fn a_report_is_answered_with_the_59_bytes_that_flask_sends() {
    assert_eq!(FLASKS_ANSWER.len(), 59);
    for arguments in WITH_AND_WITHOUT_TLS {
        let server = Server::start(arguments);

        let response = server.post(REPORT, MULTIPART, &form(b"content"));

        assert_passed(&response, "a good report");
    }
}

#[test]
fn every_body_is_passed_as_flask_does() {
    let server = Server::start(&[]);
    let cut_off = &form(b"content")[..120];
    let no_file = b"--frontier\r\nContent-Disposition: form-data; name=\"note\"\r\n\r\nhello\r\n\
        --frontier--\r\n";
    let garbage: Vec<u8> = (0..=255).cycle().take(10_000).collect();
    for (name, content_type, body) in [
        ("a form without a file", MULTIPART, &no_file[..]),
        ("an empty file", MULTIPART, &form(b"")),
        ("an empty body", MULTIPART, b""),
        ("an empty form", MULTIPART, b"--frontier--\r\n"),
        ("a form that breaks off", MULTIPART, cut_off),
        ("garbage in a form", MULTIPART, &garbage),
        ("another boundary", "multipart/form-data; boundary=other", &form(b"x")),
        ("no boundary", "multipart/form-data", &form(b"x")),
        ("an empty boundary", "multipart/form-data; boundary=", &form(b"x")),
        ("JSON", "application/json", b"{\"id\": 1}"),
        ("a text form", "application/x-www-form-urlencoded", b"id=1&name=x"),
        ("raw bytes", "application/octet-stream", &garbage),
        ("a strange type", "a\"b;;=", &garbage),
    ] {
        let response = server.post(&format!("{REPORT}?id=1"), content_type, body);

        assert_passed(&response, name);
    }
    let typeless = server.raw(format!("POST {REPORT} HTTP/1.1\r\nHost: localhost\r\n\r\n"));
    assert_passed(&typeless, "no body at all");
}

#[test]
fn the_console_lists_the_parts_of_a_report() {
    let server = Server::start(&[]);
    let body = format!(
        "--frontier\r\nContent-Disposition: form-data; name=\"id\"\r\n\r\n1\r\n{}",
        String::from_utf8(form(b"hello")).expect("the form is ASCII")
    );

    let response = server.post(REPORT, MULTIPART, body.as_bytes());

    assert_passed(&response, "two parts");
    let file = server.wait_for_line(|line| line.starts_with("    file  "));
    assert_eq!(
        file,
        "    file  \"report.zip\"  application/zip  5 bytes  sha256 \
         2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"
    );
    let text = server.wait_for_line(|line| line.starts_with("    id  "));
    assert!(text.starts_with("    id  \"1\"  "), "{text}");
    assert!(text.contains("  1 byte"), "{text}");
}

#[test]
fn an_upload_of_every_size_arrives_whole_and_needs_little_memory() {
    const MIB: usize = 1024 * 1024;
    let server = Server::start(&[]);
    // The limit between memory and a temporary file lies at 1 MiB of body; the part is smaller.
    let frame = form(b"").len();
    for size in [1, MIB - frame - 1, MIB - frame, MIB - frame + 1, MIB - 1, MIB, MIB + 1, 200 * 1000 * 1000] {
        for framing in [Framing::ContentLength, Framing::Chunked] {
            let mut connection = server.connect();
            let digest = upload(&mut connection, size, framing);

            let response = connection.read_response(false);
            assert_passed(&response, &format!("{size} bytes, {framing:?}"));
            // Each size and framing has content of its own, so the digest finds the line.
            let line = server.wait_for_line(|line| line.ends_with(&digest));
            assert!(line.contains(&format!("  {}  ", bytes(size))), "{line}");
        }
    }
    #[cfg(target_os = "linux")]
    assert!(server.peak_memory_kib() < 30 * 1024, "{} KiB", server.peak_memory_kib());
}

#[test]
fn a_body_that_looks_like_a_request_is_no_request() {
    let server = Server::start(&[]);
    let mut connection = server.connect();
    let request = "GET /xyz/api/cleaner/tasks HTTP/1.1\r\nHost: localhost\r\n\r\n";
    for _ in 0..3 {
        connection.send(format!(
            "POST {REPORT} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n{request}",
            request.len()
        ));

        assert_passed(&connection.read_response(false), "a body that looks like a request");
    }
}

#[test]
fn chunks_of_every_shape_are_put_together() {
    let server = Server::start(&[]);
    for (name, chunks) in [
        ("one chunk", "5\r\nhello\r\n0\r\n\r\n"),
        ("two chunks", "2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n"),
        ("leading zeros", "0005\r\nhello\r\n000\r\n\r\n"),
        ("a chunk extension", "5;a=b;c=\"d\"\r\nhello\r\n0;last\r\n\r\n"),
        ("trailers", "5\r\nhello\r\n0\r\nX-One: 1\r\nX-Two: 2\r\n\r\n"),
        ("nothing", "0\r\n\r\n"),
        ("a hexadecimal size", "A\r\n0123456789\r\nb\r\n0123456789a\r\n0\r\n\r\n"),
    ] {
        let mut connection = server.connect();
        connection.send(format!("{CHUNKED_HEAD}{chunks}"));

        assert_passed(&connection.read_response(false), name);
        connection.send(format!("{CHUNKED_HEAD}0\r\n\r\n"));
        assert_passed(&connection.read_response(false), &format!("the request after {name}"));
    }
}

#[test]
fn wrong_framing_is_refused_with_the_reason() {
    let server = Server::start(&[]);
    for (framing, body, word) in [
        ("Content-Length: -1", "", "Content-Length"),
        ("Content-Length: abc", "", "Content-Length"),
        ("Content-Length: 0x5", "hello", "Content-Length"),
        ("Content-Length: +5", "hello", "Content-Length"),
        ("Content-Length: 5, 5", "hello", "Content-Length"),
        ("Content-Length:", "", "Content-Length"),
        ("Content-Length: 99999999999999999999", "", "Content-Length"),
        ("Content-Length: 5\r\nContent-Length: 6", "hello", "Content-Length"),
        ("Content-Length: 5\r\nTransfer-Encoding: chunked", "5\r\nhello\r\n0\r\n\r\n", "Transfer-Encoding"),
        ("Transfer-Encoding: chunked", "xyz\r\nhello\r\n0\r\n\r\n", "chunk"),
        ("Transfer-Encoding: chunked", "-5\r\nhello\r\n0\r\n\r\n", "chunk"),
        ("Transfer-Encoding: chunked", "\r\nhello\r\n0\r\n\r\n", "chunk"),
        ("Transfer-Encoding: chunked", ";a=b\r\nhello\r\n0\r\n\r\n", "chunk"),
        ("Transfer-Encoding: chunked", "5\r\nhello!\r\n0\r\n\r\n", "chunk"),
        ("Transfer-Encoding: chunked", "fffffffffffffffff\r\nhello", "chunk"),
    ] {
        let mut connection = server.connect();
        connection.send(format!("POST {REPORT} HTTP/1.1\r\nHost: localhost\r\n{framing}\r\n\r\n{body}"));

        let response = connection.read_response(false);
        let row = format!("{framing} {body:?}");
        assert_eq!(response.status, 400, "{row}");
        let sentence = response.assert_error(400);
        assert!(sentence.contains(word), "{row}: {sentence}");
        assert_eq!(response.header("Connection"), Some("close"), "{row}");
        connection.assert_closed();
        // The journal knows what the client was told.
        server.wait_for_line(|line| line.ends_with(&sentence));
    }
    assert_passed(&server.post(REPORT, MULTIPART, &form(b"x")), "the next client");
}

#[test]
fn a_body_that_ends_early_is_400_with_what_arrived_of_what() {
    for arguments in WITH_AND_WITHOUT_TLS {
        let server = Server::start(arguments);
        let mut connection = server.connect();
        connection.send(format!("POST {REPORT} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 20000\r\n\r\n"));
        connection.send([b'x'; 12_345]);
        connection.finish_sending();

        let sentence = connection.read_response(false).assert_error(400);

        assert!(sentence.contains("12,345 of 20,000 bytes"), "{sentence}");
        connection.assert_closed();
    }
}

#[test]
fn a_chunked_body_without_its_last_chunk_is_400() {
    let server = Server::start(&[]);
    let mut connection = server.connect();
    connection.send(format!("{CHUNKED_HEAD}5\r\nhello\r\n"));
    connection.finish_sending();

    connection.read_response(false).assert_error(400);
}

#[test]
fn a_body_that_stalls_is_408_after_the_timeout() {
    let server = Server::start(&["--timeout", "1"]);
    let mut connection = server.connect();
    connection.send(format!("POST {REPORT} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 20000\r\n\r\nhello"));

    let response = connection.read_response(false);

    let sentence = response.assert_error(408);
    assert!(sentence.contains("5 of 20,000 bytes"), "{sentence}");
    assert_eq!(response.header("Connection"), Some("close"));
    connection.assert_closed();
}

#[test]
fn a_body_over_the_limit_is_413_with_both_sizes() {
    let server = Server::start(&["--max-upload", "2K"]);
    let large = "x".repeat(2049);
    for (name, request) in [
        ("declared", format!("{HEAD}Content-Length: 2049\r\n\r\n{large}")),
        ("announced only", format!("{HEAD}Content-Length: 2049\r\nExpect: 100-continue\r\n\r\n")),
        ("in one chunk", format!("{CHUNKED_HEAD}801\r\n{large}\r\n0\r\n\r\n")),
        ("in two chunks", format!("{CHUNKED_HEAD}800\r\n{}\r\n1\r\nx\r\n0\r\n\r\n", &large[1..])),
    ] {
        let sentence = server.raw(request).assert_error(413);

        assert!(sentence.contains("2,048"), "{name}: {sentence}");
    }
    let largest = format!("{HEAD}Content-Length: 2048\r\n\r\n{}", &large[1..]);
    assert_passed(&server.raw(largest), "the largest");
}

#[test]
fn a_client_that_still_sends_can_read_that_it_is_too_much() {
    let server = Server::start(&["--max-upload", "1M"]);
    let mut connection = server.connect();
    connection.send(format!("{HEAD}Content-Length: 4000000\r\n\r\n"));
    connection.send(vec![b'x'; 4_000_000]);

    connection.read_response(false).assert_error(413);
}

#[test]
fn a_client_that_waits_for_100_continue_gets_it_once() {
    let server = Server::start(&[]);
    for (framing, body) in [("Content-Length: 5", "hello"), ("Transfer-Encoding: chunked", "5\r\nhello\r\n0\r\n\r\n")] {
        let mut connection = server.connect();
        connection.send(format!("{HEAD}Expect: 100-Continue\r\n{framing}\r\n\r\n"));

        let interim = connection.read_response(false);
        assert_eq!(interim.status, 100, "{framing}");
        assert_eq!(interim.headers, [], "{framing}");

        connection.send(body);
        assert_passed(&connection.read_response(false), framing);
        connection.send(format!("{HEAD}Connection: close\r\n\r\n"));
        assert_passed(&connection.read_response(false), "the request after it");
        connection.assert_closed();
    }
}

#[test]
fn another_expectation_is_417() {
    let server = Server::start(&[]);
    for expectation in ["anything-else", "200-ok", "100-continue, more"] {
        let request = format!("{HEAD}Expect: {expectation}\r\nContent-Length: 0\r\n\r\n");

        let sentence = server.raw(request).assert_error(417);

        assert!(sentence.contains("Expect"), "{expectation}: {sentence}");
    }
}

const HEAD: &str = "POST /xyz/api/cleaner/tasks/report HTTP/1.1\r\nHost: localhost\r\n";
const CHUNKED_HEAD: &str = "POST /xyz/api/cleaner/tasks/report HTTP/1.1\r\nHost: localhost\r\n\
    Transfer-Encoding: chunked\r\n\r\n";
pub const MULTIPART: &str = "multipart/form-data; boundary=frontier";
const FORM_START: &str = "--frontier\r\nContent-Disposition: form-data; name=\"file\"; \
    filename=\"report.zip\"\r\nContent-Type: application/zip\r\n\r\n";
const FORM_END: &str = "\r\n--frontier--\r\n";

/// A report with one file.
pub fn form(content: &[u8]) -> Vec<u8> {
    [FORM_START.as_bytes(), content, FORM_END.as_bytes()].concat()
}

#[derive(Clone, Copy, Debug)]
enum Framing {
    ContentLength,
    Chunked,
}

/// Sends a report whose file has `size` bytes, a piece at a time, and returns the file's SHA-256.
fn upload(connection: &mut Connection, size: usize, framing: Framing) -> String {
    let salt = framing as usize;
    let piece: Vec<u8> = (0..100_003).map(|i| ((i + salt) % 251) as u8).collect();
    connection.send(format!("{HEAD}Content-Type: {MULTIPART}\r\n"));
    match framing {
        Framing::ContentLength => {
            let length = form(b"").len() + size;
            connection.send(format!("Content-Length: {length}\r\n\r\n"));
        }
        Framing::Chunked => connection.send("Transfer-Encoding: chunked\r\n\r\n"),
    }
    let mut send = |bytes: &[u8]| match framing {
        Framing::ContentLength => connection.send(bytes),
        Framing::Chunked => {
            connection.send(format!("{:x}\r\n", bytes.len()));
            connection.send(bytes);
            connection.send("\r\n");
        }
    };
    let mut digest = Context::new(&SHA256);
    send(FORM_START.as_bytes());
    let mut left = size;
    while left > 0 {
        let bytes = &piece[..left.min(piece.len())];
        digest.update(bytes);
        send(bytes);
        left -= bytes.len();
    }
    send(FORM_END.as_bytes());
    if matches!(framing, Framing::Chunked) {
        connection.send("0\r\n\r\n");
    }
    let digest = digest.finish();
    digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The size as the console writes it: `204,800 bytes`.
fn bytes(size: usize) -> String {
    let digits = size.to_string();
    let mut text = String::new();
    for (position, digit) in digits.char_indices() {
        if position > 0 && (digits.len() - position).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text + if size == 1 { " byte" } else { " bytes" }
}

#[track_caller]
fn assert_passed(response: &Response, name: &str) {
    assert_eq!(response.status, 200, "{name}");
    assert_eq!(response.header("Content-Type"), Some("application/json"), "{name}");
    assert_eq!(String::from_utf8_lossy(&response.body), FLASKS_ANSWER, "{name}");
}
