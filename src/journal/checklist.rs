//! What the client has done: which of the three steps, how often and how well, and what went wrong beside them. The
//! server's own failures are counted apart.

use crate::message::{DOWNLOAD, Exchange, REPORT, Step, TASKS};
use crate::text::{counted, grouped, shown};
use serde_json::{Value, json};

#[derive(Default)]
pub struct Checklist {
    /// In the order of `STEPS`.
    tallies: [Tally; 3],
    mistakes: Vec<Mistake>,
    /// Answers that went wrong on the server's side.
    server_failures: u64,
}

#[derive(Default)]
struct Tally {
    requests: u64,
    with_findings: u64,
    refused: u64,
    /// Only a range was asked for.
    partial: u64,
    /// The client did not get all of the answer.
    incomplete: u64,
}

/// What went wrong beside the three steps, told once however often it happens.
struct Mistake {
    /// What it was, such as a connection or a wrong method.
    kind: &'static str,
    what: String,
    times: u64,
}

impl Checklist {
    pub fn count(&mut self, exchange: &Exchange) {
        let Exchange { request, status, undelivered, notes, .. } = exchange;
        self.server_failures += u64::from(is_own_failure(*status));
        let step = request.as_ref().and_then(|request| request.step());
        let index = STEPS.iter().position(|(own, _)| Some(*own) == step);
        let is_refused = is_refused(*status);
        if let Some(tally) = index.map(|index| &mut self.tallies[index]) {
            tally.requests += 1;
            tally.with_findings += u64::from(!notes.findings.is_empty());
            tally.refused += u64::from(is_refused);
            tally.partial += u64::from(*status == 206);
            tally.incomplete += u64::from(undelivered.is_some());
        } else if is_refused || !notes.findings.is_empty() {
            let (kind, what) = beside(exchange);
            self.note(kind, what);
        }
    }

    /// A connection that came to no request. What its sentence advises is no part of the cause.
    pub fn count_connection(&mut self, sentence: &str) {
        let cause = sentence.strip_prefix("closed: ").unwrap_or(sentence);
        self.note(CONNECTION, cause.split(": ").next().unwrap_or(cause).to_owned());
    }

    fn note(&mut self, kind: &'static str, what: String) {
        let is_full = self.mistakes.iter().filter(|mistake| mistake.kind == kind).count() >= MAX_TOLD;
        let is_known = |mistake: &Mistake, what: &str| mistake.kind == kind && mistake.what == what;
        let is_new = !self.mistakes.iter().any(|mistake| is_known(mistake, &what));
        let what = if is_full && is_new { "others".to_owned() } else { what };
        match self.mistakes.iter_mut().find(|mistake| is_known(mistake, &what)) {
            Some(mistake) => mistake.times += 1,
            None => self.mistakes.push(Mistake { kind, what, times: 1 }),
        }
    }
}

impl Checklist {
    /// For the console. `unfinished`: requests that are still on their way.
    pub fn text(&self, unfinished: usize) -> String {
        let mut text = "\nWhat the client did:".to_owned();
        for ((_, name), tally) in STEPS.iter().zip(&self.tallies) {
            text.push_str(&format!("\n  {name:<9} {}", times(tally.requests)));
            let details = [
                (tally.with_findings, "with findings"),
                (tally.refused, "refused"),
                (tally.partial, "only in part"),
                (tally.incomplete, "not complete"),
            ];
            for (count, what) in details.into_iter().filter(|(count, _)| *count > 0) {
                text.push_str(&format!(", {} {what}", grouped(count)));
            }
        }
        for Mistake { kind, what, times: number } in &self.mistakes {
            text.push_str(&format!("\n  {kind}, {}: {what}", times(*number)));
        }
        if self.server_failures > 0 {
            let answers = counted(self.server_failures, "answer");
            text.push_str(&format!("\n  {answers} failed on the server's side: see above"));
        }
        if unfinished > 0 {
            let requests = counted(unfinished as u64, "request");
            text.push_str(&format!("\n  not counted: {requests} still on the way at the end"));
        }
        text
    }

    /// For the journal.
    pub fn object(&self) -> Value {
        let object = |tally: &Tally| {
            let Tally { requests, with_findings, refused, partial, incomplete } = tally;
            json!({
                "requests": requests,
                "with_findings": with_findings,
                "refused": refused,
                "partial": partial,
                "incomplete": incomplete,
            })
        };
        let mut checklist: Value =
            STEPS.iter().zip(&self.tallies).map(|((_, name), tally)| (*name, object(tally))).collect();
        let mistakes = self.mistakes.iter();
        checklist["beside"] = mistakes
            .map(|Mistake { kind, what, times }| json!({ "kind": kind, "what": what, "times": times }))
            .collect();
        checklist["server_failures"] = json!(self.server_failures);
        checklist
    }
}

/// The server could not do what it was asked for. What it does not speak (501, 505) is asked wrongly.
fn is_own_failure(status: u16) -> bool {
    status >= 500 && !matches!(status, 501 | 505)
}

/// That a condition does not hold (412), or that there is no more of a file (416), is no mistake.
fn is_refused(status: u16) -> bool {
    status >= 400 && !is_own_failure(status) && !matches!(status, 412 | 416)
}

/// What a request was that is none of the three steps.
fn beside(exchange: &Exchange) -> (&'static str, String) {
    let Some(request) = &exchange.request else {
        return ("no request", exchange.notes.error.clone().unwrap_or_default());
    };
    let path = request.path();
    let kind = match path.as_str() {
        _ if exchange.status == 405 => "wrong method",
        TASKS | DOWNLOAD | REPORT => "other request",
        _ => "other path",
    };
    (kind, format!("{} {}", shown(&request.method), shown(&path)))
}

fn times(number: u64) -> String {
    match number {
        0 => "never".to_owned(),
        1 => "once".to_owned(),
        number => format!("{} times", grouped(number)),
    }
}

const STEPS: [(Step, &str); 3] = [(Step::Tasks, "tasks"), (Step::Download, "download"), (Step::Report, "report")];
const CONNECTION: &str = "connection";
/// So many things of a kind are told apart; somebody who tries all paths would only fill the memory.
const MAX_TOLD: usize = 20;
