//! GET /xyz/api/cleaner/tasks: the list of tasks.

use std::time::{Duration, SystemTime};

use crate::support::{Server, TASKS, WITH_AND_WITHOUT_TLS};

/// Byte for byte what the Flask script sends.
const FLASKS_ANSWER: &str = r#"{
  "tasks": [
    {
      "id": 1,
      "name": "vuln scan"
    },
    {
      "id": 2,
      "name": "disinfect"
    }
  ]
}
"#;

#[test]
fn get_tasks_sends_the_128_bytes_that_flask_sends() {
    assert_eq!(FLASKS_ANSWER.len(), 128);
    for arguments in WITH_AND_WITHOUT_TLS {
        let server = Server::start(arguments);

        let response = server.get(TASKS);

        assert_eq!(response.status, 200, "{arguments:?}");
        assert_eq!(response.header("Content-Type"), Some("application/json"));
        assert_eq!(String::from_utf8_lossy(&response.body), FLASKS_ANSWER);
    }
}

#[test]
fn head_of_tasks_has_the_headers_of_get_and_no_body() {
    for arguments in WITH_AND_WITHOUT_TLS {
        let server = Server::start(arguments);

        // `request` has asserted that nothing follows the head.
        let response = server.request("HEAD", TASKS, &[]);

        assert_eq!(response.status, 200, "{arguments:?}");
        assert_eq!(response.header("Content-Type"), Some("application/json"));
        assert_eq!(response.content_length(), FLASKS_ANSWER.len());
    }
}

#[test]
fn an_answer_names_the_server_and_tells_the_time() {
    let server = Server::start(&[]);

    let response = server.get(TASKS);

    let date = response.header("Date").expect("Date is there");
    let date = httpdate::parse_http_date(date).expect("Date is a date");
    let age = SystemTime::now().duration_since(date).unwrap_or_default();
    assert!(age < Duration::from_secs(60), "Date is {age:?} old");
    let name = response.header("Server").expect("Server is there");
    assert!(!name.is_empty());
}

#[test]
fn an_answer_has_no_header_that_flask_would_not_send() {
    let server = Server::start(&[]);

    let response = server.request("GET", TASKS, &["Origin: https://a.b", "Accept-Encoding: gzip"]);

    for name in ["Access-Control-Allow-Origin", "Content-Encoding", "Transfer-Encoding"] {
        assert_eq!(response.header(name), None, "{name}");
    }
}

#[test]
fn a_query_and_a_range_do_not_change_the_tasks() {
    let server = Server::start(&[]);
    for (target, headers) in [
        ("/xyz/api/cleaner/tasks?", &[][..]),
        ("/xyz/api/cleaner/tasks?id=1&x=%zz", &[]),
        ("/xyz/api/cleaner/tasks", &["Range: bytes=0-9"]),
        ("/xyz/api/cleaner/tasks", &["If-None-Match: *"]),
        ("/xyz/api/cleaner/tasks", &["Accept: text/html"]),
    ] {
        let response = server.request("GET", target, headers);

        assert_eq!(response.status, 200, "{target} {headers:?}");
        assert_eq!(String::from_utf8_lossy(&response.body), FLASKS_ANSWER);
    }
}
