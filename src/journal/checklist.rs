//! What the client has done: which of the three steps, how often and how well, what went wrong beside them, and whether
//! it is ready for a strict server. The server's own failures are counted apart.

use super::coverage::Coverage;
use crate::message::{Blame, DOWNLOAD, Ended, Exchange, Fault, Finding, Request, STEPS, with_id};
use crate::text::{counted, grouped, shown};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::ops::Range;

#[derive(Default)]
pub struct Checklist {
    /// Of this run.
    fault: Option<Fault>,
    /// Whether that has happened to the client: an answer failed, or it refused the certificate.
    has_met_fault: bool,
    /// In the order of `STEPS`.
    tallies: [Tally; 3],
    /// What has gone out of each state of a file.
    downloads: BTreeMap<String, Coverage>,
    mistakes: Vec<Mistake>,
    /// Answers, and connections, that went wrong on the server's side.
    server_failures: u64,
    /// Requests that are still on their way at the end.
    unfinished: usize,
    has_begun: bool,
    has_connected: bool,
}

#[derive(Default)]
struct Tally {
    /// In the order of `COUNTS`.
    counts: [u64; 5],
    /// Once it was done right.
    is_done: bool,
    /// With a fault, for the step's ids, the number of the last request that met it, and of the last that did not. They
    /// are told in another order than they came.
    lasts: BTreeMap<String, [u64; 2]>,
}

/// What the client did wrong, told once however often it happens.
struct Mistake {
    /// The name of a step, or what else it was, such as a connection.
    kind: &'static str,
    what: String,
    /// The same for the verdict, with what to do.
    reason: String,
    times: u64,
}

impl Mistake {
    fn told(&self) -> String {
        match self.times {
            1 => self.reason.clone(),
            // Others have the same cause, but may have asked for another name or path.
            number if self.kind == CONNECTION => format!("{} (the first of {})", self.reason, grouped(number)),
            number => format!("{} ({})", self.reason, times(number)),
        }
    }
}

impl Checklist {
    pub fn new(fault: Option<Fault>) -> Checklist {
        Checklist { fault, ..Checklist::default() }
    }

    pub fn count(&mut self, exchange: &Exchange) {
        let Exchange { request, status, undelivered, notes, .. } = exchange;
        let is_on_purpose =
            matches!(exchange.fault, Some(Fault::Unavailable | Fault::Reset | Fault::Cut | Fault::Hang));
        self.has_begun = true;
        self.has_met_fault |= is_on_purpose;
        if let Some(fault) = exchange.fault.filter(|fault| fault.is_of_certificate()) {
            let reason = format!("the client accepted {}: switch its verification on", fault.what());
            self.note("certificate", "accepted although it is wrong on purpose", reason);
        }
        self.server_failures += u64::from(is_own_failure(*status) && !is_on_purpose);
        let complaints = complaints(exchange);
        let Some(step) = request.as_ref().and_then(Request::step) else {
            if !complaints.is_empty() {
                let (kind, what) = beside(exchange);
                let told = format!("{what}: {}", complaints.join("; "));
                // Each malformed request is one of its own.
                let what = if request.is_some() { &what } else { &told };
                self.note(kind, what, format!("{kind}, {told}"));
            }
            return;
        };
        let (name, .., path) = STEPS[step];
        let is_whole = path != DOWNLOAD || self.fetch(exchange);
        let (has_findings, is_cut) = (!notes.findings.is_empty(), undelivered.is_some());
        let tally = &mut self.tallies[step];
        let happened = [true, has_findings, is_refused(*status), *status == 206, is_cut && !is_on_purpose];
        tally.counts.iter_mut().zip(happened).for_each(|(count, happened)| *count += u64::from(happened));
        // A download may be put together from pieces, also from those that broke off.
        let is_good = matches!(status, 200..=299 | 304) && is_whole && !has_findings;
        let is_good = is_good && (!is_cut || path == DOWNLOAD);
        tally.is_done |= is_good;
        if let Some(request) = request.as_ref().filter(|_| self.fault.is_some()) {
            // That a condition does not hold is a good outcome, however much of the answer came.
            let has_passed = is_good || !is_on_purpose || matches!(status, 412 | 416);
            let lasts = tally.lasts.entry(request.all_ids(&notes.parts).join(", ")).or_default();
            lasts[usize::from(has_passed)] = exchange.number.max(lasts[usize::from(has_passed)]);
        }
        for complaint in complaints {
            self.note(name, &complaint, format!("{name}: {complaint}"));
        }
    }

    /// A connection that came to no request. Returns what is to be told of it, and who is to blame: nobody who refuses a
    /// certificate that is wrong on purpose.
    pub fn count_connection(&mut self, sentence: &str, blame: Blame) -> (String, Blame) {
        let is_refusal = ["not trust the certificate", "has expired"].iter().any(|word| sentence.contains(word));
        let fault = self.fault.filter(|fault| is_refusal && fault.is_of_certificate());
        self.has_connected = true;
        self.has_begun |= blame == Blame::Client || fault.is_some();
        self.server_failures += u64::from(blame == Blame::Server);
        self.has_met_fault |= fault.is_some();
        // What the sentence advises is no part of the cause.
        let cause = cause(sentence);
        if let Some(fault) = fault {
            return (format!("{cause}: it is wrong on purpose (--fault {})", fault.name()), Blame::Nobody);
        }
        if blame == Blame::Client {
            self.note(CONNECTION, cause, format!("{CONNECTION}: {sentence}"));
        }
        (sentence.to_owned(), blame)
    }

    fn note(&mut self, kind: &'static str, what: &str, reason: String) {
        if let Some(known) = self.mistakes.iter_mut().find(|known| known.kind == kind && known.what == what) {
            known.times += 1;
        } else if what != OTHERS && self.mistakes.iter().filter(|known| known.kind == kind).count() >= MAX_TOLD {
            self.note(kind, OTHERS, format!("{kind}: others, see above"));
        } else {
            self.mistakes.push(Mistake { kind, what: what.to_owned(), reason, times: 1 });
        }
    }

    /// Whether the client now has all of the file. An answer that broke off and brought nothing new counts for nothing.
    fn fetch(&mut self, exchange: &Exchange) -> bool {
        let Some(piece) = exchange.notes.piece.as_ref().filter(|_| exchange.status < 300) else {
            return exchange.status == 304;
        };
        let Range { start, end } = piece.range;
        if exchange.undelivered.is_some() && exchange.bytes_out == end - start {
            // All was handed out at once, and not read.
            return false;
        }
        let download = self.downloads.entry(piece.state.clone()).or_default();
        download.file_bytes = piece.file_bytes;
        let before = download.bytes();
        download.add(start, start + exchange.bytes_out);
        download.has_all() && (exchange.undelivered.is_none() || download.bytes() > before)
    }

    /// Requests that are still on their way at the end.
    pub fn count_unfinished(&mut self, unfinished: usize) {
        self.unfinished = unfinished;
        self.has_begun |= unfinished > 0;
    }

    /// For the console: what has been done.
    pub fn text(&self) -> String {
        let mut lines = vec!["\nWhat the client did:".to_owned()];
        for ((name, ..), Tally { counts, .. }) in STEPS.iter().zip(&self.tallies) {
            let told = COUNTS.iter().zip(counts).skip(1).filter(|(_, count)| **count > 0);
            let told: String = told.map(|((_, what), count)| format!(", {} {what}", grouped(*count))).collect();
            lines.push(format!("{name:<9} {}{told}", times(counts[0])));
        }
        let told = |mistake: &Mistake| format!("{}, {}: {}", mistake.kind, times(mistake.times), mistake.what);
        lines.extend(self.beside().map(told));
        if self.server_failures > 0 {
            let failures = counted(self.server_failures, "failure");
            lines.push(format!("{failures} on the server's side: see above"));
        }
        if self.unfinished > 0 {
            let requests = counted(self.unfinished as u64, "request");
            lines.push(format!("not counted: {requests} still on the way at the end"));
        }
        lines.join("\n  ")
    }

    /// The same for the journal.
    pub fn object(&self) -> Value {
        let told = |mistake: &Mistake| json!({ "kind": mistake.kind, "what": mistake.what, "times": mistake.times });
        let beside: Value = self.beside().map(told).collect();
        let mut checklist = json!({ "beside": beside, "server_failures": self.server_failures });
        for ((step, ..), tally) in STEPS.iter().zip(&self.tallies) {
            checklist[step] = COUNTS.iter().zip(tally.counts).map(|((name, _), count)| (*name, json!(count))).collect();
        }
        checklist
    }

    fn beside(&self) -> impl Iterator<Item = &Mistake> {
        self.mistakes.iter().filter(|mistake| STEPS.iter().all(|(name, ..)| *name != mistake.kind))
    }

    /// What speaks against the client. `ended`: where it was run here.
    pub fn reasons(&self, ended: Option<&Ended>) -> Vec<String> {
        let code = ended.and_then(|ended| ended.exit_code).filter(|_| self.has_met_fault);
        // Below 0 Windows says that it crashed.
        let has_noticed = code.is_some_and(|code| code > 0);
        let is_of_certificate = self.fault.is_some_and(Fault::is_of_certificate);
        let swallowed = if is_of_certificate { REFUSED_IN_SILENCE } else { SWALLOWED };
        let swallowed = (code == Some(0) && self.falls_short()).then(|| swallowed.to_owned());
        // A client that has done its steps may have tried connections that it did not need.
        let lacks_step = self.tallies.iter().any(|tally| tally.counts[0] == 0);
        let is_excused = |mistake: &Mistake| {
            // That one was a request, and is lost.
            !lacks_step && !["this port speaks HTTPS", "takes this server for a proxy"].contains(&mistake.what.as_str())
                || has_noticed && mistake.what.starts_with("probably ")
        };
        let mistakes = self.mistakes.iter().filter(|mistake| mistake.kind != CONNECTION || !is_excused(mistake));
        let mistakes = mistakes.map(Mistake::told);
        let own: Vec<String> = match ended {
            Some(Ended { not_run: Some(_), .. }) => Vec::new(),
            Some(_) if !self.has_begun => vec![NOTHING_CAME.to_owned()],
            None if !self.has_begun => vec!["no request came".to_owned()],
            _ if has_noticed || is_of_certificate => mistakes.collect(),
            _ => mistakes.chain((0..STEPS.len()).filter_map(|index| self.shortfall(index))).collect(),
        };
        let trouble = ended.filter(|_| !has_noticed).and_then(|ended| ended.trouble.clone());
        // Where nothing came, its end says why.
        let (first, last) = if self.has_begun { (None, trouble) } else { (trouble, None) };
        first.into_iter().chain(own).chain(swallowed).chain(last).collect()
    }

    /// What it did wrong, whatever else it did.
    pub fn mistakes(&self) -> Vec<String> {
        self.mistakes.iter().map(Mistake::told).collect()
    }

    /// And no mistake says why.
    fn falls_short(&self) -> bool {
        (0..STEPS.len()).any(|index| self.shortfall(index).is_some())
    }

    /// What speaks for it, where nothing speaks against it.
    fn praise(&self) -> String {
        match self.fault.filter(|_| self.has_met_fault) {
            None if !self.mistakes.is_empty() => {
                "did each of the three steps right; some of its connections came to no request, see above".to_owned()
            }
            None => "did each of the three steps, and nothing wrong".to_owned(),
            Some(fault) if fault.is_of_certificate() => format!("refused {}", fault.what()),
            Some(fault) if self.falls_short() => {
                let never = STEPS.iter().zip(&self.tallies).filter(|(_, tally)| tally.counts[0] == 0);
                let never: Vec<&str> = never.map(|((name, ..), _)| *name).collect();
                let before = if never.is_empty() { "" } else { ", before it came to " };
                let told = "told by its exit code that not all went well";
                format!("got {}, and {told}{before}{}", fault.what(), never.join(" and "))
            }
            Some(fault) => format!("got {} at times, and did each of the three steps all the same", fault.what()),
        }
    }

    /// Why a step is not done, where no mistake says it.
    fn shortfall(&self, index: usize) -> Option<String> {
        let (name, done, method, path) = STEPS[index];
        let Tally { counts: [requests, .., cut], is_done, lasts } = &self.tallies[index];
        let most = self.downloads.values().max_by_key(|download| download.bytes());
        let why = match most.filter(|download| path == DOWNLOAD && !download.has_all()) {
            _ if *is_done => {
                let (ids, _) = lasts.iter().find(|(_, [met, passed])| met > passed)?;
                let which = if ids.is_empty() { String::new() } else { format!(" (id={})", shown(ids)) };
                format!("a request that met the fault was not tried again{which}")
            }
            _ if *requests == 0 => format!("never {done}; send {method} {}", with_id(path)),
            Some(download) => download.told(),
            _ if self.mistakes.iter().any(|mistake| mistake.kind == name) => return None,
            _ if self.has_met_fault => "no answer was a good one".to_owned(),
            _ if *cut > 0 => "the client did not take all of the answer".to_owned(),
            _ => "no answer was a good one: see above".to_owned(),
        };
        Some(format!("{name}: {why}"))
    }

    /// For the console.
    pub fn verdict(&self, reasons: &[String], ended: Option<&Ended>) -> String {
        match reasons {
            [] => format!("\nready: the client {}", self.praise()),
            _ if !self.has_begun && ended.is_none() => {
                let who = if self.has_connected { "request came; who connected stands above" } else { "client came" };
                format!("\nNo {who}. The first lines say where to send requests.")
            }
            _ => format!("\nNOT READY\n  {}", reasons.join("\n  ")),
        }
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
    let told = |finding: &Finding| format!("{} (expected: {})", finding.sentence, finding.expected);
    let error = exchange.notes.own_error().filter(|_| is_refused(exchange.status));
    let remedy = exchange.notes.advice.as_ref().map_or_else(String::new, |advice| format!(" ({advice})"));
    exchange.notes.findings.iter().map(told).chain(error.map(|error| error.clone() + &remedy)).collect()
}

/// What a request was that is none of the three steps.
fn beside(exchange: &Exchange) -> (&'static str, String) {
    let Some(request) = &exchange.request else { return ("other request", "malformed".to_owned()) };
    let path = request.path();
    let kind = match exchange.status {
        404 if STEPS.iter().all(|(.., own)| *own != path) => "other path",
        405 => "wrong method",
        _ => "other request",
    };
    let sent = request.origin_form().split(['?', '#']).next().unwrap_or_default();
    (kind, format!("{} {}", shown(&request.method), shown(sent)))
}

/// Of a connection's failure, without what is to be done about it.
pub fn cause(sentence: &str) -> &str {
    let cause = sentence.strip_prefix("closed: ").unwrap_or(sentence);
    cause.split(": ").next().unwrap_or(cause)
}

fn times(number: u64) -> String {
    match number {
        0 => "never".to_owned(),
        1 => "once".to_owned(),
        number => format!("{} times", grouped(number)),
    }
}

/// What is counted of a step, in the journal and on the console: requests; what a strict server would refuse; what this
/// one refused; answers with only a range; answers that the client did not take whole.
const COUNTS: [(&str, &str); 5] = [
    ("requests", ""),
    ("with_findings", "with findings"),
    ("refused", "refused"),
    ("partial", "only in part"),
    ("incomplete", "not complete"),
];
const NOTHING_CAME: &str =
    "no request came: the client is to send its requests to the address in the environment variable CLEANER_URL";
const SWALLOWED: &str =
    "the client ended with exit code 0 although not all went well: let it try again, or end with another code";
const REFUSED_IN_SILENCE: &str =
    "the client refused the certificate, rightly, but ended with exit code 0: let it end with another code";
const CONNECTION: &str = "connection";
const OTHERS: &str = "others";
/// So many things of a kind are told apart; somebody who tries all paths would only fill the memory.
const MAX_TOLD: usize = 20;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::{Notes, Part, Piece, REPORT, TASKS};
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
            fault: None,
            notes: Notes::default(),
        }
    }

    /// So many bytes of a file of 300.
    fn piece(status: u16, state: &str, first_byte: u64, bytes_out: u64) -> Exchange {
        let range = if status == 206 { first_byte..first_byte + bytes_out } else { 0..300 };
        let piece = Some(Piece { state: state.into(), file_bytes: 300, range });
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

    /// Of a client that ended with this code, while these requests met the fault, and those behind them did not.
    fn reasons_with(fault: Fault, code: i32, met: Vec<Exchange>, others: Vec<Exchange>) -> Vec<String> {
        let mut checklist = Checklist::new(Some(fault));
        let met = met.into_iter().map(|exchange| Exchange { fault: Some(fault), ..exchange });
        for (number, exchange) in (1..).zip(met.chain(others)) {
            checklist.count(&Exchange { number, ..exchange });
        }
        let trouble = (code != 0).then(|| format!("the client ended with exit code {code}"));
        checklist.reasons(Some(&Ended { command: Vec::new(), exit_code: Some(code), trouble, not_run: None }))
    }

    fn all_steps() -> Vec<Exchange> {
        vec![exchange("GET", TASKS, 200), piece(200, "a", 0, 300), exchange("POST", REPORT, 200)]
    }

    fn undelivered(exchange: Exchange) -> Exchange {
        Exchange { undelivered: Some("gone".into()), ..exchange }
    }

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
        // In whatever order they end.
        assert_eq!(reasons_for_downloads([broken(), piece(206, "a", 120, 180)]), NONE);
        assert_eq!(reasons_for_downloads([piece(206, "a", 110, 190), broken()]), NONE);
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
        checklist.count_connection("does not trust the certificate: give it the CA", Blame::Client);
        let reasons = checklist.reasons(None);
        assert_eq!(reasons[0], "connection: does not trust the certificate: give it the CA");
        assert_eq!(reasons.len(), 4);
        for exchange in [exchange("GET", TASKS, 200), piece(200, "a", 0, 300), exchange("POST", REPORT, 200)] {
            checklist.count(&exchange);
        }
        assert_eq!(checklist.reasons(None), NONE);
    }

    #[test]
    fn whoever_does_all_in_the_end_or_fails_aloud_bears_a_fault() {
        for code in [0, 1] {
            let failed = vec![refused(exchange("GET", TASKS, 503), "not available")];
            assert_eq!(reasons_with(Fault::Unavailable, code, failed, all_steps()), NONE);
            // The second half of the download comes on its own.
            let cut = vec![undelivered(piece(200, "a", 0, 150))];
            let continued = vec![exchange("GET", TASKS, 200), piece(206, "a", 150, 150), exchange("POST", REPORT, 200)];
            assert_eq!(reasons_with(Fault::Cut, code, cut, continued), NONE);
        }
        assert_eq!(reasons_with(Fault::Hang, 1, vec![undelivered(exchange("GET", TASKS, 200))], vec![]), NONE);
    }

    #[test]
    fn whoever_ends_well_without_all_steps_has_swallowed_the_fault() {
        let failed = vec![exchange("GET", TASKS, 503)];
        let others = vec![piece(200, "a", 0, 300), exchange("POST", REPORT, 200)];
        let expected = ["tasks: no answer was a good one", SWALLOWED];
        assert_eq!(reasons_with(Fault::Unavailable, 0, failed, others), expected);
    }

    #[test]
    fn a_good_answer_on_one_task_is_none_on_another() {
        let two = |id: &str| Exchange { fault: None, ..exchange("GET", &format!("{DOWNLOAD}?id={id}"), 503) };
        let expected = ["download: a request that met the fault was not tried again (id=1)", SWALLOWED];
        assert_eq!(reasons_with(Fault::Unavailable, 0, vec![two("1")], all_steps()), expected);
        let again = Exchange { notes: piece(200, "a", 0, 300).notes, bytes_out: 300, status: 200, ..two("1") };
        let others = all_steps().into_iter().chain([again]).collect();
        assert_eq!(reasons_with(Fault::Unavailable, 0, vec![two("1")], others), NONE);
        // The id may be a text of the report.
        let (value, sha256) = (Some(("1".to_owned(), 1)), String::new());
        let field = "id".to_owned();
        let part = Part { field, file_name: None, content_type: None, size_bytes: 1, sha256, value, saved: None };
        let notes = Notes { parts: vec![part], ..Notes::default() };
        let report = Exchange { notes, ..exchange("POST", REPORT, 503) };
        let expected = ["report: a request that met the fault was not tried again (id=1)", SWALLOWED];
        assert_eq!(reasons_with(Fault::Unavailable, 0, vec![report], all_steps()), expected);
    }

    #[test]
    fn what_breaks_off_and_brings_nothing_new_is_no_answer() {
        let mut checklist = Checklist::new(Some(Fault::Cut));
        for (number, (id, bytes_out, fault)) in
            (1..).zip([("1", 150, Some(Fault::Cut)), ("2", 300, None), ("1", 150, Some(Fault::Cut))])
        {
            let request = exchange("GET", &format!("{DOWNLOAD}?id={id}"), 200).request;
            let undelivered = fault.map(|_| "cut".to_owned());
            checklist.count(&Exchange { number, request, fault, undelivered, ..piece(200, "a", 0, bytes_out) });
        }
        let reasons = checklist.reasons(None);
        let expected = "download: a request that met the fault was not tried again (id=1)".to_owned();
        assert!(reasons.contains(&expected), "{reasons:?}");
    }

    /// All of it was handed out at once, and not read.
    #[test]
    fn a_range_that_was_reset_unread_is_not_fetched() {
        let lost = undelivered(piece(206, "a", 100, 200));
        let expected = ["download: only bytes 0-99 of 300 were fetched"];
        assert_eq!(reasons_for_downloads([piece(206, "a", 0, 100), lost]), expected);
    }

    /// As `wget -c` asks where it has all.
    #[test]
    fn a_condition_that_does_not_hold_has_passed_a_fault() {
        let others = all_steps();
        let refused = Exchange { number: 9, fault: Some(Fault::Cut), ..undelivered(exchange("GET", DOWNLOAD, 416)) };
        let mut checklist = Checklist::new(Some(Fault::Cut));
        others.into_iter().chain([refused]).for_each(|exchange| checklist.count(&exchange));
        assert_eq!(checklist.reasons(None), NONE);
    }

    #[test]
    fn to_fail_aloud_is_no_excuse_where_nothing_failed() {
        let ended = "the client ended with exit code 1";
        assert_eq!(reasons_with(Fault::Slow, 1, all_steps(), vec![]), [ended]);
        assert_eq!(reasons_with(Fault::Cut, 1, vec![], all_steps()), [ended]);
        assert_eq!(reasons_with(Fault::Expired, 1, vec![], vec![]), [ended, NOTHING_CAME]);
    }

    #[test]
    fn a_finding_is_a_reason_with_a_fault_too() {
        let finding = Finding::new(404, "there is no task with the id 7", "1, 2", "7");
        let notes = Notes { findings: vec![finding], ..Notes::default() };
        let flawed = vec![Exchange { notes, ..exchange("GET", DOWNLOAD, 503) }];
        let expected = ["download: there is no task with the id 7 (expected: 1, 2)"];
        assert_eq!(reasons_with(Fault::Unavailable, 1, flawed, vec![]), expected);
    }

    #[test]
    fn a_wrong_certificate_is_to_be_refused_aloud() {
        let accepted = "the client accepted an expired certificate: switch its verification on (3 times)";
        assert_eq!(reasons_with(Fault::Expired, 0, all_steps(), vec![]), [accepted]);
        for (code, expected) in [(0, vec![REFUSED_IN_SILENCE]), (1, vec![])] {
            let mut checklist = Checklist::new(Some(Fault::WrongHost));
            let cause = "does not trust the certificate (TLS alert bad_certificate)";
            let told = checklist.count_connection(&format!("{cause}: give it the CA"), Blame::Client);
            assert_eq!(told, (format!("{cause}: it is wrong on purpose (--fault wrong-host)"), Blame::Nobody));
            let probe = "connected and closed again without a word";
            assert_eq!(checklist.count_connection(probe, Blame::Nobody), (probe.to_owned(), Blame::Nobody));
            let ended = Ended { command: Vec::new(), exit_code: Some(code), trouble: None, not_run: None };
            assert_eq!(checklist.reasons(Some(&ended)), expected);
            // To go on without TLS is no way to refuse it.
            checklist.count_connection("this port speaks HTTPS: use it", Blame::Client);
            assert_eq!(checklist.reasons(Some(&ended))[0], "connection: this port speaks HTTPS: use it");
        }
    }
}
