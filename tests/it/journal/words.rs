//! The console alone must do, for a client that throws the answer away: what happened, why, and what to do.

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
#[cfg(unix)]
use std::process::Command;

use rustls::RootCertStore;

use crate::api::report::{MULTIPART, form, text_part};
use crate::connection::{Connection, client_configuration};
#[cfg(unix)]
use crate::foreign::{is_installed, python};
use crate::process::run;
use crate::support::{REPORT, Server, TASKS, data_folder, text};
#[cfg(unix)]
use crate::support::{is_skipped_under_wine, program};

/// A mistake that people make first, and words of the console on what it is, why, and what to do.
type Mistake = (&'static str, fn(&Server), [&'static str; 3]);

const MISTAKES: [Mistake; 8] = [
    (
        "http://",
        |server| {
            let mut connection = Connection::plain(server.address());
            connection.send(format!("GET {TASKS} HTTP/1.1\r\nHost: localhost\r\n\r\n"));
            connection.read_response(false).assert_error(400);
        },
        ["127.0.0.1:", "this port speaks HTTPS", "use https://localhost:"],
    ),
    (
        "an untrusted certificate",
        |server| {
            let trusts_nobody = client_configuration(RootCertStore::empty(), rustls::ALL_VERSIONS);
            Connection::tls(server.address(), "localhost", trusts_nobody.into()).expect_err("nobody is trusted");
        },
        ["127.0.0.1:", "does not trust the certificate (TLS alert unknown_ca)", "give the client the CA in "],
    ),
    (
        "a wrong path",
        |server| drop(server.get("/tasks")),
        [
            "404  GET      /tasks  ",
            "there is nothing at \"/tasks\"; did you mean /xyz/api/cleaner/tasks, with the base path",
            "expected: GET /xyz/api/cleaner/tasks, GET /xyz/api/cleaner/tasks/download?id=N, POST /xyz/api/cleaner/tasks/report",
        ],
    ),
    (
        "a wrong method",
        |server| drop(server.post(TASKS, MULTIPART, &form(b"x"))),
        [
            "405  POST     /xyz/",
            "POST is not allowed here; allowed are GET, HEAD, OPTIONS",
            "send a report by POST to /xyz/",
        ],
    ),
    (
        "a raw body",
        |server| drop(server.request("POST", REPORT, &["User-Agent: python-requests/2.32", "Content-Length: 0"])),
        [
            "finding: the report is not sent as multipart/form-data",
            "received: no Content-Type",
            "expected: the file as a form field, with the Content-Type left to the HTTP library: requests.post(url, files={",
        ],
    ),
    (
        "no file",
        |server| drop(server.post(REPORT, MULTIPART, format!("{}--frontier--\r\n", text_part("a", "b")).as_bytes())),
        [
            "finding: the report has no file part",
            "received: 1 part, none with a file name",
            "expected: a part with a file name and content: curl -F file=@report.zip URL",
        ],
    ),
    (
        "an empty file",
        |server| drop(server.post(REPORT, MULTIPART, &form(b""))),
        [
            "finding: the file \"report.zip\" in the report is empty",
            "received: 0 bytes",
            "expected: a part with a file name and content",
        ],
    ),
    (
        "a wrong id",
        |server| drop(server.get("/xyz/api/cleaner/tasks/download?id=7")),
        [
            "finding: there is no task with the id 7",
            "received: id=7",
            "expected: id=N, with the id of a task in tasks.json: 1, 2",
        ],
    ),
];

/// The other two are broken data and a taken port.
#[test]
fn each_of_the_ten_first_mistakes_is_told_with_reason_and_remedy() {
    for strict in [&[][..], &["--strict"]] {
        for (mistake, make, words) in MISTAKES {
            let server = Server::start(strict);
            make(&server);
            for word in words {
                server.wait_for_line(|line| line.contains(word));
            }
            drop((mistake, server));
        }
    }
    let folder = data_folder();
    let server = Server::start(&["--data", text(folder.path())]);
    fs::write(folder.path().join("tasks.json"), "{\n\"tasks\": [1 2]}").expect("an edit");
    server.get(TASKS).assert_error(500);
    for word in
        ["500  GET      /xyz/", "line 2, column 13: a comma or the closing ] is missing", "mend the data folder"]
    {
        server.wait_for_line(|line| line.contains(word));
    }

    let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let port = taken.local_addr().expect("an address").port().to_string();
    let told = run(&["--port", &port]).stderr;
    for word in [&format!("127.0.0.1:{port}"), "another program uses the port", "--port "] {
        assert!(told.contains(word), "no {word:?} in: {told}");
    }
}

#[test]
fn the_example_is_for_the_client_that_the_user_agent_names() {
    let server = Server::start(&[]);
    for (user_agent, example) in [
        ("python-requests/2.32.3", "requests.post(url, files="),
        ("node", "form.set("),
        ("Java-http-client/17.0.1", "MultipartEntityBuilder"),
        ("MyClient (.NET)", "MultipartFormDataContent"),
        ("curl/8.5.0", "curl -F file=@report.zip URL"),
        ("something else", "curl -F file=@report.zip URL"),
    ] {
        let target = format!("{REPORT}?{}", example.len());
        server.request("POST", &target, &[&format!("User-Agent: {user_agent}"), "Content-Length: 0"]);
        let told = server.take_lines_through(|line| line.starts_with("      expected: "));
        assert!(told.last().is_some_and(|line| line.contains(example)), "{user_agent}: {told:?}");
    }
}

#[test]
fn the_same_sentence_on_connections_is_said_once_with_how_often() {
    let mut server = Server::start(&[]);
    for _ in 0..170 {
        let mut stream = TcpStream::connect(server.address()).expect("the server listens");
        stream.write_all(b"hello\r\n").expect("the server reads");
        stream.read_to_end(&mut Vec::new()).expect("an end in order");
    }

    let finished = server.stop();

    let is_told = |line: &&str| line.contains("  closed: what it sent is neither TLS nor HTTP; it begins");
    let told = finished.stdout.lines().filter(is_told).count();
    let is_again =
        |line: &&str| line.contains("  what it sent is neither TLS nor HTTP; it begins \"hello\\r\\n\" ... (again, ");
    let again = finished.stdout.lines().filter(is_again).map(|line| {
        let times = line.split("(again, ").nth(1).and_then(|rest| rest.split(' ').next());
        times.and_then(|times| times.parse::<usize>().ok()).expect("a number")
    });
    assert_eq!(told + again.sum::<usize>(), 170, "{}", finished.stdout);
    assert!(told < 100, "said {told} times");
    let journal = server.journal();
    assert_eq!(journal.iter().filter(|event| event["event"] == "connection").count(), 170);
}

#[test]
fn a_second_download_for_all_tasks_is_told_when_it_appears() {
    let folder = data_folder();
    let server = Server::start(&["--data", text(folder.path())]);
    fs::write(folder.path().join("another.zip"), "PK").expect("a file");

    server.get("/xyz/api/cleaner/tasks/download?id=1");

    server.wait_for_line(|line| line.contains("several files could be the download for all tasks; 1797242037.zip is"));
}

/// On a terminal, which Python can play.
#[test]
#[cfg(unix)]
fn a_terminal_gets_colours_unless_it_or_its_user_wants_none() {
    if is_skipped_under_wine("colours on a terminal of Unix") {
        return;
    }
    let python = python();
    if !is_installed(&python, &["-c", "import pty"], "a terminal") {
        return;
    }
    let script = "import pty, sys; pty.spawn(sys.argv[1:])";
    for (variables, is_coloured) in [
        ([("TERM", "xterm"), ("NO_COLOR", "")], true),
        ([("TERM", "xterm"), ("NO_COLOR", "1")], false),
        ([("TERM", "dumb"), ("NO_COLOR", "")], false),
    ] {
        let client =
            "import os, urllib.request; urllib.request.urlopen(os.environ['CLEANER_URL'] + '/xyz/api/cleaner/tasks')";
        let mut command = Command::new(&python);
        command.args(["-c", script]).arg(program()).args(["--port", "0", "--", &python, "-c", client]);
        let output = command.envs(variables).output().expect("Python can be started");
        let said = String::from_utf8_lossy(&output.stdout);

        assert!(said.contains("  GET      /xyz/api/cleaner/tasks  "), "{said}");
        assert_eq!(said.contains("\u{1b}[32m200\u{1b}[0m"), is_coloured, "{variables:?}: {said:?}");
        assert_eq!(said.contains('\u{1b}'), is_coloured, "{variables:?}: {said:?}");
    }
}
