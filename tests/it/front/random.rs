//! Random requests, by the generator beside this file: valid ones arrive as they were sent, however they are cut into pieces,
//! and mutated ones get a well-formed answer and do no harm. The same seed gives the same bytes.
//!
//! By hand: `CLEANER_RANDOM_SEED=7 CLEANER_RANDOM_SECONDS=1200 cargo test --release --test it random -- --nocapture`.
//! Each round has a seed of its own, one more than the round before; a failure prints it.

use std::fs::{self, File};
use std::io::{BufReader, Read};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::connection::{Connection, Response};
use crate::front::generator::{Random, Request, mutate};
use crate::support::{LIMIT, REPORT, Server, TASKS, WITH_AND_WITHOUT_TLS, built_in, local, sha256};

#[test]
fn random_requests_arrive_as_sent_and_mutated_ones_do_no_harm() {
    let number = |name| std::env::var(name).ok().map(|value| value.parse().expect("a whole number"));
    let first_seed: u64 = number("CLEANER_RANDOM_SEED").unwrap_or(1);
    let deadline = number("CLEANER_RANDOM_SECONDS").map(|seconds| Instant::now() + Duration::from_secs(seconds));
    let is_over = |rounds| deadline.map_or(rounds == 300, |deadline| Instant::now() > deadline);

    let (mut rounds, mut requests) = (0, 0);
    while !is_over(rounds) {
        // New servers now and then, so that what tests and servers keep of each round does not pile up for hours.
        let mut subjects = WITH_AND_WITHOUT_TLS.map(Subject::start);
        while !is_over(rounds) && (rounds + 1) % 20_000 != 0 {
            let seed = first_seed.wrapping_add(rounds);
            let repeat = Repeat(seed);
            let mut random = Random(seed);
            let subject = &mut subjects[random.below(2)];
            requests += match random.below(2) {
                0 => assert_valid_requests_arrive(&mut random, subject),
                _ => assert_mutated_requests_do_no_harm(&mut random, subject),
            };
            assert_eq!(subject.server.get(TASKS).body, built_in("tasks.json"), "the next client");
            subject.new_events(1);
            drop(repeat);
            rounds += 1;
        }
        rounds += u64::from(!is_over(rounds));
        eprintln!("seeds from {first_seed}: {rounds} rounds, {requests} requests");
        #[cfg(target_os = "linux")]
        for Subject { server, .. } in &subjects {
            let peak = server.peak_memory_kib();
            assert!(peak < 64 * 1024, "{peak} KiB");
        }
    }
}

/// Between the two pieces another client is served, so that the server has most likely seen the first one alone.
#[test]
fn a_request_may_be_cut_in_two_at_every_byte() {
    let body = "--b\r\nContent-Disposition: form-data; name=\"file\"; filename=\"f\"\r\n\r\nhello\r\n--b--\r\n";
    let chunks =
        format!("{:x};a=b\r\n{}\r\n{:X}\r\n{}\r\n0\r\nX: 1\r\n\r\n", 60, &body[..60], body.len() - 60, &body[60..]);
    let request = format!(
        "POST {REPORT} HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data; boundary=b\r\n\
         Transfer-Encoding: chunked\r\n\r\n{chunks}"
    );
    for arguments in WITH_AND_WITHOUT_TLS {
        let mut subject = Subject::start(arguments);
        let mut connection = subject.server.connect();
        let mut other = subject.server.connect();
        for cut in 1..request.len() {
            let (before, behind) = request.split_at(cut);
            connection.send(before);
            other.send(format!("GET {TASKS} HTTP/1.1\r\nHost: localhost\r\n\r\n"));
            assert_eq!(other.read_response(false).status, 200, "cut at {cut}");
            connection.send(behind);

            assert_eq!(connection.read_response(false).body, built_in("report.json"), "cut at {cut}");
        }
        connection.finish_sending();
        connection.assert_closed();

        let events = subject.new_events(2 * (request.len() - 1));
        let reports: Vec<&Value> = events.iter().filter(|event| event["method"] == "POST").collect();
        assert_eq!(reports.len(), request.len() - 1);
        for report in reports {
            let part = &report["parts"][0];
            assert_eq!((&part["bytes"], &part["sha256"]), (&json!(5), &json!(sha256(b"hello"))), "{report}");
            assert_eq!(report["findings"], json!([]), "{report}");
        }
    }
}

/// A server, and what its journal has not yet told.
struct Subject {
    server: Server,
    journal: BufReader<File>,
}

impl Subject {
    fn start(arguments: &[&str]) -> Subject {
        let server = Server::start(arguments);
        let journal = File::open(server.record.path().join("journal.jsonl")).expect("a journal");
        let mut subject = Subject { server, journal: BufReader::new(journal) };
        subject.new_events(1);
        subject
    }

    /// The events since the last call, which are so many, or soon will be: the last one of a connection is written when
    /// both sides have closed it.
    fn new_events(&mut self, count: usize) -> Vec<Value> {
        let deadline = Instant::now() + LIMIT;
        // As bytes, since a line may be half written, within a letter too.
        let mut lines = Vec::new();
        while lines.iter().filter(|byte| **byte == b'\n').count() < count && Instant::now() < deadline {
            std::thread::yield_now();
            self.journal.read_to_end(&mut lines).expect("the journal can be read");
        }
        let lines = lines.split_inclusive(|byte| *byte == b'\n');
        lines.map(|line| serde_json::from_slice(line).expect("a line of the journal is JSON")).collect()
    }
}

/// Several requests on one connection, in pieces. Returns how many.
fn assert_valid_requests_arrive(random: &mut Random, subject: &mut Subject) -> usize {
    let count = 1 + random.below(4);
    let requests: Vec<Request> = (0..count).map(|_| Request::random(random)).collect();
    let mut connection = subject.server.connect();
    let is_pipelined = random.below(2) == 0;
    let mut answers = Vec::new();
    if is_pipelined {
        let stream: Vec<u8> = requests.iter().flat_map(|request| request.bytes.clone()).collect();
        send_in_pieces(random, &mut connection, &stream);
    }
    for request in &requests {
        if !is_pipelined {
            send_in_pieces(random, &mut connection, &request.bytes);
        }
        answers.push(final_answer(&mut connection, request.event["method"] == "HEAD"));
    }
    connection.finish_sending();
    connection.assert_closed();

    let events = subject.new_events(count);
    assert_eq!(events.len(), count, "{events:#?}");
    for ((request, answer), mut event) in requests.iter().zip(&answers).zip(events) {
        assert_eq!(answer.status, request.event["status"], "{}", request.event);
        if let Some(body) = &request.answer {
            assert_eq!(&answer.body, body, "{}", request.event);
        }
        assert_eq!(event["bytes_out"], answer.body.len(), "{event}");
        for part in event["parts"].as_array_mut().expect("parts are a list") {
            assert_saved(part);
        }
        for (member, sent) in request.event.as_object().expect("an object") {
            assert_eq!(&event[member], sent, "{member} of {event}");
        }
    }
    count
}

/// Whatever becomes of them: every answer is well-formed and in the journal, and what was seen of a report was sent.
fn assert_mutated_requests_do_no_harm(random: &mut Random, subject: &mut Subject) -> usize {
    let mut stream = Vec::new();
    for _ in 0..=random.below(2) {
        let request = Request::random(random);
        // How an answer is framed would depend on whether the mutated request still is a HEAD.
        if request.event["method"] != "HEAD" {
            stream.extend(request.bytes);
        }
    }
    for _ in 0..=random.below(3) {
        mutate(random, &mut stream);
    }
    // Those are not taken for HTTP at all.
    const TLS_HANDSHAKE: u8 = 22;
    if stream.first().is_none_or(|first| *first == TLS_HANDSHAKE) {
        stream.insert(0, b'G');
    }
    let mut connection = subject.server.connect();
    send_in_pieces(random, &mut connection, &stream);
    connection.finish_sending();
    let mut answers = Vec::new();
    while !connection.has_ended() {
        answers.push(connection.read_response(false));
    }
    answers.retain(|answer| answer.status != 100);

    let shown = stream[..stream.len().min(5000)].escape_ascii();
    drop(connection);
    let events = subject.new_events(answers.len().max(1));
    let (requests, connections): (Vec<Value>, Vec<Value>) =
        events.into_iter().partition(|event| event["event"] == "request");
    assert_eq!(requests.len(), answers.len(), "{requests:#?}\n{shown}");
    assert_eq!(connections.len(), usize::from(answers.is_empty()), "{connections:#?}\n{shown}");
    for (answer, mut event) in answers.iter().zip(requests) {
        assert_eq!(event["status"], answer.status, "{event}\n{shown}");
        assert!(!matches!(answer.status, 500 | 503 | 507), "{event}\n{shown}");
        if answer.status >= 400 {
            assert_eq!(event["error"], answer.assert_error(answer.status), "{event}\n{shown}");
        }
        for part in event["parts"].as_array_mut().expect("parts are a list") {
            assert_saved(part);
            assert!(is_chunked(&stream) || is_in(part, &stream), "{part}\n{shown}");
        }
    }
    answers.len()
}

/// An uploaded file was saved as it was seen. It is removed, and its path taken out of the part.
fn assert_saved(part: &mut Value) {
    let saved = part.as_object_mut().and_then(|part| part.remove("saved")).expect("`saved` is there");
    if let Some(path) = saved.as_str() {
        let path = local(path);
        let content = fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        assert_eq!((json!(content.len()), json!(sha256(&content))), (part["bytes"].clone(), part["sha256"].clone()));
        fs::remove_file(path).expect("the file is ours now");
    }
}

fn is_chunked(stream: &[u8]) -> bool {
    stream.to_ascii_lowercase().windows(7).any(|window| window == b"chunked")
}

/// Whether the part's content stands behind an empty line of what was sent.
fn is_in(part: &Value, stream: &[u8]) -> bool {
    let length = part["bytes"].as_u64().expect("bytes is a number") as usize;
    let empty_lines = stream.windows(4).enumerate().filter(|(_, window)| window == b"\r\n\r\n");
    let mut contents = empty_lines.filter_map(|(at, _)| stream.get(at + 4..at + 4 + length));
    contents.any(|content| part["sha256"] == sha256(content))
}

/// The answer, without the 100 that may come before it.
fn final_answer(connection: &mut Connection, is_head: bool) -> Response {
    let answer = connection.read_response(is_head);
    if answer.status == 100 { connection.read_response(is_head) } else { answer }
}

fn send_in_pieces(random: &mut Random, connection: &mut Connection, bytes: &[u8]) {
    let mut cuts = match random.below(4) {
        0 => Vec::new(),
        1 if bytes.len() < 2000 => (0..bytes.len()).collect(),
        _ => (0..random.below(12)).map(|_| random.below(bytes.len() + 1)).collect(),
    };
    cuts.sort_unstable();
    cuts.push(bytes.len());
    let mut sent = 0;
    for cut in cuts {
        connection.send(&bytes[sent..cut]);
        sent = cut;
    }
}

/// Tells how to repeat the round in which the test fails.
struct Repeat(u64);

impl Drop for Repeat {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("CLEANER_RANDOM_SEED={} begins with the round that failed", self.0);
        }
    }
}
