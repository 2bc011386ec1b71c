//! Random requests, by a generator of our own: valid ones arrive as they were sent, however they are cut into pieces,
//! and mutated ones get a well-formed answer and do no harm. The same seed gives the same bytes.
//!
//! By hand: `CLEANER_RANDOM_SEED=7 CLEANER_RANDOM_SECONDS=1200 cargo test --release --test it random -- --nocapture`.
//! Each round has a seed of its own, one more than the round before; a failure prints it.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::connection::{Connection, Response};
use crate::foreign::sha256;
use crate::support::{DOWNLOAD, REPORT, Server, TASKS, WITH_AND_WITHOUT_TLS, built_in, local};

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
            subject.new_events();
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

        let events = subject.new_events();
        let reports: Vec<&Value> = events.iter().filter(|event| event["method"] == "POST").collect();
        assert_eq!(reports.len(), request.len() - 1);
        for report in reports {
            let part = &report["parts"][0];
            assert_eq!((&part["bytes"], &part["sha256"]), (&json!(5), &json!(sha256(b"hello"))), "{report}");
            assert_eq!(report["findings"], json!([]), "{report}");
        }
    }
}

/// The reader of parts has buffers, and a content may end anywhere in them.
#[test]
fn a_part_may_have_every_size() {
    let mut subject = Subject::start(&["--http"]);
    let mut connection = subject.server.connect();
    let head = "--b\r\nContent-Disposition: form-data; name=\"field\"; filename=\"f\"\r\n\r\n";
    let sizes: Vec<usize> = (1..100).chain(65_300..65_600).collect();
    for size in &sizes {
        let body = format!("{head}{}\r\n{head}hello\r\n--b--\r\n", "x".repeat(*size));
        connection.send(format!(
            "POST {REPORT} HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data; boundary=b\r\n\
             Content-Length: {}\r\n\r\n{body}",
            body.len()
        ));
        assert_eq!(connection.read_response(false).status, 200, "{size} bytes");
    }
    connection.finish_sending();
    connection.assert_closed();

    let events = subject.new_events();
    assert_eq!(events.len(), sizes.len());
    for (size, event) in sizes.iter().zip(&events) {
        let seen: Vec<&Value> = event["parts"].as_array().into_iter().flatten().map(|part| &part["bytes"]).collect();
        assert_eq!(seen, [&json!(size), &json!(5)], "{event}");
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
        subject.new_events();
        subject
    }

    /// The events since the last call. An event is written before its connection is closed.
    fn new_events(&mut self) -> Vec<Value> {
        let lines = self.journal.by_ref().lines().map(|line| line.expect("the journal is UTF-8"));
        lines.map(|line| serde_json::from_str(&line).expect("a line of the journal is JSON")).collect()
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

    let events = subject.new_events();
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
    let events = subject.new_events();
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

/// A small change anywhere, but in the heads rather than in the long contents.
fn mutate(random: &mut Random, bytes: &mut Vec<u8>) {
    let reach = if random.below(4) == 0 { bytes.len() } else { bytes.len().min(600) };
    let at = random.below(reach + 1);
    let end = (at + 1 + random.below(20)).min(bytes.len());
    match random.below(7) {
        0 => bytes.truncate(at),
        1 => drop(bytes.drain(at..end)),
        2 => {
            let twice = bytes[at..end].to_vec();
            bytes.splice(at..at, twice);
        }
        3 => {
            let length = random.below(10);
            let noise = random.bytes(length);
            bytes.splice(at..at, noise);
        }
        4 => {
            let word = random.one_of(&[
                "\r\n",
                "\n",
                "\r",
                "\0",
                ":",
                " ",
                "\t",
                "0",
                "9",
                ",",
                ";",
                "\"",
                "--",
                "\r\n\r\n",
                "\u{7f}",
                "\u{e9}",
                "Content-Length: 5\r\n",
                "Transfer-Encoding: chunked\r\n",
                "Expect: 100-continue\r\n",
                "HTTP/1.0",
                "%",
            ]);
            bytes.splice(at..at, word.bytes());
        }
        _ if at < bytes.len() => bytes[at] ^= 1 << random.below(8),
        _ => bytes.push(random.below(256) as u8),
    }
}

/// A valid request, and what the server must make of it.
struct Request {
    bytes: Vec<u8>,
    answer: Option<Vec<u8>>,
    /// The members of its event in the journal that are known beforehand.
    event: Value,
}

impl Request {
    fn random(random: &mut Random) -> Request {
        let zip = built_in("1797242037.zip");
        let first = random.below(zip.len());
        let last = first + random.below(zip.len() - first);
        let range = format!("bytes={first}-{last}");
        match random.below(8) {
            0 => Request::new(random, "GET", TASKS, 200, Some(built_in("tasks.json")), &[], None),
            1 => Request::new(random, "HEAD", TASKS, 200, Some(Vec::new()), &[], None),
            2 => Request::new(random, "GET", DOWNLOAD, 200, Some(zip), &[], None),
            3 => {
                let piece = zip[first..=last].to_vec();
                Request::new(random, "GET", DOWNLOAD, 206, Some(piece), &[("Range", range)], None)
            }
            4 => {
                let body = Body { bytes: random.long_bytes(), parts: Vec::new() };
                let (method, path, status) = random.one_of(&[("PUT", TASKS, 405), ("POST", "/elsewhere", 404)]);
                Request::new(random, method, path, status, None, &[], Some(body))
            }
            _ => {
                let boundary: String = random.text(BOUNDARY_CHARACTERS, 1, 60);
                let body = Body::random(random, &boundary);
                let content_type = [("Content-Type", format!("multipart/form-data; boundary=\"{boundary}\""))];
                Request::new(random, "POST", REPORT, 200, Some(built_in("report.json")), &content_type, Some(body))
            }
        }
    }

    fn new(
        random: &mut Random,
        method: &str,
        path: &str,
        status: u16,
        answer: Option<Vec<u8>>,
        needed: &[(&str, String)],
        body: Option<Body>,
    ) -> Request {
        let target = random.spelling(path);
        let mut headers = vec![("Host".to_owned(), "localhost".to_owned())];
        for _ in 0..random.below(6) {
            headers.push((format!("X-{}", random.text("abcXYZ019-_", 1, 20)), random.header_value()));
        }
        headers.extend(needed.iter().map(|(name, value)| ((*name).to_owned(), value.clone())));
        let mut framed = Vec::new();
        if let Some(body) = &body {
            let framing = if random.below(2) == 0 {
                framed.extend(&body.bytes);
                ("Content-Length".to_owned(), body.bytes.len().to_string())
            } else {
                framed = random.chunks(&body.bytes);
                ("Transfer-Encoding".to_owned(), random.one_of(&["chunked", "Chunked"]).to_owned())
            };
            headers.push(framing);
            if random.below(8) == 0 {
                headers.push(("Expect".to_owned(), "100-continue".to_owned()));
            }
        }
        for index in (1..headers.len()).rev() {
            headers.swap(index, random.below(index + 1));
        }
        let mut bytes = format!("{method} {target} HTTP/1.1\r\n").into_bytes();
        for (name, value) in &mut headers {
            *name = random.one_of(&[name.to_lowercase(), name.to_uppercase(), name.clone()]);
            let space = random.one_of(&["", " ", "\t", "  "]);
            bytes.extend(format!("{name}:{space}{value}{space}\r\n").as_bytes());
        }
        bytes.extend(b"\r\n");
        bytes.extend(framed);
        let (bytes_in, parts) = body.map_or((0, Vec::new()), |body| (body.bytes.len(), body.parts));
        let event = json!({
            "event": "request",
            "method": method,
            "target": target,
            "version": "HTTP/1.1",
            "headers": headers,
            "status": status,
            "bytes_in": bytes_in,
            "delivered": true,
            "parts": parts,
            "findings": [],
        });
        let event =
            if path == DOWNLOAD || path == TASKS || path == REPORT { event } else { without(event, "findings") };
        Request { bytes, answer, event }
    }
}

fn without(mut event: Value, member: &str) -> Value {
    event.as_object_mut().expect("an object").remove(member);
    event
}

/// What is sent as the body, and the parts that it has as multipart/form-data.
struct Body {
    bytes: Vec<u8>,
    parts: Vec<Value>,
}

impl Body {
    /// Begins with a file that has content, so that there are no findings.
    fn random(random: &mut Random, boundary: &str) -> Body {
        let mut bytes = Vec::new();
        if random.below(4) == 0 {
            bytes.extend(b"a preamble\r\n");
        }
        let mut parts = Vec::new();
        for index in 0..=random.below(4) {
            let field = format!("field-{}", random.text(NAME_CHARACTERS, 0, 20));
            let file_name =
                (index == 0 || random.below(2) == 0).then(|| format!("f{}", random.text(NAME_CHARACTERS, 0, 30)));
            let content_type =
                random.one_of(&[None, Some("application/zip"), Some("text/plain; charset=utf-8"), Some("x/y")]);
            let content = random.content(boundary);
            let mut disposition = format!("Content-Disposition: form-data; name={}", quoted(&field));
            if let Some(name) = &file_name {
                disposition += &format!("; filename={}", quoted(name));
            }
            let mut lines = vec![disposition];
            lines.extend(content_type.map(|content_type| format!("Content-Type: {content_type}")));
            if random.below(4) == 0 {
                lines.push("X-Other: 1".to_owned());
            }
            if random.below(2) == 0 {
                lines.reverse();
            }
            bytes.extend(format!("--{boundary}\r\n{}\r\n\r\n", lines.join("\r\n")).as_bytes());
            bytes.extend(&content);
            bytes.extend(b"\r\n");
            let text: String = String::from_utf8_lossy(&content).chars().take(200).collect();
            parts.push(json!({
                "field": field,
                "filename": file_name,
                "content_type": content_type,
                "bytes": content.len(),
                "sha256": sha256(&content),
                "value": file_name.is_none().then_some(text),
            }));
        }
        bytes.extend(format!("--{boundary}--{}", random.one_of(&["", "\r\n", "\r\nan epilogue"])).as_bytes());
        Body { bytes, parts }
    }
}

fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', r"\\").replace('"', "\\\""))
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

/// SplitMix64: one addition and a mix per number, and every seed is as good as another.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }

    fn one_of<T: Clone>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len())].clone()
    }

    fn bytes(&mut self, length: usize) -> Vec<u8> {
        (0..length).map(|_| self.next() as u8).collect()
    }

    fn text(&mut self, alphabet: &str, least: usize, most: usize) -> String {
        let alphabet: Vec<char> = alphabet.chars().collect();
        let length = least + self.below(most - least + 1);
        (0..length).map(|_| self.one_of(&alphabet)).collect()
    }

    fn header_value(&mut self) -> String {
        match self.below(10) {
            0 => String::new(),
            1 => "x".repeat(self.below(5000)),
            _ => format!("v{}.", self.text(NAME_CHARACTERS, 0, 40)),
        }
    }

    /// Mostly short; sometimes longer than every buffer, seldom so long that it goes through a file.
    fn long_bytes(&mut self) -> Vec<u8> {
        let most = match self.below(50) {
            0 => 1_500_000,
            1..10 => 100_000,
            _ => 3000,
        };
        let length = 1 + self.below(most);
        self.bytes(length)
    }

    /// Noise, or what looks much like the boundary and never is.
    fn content(&mut self, boundary: &str) -> Vec<u8> {
        if self.below(2) == 0 {
            return self.long_bytes();
        }
        let almost = &boundary[..boundary.len() - 1];
        let mut content = Vec::new();
        for _ in 0..self.below(20) {
            let piece = match self.below(7) {
                0 => format!("\r\n--{almost}\n"),
                1 => "\r\n--".to_owned(),
                2 => "\r\n".to_owned(),
                3 => "--".to_owned(),
                4 => "\r".to_owned(),
                5 => "\r\n\r\n".to_owned(),
                _ => self.text("abc", 0, 9),
            };
            content.extend(piece.bytes());
        }
        let whole = format!("--{boundary}");
        let has_boundary = content.windows(whole.len()).any(|window| window == whole.as_bytes());
        if content.is_empty() || has_boundary { b"content".to_vec() } else { content }
    }

    /// The path as clients may spell it, and a query.
    fn spelling(&mut self, path: &str) -> String {
        let path = match self.below(5) {
            0 => format!("/{path}"),
            1 => format!("https://localhost{path}"),
            2 => path.replacen('s', "%73", 1),
            _ => path.to_owned(),
        };
        format!("{path}?id={}&n={}", 1 + self.below(2), self.below(1000))
    }

    fn chunks(&mut self, body: &[u8]) -> Vec<u8> {
        let mut chunks = Vec::new();
        let mut rest = body;
        while !rest.is_empty() {
            let most = self.one_of(&[1, 10, 1000, 100_000, 1_000_000]).max(rest.len() / 50);
            let (chunk, behind) = rest.split_at((1 + self.below(most)).min(rest.len()));
            let size = chunk.len();
            let line = self.one_of(&[format!("{size:x}"), format!("{size:X}"), format!("{size:08x};a=\"b;c\"")]);
            chunks.extend(format!("{line}\r\n").as_bytes());
            chunks.extend(chunk);
            chunks.extend(b"\r\n");
            rest = behind;
        }
        let end = self.one_of(&["0\r\n\r\n", "000\r\n\r\n", "0;end\r\nX-Trailer: 1\r\nX-Other: 2\r\n\r\n"]);
        chunks.extend(end.as_bytes());
        chunks
    }
}

const BOUNDARY_CHARACTERS: &str = "abcdefXYZ0123456789'()+_,-./:=?";
const NAME_CHARACTERS: &str = "abcXYZ019 -_.,;:=\"\\'%&()[]{}?/\u{e9}\u{20ac}\u{1f600}";
