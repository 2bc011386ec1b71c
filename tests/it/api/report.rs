//! POST /xyz/api/cleaner/tasks/report: the report is read whole, kept, and the answer is PASSED.

use std::fs;

use ring::digest::{Context, SHA256};
use serde_json::json;

use crate::connection::{Connection, Response};
use crate::support::{REPORT, Server, WITH_AND_WITHOUT_TLS, hex, local};

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
fn a_report_of_every_size_arrives_and_is_kept_whole_and_needs_little_memory() {
    const MIB: usize = 1024 * 1024;
    // The limit between memory and a temporary file lies at 1 MiB of body; the part is smaller.
    let frame = form(b"").len();
    for arguments in WITH_AND_WITHOUT_TLS {
        let server = Server::start(arguments);
        for size in [1, MIB - frame - 1, MIB - frame, MIB - frame + 1, MIB - 1, MIB, MIB + 1, 200 * 1000 * 1000] {
            for framing in [Framing::ContentLength, Framing::Chunked] {
                let what = format!("{size} bytes, {framing:?}");
                let mut digest = String::new();

                let (response, event) = server.recorded(|server| {
                    let mut connection = server.connect();
                    digest = upload(&mut connection, size, framing);
                    connection.read_response(false)
                });

                assert_passed(&response, &what);
                let part = &event["parts"][0];
                assert_eq!((&part["bytes"], &part["sha256"]), (&json!(size), &json!(digest)), "{what}");
                let saved = local(part["saved"].as_str().expect("a path"));
                assert_eq!(fs::metadata(&saved).expect("the file").len(), size as u64, "{what}");
                fs::remove_file(saved).expect("the file is ours now");
            }
        }
        #[cfg(target_os = "linux")]
        assert!(server.peak_memory_kib() < 30 * 1024, "{} KiB", server.peak_memory_kib());
    }
}

pub const MULTIPART: &str = "multipart/form-data; boundary=frontier";
const FORM_START: &str = "--frontier\r\nContent-Disposition: form-data; name=\"file\"; \
    filename=\"report.zip\"\r\nContent-Type: application/zip\r\n\r\n";
const FORM_END: &str = "\r\n--frontier--\r\n";

/// A report with one file.
pub fn form(content: &[u8]) -> Vec<u8> {
    [FORM_START.as_bytes(), content, FORM_END.as_bytes()].concat()
}

/// A part with a text, for the place before the file.
pub fn text_part(field: &str, value: &str) -> String {
    format!("--frontier\r\nContent-Disposition: form-data; name=\"{field}\"\r\n\r\n{value}\r\n")
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
    connection.send(format!("POST {REPORT} HTTP/1.1\r\nHost: localhost\r\nContent-Type: {MULTIPART}\r\n"));
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
    hex(&digest.finish())
}

#[track_caller]
pub fn assert_passed(response: &Response, name: &str) {
    assert_eq!(response.status, 200, "{name}");
    assert_eq!(response.header("Content-Type"), Some("application/json"), "{name}");
    assert_eq!(String::from_utf8_lossy(&response.body), FLASKS_ANSWER, "{name}");
}
