//! What is answered: the few kinds of reply, and what the loop learns of a request beside the reply.
//! Handlers make replies, the loop and the proxy carry them; how one looks on the wire is the proxy's business.

use serde_json::{Value, json};
use std::fs::File;
use std::path::PathBuf;

/// An answer to one request.
pub struct Reply {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Body,
    pub learnt: Learnt,
}

pub enum Body {
    Bytes(Vec<u8>),
    /// The answer to HEAD: only the length of the body, in bytes.
    Omitted(u64),
    /// A piece of a file, sent straight from it by the thread of the client's connection.
    File(FilePiece),
}

pub struct FilePiece {
    pub file: File,
    pub start_byte: u64,
    pub length_bytes: u64,
}

/// What HTTP cannot carry from the loop to the proxy: it is for the log.
#[derive(Default)]
pub struct Learnt {
    /// The sentence of an error reply, the same as in its body.
    pub error: Option<String>,
    pub findings: Vec<Finding>,
    pub parts: Vec<Part>,
}

/// What a strict server would refuse, and how.
#[derive(Clone, Debug, PartialEq)]
pub struct Finding {
    pub status: u16,
    pub sentence: String,
    pub expected: String,
    pub received: String,
}

/// One part of an uploaded report.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Part {
    pub field: String,
    pub file_name: Option<String>,
    pub content_type: Option<String>,
    pub size_bytes: u64,
    /// Lower-case hexadecimal.
    pub sha256: String,
    /// The beginning of a text field.
    pub value: Option<String>,
    /// Where the file has been kept.
    pub saved: Option<PathBuf>,
}

impl Reply {
    pub fn new(status: u16, body: Body) -> Reply {
        Reply { status, headers: Vec::new(), body, learnt: Learnt::default() }
    }

    pub fn json(bytes: Vec<u8>) -> Reply {
        Reply::new(200, Body::Bytes(bytes)).with("Content-Type", "application/json")
    }

    pub fn empty(status: u16) -> Reply {
        Reply::new(status, Body::Bytes(Vec::new()))
    }

    /// An error as JSON. The log gets the same sentence.
    pub fn error(status: u16, sentence: impl Into<String>) -> Reply {
        let sentence = sentence.into();
        Reply::error_object(status, &[("error", json!(sentence))], sentence.clone())
    }

    /// The error for an unknown path, with the paths there are.
    pub fn not_found(sentence: String, endpoints: &[String]) -> Reply {
        Reply::error_object(404, &[("error", json!(sentence)), ("endpoints", json!(endpoints))], sentence.clone())
    }

    /// The refusal that --strict makes of a finding.
    pub fn refusal(finding: &Finding) -> Reply {
        let Finding { status, sentence, expected, received } = finding;
        let members = [("error", json!(sentence)), ("expected", json!(expected)), ("received", json!(received))];
        Reply::error_object(*status, &members, sentence.clone())
    }

    fn error_object(status: u16, members: &[(&str, Value)], sentence: String) -> Reply {
        let mut reply = Reply::json((json_object(members) + "\n").into_bytes());
        reply.status = status;
        reply.learnt.error = Some(sentence);
        reply
    }

    /// Makes it the answer to HEAD.
    pub fn omit_body(&mut self) {
        self.body = Body::Omitted(match &self.body {
            Body::Bytes(bytes) => bytes.len() as u64,
            Body::Omitted(length) => *length,
            Body::File(piece) => piece.length_bytes,
        });
    }

    pub fn with(mut self, name: &str, value: impl Into<String>) -> Reply {
        self.headers.push((name.to_owned(), value.into()));
        self
    }
}

/// A JSON object on one line, its members in the order given (serde_json would sort them).
pub fn json_object(members: &[(&str, Value)]) -> String {
    let members: Vec<String> = members.iter().map(|(name, value)| format!("{}: {value}", json!(name))).collect();
    format!("{{{}}}", members.join(", "))
}
