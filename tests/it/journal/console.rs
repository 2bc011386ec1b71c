//! The lines of the console about requests, in the words of their answers.

use crate::api::report::{MULTIPART, form, text_part};
use crate::support::{REPORT, Server, TASKS, WITH_AND_WITHOUT_TLS};

#[test]
fn the_console_lists_the_parts_of_a_report() {
    let server = Server::start(&[]);

    server.post(REPORT, MULTIPART, &[text_part("id", "1").as_bytes(), &form(b"hello")].concat());

    let file = server.wait_for_line(|line| line.starts_with("    file  "));
    assert_eq!(
        file,
        "    file  \"report.zip\"  application/zip  5 bytes  sha256 \
         2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"
    );
    let text = server.wait_for_line(|line| line.starts_with("    id  "));
    assert!(text.starts_with("    id  \"1\"  "), "{text}");
    assert!(text.contains("  1 byte"), "{text}");
}

#[test]
fn the_console_shows_a_request_with_its_status_and_size() {
    let server = Server::start(&[]);

    server.get("/xyz/api/cleaner/tasks?from=console");

    let logged = server.wait_for_request("GET", "/xyz/api/cleaner/tasks?from=console");
    assert_eq!(logged.status, 200);
    assert_eq!(logged.size, "128 bytes");
    assert_eq!(logged.sentence, None);
}

#[test]
fn the_console_says_of_an_error_what_the_answer_says() {
    for arguments in WITH_AND_WITHOUT_TLS {
        let server = Server::start(arguments);
        for (method, target, status) in [
            ("GET", "/xyz/api/cleaner/nothing", 404),
            ("DELETE", TASKS, 405),
            ("TRACE", TASKS, 405),
            ("CONNECT", TASKS, 405),
            ("CONNECT", "production.example:443", 405),
        ] {
            let response = server.request(method, target, &[]);

            let sentence = response.assert_error(status);
            if status == 405 {
                assert!(sentence.contains(method), "{sentence}");
                assert!(response.allowed_methods().contains(&"GET"), "{method} {target}");
            }
            let logged = server.wait_for_request(method, target);
            assert_eq!(logged.status, status);
            assert_eq!(logged.sentence, Some(sentence), "{method} {target}");
        }
    }
}

#[test]
fn the_end_loses_no_line_about_a_request() {
    let mut server = Server::start(&[]);
    let targets: Vec<String> = (0..100).map(|i| format!("{TASKS}?i={i}")).collect();
    for target in &targets {
        assert_eq!(server.get(target).status, 200);
    }

    let ended = server.stop();

    let events = ended.stdout.lines().filter(|line| line.starts_with(|first: char| first.is_ascii_digit()));
    let logged: Vec<&str> = events.filter_map(|line| line.split("  ").nth(2)).collect();
    assert_eq!(logged, targets);
}
