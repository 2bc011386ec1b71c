//! The program is stopped for longer than its timeout and goes on (Ctrl+Z and `fg`, the sleep of a laptop): that is not
//! its clients' silence, and nobody is cut.

use std::io::{Read, Write};
use std::process::Command;
use std::thread;
use std::time::Duration;

use crate::connection::Connection;
use crate::front::refusal::{next_client, open, read_to_the_end};
use crate::front::tls::{SUITE, TLS_1_2, client_hello};
use crate::support::{DOWNLOAD, REPORT, Server, WITH_AND_WITHOUT_TLS, data_folder, is_skipped_under_wine, text};

#[test]
fn nobody_is_cut_because_the_program_stood_still() {
    if is_skipped_under_wine("signals, which stop only one of wine's processes") {
        return;
    }
    // More than the buffers of the systems hold, and no two pieces of it alike.
    let content: Vec<u8> = (0..4_000_000_u32).flat_map(u32::to_be_bytes).collect();
    let folder = data_folder();
    std::fs::write(folder.path().join("1797242037.zip"), &content).expect("a download");
    for arguments in WITH_AND_WITHOUT_TLS {
        let server = Server::start(&[arguments, &["--timeout", "4", "--data", text(folder.path())]].concat());
        let mut silent = open(&server);
        let mut hello_waits = open(&server);
        let hello = client_hello(TLS_1_2, &[SUITE], "localhost");
        hello_waits.write_all(&hello[..40]).expect("the server reads");
        let mut idle = server.connect();
        idle.send(GET_TASKS);
        assert_eq!(idle.read_response(false).status, 200);
        let mut upload = server.connect();
        upload.send(format!("POST {REPORT} HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n"));
        assert_eq!(upload.read_response(false).status, 100);
        let mut half_head = server.connect();
        half_head.send(&GET_TASKS[..20]);
        let mut downloads: Vec<Connection> = (0..20)
            .map(|_| {
                let mut connection = server.connect();
                connection.send(format!("GET {DOWNLOAD}?id=1 HTTP/1.1\r\nHost: a\r\n\r\n"));
                assert!(!connection.has_ended(), "no answer");
                connection
            })
            .collect();

        for _ in 0..2 {
            signal(&server, "STOP");
            thread::sleep(Duration::from_millis(4500));
            signal(&server, "CONT");
            // A moment in which it would cut them.
            next_client(&server);
        }

        upload.send("hello");
        assert_eq!(upload.read_response(false).status, 200);
        half_head.send(&GET_TASKS[20..]);
        assert_eq!(half_head.read_response(false).status, 200);
        idle.send(GET_TASKS);
        assert_eq!(idle.read_response(false).status, 200);
        if arguments.is_empty() {
            hello_waits.write_all(&hello[40..]).expect("the server reads");
            hello_waits.read_exact(&mut [0; 5]).expect("the server's hello");
        }
        silent.write_all(b"?\r\n\r\n").expect("the server reads");
        thread::scope(|scope| {
            for download in &mut downloads {
                scope.spawn(|| {
                    assert!(download.read_response(false).body == content, "not what was to come");
                });
            }
        });
        drop(read_to_the_end(&mut silent));
    }
}

fn signal(server: &Server, name: &str) {
    let sent = Command::new("kill").args(["-s", name, &server.process_id().to_string()]).status();
    assert!(sent.expect("kill can be started").success(), "SIG{name} was not sent");
}

const GET_TASKS: &str = "GET /xyz/api/cleaner/tasks HTTP/1.1\r\nHost: localhost\r\n\r\n";
