//! The head of a request: what is unusual but valid, and what is refused with its line and the mistake.

use crate::front::refusal::assert_refused_with_and_without_tls;
use crate::support::{DOWNLOAD, REPORT, Server, TASKS, WITH_AND_WITHOUT_TLS};

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
        ("a method beyond ASCII", "G\u{e9}T / HTTP/1.1\r\n\r\n".into(), 400, &["line 1"]),
        ("a version in lower case", "GET / http/1.1\r\n\r\n".into(), 400, &["line 1", "http/1.1"]),
        ("an unknown version", "GET / HTTP/9.9\r\n\r\n".into(), 505, &["line 1", "HTTP/9.9"]),
        ("half a version", "GET / HTTP/9\r\n\r\n".into(), 505, &["line 1", "HTTP/9"]),
        ("half of HTTP/1", "GET / HTTP/1\r\n\r\n".into(), 400, &["line 1", "HTTP/1"]),
        ("HTTP/1.10", "GET / HTTP/1.10\r\n\r\n".into(), 400, &["line 1", "HTTP/1.10"]),
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
        ("HTTP/10.0", "GET / HTTP/10.0\r\nHost: a\r\n\r\n".into(), 505, &["HTTP/10.0"]),
        ("HTTP/3.0", "GET / HTTP/3.0\r\nHost: a\r\n\r\n".into(), 505, &["HTTP/3.0"]),
        ("HTTP/0.9", "GET /\r\n".into(), 400, &["line 1", "HTTP/0.9"]),
        ("HTTP/0.9 by name", "GET / HTTP/0.9\r\n\r\n".into(), 400, &["line 1", "HTTP/0.9"]),
        ("another Expect", get("Expect: 200-ok"), 417, &["Expect", "200-ok"]),
        ("more than one Expect", get("Expect: 100-continue, more"), 417, &["Expect", "\"more\""]),
    ]);
}

#[test]
fn unusual_but_valid_heads_are_accepted() {
    let hundred = (1..100).map(|i| format!("X-{i}: {i}\r\n")).collect::<String>();
    for arguments in WITH_AND_WITHOUT_TLS {
        let server = Server::start(arguments);
        for (what, headers) in [
            ("a hundred headers", hundred.as_bytes()),
            ("a header of 60,000 bytes", format!("X-Long: {}\r\n", "x".repeat(60_000)).as_bytes()),
            ("a value in UTF-8", "X-Name: Jos\u{e9}\r\n".as_bytes()),
            ("a value in Latin-1", b"X-Name: Jos\xe9\r\n"),
            ("an empty value", b"X-Empty:\r\n"),
            ("no space after the colon", b"X-Tight:1\r\n"),
            ("spaces around the value", b"X-Loose: \t 1 \t\r\n"),
            ("the same header twice", b"X-A: 1\r\nX-A: 2\r\n"),
            ("a wish for a WebSocket", b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: eA==\r\n"),
            (
                "a wish for HTTP/2",
                b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n",
            ),
            ("a body without bytes on GET", b"Content-Length: 0\r\n"),
            ("an empty Expect", b"Expect:\r\n"),
            ("credentials", b"Authorization: Basic YTpi\r\nCookie: a=b\r\n"),
        ] {
            for empty_line in ["", "\r\n"] {
                let start = format!("{empty_line}GET {TASKS} HTTP/1.1\r\nHost: localhost\r\n");

                let response = server.raw([start.as_bytes(), headers, b"\r\n"].concat());

                assert_eq!((response.status, response.body.len()), (200, 128), "{what}");
                assert_eq!(response.header("Upgrade"), None, "{what}");
            }
        }
    }
}

/// RFC 9110, 2.5.
#[test]
fn a_later_http_1_is_served_as_http_1_1() {
    let server = Server::start(&["--http"]);
    let mut connection = server.connect();
    for version in 2..=9 {
        let index = server.journal().len();
        connection.send(format!("GET {TASKS} HTTP/1.{version}\r\nHost: localhost\r\n\r\n"));

        let response = connection.read_response(false);

        assert_eq!((response.status, response.body.len()), (200, 128), "HTTP/1.{version}");
        assert_eq!(server.wait_for_event(index)["version"], format!("HTTP/1.{version}"));
    }
}

/// RFC 9110, 5.3.
#[test]
fn all_lines_of_a_list_count() {
    let server = Server::start(&["--http"]);
    let download = format!("{DOWNLOAD}?id=1");
    let tag = server.get(&download).header("ETag").expect("a tag").to_owned();
    for (headers, status) in [
        ([&*format!("If-None-Match: {tag}"), "If-None-Match: \"x\""], 304),
        (["If-None-Match: \"x\", \"y\"", &format!("If-None-Match: W/{tag}")], 304),
        (["If-None-Match: \"x\"", "If-None-Match: \"y\""], 200),
        (["If-Match: \"x\"", &format!("If-Match: \"y\", {tag}")], 200),
        (["If-Match: \"x\"", &format!("If-Match: W/{tag}")], 412),
        (["Connection: x", "Expect: , "], 200),
        (["Expect: x", "Expect: 100-continue"], 417),
        (["Expect: 100-continue", "Expect: x"], 417),
    ] {
        assert_eq!(server.request("GET", &download, &headers).status, status, "{headers:?}");
    }
}

/// The body never comes, nor the word that it may.
#[test]
fn with_strict_a_wrong_head_is_refused_before_its_body_comes() {
    let server = Server::start(&["--strict"]);
    for (headers, sentence) in [
        ("", "no Host header"),
        ("Host: a\r\nHost: b\r\n", "2 Host headers"),
        ("Host:\r\n", "the Host \"\""),
        ("Host: a:b:c\r\n", "the Host \"a:b:c\""),
        ("Host: [\r\n", "the Host \"[\""),
        ("Host: a\r\nContent-Type: a/b\r\nContent-Type: c/d\r\n", "\"a/b\" and \"c/d\""),
    ] {
        let mut connection = server.connect();
        let rest = "Content-Length: 20000\r\nExpect: 100-continue\r\n\r\n";
        connection.send(format!("POST {REPORT} HTTP/1.1\r\n{headers}{rest}"));

        let refused = connection.read_response(false).assert_error(400);

        assert!(refused.contains(sentence), "{refused}");
        connection.assert_closed();
    }
}

#[test]
fn what_may_stand_once_and_stands_twice_is_noted_and_two_ranges_are_none() {
    let server = Server::start(&["--http"]);
    for (name, first, second) in [
        ("Range", "bytes=0-1", "bytes=2-3"),
        ("If-Range", "\"a\"", "\"b\""),
        ("If-Modified-Since", "Thu, 01 Jan 1970 00:00:00 GMT", "Thu, 01 Jan 1970 00:00:01 GMT"),
        ("If-Unmodified-Since", "Thu, 01 Jan 2099 00:00:00 GMT", "Fri, 01 Jan 2100 00:00:00 GMT"),
        ("Content-Type", "text/plain", "text/html"),
    ] {
        let headers = [first, second].map(|value| format!("{name}: {value}"));
        let target = format!("{DOWNLOAD}?id=1");
        let (response, event) =
            server.recorded(|server| server.request("GET", &target, &headers.each_ref().map(String::as_str)));

        assert_eq!((response.status, response.body.len()), (200, 366), "{name}");
        let finding = event["findings"][0].as_str().expect("a finding").replace('\\', "");
        assert_eq!(finding, format!("the request has 2 {name} headers: \"{first}\" and \"{second}\""));
    }
}
