//! What a server is put under, for one slice of time or one transfer.

use std::thread;
use std::time::{Duration, Instant};

use crate::Outcome;
use crate::client::Connection;
use crate::server::{FILE_BYTES, Server, file_pieces};

/// GET tasks over so many kept connections, one request at a time on each: requests per second, p50 and p99 in µs.
///
/// One thread serves the connections in turn. It sleeps only while the next answer is not there yet, so that it needs
/// one read and one write for each request, and no call that asks which connection is ready.
pub fn kept(server: &Server, slice: Duration, connections: usize) -> Outcome<Vec<f64>> {
    let request = server.get_tasks();
    let mut open = Vec::new();
    for _ in 0..connections {
        open.push((Connection::open(&server.client)?, Instant::now()));
    }
    for (connection, asked) in &mut open {
        *asked = Instant::now();
        connection.send(&request)?;
    }
    let mut latencies = Vec::new();
    let started = Instant::now();
    let took = 'slice: loop {
        for (connection, asked) in &mut open {
            let answer = connection.read_answer()?;
            let now = Instant::now();
            latencies.push(now - *asked);
            if now - started >= slice {
                break 'slice now - started;
            }
            *asked = now;
            if answer.is_last {
                *connection = Connection::open(&server.client)?;
            }
            connection.send(&request)?;
        }
    };
    latencies.sort_unstable();
    let percentile = |percent: usize| latencies[(latencies.len() - 1) * percent / 100].as_secs_f64() * 1e6;
    Ok(vec![latencies.len() as f64 / took.as_secs_f64(), percentile(50), percentile(99)])
}

/// The same while other connections are open over which nothing is said.
pub fn beside_idle(server: &Server, slice: Duration, connections: usize, idle: usize) -> Outcome<Vec<f64>> {
    let silent: Vec<Connection> = (0..idle).map(|_| Connection::open(&server.client)).collect::<Outcome<_>>()?;
    let measured = kept(server, slice, connections);
    drop(silent);
    measured
}

/// Full handshakes, each followed by one GET tasks, per second.
pub fn new_connections(server: &Server, slice: Duration) -> Outcome<Vec<f64>> {
    let request = server.get_tasks();
    let started = Instant::now();
    let connect_again_and_again = || -> Outcome<u32> {
        let mut count = 0;
        while started.elapsed() < slice {
            let mut connection = Connection::open(&server.client)?;
            connection.send(&request)?;
            connection.read_answer()?;
            connection.close()?;
            count += 1;
        }
        Ok(count)
    };
    let counts: Vec<Outcome<u32>> = thread::scope(|scope| {
        let threads: Vec<_> = (0..CONNECTING_THREADS).map(|_| scope.spawn(connect_again_and_again)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap_or_else(|_| Err("a client panicked".into()))).collect()
    });
    let took = started.elapsed();
    let count: u32 = counts.into_iter().sum::<Outcome<u32>>()?;
    Ok(vec![f64::from(count) / took.as_secs_f64()])
}

/// The file of `FILE_BYTES`, once.
pub fn download(server: &Server) -> Outcome<Vec<f64>> {
    let mut connection = Connection::open(&server.client)?;
    let started = Instant::now();
    connection.send(&server.get("/xyz/api/cleaner/tasks/download?id=1"))?;
    let answer = connection.read_answer()?;
    if answer.body_bytes != FILE_BYTES {
        return Err(format!("the download has {} bytes instead of {FILE_BYTES}", answer.body_bytes).into());
    }
    Ok(vec![megabytes_per_second(started.elapsed())])
}

/// A report with one file of `FILE_BYTES`, once; until the answer is there.
pub fn upload(server: &Server) -> Outcome<Vec<f64>> {
    let beginning = format!(
        "--{BOUNDARY}\r\nContent-Disposition: form-data; name=\"file\"; filename=\"report.zip\"\r\n\
         Content-Type: application/zip\r\n\r\n"
    );
    let end = format!("\r\n--{BOUNDARY}--\r\n");
    let head = format!(
        "POST /xyz/api/cleaner/tasks/report?id=1 HTTP/1.1\r\nHost: {}\r\nContent-Length: {}\r\n\
         Content-Type: multipart/form-data; boundary={BOUNDARY}\r\n\r\n",
        server.host,
        (beginning.len() + end.len()) as u64 + FILE_BYTES
    );
    let mut connection = Connection::open(&server.client)?;
    let started = Instant::now();
    connection.send((head + &beginning).as_bytes())?;
    for piece in file_pieces() {
        connection.send(piece)?;
    }
    connection.send(end.as_bytes())?;
    connection.read_answer()?;
    Ok(vec![megabytes_per_second(started.elapsed())])
}

fn megabytes_per_second(took: Duration) -> f64 {
    FILE_BYTES as f64 / 1e6 / took.as_secs_f64()
}

/// Enough that one of them is at work on each of a few cores while others wait for the server.
const CONNECTING_THREADS: usize = 4;
const BOUNDARY: &str = "a-boundary-that-does-not-occur-in-the-file";
