//! What happened: one event for each request and each failed connection, told on the console, and with --record also as
//! a line of JSON; at the end the checklist of what the client has done.

use crate::console::Console;
use crate::http1::Head;
use crate::reply::{Learnt, Part, json_object};
use crate::server::Step;
use crate::threads::lock;
use crate::words::{counted, grouped, in_bytes, quoted_whole, shown, to_text};
use serde_json::{Value, json};
use std::fmt::Write as _;
use std::fs::File;
use std::io::Write;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Mutex;
use std::time::Duration;
use time::{OffsetDateTime, UtcOffset};

pub struct Journal {
    console: Console,
    /// Of the user; for the console.
    time_zone: UtcOffset,
    /// journal.jsonl; `None` without --record. Within, once it could not be written.
    file: Option<Mutex<Option<File>>>,
    /// In the order of `STEPS`.
    tallies: Mutex<[Tally; 3]>,
}

/// A request that got an answer, or at least the attempt of one.
pub struct RequestEvent {
    pub client: SocketAddr,
    /// Counted from 1.
    pub number: u64,
    /// `None`: it was too malformed to be read.
    pub head: Option<Head>,
    pub status: u16,
    /// Of the bodies.
    pub bytes_in: u64,
    pub bytes_out: u64,
    pub duration: Duration,
    /// Why the client did not get all of the answer, if so.
    pub undelivered: Option<String>,
    pub learnt: Learnt,
}

/// How often a step was done, and how well.
#[derive(Clone, Copy, Default)]
struct Tally {
    requests: u64,
    with_findings: u64,
    refused: u64,
    /// Only a range was asked for.
    partial: u64,
    /// The client did not get all of the answer.
    incomplete: u64,
}

impl Journal {
    pub fn open(console: Console, time_zone: UtcOffset, file: Option<File>) -> Journal {
        Journal { console, time_zone, file: file.map(|file| Mutex::new(Some(file))), tallies: Mutex::default() }
    }

    pub fn start(&self, url: &str) {
        self.write("start", || vec![("version", json!(env!("CARGO_PKG_VERSION"))), ("url", json!(url))]);
    }

    pub fn request(&self, event: &RequestEvent) {
        self.count(event);
        self.print(event);
        self.write("request", || request_members(event));
    }

    /// A connection that came to no request, or broke in one.
    pub fn connection(&self, client: SocketAddr, sentence: &str) {
        self.console.print(&format!("{}  {client}  {sentence}", self.time_of_day()));
        self.write("connection", || vec![("client", json!(client.to_string())), ("error", json!(sentence))]);
    }

    pub fn warn(&self, sentence: &str) {
        self.console.print(&format!("{}  warning: {sentence}", self.time_of_day()));
    }

    /// The checklist: which of the three steps the client did. `unfinished`: requests that were still on their way.
    pub fn stop(&self, unfinished: usize) {
        let tallies = *lock(&self.tallies);
        let mut text = "\nWhat the client did:".to_owned();
        let mut checklist = serde_json::Map::new();
        for ((_, name), tally) in STEPS.iter().zip(tallies) {
            let Tally { requests, with_findings, refused, partial, incomplete } = tally;
            let times = match requests {
                0 => "never".to_owned(),
                1 => "once".to_owned(),
                _ => format!("{} times", grouped(requests)),
            };
            append(&mut text, format_args!("\n  {name:<9} {times}"));
            let details = [
                (with_findings, "with findings"),
                (refused, "refused"),
                (partial, "only in part"),
                (incomplete, "not complete"),
            ];
            for (count, what) in details {
                if count > 0 {
                    append(&mut text, format_args!(", {} {what}", grouped(count)));
                }
            }
            let counts = json!({ "requests": requests, "with_findings": with_findings, "refused": refused, "partial": partial, "incomplete": incomplete });
            checklist.insert((*name).to_owned(), counts);
        }
        if unfinished > 0 {
            append(&mut text, format_args!("\n  not counted: {}", counted(unfinished as u64, "request")));
            append(&mut text, format_args!(" still on the way at the end"));
        }
        self.console.print(&text);
        self.write("stop", || vec![("checklist", checklist.into()), ("unfinished", json!(unfinished))]);
    }

    fn count(&self, event: &RequestEvent) {
        let step = event.head.as_ref().and_then(|head| Step::of(&head.method, head.origin_form()));
        let Some(index) = STEPS.iter().position(|(own, _)| Some(*own) == step) else { return };
        let mut tallies = lock(&self.tallies);
        let tally = &mut tallies[index];
        tally.requests += 1;
        tally.with_findings += u64::from(!event.learnt.findings.is_empty());
        tally.refused += u64::from(event.status >= 400);
        tally.partial += u64::from(event.status == 206);
        tally.incomplete += u64::from(event.undelivered.is_some());
    }

    fn print(&self, event: &RequestEvent) {
        let RequestEvent { client, head, status, learnt, .. } = event;
        let mut text = self.time_of_day();
        match head {
            Some(head) => append(&mut text, format_args!("  {}  {}", shown(&head.method), shown(&head.target))),
            None => append(&mut text, format_args!("  {client}")),
        }
        let milliseconds = event.duration.as_secs_f64() * 1000.0;
        append(&mut text, format_args!("  {status}  {}  {milliseconds:.1} ms", in_bytes(event.bytes_out)));
        for sentence in learnt.error.iter().chain(&event.undelivered) {
            append(&mut text, format_args!("  {sentence}"));
        }
        for part in learnt.parts.iter().take(MAX_PART_LINES) {
            append(&mut text, format_args!("\n    {}", part_line(part)));
        }
        if let Some(more) = learnt.parts.len().checked_sub(MAX_PART_LINES).filter(|more| *more > 0) {
            append(
                &mut text,
                format_args!("\n    and {}; journal.jsonl of --record has all", counted(more as u64, "more part")),
            );
        }
        for finding in learnt.findings.iter().filter(|finding| Some(&finding.sentence) != learnt.error.as_ref()) {
            append(&mut text, format_args!("\n    note: {}", finding.sentence));
        }
        self.console.print(&text);
    }

    /// One line of journal.jsonl, written at once, so that it is there whatever happens next.
    fn write(&self, event: &str, members: impl FnOnce() -> Vec<(&'static str, Value)>) {
        let Some(file) = &self.file else { return };
        let now = OffsetDateTime::now_utc();
        let (date, milliseconds) = (now.date(), now.millisecond());
        let time = format!("{date}T{:02}:{:02}:{:02}.{milliseconds:03}Z", now.hour(), now.minute(), now.second());
        let mut line = vec![("time", json!(time)), ("event", json!(event))];
        line.extend(members());
        let line = json_object(&line) + "\n";
        let mut file = lock(file);
        if let Some(Err(error)) = file.as_mut().map(|file| file.write_all(line.as_bytes())) {
            self.warn(&format!("cannot write journal.jsonl any more: {error}"));
            *file = None;
        }
    }

    fn time_of_day(&self) -> String {
        let now = OffsetDateTime::now_utc().to_offset(self.time_zone);
        format!("{:02}:{:02}:{:02}", now.hour(), now.minute(), now.second())
    }
}

fn request_members(event: &RequestEvent) -> Vec<(&'static str, Value)> {
    let RequestEvent { client, number, head, learnt, .. } = event;
    let member = |value: fn(&Head) -> Value| head.as_ref().map_or(Value::Null, value);
    let error = learnt.error.as_ref().or(event.undelivered.as_ref());
    vec![
        ("client", json!(client.to_string())),
        ("request", json!(number)),
        ("method", member(|head| json!(head.method))),
        ("target", member(|head| json!(head.target))),
        ("version", member(|head| json!(format!("HTTP/1.{}", head.minor_version)))),
        ("headers", member(|head| head.headers.iter().map(|(name, value)| json!([name, to_text(value)])).collect())),
        ("status", json!(event.status)),
        ("bytes_in", json!(event.bytes_in)),
        ("bytes_out", json!(event.bytes_out)),
        ("ms", json!(event.duration.as_micros() as f64 / 1000.0)),
        ("delivered", json!(event.undelivered.is_none())),
        ("parts", learnt.parts.iter().map(part_object).collect()),
        ("findings", learnt.findings.iter().map(|finding| json!(finding.sentence)).collect()),
        ("error", json!(error)),
    ]
}

fn part_line(part: &Part) -> String {
    let content =
        part.file_name.as_ref().or(part.value.as_ref()).map(|text| quoted_whole(text.as_bytes())).unwrap_or_default();
    let content_type = part.content_type.as_deref().map_or_else(|| "no type".to_owned(), shown);
    let (field, bytes) = (shown(&part.field), in_bytes(part.size_bytes));
    format!("{field}  {content}  {content_type}  {bytes}  sha256 {}", part.sha256)
}

fn part_object(part: &Part) -> Value {
    json!({
        "field": part.field,
        "filename": part.file_name,
        "content_type": part.content_type,
        "bytes": part.size_bytes,
        "sha256": part.sha256,
        "value": part.value,
        "saved": part.saved.as_deref().map(Path::to_string_lossy),
    })
}

fn append(text: &mut String, arguments: std::fmt::Arguments) {
    text.write_fmt(arguments).expect("writing to a String does not fail");
}

/// For the console, where nobody reads more.
const MAX_PART_LINES: usize = 50;
const STEPS: [(Step, &str); 3] = [(Step::Tasks, "tasks"), (Step::Download, "download"), (Step::Report, "report")];
