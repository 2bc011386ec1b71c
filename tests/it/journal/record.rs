//! The folder of `--record`: the journal's fields as README names them, and the uploaded files.

use std::fs;
use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::api::report::{MULTIPART, form};
use crate::process::Process;
use crate::support::{
    DOWNLOAD, REPORT, Server, TASKS, WITH_AND_WITHOUT_TLS, command, folder_with_a_large_download, local, program, run,
    sha256, text,
};
#[cfg(unix)]
use crate::support::{is_skipped_under_wine, start_limited};

#[test]
fn a_request_is_told_with_all_its_fields() {
    let server = Server::start(&[]);
    let body = form(b"content");
    let (type_line, length_line) = (format!("Content-Type: {MULTIPART}"), format!("Content-Length: {}", body.len()));
    let head = format!(
        "POST {REPORT}?id=7&x=%20 HTTP/1.1\r\nx-Last: 1\r\nHOST: localhost\r\n{type_line}\r\nX-Empty:\r\n\
         {length_line}\r\nX-Latin: gr\u{fc}n\r\nX-First: a,  b \r\nx-last: 2\r\n\r\n"
    );

    let (_, event) = server.recorded(|server| server.raw([head.as_bytes(), &body].concat()));

    let expected = json!({
        "event": "request",
        "request": 1,
        "method": "POST",
        "target": format!("{REPORT}?id=7&x=%20"),
        "version": "HTTP/1.1",
        "headers": [
            ["x-Last", "1"], ["HOST", "localhost"], ["Content-Type", MULTIPART], ["X-Empty", ""],
            ["Content-Length", body.len().to_string()], ["X-Latin", "grün"], ["X-First", "a,  b"], ["x-last", "2"],
        ],
        "status": 200,
        "bytes_in": body.len(),
        "bytes_out": 59,
        "delivered": true,
        "parts": [{
            "field": "file", "filename": "report.zip", "content_type": "application/zip", "bytes": 7,
            "sha256": sha256(b"content"), "value": null, "value_bytes": null, "saved": text(&reports(&server).join("report.zip")),
        }],
        "findings": ["there is no task with the id 7"],
        "error": null,
        "fault": null,
    });
    assert_eq!(without(&event, &["time", "client", "ms"]), expected);
    assert_time(&event);
    assert!(event["client"].as_str().is_some_and(|text| text.parse::<SocketAddr>().is_ok()), "{event}");
    assert!(event["ms"].as_f64().is_some_and(|milliseconds| milliseconds > 0.0), "{event}");
}

#[test]
fn requests_are_numbered_and_errors_told() {
    let server = Server::start(&[]);
    for (number, request, method, version, status, findings, error) in [
        (1, format!("GET {TASKS} HTTP/1.0\r\n\r\n"), json!("GET"), json!("HTTP/1.0"), 200, 0, false),
        (2, format!("HEAD {TASKS} HTTP/1.1\r\nHost: a\r\n\r\n"), json!("HEAD"), json!("HTTP/1.1"), 200, 0, false),
        (3, "GET /nothing HTTP/1.1\r\nHost: a\r\n\r\n".into(), json!("GET"), json!("HTTP/1.1"), 404, 0, true),
        (4, format!("GET {DOWNLOAD} HTTP/1.1\r\nHost: a\r\n\r\n"), json!("GET"), json!("HTTP/1.1"), 200, 1, false),
        (5, "GARBAGE\r\n\r\n".into(), json!(null), json!(null), 400, 0, true),
    ] {
        let (response, event) = server.recorded(|server| server.raw(&request));

        assert_eq!(event["request"], number);
        assert_eq!((&event["method"], &event["version"]), (&method, &version), "{request}");
        assert_eq!(event["target"].is_null(), method.is_null(), "{request}");
        assert_eq!(event["headers"].is_null(), method.is_null(), "{request}");
        assert_eq!((&event["status"], response.status), (&json!(status), status), "{request}");
        assert_eq!(event["findings"].as_array().map(Vec::len), Some(findings), "{request}");
        assert_eq!(event["parts"], json!([]), "{request}");
        assert_eq!(event["bytes_out"], response.body.len(), "{request}");
        assert_eq!(event["error"].is_string(), error, "{request}");
        assert_eq!(event["error"].as_str(), error.then(|| response.assert_error(status)).as_deref(), "{request}");
    }
}

#[test]
fn start_stop_and_failed_connections_are_told() {
    let mut server = Server::start(&[]);
    let mut plain = TcpStream::connect(("127.0.0.1", server.port())).expect("a connection");
    let client = plain.local_addr().expect("an address").to_string();
    plain.write_all(b"SSH-2.0-test\r\n\r\n").expect("the server reads");
    let failed = server.wait_for_event(1);

    server.stop();

    let journal = server.journal();
    let [start, _, _, stop] = journal.as_slice() else { panic!("not four events: {journal:#?}") };
    let version = env!("CARGO_PKG_VERSION");
    assert_eq!(without(start, &["time"]), json!({ "event": "start", "version": version, "url": server.url() }));
    assert_eq!(without(&failed, &["time", "error"]), json!({ "event": "connection", "client": client }));
    assert!(failed["error"].as_str().is_some_and(|sentence| sentence.contains("SSH-2.0-test")), "{failed}");
    assert_eq!(without(stop, &["time", "checklist"]), json!({ "event": "stop", "unfinished": 0, "lost_events": 0 }));
    journal.iter().for_each(assert_time);
}

#[test]
fn a_download_whose_client_closes_is_not_delivered_and_told_with_how_far_it_came() {
    let folder = folder_with_a_large_download();
    for arguments in WITH_AND_WITHOUT_TLS {
        let mut server = Server::start(&[arguments, &["--data", text(folder.path())][..]].concat());
        let mut connection = server.connect();
        connection.send(format!("GET {DOWNLOAD}?id=2 HTTP/1.1\r\nHost: localhost\r\n\r\n"));
        assert_eq!(connection.read_response(true).content_length(), 200_000_000);
        drop(connection);

        let event = server.wait_for_event(1);

        assert_eq!((&event["delivered"], &event["status"]), (&json!(false), &json!(200)), "{event}");
        assert!(event["bytes_out"].as_u64().is_some_and(|bytes| bytes < 200_000_000), "{event}");
        let sentence = event["error"].as_str().expect("a sentence");
        assert!(sentence.contains("closed the connection"), "{sentence}");
        assert!(sentence.ends_with(" of 200,000,000 bytes of the answer"), "{sentence}");
        server.wait_for_line(|line| line.strip_prefix("    error: ") == Some(sentence));
        assert_eq!(server.get(TASKS).status, 200, "the next client");
        let finished = server.stop();
        assert!(finished.stdout.contains("  download  once, 1 not complete\n"), "{}", finished.stdout);
    }
}

#[test]
fn an_uploaded_file_is_kept_under_a_safe_name() {
    let server = Server::start(&[]);
    let long = format!("{}.{}", "日".repeat(300), "x".repeat(300));
    for (sent, kept) in [
        ("report.zip", "report.zip"),
        ("Bericht für März (2).tar.gz", "Bericht für März (2).tar.gz"),
        ("../../etc/passwd", "passwd"),
        ("C:\\dir\\x.zip", "x.zip"),
        // As macOS writes them; what has no composed form here stays in two.
        ("Pru\u{308}fung e\u{301}te\u{301}.zip", "Prüfung été.zip"),
        ("A\u{30a}rsrapport franc\u{327}ais.zip", "Årsrapport français.zip"),
        ("q\u{308}\u{301} か\u{3099} กี่.zip", "q\u{308}\u{301} か\u{3099} กี่.zip"),
        ("\u{308}x -\u{308} ☀\u{fe0f} a\u{200d}\u{7f}.zip", "_x -_ __ a__.zip"),
        ("a%22b%0D%0Ac.zip", "a_b__c.zip"),
        ("/", "file-"),
        ("", "file-"),
        ("..", "file-"),
        (".hidden", "hidden"),
        ("a:b*c?d<e>f|g\"h", "a_b_c_d_e_f_g_h"),
        ("tab\tand\u{202e}piz.exe", "tab_and_piz.exe"),
        ("CON", "file-CON"),
        ("nul.txt", "file-nul.txt"),
        ("Com1 .tar.gz", "file-Com1 .tar.gz"),
        ("lpt¹", "file-lpt¹"),
        ("COMET", "COMET"),
        ("trailing. . ", "trailing"),
        (&long, &format!("{}.{}", "日".repeat(50), "x".repeat(10))),
    ] {
        let path = keep(&server, sent, b"content");

        assert_eq!(path, text(&reports(&server).join(kept)), "{sent}");
        assert_eq!(fs::read(local(&path)).expect("the file"), b"content", "{sent}");
        fs::remove_file(local(&path)).expect("the name is free for the next");
    }
}

/// Windows strips these, so that the name on the disk would not be the one in the journal.
#[test]
fn a_shortened_name_ends_with_neither_dot_nor_space() {
    let server = Server::start(&[]);
    for sent in [format!("{} {}", "a".repeat(49), "b".repeat(49)), "c.abcdefghi jkl".to_owned()] {
        let path = keep(&server, &sent, b"x");

        assert!(!path.ends_with(['.', ' ']), "{sent}: {path}");
    }
}

#[test]
fn a_file_that_is_there_is_never_overwritten() {
    let server = Server::start(&[]);
    fs::write(reports(&server).join("report.zip"), "from yesterday").expect("a file");

    let paths = ["one", "two"].map(|content| keep(&server, "report.zip", content.as_bytes()));

    let expected = ["report-2.zip", "report-3.zip"].map(|name| reports(&server).join(name));
    assert_eq!(paths, expected.each_ref().map(|path| text(path)));
    for (name, content) in [("report.zip", "from yesterday"), ("report-2.zip", "one"), ("report-3.zip", "two")] {
        assert_eq!(fs::read_to_string(reports(&server).join(name)).expect("a file"), content);
    }
}

#[test]
fn a_report_that_is_cut_off_leaves_nothing() {
    let server = Server::start(&["--timeout", "1"]);
    let whole = form(&vec![b'x'; 100_000]);
    let head = format!("POST {REPORT} HTTP/1.1\r\nHost: localhost\r\nContent-Type: {MULTIPART}\r\n");
    let two_parts = [b"--frontier\r\n" as &[u8], &whole[12..whole.len() - 14], b"\r\n", &whole[..50_000]].concat();
    for (what, length, body) in [
        ("without its last boundary", 50_000, &whole[..50_000]),
        ("in the second part", two_parts.len(), &two_parts),
        ("by silence", whole.len(), &whole[..50_000]),
    ] {
        let request = [format!("{head}Content-Length: {length}\r\n\r\n").as_bytes(), body].concat();

        let (_, event) = server.recorded(|server| server.raw(&request));

        assert_eq!(names_in(&reports(&server)), [""; 0], "{what}");
        assert_eq!(event["bytes_in"], body.len(), "{what}");
        let is_told = event["findings"][0].is_string() || event["error"].is_string();
        assert!(is_told, "{what}: {event}");
    }
}

#[test]
fn text_fields_are_not_kept() {
    let server = Server::start(&[]);
    let body = b"--frontier\r\nContent-Disposition: form-data; name=\"note\"\r\n\r\nhello\r\n--frontier--\r\n";

    let (_, event) = server.recorded(|server| server.post(REPORT, MULTIPART, body));

    assert_eq!(event["parts"][0]["saved"], json!(null));
    assert_eq!(names_in(&reports(&server)), [""; 0]);
}

#[test]
fn a_text_is_told_whole_up_to_16_kib_and_it_says_where_it_is_cut() {
    let server = Server::start(&[]);
    let long = "\u{e9}".repeat(10_000);
    let odd = format!("x{long}");
    let no_break_spaces = "\u{a0}".repeat(16_384);
    for (sent, told) in [
        (&b""[..], ""),
        ("Pr\u{fc}fung".as_bytes(), "Pr\u{fc}fung"),
        (b"caf\xe9", "caf\u{e9}"),
        (&long.as_bytes()[..16_384], &long[..16_384]),
        (long.as_bytes(), &long[..16_384]),
        // A byte less, for half a letter.
        (odd.as_bytes(), &odd[..16_383]),
        ("x".repeat(16_385).as_bytes(), &"x".repeat(16_384)),
        (&[0xa0; 20_000], &no_break_spaces),
    ] {
        let head = "--frontier\r\nContent-Disposition: form-data; name=\"note\"\r\n\r\n";
        let body = [head.as_bytes(), sent, b"\r\n--frontier--\r\n"].concat();
        let (_, event) = server.recorded(|server| server.post(REPORT, MULTIPART, &body));

        let part = &event["parts"][0];
        assert_eq!((&part["value"], &part["bytes"]), (&json!(told), &json!(sent.len())));
        let is_odd = sent == odd.as_bytes();
        assert_eq!(part["value_bytes"], if is_odd { 16_383 } else { sent.len().min(16_384) });
    }
}

#[test]
fn a_second_server_on_the_same_folder_does_not_start() {
    let first = Server::start(&[]);
    let folder = first.record.path();

    let second = run(&["--port", "0", "--record", text(folder)]);

    assert_eq!(second.code, Some(1));
    let expected = format!("another cleaner-test-server records into {}\n", text(folder));
    assert!(second.stderr.starts_with(&expected), "{}", second.stderr);
    assert_eq!(second.stderr.lines().count(), 2, "{}", second.stderr);
    let ready: Value =
        serde_json::from_slice(&fs::read(folder.join("ready.json")).expect("the first's")).expect("JSON");
    assert_eq!(ready, first.ready);
    assert_eq!(first.get(TASKS).status, 200);
}

#[test]
fn a_later_run_continues_the_journal() {
    let mut first = Server::start(&[]);
    first.stop();
    let folder = first.record.path();
    let arguments = ["--port", "0", "--exit-on-stdin-close", "--record", text(folder)];
    let mut second = Process::spawn(command(&program()).args(arguments));
    second.wait_until_ready(&folder.join("ready.json"));
    drop(second.child.stdin.take());
    second.finish();

    let journal = first.journal();
    let events: Vec<&Value> = journal.iter().map(|event| &event["event"]).collect();
    assert_eq!(events, ["start", "verdict", "stop", "start", "verdict", "stop"]);
}

/// A limit on the size of a file stands in for a disk that is full.
#[cfg(unix)]
#[test]
fn a_full_disk_is_507_and_no_finding_and_the_server_goes_on() {
    let server = start_limited("trap '' XFSZ; ulimit -f 40", &[]);
    let body = form(&[b'x'; 50_000]);

    let (response, event) = server.recorded(|server| server.post(REPORT, MULTIPART, &body));

    let sentence = response.assert_error(507);
    assert!(sentence.contains("--record"), "{sentence}");
    assert_eq!((&event["error"], &event["findings"]), (&json!(sentence), &json!([])));
    assert_eq!(event["parts"][0]["bytes"], 50_000);
    assert_eq!(event["parts"][0]["saved"], json!(null));
    assert_eq!(names_in(&reports(&server)), [""; 0]);
    assert_eq!(fs::read(local(&keep(&server, "small.zip", b"small"))).expect("kept"), b"small");
}

#[test]
fn half_a_line_of_a_run_before_goes() {
    let record = tempfile::TempDir::new().expect("a folder");
    let journal = record.path().join("journal.jsonl");
    let long = "x".repeat(100_000);
    fs::write(record.path().join(".cleaner-test-server.lock"), "").expect("what a run leaves too");
    for torn in ["", "{\"event\": \"st", &long] {
        fs::write(&journal, format!("{{\"event\": \"stop\"}}\n{torn}")).expect("a journal");
        let arguments = ["--port", "0", "--exit-on-stdin-close", "--record", text(record.path())];
        let mut process = Process::spawn(command(&program()).args(arguments));
        process.wait_until_ready(&record.path().join("ready.json"));
        drop(process.child.stdin.take());
        process.finish();

        let written = fs::read_to_string(&journal).expect("a journal");
        let events: Vec<Value> = written.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
        let events: Vec<&Value> = events.iter().map(|event| &event["event"]).collect();
        assert_eq!(events, ["stop", "start", "verdict", "stop"]);
    }
}

/// A limit on the size of a file stands in for a disk that is full.
#[cfg(unix)]
#[test]
fn events_that_a_full_disk_has_lost_are_counted_and_the_journal_goes_on() {
    let mut server = start_limited("trap '' XFSZ; ulimit -f 16", &["--exit-on-stdin-close"]);
    let padding = format!("X: {}", "x".repeat(20_000));
    for _ in 0..3 {
        assert_eq!(server.request("GET", TASKS, &[&padding]).status, 200);
    }
    assert_eq!(server.get(DOWNLOAD).status, 200);
    server.wait_for_event(2);

    let finished = server.stop();

    let journal = server.journal();
    let events: Vec<&Value> = journal.iter().map(|event| &event["event"]).collect();
    assert_eq!(events, ["start", "lost", "request", "verdict", "stop"]);
    assert_eq!(journal[1]["events"], 3);
    assert_eq!(journal[2]["target"], DOWNLOAD);
    assert_eq!((&journal[4]["lost_events"], &journal[4]["checklist"]["tasks"]["requests"]), (&json!(3), &json!(3)));
    assert_eq!(finished.stdout.matches("cannot write journal.jsonl").count(), 1, "{}", finished.stdout);
    assert!(finished.stdout.contains("\n  journal.jsonl lacks 3 events: see above\n"), "{}", finished.stdout);
}

#[test]
fn the_certificate_of_a_run_before_does_not_stay() {
    let record = tempfile::TempDir::new().expect("a folder");
    let files = ["certificate.pem", "truststore.jks"].map(|name| record.path().join(name));
    files.iter().for_each(|file| fs::write(file, "of a run before").expect("a file"));
    fs::write(record.path().join(".cleaner-test-server.lock"), "").expect("what a run leaves too");
    let arguments = ["--http", "--port", "0", "--record", text(record.path())];
    let process = Process::spawn(command(&program()).args(arguments));
    let ready = process.wait_until_ready(&record.path().join("ready.json"));
    assert_eq!(ready["certificate"], json!(null));
    assert!(files.iter().all(|file| !file.exists()));
}

/// As a framework does between two tests.
#[test]
fn a_journal_that_is_emptied_during_the_run_goes_on_at_its_beginning() {
    let server = Server::start(&["--http"]);
    server.recorded(|server| server.get(TASKS));
    fs::write(server.record.path().join("journal.jsonl"), "").expect("the journal can be emptied");

    server.get(DOWNLOAD);

    assert_eq!(server.wait_for_event(0)["target"], DOWNLOAD);
}

/// The folder of the first was deleted and made anew, by hand or by a script, while it ran.
#[test]
fn ready_json_of_another_server_stays() {
    let mut server = Server::start(&[]);
    let ready = server.record.path().join("ready.json");
    let other = "{\"url\": \"https://localhost:1\", \"port\": 1, \"pid\": 1, \"certificate\": null}\n";
    fs::write(&ready, other).expect("a file");

    server.stop();

    assert_eq!(fs::read_to_string(&ready).expect("the other's"), other);
}

#[cfg(unix)]
#[test]
fn other_users_may_read_what_is_kept() {
    use std::os::unix::fs::PermissionsExt;
    let server = Server::start(&[]);
    let saved = local(&keep(&server, "a.zip", b"hello"));
    let certificate = server.record.path().join("certificate.pem");
    for file in [saved, certificate, server.record.path().join("ready.json")] {
        let mode = fs::metadata(&file).expect("a file").permissions().mode();
        assert_eq!(mode & 0o777, 0o644, "{}", file.display());
    }
}

/// As many files as a report may have parts; macOS gives a program 256 descriptors.
#[cfg(unix)]
#[test]
fn a_report_of_many_files_needs_few_descriptors() {
    if is_skipped_under_wine("the shell's limit, which does not reach wine's own server, where the descriptors are") {
        return;
    }
    let server = start_limited("ulimit -n 100", &[]);
    let body = [form(b"x")[..form(b"x").len() - 14].repeat(500), form(b"x")].concat();

    let (response, event) = server.recorded(|server| server.post(REPORT, MULTIPART, &body));

    assert_eq!((response.status, &event["findings"]), (200, &json!([])));
}

/// Uploads a file under this name, and returns the path under which it is kept.
#[track_caller]
fn keep(server: &Server, name: &str, content: &[u8]) -> String {
    let escaped = name.replace('\\', "\\\\").replace('"', "\\\"");
    let head = format!("--frontier\r\nContent-Disposition: form-data; name=\"f\"; filename=\"{escaped}\"\r\n\r\n");
    let body = [head.as_bytes(), content, b"\r\n--frontier--\r\n"].concat();
    let (_, event) = server.recorded(|server| server.post(REPORT, MULTIPART, &body));
    event["parts"][0]["saved"].as_str().unwrap_or_else(|| panic!("not kept: {event}")).to_owned()
}

fn reports(server: &Server) -> PathBuf {
    server.record.path().join("reports")
}

fn names_in(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).expect("a folder");
    entries.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned()).collect()
}

/// The event without these members, which must be there.
fn without(event: &Value, names: &[&str]) -> Value {
    let mut event = event.clone();
    for name in names {
        let removed = event.as_object_mut().expect("an object").remove(*name);
        assert!(removed.is_some(), "{name} is missing: {event}");
    }
    event
}

/// RFC 3339, in UTC, with milliseconds.
fn assert_time(event: &Value) {
    let time = event["time"].as_str().expect("a text");
    let shape: String =
        time.chars().map(|character| if character.is_ascii_digit() { '0' } else { character }).collect();
    assert_eq!(shape, "0000-00-00T00:00:00.000Z", "{time}");
}

/// Linux allows such paths; JSON does not hold them as they are.
#[cfg(target_os = "linux")]
#[test]
fn a_folder_whose_name_is_no_text_is_recorded_into() {
    use std::os::unix::ffi::OsStrExt;
    if is_skipped_under_wine("names that are no text, which Windows does not have") {
        return;
    }
    let parent = tempfile::TempDir::new().expect("a folder");
    let folder = parent.path().join(std::ffi::OsStr::from_bytes(b"record-\xff"));
    let mut command = command(&program());
    let mut process = Process::spawn(command.args(["--port", "0", "--exit-on-stdin-close", "--record"]).arg(&folder));
    process.wait_until_ready(&folder.join("ready.json"));
    drop(process.child.stdin.take());

    let finished = process.finish();

    assert_eq!((finished.code, finished.stderr.as_str()), (Some(0), ""));
}
