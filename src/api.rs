//! The loop: a single thread that takes one request after the other from tiny_http, matches method and path by hand,
//! and calls one of three handlers. Knows no sockets and no TLS, and never waits for a client: a request is complete
//! before it comes here.

mod data;
mod download;
mod multipart;
mod part_head;
mod report;
mod tasks;

pub use data::{Data, write_built_in};

use crate::bridge::{Asked, Bridge, stay_awake};
use crate::journal::record::Reports;
use crate::message::{BASE, DOWNLOAD, Notes, REPORT, Reply, Request, STEPS, TASKS, with_id};
use crate::text::{quoted, shown};
use download::download_tools;
use report::{CURL_EXAMPLE, upload_report};
use serde_json::json;
use std::panic::{AssertUnwindSafe, catch_unwind};
use tasks::get_tasks;

/// What the loop needs for an answer.
pub struct Api {
    pub data: Data,
    pub strict: bool,
    /// Where uploaded files are kept, if they are.
    pub reports: Option<Reports>,
    /// For the endpoints that a 404 lists, e.g. `https://localhost:5000`.
    pub url: String,
}

impl Api {
    /// Answers for as long as the program runs.
    pub fn serve(&self, bridge: &Bridge) {
        let requests: &tiny_http::Server = &bridge.server;
        loop {
            // The error is at most that of the closed listener (bridge.rs).
            let Ok(line) = stay_awake(|| requests.try_recv().transpose()).unwrap_or_else(|| requests.recv()) else {
                continue;
            };
            let Some(Asked { mut request, answered }) = bridge.take(&line) else { continue };
            let reply = catch_unwind(AssertUnwindSafe(|| self.answer(&mut request))).unwrap_or_else(|_| {
                Reply::error(500, "the server made a mistake over this request; standard error says where")
            });
            // The reply goes straight to the thread that waits for it, and nothing over the connection.
            answered.send((request, reply)).ok();
            drop(line.into_writer());
        }
    }

    fn route(&self, request: &mut Request) -> Result<Reply, String> {
        let (method, path) = (request.method.clone(), request.path());
        let allowed = if path == REPORT { "POST, OPTIONS" } else { "GET, HEAD, OPTIONS" };
        match (method.as_str(), path.as_str()) {
            ("GET" | "HEAD", TASKS) => get_tasks(&self.data),
            ("GET" | "HEAD", DOWNLOAD) => download_tools(request, &self.data),
            ("POST", REPORT) => upload_report(request, &self.data, self.reports.as_ref()),
            ("OPTIONS", TASKS | DOWNLOAD | REPORT) => Ok(Reply::empty(200).with("Allow", allowed)),
            ("POST", TASKS | DOWNLOAD) => Ok(wrong_method("POST", allowed, "; send a report by POST to ", REPORT)),
            ("GET", REPORT) => Ok(wrong_method("GET", allowed, "; get the tasks from ", TASKS)),
            ("PUT", REPORT) => Ok(wrong_method("PUT", allowed, "; send the report by POST: ", CURL_EXAMPLE)),
            (_, TASKS | DOWNLOAD | REPORT) => Ok(wrong_method(&method, allowed, "", "")),
            (_, path) => Ok(self.not_found(path)),
        }
    }

    /// The reply of the handler, or the refusal of the first finding.
    fn answer(&self, request: &mut Request) -> Reply {
        let reply = self.route(request).unwrap_or_else(broken_data);
        match reply.notes.findings.first().filter(|_| self.strict && reply.status < 500).map(Reply::refusal) {
            Some(refusal) => Reply { notes: Notes { error: refusal.notes.error, ..reply.notes }, ..refusal },
            None => reply,
        }
    }

    /// The error that lists what there is, with a hint where the path is nearly right.
    fn not_found(&self, path: &str) -> Reply {
        let shown = quoted(path.as_bytes());
        let sentence = match nearly(path) {
            Some((meant, how)) => format!("there is nothing at {shown}; did you mean {meant}, {how}?"),
            None => format!("there is nothing at {shown}"),
        };
        let urls = STEPS.map(|(.., method, path)| format!("{method} {}{}", self.url, with_id(path)));
        let mut reply = Reply::error_with(404, sentence, &[("endpoints", json!(urls))]);
        let expected = STEPS.map(|(.., method, path)| format!("{method} {}", with_id(path))).join(", ");
        reply.notes.advice = Some(format!("expected: {expected}"));
        reply
    }
}

/// The reply where a file of the data folder cannot be read.
fn broken_data(sentence: String) -> Reply {
    let mut reply = Reply::error(500, sentence);
    reply.notes.advice = Some("mend the data folder; the next request sees it".to_owned());
    reply
}

/// The endpoint that a wrong path was probably meant to be, and how that one is written.
fn nearly(path: &str) -> Option<(&'static str, &'static str)> {
    let (path, query) = path.split_at(path.find(['?', '&']).unwrap_or(path.len()));
    let words: Vec<String> = path.split('/').filter(|word| !word.is_empty()).map(str::to_lowercase).collect();
    let plain = format!("/{}", words.join("/"));
    let (.., meant) = STEPS.into_iter().find(|(.., endpoint)| plain.ends_with(&endpoint[BASE.len()..]))?;
    let how = match query.bytes().next() {
        // Path builders encode the question mark, and string builders forget it.
        Some(b'?') => "with a plain ? where %3F was sent",
        Some(_) => "with ? before the first parameter",
        None if plain != meant => "with the base path /xyz/api/cleaner",
        None if !path.starts_with('/') => "with a slash at the beginning",
        None if path != path.to_lowercase() => "in lower case",
        None => "without a slash too many",
    };
    Some((meant, how))
}

/// `hint` and `what`: where such a request belongs, or how it is sent, if there is such a place.
fn wrong_method(method: &str, allowed: &str, hint: &str, what: &str) -> Reply {
    let upper_case = method.to_uppercase();
    let is_lower_case = upper_case != method && allowed.split(", ").any(|own| own == upper_case);
    let hint = if is_lower_case { "; methods are in upper case" } else { hint };
    let method = shown(method);
    Reply::error(405, format!("{method} is not allowed here; allowed are {allowed}{hint}{what}")).with("Allow", allowed)
}
