//! The body of a request: whole by its length or in chunks, refused, broken off, or too large for the disk.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use tempfile::TempDir;

use crate::api::report::assert_passed;
use crate::front::refusal::{assert_refusal, assert_refused_with_and_without_tls, next_client, open};
#[cfg(unix)]
use crate::support::start_limited;
use crate::support::{REPORT, Server, TASKS, WITH_AND_WITHOUT_TLS, command, is_skipped_under_wine, program, text};

#[test]
fn a_body_is_read_to_its_end_and_no_further() {
    let server = Server::start(&["--max-upload", "20K"]);
    let chunked = |body: &str| format!("Transfer-Encoding: chunked\r\n\r\n{body}");
    let length = |body: &str| format!("Content-Length: {}\r\n\r\n{body}", body.len());
    let largest = "x".repeat(20_480);
    for (what, rest) in [
        ("one chunk", chunked("5\r\nhello\r\n0\r\n\r\n")),
        ("two chunks", chunked("2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n")),
        ("a size of 20 digits", chunked("00000000000000000005\r\nhello\r\n0\r\n\r\n")),
        ("leading zeros", chunked("0005\r\nhello\r\n000\r\n\r\n")),
        ("a chunk extension", chunked("5;a=b;c=\"d\"\r\nhello\r\n0;last\r\n\r\n")),
        ("trailers", chunked("5\r\nhello\r\n0\r\nX-One: 1\r\nX-Two: 2\r\n\r\n")),
        ("no byte in chunks", chunked("0\r\n\r\n")),
        ("a hexadecimal size", chunked("A\r\n0123456789\r\nb\r\n0123456789a\r\n0\r\n\r\n")),
        ("as many bytes as there may be", length(&largest)),
        ("as many bytes as there may be, in chunks", chunked(&format!("5000\r\n{largest}\r\n0\r\n\r\n"))),
        ("what looks like a request", length(&format!("GET {TASKS} HTTP/1.1\r\nHost: localhost\r\n\r\n"))),
    ] {
        let mut connection = server.connect();
        for round in 0..3 {
            connection.send(format!("{HEAD}{rest}"));

            assert_passed(&connection.read_response(false), &format!("{what}, round {round}"));
        }
    }
}

#[test]
fn a_client_that_waits_for_100_continue_gets_it_once() {
    let server = Server::start(&[]);
    for (expected, framing, body) in [
        ("100-Continue", "Content-Length: 5", "hello"),
        ("100-continue, ", "Transfer-Encoding: chunked", "5\r\nhello\r\n0\r\n\r\n"),
    ] {
        let mut connection = server.connect();
        connection.send(format!("{HEAD}Expect: {expected}\r\n{framing}\r\n\r\n"));

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
fn a_wrong_body_is_refused_with_the_reason() {
    let post = |framing: &str, body: &str| format!("{HEAD}{framing}\r\n\r\n{body}");
    let length = |value: &str| post(&format!("Content-Length: {value}"), "hello");
    let chunked = |body: &str| post("Transfer-Encoding: chunked", body);
    let megabyte = "x".repeat(1_000_000);
    let trailers = "X-Trailer: 1\r\n".repeat(70_000);
    let both = "Content-Length: 5\r\nTransfer-Encoding: chunked";
    assert_refused_with_and_without_tls(&[
        ("a length in words", length("five"), 400, &["Content-Length", "\"five\""]),
        ("a negative length", length("-5"), 400, &["Content-Length", "\"-5\""]),
        ("a length with a sign", length("+5"), 400, &["Content-Length", "\"+5\""]),
        ("a hexadecimal length", length("0x5"), 400, &["Content-Length", "\"0x5\""]),
        ("a list of lengths", length("5, 5"), 400, &["Content-Length", "\"5, 5\""]),
        ("no length", length(""), 400, &["Content-Length", "\"\""]),
        ("two lengths", length("5\r\nContent-Length: 6"), 400, &["Content-Length", "\"5\" and \"6\""]),
        ("a length of 2^64", length("18446744073709551616"), 400, &["Content-Length", "18446744073709551616"]),
        ("a length with chunks", post(both, "0\r\n\r\n"), 400, &["Content-Length", "Transfer-Encoding"]),
        ("a length over the limit", length("20481"), 413, &["20,480", "20,481"]),
        (
            "a length over the limit, before 100 Continue",
            post("Content-Length: 20481\r\nExpect: 100-continue", ""),
            413,
            &["20,480", "20,481"],
        ),
        ("a length of 2^64 - 1", length("18446744073709551615"), 413, &["20,480", "18,446,744,073,709,551,615"]),
        ("a body over the limit", length("4000000") + &megabyte.repeat(4), 413, &["20,480", "4,000,000"]),
        ("a chunk over the limit", chunked(&format!("5001\r\n{megabyte}")), 413, &["more than 20,480"]),
        (
            "chunks over the limit",
            chunked(&format!("5000\r\n{}\r\n1\r\nx", &megabyte[..0x5000])),
            413,
            &["more than 20,480"],
        ),
        ("another encoding", post("Transfer-Encoding: gzip", ""), 501, &["Transfer-Encoding", "\"gzip\""]),
        ("two encodings", post("Transfer-Encoding: gzip, chunked", "0\r\n\r\n"), 501, &["\"gzip, chunked\""]),
        (
            "chunked twice",
            post("Transfer-Encoding: chunked, chunked", "0\r\n\r\n"),
            400,
            &["\"chunked, chunked\"", "once"],
        ),
        (
            "chunked first",
            post("Transfer-Encoding: Chunked, gzip", "0\r\n\r\n"),
            400,
            &["\"Chunked, gzip\"", "at the end"],
        ),
        (
            "chunked first, on two lines",
            post("Transfer-Encoding: chunked\r\nTransfer-Encoding: gzip", "0\r\n\r\n"),
            400,
            &["\"chunked, gzip\"", "at the end"],
        ),
        ("nothing behind chunked", post("Transfer-Encoding: chunked,", "0\r\n\r\n"), 400, &["at the end"]),
        ("the encoding identity", post("Transfer-Encoding: identity", ""), 501, &["\"identity\""]),
        ("a chunk size that is none", chunked("xyz\r\nhello\r\n0\r\n\r\n"), 400, &["chunk", "\"xyz\""]),
        ("a negative chunk size", chunked("-5\r\nhello\r\n0\r\n\r\n"), 400, &["chunk", "\"-5\""]),
        ("no chunk size", chunked("\r\nhello\r\n0\r\n\r\n"), 400, &["chunk"]),
        ("an extension without a chunk size", chunked(";a=b\r\nhello\r\n0\r\n\r\n"), 400, &["chunk"]),
        ("a chunk size over 64 bits", chunked("10000000000000000\r\nhello"), 400, &["chunk", "10000000000000000"]),
        ("a space after a chunk size", chunked("5 \r\nhello\r\n0\r\n\r\n"), 400, &["chunk", "\"5 \""]),
        ("an extension with NUL", chunked("5;a=b\0\r\nhello\r\n0\r\n\r\n"), 400, &["chunk", "extension", "\\0"]),
        ("a chunk size that ends with LF", chunked("5\nhello\r\n0\r\n\r\n"), 400, &["chunk", "LF"]),
        ("a chunk longer than its size", chunked("5\r\nhello!\r\n0\r\n\r\n"), 400, &["chunk", "5 bytes"]),
        ("a chunk extension of 1 MB", chunked(&format!("5;a={megabyte}\r\nhello")), 400, &["chunk", "4,096"]),
        ("endless trailers", chunked(&format!("0\r\n{trailers}")), 400, &["trailer", "65,536"]),
        ("a trailer without colon", chunked("0\r\nhello\r\n\r\n"), 400, &["trailer", "colon", "\"hello\""]),
        ("a trailer with NUL", chunked("0\r\nX: a\0b\r\n\r\n"), 400, &["trailer", "NUL"]),
        ("a folded trailer", chunked("0\r\nX: 1\r\n folded\r\n\r\n"), 400, &["trailer", "folds", "\" folded\""]),
        ("a request as a trailer", chunked("0\r\nGET / HTTP/1.1\r\n\r\n"), 400, &["trailer", "GET / HTTP/1.1"]),
        ("an endless trailer", chunked(&format!("0\r\nX-Trailer: {megabyte}")), 400, &["trailer", "4,096"]),
    ]);
}

#[test]
fn a_request_that_breaks_off_is_400_with_how_far_it_came() {
    let post = |framing: &str| format!("{HEAD}{framing}\r\n\r\n");
    let short = post("Content-Length: 20000") + &"x".repeat(12_345);
    let chunked = post("Transfer-Encoding: chunked");
    for arguments in WITH_AND_WITHOUT_TLS {
        let server = Server::start(arguments);
        for (what, sent, words) in [
            ("in the head", "GET / HTTP/1.1\r\nHost: a\r\n".to_owned(), "head"),
            ("in the body", short.clone(), "12,345 of 20,000 bytes"),
            ("before the body", post("Content-Length: 20000"), "0 of 20,000 bytes"),
            ("in a chunk", format!("{chunked}a\r\nhello"), "5 bytes"),
            ("in the size of a chunk", format!("{chunked}5\r\nhello\r\n1"), "5 bytes"),
            ("before the last chunk", format!("{chunked}5\r\nhello\r\n"), "5 bytes"),
            ("in the trailers", format!("{chunked}5\r\nhello\r\n0\r\nX: 1"), "trailer"),
        ] {
            let mut connection = server.connect();
            connection.send(sent);
            connection.finish_sending();

            assert_refusal(&server, connection, what, 400, &[words]);
        }
    }
}

/// A client that is killed has no time to say goodbye: its system answers for it with a reset.
#[test]
fn a_body_that_ends_with_a_reset_is_on_the_console_with_how_far_it_came() {
    let server = Server::start(&["--http"]);
    let socket = socket2::Socket::from(open(&server));
    let client = socket.local_addr().ok().and_then(|address| address.as_socket()).expect("an address");
    let request = format!("POST {REPORT}?reset HTTP/1.1\r\nHost: a\r\nContent-Length: 20000\r\nExpect: 100-continue");
    let mut stream = TcpStream::from(socket);
    stream.write_all(format!("{request}\r\n\r\n").as_bytes()).expect("the server reads");
    let mut interim = [0; 25];
    stream.read_exact(&mut interim).expect("100 Continue");
    stream.write_all(&[b'x'; 12_345]).expect("the server reads");
    let socket = socket2::Socket::from(stream);
    socket.set_linger(Some(Duration::ZERO)).expect("the socket is open");
    drop(socket);

    server.wait_for_line(|line| line.contains("?reset") || line.contains(&client.to_string()));
    let told = server.wait_for_line(|line| line.starts_with("    error: "));

    // The reset may overtake the bytes, so that fewer of them are seen.
    assert!(told.contains(" of 20,000 bytes"), "{told}");
    next_client(&server);
}

#[test]
fn a_body_that_cannot_be_stored_is_507_and_names_the_folder() {
    if is_skipped_under_wine("the temporary folder, which wine chooses itself") {
        return;
    }
    let folder = TempDir::new().expect("a folder");
    let missing = folder.path().join("missing");
    let mut command = command(&program());
    for name in ["TMPDIR", "TMP", "TEMP"] {
        command.env(name, &missing);
    }
    assert_nothing_large_is_stored(&Server::launch(&mut command), text(&missing));
}

/// The shell allows no file over half a megabyte, which looks to the program as a full disk does.
#[test]
#[cfg(unix)]
fn a_full_disk_is_507_and_names_the_folder() {
    if is_skipped_under_wine("the temporary folder, which wine chooses itself") {
        return;
    }
    let folder = TempDir::new().expect("a folder");
    let server =
        start_limited(&format!("export TMPDIR='{}'; trap '' XFSZ; ulimit -f 1024", folder.path().display()), &[]);
    assert_nothing_large_is_stored(&server, text(folder.path()));
}

#[track_caller]
fn assert_nothing_large_is_stored(server: &Server, folder: &str) {
    for what in ["the first", "the second"] {
        let mut connection = server.connect();
        connection.send(format!("{HEAD}Content-Length: 8000000\r\n\r\n"));
        connection.send(vec![b'x'; 8_000_000]);

        assert_refusal(server, connection, what, 507, &[folder]);
    }
    let small = server.raw(format!("{HEAD}Content-Length: 1000\r\n\r\n{}", "x".repeat(1000)));
    assert_eq!(small.status, 200, "what needs no file");
}

const HEAD: &str = "POST /xyz/api/cleaner/tasks/report HTTP/1.1\r\nHost: localhost\r\n";
