//! What a strict server would refuse: only noted without `--strict`, refused with it, and in the same words everywhere.

use std::fs;

use serde_json::json;

use crate::api::report::{MULTIPART, form, text_part};
use crate::connection::Response;
use crate::support::{DOWNLOAD, REPORT, Server, TASKS, built_in, data_folder, text};

struct Mistake {
    what: &'static str,
    request: Vec<u8>,
    status: u16,
    sentence: &'static str,
    /// Parts of what the refusal says to be expected and to have been received.
    expected: &'static str,
    received: &'static str,
}

#[test]
fn without_strict_a_mistake_is_answered_as_flask_does_and_noted() {
    let server = Server::start(&[]);
    for Mistake { what, request, sentence, .. } in mistakes() {
        let (response, event) = server.recorded(|server| server.raw(&request));

        assert_is_flasks_answer(&response, &request, what);
        assert_eq!(event["findings"][0], sentence, "{what}");
        assert_eq!(event["error"], json!(null), "{what}");
        server.wait_for_line(|line| line == format!("    finding: {sentence}"));
    }
}

#[test]
fn with_strict_a_mistake_is_refused_in_the_same_words() {
    let server = Server::start(&["--strict"]);
    for Mistake { what, request, status, sentence, expected, received } in mistakes() {
        let (response, event) = server.recorded(|server| server.raw(&request));

        assert_eq!(response.assert_error(status), sentence, "{what}");
        let answer = response.json();
        assert_eq!(answer.as_object().expect("an object").len(), 3, "{what}: {answer}");
        assert!(answer["expected"].as_str().is_some_and(|text| text.contains(expected)), "{what}: {answer}");
        assert!(answer["received"].as_str().is_some_and(|text| text.contains(received)), "{what}: {answer}");
        assert_eq!(event["status"], status, "{what}");
        assert_eq!(event["error"], sentence, "{what}");
        assert_eq!(event["findings"][0], sentence, "{what}");
        server.wait_for_line(|line| line.contains(&format!("  {status}  ")));
        server.wait_for_line(|line| line == format!("    finding: {sentence}"));
        let is_received =
            |line: &str| line.strip_prefix("      received: ").is_some_and(|told| told.contains(received));
        server.wait_for_line(is_received);
        server.wait_for_line(|line| line.strip_prefix("      expected: ").is_some_and(|told| told.contains(expected)));
    }
}

#[test]
fn what_a_good_client_sends_has_no_findings() {
    let server = Server::start(&["--strict"]);
    let with_id = [text_part("id", "2").as_bytes(), &form(b"x")].concat();
    for (what, request) in [
        ("the list", get(TASKS)),
        ("a download", get(&format!("{DOWNLOAD}?id=1"))),
        ("an id behind another parameter", get(&format!("{DOWNLOAD}?a=b&id=2"))),
        ("an id in percent codes", get(&format!("{DOWNLOAD}?i%64=%31"))),
        ("HTTP/1.0 without Host", format!("GET {TASKS} HTTP/1.0\r\n\r\n").into_bytes()),
        ("an IPv6 address as Host", format!("GET {TASKS} HTTP/1.1\r\nHost: [::1]:5000\r\n\r\n").into_bytes()),
        ("a name with a port as Host", format!("GET {TASKS} HTTP/1.1\r\nHost: a.example:99\r\n\r\n").into_bytes()),
        ("a report without id", post(REPORT, MULTIPART, &form(b"x"))),
        ("a report with an id", post(&format!("{REPORT}?id=1"), MULTIPART, &form(b"x"))),
        ("a report with its id as a field", post(REPORT, MULTIPART, &with_id)),
        ("a type in capitals", post(REPORT, "Multipart/Form-Data; Boundary=\"frontier\"; charset=utf-8", &form(b"x"))),
    ] {
        let (response, event) = server.recorded(|server| server.raw(&request));

        assert_eq!(event["findings"], json!([]), "{what}");
        assert_is_flasks_answer(&response, &request, what);
    }
}

#[test]
fn every_finding_of_a_request_is_noted_and_the_first_refuses_it() {
    let post =
        |host| format!("POST {REPORT}?id=7 HTTP/1.1\r\n{host}Content-Type: text/plain\r\nContent-Length: 2\r\n\r\nhi");
    let sentences = [
        "the report is not sent as multipart/form-data",
        "there is no task with the id 7",
        "the request has no Host header, which HTTP/1.1 demands",
    ];
    // With --strict the request is not read to its end where its head is refused.
    for (arguments, host, status, sentences) in
        [(&[][..], "", 200, &sentences[..]), (&["--strict"], "Host: a\r\n", 415, &sentences[..2])]
    {
        let (server, request) = (Server::start(arguments), post(host));

        let (response, event) = server.recorded(|server| server.raw(&request));

        assert_eq!(response.status, status);
        assert_eq!(event["findings"], json!(sentences));
        for sentence in &sentences[1..] {
            server.wait_for_line(|line| line == format!("    finding: {sentence}"));
        }
    }
}

#[test]
fn a_client_that_asks_only_for_the_head_is_refused_too() {
    let server = Server::start(&["--strict"]);

    let response = server.request("HEAD", DOWNLOAD, &[]);

    assert_eq!(response.status, 400);
    assert_eq!(response.header("Content-Type"), Some("application/json"));
    assert!(response.content_length() > 0);
}

#[test]
fn a_finding_is_a_sentence_however_long_the_id_is() {
    let server = Server::start(&["--strict"]);
    for (digit, status) in [("9", 404), ("x", 400)] {
        let sentence = server.get(&format!("{DOWNLOAD}?id={}", digit.repeat(10_000))).assert_error(status);

        assert!(sentence.len() < 300, "{} bytes", sentence.len());
    }
}

#[test]
fn ids_are_checked_against_the_tasks_of_the_moment() {
    let data = data_folder();
    let server = Server::start(&["--strict", "--data", text(data.path())]);
    let download = |id: &str| server.get(&format!("{DOWNLOAD}?id={id}")).status;
    assert_eq!([download("1"), download("disinfect"), download("7")], [200, 400, 404]);

    fs::write(data.path().join("tasks.json"), r#"{"tasks": [{"id": "disinfect"}, {"id": 7}]}"#).expect("an edit");

    assert_eq!([download("1"), download("disinfect"), download("7")], [404, 200, 200]);
}

fn mistakes() -> Vec<Mistake> {
    let download = |what, query: &str, status, sentence, received| {
        let (request, expected) = (get(&format!("{DOWNLOAD}{query}")), "1, 2");
        Mistake { what, request, status, sentence, expected, received }
    };
    let wrong_id = |what, query: &str, field: &str, status, sentence, received| {
        let body = [field.as_bytes(), &form(b"x")].concat();
        let (request, expected) = (post(&format!("{REPORT}{query}"), MULTIPART, &body), "1, 2");
        Mistake { what, request, status, sentence, expected, received }
    };
    let report = |what, content_type: &str, body: &[u8], status, sentence, expected, received| {
        let request = post(REPORT, content_type, body);
        Mistake { what, request, status, sentence, expected, received }
    };
    let head = |what, lines: &str, sentence, expected, received| {
        let request = format!("GET {TASKS} HTTP/1.1\r\n{lines}\r\n").into_bytes();
        Mistake { what, request, status: 400, sentence, expected, received }
    };
    let note = text_part("note", "hi");
    let garbage: Vec<u8> = (0..=255).cycle().take(10_000).collect();
    let only_text = format!("{note}--frontier--\r\n");
    let two_parts = [note.as_bytes(), &form(b"content")].concat();
    let cut = |body: &[u8], count: usize| body[..body.len() - count].to_vec();
    vec![
        download("no id", "", 400, "the request does not say which task it is for: it has no id", "no id"),
        download("a word as id", "?id=one", 400, "the id \"one\" is not a number", "id=one"),
        download("an empty id", "?id=", 400, "the id \"\" is not a number", "id="),
        download("an unknown id", "?id=7", 404, "there is no task with the id 7", "id=7"),
        wrong_id("a report's unknown id", "?id=7", "", 404, "there is no task with the id 7", "id=7"),
        wrong_id("a report's wrong id", "?id=-1", "", 400, "the id \"-1\" is not a number", "id=-1"),
        wrong_id("an unknown id as a field", "", &text_part("id", "8"), 404, "there is no task with the id 8", "id=8"),
        wrong_id("a wrong id as a field", "", &text_part("id", "two"), 400, "the id \"two\" is not a number", "id=two"),
        report("JSON", "application/json", b"{}", 415, NOT_A_FORM, FORM_TYPE, "Content-Type: application/json"),
        report("raw", "application/zip", b"PK", 415, NOT_A_FORM, FORM_TYPE, "Content-Type: application/zip"),
        report("a strange type", "a\"b;;=", &garbage, 415, NOT_A_FORM, FORM_TYPE, "Content-Type: a"),
        report(
            "a text form",
            "application/x-www-form-urlencoded",
            b"id=1&name=x",
            415,
            NOT_A_FORM,
            FORM_TYPE,
            "Content-Type: application/x-www-form-urlencoded",
        ),
        report(
            "mixed",
            "multipart/mixed; boundary=frontier",
            &form(b"x"),
            415,
            NOT_A_FORM,
            FORM_TYPE,
            "Content-Type: multipart/mixed; boundary=frontier",
        ),
        Mistake {
            what: "no type",
            request: format!("POST {REPORT} HTTP/1.1\r\nHost: localhost\r\n\r\n").into_bytes(),
            status: 415,
            sentence: NOT_A_FORM,
            expected: FORM_TYPE,
            received: "no Content-Type",
        },
        report(
            "no boundary",
            "multipart/form-data",
            &form(b"x"),
            400,
            NO_BOUNDARY,
            FORM_TYPE,
            "Content-Type: multipart/form-data",
        ),
        report(
            "an empty boundary",
            "multipart/form-data; boundary=",
            &form(b"x"),
            400,
            NO_BOUNDARY,
            FORM_TYPE,
            "Content-Type: multipart/form-data; boundary=",
        ),
        report(
            "another boundary",
            "multipart/form-data; boundary=other",
            &form(b"x"),
            400,
            "the boundary \"other\" of the Content-Type does not occur in the report",
            "--other--",
            "0 parts",
        ),
        report(
            "garbage",
            MULTIPART,
            &garbage,
            400,
            "the boundary \"frontier\" of the Content-Type does not occur in the report",
            "--frontier--",
            "0 parts",
        ),
        report(
            "an empty body",
            MULTIPART,
            b"",
            400,
            "the body of the report is empty; some encoders give theirs only once",
            "the file as a form field",
            "0 bytes",
        ),
        report(
            "cut off in the head",
            MULTIPART,
            &form(b"content")[..40],
            400,
            "the report breaks off in part 1: its last boundary is missing",
            "--frontier--",
            "1 part",
        ),
        report(
            "cut off in the content",
            MULTIPART,
            &cut(&form(b"content"), 20),
            400,
            "the report breaks off in part 1: its last boundary is missing",
            "--frontier--",
            "1 part",
        ),
        report(
            "cut off in the second part",
            MULTIPART,
            &cut(&two_parts, 20),
            400,
            "the report breaks off in part 2: its last boundary is missing",
            "--frontier--",
            "2 part",
        ),
        report(
            "cut off in the last boundary",
            MULTIPART,
            &cut(&two_parts, 4),
            400,
            "the report breaks off in part 2: its last boundary is missing",
            "--frontier--",
            "2 part",
        ),
        report(
            "no file",
            MULTIPART,
            only_text.as_bytes(),
            422,
            "the report has no file part",
            "a file name",
            "1 part, none with a file name",
        ),
        report(
            "no part",
            MULTIPART,
            b"--frontier--\r\n",
            422,
            "the report has no file part",
            "a file name",
            "0 parts, none with a file name",
        ),
        report(
            "an empty file",
            MULTIPART,
            &form(b""),
            422,
            "the file \"report.zip\" in the report is empty",
            "content",
            "0 bytes",
        ),
        head("no Host", "", "the request has no Host header, which HTTP/1.1 demands", "one Host header", "no Host"),
        head(
            "a strange Host",
            "Host: local host\r\n",
            "the Host \"local host\" is not a name or address with a port",
            "the name and port of the URL",
            "\"local host\"",
        ),
        head(
            "two Hosts",
            "Host: a\r\nHost: b\r\n",
            "the request has 2 Host headers: \"a\" and \"b\"",
            "one Host header",
            "a, b",
        ),
        head(
            "two Ranges",
            "Host: a\r\nRange: bytes=0-1\r\nrange: bytes=2-3\r\n",
            "the request has 2 Range headers: \"bytes=0-1\" and \"bytes=2-3\"",
            "one Range header",
            "bytes=0-1, bytes=2-3",
        ),
    ]
}

fn get(target: &str) -> Vec<u8> {
    format!("GET {target} HTTP/1.1\r\nHost: localhost\r\n\r\n").into_bytes()
}

fn post(target: &str, content_type: &str, body: &[u8]) -> Vec<u8> {
    let length = body.len();
    let head = format!("POST {target} HTTP/1.1\r\nHost: localhost\r\nContent-Type: {content_type}\r\n");
    [format!("{head}Content-Length: {length}\r\n\r\n").as_bytes(), body].concat()
}

#[track_caller]
fn assert_is_flasks_answer(response: &Response, request: &[u8], what: &str) {
    let head = String::from_utf8_lossy(request);
    let (content_type, file) = match head.split([' ', '?']).nth(1) {
        Some(TASKS) => ("application/json", "tasks.json"),
        Some(DOWNLOAD) => ("application/zip", "1797242037.zip"),
        Some(REPORT) => ("application/json", "report.json"),
        other => panic!("no endpoint: {other:?}"),
    };
    assert_eq!(response.status, 200, "{what}");
    assert_eq!(response.header("Content-Type"), Some(content_type), "{what}");
    assert!(response.body == built_in(file), "{what}: {}", response.body.escape_ascii());
}

const NOT_A_FORM: &str = "the report is not sent as multipart/form-data";
const NO_BOUNDARY: &str = "the Content-Type of the report has no boundary";
const FORM_TYPE: &str = "Content-Type left to the HTTP library: curl -F file=@report.zip URL";
