//! `--fault`, as a client meets it on the wire: which request, and how its answer goes wrong.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use rustls::CertificateError;
use serde_json::{Value, json};

use crate::connection::{Connection, Response, client_configuration};
use crate::front::refusal::{is_gone, open, read_to_the_end};
use crate::support::{DOWNLOAD, REPORT, Server, TASKS, WITH_AND_WITHOUT_TLS, built_in, is_skipped_under_wine};

const STEPS: [(&str, &str); 3] = [("GET", TASKS), ("GET", DOWNLOAD), ("POST", REPORT)];

/// A request that ends its connection; a report has one file.
fn request(method: &str, target: &str, more: &str) -> String {
    let head = format!("{method} {target}?id=1 HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{more}");
    match method {
        "POST" => {
            let body = "--b\r\nContent-Disposition: form-data; name=\"file\"; filename=\"r.zip\"\r\n\r\nx\r\n--b--\r\n";
            let kind = "Content-Type: multipart/form-data; boundary=b";
            format!("{head}{kind}\r\nContent-Length: {}\r\n\r\n{body}", body.len())
        }
        _ => format!("{head}\r\n"),
    }
}

fn ask(server: &Server, method: &str, target: &str) -> Connection {
    let mut connection = server.connect();
    connection.send(request(method, target, ""));
    connection
}

fn answered(server: &Server, method: &str, target: &str) -> Response {
    ask(server, method, target).read_response(method == "HEAD")
}

/// The same on a bare socket.
fn ask_plainly(server: &Server, method: &str, target: &str) -> TcpStream {
    let mut stream = open(server);
    stream.write_all(request(method, target, "").as_bytes()).expect("the server reads");
    stream
}

/// Of the requests in the order in which they came.
fn events(server: &Server, count: usize) -> Vec<Value> {
    let mut events: Vec<Value> = (1..=count).map(|index| server.wait_for_event(index)).collect();
    events.sort_by_key(|event| event["request"].as_u64());
    events
}

#[test]
fn unavailable_meets_the_first_and_third_and_fifth_request_of_each_step() {
    for arguments in WITH_AND_WITHOUT_TLS {
        let server = Server::start(&[arguments, &["--fault", "unavailable"]].concat());
        // The steps take turns of their own, and what is none takes no turn.
        for (round, is_met) in [true, false, true, false, true].into_iter().enumerate() {
            for (method, target) in STEPS {
                assert_eq!(answered(&server, "HEAD", TASKS).status, 200);
                let response = answered(&server, method, target);
                if is_met {
                    let sentence = response.assert_error(503);
                    assert!(sentence.contains("--fault unavailable"), "{sentence}");
                    assert_eq!(response.header("Retry-After"), Some("1"));
                } else {
                    assert_eq!(response.status, 200, "{method} {target} in round {round}");
                }
            }
        }

        let events = events(&server, 30);
        let steps: Vec<&Value> = events.iter().filter(|event| event["method"] != "HEAD").collect();
        for (index, event) in steps.iter().enumerate() {
            let is_met = index / 3 % 2 == 0;
            assert_eq!(event["fault"], if is_met { json!("unavailable") } else { json!(null) }, "{event}");
            assert_eq!(event["status"], if is_met { 503 } else { 200 });
            assert_eq!(event["delivered"], true);
        }
        assert!(events.iter().filter(|event| event["method"] == "HEAD").all(|event| event["fault"].is_null()));
        server.wait_for_line(|line| line.starts_with("Fault        unavailable: ") && line.contains("on purpose"));
        server.wait_for_line(|line| line == "    fault unavailable, on purpose");
    }
}

/// A report is read and kept before its answer goes wrong.
#[test]
fn a_report_that_meets_a_fault_is_kept() {
    for fault in ["unavailable", "reset", "cut"] {
        let server = Server::start(&["--http", "--fault", fault]);

        read_to_the_end(&mut ask_plainly(&server, "POST", REPORT));

        let event = server.wait_for_event(1);
        assert_eq!((&event["fault"], &event["parts"][0]["filename"]), (&json!(fault), &json!("r.zip")), "{event}");
        assert!(event["parts"][0]["saved"].is_string(), "{event}");
    }
}

#[test]
fn what_is_wrong_with_a_request_is_said_although_it_meets_a_fault() {
    let server = Server::start(&["--http", "--fault", "unavailable"]);

    server.get(&format!("{DOWNLOAD}?id=7")).assert_error(503);

    let event = server.wait_for_event(1);
    assert_eq!(event["findings"], json!(["there is no task with the id 7"]));
}

#[test]
fn reset_is_a_reset_without_an_answer() {
    let server = Server::start(&["--http", "--fault", "reset"]);
    for (method, target) in STEPS {
        let mut bytes = Vec::new();
        let end = ask_plainly(&server, method, target).read_to_end(&mut bytes);

        assert_eq!(end.expect_err("no reset").kind(), ErrorKind::ConnectionReset);
        assert_eq!(bytes, b"");
        assert_eq!(answered(&server, method, target).status, 200);
    }
    for (index, event) in events(&server, 6).iter().enumerate() {
        let (is_met, met) = (index % 2 == 0, json!("reset"));
        assert_eq!((&event["fault"], &event["delivered"]), (if is_met { &met } else { &json!(null) }, &json!(!is_met)));
        assert_eq!(event["bytes_out"] == 0, is_met, "{event}");
    }
}

#[test]
fn reset_over_tls_has_no_close_notify() {
    let server = Server::start(&["--fault", "reset"]);
    let mut connection = ask(&server, "GET", TASKS);
    let error = connection.read_to_end().expect_err("no reset").1;
    assert!(is_gone(&error), "{error:?}");
}

#[test]
fn cut_promises_all_and_ends_in_the_middle() {
    for arguments in WITH_AND_WITHOUT_TLS {
        let server = Server::start(&[arguments, &["--fault", "cut"]].concat());
        for (method, target) in STEPS {
            let mut connection = ask(&server, method, target);
            let (bytes, error) = match connection.read_to_end() {
                Ok(bytes) => (bytes, None),
                Err((bytes, error)) => (bytes, Some(error.kind())),
            };
            // Rustls tells a missing close_notify so.
            assert_eq!(error, arguments.is_empty().then_some(ErrorKind::UnexpectedEof));
            let whole = answered(&server, method, target);
            assert_eq!(whole.status, 200);
            let text = String::from_utf8_lossy(&bytes);
            let head_bytes = text.find("\r\n\r\n").expect("a whole head") + 4;
            assert!(text.contains(&format!("\r\nContent-Length: {}\r\n", whole.body.len())), "{text}");
            assert!(bytes.ends_with(&whole.body[..whole.body.len() / 2]));
            assert_eq!(bytes.len() - head_bytes, whole.body.len() / 2);
        }
        let cut: Vec<Value> = events(&server, 6).into_iter().filter(|event| event["fault"] == "cut").collect();
        let sent: Vec<&Value> = cut.iter().map(|event| &event["bytes_out"]).collect();
        assert_eq!(sent, [64, 183, 29], "of 128, 366 and 59");
        assert!(cut.iter().all(|event| event["delivered"] == false), "{cut:#?}");
    }
}

#[test]
fn a_download_that_was_cut_continues_by_range() {
    let server = Server::start(&["--http", "--fault", "cut"]);
    let tool = built_in("1797242037.zip");
    let first = read_to_the_end(&mut ask_plainly(&server, "GET", DOWNLOAD));
    let first = &first[first.len() - tool.len() / 2..];

    let mut connection = server.connect();
    connection.send(request("GET", DOWNLOAD, &format!("Range: bytes={}-\r\n", first.len())));
    let rest = connection.read_response(false);

    assert_eq!(rest.status, 206);
    assert!([first, &rest.body].concat() == tool, "the two pieces are not the tool");
}

#[test]
fn slow_sends_the_head_at_once_and_ten_pieces_half_a_second_apart() {
    let server = Server::start(&["--http", "--fault", "slow"]);
    let started = Instant::now();
    let mut stream = ask_plainly(&server, "GET", DOWNLOAD);
    let (mut bytes, mut buffer, mut pieces) = (Vec::new(), [0; 4096], Vec::new());
    loop {
        let count = stream.read(&mut buffer).expect("the server sends");
        if count == 0 {
            break;
        }
        bytes.extend(&buffer[..count]);
        pieces.push(count);
    }

    assert!(started.elapsed() >= Duration::from_millis(5000), "{:?}", started.elapsed());
    assert!(bytes.ends_with(&built_in("1797242037.zip")));
    let head_bytes = bytes.len() - 366;
    // A reader that is late may find two pieces at once.
    assert!(pieces[0] == head_bytes && (2..=11).contains(&pieces.len()), "{pieces:?}");
    let event = server.wait_for_event(1);
    assert_eq!(
        (&event["fault"], &event["delivered"], &event["bytes_out"]),
        (&json!("slow"), &json!(true), &json!(366))
    );
    assert_eq!(answered(&server, "GET", DOWNLOAD).status, 200);
}

/// The last piece goes to a client that has just given up.
#[test]
fn slow_tells_a_client_that_leaves_before_the_last_piece() {
    if is_skipped_under_wine("the reset of a connection that its client has closed before, which wine does not tell") {
        return;
    }
    let server = Server::start(&["--http", "--fault", "slow"]);
    let mut stream = TcpStream::connect(server.address()).expect("the server listens");
    stream.write_all(format!("GET {DOWNLOAD} HTTP/1.1\r\nHost: localhost\r\n\r\n").as_bytes()).expect("it reads");
    let (mut bytes, mut buffer) = (Vec::new(), [0; 4096]);
    while !bytes.ends_with(&built_in("1797242037.zip")[..329]) {
        let count = stream.read(&mut buffer).expect("the server sends");
        bytes.extend(&buffer[..count]);
    }
    drop(stream);

    let event = server.wait_for_event(1);

    assert_eq!((&event["fault"], &event["delivered"]), (&json!("slow"), &json!(false)), "{event}");
}

#[test]
fn hang_gives_no_answer_until_the_timeout() {
    for arguments in WITH_AND_WITHOUT_TLS {
        let server = Server::start(&[arguments, &["--fault", "hang", "--timeout", "1"]].concat());
        let started = Instant::now();
        let mut connections = STEPS.map(|(method, target)| ask(&server, method, target));

        for connection in &mut connections {
            let bytes = connection.read_to_end().unwrap_or_else(|(bytes, _)| bytes);
            assert_eq!(bytes, b"");
        }

        assert!(started.elapsed() >= Duration::from_secs(1), "{:?}", started.elapsed());
        for event in events(&server, 3) {
            assert_eq!((&event["fault"], &event["delivered"]), (&json!("hang"), &json!(false)), "{event}");
            let finding = event["findings"][0].as_str().expect("a sentence");
            assert!(
                finding.starts_with("the client waited ") && finding.contains("until the server closed"),
                "{finding}"
            );
        }
        assert!(STEPS.iter().all(|(method, target)| answered(&server, method, target).status == 200));
    }
}

/// Of a timeout that nobody would wait for.
#[test]
fn hang_ends_with_the_client_and_holds_up_nobody_else() {
    for arguments in WITH_AND_WITHOUT_TLS {
        let server = Server::start(&[arguments, &["--fault", "hang", "--timeout", "1000"]].concat());
        let hanging = ask(&server, "GET", TASKS);
        let other = answered(&server, "GET", "/");
        assert_eq!(other.status, 404);
        drop(hanging);

        let events = events(&server, 2);
        let event = events.iter().find(|event| event["target"].as_str().is_some_and(|target| target.contains(TASKS)));

        let event = event.expect("the request that hung");
        assert_eq!((&event["fault"], &event["findings"]), (&json!("hang"), &json!([])), "{event}");
    }
}

/// It would take longer than a test waits.
#[test]
fn hang_does_not_hold_up_the_end() {
    let mut server = Server::start(&["--http", "--fault", "hang", "--timeout", "1000"]);
    let mut stuck = server.connect();
    let request = request("POST", REPORT, "Expect: 100-continue\r\n");
    let (head, body) = request.split_once("\r\n\r\n").expect("a head and a body");
    stuck.send(format!("{head}\r\n\r\n"));
    assert!(stuck.read_bytes(25).starts_with(b"HTTP/1.1 100 "));
    stuck.send(body);

    let finished = server.stop();

    assert_eq!(finished.code, Some(0));
    assert!(finished.stdout.contains("not counted: 1 request still on the way"), "{}", finished.stdout);
}

#[test]
fn a_wrong_certificate_is_wrong_as_it_says_and_the_console_says_that_it_is_meant() {
    for fault in ["expired", "wrong-host", "untrusted-root"] {
        let server = Server::start(&["--fault", fault]);
        let configuration = client_configuration(server.authority(), rustls::ALL_VERSIONS);

        let refused = Connection::tls(server.address(), "localhost", configuration.into());

        let error = refused.expect_err("the certificate is wrong");
        let cause = error.get_ref().and_then(|cause| cause.downcast_ref::<rustls::Error>());
        let Some(rustls::Error::InvalidCertificate(cause)) = cause else { panic!("{error:?}") };
        let is_so = match fault {
            "expired" => matches!(cause, CertificateError::Expired | CertificateError::ExpiredContext { .. }),
            "wrong-host" => {
                matches!(cause, CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. })
            }
            _ => matches!(cause, CertificateError::UnknownIssuer | CertificateError::BadSignature),
        };
        assert!(is_so, "{fault}: {cause:?}");
        let told = server.wait_for_failed_connection();
        let meant = format!(": it is wrong on purpose (--fault {fault})");
        assert!(told.ends_with(&meant), "{told}");
        let event = server.wait_for_event(1);
        assert_eq!((&event["event"], &event["note"]), (&json!("connection"), &json!(told)), "{event}");
    }
}

/// Who does not verify gets through, and the journal says with each request that it should not have.
#[test]
fn a_request_over_a_wrong_certificate_meets_that_fault() {
    let server = Server::start(&["--fault", "wrong-host"]);
    let configuration = client_configuration(server.authority(), rustls::ALL_VERSIONS);
    let connection = Connection::tls(server.address(), "other.invalid", configuration.into());
    let mut connection = connection.expect("the certificate is for that name");
    for _ in 0..2 {
        connection.send(format!("GET {TASKS} HTTP/1.1\r\nHost: localhost\r\n\r\n"));
        assert_eq!(connection.read_response(false).status, 200);
    }

    for event in events(&server, 2) {
        assert_eq!((&event["fault"], &event["delivered"]), (&json!("wrong-host"), &json!(true)), "{event}");
    }
}
