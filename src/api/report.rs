//! POST /xyz/api/cleaner/tasks/report: reads the report part by part, notes what a strict server would refuse, and
//! answers with the data folder's verdict whatever came.

use super::data::Data;
use super::multipart::{self, Layout};
use super::part_head::{Parameters, PartHead};
use super::tasks::check_id;
use crate::journal::record::Reports;
use crate::message::{Finding, Notes, Part, Reply, Request};
use crate::text::{counted, in_bytes, quoted, shown, to_text};
use ring::digest::{Context, SHA256};
use std::fs;
use std::io::{self, BufRead, Write};

pub fn upload_report(request: &mut Request, data: &Data, reports: Option<&Reports>) -> Result<Reply, String> {
    let mut report = Report { reports, ..Report::default() };
    let (boundary, finding) = boundary(request);
    if let Some(boundary) = boundary {
        report.read(request, &boundary).map_err(|error| format!("cannot read the report: {error}"))?;
    }
    // Either is the cause of whatever else was found.
    if let Some(cause) = content_encoding(request).or(finding) {
        report.notes.findings = vec![cause];
    }
    // What was learnt of the report is told even where no answer can be given.
    let answer = report.answer(request, data);
    let mut reply = match (report.notes.error, answer) {
        (Some(sentence), _) => Reply::error(507, sentence),
        (None, Err(sentence)) => super::broken_data(sentence),
        (None, Ok(bytes)) => Reply::json(200, bytes),
    };
    reply.notes = Notes { error: reply.notes.error, advice: reply.notes.advice, ..report.notes };
    Ok(reply)
}

/// What came in.
#[derive(Default)]
struct Report<'a> {
    /// Where its files are to be kept, as long as that works.
    reports: Option<&'a Reports>,
    /// The error is why it does not.
    notes: Notes,
}

impl Report<'_> {
    /// The answer of the data folder, after a look at the id if there is one.
    fn answer(&mut self, request: &Request, data: &Data) -> Result<Vec<u8>, String> {
        let ids = request.all_ids(&self.notes.parts);
        if !ids.is_empty() {
            self.notes.findings.extend(check_id(&ids, &data.task_ids()?));
        }
        data.report(ids.first().map(String::as_str))
    }

    fn read(&mut self, request: &mut Request, boundary: &str) -> io::Result<()> {
        let layout = Layout::of(&mut request.body, boundary, MAX_PARTS)?;
        let [line, last] = ["", "--"].map(|end| quoted(format!("--{boundary}{end}").as_bytes()));
        let expected = format!("parts between lines {line}, and {last} at the end, all with CR LF");
        let received = counted(layout.begun_parts as u64, "part");
        let finding = |sentence| Finding::new(400, sentence, &expected, &received);
        self.notes.findings.extend(layout.flaws().into_iter().map(finding));
        for (head, place) in &layout.parts {
            let mut content = multipart::content(&mut request.body, place)?;
            let part = self.read_part(head, &mut content, layout.is_whole())?;
            self.notes.parts.push(part);
        }
        if layout.is_whole() {
            self.check_files(request);
        }
        Ok(())
    }

    /// `is_whole`: the report has come to its end; of another nothing is kept.
    fn read_part(&mut self, head: &PartHead, content: &mut impl BufRead, is_whole: bool) -> io::Result<Part> {
        let file_name = head.name("filename").map(limited);
        let mut file = self.reports.filter(|_| file_name.is_some()).and_then(|reports| self.saved(reports.begin()));
        let mut digest = Context::new(&SHA256);
        let (mut size_bytes, mut beginning) = (0, Vec::new());
        while let piece @ [_, ..] = content.fill_buf()? {
            digest.update(piece);
            file = file.and_then(|mut file| self.saved(file.write_all(piece).map(|()| file)));
            beginning.extend(piece.iter().take(MAX_VALUE_BYTES - beginning.len()));
            let length = piece.len();
            size_bytes += length as u64;
            content.consume(length);
        }
        let name = file_name.as_deref().unwrap_or_default();
        let is_chosen = (name, size_bytes) != NO_FILE;
        let saved = file
            .zip(self.reports)
            .filter(|_| is_whole && is_chosen)
            .and_then(|(file, reports)| self.saved(reports.keep(file.into_temp_path(), name)));
        let cut = str::from_utf8(&beginning).err().filter(|error| error.error_len().is_none());
        if let Some(cut) = cut.filter(|_| size_bytes > MAX_VALUE_BYTES as u64) {
            // In the middle of a character.
            beginning.truncate(cut.valid_up_to());
        }
        let value = file_name.is_none().then(|| head.decode(&beginning));
        self.notes.findings.extend(head.flaws(self.notes.parts.len() + 1));
        Ok(Part {
            field: limited(head.name("name").unwrap_or_default()),
            file_name,
            content_type: head.content_type().map(limited),
            size_bytes,
            sha256: digest.finish().as_ref().iter().map(|byte| format!("{byte:02x}")).collect(),
            value: value.map(|value| (value, beginning.len())),
            saved,
        })
    }

    /// What saving has come to. `None`: it has failed, and nothing more of this report is kept.
    fn saved<T>(&mut self, outcome: io::Result<T>) -> Option<T> {
        let failed = |error: &io::Error| {
            let sentence = format!("the report came, but cannot be kept in the folder of --record: {error}");
            (self.reports, self.notes.error) = (None, Some(sentence));
            // Not half a report either. What cannot be removed says where it is.
            for part in &mut self.notes.parts {
                part.saved = part.saved.take().filter(|path| fs::remove_file(path).is_err());
            }
        };
        outcome.inspect_err(failed).ok()
    }

    fn check_files(&mut self, request: &Request) {
        let expected = &format!("a part with a file name and content: {}", example(request));
        let named = self.notes.parts.iter().filter_map(|part| Some((part.file_name.as_deref()?, part.size_bytes)));
        let files: Vec<(&str, u64)> = named.filter(|file| *file != NO_FILE).collect();
        if files.is_empty() && self.notes.findings.is_empty() {
            // Whatever else is wrong with the report may be why none was found.
            let received = format!("{}, none with a file name", counted(self.notes.parts.len() as u64, "part"));
            self.notes.findings.push(Finding::new(422, "the report has no file part", expected, &received));
        } else if let Some((name, _)) = files.iter().find(|(_, size_bytes)| *size_bytes == 0) {
            let sentence = format!("the file {} in the report is empty", quoted(name.as_bytes()));
            self.notes.findings.push(Finding::new(422, sentence, expected, "0 bytes"));
        }
    }
}

/// Nobody decodes a body, and a packed one may look like parts.
fn content_encoding(request: &Request) -> Option<Finding> {
    let codings = request.list("Content-Encoding").map(|coding| to_text(coding).to_ascii_lowercase());
    let coding = shown(&codings.into_iter().find(|coding| !matches!(coding.as_str(), "" | "identity"))?);
    let sentence = format!("the report has Content-Encoding: {coding}, which nobody decodes");
    Some(Finding::new(415, sentence, "the body as it is, without Content-Encoding", &coding))
}

/// A line for the client that its User-Agent names.
fn example(request: &Request) -> &'static str {
    let user_agent = request.header("User-Agent").unwrap_or_default().to_ascii_lowercase();
    EXAMPLES
        .iter()
        .find(|(words, _)| words.split(' ').any(|word| user_agent.contains(word)))
        .map_or(CURL_EXAMPLE, |(_, example)| example)
}

/// The boundary from the Content-Type, the last if there are several, as Flask has it; and what is wrong with it.
fn boundary(request: &Request) -> (Option<String>, Option<Finding>) {
    let content_type = request.header("Content-Type");
    let value = content_type.as_deref().unwrap_or_default();
    let parameters = Parameters::of(value.as_bytes());
    let mut boundaries = parameters.values("boundary").rev().map(String::from_utf8_lossy);
    let (boundary, has_more) = (boundaries.next().unwrap_or_default(), boundaries.next().is_some());
    // Only in quotes a comma may be a part of it.
    let has_comma = value.contains(',') && !value.contains('"');
    let own = if has_comma { boundary.split(',').next().unwrap_or_default() } else { &*boundary };
    let is_malformed = parameters.is_malformed || parameters.kind != FORM || own != boundary || has_more;
    let readable = Some(own.to_owned()).filter(|own| !own.is_empty() && request.body_bytes > 0);
    let (status, sentence) = match readable {
        _ if !parameters.kind.starts_with(FORM) => (415, format!("the report is not sent as {FORM}")),
        _ if is_malformed => {
            let comma = if has_comma { ", by a comma where a semicolon belongs" } else { "" };
            let more = if has_more { ": it has two boundaries" } else { comma };
            let shown = quoted(value.as_bytes());
            (400, format!("the Content-Type of the report is malformed{more}: {shown}"))
        }
        _ if own.is_empty() => (400, "the Content-Type of the report has no boundary".to_owned()),
        None => (400, EMPTY.to_owned()),
        readable => return (readable, None),
    };
    let example = example(request);
    let expected = format!("the file as a form field, with the Content-Type left to the HTTP library: {example}");
    let shown = |value: &String| shown(&format!("Content-Type: {value}"));
    let content_type = content_type.as_ref().map_or("no Content-Type".to_owned(), shown);
    let received = format!("{content_type}, {}", in_bytes(request.body_bytes));
    (readable, Some(Finding::new(status, sentence, &expected, &received)))
}

fn limited(name: String) -> String {
    match name.char_indices().nth(MAX_NAME_CHARACTERS) {
        Some((end, _)) => format!("{}...", &name[..end]),
        None => name,
    }
}

const EMPTY: &str = "the body of the report is empty; some encoders give theirs only once";
const FORM: &str = "multipart/form-data";
pub const CURL_EXAMPLE: &str = "curl -F file=@report.zip URL";
/// By words of the User-Agent.
const EXAMPLES: [(&str, &str); 4] = [
    ("python", r#"requests.post(url, files={"file": open("report.zip", "rb")})"#),
    (
        "node axios undici",
        r#"form.set("file", await fs.openAsBlob("report.zip"), "report.zip"), and fetch with body: form"#,
    ),
    (
        "java",
        r#"(Apache HttpClient) MultipartEntityBuilder.create().addBinaryBody("file", new File("report.zip")).build()"#,
    ),
    (".net", r#"new MultipartFormDataContent { { new StreamContent(file), "file", "report.zip" } }"#),
];
/// The name and the size where no file was chosen in a form.
const NO_FILE: (&str, u64) = ("", 0);
/// More parts, or longer names, would only be there to fill the memory.
const MAX_NAME_CHARACTERS: usize = 1000;
const MAX_PARTS: usize = 1000;
const MAX_VALUE_BYTES: usize = 16 * 1024;
