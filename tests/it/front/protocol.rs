//! HTTP/1.1 itself: kept connections, their end, and what is refused before any handler sees it.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use crate::connection::Connection;
use crate::support::{DOWNLOAD, REPORT, Server, TASKS, WITH_AND_WITHOUT_TLS, data_folder, loopback_addresses, text};

const GET_TASKS: &str = "GET /xyz/api/cleaner/tasks HTTP/1.1\r\nHost: localhost\r\n\r\n";

#[test]
fn a_connection_is_kept_for_every_kind_of_answer() {
    for arguments in WITH_AND_WITHOUT_TLS {
        let server = Server::start(arguments);
        let mut connection = server.connect();
        for round in 0..3 {
            for (request, status) in [
                ("GET", TASKS, "", 200),
                ("HEAD", TASKS, "", 200),
                ("GET", DOWNLOAD, "", 200),
                ("HEAD", DOWNLOAD, "", 200),
                ("GET", DOWNLOAD, "Range: bytes=1-2\r\n", 206),
                ("GET", DOWNLOAD, "Range: bytes=9999999-\r\n", 416),
                ("GET", DOWNLOAD, "If-None-Match: *\r\n", 304),
                ("GET", DOWNLOAD, "If-Match: \"x\"\r\n", 412),
                ("OPTIONS", REPORT, "", 200),
                ("POST", REPORT, "Content-Length: 3\r\n\r\nabc", 200),
                ("POST", TASKS, "Content-Length: 3\r\n\r\nabc", 405),
                ("PUT", "/nothing", "Transfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n", 404),
            ]
            .map(|(method, path, rest, status)| {
                let end = if rest.contains("\r\n\r\n") { "" } else { "\r\n" };
                (format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\n{rest}{end}"), status)
            }) {
                connection.send(&request);
                let response = connection.read_response(request.starts_with("HEAD"));

                assert_eq!(response.status, status, "round {round}: {request}");
                assert_ne!(response.header("Connection"), Some("close"), "{request}");
            }
        }
    }
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    for arguments in WITH_AND_WITHOUT_TLS {
        let server = Server::start(arguments);
        let mut connection = server.connect();
        let head = GET_TASKS.replace("GET", "HEAD");
        let missing = GET_TASKS.replace("tasks", "missing");
        let report = format!("POST {REPORT} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\nhello");
        connection.send([GET_TASKS, &head, &report, &missing, GET_TASKS].concat().repeat(20));

        for _ in 0..20 {
            assert_eq!(connection.read_response(false).body.len(), 128);
            assert_eq!(connection.read_response(true).content_length(), 128);
            assert_eq!(connection.read_response(false).body.len(), 59);
            connection.read_response(false).assert_error(404);
            assert_eq!(connection.read_response(false).body.len(), 128);
        }
    }
}

#[test]
fn a_request_may_arrive_byte_by_byte() {
    let server = Server::start(&["--http"]);
    let mut connection = server.connect();
    for byte in GET_TASKS.bytes() {
        connection.send([byte]);
    }

    assert_eq!(connection.read_response(false).status, 200);
}

#[test]
fn connection_close_is_answered_and_then_done() {
    for arguments in WITH_AND_WITHOUT_TLS {
        let server = Server::start(arguments);
        for header in ["Connection: close", "connection: CLOSE", "Connection: x, close"] {
            let mut connection = server.connect();
            let request = GET_TASKS.replace("\r\n\r\n", &format!("\r\n{header}\r\n\r\n"));
            connection.send(request + GET_TASKS);

            let response = connection.read_response(false);

            assert_eq!(response.status, 200, "{header}");
            assert_eq!(response.header("Connection"), Some("close"), "{header}");
            // The request after the last one gets no answer.
            connection.assert_closed();
        }
    }
}

#[test]
fn http_1_0_is_answered_and_closed() {
    for arguments in WITH_AND_WITHOUT_TLS {
        let server = Server::start(arguments);
        for headers in ["", "Host: localhost\r\n", "X-Unknown: 1\r\n"] {
            let mut connection = server.connect();
            connection.send(format!("GET {TASKS} HTTP/1.0\r\n{headers}\r\n"));

            let response = connection.read_response(false);

            assert_eq!(response.status, 200, "{headers}");
            assert_eq!(response.body.len(), 128, "{headers}");
            connection.assert_closed();
        }
        let report = format!("POST {REPORT} HTTP/1.0\r\nContent-Length: 5\r\n\r\nhello");
        assert_eq!(server.raw(report).body.len(), 59);
    }
}

#[test]
fn a_client_that_closes_after_its_request_still_gets_the_answer() {
    for arguments in WITH_AND_WITHOUT_TLS {
        let server = Server::start(arguments);
        let mut connection = server.connect();
        connection.send(GET_TASKS);
        connection.finish_sending();

        assert_eq!(connection.read_response(false).status, 200);
        connection.assert_closed();
    }
}

#[test]
fn http_1_1_without_a_valid_host_is_200_with_a_note_and_400_when_strict() {
    let hostless = format!("GET {TASKS} HTTP/1.1\r\n\r\n");
    let strange = format!("GET {TASKS} HTTP/1.1\r\nHost: ?? ??\r\n\r\n");
    let server = Server::start(&[]);
    let strict = Server::start(&["--strict"]);
    for request in [hostless, strange] {
        assert_eq!(server.raw(&request).status, 200, "{request}");
        server.wait_for_line(|line| line.starts_with("    note: ") && line.contains("Host"));

        let sentence = strict.raw(&request).assert_error(400);
        assert!(sentence.contains("Host"), "{request}: {sentence}");
    }
    for host in ["localhost", "production.example:99", "[::1]:5000"] {
        let request = format!("GET {TASKS} HTTP/1.1\r\nHost: {host}\r\n\r\n");

        assert_eq!(strict.raw(request).status, 200, "{host}");
    }
}

#[test]
fn unusual_but_valid_heads_are_accepted() {
    let server = Server::start(&[]);
    let hundred = (1..100).map(|i| format!("X-{i}: {i}\r\n")).collect::<String>();
    for (name, headers) in [
        ("a hundred headers", hundred.as_str()),
        ("a header of 60,000 bytes", &format!("X-Long: {}\r\n", "x".repeat(60_000))),
        ("a value in UTF-8", "X-Name: Jos\u{e9}\r\n"),
        ("an empty value", "X-Empty:\r\n"),
        ("no space after the colon", "X-Tight:1\r\n"),
        ("spaces around the value", "X-Loose: \t 1 \t\r\n"),
        ("the same header twice", "X-A: 1\r\nX-A: 2\r\n"),
        ("an upgrade", "Connection: Upgrade\r\nUpgrade: websocket\r\n"),
        ("an empty Content-Length body on GET", "Content-Length: 0\r\n"),
        ("credentials", "Authorization: Basic YTpi\r\nCookie: a=b\r\n"),
    ] {
        let request = format!("GET {TASKS} HTTP/1.1\r\nHost: localhost\r\n{headers}\r\n");

        let response = server.raw(request);

        assert_eq!((response.status, response.body.len()), (200, 128), "{name}");
    }
    let latin_1 = b"GET /xyz/api/cleaner/tasks HTTP/1.1\r\nHost: a\r\nX-Name: Jos\xe9\r\n\r\n";
    assert_eq!(server.raw(latin_1).status, 200, "a value in Latin-1");
    assert_eq!(server.raw(format!("\r\n{GET_TASKS}")).status, 200, "an empty line before it");
}

#[test]
fn a_malformed_head_is_refused_with_the_reason() {
    let server = Server::start(&[]);
    let too_many = (1..=100).map(|i| format!("X-{i}: {i}\r\n")).collect::<String>();
    for (request, status, word) in [
        ("GET / x HTTP/1.1\r\n\r\n", 400, "line 1"),
        ("GET\r\n\r\n", 400, "line 1"),
        ("GET /\r\n\r\n", 400, "HTTP/0.9"),
        ("GET / HTTP/9\r\n\r\n", 400, "HTTP/9"),
        ("GET / HTTP/9.9\r\n\r\n", 400, "HTTP/9.9"),
        ("GET / http/1.1\r\n\r\n", 400, "http/1.1"),
        (" GET / HTTP/1.1\r\n\r\n", 400, "line 1"),
        ("G\u{e9}T / HTTP/1.1\r\n\r\n", 400, "line 1"),
        ("GET / HTTP/2.0\r\n\r\n", 505, "HTTP/2.0"),
        ("GET / HTTP/3.0\r\n\r\n", 505, "HTTP/3.0"),
        ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505, "HTTP/2"),
        ("GET / HTTP/1.1\r\nno colon\r\n\r\n", 400, "colon"),
        ("GET / HTTP/1.1\r\nSpace : 1\r\n\r\n", 400, "space"),
        ("GET / HTTP/1.1\r\nA: 1\r\n folded\r\n\r\n", 400, "line 3"),
        ("GET / HTTP/1.1\r\nA: \0\r\n\r\n", 400, "NUL"),
        ("GET / HTTP/1.1\r\nA: \u{1}\r\n\r\n", 400, "line 2"),
        ("GET / HTTP/1.1\r\nA: a\rb\r\n\r\n", 400, "CR"),
        ("GET / HTTP/1.1\nHost: a\n\n", 400, "LF"),
        ("GET / HTTP/1.1\r\nA: 1\nB: 2\r\n\r\n", 400, "LF"),
        (&format!("GET /{} HTTP/1.1\r\n\r\n", "x".repeat(70_000)), 414, "target"),
        (&format!("GET / HTTP/1.1\r\nA: {}\r\n\r\n", "x".repeat(70_000)), 431, "65,536"),
        (&format!("GET / HTTP/1.1\r\nHost: a\r\n{too_many}\r\n"), 431, "100"),
        ("POST / HTTP/1.1\r\nTransfer-Encoding: gzip\r\n\r\n", 501, "gzip"),
    ] {
        let start = request.get(..60).unwrap_or(request);
        let mut connection = server.connect();
        connection.send(request);

        let response = connection.read_response(false);

        assert_eq!(response.status, status, "{start:?}");
        let sentence = response.assert_error(status);
        assert!(sentence.contains(word), "{start:?}: {sentence}");
        assert_eq!(response.header("Connection"), Some("close"), "{start:?}");
        connection.assert_closed();
        server.wait_for_line(|line| line.ends_with(&sentence));
    }
    assert_eq!(server.get(TASKS).status, 200, "the next client");
}

#[test]
fn a_malformed_request_on_a_kept_connection_ends_it_after_the_good_answers() {
    let server = Server::start(&[]);
    let mut connection = server.connect();
    connection.send(format!("{GET_TASKS}{GET_TASKS}nonsense\r\n\r\n{GET_TASKS}"));

    assert_eq!(connection.read_response(false).status, 200);
    assert_eq!(connection.read_response(false).status, 200);
    connection.read_response(false).assert_error(400);
    connection.assert_closed();
}

#[test]
fn plain_http_on_the_https_port_is_told_to_use_https() {
    let server = Server::start(&[]);
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, server.port()));
    let mut connection = Connection::plain(address);
    connection.send(GET_TASKS);

    let response = connection.read_response(false);

    assert_eq!(response.status, 400);
    let url = format!("{}{TASKS}", server.url());
    let body = String::from_utf8_lossy(&response.body);
    assert!(body.contains(&url), "{body}");
    connection.assert_closed();
    let sentence = server.wait_for_failed_connection();
    assert!(sentence.contains("https://"), "{sentence}");
    assert_eq!(server.get(TASKS).status, 200, "the next client");
}

#[test]
fn a_head_that_stalls_is_408_after_the_timeout() {
    let server = Server::start(&["--timeout", "1"]);
    let mut connection = server.connect();
    connection.send("GET /xyz/api/cleaner/tasks HTTP/1.1\r\nHost: loc");

    let response = connection.read_response(false);

    let sentence = response.assert_error(408);
    assert_eq!(response.header("Connection"), Some("close"));
    connection.assert_closed();
    server.wait_for_line(|line| line.ends_with(&sentence));
}

#[test]
fn an_idle_connection_is_closed_after_the_timeout_without_an_answer() {
    for arguments in [&["--timeout", "1"][..], &["--timeout", "1", "--http"]] {
        let server = Server::start(arguments);
        let mut connection = server.connect();
        connection.send(GET_TASKS);
        assert_eq!(connection.read_response(false).status, 200);

        connection.assert_closed();
    }
}

#[test]
fn nobody_waits_for_clients_that_say_nothing() {
    for arguments in WITH_AND_WITHOUT_TLS {
        let server = Server::start(arguments);
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, server.port()));
        let silent: Vec<Connection> = (0..20).map(|_| Connection::plain(address)).collect();
        let mut halfway = server.connect();
        halfway.send(format!("POST {REPORT} HTTP/1.1\r\nContent-Length: 9\r\n\r\nhalf"));
        let started = Instant::now();

        assert_eq!(server.get(TASKS).status, 200);

        // Far below the 30 seconds for which the server bears silence.
        assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
        halfway.send("-done");
        assert_eq!(halfway.read_response(false).status, 200);
        drop(silent);
    }
}

#[test]
fn both_loopback_addresses_answer_on_the_same_port() {
    for arguments in WITH_AND_WITHOUT_TLS {
        let server = Server::start(arguments);
        for address in loopback_addresses() {
            let mut connection = server.connect_to(address, "localhost");
            connection.send(GET_TASKS);

            assert_eq!(connection.read_response(false).status, 200, "{address}");
        }
    }
}

#[test]
fn no_answer_waits_for_a_delayed_acknowledgement() {
    let folder = data_folder();
    let tasks = format!("{{\"tasks\": [{{\"id\": 1, \"name\": \"{}\"}}]}}", "x".repeat(4096));
    std::fs::write(folder.path().join("tasks.json"), tasks).expect("the tasks");
    for arguments in WITH_AND_WITHOUT_TLS {
        let server = Server::start(&[arguments, &["--data", text(folder.path())]].concat());
        let mut connection = server.connect();
        let mut durations: Vec<Duration> = (0..51)
            .map(|_| {
                let started = Instant::now();
                connection.send(GET_TASKS);
                assert!(connection.read_response(false).body.len() > 4096);
                started.elapsed()
            })
            .collect();
        durations.sort_unstable();

        // With the delay each answer takes 40 ms; without it, less than one.
        assert!(durations[25] < Duration::from_millis(20), "{:?}", durations[25]);
    }
}
