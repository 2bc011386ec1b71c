//! Whether the client got all of its answer, as far as the end of its connection tells.

use std::fs;
use std::io::Write;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::front::refusal::open;
use crate::support::{
    DOWNLOAD, Server, WITH_AND_WITHOUT_TLS, data_folder, folder_with_a_large_download, is_skipped_under_wine, text,
};

/// It closes before the answer comes, which then meets nobody.
#[test]
fn a_small_answer_that_meets_nobody_is_not_delivered() {
    if is_skipped_under_wine("a reset behind an answer, which wine tells as an end in order") {
        return;
    }
    for arguments in WITH_AND_WITHOUT_TLS {
        let server = Server::start(arguments);
        let mut connection = server.connect();
        connection.send(GET_TASKS);
        assert_eq!(connection.read_response(false).status, 200);
        connection.send(last_request());
        drop(connection);

        let event = server.wait_for_event(2);

        assert_eq!((&event["delivered"], &event["bytes_out"]), (&json!(false), &json!(128)), "{event}");
        let sentence = event["error"].as_str().expect("a sentence");
        assert!(sentence.contains("reset the connection"), "{sentence}");
        server.wait_for_line(|line| line.ends_with(sentence));
    }
}

#[test]
fn an_answer_that_has_come_and_is_not_read_is_not_delivered() {
    if is_skipped_under_wine("a reset behind an answer, which wine tells as an end in order") {
        return;
    }
    let server = Server::start(&["--http"]);
    let mut stream = open(&server);
    stream.write_all(last_request().as_bytes()).expect("the server reads");
    stream.peek(&mut [0]).expect("an answer");
    drop(stream);

    let event = server.wait_for_event(1);

    assert_eq!((&event["delivered"], &event["status"]), (&json!(false), &json!(200)), "{event}");
}

/// Over TLS the server's goodbye lies unread then, so that many of these end with a reset.
#[test]
fn who_closes_as_soon_as_it_has_read_all_has_got_it() {
    for arguments in WITH_AND_WITHOUT_TLS {
        let server = Server::start(arguments);
        for round in 1..=50 {
            let mut connection = server.connect();
            connection.send(last_request());
            assert_eq!(connection.read_response(false).body.len(), 128);
            if round % 10 == 0 {
                thread::sleep(Duration::from_millis(20));
            }
            drop(connection);

            let event = server.wait_for_event(round);

            assert_eq!((&event["delivered"], &event["error"]), (&json!(true), &json!(null)), "round {round}: {event}");
        }
    }
}

#[test]
fn the_wait_for_the_end_is_not_in_the_milliseconds() {
    let server = Server::start(&["--http"]);
    let mut connection = server.connect();
    let started = Instant::now();
    connection.send(last_request());
    assert_eq!(connection.read_response(false).status, 200);
    let answered = started.elapsed();
    thread::sleep(Duration::from_millis(500));
    assert_eq!(server.journal().len(), 1, "told before the end is known");
    drop(connection);

    let event = server.wait_for_event(1);

    let milliseconds = event["ms"].as_f64().expect("a number");
    assert!(milliseconds <= answered.as_secs_f64() * 1000.0, "{event}, and answered after {answered:?}");
}

#[test]
fn an_answer_from_memory_that_is_taken_in_part_is_told_with_so_many_bytes() {
    let folder = data_folder();
    let tasks = format!("{{\"tasks\": [{{\"id\": 1, \"name\": \"{}\"}}]}}", "x".repeat(16_000_000));
    fs::write(folder.path().join("tasks.json"), tasks).expect("the tasks");
    for arguments in WITH_AND_WITHOUT_TLS {
        let server = Server::start(&[arguments, &["--data", text(folder.path())]].concat());
        let mut connection = server.connect();
        connection.send(GET_TASKS);
        connection.read_bytes(3_000_000);
        drop(connection);

        let event = server.wait_for_event(1);

        assert_eq!(event["delivered"], false, "{event}");
        assert!(event["bytes_out"].as_u64().is_some_and(|bytes| (2_900_000..16_000_000).contains(&bytes)), "{event}");
    }
}

/// As aria2 does with the connections that it needs no longer.
#[test]
fn who_closes_while_the_server_waits_for_it_has_closed_and_not_stopped_reading() {
    let folder = folder_with_a_large_download();
    for arguments in WITH_AND_WITHOUT_TLS {
        let server = Server::start(&[arguments, &["--data", text(folder.path())]].concat());
        let mut connection = server.connect();
        connection.send(format!("GET {DOWNLOAD}?id=1 HTTP/1.1\r\nHost: localhost\r\n\r\n"));
        assert!(!connection.has_ended(), "no answer");
        // Longer than the server waits at a time.
        thread::sleep(Duration::from_millis(1200));
        connection.finish_sending();
        thread::sleep(Duration::from_millis(100));
        drop(connection);

        let event = server.wait_for_event(1);

        let sentence = event["error"].as_str().expect("a sentence");
        assert!(sentence.starts_with("the client closed the connection after "), "{sentence}");
    }
}

fn last_request() -> String {
    GET_TASKS.replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n")
}

const GET_TASKS: &str = "GET /xyz/api/cleaner/tasks HTTP/1.1\r\nHost: localhost\r\n\r\n";
