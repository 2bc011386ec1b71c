//! The end: however it is asked for, console and journal say which of the three steps the client did, and whether it is
//! ready.

use std::fs;
use std::sync::Arc;

use rustls::RootCertStore;
use serde_json::{Value, json};

use crate::api::report::{MULTIPART, form, text_part};
use crate::connection::{Connection, client_configuration};
use crate::process::Finished;
use crate::support::{DOWNLOAD, REPORT, Server, TASKS, WITH_AND_WITHOUT_TLS, command, data_folder, program, text};

#[cfg(unix)]
#[test]
fn ctrl_c_ends_with_the_checklist() {
    ends_with_the_checklist(Server::interrupt);
}

#[cfg(unix)]
#[test]
fn sigterm_ends_with_the_checklist() {
    ends_with_the_checklist(Server::terminate);
}

#[test]
fn standard_input_that_closes_ends_with_the_checklist() {
    ends_with_the_checklist(Server::stop);
}

/// The loop stays awake for 100 µs after an answer, and must not miss the word to end then.
#[test]
fn it_ends_too_in_the_moment_after_an_answer() {
    for _ in 0..20 {
        let mut server = Server::start(&["--http"]);
        assert_eq!(server.get(TASKS).status, 200);
        assert_eq!(server.stop().code, Some(0));
    }
}

fn ends_with_the_checklist(end: fn(&mut Server) -> Finished) {
    for arguments in WITH_AND_WITHOUT_TLS {
        let mut server = Server::start(arguments);
        for target in [TASKS, TASKS, DOWNLOAD] {
            assert_eq!(server.get(target).status, 200);
        }
        // An open connection must not hold the end up.
        let connection = server.connect();

        let finished = end(&mut server);

        assert_eq!(finished.code, Some(0));
        let checklist = "\nWhat the client did:\n  tasks     2 times\n  download  once, 1 with findings\n  \
            report    never\n\nNOT READY\n  download: the request does not say which task it is for: it has no id \
            (expected: id=N, with the id of a task in tasks.json: 1, 2)\n  \
            report: never sent; send POST /xyz/api/cleaner/tasks/report\n";
        assert!(finished.stdout.ends_with(checklist), "{}", finished.stdout);
        let stopped = stopped(&server);
        assert_eq!(steps(&stopped), [[2, 0, 0, 0, 0], [1, 1, 0, 0, 0], [0; 5]]);
        assert_eq!((&stopped["beside"], &stopped["server_failures"]), (&json!([]), &json!(0)));
        assert!(!server.record.path().join("ready.json").exists());
        drop(connection);
    }
}

#[test]
fn a_client_that_did_all_right_is_ready_and_the_journal_says_so_before_the_stop() {
    for arguments in WITH_AND_WITHOUT_TLS {
        let mut server = Server::start(arguments);
        server.get(TASKS);
        for range in ["bytes=100-", "bytes=0-99"] {
            assert_eq!(server.request("GET", &format!("{DOWNLOAD}?id=1"), &[&format!("Range: {range}")]).status, 206);
        }
        server.post(REPORT, MULTIPART, &[text_part("id", "1").as_bytes(), &form(b"x")].concat());

        let finished = server.stop();

        let ready = "\n\nready: the client did each of the three steps, and nothing wrong\n";
        assert!(finished.stdout.ends_with(ready), "{}", finished.stdout);
        let journal = server.journal();
        let events: Vec<&Value> = journal.iter().map(|event| &event["event"]).collect();
        assert_eq!(events[5..], ["verdict", "stop"]);
        assert_eq!((&journal[5]["ready"], &journal[5]["reasons"]), (&json!(true), &json!([])));
        assert_eq!((&journal[5]["command"], &journal[5]["exit_code"]), (&Value::Null, &Value::Null));
    }
}

#[test]
fn where_no_client_came_nobody_is_blamed() {
    let mut server = Server::start(&[]);

    let finished = server.stop();

    let kind = "\n\nNo client came. The first lines say where to send requests.\n";
    assert!(finished.stdout.ends_with(kind), "{}", finished.stdout);
    let journal = server.journal();
    assert_eq!((&journal[1]["ready"], &journal[1]["reasons"]), (&json!(false), &json!(["no request came"])));
}

#[test]
fn the_checklist_counts_what_was_refused() {
    let mut server = Server::start(&["--strict"]);
    for id in ["1", "2", "7"] {
        server.get(&format!("{DOWNLOAD}?id={id}"));
    }
    server.post(REPORT, "text/plain", b"PASSED");
    server.post(REPORT, MULTIPART, &form(b""));
    server.post(REPORT, MULTIPART, &form(b"x"));

    let finished = server.stop();

    let checklist = "  tasks     never\n  download  3 times, 1 with findings, 1 refused\n  \
        report    3 times, 2 with findings, 2 refused\n";
    assert!(finished.stdout.contains(checklist), "{}", finished.stdout);
    assert_eq!(steps(&stopped(&server)), [[0; 5], [3, 1, 1, 0, 0], [3, 2, 2, 0, 0]]);
}

/// Otherwise it would only say "never" three times.
#[test]
fn what_went_wrong_beside_the_three_steps_is_told_by_cause() {
    let mut server = Server::start(&[]);
    let told = |method: &str, target: &str| {
        server.request(method, target, &[]);
        // One that is told later would stand below the others.
        server.wait_for_request(method, target);
    };
    told("HEAD", &format!("{TASKS}?id=1"));
    told("OPTIONS", REPORT);
    told("PUT", REPORT);
    for _ in 0..2 {
        told("DELETE", &format!("{TASKS}?id=1"));
        told("GET", "/tasks?id=1");
    }
    server.raw("GARBAGE\r\n\r\n").assert_error(400);
    server.wait_for_line(|line| line.contains("GARBAGE"));
    for path in ["/a", "/b"] {
        let mut plain = Connection::plain(server.address());
        plain.send(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n"));
        plain.read_response(false).assert_error(400);
        plain.assert_closed();
    }
    server.wait_for_line(|line| line.contains("this port speaks HTTPS"));
    let distrust = Arc::new(client_configuration(RootCertStore::empty(), rustls::ALL_VERSIONS));
    Connection::tls(server.address(), "localhost", distrust).expect_err("the client trusts nobody");
    server.wait_for_line(|line| line.contains("unknown_ca"));

    let finished = server.stop();

    let told = finished.stdout.split("What the client did:\n").nth(1).expect("a checklist");
    let beside = "  tasks     never\n  download  never\n  report    never\n  \
        wrong method, once: PUT /xyz/api/cleaner/tasks/report\n  \
        wrong method, 2 times: DELETE /xyz/api/cleaner/tasks\n  \
        other path, 2 times: GET /tasks\n  \
        other request, once: malformed: line 1 of the request is not a method, a target and HTTP/1.1, with one space \
            between them: \"GARBAGE\"\n  \
        connection, 2 times: this port speaks HTTPS\n  \
        connection, once: does not trust the certificate (TLS alert unknown_ca)\n";
    assert!(told.starts_with(beside), "{told}");
    let how = "allowed are POST, OPTIONS; send the report by POST: curl -F file=@report.zip URL\n";
    assert!(told.contains(how), "{told}");
    let stopped = stopped(&server);
    assert_eq!(stopped["beside"][2], json!({ "kind": "other path", "what": "GET /tasks", "times": 2 }));
    assert_eq!(stopped["beside"].as_array().map(Vec::len), Some(6), "{stopped}");
}

#[test]
fn only_so_many_things_of_a_kind_are_told_apart() {
    let mut server = Server::start(&["--http"]);
    for number in 0..30 {
        let path = format!("/{number}");
        server.get(&path);
        server.wait_for_request("GET", &path);
    }

    let finished = server.stop();

    assert!(finished.stdout.contains("\n  other path, once: GET /19\n"), "{}", finished.stdout);
    assert!(finished.stdout.contains("\n  other path, 10 times: others\n"), "{}", finished.stdout);
    assert!(!finished.stdout.contains("GET /20\n"), "{}", finished.stdout);
}

/// The client is not to blame, and its developer is not to search.
#[test]
fn what_failed_on_the_servers_side_is_counted_apart() {
    let data = data_folder();
    let mut server = Server::start(&["--data", text(data.path())]);
    fs::write(data.path().join("tasks.json"), "{").expect("the data can be broken");
    for _ in 0..2 {
        server.get(TASKS).assert_error(500);
    }

    let finished = server.stop();

    assert!(finished.stdout.contains("\n  tasks     2 times\n"), "{}", finished.stdout);
    let told = "\n  2 failures on the server's side: see above\n";
    assert!(finished.stdout.contains(told), "{}", finished.stdout);
    let stopped = stopped(&server);
    assert_eq!(steps(&stopped)[0], [2, 0, 0, 0, 0]);
    assert_eq!((&stopped["beside"], &stopped["server_failures"]), (&json!([]), &json!(2)));
}

/// A client developer who reads "never" would look for the mistake in the wrong place.
#[test]
fn a_step_that_the_server_could_not_do_is_not_called_never() {
    let mut server = Server::start(&["--max-upload", "1K"]);
    let (response, _) = server.recorded(|server| server.post(REPORT, MULTIPART, &form(&[b'x'; 2000])));
    response.assert_error(413);

    let finished = server.stop();

    assert!(finished.stdout.contains("  report    once, 1 refused\n"), "{}", finished.stdout);
}

#[test]
fn a_request_that_is_still_on_its_way_is_said_to_be_uncounted() {
    let mut server = Server::start(&[]);
    let mut connection = server.connect();
    connection.send(format!("POST {REPORT} HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 9\r\n\r\n"));
    // The server has the head once it asks for the body.
    assert!(!connection.has_ended(), "no 100 Continue");

    let finished = server.stop();

    let told = "\n  not counted: 1 request still on the way at the end\n";
    assert!(finished.stdout.contains(told), "{}", finished.stdout);
    assert!(!finished.stdout.contains("No client came"), "{}", finished.stdout);
    assert_eq!(server.journal().last().expect("the stop")["unfinished"], 1);
}

#[test]
fn without_the_option_a_closed_standard_input_means_nothing() {
    let mut server = Server::launch(&mut command(&program()));

    server.close_stdin();

    for _ in 0..20 {
        assert_eq!(server.get(TASKS).status, 200);
    }
}

fn stopped(server: &Server) -> Value {
    let journal = server.journal();
    let last = journal.last().expect("the start at least");
    assert_eq!(last["event"], "stop");
    last["checklist"].clone()
}

/// What was counted of tasks, download and report.
fn steps(checklist: &Value) -> [[u64; 5]; 3] {
    let counts = ["requests", "with_findings", "refused", "partial", "incomplete"];
    let count = |step, count| checklist[step][count].as_u64().expect("a number");
    ["tasks", "download", "report"].map(|step| counts.map(|name| count(step, name)))
}
