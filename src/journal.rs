//! What happened: one event for each request and each failed connection, told on the console, and with --record also as
//! a line of JSON; at the end the checklist of what the client has done.

pub mod checklist;
pub mod console;
pub mod record;

use crate::message::{Ended, Exchange, Fault, Part, Request, json_object};
use crate::text::{counted, in_bytes, quoted, quoted_whole, shown, to_text};
use checklist::Checklist;
use console::Console;
use record::Lines;
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use time::{OffsetDateTime, UtcOffset};

pub struct Journal {
    console: Console,
    /// Of the user; for the console.
    time_zone: UtcOffset,
    book: Mutex<Book>,
}

struct Book {
    /// journal.jsonl; `None` without --record.
    file: Option<Lines>,
    /// Events that could not be written since the last that could, and altogether.
    lost: u64,
    all_lost: u64,
    checklist: Checklist,
    /// Nothing comes after the end.
    has_ended: bool,
}

impl Journal {
    pub fn open(console: Console, time_zone: UtcOffset, file: Option<Lines>, fault: Option<Fault>) -> Journal {
        let checklist = Checklist::new(fault);
        let book = Mutex::new(Book { file, lost: 0, all_lost: 0, checklist, has_ended: false });
        Journal { console, time_zone, book }
    }

    pub fn start(&self, url: &str, banner: &str) {
        self.console.print(banner);
        self.write(&mut self.book(), "start", || {
            vec![("version", json!(env!("CARGO_PKG_VERSION"))), ("url", json!(url))]
        });
    }

    pub fn request(&self, exchange: &Exchange) {
        let lines = format!("{}{}", self.time_of_day(), request_lines(exchange));
        let mut book = self.book();
        if book.has_ended {
            return;
        }
        book.checklist.count(exchange);
        self.console.print(&lines);
        self.write(&mut book, "request", || request_members(exchange));
    }

    /// A connection that came to no request. Not each is the client's mistake.
    pub fn connection(&self, client: SocketAddr, sentence: &str, is_mistake: bool) {
        let mut book = self.book();
        if book.has_ended {
            return;
        }
        let on_purpose = book.checklist.refusal(sentence);
        let (sentence, is_mistake) = on_purpose.as_deref().map_or((sentence, is_mistake), |told| (told, false));
        if is_mistake {
            book.checklist.count_connection(sentence);
        }
        self.console.print(&format!("{}  {client}  {sentence}", self.time_of_day()));
        let member = if is_mistake { "error" } else { "note" };
        let members = || vec![("client", json!(client.to_string())), (member, json!(sentence))];
        self.write(&mut book, "connection", members);
    }

    /// For the console alone.
    pub fn say(&self, sentence: &str) {
        self.console.print(&format!("{}  {sentence}", self.time_of_day()));
    }

    /// The checklist, and the end: whatever happens from now on is not told any more. `unfinished`: requests that are
    /// still on their way; `ended`: the client, where it was run here. Returns whether it is ready.
    pub fn stop(&self, unfinished: usize, ended: Option<&Ended>) -> bool {
        let mut book = self.book();
        self.console.print(&book.checklist.text(unfinished));
        let reasons = book.checklist.reasons(ended);
        self.write(&mut book, "verdict", || {
            vec![
                ("ready", json!(reasons.is_empty())),
                ("reasons", json!(reasons)),
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
        book.has_ended = true;
        reasons.is_empty()
    }

    /// Waits until all is printed.
    pub fn close(&self) {
        self.console.close();
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

    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn time_of_day(&self) -> String {
        let now = OffsetDateTime::now_utc().to_offset(self.time_zone);
        format!("{:02}:{:02}:{:02}", now.hour(), now.minute(), now.second())
    }
}

fn line(event: &str, members: Vec<(&'static str, Value)>) -> String {
    let now = OffsetDateTime::now_utc();
    let (date, milliseconds) = (now.date(), now.millisecond());
    let time = format!("{date}T{:02}:{:02}:{:02}.{milliseconds:03}Z", now.hour(), now.minute(), now.second());
    let members = [vec![("time", json!(time)), ("event", json!(event))], members].concat();
    json_object(&members) + "\n"
}

/// For the console: the request, its answer, and what is to be said about them.
fn request_lines(exchange: &Exchange) -> String {
    let Exchange { client, request, status, notes, undelivered, .. } = exchange;
    let asked = match request {
        Some(request) => format!("{}  {}", shown(&request.method), shown(&request.target)),
        None => client.to_string(),
    };
    let milliseconds = exchange.duration.as_secs_f64() * 1000.0;
    let mut text = format!("  {asked}  {status}  {}  {milliseconds:.1} ms", in_bytes(exchange.bytes_out));
    if let Some(fault) = exchange.fault {
        text.push_str(&format!("  fault {}, on purpose", fault.name()));
    }
    for sentence in notes.error.iter().chain(undelivered) {
        text.push_str(&format!("  {sentence}"));
    }
    for part in notes.parts.iter().take(MAX_PART_LINES) {
        text.push_str(&format!("\n    {}", part_line(part)));
    }
    if notes.parts.len() > MAX_PART_LINES {
        let more = counted((notes.parts.len() - MAX_PART_LINES) as u64, "more part");
        text.push_str(&format!("\n    and {more}; journal.jsonl of --record has all"));
    }
    for finding in notes.findings.iter().filter(|finding| Some(&finding.sentence) != notes.error.as_ref()) {
        text.push_str(&format!("\n    note: {}", finding.sentence));
    }
    text
}

fn part_line(part: &Part) -> String {
    let content = match (&part.file_name, &part.value) {
        (Some(name), _) => quoted_whole(name.as_bytes()),
        (None, value) => value.as_ref().map(|value| quoted(value.as_bytes())).unwrap_or_default(),
    };
    let content_type = part.content_type.as_deref().map_or_else(|| "no type".to_owned(), shown);
    let (field, bytes) = (shown(&part.field), in_bytes(part.size_bytes));
    format!("{field}  {content}  {content_type}  {bytes}  sha256 {}", part.sha256)
}

fn request_members(exchange: &Exchange) -> Vec<(&'static str, Value)> {
    let Exchange { client, number, request, notes, undelivered, .. } = exchange;
    let member = |value: fn(&Request) -> Value| request.as_ref().map_or(Value::Null, value);
    let headers = |request: &Request| {
        request.headers.iter().map(|(name, value)| json!([name, to_text(value)])).collect::<Value>()
    };
    vec![
        ("client", json!(client.to_string())),
        ("request", json!(number)),
        ("method", member(|request| json!(request.method))),
        ("target", member(|request| json!(request.target))),
        ("version", member(|request| json!(format!("HTTP/1.{}", request.minor_version)))),
        ("headers", member(headers)),
        ("status", json!(exchange.status)),
        ("bytes_in", json!(request.as_ref().map_or(0, |request| request.body_bytes))),
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
        "value": part.value,
        "value_bytes": part.value_bytes,
        "saved": part.saved.as_deref().map(Path::to_string_lossy),
    })
}

/// For the console, where nobody reads more.
const MAX_PART_LINES: usize = 50;
