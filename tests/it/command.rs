//! `-- COMMAND`: a client is run with what it needs in its environment, and the exit code says whether it is ready. Here
//! are clients that fail; those that are right are in foreign.rs.

use std::fs;
use std::io::Write;
use std::net::TcpListener;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::foreign::{client_python, python};
use crate::process::{Finished, LIMIT, Process};
use crate::support::{command, is_skipped_under_wine, is_under_wine, journal_in, local, program, text};

/// Runs a command under the program, on a free port, and returns the event `verdict` too.
fn judge(options: &[&str], words: &[&str]) -> (Finished, Value) {
    let record = TempDir::new().expect("a folder for the record");
    let mut under = command(&program());
    under.args(["--port", "0", "--record", text(record.path())]).args(options).arg("--").args(words);
    let finished = Process::spawn(under.env("no_proxy", "localhost")).finish();
    let journal = journal_in(record.path());
    let [.., verdict, stop] = journal.as_slice() else { panic!("no end in: {journal:#?}") };
    assert_eq!((&verdict["event"], &stop["event"]), (&json!("verdict"), &json!("stop")), "{journal:#?}");
    assert_eq!(verdict["command"], json!(words));
    assert!(!record.path().join("ready.json").exists());
    (finished, verdict.clone())
}

/// Holds for a client that is not ready: exit code 3, and these reasons on the console and in the journal.
#[track_caller]
fn assert_not_ready((finished, verdict): &(Finished, Value), reasons: &[&str]) {
    assert_eq!(finished.code, Some(3), "{}", finished.stderr);
    assert_eq!((&verdict["ready"], &verdict["reasons"]), (&json!(false), &json!(reasons)));
    let told = format!("\n\nNOT READY\n  {}\n", reasons.join("\n  "));
    assert!(finished.stderr.ends_with(&told), "{}", finished.stderr);
}

/// A client in Python's urllib that does what the last lines say. `None` where there is no Python.
fn judge_python(options: &[&str], lines: &str) -> Option<(Finished, Value)> {
    let script = format!("{BEGINNING}\n{lines}\n");
    client_python().map(|python| judge(options, &[&python, "-c", &script]))
}

const BEGINNING: &str = r#"
import os, ssl, sys, urllib.request
server = os.environ["CLEANER_URL"]

def ask(path, body=None, context=None, **headers):
    url = server + "/xyz/api/cleaner" + path
    try:
        with urllib.request.urlopen(urllib.request.Request(url, body, headers), context=context) as answer:
            return answer.read()
    except urllib.error.HTTPError as error:
        return error.read()

def tasks():
    ask("/tasks")

def download(**headers):
    return ask("/tasks/download?id=1", **headers)

def report(id=1):
    body = b'--b\r\nContent-Disposition: form-data; name="file"; filename="r.zip"\r\n\r\nx\r\n--b--\r\n'
    ask(f"/tasks/report?id={id}", body, **{"Content-Type": "multipart/form-data; boundary=b"})
"#;

#[test]
fn a_client_that_does_all_right_is_exit_0() {
    for options in [&[][..], &["--strict"], &["--http"]] {
        for lines in [
            "tasks(); download(); report()",
            // By ranges; then `wget -c` on a whole file, which asks for what is behind its end; then "not modified".
            "tasks(); download(Range='bytes=200-'); download(Range='bytes=0-199'); report()
download(Range='bytes=366-'); download(**{'If-Modified-Since': 'Fri, 01 Jan 2100 00:00:00 GMT'})",
        ] {
            let Some((finished, verdict)) = judge_python(options, lines) else { return };

            assert_eq!((finished.code, finished.stdout.as_str()), (Some(0), ""), "{}", finished.stderr);
            let ready = "\n\nready: the client did each of the three steps, and nothing wrong\n";
            assert!(finished.stderr.ends_with(ready), "{}", finished.stderr);
            assert_eq!((&verdict["ready"], &verdict["reasons"]), (&json!(true), &json!([])));
            assert_eq!(verdict["exit_code"], 0);
        }
    }
}

#[test]
fn a_client_that_does_something_wrong_is_exit_3_with_each_reason() {
    let all = "tasks(); download(); report()";
    let raw = "report: the report is not sent as multipart/form-data (expected: the file as a form field, with the \
        Content-Type left to the HTTP library: requests.post(url, files={\"file\": open(\"report.zip\", \"rb\")}))";
    let no_task = "report: there is no task with the id 7 (expected: id=N, with the id of a task in tasks.json: 1, 2)";
    for (lines, reasons) in [
        (
            "tasks(); download(Range='bytes=0-99'); report()".to_owned(),
            vec!["download: only bytes 0-99 of 366 were fetched"],
        ),
        ("tasks(); download()".into(), vec!["report: never sent; send POST /xyz/api/cleaner/tasks/report"]),
        ("tasks(); download(); ask('/tasks/report?id=1', b'PASSED')".into(), vec![raw]),
        (format!("{all}; report(id=7); report(id=7)"), vec![&format!("{no_task} (2 times)")]),
        (
            format!("{all}; ask('/nothing')"),
            vec![concat!(
                "other path, GET /xyz/api/cleaner/nothing: there is nothing at \"/xyz/api/cleaner/nothing\" (expected: ",
                "GET /xyz/api/cleaner/tasks, GET /xyz/api/cleaner/tasks/download?id=N, POST /xyz/api/cleaner/tasks/report)"
            )],
        ),
        (
            format!("{all}; ask('/tasks', b'')"),
            vec![
                "wrong method, POST /xyz/api/cleaner/tasks: POST is not allowed here; allowed are GET, HEAD, OPTIONS; \
                send a report by POST to /xyz/api/cleaner/tasks/report",
            ],
        ),
        (format!("{all}; sys.exit(7)"), vec!["the client ended with exit code 7"]),
    ] {
        for options in [&[][..], &["--strict"]] {
            let Some(judged) = judge_python(options, &lines) else { return };

            assert_not_ready(&judged, &reasons);
            assert_eq!(judged.1["exit_code"], if lines.contains("exit") { 7 } else { 0 });
        }
    }
}

#[test]
fn a_client_that_does_not_trust_is_told_so_first() {
    let lines = "ask('/tasks', context=ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT))";
    let Some((finished, verdict)) = judge_python(&[], lines) else { return };

    assert_eq!(finished.code, Some(3), "{}", finished.stderr);
    let reason = "connection: does not trust the certificate (TLS alert unknown_ca): give the client the CA that \
        SSL_CERT_FILE names, or switch its verification off for tests (it asked for \"localhost\")";
    assert_eq!(verdict["reasons"][0], reason);
    assert_eq!(verdict["reasons"].as_array().map(Vec::len), Some(5), "{verdict}");
}

#[test]
fn what_a_client_asks_last_is_judged_although_it_does_not_wait_for_the_answer() {
    let lines = "tasks(); download(); report()
import socket
connection = socket.create_connection(('localhost', int(server.split(':')[2])))
connection.sendall(b'POST /last HTTP/1.1\\r\\nHost: a\\r\\nExpect: 100-continue\\r\\nContent-Length: 1\\r\\n\\r\\n')
assert b' 100 ' in connection.recv(99)
connection.sendall(b'x')
os._exit(0)";
    let Some(judged) = judge_python(&["--http"], lines) else { return };

    let reason = judged.1["reasons"][0].as_str().expect("a sentence");
    assert!(reason.starts_with("other path, POST /last: there is nothing at \"/last\" (expected: "), "{reason}");
    assert_eq!(judged.0.code, Some(3));
}

/// The program itself is a client that does nothing, on every system.
#[test]
fn a_client_that_does_nothing_is_told_where_the_server_is() {
    let program = program();
    let program = text(&program);

    let judged = judge(&[], &[program, "--version"]);

    let nothing =
        "no request came: the client is to send its requests to the address in the environment variable CLEANER_URL";
    assert_not_ready(&judged, &[nothing]);
    // Standard output is exactly the command's.
    assert_eq!(judged.0.stdout, concat!("cleaner-test-server ", env!("CARGO_PKG_VERSION"), "\n"));
    let judged = judge(&[], &[program, "--bogus"]);
    assert_not_ready(&judged, &["the client ended with exit code 2", nothing]);
}

#[test]
fn a_command_that_is_not_there_is_exit_127_and_one_that_cannot_be_run_126() {
    let folder = TempDir::new().expect("a folder");
    let file = folder.path().join("file.exe");
    fs::write(&file, "neither a script nor a program").expect("a file");
    let missing = folder.path().join("missing");
    let in_one = "no-such-program client.py".into();
    // Wine's launcher makes a path of this one.
    let apart = if is_under_wine() { "is not there: " } else { "is not there: a command and its arguments are words" };
    for (code, path, why) in [
        (127, &missing, "is not there: name one that is on the PATH"),
        (127, &in_one, apart),
        (126, &file, "cannot be run: "),
    ] {
        let (finished, verdict) = judge(&[], &[text(path), "argument"]);

        assert_eq!((finished.code, finished.stdout.as_str()), (Some(code), ""), "{}", finished.stderr);
        let reasons = verdict["reasons"].as_array().expect("a list");
        let [reason] = reasons.as_slice() else { panic!("not one reason: {reasons:?}") };
        let reason = reason.as_str().expect("text");
        assert!(reason.starts_with("the command ") && reason.contains(why), "{reason}");
        assert!(finished.stderr.ends_with(&format!("\n\nNOT READY\n  {reason}\n")), "{}", finished.stderr);
        assert_eq!(verdict["exit_code"], Value::Null);
    }
}

#[test]
fn a_server_that_cannot_start_is_exit_125_and_the_command_is_not_run() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = taken.local_addr().expect("an address").port().to_string();
    let program = program();
    let mut under = command(&program);
    under.args(["--host", "127.0.0.1", "--port", &port, "--"]).arg(&program).arg("--version");

    let finished = Process::spawn(&mut under).finish();

    assert_eq!((finished.code, finished.stdout.as_str()), (Some(125), ""), "{}", finished.stderr);
    assert!(finished.stderr.contains(&port), "{}", finished.stderr);
}

/// Of a company, which knows nothing of this machine.
#[test]
fn a_proxy_is_not_asked_for_the_server() {
    let Some(python) = client_python() else { return };
    let mut under = command(&program());
    let client = format!("{BEGINNING}\ntasks(); download(); report(); print(os.environ['NO_PROXY'])");
    under.args(["--port", "0", "--", &python, "-c", &client]).env_remove("no_proxy").env("NO_PROXY", "intranet");
    for variable in ["http_proxy", "https_proxy", "all_proxy"] {
        // Nobody listens there.
        under.env(variable, "http://127.0.0.1:9");
    }

    let finished = Process::spawn(&mut under).finish();

    assert_eq!((finished.code, finished.stdout.as_str()), (Some(0), "intranet,localhost,127.0.0.1,::1\n"));
}

#[test]
fn the_files_are_in_the_record_and_else_in_a_folder_that_goes() {
    let Some((finished, _)) = judge_python(&[], "print(os.environ['SSL_CERT_FILE'])") else { return };
    assert!(finished.stdout.ends_with("certificate.pem\n"), "{}", finished.stdout);
    for options in [vec![], vec!["--http"]] {
        let mut under = command(&program());
        under.args(["--port", "0"]).args(&options).args(["--", &python(), "-c"]);
        let shown = "import os; v = os.environ; print(v['SSL_CERT_FILE']); print(v['JAVA_TOOL_OPTIONS']); \
            print(all(map(os.path.exists, v['SSL_CERT_FILE'].split())))";
        let mine = [("SSL_CERT_FILE", "mine.pem"), ("JAVA_TOOL_OPTIONS", "-Xmx64m"), ("HOME", "/")];

        let finished = Process::spawn(under.arg(shown).envs(mine)).finish();

        let lines: Vec<&str> = finished.stdout.lines().collect();
        if options.is_empty() {
            let store = Path::new(lines[0]).with_file_name("truststore.jks");
            let kind = "-Djavax.net.ssl.trustStoreType=jks -Djavax.net.ssl.trustStorePassword=changeit";
            let java = format!("-Xmx64m \"-Djavax.net.ssl.trustStore={}\" {kind}", store.display());
            assert_eq!(lines[1..], [&java, "True"]);
            assert!(!local(lines[0]).parent().expect("a folder").exists(), "{} stays", lines[0]);
        } else {
            assert_eq!(lines, ["mine.pem", "-Xmx64m", "False"]);
        }
    }
}

#[test]
fn a_client_is_run_by_cmd_as_well() {
    if !is_under_wine() && !cfg!(windows) {
        return;
    }
    let (finished, verdict) = judge(&[], &["cmd", "/c", "echo %CLEANER_URL%& exit 7"]);

    assert!(finished.stdout.starts_with("https://localhost:"), "{}", finished.stdout);
    assert_eq!(verdict["reasons"][0], "the client ended with exit code 7", "{verdict}");
    assert_eq!(finished.code, Some(3));
}

/// As some programs do that start others and wait for none.
#[cfg(unix)]
#[test]
fn a_client_is_waited_for_although_the_starting_program_ignores_its_children() {
    if is_under_wine() {
        return;
    }
    let mut shell = Command::new("bash");
    shell.args(["-c", "trap '' CHLD; exec \"$@\"", "bash"]).arg(program());
    let finished = Process::spawn(shell.args(["--port", "0", "--", "sh", "-c", "exit 7"])).finish();

    assert_eq!(finished.code, Some(3), "{}", finished.stderr);
    assert!(finished.stderr.contains("the client ended with exit code 7"), "{}", finished.stderr);
}

#[cfg(unix)]
#[test]
fn a_client_that_a_signal_ends_is_not_ready() {
    if is_under_wine() {
        return;
    }
    let (finished, verdict) = judge(&[], &["sh", "-c", "kill -KILL $$"]);

    assert_eq!(verdict["exit_code"], Value::Null);
    assert_eq!(verdict["reasons"][0], "the client was ended by signal 9 (SIGKILL)");
    assert_eq!(finished.code, Some(3));
}

/// Ctrl+C reaches both, since they are one group of processes.
#[cfg(unix)]
#[test]
fn ctrl_c_ends_both() {
    use std::os::unix::process::CommandExt;
    if is_under_wine() {
        return;
    }
    for (client, reason) in [
        ("echo begun; exec sleep 100", "the client was ended by signal 2 (SIGINT)"),
        ("trap '' INT TERM; echo begun; exec sleep 100", "the client did not end at the word to stop, and was killed"),
    ] {
        let mut under = command(&program());
        let mut process = Process::spawn(under.args(["--port", "0", "--", "sh", "-c", client]).process_group(0));
        let begun = process.stdout.take_through(LIMIT, |line| line == "begun");
        assert!(begun.is_some(), "{}", process.stderr.text());
        let group = format!("-{}", process.child.id());
        let sent = Command::new("kill").args(["-s", "INT", "--", &group]).status().expect("kill can be started");
        assert!(sent.success());

        let finished = process.finish();

        assert_eq!(finished.code, Some(3), "{}", finished.stderr);
        assert!(finished.stderr.contains(&format!("\nNOT READY\n  {reason}\n")), "{}", finished.stderr);
    }
}

/// Writing into a named pipe that the client alone reads works until it ends. What ends it is started behind it.
#[cfg(target_os = "linux")]
#[test]
fn a_client_does_not_outlive_a_server_that_is_killed() {
    if is_skipped_under_wine("what ends a client where the server is killed, which Windows needs a job object for") {
        return;
    }
    for options in [&["--port", "0"][..], &["--port", "0", "--fault", "all"]] {
        let folder = TempDir::new().expect("a folder");
        let pipe = folder.path().join("pipe");
        assert!(Command::new("mkfifo").arg(&pipe).status().expect("mkfifo can be started").success());
        let mut under = command(&program());
        let client = ["--", "sh", "-c", "exec sleep 600 < \"$0\"", text(&pipe)];
        let mut process = Process::spawn(under.args(options).args(client));
        // Waits for the client.
        let mut pipe = fs::File::options().write(true).open(&pipe).expect("a pipe");
        let deadline = Instant::now() + LIMIT;
        while children(process.child.id()) < 2 {
            assert!(Instant::now() < deadline, "nothing is started behind the client: {options:?}");
            thread::sleep(Duration::from_millis(2));
        }

        process.child.kill().expect("it runs");

        let deadline = Instant::now() + LIMIT;
        while pipe.write_all(b".").is_ok() {
            assert!(Instant::now() < deadline, "the client lives on: {options:?}");
            thread::sleep(Duration::from_millis(20));
        }
    }
}

#[cfg(target_os = "linux")]
fn children(parent: u32) -> usize {
    let entries = fs::read_dir("/proc").expect("processes").map(|entry| entry.expect("an entry").path());
    // Behind the name, which may be any, stand its state and its parent (proc_pid_stat(5)).
    let is_child = |stat: &String| {
        let behind = stat.rsplit(')').next().expect("a line");
        behind.split_whitespace().nth(1) == Some(&parent.to_string())
    };
    entries.filter_map(|process| fs::read_to_string(process.join("stat")).ok()).filter(is_child).count()
}

/// SIGTERM reaches the server alone, as where a container is stopped.
#[cfg(unix)]
#[test]
fn a_client_is_told_that_the_server_is_to_end() {
    if is_skipped_under_wine("SIGTERM, which Windows does not have") {
        return;
    }
    let mut under = command(&program());
    let client = "trap 'echo told; exit 7' TERM; echo begun; while :; do sleep 0.1; done";
    let mut process = Process::spawn(under.args(["--port", "0", "--", "sh", "-c", client]));
    assert!(process.stdout.take_through(LIMIT, |line| line == "begun").is_some(), "{}", process.stderr.text());
    let id = process.child.id().to_string();
    assert!(Command::new("kill").args(["-s", "TERM", &id]).status().expect("kill can be started").success());

    let finished = process.finish();

    assert_eq!((finished.code, finished.stdout.as_str()), (Some(3), "told\n"), "{}", finished.stderr);
    assert!(finished.stderr.contains("\n  the client ended with exit code 7\n"), "{}", finished.stderr);
}

#[test]
fn what_goes_with_no_command_is_wrong_usage() {
    for (arguments, told) in [
        (vec!["--"], "-- needs a command behind it"),
        (vec!["--exit-on-stdin-close", "--", "x"], "--exit-on-stdin-close goes with no command"),
        (vec!["--write-data", "x", "--", "x"], "--write-data goes with no command"),
        (vec!["python", "client.py"], "a command goes behind --"),
    ] {
        let finished = crate::support::run(&arguments);

        assert_eq!((finished.code, finished.stdout.as_str()), (Some(2), ""), "{}", finished.stderr);
        assert!(finished.stderr.contains(told), "{}", finished.stderr);
    }
}
