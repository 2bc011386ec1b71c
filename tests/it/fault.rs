//! `--fault` with a client behind `--`: who bears which trouble, and how that is told. How it looks on the wire is in
//! front/fault.rs.

use std::fs;
#[cfg(unix)]
use std::process::Command;
use std::thread;
#[cfg(unix)]
use std::time::Instant;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::foreign::client_python;
use crate::process::{Finished, Process};
#[cfg(unix)]
use crate::support::{LIMIT, is_under_wine};
use crate::support::{command, journal_in, program, run, text};

/// How each takes trouble; `lines` of urllib's client in `BEGINNING`, with what differs.
const CLIENTS: [(&str, &str); 6] = [
    ("tries three times", "tries, timeout = 3, 2"),
    ("tries once and fails aloud", ""),
    ("swallows every error", "swallows = True"),
    ("verifies nothing", "tries, timeout, context = 3, 2, ssl._create_unverified_context()"),
    ("has no timeout", "tries, timeout = 3, None"),
    ("is hasty", "patience = 2.5"),
];

/// Whether each of these clients, in that order, is ready.
const EXPECTED: [(&str, [bool; 6]); 9] = [
    ("none", [true, true, true, true, true, true]),
    ("unavailable", [true, true, false, true, true, true]),
    ("reset", [true, true, false, true, true, true]),
    ("cut", [true, true, false, true, true, true]),
    ("slow", [true, true, true, true, true, false]),
    ("hang", [true, true, false, true, false, true]),
    ("expired", [true, true, false, false, true, true]),
    ("wrong-host", [true, true, false, false, true, true]),
    ("untrusted-root", [true, true, false, false, true, true]),
];

const BEGINNING: &str = r#"
import http.client, os, ssl, sys, time, urllib.request
tries, timeout, patience, context, swallows = 1, 2, 60, None, False
"#;

const REST: &str = r#"
def ask(path, body=None, **headers):
    request = urllib.request.Request(os.environ["CLEANER_URL"] + "/xyz/api/cleaner" + path, body, headers)
    for attempt in range(tries):
        began, data = time.monotonic(), b""
        try:
            with urllib.request.urlopen(request, timeout=timeout, context=context) as answer:
                while piece := answer.read1():
                    data += piece
                    if time.monotonic() - began > patience:
                        raise TimeoutError("it takes too long")
                if len(data) != int(answer.headers["Content-Length"]):
                    raise EOFError("the answer breaks off")
                return
        except (OSError, EOFError, http.client.HTTPException) as error:
            last = error
    if not swallows:
        sys.exit(f"{path}: {last}")

ask("/tasks")
ask("/tasks/download?id=1")
body = b'--b\r\nContent-Disposition: form-data; name="file"; filename="r.zip"\r\n\r\nx\r\n--b--\r\n'
ask("/tasks/report?id=1", body, **{"Content-Type": "multipart/form-data; boundary=b"})
"#;

/// The words that run such a client. `None` where there is no Python.
fn client(lines: &str) -> Option<[String; 3]> {
    let script = format!("{BEGINNING}\n{lines}\n{REST}");
    client_python().map(|python| [python, "-c".to_owned(), script])
}

/// Runs it with these options, and returns the folder of its record too.
fn judge(options: &[&str], words: &[impl AsRef<str>]) -> (Finished, TempDir) {
    let record = TempDir::new().expect("a folder for the record");
    let mut under = command(&program());
    under.args(["--port", "0", "--record", text(record.path())]).args(options).arg("--");
    under.args(words.iter().map(AsRef::as_ref)).env("no_proxy", "localhost");
    (Process::spawn(&mut under).finish(), record)
}

fn verdict_in(record: &TempDir) -> Value {
    let events = journal_in(record.path());
    events.into_iter().find(|event| event["event"] == "verdict").expect("a verdict")
}

/// All six clients with one fault.
fn assert_verdicts(fault: &str, expected: [bool; 6]) {
    thread::scope(|scope| {
        for ((name, lines), is_ready) in CLIENTS.iter().zip(expected) {
            scope.spawn(move || {
                let Some(words) = client(lines) else { return };

                let (finished, record) = judge(&["--fault", fault, "--timeout", "5"], &words);

                let code = if is_ready { 0 } else { 3 };
                assert_eq!(finished.code, Some(code), "a client that {name}, with {fault}: {}", finished.stderr);
                assert_eq!(verdict_in(&record)["ready"], is_ready);
            });
        }
    });
}

/// Those that wait for most of the time do it beside the others.
#[test]
fn six_clients_are_ready_or_not_as_in_the_table() {
    let (waiting, others): (Vec<_>, Vec<_>) = EXPECTED.iter().partition(|(name, _)| ["slow", "hang"].contains(name));
    thread::scope(|scope| {
        for (fault, expected) in waiting {
            scope.spawn(move || assert_verdicts(fault, expected));
        }
        for (fault, expected) in others {
            assert_verdicts(fault, expected);
        }
    });
}

/// What the end says, and the exit code and the reasons in the journal.
#[test]
fn the_verdict_says_how_the_client_took_it() {
    let [patient, _, swallowing, trusting, endless, _] = CLIENTS.map(|(_, lines)| lines);
    let aloud = "";
    for (fault, lines, told) in [
        (
            "cut",
            patient,
            "ready: the client got half an answer at times, and did each of the three steps all the same\n",
        ),
        (
            "reset",
            aloud,
            "ready: the client got a reset of the connection, and told by its exit code that not all went well, before it \
                came to download and report\n",
        ),
        ("expired", aloud, "ready: the client refused an expired certificate\n"),
        (
            "cut",
            swallowing,
            "NOT READY\n  tasks: no answer was a good one\n  download: only bytes 0-182 of 366 were fetched\n  \
                report: no answer was a good one\n  the client ended with exit code 0 although not all went \
                well: let it try again, or end with another code\n",
        ),
        (
            "wrong-host",
            trusting,
            "NOT READY\n  the client accepted a certificate for another name: switch its verification on (3 times)\n",
        ),
        (
            "untrusted-root",
            swallowing,
            "NOT READY\n  the client refused the certificate, rightly, but ended with exit code 0: let it end with another \
                code\n",
        ),
    ] {
        let Some(words) = client(lines) else { return };
        let (finished, _) = judge(&["--fault", fault], &words);

        assert!(finished.stderr.ends_with(&format!("\n\n{told}")), "{fault}: {}", finished.stderr);
        assert_eq!(finished.code, Some(if told.starts_with("ready") { 0 } else { 3 }));
    }
    let Some(words) = client(endless) else { return };
    let (finished, record) = judge(&["--fault", "hang", "--timeout", "1"], &words);
    assert_eq!(finished.code, Some(3), "{}", finished.stderr);
    let reasons = verdict_in(&record)["reasons"].clone();
    for (index, step) in ["tasks", "download", "report"].iter().enumerate() {
        let reason = reasons[index].as_str().expect("a sentence");
        let waited =
            reason.strip_prefix(&format!("{step}: the client waited ")).and_then(|rest| rest.split(' ').next());
        assert!(waited.and_then(|seconds| seconds.parse().ok()).is_some_and(|seconds: f64| seconds >= 1.0), "{reason}");
        assert!(reason.ends_with("(expected: a timeout of its own, shorter than --timeout)"), "{reason}");
    }
}

#[test]
fn a_fault_excuses_no_mistake_of_the_client() {
    let Some(words) = client(&format!("tries = 3\n{}", REST.replace("report?id=1", "report?id=7"))) else { return };

    let (finished, record) = judge(&["--fault", "unavailable"], &words);

    assert_eq!(finished.code, Some(3), "{}", finished.stderr);
    let no_task =
        "report: there is no task with the id 7 (expected: id=N, with the id of a task in tasks.json: 1, 2) (2 times)";
    assert_eq!(verdict_in(&record)["reasons"], json!([no_task]));
}

/// The 503 is neither the server's failure nor a refusal, and a report that is cut is not the client's to take.
#[test]
fn what_goes_wrong_on_purpose_is_nobody_s_failure_in_the_checklist() {
    for fault in ["unavailable", "cut"] {
        let Some(words) = client("tries = 3") else { return };

        let (_, record) = judge(&["--fault", fault], &words);

        let journal = journal_in(record.path());
        let checklist = &journal.last().expect("an end")["checklist"];
        let step = json!({ "requests": 2, "with_findings": 0, "refused": 0, "partial": 0, "incomplete": 0 });
        let expected = json!({ "tasks": step, "download": step, "report": step, "beside": [], "server_failures": 0 });
        assert_eq!(*checklist, expected);
    }
}

/// The program itself is a client that does nothing, on every system.
#[test]
fn a_client_that_meets_no_fault_is_not_ready_however_it_ends() {
    let program = program();
    for fault in ["cut", "expired"] {
        for argument in ["--version", "--bogus"] {
            let (finished, record) = judge(&["--fault", fault], &[text(&program), argument]);

            assert_eq!(finished.code, Some(3), "{}", finished.stderr);
            let reason = verdict_in(&record)["reasons"].to_string();
            assert!(reason.contains("no request came: "), "{reason}");
        }
    }
}

/// Both at once, since they wait for most of the time.
#[test]
fn all_is_exit_0_for_a_good_client_and_3_for_one_that_verifies_nothing() {
    thread::scope(|scope| {
        scope.spawn(all_with_a_good_client);
        scope.spawn(all_with_a_client_that_verifies_nothing);
    });
}

fn all_with_a_good_client() {
    let Some(words) = client(CLIENTS[0].1) else { return };

    let (finished, record) = judge(&["--fault", "all", "--timeout", "5"], &words);

    assert_eq!((finished.code, finished.stdout.as_str()), (Some(0), ""), "{}", finished.stderr);
    assert!(finished.stderr.ends_with("\n\nready: the client handles every fault\n"), "{}", finished.stderr);
    let names = EXPECTED.map(|(name, _)| name);
    let table = finished.stderr.split("\nfault           verdict    why\n").nth(1).expect("a table");
    let rows: Vec<Vec<&str>> = table.lines().take(9).map(|line| line.split_whitespace().take(3).collect()).collect();
    assert_eq!(rows, names.map(|name| vec![name, "ready", "the"]));
    for (number, name) in (1..).zip(names) {
        let lines = ["the client runs ...".to_owned(), "ready\n".to_owned()];
        let starts = lines.map(|end| format!("\n{number} of 9  {name}: {end}"));
        assert!(starts.iter().all(|start| finished.stderr.contains(start)), "{name}: {}", finished.stderr);
        let events = journal_in(&record.path().join(name));
        assert_eq!(events.iter().filter(|event| event["event"] == "verdict").count(), 1, "{name}");
        let met = events.iter().any(|event| event["fault"] == name);
        assert_eq!(met, number > 1 && number < 7, "{name}: a refused certificate meets no request");
    }
}

fn all_with_a_client_that_verifies_nothing() {
    let Some(words) = client(CLIENTS[3].1) else { return };

    let (finished, _) = judge(&["--fault", "all", "--timeout", "5"], &words);

    assert_eq!((finished.code, finished.stdout.as_str()), (Some(3), ""), "{}", finished.stderr);
    for (name, what) in
        [("expired", "an expired certificate"), ("untrusted-root", "a certificate signed by another CA")]
    {
        let row =
            format!("\n{name:<14}  NOT READY  the client accepted {what}: switch its verification on (3 times)\n");
        assert!(finished.stderr.contains(&row), "{}", finished.stderr);
    }
    let end = "\n\nNOT READY\n  to see all that happens, name a fault instead of all: --fault expired\n";
    assert!(finished.stderr.ends_with(end), "{}", finished.stderr);
}

#[test]
fn all_ends_at_once_where_the_client_cannot_be_run() {
    let (finished, record) = judge(&["--fault", "all"], &["no-such-program-anywhere"]);

    assert_eq!(finished.code, Some(127), "{}", finished.stderr);
    assert!(finished.stderr.contains("no-such-program-anywhere"), "{}", finished.stderr);
    assert_eq!(fs::read_dir(record.path()).expect("a folder").count(), 1);
}

/// It reaches the run that is going on, and its client; or where it does not, SIGTERM does soon.
#[cfg(unix)]
#[test]
fn ctrl_c_ends_all_with_the_table_so_far() {
    use std::os::unix::process::CommandExt;
    if is_under_wine() {
        return;
    }
    for whom in ["-", ""] {
        let folder = TempDir::new().expect("a folder");
        let client = "if test -e \"$0\"; then touch \"$0-again\"; exec sleep 100; fi; touch \"$0\"";
        let mut under = command(&program());
        under.args(["--port", "0", "--fault", "all", "--record", text(&folder.path().join("record"))]);
        under.args(["--", "sh", "-c", client]).arg(folder.path().join("begun"));
        let mut process = Process::spawn(under.process_group(0));
        let deadline = Instant::now() + LIMIT;
        while !folder.path().join("begun-again").exists() {
            assert!(Instant::now() < deadline, "{}", process.stderr.text());
            thread::yield_now();
        }
        let whom = format!("{whom}{}", process.child.id());
        let sent = Command::new("kill").args(["-s", "INT", "--", &whom]).status().expect("kill can be started");
        assert!(sent.success());

        let finished = process.finish();

        assert_eq!(finished.code, Some(3), "{}", finished.stderr);
        let told = "\n\nfault           verdict    why\nnone            NOT READY  no request came";
        assert!(finished.stderr.contains(told), "{}", finished.stderr);
        let end = "\nunavailable     broken off, by Ctrl+C or another signal\n\nNOT READY\n";
        assert!(finished.stderr.ends_with(end), "{}", finished.stderr);
        let events = journal_in(&folder.path().join("record/unavailable"));
        assert_eq!(events.last().expect("an event")["event"], "stop", "{events:?}");
    }
}

#[test]
fn a_fault_that_is_used_wrongly_is_wrong_usage() {
    for (arguments, told) in [
        (vec!["--fault"], "--fault needs a value"),
        (vec!["--fault", "bogus"], "there is no fault \"bogus\""),
        (vec!["--fault", "bogus"], "unavailable, reset, cut, slow, hang, expired, wrong-host, untrusted-root, or none"),
        (vec!["--fault", "all"], "--fault all needs a client to run, such as --fault all -- python client.py"),
        (vec!["--fault", "expired", "--http"], "--fault expired makes the certificate, and goes with neither --http"),
        (vec!["--fault", "wrong-host", "--cert", "a", "--key", "b"], "nor --cert"),
        (vec!["--fault", "all", "--http", "--", "x"], "--fault all makes the certificate"),
    ] {
        let finished = run(&arguments);

        assert_eq!((finished.code, finished.stdout.as_str()), (Some(2), ""), "{}", finished.stderr);
        assert!(finished.stderr.contains(told), "{}", finished.stderr);
    }
}
