//! What happened: one event for each request and each failed connection, told on the console, and with --record also as
//! a line of JSON; at the end the checklist of what the client has done.

pub mod checklist;
pub mod console;
mod coverage;
pub mod record;

use crate::message::{Blame, Ended, Exchange, Fault, Finding, Part, Request, json_object};
use crate::text::{counted, grouped, in_bytes, quoted, quoted_whole, shown, to_text};
use checklist::Checklist;
use console::{Colour, Console};
use record::Lines;
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use time::{OffsetDateTime, UtcOffset};

pub struct Journal {
    console: Console,
    /// Of the user; for the console.
    time_zone: UtcOffset,
    /// `None`: nothing comes after the end.
    book: Mutex<Option<Book>>,
}

struct Book {
    /// journal.jsonl; `None` without --record.
    file: Option<Lines>,
    /// Events that could not be written since the last that could, and altogether.
    lost: u64,
    all_lost: u64,
    checklist: Checklist,
    /// Sentences on connections, when each was told, and how often it has come since.
    told: Vec<(String, Instant, u64)>,
}

impl Journal {
    pub fn open(console: Console, time_zone: UtcOffset, file: Option<Lines>, fault: Option<Fault>) -> Journal {
        let checklist = Checklist::new(fault);
        let book = Book { file, lost: 0, all_lost: 0, checklist, told: Vec::new() };
        Journal { console, time_zone, book: Mutex::new(Some(book)) }
    }

    pub fn start(&self, url: &str, banner: &str) {
        self.console.print(banner);
        if let Some(book) = &mut *self.book() {
            self.write(book, "start", || vec![("version", json!(env!("CARGO_PKG_VERSION"))), ("url", json!(url))]);
        }
    }

    pub fn request(&self, exchange: &Exchange) {
        let lines = self.request_lines(exchange);
        if let Some(book) = &mut *self.book() {
            self.tell_repetitions(book, REPETITION);
            book.checklist.count(exchange);
            self.console.print(&lines);
            self.write(book, "request", || request_members(exchange));
        }
    }

    /// A connection that came to no request.
    pub fn connection(&self, client: SocketAddr, sentence: &str, blame: Blame) {
        let mut book = self.book();
        let Some(book) = &mut *book else { return };
        let (sentence, blame) = book.checklist.count_connection(sentence, blame);
        self.tell_connection(book, client, &sentence);
        let member = if blame == Blame::Nobody { "note" } else { "error" };
        let members = || vec![("client", json!(client.to_string())), (member, json!(sentence))];
        self.write(book, "connection", members);
    }

    /// For the console alone.
    pub fn say(&self, sentence: &str) {
        self.console.print(&format!("{}  {sentence}", self.time_of_day()));
    }

    /// The checklist, and the end: whatever happens from now on is not told any more. `unfinished`: requests that are
    /// still on their way; `ended`: the client, where it was run here. Waits until all is printed, and returns whether the
    /// client is ready.
    pub fn stop(&self, unfinished: usize, ended: Option<&Ended>) -> bool {
        let Some(mut book) = self.book().take() else { return false };
        self.tell_repetitions(&mut book, Duration::ZERO);
        book.checklist.count_unfinished(unfinished);
        self.console.print(&book.checklist.text());
        let (reasons, mistakes) = (book.checklist.reasons(ended), book.checklist.mistakes());
        self.write(&mut book, "verdict", || {
            vec![
                ("ready", json!(reasons.is_empty())),
                ("reasons", json!(reasons)),
                ("mistakes", json!(mistakes)),
                ("exit_code", json!(ended.and_then(|ended| ended.exit_code))),
                ("command", json!(ended.map(|ended| &ended.command))),
            ]
        });
        let (checklist, lost) = (book.checklist.object(), book.all_lost);
        let members =
            || vec![("checklist", checklist), ("unfinished", json!(unfinished)), ("lost_events", json!(lost))];
        self.write(&mut book, "stop", members);
        if book.all_lost > 0 {
            self.console.print(&format!("  journal.jsonl lacks {}: see above", counted(book.all_lost, "event")));
        }
        self.console.print(&book.checklist.verdict(&reasons, ended));
        self.console.close();
        reasons.is_empty()
    }

    /// One line of journal.jsonl, written at once, so that it is there whatever happens next. Where the disk is full,
    /// each event tries again, and the first that can be written comes behind a word on those that are lost.
    fn write(&self, book: &mut Book, event: &str, members: impl FnOnce() -> Vec<(&'static str, Value)>) {
        let Some(file) = &mut book.file else { return };
        let mut lines = line(event, members());
        if book.lost > 0 {
            lines = line("lost", vec![("events", json!(book.lost))]) + &lines;
        }
        match file.append(&lines) {
            Ok(()) => book.lost = 0,
            Err(error) => {
                if book.lost == 0 {
                    self.say(&format!("warning: cannot write journal.jsonl: {error}; trying again at each event"));
                }
                book.lost += 1;
                book.all_lost += 1;
            }
        }
    }

    /// A sentence that comes again and again is said every few seconds, with how often it came.
    fn tell_connection(&self, book: &mut Book, client: SocketAddr, sentence: &str) {
        self.tell_repetitions(book, REPETITION);
        if let Some((.., again)) = book.told.iter_mut().find(|(told, ..)| told == sentence) {
            *again += 1;
            return;
        }
        self.say(&format!("{client}  {sentence}"));
        if book.told.len() < MAX_TOLD {
            book.told.push((sentence.to_owned(), Instant::now(), 0));
        }
    }

    /// Of the sentences that were told so long ago.
    fn tell_repetitions(&self, book: &mut Book, age: Duration) {
        for (sentence, _, again) in book.told.extract_if(.., |(_, told, _)| told.elapsed() >= age) {
            if again > 0 {
                let (cause, seconds) = (checklist::cause(&sentence), REPETITION.as_secs());
                self.say(&format!("{cause} ... (again, {} within {seconds} s)", counted(again, "time")));
            }
        }
    }

    /// For the console: the request and its answer in columns, and below what is to be said about them.
    fn request_lines(&self, exchange: &Exchange) -> String {
        let Exchange { client, request, status, notes, undelivered, .. } = exchange;
        let colour = match status {
            400.. => Colour::Red,
            _ if !notes.findings.is_empty() || undelivered.is_some() => Colour::Yellow,
            _ => Colour::Green,
        };
        let (method, target) = match request {
            Some(request) => (shown(&request.method), shown(&request.target)),
            None => ("?".to_owned(), client.to_string()),
        };
        let mut size = in_bytes(exchange.bytes_out);
        if exchange.duration >= Duration::from_millis(1) {
            size.push_str(&format!("  {} ms", grouped(exchange.duration.as_millis() as u64)));
        }
        let status = self.console.painted(colour, &status.to_string());
        let (time, size) = (self.time_of_day(), self.console.painted(Colour::Dim, &size));
        let mut lines = vec![format!("{time}  {status}  {method:<7}  {target:<TARGET_COLUMNS$}  {size}")];
        lines.extend(exchange.fault.map(|fault| format!("fault {}, on purpose", fault.name())));
        let errors = notes.own_error().into_iter().chain(undelivered);
        lines.extend(errors.map(|sentence| format!("error: {sentence}")));
        lines.extend(notes.advice.clone());
        let parts = notes.parts.iter().take(MAX_PART_LINES).map(part_line);
        lines.extend(parts.map(|part| self.console.painted(Colour::Dim, &part)));
        if notes.parts.len() > MAX_PART_LINES {
            let more = counted((notes.parts.len() - MAX_PART_LINES) as u64, "more part");
            lines.push(format!("and {more}; journal.jsonl of --record has all"));
        }
        for Finding { sentence, expected, received, .. } in &notes.findings {
            lines.push(format!("finding: {sentence}"));
            lines.push(format!("  received: {received}"));
            lines.push(format!("  expected: {expected}"));
        }
        lines.join("\n    ")
    }

    fn book(&self) -> MutexGuard<'_, Option<Book>> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// For the console.
    fn time_of_day(&self) -> String {
        let now = OffsetDateTime::now_utc().to_offset(self.time_zone);
        self.console.painted(Colour::Dim, &format!("{:02}:{:02}:{:02}", now.hour(), now.minute(), now.second()))
    }
}

fn line(event: &str, members: Vec<(&'static str, Value)>) -> String {
    let now = OffsetDateTime::now_utc();
    let (date, milliseconds) = (now.date(), now.millisecond());
    let time = format!("{date}T{:02}:{:02}:{:02}.{milliseconds:03}Z", now.hour(), now.minute(), now.second());
    let members = [vec![("time", json!(time)), ("event", json!(event))], members].concat();
    json_object(&members) + "\n"
}

/// A text field by its value, a file by its name.
fn part_line(part: &Part) -> String {
    let field = shown(&part.field);
    let Some(name) = &part.file_name else {
        let value = part.value.as_ref().map_or("", |(value, _)| value);
        return format!("part {field} = {}", quoted(value.as_bytes()));
    };
    let (name, bytes) = (quoted_whole(name.as_bytes()), in_bytes(part.size_bytes));
    let content_type = part.content_type.as_deref().map_or_else(|| "no type".to_owned(), shown);
    format!("part {field}: {name}, {content_type}, {bytes}, sha256 {}...", &part.sha256[..DIGITS])
}

fn request_members(exchange: &Exchange) -> Vec<(&'static str, Value)> {
    let Exchange { client, number, notes, undelivered, .. } = exchange;
    let request = exchange.request.as_ref();
    let headers = |request: &Request| -> Value {
        request.headers.iter().map(|(name, value)| json!([name, to_text(value)])).collect()
    };
    vec![
        ("client", json!(client.to_string())),
        ("request", json!(number)),
        ("method", json!(request.map(|request| &request.method))),
        ("target", json!(request.map(|request| &request.target))),
        ("version", json!(request.map(|request| format!("HTTP/1.{}", request.minor_version)))),
        ("headers", json!(request.map(headers))),
        ("status", json!(exchange.status)),
        ("bytes_in", json!(request.map_or(0, |request| request.body_bytes))),
        ("bytes_out", json!(exchange.bytes_out)),
        ("ms", json!(exchange.duration.as_micros() as f64 / 1000.0)),
        ("delivered", json!(undelivered.is_none())),
        ("parts", notes.parts.iter().map(part_object).collect()),
        ("findings", notes.findings.iter().map(|finding| json!(finding.sentence)).collect()),
        ("error", json!(notes.error.as_ref().or(undelivered.as_ref()))),
        ("fault", json!(exchange.fault.map(Fault::name))),
    ]
}

fn part_object(part: &Part) -> Value {
    json!({
        "field": part.field,
        "filename": part.file_name,
        "content_type": part.content_type,
        "bytes": part.size_bytes,
        "sha256": part.sha256,
        "value": part.value.as_ref().map(|(value, _)| value),
        "value_bytes": part.value.as_ref().map(|(_, bytes)| bytes),
        "saved": part.saved.as_deref().map(Path::to_string_lossy),
    })
}

/// For the console, where nobody reads more.
const MAX_PART_LINES: usize = 50;
/// Of a SHA-256, enough to compare two by eye; the journal has all.
const DIGITS: usize = 12;
/// As wide as the longest endpoint with an id of one digit.
const TARGET_COLUMNS: usize = 36;
/// So many sentences on connections are told apart, and so long each is counted before it is said again.
const MAX_TOLD: usize = 20;
const REPETITION: Duration = Duration::from_secs(3);
