//! What is served: the data folder, read anew for each request, or the copy that is built in.

use std::fs;
use std::path::{Path, PathBuf};
#[cfg(unix)]
use std::process::Command;

use tempfile::TempDir;

#[cfg(unix)]
use crate::support::is_skipped_under_wine;
use crate::support::{
    DOWNLOAD, REPORT, Server, TASKS, built_in, command, data_folder, program, program_alone, run, text,
};

/// The comma in place of a value is line 2, column 13.
const BROKEN: &str = "{\n  \"tasks\": [,]\n}\n";

#[test]
fn an_edit_shows_in_the_next_answer() {
    let folder = data_folder();
    let server = Server::start(&["--data", text(folder.path())]);
    assert_eq!(server.get(TASKS).body, built_in("tasks.json"));

    let edited = "{ \"tasks\": [{\"id\": 7, \"name\": \"sc\u{e4}n\"}] }";
    fs::write(folder.path().join("tasks.json"), edited).expect("the edit");

    let response = server.get(TASKS);
    assert_eq!(response.status, 200);
    assert_eq!(String::from_utf8_lossy(&response.body), edited);
}

#[test]
fn a_broken_file_is_500_with_its_place_until_it_is_mended() {
    let folder = data_folder();
    let server = Server::start(&["--data", text(folder.path())]);
    for (method, target, name) in [("GET", TASKS, "tasks.json"), ("POST", REPORT, "report.json")] {
        let file = folder.path().join(name);
        fs::write(&file, BROKEN).expect("the broken file");
        let response = server.request(method, target, &["Content-Length: 0"]);

        let sentence = response.assert_error(500);
        for word in [name, "line 2", "column 13"] {
            assert!(sentence.contains(word), "{word} in: {sentence}");
        }
        let logged = server.wait_for_request(method, target);
        assert_eq!(logged.sentence, Some(sentence), "{name}");

        fs::write(&file, built_in(name)).expect("the mended file");
        let response = server.request(method, target, &["Content-Length: 0"]);
        assert_eq!(response.status, 200, "{name}");
        assert_eq!(response.body, built_in(name), "{name}");
    }
}

#[test]
fn a_missing_file_is_500_that_names_it_until_it_is_back() {
    let folder = data_folder();
    let server = Server::start(&["--data", text(folder.path())]);
    for (method, target, name) in
        [("GET", TASKS, "tasks.json"), ("POST", REPORT, "report.json"), ("GET", DOWNLOAD, "1797242037.zip")]
    {
        let file = folder.path().join(name);
        fs::remove_file(&file).expect("the file is there");

        let sentence = server.request(method, target, &["Content-Length: 0"]).assert_error(500);

        assert!(sentence.contains(name), "{sentence}");
        assert_eq!(server.wait_for_request(method, target).sentence, Some(sentence), "{name}");
        fs::write(file, built_in(name)).expect("the file can be written");
        assert!(server.request(method, target, &["Content-Length: 0"]).body == built_in(name), "{name}");
    }
}

#[test]
fn what_windows_editors_make_of_utf_8_is_named_at_start_and_later() {
    let folder = data_folder();
    let server = Server::start(&["--data", text(folder.path())]);
    let utf_16 = String::from_utf8(built_in("tasks.json")).expect("UTF-8");
    let utf_16: Vec<u8> = utf_16.encode_utf16().flat_map(u16::to_le_bytes).collect();
    for (name, content) in [
        ("byte order mark", [b"\xef\xbb\xbf", built_in("tasks.json").as_slice()].concat()),
        ("UTF-16", [b"\xff\xfe", utf_16.as_slice()].concat()),
    ] {
        fs::write(folder.path().join("tasks.json"), content).expect("the file");

        let sentence = server.get(TASKS).assert_error(500);
        assert!(sentence.contains("tasks.json") && sentence.contains(name), "{sentence}");

        let refused = run(&["--data", text(folder.path()), "--port", "0"]);
        assert_eq!(refused.code, Some(1), "{name}");
        let told = refused.stderr.contains("tasks.json") && refused.stderr.contains(name);
        assert!(told, "{}", refused.stderr);
    }
}

#[test]
fn tasks_of_another_form_are_served_with_a_warning() {
    let folder = data_folder();
    for form in ["[]", "{}", "{\"tasks\": 1}", "null"] {
        fs::write(folder.path().join("tasks.json"), form).expect("the file");

        let server = Server::start(&["--data", text(folder.path())]);

        assert_eq!(server.get(TASKS).body, form.as_bytes());
        server.wait_for_line(|line| line.contains("warning") && line.contains("tasks.json"));
    }
}

#[test]
fn a_data_folder_beside_the_executable_is_served_wherever_it_is_started() {
    let (home, executable) = program_with_data("{\"tasks\": [{\"id\": 3, \"name\": \"beside\"}]}");
    let elsewhere = TempDir::new().expect("another folder");

    let mut command = command(&executable);
    let server = Server::launch(command.current_dir(elsewhere.path()));

    let tasks = String::from_utf8(server.get(TASKS).body).expect("UTF-8");
    assert!(tasks.contains("beside"), "{tasks}");
    server.wait_for_line(|line| line.contains(text(&home.path().join("data"))));
}

/// Such as that of the downloads, in which the program was double-clicked.
#[test]
fn a_data_folder_of_somebody_else_beside_the_executable_is_passed_over_and_named() {
    let (home, executable) = program_alone();
    let folder = home.path().join("data");
    fs::create_dir(&folder).expect("a folder");
    fs::write(folder.join("holiday.jpg"), "not ours").expect("a file");

    let server = Server::launch(&mut command(&executable));

    assert_eq!(server.get(TASKS).body, built_in("tasks.json"));
    let said = format!("{} is not served: it holds neither tasks.json nor report.json", text(&folder));
    server.wait_for_line(|line| line.trim_start() == said);
}

#[cfg(unix)]
#[test]
fn what_is_no_file_is_named_instead_of_waited_for() {
    if is_skipped_under_wine("named pipes, which Windows keeps elsewhere") {
        return;
    }
    for (name, method, target) in [
        ("tasks.json", "GET", TASKS),
        ("report.json", "POST", REPORT),
        ("report-2.json", "POST", &format!("{REPORT}?id=2")),
        ("2.zip", "GET", &format!("{DOWNLOAD}?id=2")),
    ] {
        let folder = data_folder();
        let server = Server::start(&["--data", text(folder.path())]);
        let file = folder.path().join(name);
        assert!(Command::new("mkfifo").arg(file.with_extension("pipe")).status().expect("mkfifo").success());
        fs::rename(file.with_extension("pipe"), &file).expect("a pipe in its place");

        let sentence = server.request(method, target, &[]).assert_error(500);

        assert!(sentence.contains(text(&file)) && sentence.contains("named pipe"), "{sentence}");
        if name.ends_with(".json") {
            let refused = run(&["--data", text(folder.path())]);
            assert_eq!((refused.code, refused.stderr.lines().next()), (Some(1), Some(&*sentence)));
        }
    }
}

#[test]
fn a_named_data_folder_goes_before_the_one_beside_the_executable() {
    let (_home, executable) = program_with_data(BROKEN);
    let named = data_folder();

    let mut command = command(&executable);
    let server = Server::launch(command.args(["--data", text(named.path())]));

    assert_eq!(server.get(TASKS).body, built_in("tasks.json"));
}

#[test]
fn the_current_folder_is_never_searched_for_data() {
    let folder = TempDir::new().expect("a folder");
    write_data(&folder.path().join("data"), BROKEN);

    let server = Server::launch(command(&program()).current_dir(folder.path()));

    assert_eq!(server.get(TASKS).body, built_in("tasks.json"));
    assert_eq!(server.get(DOWNLOAD).body, built_in("1797242037.zip"));
}

#[test]
fn write_data_writes_what_is_built_in_and_never_overwrites() {
    let parent = TempDir::new().expect("a folder");
    let folder = parent.path().join("new").join("data");

    let written = run(&["--write-data", text(&folder)]);

    assert_eq!(written.code, Some(0), "{}", written.stderr);
    assert!(written.stdout.contains(text(&folder)), "{}", written.stdout);
    assert_eq!(written.stderr, "");
    let names = ["tasks.json", "report.json", "1797242037.zip"];
    for name in names {
        let content = fs::read(folder.join(name)).expect("the file was written");
        assert!(content == built_in(name), "{name}");
    }
    let server = Server::start(&["--data", text(&folder)]);
    for (method, target, name) in
        [("GET", TASKS, "tasks.json"), ("POST", REPORT, "report.json"), ("GET", DOWNLOAD, "1797242037.zip")]
    {
        assert!(server.request(method, target, &[]).body == built_in(name), "{name} is not served");
    }

    fs::write(folder.join("tasks.json"), "mine").expect("an edit");
    fs::remove_file(folder.join("report.json")).expect("the file is there");
    run(&["--write-data", text(&folder)]);

    assert_eq!(fs::read(folder.join("tasks.json")).expect("the edit"), b"mine");
}

/// An executable that has a `data` folder beside it.
fn program_with_data(tasks: &str) -> (TempDir, PathBuf) {
    let (home, executable) = program_alone();
    write_data(&home.path().join("data"), tasks);
    (home, executable)
}

fn write_data(folder: &Path, tasks: &str) {
    fs::create_dir(folder).expect("the data folder");
    for name in ["report.json", "1797242037.zip"] {
        fs::write(folder.join(name), built_in(name)).expect("a data file");
    }
    fs::write(folder.join("tasks.json"), tasks).expect("the tasks");
}
