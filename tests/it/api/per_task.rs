//! Files of the data folder that are for one task: `2.zip` and `report-2.json`, and what the banner says of them.

use std::fs;

use tempfile::TempDir;

use crate::api::report::{MULTIPART, form};
use crate::support::{DOWNLOAD, REPORT, Server, built_in, data_folder, text};

#[test]
fn a_task_with_a_download_of_its_own_gets_it() {
    let (_data, server) = serve(&[("2.tar.gz", b"the second tool"), ("report-2.json", b"{}")]);
    let common = built_in("1797242037.zip");
    for (query, body, disposition) in [
        ("?id=2", &b"the second tool"[..], "attachment; filename=2.tar.gz"),
        ("?a=b&id=2&id=1", b"the second tool", "attachment; filename=2.tar.gz"),
        ("?id=1", &common, "attachment; filename=1797242037.zip"),
        ("?id=7", &common, "attachment; filename=1797242037.zip"),
        ("", &common, "attachment; filename=1797242037.zip"),
    ] {
        let response = server.get(&format!("{DOWNLOAD}{query}"));

        assert_eq!(response.status, 200, "{query}");
        assert!(response.body == body, "{query}: {} bytes", response.body.len());
        assert_eq!(response.header("Content-Disposition"), Some(disposition), "{query}");
    }
}

#[test]
fn a_task_with_a_report_of_its_own_is_answered_with_it() {
    const SECOND: &[u8] = b"{\"status\":  \"FAILED\"}\n";
    let (_data, server) = serve(&[("report-2.json", SECOND)]);
    let common = built_in("report.json");
    for (what, query, fields, body) in [
        ("in the query", "?id=2", "", SECOND),
        ("as a field", "", "id=2", SECOND),
        ("as a field behind the file", "", "file, id=2", SECOND),
        ("the query's before the field's", "?id=2", "id=1", SECOND),
        ("the first of two fields", "", "id=2, id=1", SECOND),
        ("another id", "?id=1", "", &common),
        ("no id", "", "", &common),
        ("a field of another name", "", "ID=2", &common),
    ] {
        let fields = fields.split(", ").filter_map(|field| match field.split_once('=') {
            Some((name, value)) => Some(format!("Content-Disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n")),
            None if field == "file" => {
                Some("Content-Disposition: form-data; name=\"f\"; filename=\"f\"\r\n\r\nx\r\n".into())
            }
            None => None,
        });
        let fields: String = fields.map(|field| format!("--frontier\r\n{field}")).collect();

        let response = server.post(&format!("{REPORT}{query}"), MULTIPART, &[fields.as_bytes(), &form(b"x")].concat());

        assert_eq!(response.status, 200, "{what}");
        assert_eq!(response.header("Content-Type"), Some("application/json"), "{what}");
        assert_eq!(String::from_utf8_lossy(&response.body), String::from_utf8_lossy(body), "{what}");
    }
}

#[test]
fn a_file_for_a_task_counts_from_the_next_request_on() {
    let (data, server) = serve(&[]);
    let report = || server.post(&format!("{REPORT}?id=1"), MULTIPART, &form(b"x")).body;
    assert!(report() == built_in("report.json"));

    fs::write(data.path().join("1.txt"), "the first tool").expect("a file");
    fs::write(data.path().join("report-1.json"), "[1]").expect("a file");

    assert_eq!(server.get(&format!("{DOWNLOAD}?id=1")).body, b"the first tool");
    assert_eq!(report(), b"[1]");
}

#[test]
fn the_banner_lists_the_files_for_one_task() {
    let (data, mut server) = serve(&[("1.zip", b"a"), ("2.tar.gz", b"b"), ("report-2.json", b"{}")]);

    server.wait_for_line(|line| line.ends_with(text(data.path())) && line.starts_with("Data "));
    for wanted in [
        "1.zip is the download for task 1",
        "2.tar.gz is the download for task 2",
        "report-2.json answers reports on task 2",
    ] {
        server.wait_for_line(|line| line.trim_start() == wanted);
    }
    assert!(!server.stop().stdout.contains("warning"));
}

#[test]
fn of_several_downloads_for_all_tasks_the_first_by_name_is_taken_and_a_warning_says_so() {
    let (_data, server) = serve(&[("tool.zip", b"a"), ("0.txt", b"the first by name")]);

    let warning = server.wait_for_line(|line| line.trim_start().starts_with("warning: several files"));
    assert!(warning.contains("0.txt"), "{warning}");
    assert_eq!(server.get(&format!("{DOWNLOAD}?id=1")).body, b"the first by name");
}

#[test]
fn a_folder_with_a_download_for_each_task_needs_no_other() {
    let data = data_folder();
    fs::rename(data.path().join("1797242037.zip"), data.path().join("1.zip")).expect("another name");
    fs::write(data.path().join("2.zip"), "the second tool").expect("a file");
    let server = Server::start(&["--data", text(data.path())]);

    assert_eq!(server.get(&format!("{DOWNLOAD}?id=2")).body, b"the second tool");
    let sentence = server.get(&format!("{DOWNLOAD}?id=7")).assert_error(500);
    assert!(sentence.contains(text(data.path())), "{sentence}");
}

fn serve(files: &[(&str, &[u8])]) -> (TempDir, Server) {
    let data = data_folder();
    for (name, content) in files {
        fs::write(data.path().join(name), content).expect("a file of data");
    }
    let server = Server::start(&["--data", text(data.path())]);
    (data, server)
}

#[test]
fn what_editors_leave_is_no_download() {
    let left = [
        "#tasks.json#",
        ".#tasks.json",
        ".tasks.json.swp",
        "tasks.json~",
        "tasks.json.swp",
        "tasks.json.bak",
        "report-2.json.bak",
        "REPORT-2.json",
        "~$tool.zip",
        "report.json.orig",
        "report-2.json~",
        "#1.zip#",
        "1.zip~",
        "2.zip.tmp",
        "0~",
    ];
    let (_data, mut server) = serve(&left.map(|name| (name, &b"left"[..])));

    for id in ["1", "2", "7"] {
        assert!(server.get(&format!("{DOWNLOAD}?id={id}")).body == built_in("1797242037.zip"), "{id}");
    }
    assert!(server.post(&format!("{REPORT}?id=2"), MULTIPART, &form(b"x")).body == built_in("report.json"));
    let printed = server.stop().stdout;
    assert!(!printed.contains("warning") && !printed.contains(" is the download "), "{printed}");
}

/// Editors make and remove such names while they save.
#[cfg(unix)]
#[test]
fn a_name_in_the_data_folder_that_leads_nowhere_does_not_matter() {
    let (data, server) = serve(&[]);
    std::os::unix::fs::symlink("nowhere", data.path().join("0.lock")).expect("a link");

    assert_eq!(server.get(&format!("{DOWNLOAD}?id=1")).status, 200);
}
