//! The loop: a single thread that takes one request after the other from tiny_http, matches method and path by hand,
//! and calls one of three handlers. The only place that responds. Knows no TLS, and never waits for a client: what it
//! reads is complete before it comes here (see proxy.rs).

use crate::data::Data;
use crate::download::download_tools;
use crate::handover::{Asked, Handover};
use crate::record::Reports;
use crate::relay::{REQUEST_NUMBER, number_header};
use crate::reply::{Finding, Learnt, Reply};
use crate::report::upload_report;
use crate::tasks::get_tasks;
use crate::threads::stay_awake;
use crate::words::quoted;
use percent_encoding::percent_decode_str;
use std::io::Read;
use std::panic::{AssertUnwindSafe, catch_unwind};
use tempfile::SpooledTempFile;

/// What the loop needs for an answer.
pub struct Server {
    pub data: Data,
    pub handover: std::sync::Arc<Handover>,
    pub strict: bool,
    /// Where uploaded files are kept, if they are.
    pub reports: Option<Reports>,
    /// For the endpoints that a 404 lists, e.g. `https://localhost:5000`.
    pub url: String,
}

/// A request as the handlers see it.
pub struct Request<'a> {
    inner: &'a tiny_http::Request,
    path: String,
    id: Option<String>,
    body: &'a mut SpooledTempFile,
}

/// The three things that a client is to do.
#[derive(Clone, Copy, PartialEq)]
pub enum Step {
    Tasks,
    Download,
    Report,
}

impl Step {
    /// Also for a request that was refused before it came to the loop.
    pub fn of(method: &str, target: &str) -> Option<Step> {
        match (method, path_and_id(target).0.as_str()) {
            ("GET", TASKS) => Some(Step::Tasks),
            ("GET", DOWNLOAD) => Some(Step::Download),
            ("POST", REPORT) => Some(Step::Report),
            _ => None,
        }
    }
}

/// The headers that the handlers and this file read. The proxy passes on these and no others.
pub const HEADERS_READ: [&str; 8] = [
    "Content-Type",
    "Host",
    "If-Match",
    "If-Modified-Since",
    "If-None-Match",
    "If-Range",
    "If-Unmodified-Since",
    "Range",
];

const TASKS: &str = "/xyz/api/cleaner/tasks";
const DOWNLOAD: &str = "/xyz/api/cleaner/tasks/download";
const REPORT: &str = "/xyz/api/cleaner/tasks/report";

impl Server {
    /// Answers until `Relay::close`.
    pub fn serve(&self, requests: &tiny_http::Server) {
        while !self.handover.is_closed() {
            // With at most one request at a time the next one is near; where there are many, they come by themselves.
            let soon = match self.handover.is_calm() {
                true => stay_awake(|| requests.try_recv().transpose()),
                false => None,
            };
            let next = match soon {
                Some(next) => next,
                // try_recv takes the word of `unblock` away without telling.
                None if self.handover.is_closed() => return,
                None => requests.recv(),
            };
            // The error is the word of `unblock`, or at most that of the closed listener (relay.rs).
            if let Ok(request) = next {
                self.respond(request);
            }
        }
    }

    fn route(&self, request: &mut Request) -> Result<Reply, String> {
        let method = request.method().to_owned();
        match (method.as_str(), request.path.as_str()) {
            ("GET" | "HEAD", TASKS) => get_tasks(&self.data),
            ("GET" | "HEAD", DOWNLOAD) => download_tools(request, &self.data),
            ("POST", REPORT) => upload_report(request, &self.data, self.reports.as_ref()),
            ("OPTIONS", TASKS | DOWNLOAD) => Ok(Reply::empty(200).with("Allow", READING)),
            ("OPTIONS", REPORT) => Ok(Reply::empty(200).with("Allow", WRITING)),
            (_, TASKS | DOWNLOAD) => Ok(wrong_method(&method, READING)),
            (_, REPORT) => Ok(wrong_method(&method, WRITING)),
            ("CONNECT", _) => Ok(wrong_method(&method, "GET, HEAD, POST, OPTIONS")),
            (_, path) => Ok(self.not_found(path)),
        }
    }

    /// Responds to one request, whatever happens. One without a number is not from the proxy.
    fn respond(&self, request: tiny_http::Request) {
        let Some(number) = header(&request, REQUEST_NUMBER).and_then(|number| number.parse().ok()) else { return };
        let Some(Asked { mut body, reply: client }) = self.handover.take(number) else { return };
        let answered = catch_unwind(AssertUnwindSafe(|| self.answer(&request, &mut body)));
        let reply = answered.unwrap_or_else(|_| {
            Reply::error(500, "the server made a mistake over this request; standard error says where")
        });
        let Reply { status, headers, body, learnt } = reply;
        let response = headers
            .iter()
            .filter_map(|(name, value)| tiny_http::Header::from_bytes(name.as_bytes(), value.as_bytes()).ok())
            .fold(tiny_http::Response::empty(status), tiny_http::Response::with_header)
            .with_header(number_header(number));
        // The proxy is the only client; where it has gone, nobody is left to be told.
        if request.respond(response).is_ok() {
            client.send((body, learnt)).ok();
        }
    }

    fn answer(&self, request: &tiny_http::Request, body: &mut SpooledTempFile) -> Reply {
        let (path, id) = path_and_id(request.url());
        let mut request = Request { inner: request, path, id, body };
        let mut reply = self.route(&mut request).unwrap_or_else(|sentence| Reply::error(500, sentence));
        reply.learnt.findings.extend(check_host(&request));
        let refused = reply.learnt.findings.first().filter(|_| self.strict && reply.status < 400).map(Reply::refusal);
        match refused {
            Some(refusal) => Reply { learnt: Learnt { error: refusal.learnt.error, ..reply.learnt }, ..refusal },
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
        let endpoints = [("GET", TASKS), ("GET", DOWNLOAD), ("POST", REPORT)];
        Reply::not_found(sentence, &endpoints.map(|(method, path)| format!("{method} {}{path}", self.url)))
    }
}

impl Request<'_> {
    pub fn method(&self) -> &str {
        self.inner.method().as_str()
    }

    /// The value of the first header of that name.
    pub fn header(&self, name: &'static str) -> Option<&str> {
        header(self.inner, name)
    }

    /// The `id` of the query.
    pub fn id(&self) -> Option<&str> {
        self.id.as_deref()
    }

    /// All of the body, to be read from its beginning.
    pub fn body(&mut self) -> &mut impl Read {
        self.body
    }
}

fn header<'a>(request: &'a tiny_http::Request, name: &'static str) -> Option<&'a str> {
    request.headers().iter().find(|header| header.field.equiv(name)).map(|header| header.value.as_str())
}

/// The path as Flask sees it: percent codes are decoded, and several slashes at the beginning count as one.
fn path_and_id(target: &str) -> (String, Option<String>) {
    let target = target.split('#').next().unwrap_or_default();
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let path = percent_decode_str(path).decode_utf8_lossy();
    let path = if path.starts_with('/') { format!("/{}", path.trim_start_matches('/')) } else { path.into_owned() };
    let decoded = |text: &str| percent_decode_str(&text.replace('+', " ")).decode_utf8_lossy().into_owned();
    let mut pairs = query.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    let id = pairs.find(|(name, _)| decoded(name) == "id").map(|(_, value)| decoded(value));
    (path, id)
}

/// The endpoint that a wrong path was probably meant to be, and how that one is written.
fn nearly(path: &str) -> Option<(&'static str, &'static str)> {
    let words: Vec<String> = path.split('/').filter(|word| !word.is_empty()).map(str::to_lowercase).collect();
    let plain = format!("/{}", words.join("/"));
    let endpoints = [DOWNLOAD, REPORT, TASKS];
    if let Some(meant) = endpoints.into_iter().find(|endpoint| *endpoint == plain) {
        let how = if path != path.to_lowercase() {
            "in lower case"
        } else if path.ends_with('/') {
            "without a slash at the end"
        } else {
            "with single slashes"
        };
        return Some((meant, how));
    }
    let meant = endpoints.into_iter().find(|endpoint| plain.ends_with(&endpoint[BASE.len()..]));
    meant.map(|meant| (meant, "with the base path /xyz/api/cleaner"))
}

fn wrong_method(method: &str, allowed: &str) -> Reply {
    let upper_case = method.to_uppercase();
    let hint = if upper_case != method && allowed.contains(&upper_case) { "; methods are in upper case" } else { "" };
    Reply::error(405, format!("{} is not allowed here, {allowed} are{hint}", quoted(method.as_bytes())))
        .with("Allow", allowed)
}

/// RFC 9112, 3.2: HTTP/1.1 wants exactly one Host, and a valid one.
fn check_host(request: &Request) -> Option<Finding> {
    let hosts: Vec<&str> = request
        .inner
        .headers()
        .iter()
        .filter(|header| header.field.equiv("Host"))
        .map(|header| header.value.as_str())
        .collect();
    let (sentence, received) = match hosts.as_slice() {
        [] if *request.inner.http_version() < (1, 1) => return None,
        [] => ("the request has no Host header, which HTTP/1.1 demands".to_owned(), "no Host".to_owned()),
        [host] if host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._~:[]%".contains(&byte)) => return None,
        [host] => {
            (format!("the Host {} is not a name or address with a port", quoted(host.as_bytes())), (*host).to_owned())
        }
        hosts => (format!("the request has {} Host headers", hosts.len()), hosts.join(", ")),
    };
    Some(Finding { status: 400, sentence, expected: "one Host header, such as localhost:5000".to_owned(), received })
}

const BASE: &str = "/xyz/api/cleaner";
const READING: &str = "GET, HEAD, OPTIONS";
const WRITING: &str = "POST, OPTIONS";
