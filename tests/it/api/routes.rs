//! Which method on which path gets what: the rows of Flask's routing, and the errors that help.

use crate::support::{DOWNLOAD, REPORT, Server, TASKS};

const METHODS: [&str; 13] =
    ["GET", "HEAD", "POST", "OPTIONS", "PUT", "DELETE", "PATCH", "TRACE", "CONNECT", "PROPFIND", "BREW", "get", "post"];

#[test]
fn only_the_listed_methods_are_allowed_on_the_three_paths() {
    let server = Server::start(&[]);
    for (path, allowed) in [
        (TASKS, &["GET", "HEAD", "OPTIONS"][..]),
        (DOWNLOAD, &["GET", "HEAD", "OPTIONS"]),
        (REPORT, &["OPTIONS", "POST"]),
    ] {
        for method in METHODS {
            let response = server.request(method, path, &["Content-Length: 0"]);

            let row = format!("{method} {path}");
            assert_eq!(response.status, if allowed.contains(&method) { 200 } else { 405 }, "{row}");
            if method == "OPTIONS" || response.status == 405 {
                assert_eq!(response.allowed_methods(), allowed, "{row}");
            }
            if method == "OPTIONS" {
                assert_eq!(response.content_length(), 0, "{row}");
            }
            if response.status == 405 && method != "HEAD" {
                let sentence = response.assert_error(405);
                assert!(sentence.contains(method), "{row}: {sentence}");
            }
        }
    }
}

#[test]
fn other_spellings_of_a_path_that_flask_accepts_are_accepted() {
    let server = Server::start(&[]);
    for target in [
        "/xyz/api/cleaner/tasks",
        "//xyz/api/cleaner/tasks",
        "/xyz/api/cleaner/%74asks",
        "/xyz/api/cleaner%2Ftasks",
        "/xyz/api/cleaner%2ftasks",
        "https://localhost/xyz/api/cleaner/tasks",
        "http://somewhere.else:80/xyz/api/cleaner/tasks?id=1",
        "/xyz/api/cleaner/tasks#fragment",
        "/xyz/api/cleaner/tasks?id=1#fragment",
    ] {
        let response = server.get(target);

        assert_eq!(response.status, 200, "{target}");
        assert_eq!(response.body.len(), 128, "{target}");
    }
}

#[test]
fn every_other_path_is_404_with_the_three_endpoints() {
    let server = Server::start(&[]);
    let endpoints = serde_json::json!([
        format!("GET {}{TASKS}", server.url()),
        format!("GET {}{DOWNLOAD}?id=N", server.url()),
        format!("POST {}{REPORT}", server.url()),
    ]);
    for (method, target) in [
        ("GET", "/"),
        ("GET", "/favicon.ico"),
        ("GET", "/xyz/api/cleaner"),
        ("GET", "/xyz/api/cleaner/task"),
        ("GET", "/xyz/api/cleaner/tasks/"),
        ("GET", "/xyz/api/cleaner/tasks/1"),
        ("GET", "/xyz/api/cleaner/tasks/download/"),
        ("GET", "/XYZ/api/cleaner/tasks"),
        ("GET", "/xyz/api/cleaner/Tasks"),
        ("GET", "/./xyz/api/cleaner/tasks"),
        ("GET", "/xyz/api/cleaner/./tasks"),
        ("GET", "/xyz/../xyz/api/cleaner/tasks"),
        ("GET", "/xyz/api//cleaner/tasks"),
        ("GET", "/xyz/api/cleaner/tasks;a=b"),
        ("GET", "/xyz/api/cleaner/tasks%00"),
        ("GET", "/xyz/api/cleaner/tasks%"),
        ("GET", "/xyz/api/cleaner/tasks%7"),
        ("GET", "/xyz/api/cleaner/tasks%zz"),
        ("GET", "/xyz/api/cleaner/tasks%ff"),
        ("GET", "/xyz/api/cleaner/tasks%20"),
        ("GET", "/xyz/api/cleaner/%2574asks"),
        ("GET", "/xyz/api/cleaner/tasks%3Fid=1"),
        ("GET", "https://localhost/"),
        ("POST", "/xyz/api/cleaner/tasks/report/"),
        ("PUT", "/nothing/here"),
        ("BREW", "/coffee"),
        ("OPTIONS", "*"),
        ("CONNECT", "production.example:443"),
        ("GET", "://localhost/xyz/api/cleaner/tasks"),
    ] {
        let response = server.request(method, target, &["Content-Length: 0"]);

        let row = format!("{method} {target}");
        assert_eq!(response.status, 404, "{row}");
        response.assert_error(404);
        assert_eq!(response.json()["endpoints"], endpoints, "{row}");
        assert_eq!(response.header("Allow"), None, "{row}");
    }
}

#[test]
fn a_near_miss_is_told_what_to_change() {
    let server = Server::start(&[]);
    for (target, hint) in [
        ("/xyz/api/cleaner/tasks/", "slash"),
        ("/xyz/api/cleaner/tasks/download/?id=1", "slash"),
        ("/xyz/api/cleaner//tasks", "slash"),
        ("xyz/api/cleaner/tasks", "with a slash at the beginning"),
        ("/xyz/api/cleaner/TASKS", "case"),
        ("/api/cleaner/tasks", "/xyz/api/cleaner/tasks"),
        ("/tasks/download", "/xyz/api/cleaner/tasks/download"),
        ("/xyz/api/cleaner/tasks/download%3Fid=1", "tasks/download, with a plain ? where %3F was sent?"),
        ("/xyz/api/cleaner/tasks/download%3fid%3d1", "tasks/download, with a plain ? where %3F was sent?"),
        ("/xyz/api/cleaner/tasks%3F", "/xyz/api/cleaner/tasks, with a plain ?"),
        ("/xyz/api/cleaner/tasks/report%3Fid=1?x=y", "/xyz/api/cleaner/tasks/report, with a plain ?"),
        ("/tasks/download%3Fid=1", "/xyz/api/cleaner/tasks/download, with a plain ?"),
        ("/xyz/api/cleaner/tasks/download&id=1", "tasks/download, with ? before the first parameter?"),
    ] {
        let sentence = server.get(target).assert_error(404);

        assert!(sentence.contains(hint), "{target}: {sentence}");
    }
}

#[test]
fn a_head_request_for_an_unknown_path_is_404_without_a_body() {
    let server = Server::start(&[]);

    // `request` has asserted that nothing follows the head.
    let response = server.request("HEAD", "/nothing", &[]);

    assert_eq!(response.status, 404);
    assert_eq!(response.header("Content-Type"), Some("application/json"));
}
