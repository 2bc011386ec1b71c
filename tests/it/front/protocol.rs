//! HTTP/1.1 itself: kept connections, their end, and answers that come in order and without delay.

use crate::support::{
    DOWNLOAD, REPORT, Server, TASKS, WITH_AND_WITHOUT_TLS, data_folder, loopback_addresses, medians, text,
};

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

/// Such a wait of 40 ms would hide the work: one answer would take as long as ten that are asked for together.
#[test]
fn no_answer_waits_for_a_delayed_acknowledgement() {
    let folder = data_folder();
    let tasks = format!("{{\"tasks\": [{{\"id\": 1, \"name\": \"{}\"}}]}}", "x".repeat(4096));
    std::fs::write(folder.path().join("tasks.json"), tasks).expect("the tasks");
    for arguments in WITH_AND_WITHOUT_TLS {
        let server = Server::start(&[arguments, &["--data", text(folder.path())]].concat());
        let mut connection = server.connect();

        let [one, ten] = medians([1, 10], |count| {
            connection.send(GET_TASKS.repeat(*count));
            for _ in 0..*count {
                assert!(connection.read_response(false).body.len() > 4096);
            }
        });

        assert!(ten > 2 * one, "{arguments:?}: one answer takes {one:?}, ten take {ten:?}");
    }
}
