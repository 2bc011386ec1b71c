//! Nobody waits for anybody: many stuck clients at once, more connections than there may be, and no descriptors left.

use std::net::TcpStream;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crate::api::report::{MULTIPART, form};
use crate::connection::Connection;
use crate::support::{
    DOWNLOAD, LIMIT, REPORT, Server, TASKS, WITH_AND_WITHOUT_TLS, folder_with_a_large_download, medians, text,
};
#[cfg(unix)]
use crate::support::{is_skipped_under_wine, start_limited};

#[test]
fn nobody_waits_for_stuck_clients() {
    let _turn = take_turn();
    let folder = folder_with_a_large_download();
    for arguments in WITH_AND_WITHOUT_TLS {
        let alone = Server::start(arguments);
        // The timeout is longer than any wait of a test: who waited for one of them would fail.
        let server = Server::start(&[arguments, &["--timeout", "300", "--data", text(folder.path())]].concat());
        let _wordless: Vec<TcpStream> = (0..50).map(|_| open(&server)).collect();
        let _idle: Vec<Connection> = (0..50).map(|_| server.connect()).collect();
        // Half of the bodies wait in memory, half of them in files.
        let mut half_bodies: Vec<Connection> =
            (0..50).map(|index| half_a_body(&server, 900_000 + index % 2 * 300_000)).collect();
        let mut downloads: Vec<Connection> = (0..20).map(|_| stalled_download(&server)).collect();
        let _half_heads: Vec<Connection> = (0..10).map(|_| half_a_head(&server)).collect();
        let _half_chunks: Vec<Connection> = (0..10).map(|_| half_a_chunk(&server)).collect();
        let trickle = Trickle::start(half_a_body(&server, 0));

        let [usual, beside] = medians([&alone, &server], |server| assert_serves(&mut server.connect()));
        assert!(beside < 5 * usual, "{beside:?} instead of {usual:?}");
        upload_of_20_mb_succeeds(&server);

        #[cfg(target_os = "linux")]
        assert!(server.peak_memory_kib() < 64 * 1024, "{} KiB", server.peak_memory_kib());
        // They were slow, not wrong: who goes on is served.
        drop(trickle);
        for connection in &mut half_bodies[..2] {
            connection.send(vec![b'x'; BODY_BYTES]);
            assert_eq!(connection.read_response(false).status, 200);
        }
        assert_eq!(downloads[0].read_response(false).body.len(), 200_000_000);
    }
}

/// Each of them alone would be small enough to wait in memory.
#[test]
#[cfg(target_os = "linux")]
fn three_hundred_stuck_clients_of_a_kind_need_little_memory() {
    let _turn = take_turn();
    let folder = folder_with_a_large_download();
    for arguments in WITH_AND_WITHOUT_TLS {
        for (what, connect) in [
            ("half a head", half_a_head as fn(&Server) -> Connection),
            ("half a body", |server| half_a_body(server, 1_000_000)),
            ("a stalled download", stalled_download),
        ] {
            let server = Server::start(&[arguments, &["--timeout", "300", "--data", text(folder.path())]].concat());
            let stuck: Vec<Connection> = (0..300).map(|_| connect(&server)).collect();
            // What was sent before this has most likely arrived by its end.
            upload_of_20_mb_succeeds(&server);

            let peak = server.peak_memory_kib();
            assert!(peak < 64 * 1024, "{arguments:?}, {} times {what}: {peak} KiB", stuck.len());
        }
    }
}

/// Whatever a thousand others do, or do not do.
#[test]
#[cfg(target_os = "linux")]
fn among_many_clients_those_who_do_not_get_on_give_their_place_to_others() {
    let _turn = take_turn();
    if is_skipped_under_wine("the limit of descriptors, which is that of wine's own server") {
        return;
    }
    let folder = folder_with_a_large_download();
    for (what, connect) in [
        ("silent", (|server| Connection::plain(server.address())) as fn(&Server) -> Connection),
        ("half a head", half_a_head),
        ("half a body", |server| half_a_body(server, 1_000)),
        ("some bytes of a body now and then", |server| half_a_body(server, 1)),
        ("idle", |server| {
            let mut connection = server.connect();
            assert_serves(&mut connection);
            connection
        }),
        ("a stalled download", stalled_download),
    ] {
        let server = Server::start(&["--http", "--timeout", "300", "--data", text(folder.path())]);
        let started = Instant::now();
        (0..10).for_each(|_| assert_serves(&mut server.connect()));
        let usual = started.elapsed() / 10;
        let mut stuck: Vec<Connection> = (0..512).map(|_| connect(&server)).collect();
        let _more: Vec<Connection> = (0..388).map(|_| Connection::plain(server.address())).collect();

        let waited = thread::scope(|scope| {
            let client = scope.spawn(|| {
                let started = Instant::now();
                assert_serves(&mut server.connect());
                started.elapsed()
            });
            while what == "some bytes of a body now and then" && !client.is_finished() {
                // Less than 1 KB/s. Some have been closed.
                stuck.iter_mut().for_each(|connection| drop(connection.try_send(&[b'x'; 80])));
                thread::sleep(Duration::from_millis(100));
            }
            client.join().expect("an answer")
        });

        // A busy machine takes longer for everything.
        assert!(waited < Duration::from_secs(3) + 100 * usual, "{what}: {waited:?}, and usually {usual:?}");
    }
}

#[test]
fn up_to_256_clients_keep_their_places() {
    let _turn = take_turn();
    let server = Server::start(&["--timeout", "300"]);
    let mut drops = half_a_body(&server, 0);
    let mut idle = server.connect();
    let silent: Vec<TcpStream> = (0..254).map(|_| open(&server)).collect();
    for _ in 0..30 {
        thread::sleep(Duration::from_millis(100));
        drops.send("x");
    }

    assert_serves(&mut idle);
    drops.send(vec![b'x'; BODY_BYTES - 30]);
    assert_eq!(drops.read_response(false).status, 200);
    for stream in &silent {
        stream.set_nonblocking(true).expect("a socket has this option");
        let end = stream.peek(&mut [0]).expect_err("nothing is sent, and nothing closed");
        assert_eq!(end.kind(), std::io::ErrorKind::WouldBlock);
    }
}

/// macOS lets neither a test nor a server have so many descriptors unasked.
#[test]
#[cfg(not(target_os = "macos"))]
fn the_513th_connection_is_503_and_the_next_is_served_when_others_end() {
    let _turn = take_turn();
    for arguments in WITH_AND_WITHOUT_TLS {
        let hang = ["--fault", "hang", "--timeout", "300"];
        let (server, alone) = (Server::start(&[arguments, &hang].concat()), Server::start(arguments));
        // Keeps its place, since it gets on. No fault is for its path, nor for the method of `ask`.
        let mut upload = server.connect();
        upload.send(format!("POST /nowhere HTTP/1.1\r\nHost: localhost\r\nContent-Length: {BODY_BYTES}\r\n\r\n"));
        let mut sent_bytes = 0;
        let mut get_on = || {
            upload.send([b'x'; 2000]);
            sent_bytes += 2000;
        };
        // Every other request hangs, so that each of these comes to one that does, and never gives way.
        let requests = format!("GET {TASKS} HTTP/1.1\r\nHost: localhost\r\n\r\n").repeat(20);
        let hang_one = |_| {
            let mut connection = server.connect();
            connection.send(&requests);
            get_on();
            connection
        };
        let hung: Vec<Connection> = (1..512).map(hang_one).collect();
        let ask = |server: &Server| server.request("OPTIONS", TASKS, &[]);
        let refused = thread::scope(|scope| {
            let client = scope.spawn(|| ask(&server));
            while !client.is_finished() {
                get_on();
                thread::sleep(Duration::from_millis(100));
            }
            client.join().expect("an answer")
        });

        let sentence = refused.assert_error(503);
        assert!(sentence.contains("512"), "{sentence}");
        server.wait_for_line(|line| line.ends_with(&sentence));
        // Now that nobody gives way, the next one is not made to wait for that.
        let [usual, at_once] = medians([(&alone, 200), (&server, 503)], |(server, status)| {
            get_on();
            assert_eq!(ask(server).status, *status);
        });
        assert!(at_once < 20 * usual, "{at_once:?} instead of {usual:?}");
        upload.send(vec![b'x'; BODY_BYTES - sent_bytes]);
        assert_eq!(upload.read_response(false).status, 404);

        drop((upload, hung));

        // The server needs a moment to see that they have gone.
        let deadline = Instant::now() + LIMIT;
        while ask(&server).status == 503 {
            assert!(Instant::now() < deadline, "the ended connections still count");
        }
        assert_eq!(ask(&server).status, 200);
    }
}

/// With 64 descriptors some 50 clients are served at a time. The others wait for their turn, and get it.
#[test]
#[cfg(unix)]
fn used_up_descriptors_are_survived_and_said_once() {
    let _turn = take_turn();
    if is_skipped_under_wine("the shell's limit, which does not reach wine's own server, where the descriptors are") {
        return;
    }
    let mut server = start_limited("ulimit -n 64", &["--http"]);
    let mut clients: Vec<Connection> = (0..100)
        .map(|_| {
            let mut connection = server.connect();
            connection.send(format!("GET {TASKS} HTTP/1.1\r\nHost: localhost\r\n\r\n"));
            connection
        })
        .collect();
    let warning = server.wait_for_line(|line| line.contains("cannot accept"));

    // Each client's end makes room for one that still waits.
    for mut client in clients.drain(..) {
        assert_eq!(client.read_response(false).status, 200);
    }

    assert_eq!(server.get(TASKS).status, 200, "the next client");
    let sentence = &warning["14:02:09  ".len()..];
    let stdout = server.interrupt().stdout;
    assert_eq!(stdout.matches(sentence).count(), 1, "{stdout}");
}

/// These tests run one after the other: together they would need more descriptors than a process usually may have.
fn take_turn() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

fn open(server: &Server) -> TcpStream {
    TcpStream::connect(server.address()).expect("the server listens")
}

fn half_a_head(server: &Server) -> Connection {
    let mut connection = server.connect();
    connection.send(format!("GET {TASKS} HTTP/1.1\r\nHost: localhost\r\nX: {}", "x".repeat(65_000)));
    connection
}

/// A client that has sent so many of `BODY_BYTES`.
fn half_a_body(server: &Server, sent_bytes: usize) -> Connection {
    let mut connection = server.connect();
    connection.send(format!("POST {REPORT} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {BODY_BYTES}\r\n\r\n"));
    connection.send(vec![b'x'; sent_bytes]);
    connection
}

fn half_a_chunk(server: &Server) -> Connection {
    let mut connection = server.connect();
    connection.send(format!("POST {REPORT} HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhe"));
    connection
}

/// A client that has seen the beginning of an answer of 200 MB, and reads no further.
fn stalled_download(server: &Server) -> Connection {
    let mut connection = server.connect();
    connection.send(format!("GET {DOWNLOAD} HTTP/1.1\r\nHost: localhost\r\n\r\n"));
    assert!(!connection.has_ended(), "no answer");
    connection
}

fn assert_serves(connection: &mut Connection) {
    connection.send(format!("GET {TASKS} HTTP/1.1\r\nHost: localhost\r\n\r\n"));
    let response = connection.read_response(false);
    assert_eq!((response.status, response.body.len()), (200, 128));
}

fn upload_of_20_mb_succeeds(server: &Server) {
    assert_eq!(server.post(REPORT, MULTIPART, &form(&vec![b'x'; 20_000_000])).status, 200);
    server.wait_for_line(|line| line.contains("\"report.zip\"") && line.contains(", 20,000,000 bytes, "));
}

/// Sends a byte of a body every second, until it is dropped.
struct Trickle {
    stop: Option<mpsc::Sender<()>>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Trickle {
    fn start(mut connection: Connection) -> Trickle {
        let (stop, stopped) = mpsc::channel();
        let thread = thread::spawn(move || {
            while stopped.recv_timeout(Duration::from_secs(1)) == Err(RecvTimeoutError::Timeout) {
                connection.send("x");
            }
        });
        Trickle { stop: Some(stop), thread: Some(thread) }
    }
}

impl Drop for Trickle {
    fn drop(&mut self) {
        drop(self.stop.take());
        let ended = self.thread.take().map(thread::JoinHandle::join);
        if !thread::panicking() {
            assert!(matches!(ended, Some(Ok(()))), "the server did not bear a byte a second");
        }
    }
}

const BODY_BYTES: usize = 2_000_000;
