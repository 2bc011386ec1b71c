//! What the client has done: which of the three steps, how often and how well, what went wrong beside them, and whether
//! it is ready for a strict server. The server's own failures are counted apart.

use crate::message::{DOWNLOAD, Ended, Exchange, Finding, Piece, REPORT, Step, TASKS};
use crate::text::{counted, grouped, in_bytes, shown};
use serde_json::{Value, json};

#[derive(Default)]
pub struct Checklist {
    /// In the order of `STEPS`.
    tallies: [Tally; 3],
    downloads: Vec<Download>,
    mistakes: Vec<Mistake>,
    /// Answers that went wrong on the server's side.
    server_failures: u64,
    has_begun: bool,
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
    /// At least one was right.
    is_done: bool,
}

/// What the client did wrong, told once however often it happens.
struct Mistake {
    /// The name of a step, or what else it was, such as a connection or a wrong method.
    kind: &'static str,
    what: String,
    /// The same for the verdict, with what to do.
    reason: String,
    times: u64,
}

impl Checklist {
    pub fn count(&mut self, exchange: &Exchange) {
        let Exchange { request, status, undelivered, notes, .. } = exchange;
        self.has_begun = true;
        self.server_failures += u64::from(is_own_failure(*status));
        let complaints = complaints(exchange);
        let step = request.as_ref().and_then(|request| request.step());
        let Some(index) = STEPS.iter().position(|(own, ..)| Some(*own) == step) else {
            if !complaints.is_empty() {
                let (kind, what) = beside(exchange);
                let subject = if request.is_some() { format!("{kind}, {what}") } else { kind.to_owned() };
                self.note(kind, what, format!("{subject}: {}", complaints.join("; ")));
            }
            return;
        };
        let is_whole = step != Some(Step::Download) || self.fetch(exchange);
        let tally = &mut self.tallies[index];
        tally.requests += 1;
        tally.with_findings += u64::from(!notes.findings.is_empty());
        tally.refused += u64::from(is_refused(*status));
        tally.partial += u64::from(*status == 206);
        tally.incomplete += u64::from(undelivered.is_some());
        let is_good = matches!(status, 200..=299 | 304) && undelivered.is_none() && notes.findings.is_empty();
        tally.is_done |= is_good && is_whole;
        for complaint in complaints {
            let name = STEPS[index].1;
            self.note(name, complaint.clone(), format!("{name}: {complaint}"));
        }
    }

    /// A connection that came to no request. What its sentence advises is no part of the cause.
    pub fn count_connection(&mut self, sentence: &str) {
        self.has_begun = true;
        let cause = sentence.strip_prefix("closed: ").unwrap_or(sentence);
        let cause = cause.split(": ").next().unwrap_or(cause);
        self.note(CONNECTION, cause.to_owned(), format!("{CONNECTION}: {sentence}"));
    }

    fn note(&mut self, kind: &'static str, what: String, reason: String) {
        let is_known = |mistake: &Mistake, what: &str| mistake.kind == kind && mistake.what == what;
        let is_new = !self.mistakes.iter().any(|mistake| is_known(mistake, &what));
        let is_full = self.mistakes.iter().filter(|mistake| mistake.kind == kind).count() >= MAX_TOLD;
        let others = || ("others".to_owned(), format!("{kind}: others, see above"));
        let (what, reason) = if is_new && is_full { others() } else { (what, reason) };
        match self.mistakes.iter_mut().find(|mistake| is_known(mistake, &what)) {
            Some(mistake) => mistake.times += 1,
            None => self.mistakes.push(Mistake { kind, what, reason, times: 1 }),
        }
    }

    /// Counts what has gone out of a file. Returns whether that is now all of it.
    fn fetch(&mut self, exchange: &Exchange) -> bool {
        let Some(piece) = exchange.notes.piece.as_ref().filter(|_| exchange.status < 300) else {
            return exchange.status == 304;
        };
        let index = self.downloads.iter().position(|download| download.entity_tag == piece.entity_tag);
        let index = index.unwrap_or_else(|| {
            self.downloads.push(Download::of(piece));
            self.downloads.len() - 1
        });
        let download = &mut self.downloads[index];
        download.add(piece.first_byte, piece.first_byte + exchange.bytes_out);
        download.has_all()
    }
}

/// What has gone out of one state of a file.
struct Download {
    entity_tag: String,
    file_bytes: u64,
    /// First byte, and the one behind the last; in order, and none touches another.
    ranges: Vec<(u64, u64)>,
}

impl Download {
    fn of(piece: &Piece) -> Download {
        Download { entity_tag: piece.entity_tag.clone(), file_bytes: piece.file_bytes, ranges: Vec::new() }
    }

    fn add(&mut self, start: u64, end: u64) {
        let first = self.ranges.partition_point(|range| range.1 < start);
        let behind = self.ranges.partition_point(|range| range.0 <= end);
        let joined = &self.ranges[first..behind];
        let start = joined.first().map_or(start, |range| range.0.min(start));
        let end = joined.last().map_or(end, |range| range.1.max(end));
        self.ranges.splice(first..behind, [(start, end)]);
    }

    fn bytes(&self) -> u64 {
        self.ranges.iter().map(|(start, end)| end - start).sum()
    }

    fn has_all(&self) -> bool {
        self.bytes() == self.file_bytes
    }

    fn told(&self) -> String {
        let ranges = self.ranges.iter().filter(|(start, end)| start < end);
        let mut ranges: Vec<String> = ranges.map(|(start, end)| format!("{start}-{}", end - 1)).collect();
        if ranges.len() > MAX_TOLD {
            ranges.splice(MAX_TOLD.., ["...".to_owned()]);
        }
        match ranges.as_slice() {
            [] => format!("none of its {} was fetched", in_bytes(self.file_bytes)),
            ranges => format!("only bytes {} of {} were fetched", ranges.join(", "), self.file_bytes),
        }
    }
}

/// Whether the client is ready.
impl Checklist {
    /// For the console. `reasons`: those against it.
    pub fn verdict(&self, reasons: &[String], is_run_here: bool) -> String {
        match reasons {
            [] => "\nready: the client did each of the three steps, and nothing wrong".to_owned(),
            _ if !self.has_begun && !is_run_here => {
                "\nNo client came. The first lines say where it is to send its requests.".to_owned()
            }
            _ => format!("\nNOT READY\n  {}", reasons.join("\n  ")),
        }
    }

    /// What speaks against it. `ended`: the client, where it was run here.
    pub fn reasons(&self, ended: Option<&Ended>) -> Vec<String> {
        let end = ended.and_then(|ended| ended.trouble.clone());
        let mut reasons = match ended {
            Some(Ended { not_run: Some(_), .. }) => Vec::new(),
            Some(_) if !self.has_begun => vec![format!("no request came: {WHERE}")],
            None if !self.has_begun => vec!["no request came".to_owned()],
            _ => self.own_reasons(),
        };
        reasons.extend(end);
        reasons
    }

    fn own_reasons(&self) -> Vec<String> {
        let mut reasons = Vec::new();
        // A client that has done its steps may have tried connections that it did not need.
        if self.tallies.iter().any(|tally| tally.requests == 0) {
            reasons.extend(self.reasons_of(|kind| kind == CONNECTION));
        }
        for ((step, name, ..), tally) in STEPS.iter().zip(&self.tallies) {
            reasons.extend(self.shortfall(*step, tally));
            reasons.extend(self.reasons_of(|kind| kind == *name));
        }
        reasons.extend(self.reasons_of(|kind| kind != CONNECTION && !is_step(kind)));
        reasons
    }

    fn reasons_of(&self, is_wanted: impl Fn(&str) -> bool) -> impl Iterator<Item = String> {
        let mistakes = self.mistakes.iter().filter(move |mistake| is_wanted(mistake.kind));
        mistakes.map(|Mistake { reason, times: number, .. }| match number {
            1 => reason.clone(),
            number => format!("{reason} ({})", times(*number)),
        })
    }

    /// Why a step is not done, where no mistake says it.
    fn shortfall(&self, step: Step, tally: &Tally) -> Option<String> {
        let (_, name, done, request) = STEPS.iter().find(|(own, ..)| *own == step)?;
        let most = self.downloads.iter().filter(|_| step == Step::Download).max_by_key(|download| download.bytes());
        let why = match most.filter(|download| !download.has_all()) {
            _ if tally.is_done => return None,
            _ if tally.requests == 0 => format!("never {done}; send {request}"),
            Some(download) => download.told(),
            _ if self.mistakes.iter().any(|mistake| mistake.kind == *name) => return None,
            _ if tally.incomplete > 0 => "the client did not take all of the answer".to_owned(),
            _ => "no answer was a good one: see above".to_owned(),
        };
        Some(format!("{name}: {why}"))
    }
}

impl Checklist {
    /// What has been done, for the console. `unfinished`: requests that are still on their way.
    pub fn text(&self, unfinished: usize) -> String {
        let mut text = "\nWhat the client did:".to_owned();
        for ((_, name, ..), tally) in STEPS.iter().zip(&self.tallies) {
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
        for Mistake { kind, what, times: number, .. } in self.beside() {
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

    /// The same for the journal.
    pub fn object(&self) -> Value {
        let object = |tally: &Tally| {
            let Tally { requests, with_findings, refused, partial, incomplete, .. } = tally;
            json!({
                "requests": requests,
                "with_findings": with_findings,
                "refused": refused,
                "partial": partial,
                "incomplete": incomplete,
            })
        };
        let mut checklist: Value =
            STEPS.iter().zip(&self.tallies).map(|((_, name, ..), tally)| (*name, object(tally))).collect();
        let mistakes = self.beside();
        checklist["beside"] = mistakes
            .map(|Mistake { kind, what, times, .. }| json!({ "kind": kind, "what": what, "times": times }))
            .collect();
        checklist["server_failures"] = json!(self.server_failures);
        checklist
    }

    fn beside(&self) -> impl Iterator<Item = &Mistake> {
        self.mistakes.iter().filter(|mistake| !is_step(mistake.kind))
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

/// What a strict server would say to the client.
fn complaints(exchange: &Exchange) -> Vec<String> {
    let findings = &exchange.notes.findings;
    let told = |finding: &Finding| format!("{} (expected: {})", finding.sentence, finding.expected);
    let is_new = |error: &&String| findings.iter().all(|finding| finding.sentence != **error);
    let error = exchange.notes.error.as_ref().filter(|_| is_refused(exchange.status)).filter(is_new);
    findings.iter().map(told).chain(error.cloned()).collect()
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

fn is_step(kind: &str) -> bool {
    STEPS.iter().any(|(_, name, ..)| *name == kind)
}

fn times(number: u64) -> String {
    match number {
        0 => "never".to_owned(),
        1 => "once".to_owned(),
        number => format!("{} times", grouped(number)),
    }
}

/// Each with its name, what it is to be, and by which request.
const STEPS: [(Step, &str, &str, &str); 3] = [
    (Step::Tasks, "tasks", "listed", "GET /xyz/api/cleaner/tasks"),
    (Step::Download, "download", "fetched", "GET /xyz/api/cleaner/tasks/download?id=N"),
    (Step::Report, "report", "sent", "POST /xyz/api/cleaner/tasks/report"),
];
const WHERE: &str = "the client is to send its requests to the address in the environment variable CLEANER_URL";
const CONNECTION: &str = "connection";
/// So many things of a kind are told apart; somebody who tries all paths would only fill the memory.
const MAX_TOLD: usize = 20;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::{Notes, Request};
    use std::net::{Ipv4Addr, SocketAddr};
    use std::time::Duration;
    use tempfile::SpooledTempFile;

    fn exchange(method: &str, target: &str, status: u16) -> Exchange {
        let (method, target, headers, body) = (method.into(), target.into(), Vec::new(), SpooledTempFile::new(0));
        Exchange {
            client: SocketAddr::from((Ipv4Addr::LOCALHOST, 1)),
            number: 1,
            request: Some(Request { method, target, minor_version: 1, headers, body, body_bytes: 0 }),
            status,
            bytes_out: 0,
            duration: Duration::ZERO,
            undelivered: None,
            notes: Notes::default(),
        }
    }

    /// So many bytes of a file of 300.
    fn piece(status: u16, entity_tag: &str, first_byte: u64, bytes_out: u64) -> Exchange {
        let piece = Some(Piece { entity_tag: entity_tag.into(), file_bytes: 300, first_byte });
        let notes = Notes { piece, ..Notes::default() };
        Exchange { bytes_out, notes, ..exchange("GET", DOWNLOAD, status) }
    }

    fn refused(exchange: Exchange, sentence: &str) -> Exchange {
        Exchange { notes: Notes { error: Some(sentence.into()), ..Notes::default() }, ..exchange }
    }

    fn reasons(exchanges: impl IntoIterator<Item = Exchange>) -> Vec<String> {
        let mut checklist = Checklist::default();
        exchanges.into_iter().for_each(|exchange| checklist.count(&exchange));
        checklist.reasons(None)
    }

    /// The same for a client that has done the two other steps.
    fn reasons_for_downloads(exchanges: impl IntoIterator<Item = Exchange>) -> Vec<String> {
        let others = [exchange("GET", TASKS, 200), exchange("POST", REPORT, 200)];
        reasons(others.into_iter().chain(exchanges))
    }

    const NONE: [&str; 0] = [];

    #[test]
    fn a_client_that_does_all_right_is_ready() {
        assert_eq!(reasons_for_downloads([piece(200, "a", 0, 300)]), NONE);
        assert_eq!(reasons_for_downloads([exchange("GET", DOWNLOAD, 304)]), NONE);
    }

    #[test]
    fn each_step_that_is_missing_is_named_with_its_request() {
        let expected = [
            "download: never fetched; send GET /xyz/api/cleaner/tasks/download?id=N",
            "report: never sent; send POST /xyz/api/cleaner/tasks/report",
        ];
        assert_eq!(reasons([exchange("GET", TASKS, 200)]), expected);
        assert_eq!(reasons([]), ["no request came"]);
    }

    #[test]
    fn a_download_is_whole_once_every_byte_of_one_state_of_the_file_went_out() {
        for whole in [
            vec![(0, 100), (100, 200)],
            vec![(200, 100), (0, 100), (100, 100)],
            vec![(0, 150), (50, 150), (120, 180)],
            vec![(0, 1), (2, 298), (1, 1)],
            vec![(10, 10), (30, 10), (0, 300)],
        ] {
            let pieces = whole.iter().map(|(start, count)| piece(206, "a", *start, *count));
            assert_eq!(reasons_for_downloads(pieces), NONE, "{whole:?}");
        }
        for (parts, told) in [
            (vec![(0, 100)], "0-99"),
            (vec![(0, 100), (200, 100)], "0-99, 200-299"),
            (vec![(100, 200), (1, 98)], "1-98, 100-299"),
        ] {
            let pieces = parts.iter().map(|(start, count)| piece(206, "a", *start, *count));
            let expected = format!("download: only bytes {told} of 300 were fetched");
            assert_eq!(reasons_for_downloads(pieces), [expected]);
        }
        assert_eq!(reasons_for_downloads([piece(206, "a", 0, 0)]), ["download: none of its 300 bytes was fetched"]);
    }

    #[test]
    fn pieces_of_two_states_of_a_file_make_no_whole() {
        let pieces = [piece(206, "a", 0, 100), piece(206, "b", 100, 200)];
        assert_eq!(reasons_for_downloads(pieces), ["download: only bytes 100-299 of 300 were fetched"]);
    }

    #[test]
    fn a_download_that_broke_off_counts_as_far_as_it_came() {
        let broken = || Exchange { undelivered: Some("gone".into()), ..piece(200, "a", 0, 120) };
        assert_eq!(reasons_for_downloads([broken()]), ["download: only bytes 0-119 of 300 were fetched"]);
        assert_eq!(reasons_for_downloads([broken(), piece(206, "a", 120, 180)]), NONE);
        let untaken = Exchange { undelivered: Some("gone".into()), ..piece(200, "a", 0, 300) };
        assert_eq!(reasons_for_downloads([untaken]), ["download: the client did not take all of the answer"]);
    }

    #[test]
    fn a_condition_that_does_not_hold_is_no_mistake() {
        for status in [412, 416] {
            let condition = || refused(exchange("GET", DOWNLOAD, status), "it does not hold");
            assert_eq!(reasons_for_downloads([piece(200, "a", 0, 300), condition()]), NONE);
            let unmet = "download: no answer was a good one: see above";
            assert_eq!(reasons_for_downloads([condition()]), [unmet]);
        }
    }

    #[test]
    fn a_finding_is_a_reason_with_what_is_expected_also_where_it_is_refused() {
        let finding = || Finding::new(422, "the report has no file part", "a part with a file name", "1 part");
        for status in [200, 422] {
            let flawed = || {
                let error = (status == 422).then(|| finding().sentence);
                let notes = Notes { error, findings: vec![finding()], ..Notes::default() };
                Exchange { notes, ..exchange("POST", REPORT, status) }
            };
            let expected = "report: the report has no file part (expected: a part with a file name) (2 times)";
            assert_eq!(reasons_for_downloads([piece(200, "a", 0, 300), flawed(), flawed()]), [expected]);
        }
    }

    #[test]
    fn what_is_refused_beside_the_steps_is_a_reason_too() {
        let unknown = refused(exchange("GET", "/a", 404), "there is nothing at \"/a\"");
        let expected = ["other path, GET /a: there is nothing at \"/a\""];
        assert_eq!(reasons_for_downloads([piece(200, "a", 0, 300), unknown]), expected);
    }

    #[test]
    fn a_failure_of_the_server_makes_nobody_unready() {
        let failed = || refused(exchange("POST", REPORT, 507), "the disk is full");
        assert_eq!(reasons_for_downloads([piece(200, "a", 0, 300), failed()]), NONE);
        let steps = [exchange("GET", TASKS, 200), piece(200, "a", 0, 300), failed()];
        assert_eq!(reasons(steps), ["report: no answer was a good one: see above"]);
    }

    #[test]
    fn a_connection_that_failed_is_a_reason_where_a_step_is_missing() {
        let mut checklist = Checklist::default();
        checklist.count_connection("does not trust the certificate: give it the CA");
        let reasons = checklist.reasons(None);
        assert_eq!(reasons[0], "connection: does not trust the certificate: give it the CA");
        assert_eq!(reasons.len(), 4);
        for exchange in [exchange("GET", TASKS, 200), piece(200, "a", 0, 300), exchange("POST", REPORT, 200)] {
            checklist.count(&exchange);
        }
        assert_eq!(checklist.reasons(None), NONE);
    }
}
