//! What the client has done: which of the three steps, how often, and how well.

use crate::message::{Exchange, Step};
use crate::text::{counted, grouped};
use serde_json::{Value, json};

#[derive(Default)]
pub struct Checklist {
    /// In the order of `STEPS`.
    tallies: [Tally; 3],
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

impl Checklist {
    pub fn count(&mut self, exchange: &Exchange) {
        let step = exchange.request.as_ref().and_then(|request| request.step());
        let Some(index) = STEPS.iter().position(|(own, _)| Some(*own) == step) else { return };
        let tally = &mut self.tallies[index];
        tally.requests += 1;
        tally.with_findings += u64::from(!exchange.notes.findings.is_empty());
        tally.refused += u64::from(exchange.status >= 400);
        tally.partial += u64::from(exchange.status == 206);
        tally.incomplete += u64::from(exchange.undelivered.is_some());
    }

    /// For the console. `unfinished`: requests that are still on their way.
    pub fn text(&self, unfinished: usize) -> String {
        let mut text = "\nWhat the client did:".to_owned();
        for ((_, name), tally) in STEPS.iter().zip(&self.tallies) {
            let times = match tally.requests {
                0 => "never".to_owned(),
                1 => "once".to_owned(),
                times => format!("{} times", grouped(times)),
            };
            text.push_str(&format!("\n  {name:<9} {times}"));
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
        STEPS.iter().zip(&self.tallies).map(|((_, name), tally)| (*name, object(tally))).collect()
    }
}

const STEPS: [(Step, &str); 3] = [(Step::Tasks, "tasks"), (Step::Download, "download"), (Step::Report, "report")];
