//! The end: however it is asked for, console and journal say which of the three steps the client did.

use serde_json::{Value, json};

use crate::api::report::{MULTIPART, form};
use crate::process::Finished;
use crate::support::{DOWNLOAD, REPORT, Server, TASKS, WITH_AND_WITHOUT_TLS, command, program};

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
        let checklist =
            "\nWhat the client did:\n  tasks     2 times\n  download  once, 1 with findings\n  report    never\n";
        assert!(finished.stdout.ends_with(checklist), "{}", finished.stdout);
        let expected =
            json!({ "tasks": tally([2, 0, 0, 0, 0]), "download": tally([1, 1, 0, 0, 0]), "report": tally([0; 5]) });
        assert_eq!(stopped(&server), expected);
        assert!(!server.record.path().join("ready.json").exists());
        drop(connection);
    }
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
    assert!(finished.stdout.ends_with(checklist), "{}", finished.stdout);
    let expected =
        json!({ "tasks": tally([0; 5]), "download": tally([3, 1, 1, 0, 0]), "report": tally([3, 2, 2, 0, 0]) });
    assert_eq!(stopped(&server), expected);
}

#[test]
fn only_the_three_steps_are_counted() {
    let mut server = Server::start(&[]);
    server.request("HEAD", TASKS, &[]);
    server.request("OPTIONS", REPORT, &[]);
    server.request("DELETE", TASKS, &[]);
    server.get("/tasks");

    let finished = server.stop();

    let checklist = "  tasks     never\n  download  never\n  report    never\n";
    assert!(finished.stdout.ends_with(checklist), "{}", finished.stdout);
}

/// A client developer who reads "never" would look for the mistake in the wrong place.
#[test]
fn a_step_that_the_server_could_not_do_is_not_called_never() {
    let mut server = Server::start(&["--max-upload", "1K"]);
    let (response, _) = server.recorded(|server| server.post(REPORT, MULTIPART, &form(&[b'x'; 2000])));
    response.assert_error(413);

    let finished = server.stop();

    assert!(finished.stdout.ends_with("  report    once, 1 refused\n"), "{}", finished.stdout);
}

#[test]
fn a_request_that_is_still_on_its_way_is_said_to_be_uncounted() {
    let mut server = Server::start(&[]);
    let mut connection = server.connect();
    connection.send(format!("POST {REPORT} HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 9\r\n\r\n"));
    // The server has the head once it asks for the body.
    assert!(!connection.has_ended(), "no 100 Continue");

    let finished = server.stop();

    assert!(
        finished.stdout.ends_with("\n  not counted: 1 request still on the way at the end\n"),
        "{}",
        finished.stdout
    );
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

fn tally([requests, with_findings, refused, partial, incomplete]: [u64; 5]) -> Value {
    json!({ "requests": requests, "with_findings": with_findings, "refused": refused, "partial": partial, "incomplete": incomplete })
}
