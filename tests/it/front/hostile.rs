//! Whatever arrives, the server stays up and says why: for each wrong thing the status, the sentence in the answer and
//! on the console, and the next client served.

#[cfg(target_os = "linux")]
use std::fs;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::connection::{Connection, client_configuration};
use crate::process::Process;
#[cfg(unix)]
use crate::support::start_limited;
use crate::support::{
    DOWNLOAD, LIMIT, REPORT, Server, TASKS, WITH_AND_WITHOUT_TLS, command, data_folder, folder_with_a_large_download,
    is_skipped_under_wine, program, text,
};

#[test]
fn a_wrong_head_is_refused_with_the_line_and_the_mistake() {
    let headers = |count: usize, size: usize| format!("X: {}\r\n", "x".repeat(size - 5)).repeat(count);
    let get = |rest: &str| format!("GET / HTTP/1.1\r\nHost: a\r\n{rest}\r\n\r\n");
    assert_refused_with_and_without_tls(&[
        ("a target over 64 KiB", format!("GET /{} HTTP/1.1\r\n\r\n", "x".repeat(70_000)), 414, &["target", "65,536"]),
        ("a header line over 64 KiB", get(&format!("X: {}", "x".repeat(70_000))), 431, &["line 3", "65,536", "X: xx"]),
        ("a header line without end", format!("GET / HTTP/1.1\r\nX: {}", "x".repeat(70_000)), 431, &["line 2", "X: x"]),
        ("a head over 64 KiB", get(&headers(90, 1000)), 431, &["65,536"]),
        ("101 headers", get(&headers(100, 10)), 431, &["100"]),
        ("a request line of one word", "GET\r\n\r\n".into(), 400, &["line 1", "\"GET\""]),
        ("a request line of four words", "GET / x HTTP/1.1\r\n\r\n".into(), 400, &["line 1", "GET / x HTTP/1.1"]),
        ("a request line with two spaces", "GET  / HTTP/1.1\r\n\r\n".into(), 400, &["line 1", "GET  / HTTP/1.1"]),
        ("a request line with a tab", "GET\t/ HTTP/1.1\r\n\r\n".into(), 400, &["line 1", r"GET\t/ HTTP/1.1"]),
        ("a space before the method", " GET / HTTP/1.1\r\n\r\n".into(), 400, &["line 1", "\" GET"]),
        ("a method of other characters", "G{T / HTTP/1.1\r\n\r\n".into(), 400, &["line 1", "G{T"]),
        ("a version in lower case", "GET / http/1.1\r\n\r\n".into(), 400, &["line 1", "http/1.1"]),
        ("an unknown version", "GET / HTTP/9.9\r\n\r\n".into(), 400, &["line 1", "HTTP/9.9"]),
        ("a header without colon", get("nothing here"), 400, &["line 3", "colon", "nothing here"]),
        ("a space before the colon", get("X-Space : 1"), 400, &["line 3", "space", "X-Space : 1"]),
        ("a space in a header's name", get("X Space: 1"), 400, &["line 3", "X Space: 1"]),
        ("a header without name", get(": 1"), 400, &["line 3", ": 1"]),
        ("a folded header", get("X: 1\r\n folded"), 400, &["line 4", " folded"]),
        ("a folded first header", "GET / HTTP/1.1\r\n X: 1\r\n\r\n".into(), 400, &["line 2", " X: 1"]),
        ("LF alone behind the request line", "GET / HTTP/1.1\nHost: a\n\n".into(), 400, &["line 1", "LF"]),
        ("LF alone behind a header", get("X: 1\nY: 2"), 400, &["line 3", "LF", "X: 1"]),
        ("LF alone as the empty line", "GET / HTTP/1.1\r\nHost: a\r\n\n".into(), 400, &["line 3", "LF"]),
        ("CR alone in a header", get("X: a\rb"), 400, &["line 3", "CR", r"a\rb"]),
        ("CR alone in the request line", "GET /\r HTTP/1.1\r\n\r\n".into(), 400, &["line 1", "CR"]),
        ("NUL in a header", get("X: a\0b"), 400, &["line 3", "NUL", r"a\0b"]),
        ("NUL in the request line", "GET /\0 HTTP/1.1\r\n\r\n".into(), 400, &["line 1", "NUL", r"/\0"]),
        ("a control character in a header", get("X: a\u{1}b"), 400, &["line 3", "0x01"]),
        ("a control character in the target", "GET /\u{7} HTTP/1.1\r\n\r\n".into(), 400, &["line 1", "0x07"]),
        ("DEL in a header", get("X: a\u{7f}b"), 400, &["line 3", "0x7f"]),
        ("an escape sequence for terminals", get("X: \u{1b}[2J"), 400, &["line 3", "0x1b"]),
        ("the HTTP/2 preface", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".into(), 505, &["PRI * HTTP/2.0"]),
        ("HTTP/2.0", "GET / HTTP/2.0\r\nHost: a\r\n\r\n".into(), 505, &["HTTP/2.0"]),
        ("HTTP/3.0", "GET / HTTP/3.0\r\nHost: a\r\n\r\n".into(), 505, &["HTTP/3.0"]),
        ("HTTP/0.9", "GET /\r\n".into(), 400, &["line 1", "HTTP/0.9"]),
        ("HTTP/0.9 by name", "GET / HTTP/0.9\r\n\r\n".into(), 400, &["line 1", "HTTP/0.9"]),
        ("another Expect", get("Expect: 200-ok"), 417, &["Expect", "200-ok"]),
    ]);
}

#[test]
fn a_wrong_body_is_refused_with_the_reason() {
    let post = |framing: &str, body: &str| format!("POST {REPORT} HTTP/1.1\r\nHost: a\r\n{framing}\r\n\r\n{body}");
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
        ("chunked twice", post("Transfer-Encoding: chunked, chunked", "0\r\n\r\n"), 501, &["\"chunked, chunked\""]),
        ("the encoding identity", post("Transfer-Encoding: identity", ""), 501, &["\"identity\""]),
        ("a chunk size that is none", chunked("xyz\r\nhello\r\n0\r\n\r\n"), 400, &["chunk", "\"xyz\""]),
        ("a negative chunk size", chunked("-5\r\nhello\r\n0\r\n\r\n"), 400, &["chunk", "\"-5\""]),
        ("no chunk size", chunked("\r\nhello\r\n0\r\n\r\n"), 400, &["chunk"]),
        ("a chunk size over 64 bits", chunked("10000000000000000\r\nhello"), 400, &["chunk", "10000000000000000"]),
        ("a chunk size that ends with LF", chunked("5\nhello\r\n0\r\n\r\n"), 400, &["chunk", "LF"]),
        ("a chunk longer than its size", chunked("5\r\nhello!\r\n0\r\n\r\n"), 400, &["chunk", "5 bytes"]),
        ("a chunk extension of 1 MB", chunked(&format!("5;a={megabyte}\r\nhello")), 400, &["chunk", "4,096"]),
        ("endless trailers", chunked(&format!("0\r\n{trailers}")), 400, &["trailer", "65,536"]),
        ("an endless trailer", chunked(&format!("0\r\nX-Trailer: {megabyte}")), 400, &["trailer", "4,096"]),
    ]);
}

#[test]
fn a_request_that_breaks_off_is_400_with_how_far_it_came() {
    let post = |framing: &str| format!("POST {REPORT} HTTP/1.1\r\nHost: a\r\n{framing}\r\n\r\n");
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

/// A boundary may be followed by spaces, which say nothing.
#[test]
fn endless_spaces_behind_a_boundary_need_little_memory() {
    let server = Server::start(&["--http"]);
    let body = [b"--b".as_slice(), &vec![b' '; 40_000_000]].concat();

    assert_eq!(server.post(REPORT, "multipart/form-data; boundary=b", &body).status, 200);

    server.wait_for_line(|line| line.contains("the boundary \"b\" of the Content-Type does not occur"));
    #[cfg(target_os = "linux")]
    assert!(server.peak_memory_kib() < 30 * 1024, "{} KiB", server.peak_memory_kib());
}

/// The names are kept for console and journal, where each of these bytes is written as six.
#[test]
#[cfg(target_os = "linux")]
fn a_report_of_a_thousand_long_names_needs_little_memory() {
    let server = Server::start(&["--http"]);
    let name = "\u{1}".repeat(16_000);
    let part = format!("--b\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\nx\r\n");
    let body = part.repeat(1000) + "--b--\r\n";

    assert_eq!(server.post(REPORT, "multipart/form-data; boundary=b", body.as_bytes()).status, 200);

    assert!(server.peak_memory_kib() < 64 * 1024, "{} KiB", server.peak_memory_kib());
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

    let told = server.wait_for_line(|line| line.contains("?reset") || line.contains(&client.to_string()));

    // The reset may overtake the bytes, so that fewer of them are seen.
    assert!(told.contains(" of 20,000 bytes"), "{told}");
    next_client(&server);
}

#[test]
fn a_wish_for_another_protocol_is_answered_as_the_plain_request() {
    for arguments in WITH_AND_WITHOUT_TLS {
        let server = Server::start(arguments);
        for upgrade in [
            "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: eA==",
            "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__",
        ] {
            let response = server.raw(format!("GET {TASKS} HTTP/1.1\r\nHost: a\r\n{upgrade}\r\n\r\n"));

            assert_eq!((response.status, response.body.len()), (200, 128), "{upgrade}");
            assert_eq!(response.header("Upgrade"), None, "{upgrade}");
        }
        for (method, target) in [("CONNECT", "production.example:443"), ("CONNECT", TASKS), ("TRACE", TASKS)] {
            let response = server.raw(format!("{method} {target} HTTP/1.1\r\nHost: a\r\n\r\n"));

            let sentence = response.assert_error(405);
            assert!(sentence.contains(method), "{sentence}");
            assert!(response.header("Allow").is_some_and(|allow| allow.contains("GET")), "{method} {target}");
            assert_eq!(server.wait_for_request(method, target).sentence, Some(sentence), "{method} {target}");
        }
        next_client(&server);
    }
}

#[test]
fn a_header_with_the_proxys_private_name_has_no_effect() {
    let folder = data_folder();
    let server = Server::start(&["--data", text(folder.path())]);
    for forged in ["1", "2", "18446744073709551615", "-1", "x"] {
        let private = format!("Request-Number: {forged}");

        let download = server.request("GET", DOWNLOAD, &[&private, &private]);
        assert_eq!((download.status, download.body.len()), (200, 366), "{forged}");
        assert_eq!(server.request("GET", TASKS, &[&private]).body.len(), 128, "{forged}");
    }
}

#[test]
fn plain_http_on_the_https_port_is_told_the_right_url() {
    let server = Server::start(&["--timeout", "1"]);
    let url = |path: &str| format!("{}{path}", server.url());
    let body = "x".repeat(4_000_000);
    for (what, sent, meant) in [
        ("a GET", format!("GET {TASKS}?a=b HTTP/1.1\r\nHost: a\r\n\r\n"), url(TASKS) + "?a=b"),
        ("HTTP/1.0", format!("GET {TASKS} HTTP/1.0\r\n\r\n"), url(TASKS)),
        ("a POST", format!("POST {REPORT} HTTP/1.1\r\nContent-Length: 4000000\r\n\r\n{body}"), url(REPORT)),
        ("a client of a proxy", format!("GET http://localhost{TASKS} HTTP/1.1\r\nHost: a\r\n\r\n"), url(TASKS)),
        ("a wrong header", format!("GET {TASKS} HTTP/1.1\r\nno colon\r\n\r\n"), url("")),
        ("LF alone", format!("GET {TASKS} HTTP/1.1\nHost: a\n\n"), url("")),
        ("half a head", format!("GET {TASKS} HTTP/1.1\r\nHost:"), url("")),
    ] {
        let mut connection = Connection::plain(server.address());
        connection.send(sent);
        assert!(!connection.has_ended(), "{what}: closed without an answer");

        let sentence = connection.read_response(false).assert_error(400);

        assert!(sentence.starts_with("this port speaks HTTPS: use https://localhost:"), "{what}: {sentence}");
        assert!(sentence.contains(&meant), "{what}: {sentence}");
        connection.assert_closed();
        server.take_lines_through(|line| line.ends_with(&sentence));
        next_client(&server);
    }
}

#[test]
fn tls_on_the_http_port_is_closed_and_the_console_names_http() {
    let server = Server::start(&["--http"]);

    let told = assert_closed_without_answer(&server, &client_hello(TLS_1_2, &[SUITE], "localhost"));

    assert!(told.contains(server.url()), "{told}");
    assert!(told.contains("TLS"), "{told}");
}

#[test]
fn what_is_neither_tls_nor_http_is_closed_and_the_console_shows_it() {
    let server = Server::start(&["--timeout", "1"]);
    for (what, sent, shown) in [
        ("SSH", &b"SSH-2.0-OpenSSH_9.9\r\n"[..], "SSH-2.0-OpenSSH_9.9"),
        ("a mail server's client", b"EHLO localhost\r\n", "EHLO localhost"),
        ("a word without line end", b"hello", "hello"),
        ("an alert of TLS", b"\x15\x03\x03\x00\x02\x01\x00", "15"),
        ("bytes beyond ASCII", b"\xff\xfe\x00\x01\xff\xff", r"\xff\xfe\0"),
        ("an escape sequence", b"\x1b[2J\x1b]0;title\x07", "[2J"),
        ("TLS that is none", b"\x16\x03\x01\x00\x05hello", ""),
        ("a TLS record of the wrong version", b"\x16\xff\xff\x00\x05hello", ""),
    ] {
        let told = assert_closed_without_answer(&server, sent);

        assert!(told.contains(shown), "{what}: {told}");
        assert!(told.contains("TLS"), "{what}: {told}");
        assert!(!told.contains(char::is_control), "{what}: {told:?}");
    }
}

#[test]
fn a_client_that_rejects_the_certificate_is_on_the_console_with_what_to_do() {
    let server = Server::start(&[]);
    let trusts_nobody = client_configuration(rustls::RootCertStore::empty(), rustls::ALL_VERSIONS);
    Connection::tls(server.address(), "localhost", trusts_nobody.into()).expect_err("nobody is trusted");
    let told = server.wait_for_failed_connection();
    assert!(told.contains("unknown_ca"), "{told}");
    assert_advises_trust(&told);

    for (alert, name) in [(48, "unknown_ca"), (42, "bad_certificate"), (46, "certificate_unknown")] {
        let mut stream = open(&server);
        let client = handshake_halfway(&mut stream, "localhost");
        stream.write_all(&[21, 3, 3, 0, 2, 2, alert]).expect("the server reads");

        let told = wait_for_word_about(&server, client);

        assert!(told.contains(name), "{told}");
        assert_advises_trust(&told);
        next_client(&server);
    }
    let mut hangs_up = open(&server);
    let client = handshake_halfway(&mut hangs_up, "localhost");
    drop(hangs_up);
    let told = wait_for_word_about(&server, client);
    assert_advises_trust(&told);
    next_client(&server);
}

#[test]
fn without_a_record_the_advice_is_to_start_with_one() {
    let process = Process::spawn(command(&program()).args(["--port", "0"]));
    let port = process.stdout.wait_for(LIMIT, |captured| {
        let line = captured.lines.iter().find_map(|line| line.split("https://localhost:").nth(1))?;
        line.split('/').next()?.parse::<u16>().ok()
    });
    let mut stream = TcpStream::connect(("127.0.0.1", port.expect("a URL in the banner"))).expect("the server listens");
    handshake_halfway(&mut stream, "localhost");
    drop(stream);

    let told = process.stdout.wait_for(LIMIT, |captured| {
        captured.lines.iter().find(|line| line.contains("certificate") && line.contains("127.0.0.1:")).cloned()
    });

    let told = told.expect("a word about the client");
    assert_advises_trust(&told);
    assert!(told.contains("--record"), "{told}");
}

#[test]
fn old_tls_and_old_ciphers_are_on_the_console_with_what_is_needed() {
    let server = Server::start(&[]);
    for (what, hello, words) in [
        ("SSL 3.0", client_hello(0x0300, &[SUITE], ""), ["TLS 1.1 or older", "TLS 1.2"]),
        ("TLS 1.0", client_hello(0x0301, &[SUITE], ""), ["TLS 1.1 or older", "TLS 1.2"]),
        ("TLS 1.1", client_hello(0x0302, &[SUITE], ""), ["TLS 1.1 or older", "TLS 1.2"]),
        ("TLS 1.1 without extensions", hello_without_extensions(0x0302), ["TLS 1.1 or older", "TLS 1.2"]),
        ("no common cipher", client_hello(TLS_1_2, &[RSA_WITH_AES_128_CBC_SHA], ""), ["cipher suite", "ECDHE_ECDSA"]),
    ] {
        let mut stream = open(&server);
        let client = stream.local_addr().expect("an address");
        stream.write_all(&hello).expect("the server reads");

        let answer = read_to_the_end(&mut stream);
        let told = wait_for_word_about(&server, client);

        const ALERT: u8 = 21;
        assert_eq!(answer.first(), Some(&ALERT), "{what}: {}", answer.escape_ascii());
        for word in words {
            assert!(told.contains(word), "{what}: {told}");
        }
        next_client(&server);
    }
}

#[test]
fn every_server_name_is_accepted_and_one_that_the_certificate_lacks_is_noted() {
    let server = Server::start(&[]);
    for name in ["localhost", "127.0.0.1", "::1", "production.example"] {
        let mut stream = open(&server);
        let client = handshake_halfway(&mut stream, name);
        const BAD_CERTIFICATE: u8 = 42;
        stream.write_all(&[21, 3, 3, 0, 2, 2, BAD_CERTIFICATE]).expect("the server reads");

        let told = wait_for_word_about(&server, client);

        assert_eq!(told.contains(name), name == "production.example", "{name}: {told}");
    }
}

#[test]
fn who_falls_silent_is_closed_after_the_timeout_and_nobody_else_waits() {
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
        assert_eq!(server.get(TASKS).status, 200);
        assert!(started.elapsed() < timeout, "another client waited: {:?}", started.elapsed());

        let client = silent.local_addr().expect("an address");
        assert_eq!(read_to_the_end(&mut silent), b"", "an answer to nobody");
        let told = wait_for_word_about(&server, client);
        assert!(told.contains("sent nothing for 1 s"), "{told}");
        for (connection, what, word) in [
            (half_head, "half a head", "head"),
            (half_body, "half a body", "12,345 of 20,000 bytes"),
            (half_chunk, "half a chunk", "2 bytes"),
        ] {
            let sentence = assert_last_answer(connection, what, 408, &[word]);
            server.wait_for_line(|line| line.ends_with(&sentence));
        }
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
    let limit = Duration::from_secs(10);
    let started = Instant::now();
    let server = Server::start(&["--http", "--timeout", "1"]);
    let head = format!("GET / HTTP/1.1\r\nX: {}", "x".repeat(1000));
    let (_, answer) = send_in_drops(&server, head.as_bytes());
    let answer = String::from_utf8(answer).expect("the answer is text");
    assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
    next_client(&server);

    let server = Server::start(&["--timeout", "1"]);
    let (client, answer) = send_in_drops(&server, &client_hello(TLS_1_2, &[SUITE; 500], ""));
    assert_eq!(answer, b"", "half a hello is answered");
    let told = wait_for_word_about(&server, client);
    assert!(told.contains("handshake in time"), "{told}");
    next_client(&server);
    assert!(started.elapsed() < limit, "{:?}", started.elapsed());
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

#[test]
fn a_download_whose_client_stops_reading_ends_after_the_timeout() {
    let timeout = Duration::from_secs(2);
    let folder = folder_with_a_large_download();
    for arguments in WITH_AND_WITHOUT_TLS {
        let server = Server::start(&[arguments, &["--timeout", "2", "--data", text(folder.path())]].concat());
        next_client(&server);
        #[cfg(target_os = "linux")]
        let threads = thread_count(&server);
        let mut connection = server.connect();
        connection.send(format!("GET {DOWNLOAD} HTTP/1.1\r\nHost: a\r\n\r\n"));
        assert!(!connection.has_ended(), "no answer");
        let started = Instant::now();

        let sentence = server.wait_for_request("GET", DOWNLOAD).sentence.expect("a sentence");

        assert!(sentence.contains("stopped reading"), "{sentence}");
        assert!(sentence.contains(" of 200,000,000 bytes"), "{sentence}");
        assert!(started.elapsed() < 2 * timeout, "{arguments:?}: said only after {:?}", started.elapsed());
        #[cfg(target_os = "linux")]
        wait_until("its thread has ended", timeout / 2, || thread_count(&server) <= threads);
        next_client(&server);
    }
}

#[test]
fn a_download_whose_client_closes_is_on_the_console_with_how_far_it_came() {
    let folder = folder_with_a_large_download();
    for arguments in WITH_AND_WITHOUT_TLS {
        let server = Server::start(&[arguments, &["--data", text(folder.path())]].concat());
        let mut connection = server.connect();
        connection.send(format!("GET {DOWNLOAD} HTTP/1.1\r\nHost: a\r\n\r\n"));
        assert!(!connection.has_ended(), "no answer");
        drop(connection);

        let sentence = server.wait_for_request("GET", DOWNLOAD).sentence.expect("a sentence");

        assert!(sentence.contains("closed the connection"), "{sentence}");
        assert!(sentence.contains(" of 200,000,000 bytes"), "{sentence}");
        next_client(&server);
    }
}

/// Whoever could connect to the loop itself could end the program, e.g. by a length of terabytes.
#[test]
#[cfg(target_os = "linux")]
fn nobody_can_connect_to_the_loop() {
    if is_skipped_under_wine("the ports of all programs belong to wine's own server") {
        return;
    }
    let server = Server::start(&[]);

    let ports = listening_ports(&server);

    assert!(!ports.is_empty(), "the server listens");
    assert!(ports.iter().all(|port| *port == server.port()), "{ports:?}, not only {}", server.port());
}

type Row<'a> = (&'a str, String, u16, &'a [&'a str]);

/// Each row is what is sent, the status of the answer, and the words in its sentence.
#[track_caller]
fn assert_refused_with_and_without_tls(rows: &[Row]) {
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
fn assert_refusal(server: &Server, connection: Connection, what: &str, status: u16, words: &[&str]) {
    let sentence = assert_last_answer(connection, what, status, words);
    let console = next_client(server);
    let told = console.iter().filter(|line| line.ends_with(&sentence)).count();
    assert_eq!(told, 1, "{what}: {sentence}\nis not once in\n{}", console.join("\n"));
}

/// One answer with a sentence that has these words, and then the end. Returns the sentence.
#[track_caller]
fn assert_last_answer(mut connection: Connection, what: &str, status: u16, words: &[&str]) -> String {
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
fn next_client(server: &Server) -> Vec<String> {
    static CLIENTS: AtomicUsize = AtomicUsize::new(1);
    let target = format!("{TASKS}?client={}", CLIENTS.fetch_add(1, Ordering::Relaxed));
    assert_eq!(server.get(&target).status, 200, "the next client");
    let line_end = format!("  {target}  200  128 bytes");
    server.take_lines_through(|line| line.contains(&line_end))
}

#[track_caller]
fn assert_closed_without_answer(server: &Server, sent: &[u8]) -> String {
    let mut stream = open(server);
    let client = stream.local_addr().expect("an address");
    stream.write_all(sent).expect("the server reads");
    let answer = read_to_the_end(&mut stream);
    // What could be TLS may get an alert.
    let is_alert = answer.is_empty() || (sent[0] == 22 && answer[0] == 21);
    assert!(is_alert, "an answer: {}", answer.escape_ascii());
    let told = wait_for_word_about(server, client);
    next_client(server);
    told
}

#[track_caller]
fn assert_advises_trust(told: &str) {
    for word in ["certificate.pem", "verification"] {
        assert!(told.contains(word), "no {word} in: {told}");
    }
}

#[track_caller]
fn assert_nothing_large_is_stored(server: &Server, folder: &str) {
    let head = format!("POST {REPORT} HTTP/1.1\r\nHost: a\r\nContent-Length");
    for what in ["the first", "the second"] {
        let mut connection = server.connect();
        connection.send(format!("{head}: 8000000\r\n\r\n"));
        connection.send(vec![b'x'; 8_000_000]);

        assert_refusal(server, connection, what, 507, &[folder]);
    }
    let small = server.raw(format!("{head}: 1000\r\n\r\n{}", "x".repeat(1000)));
    assert_eq!(small.status, 200, "what needs no file");
}

/// What the console says about the connection of this client.
#[track_caller]
fn wait_for_word_about(server: &Server, client: SocketAddr) -> String {
    let prefix = format!("  {client}  ");
    let line = server.wait_for_line(|line| line.contains(&prefix));
    line.split(&prefix).nth(1).unwrap_or_default().to_owned()
}

fn open(server: &Server) -> TcpStream {
    let stream = TcpStream::connect(server.address()).expect("the server listens");
    stream.set_read_timeout(Some(LIMIT)).expect("the limit is not zero");
    stream
}

/// All that comes until the server closes, with or without a reset.
#[track_caller]
fn read_to_the_end(stream: &mut TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    let end = stream.read_to_end(&mut bytes);
    assert!(end.as_ref().is_ok() || end.as_ref().is_err_and(is_gone), "not closed: {end:?}");
    bytes
}

fn is_gone(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::ConnectionAborted | ErrorKind::BrokenPipe)
}

/// Sends a byte every 100 ms until the server closes, and returns who did and what came.
#[track_caller]
fn send_in_drops(server: &Server, bytes: &[u8]) -> (SocketAddr, Vec<u8>) {
    let mut stream = open(server);
    stream.set_read_timeout(Some(Duration::from_millis(100))).expect("the limit is not zero");
    let mut answer = Vec::new();
    for byte in bytes {
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
    panic!("the server took all {} bytes", bytes.len());
}

/// Sends a hello and reads the beginning of the server's answer, which must go on with the handshake.
#[track_caller]
fn handshake_halfway(stream: &mut TcpStream, name: &str) -> SocketAddr {
    stream.write_all(&client_hello(TLS_1_2, &[SUITE], name)).expect("the server reads");
    let mut answer = [0; 6];
    stream.read_exact(&mut answer).expect("the server answers");
    const HANDSHAKE: u8 = 22;
    const SERVER_HELLO: u8 = 2;
    assert_eq!((answer[0], answer[5]), (HANDSHAKE, SERVER_HELLO), "{name}");
    stream.local_addr().expect("an address")
}

/// The first message of a handshake (RFC 5246, 7.4.1.2), in a record.
fn client_hello(version: u16, suites: &[u16], name: &str) -> Vec<u8> {
    const SERVER_NAME: u16 = 0;
    const GROUPS: u16 = 10;
    const SIGNATURE_ALGORITHMS: u16 = 13;
    let mut extensions = Vec::new();
    if !name.is_empty() {
        let entry = [&[0][..], &with_length(name.as_bytes())].concat();
        extension(&mut extensions, SERVER_NAME, &with_length(&entry));
    }
    extension(&mut extensions, GROUPS, &with_length(&[0, 0x1d, 0, 0x17]));
    extension(&mut extensions, SIGNATURE_ALGORITHMS, &with_length(&[4, 3, 8, 4, 4, 1]));
    hello(version, suites, &with_length(&extensions))
}

/// As clients from before 2008 send it.
fn hello_without_extensions(version: u16) -> Vec<u8> {
    hello(version, &[SUITE], &[])
}

fn hello(version: u16, suites: &[u16], extensions: &[u8]) -> Vec<u8> {
    let suites: Vec<u8> = suites.iter().flat_map(|suite| suite.to_be_bytes()).collect();
    let no_session_id = [0];
    let no_compression = [1, 0];
    let body =
        [&version.to_be_bytes()[..], &[7; 32], &no_session_id, &with_length(&suites), &no_compression, extensions]
            .concat();
    let message = [&[1, 0][..], &with_length(&body)].concat();
    [&[22, 3, 1][..], &with_length(&message)].concat()
}

fn extension(extensions: &mut Vec<u8>, number: u16, content: &[u8]) {
    extensions.extend(number.to_be_bytes());
    extensions.extend(with_length(content));
}

fn with_length(bytes: &[u8]) -> Vec<u8> {
    let length = u16::try_from(bytes.len()).expect("shorter than 64 KiB");
    [&length.to_be_bytes()[..], bytes].concat()
}

const TLS_1_2: u16 = 0x0303;
const RSA_WITH_AES_128_CBC_SHA: u16 = 0x002f;
/// ECDHE_ECDSA with AES-128-GCM, which the server knows.
const SUITE: u16 = 0xc02b;

#[cfg(target_os = "linux")]
fn thread_count(server: &Server) -> usize {
    fs::read_dir(format!("/proc/{}/task", server.process_id())).expect("the process has threads").count()
}

/// For what the system tells only when asked.
#[cfg(target_os = "linux")]
#[track_caller]
fn wait_until(what: &str, limit: Duration, is_so: impl Fn() -> bool) {
    let started = Instant::now();
    while !is_so() {
        assert!(started.elapsed() < limit, "not within {limit:?}: {what}");
        std::thread::yield_now();
    }
}

/// The TCP ports on which the server's process listens, from the tables of `/proc`.
#[cfg(target_os = "linux")]
fn listening_ports(server: &Server) -> Vec<u16> {
    const LISTENING: &str = "0A";
    let process = format!("/proc/{}", server.process_id());
    let descriptors = fs::read_dir(format!("{process}/fd")).expect("the process has descriptors");
    let open: Vec<String> = descriptors
        .filter_map(|descriptor| fs::read_link(descriptor.ok()?.path()).ok()?.into_os_string().into_string().ok())
        .collect();
    let mut ports = Vec::new();
    for table in ["tcp", "tcp6"] {
        let table = fs::read_to_string(format!("{process}/net/{table}")).expect("a table of sockets");
        for row in table.lines().skip(1) {
            let fields: Vec<&str> = row.split_whitespace().collect();
            if fields[3] == LISTENING && open.contains(&format!("socket:[{}]", fields[9])) {
                let port = fields[1].rsplit(':').next().expect("a port");
                ports.push(u16::from_str_radix(port, 16).expect("a hexadecimal port"));
            }
        }
    }
    ports
}
