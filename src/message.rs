//! What travels between the rooms: a `Request` on its way in, a `Reply` on its way out with the notes for the journal,
//! and the three steps that a client is to do. Knows no sockets, no TLS and no tiny_http.

use crate::text::to_text;
use percent_encoding::percent_decode_str;
use serde_json::{Value, json};
use std::io::{self, Cursor, Read};
use std::net::SocketAddr;
use std::ops::Range;
use std::path::PathBuf;
use std::time::Duration;
use tempfile::SpooledTempFile;

/// One whole request.
pub struct Request {
    pub method: String,
    /// As sent; bytes beyond ASCII are percent-encoded.
    pub target: String,
    /// The 0 of HTTP/1.0 or the 1 of HTTP/1.1. Up to 9, which is served as 1.1.
    pub minor_version: u8,
    /// As sent, in their order.
    pub headers: Vec<(String, Vec<u8>)>,
    /// To be read from its beginning.
    pub body: SpooledTempFile,
    /// So many have come.
    pub body_bytes: u64,
}

impl Request {
    /// The values of all headers of that name.
    pub fn headers<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a [u8]> {
        self.headers.iter().filter(move |(own, _)| own.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_slice())
    }

    /// The value of the first header of that name, as text.
    pub fn header(&self, name: &str) -> Option<String> {
        self.headers(name).next().map(to_text)
    }

    /// The elements of a header that is a list, which all its lines make together (RFC 9110, 5.3).
    pub fn list<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a [u8]> {
        self.headers(name).flat_map(|value| value.split(|byte| *byte == b',')).map(<[u8]>::trim_ascii)
    }

    /// The target without the scheme and host that clients of a proxy put before it (RFC 9112, 3.2.2).
    pub fn origin_form(&self) -> &str {
        let (scheme, rest) = self.target.split_once("://").unwrap_or_default();
        if scheme.is_empty() || scheme.contains(['/', '?', '#']) {
            return &self.target;
        }
        rest.find(['/', '?', '#']).map_or("/", |end| &rest[end..])
    }

    /// The path as Flask sees it: percent codes are decoded, and several slashes at the beginning count as one.
    pub fn path(&self) -> String {
        let path = self.origin_form().split(['?', '#']).next().unwrap_or_default();
        let path = percent_decode_str(path).decode_utf8_lossy();
        if path.starts_with('/') { format!("/{}", path.trim_start_matches('/')) } else { path.into_owned() }
    }

    /// Every `id` of the query.
    pub fn ids(&self) -> Vec<String> {
        let before_fragment = self.origin_form().split('#').next().unwrap_or_default();
        let query = before_fragment.split_once('?').map(|(_, query)| query).unwrap_or_default();
        let decoded = |text: &str| percent_decode_str(&text.replace('+', " ")).decode_utf8_lossy().into_owned();
        let pairs = query.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")));
        pairs.filter(|(name, _)| decoded(name) == "id").map(|(_, value)| decoded(value)).collect()
    }

    /// Those, and every one that a text field of a report gives.
    pub fn all_ids(&self, parts: &[Part]) -> Vec<String> {
        let texts = parts.iter().filter(|part| part.field == "id").filter_map(|part| part.value.clone());
        self.ids().into_iter().chain(texts.map(|(id, _)| id)).collect()
    }

    /// The place in STEPS. `None`: it is none of the three things that a client is to do.
    pub fn step(&self) -> Option<usize> {
        let path = self.path();
        STEPS.iter().position(|(.., method, own)| *method == self.method && *own == path)
    }
}

/// Trouble on purpose (--fault).
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Fault {
    Unavailable,
    Reset,
    Cut,
    Slow,
    Hang,
    Expired,
    WrongHost,
    UntrustedRoot,
}

impl Fault {
    /// Each with its name, and what a client gets.
    pub const ALL: [(Fault, &str, &str); 8] = [
        (Fault::Unavailable, "unavailable", "503 with Retry-After"),
        (Fault::Reset, "reset", "a reset of the connection"),
        (Fault::Cut, "cut", "half an answer"),
        (Fault::Slow, "slow", "a slow answer"),
        (Fault::Hang, "hang", "no answer"),
        (Fault::Expired, "expired", "an expired certificate"),
        (Fault::WrongHost, "wrong-host", "a certificate for another name"),
        (Fault::UntrustedRoot, "untrusted-root", "a certificate signed by another CA"),
    ];

    pub fn name(self) -> &'static str {
        Fault::ALL[self as usize].1
    }

    /// What a client gets.
    pub fn what(self) -> &'static str {
        Fault::ALL[self as usize].2
    }

    pub fn is_of_certificate(self) -> bool {
        matches!(self, Fault::Expired | Fault::WrongHost | Fault::UntrustedRoot)
    }
}

pub const BASE: &str = "/xyz/api/cleaner";
pub const TASKS: &str = "/xyz/api/cleaner/tasks";
pub const DOWNLOAD: &str = "/xyz/api/cleaner/tasks/download";
pub const REPORT: &str = "/xyz/api/cleaner/tasks/report";
/// The three things that a client is to do: the name of each, what it is to be, and by which request.
pub const STEPS: [(&str, &str, &str, &str); 3] =
    [("tasks", "listed", "GET", TASKS), ("download", "fetched", "GET", DOWNLOAD), ("report", "sent", "POST", REPORT)];

/// As people are told it.
pub fn with_id(path: &str) -> String {
    path.to_owned() + if path == DOWNLOAD { "?id=N" } else { "" }
}

/// An answer to one request.
pub struct Reply {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    /// Read by the thread of the client's connection, a file straight from the disk.
    pub body: Box<dyn Read + Send>,
    /// So much of it is sent.
    pub length_bytes: u64,
    pub notes: Notes,
}

/// What the journal is to know of a request beside its reply.
#[derive(Default)]
pub struct Notes {
    /// The sentence of an error reply, the same as in its body.
    pub error: Option<String>,
    /// What to do about that, or to know; for the console.
    pub advice: Option<String>,
    pub findings: Vec<Finding>,
    pub parts: Vec<Part>,
    /// Which piece of a file the reply has.
    pub piece: Option<Piece>,
}

impl Notes {
    /// The error, where no finding says the same.
    pub fn own_error(&self) -> Option<&String> {
        self.error.as_ref().filter(|error| self.findings.iter().all(|finding| finding.sentence != **error))
    }
}

pub struct Piece {
    /// The file's name and entity tag.
    pub state: String,
    pub file_bytes: u64,
    /// Of its bytes.
    pub range: Range<u64>,
}

/// What a strict server would refuse, and how.
#[derive(Clone, Debug, PartialEq)]
pub struct Finding {
    pub status: u16,
    pub sentence: String,
    pub expected: String,
    pub received: String,
}

impl Finding {
    pub fn new(status: u16, sentence: impl Into<String>, expected: &str, received: &str) -> Finding {
        Finding { status, sentence: sentence.into(), expected: expected.to_owned(), received: received.to_owned() }
    }
}

/// One part of an uploaded report.
pub struct Part {
    pub field: String,
    pub file_name: Option<String>,
    pub content_type: Option<String>,
    pub size_bytes: u64,
    /// Lower-case hexadecimal.
    pub sha256: String,
    /// The beginning of a text field, and how many of its bytes that is.
    pub value: Option<(String, usize)>,
    /// Where the file has been kept.
    pub saved: Option<PathBuf>,
}

impl Reply {
    pub fn new(status: u16, body: Box<dyn Read + Send>, length_bytes: u64) -> Reply {
        Reply { status, headers: Vec::new(), body, length_bytes, notes: Notes::default() }
    }

    pub fn json(status: u16, bytes: Vec<u8>) -> Reply {
        let length_bytes = bytes.len() as u64;
        Reply::new(status, Box::new(Cursor::new(bytes)), length_bytes).with("Content-Type", "application/json")
    }

    pub fn empty(status: u16) -> Reply {
        Reply::new(status, Box::new(io::empty()), 0)
    }

    /// An error as JSON. The journal gets the same sentence.
    pub fn error(status: u16, sentence: impl Into<String>) -> Reply {
        Reply::error_with(status, sentence, &[])
    }

    /// The same, with more members.
    pub fn error_with(status: u16, sentence: impl Into<String>, more: &[(&str, Value)]) -> Reply {
        let sentence = sentence.into();
        let members = [&[("error", json!(sentence))], more].concat();
        let mut reply = Reply::json(status, (json_object(&members) + "\n").into_bytes());
        reply.notes.error = Some(sentence);
        reply
    }

    /// The refusal that --strict makes of a finding.
    pub fn refusal(finding: &Finding) -> Reply {
        let Finding { status, sentence, expected, received } = finding;
        Reply::error_with(*status, sentence, &[("expected", json!(expected)), ("received", json!(received))])
    }

    pub fn with(mut self, name: &str, value: impl Into<String>) -> Reply {
        self.headers.push((name.to_owned(), value.into()));
        self
    }
}

/// What became of a request, for the journal.
pub struct Exchange {
    pub client: SocketAddr,
    /// Counted from 1.
    pub number: u64,
    /// `None`: it was too malformed to be read.
    pub request: Option<Request>,
    pub status: u16,
    /// Of the body.
    pub bytes_out: u64,
    pub duration: Duration,
    /// Why the client did not get all of the answer, if so.
    pub undelivered: Option<String>,
    /// That which its answer met.
    pub fault: Option<Fault>,
    pub notes: Notes,
}

/// Who is to blame for a connection that came to no request.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Blame {
    Client,
    Server,
    Nobody,
}

/// How the client that was run (`-- COMMAND`) has ended.
pub struct Ended {
    pub command: Vec<String>,
    /// `None`: by a signal, or it has not begun.
    pub exit_code: Option<i32>,
    /// What is wrong with that, if anything.
    pub trouble: Option<String>,
    /// The exit code that tells why it could not be run, as shells have it.
    pub not_run: Option<u8>,
}

/// A JSON object on one line, its members in the order given (serde_json would sort them).
pub fn json_object(members: &[(&str, Value)]) -> String {
    let members: Vec<String> = members.iter().map(|(name, value)| format!("{}: {value}", json!(name))).collect();
    format!("{{{}}}", members.join(", "))
}
