//! What happened: one event for each request and each failed connection, told on the console.

use crate::console::Console;
use crate::http1::{Head, grouped, quoted};
use crate::reply::{Learnt, Part};
use std::fmt::Write;
use std::net::SocketAddr;
use std::time::Duration;
use time::{OffsetDateTime, UtcOffset};

pub struct Journal {
    console: Console,
    /// The user's time zone, as it was at the start.
    offset: UtcOffset,
}

/// A request that got an answer, or at least the attempt of one.
pub struct RequestEvent {
    pub client: SocketAddr,
    /// Counted from 1.
    pub number: u64,
    /// `None`: it was too malformed to be read.
    pub head: Option<Head>,
    pub status: u16,
    pub bytes_in: u64,
    /// Of the body.
    pub bytes_out: u64,
    pub duration: Duration,
    /// Why the client did not get all of the answer, if so.
    pub undelivered: Option<String>,
    pub learnt: Learnt,
}

impl Journal {
    pub fn open(console: Console) -> Journal {
        // Fails where the time zone cannot be told safely; then it is UTC.
        let offset = UtcOffset::current_local_offset().unwrap_or(UtcOffset::UTC);
        Journal { console, offset }
    }

    pub fn request(&self, event: &RequestEvent) {
        let RequestEvent { client, head, status, bytes_out, duration, learnt, .. } = event;
        let bytes = grouped(*bytes_out);
        let milliseconds = duration.as_secs_f64() * 1000.0;
        let mut text = self.time_of_day();
        match head {
            Some(head) => {
                write_to(&mut text, format_args!("  {}  {}  {status}", shown(&head.method), shown(&head.target)))
            }
            None => write_to(&mut text, format_args!("  {client}  {status}")),
        }
        write_to(&mut text, format_args!("  {bytes} bytes  {milliseconds:.1} ms"));
        for sentence in learnt.error.iter().chain(&event.undelivered) {
            write_to(&mut text, format_args!("  {sentence}"));
        }
        for part in &learnt.parts {
            write_to(&mut text, format_args!("\n    {}", describe(part)));
        }
        for finding in learnt.findings.iter().filter(|finding| Some(&finding.sentence) != learnt.error.as_ref()) {
            write_to(&mut text, format_args!("\n    note: {}", finding.sentence));
        }
        self.console.print(&text);
    }

    /// A connection that came to no request, or broke in one.
    pub fn connection(&self, client: SocketAddr, sentence: &str) {
        self.console.print(&format!("{}  {client}  {sentence}", self.time_of_day()));
    }

    pub fn warn(&self, sentence: &str) {
        self.console.print(&format!("{}  warning: {sentence}", self.time_of_day()));
    }

    fn time_of_day(&self) -> String {
        let now = OffsetDateTime::now_utc().to_offset(self.offset);
        format!("{:02}:{:02}:{:02}", now.hour(), now.minute(), now.second())
    }
}

fn describe(part: &Part) -> String {
    let content =
        part.file_name.as_ref().or(part.value.as_ref()).map(|text| quoted(text.as_bytes())).unwrap_or_default();
    let field = shown(&part.field);
    let content_type = part.content_type.as_deref().map_or_else(|| "no type".to_owned(), shown);
    format!("{field}  {content}  {content_type}  {} bytes  sha256 {}", grouped(part.size_bytes), part.sha256)
}

/// What a client sent, without the quotes where it needs none.
fn shown(text: &str) -> String {
    let quoted = quoted(text.as_bytes());
    match quoted.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')) {
        Some(plain) if plain == text => plain.to_owned(),
        _ => quoted,
    }
}

fn write_to(text: &mut String, arguments: std::fmt::Arguments) {
    text.write_fmt(arguments).expect("writing to a String does not fail");
}
