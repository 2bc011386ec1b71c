//! POST /xyz/api/cleaner/tasks/report: reads the report part by part, notes what a strict server would refuse, and
//! answers with the data folder's verdict whatever came.

use super::data::Data;
use super::multipart::{self, Layout, PartHead, parameter};
use super::tasks::check_id;
use crate::journal::record::Reports;
use crate::message::{Finding, Part, Reply, Request};
use crate::text::{counted, quoted};
use ring::digest::{Context, SHA256};
use std::io::{self, BufRead, Write};
use tempfile::{NamedTempFile, TempPath};

pub fn upload_report(request: &mut Request, data: &Data, reports: Option<&Reports>) -> Result<Reply, String> {
    let content_type = request.header("Content-Type");
    let mut report = Report { reports, ..Report::default() };
    match boundary(content_type.as_deref()) {
        Ok(boundary) => report.read(request, &boundary).map_err(|error| format!("cannot read the report: {error}"))?,
        Err(finding) => report.findings.push(finding),
    }
    let id = request.id().or(report.id.take());
    // What was learnt of the report is told even where no answer can be given.
    let answer = report.answer(id.as_deref(), data);
    let mut reply = match (report.not_saved, answer) {
        (Some(sentence), _) => Reply::error(507, sentence),
        (None, Err(sentence)) => Reply::error(500, sentence),
        (None, Ok(bytes)) => Reply::json(200, bytes),
    };
    reply.notes.parts = report.parts;
    reply.notes.findings = report.findings;
    Ok(reply)
}

/// What came in.
#[derive(Default)]
struct Report<'a> {
    /// Where its files are to be kept.
    reports: Option<&'a Reports>,
    /// The files so far: each with the index of its part.
    files: Vec<(usize, TempPath)>,
    /// Why they cannot be kept.
    not_saved: Option<String>,
    parts: Vec<Part>,
    findings: Vec<Finding>,
    /// The value of a text field `id`.
    id: Option<String>,
}

impl Report<'_> {
    /// The answer of the data folder, after a look at the id if there is one.
    fn answer(&mut self, id: Option<&str>, data: &Data) -> Result<Vec<u8>, String> {
        if id.is_some() {
            self.findings.extend(check_id(id, &data.task_ids()?));
        }
        data.report(id)
    }

    fn read(&mut self, request: &mut Request, boundary: &str) -> io::Result<()> {
        let mut layout = Layout::of(&mut request.body, boundary, MAX_PARTS)?;
        let mut parts = multipart::parts(&mut request.body, &layout);
        let mut read_all = || -> io::Result<()> {
            while let Some(mut entry) = parts.read_entry()? {
                if self.parts.len() == MAX_PARTS {
                    let sentence = format!("the report has more than {MAX_PARTS} parts");
                    self.note(400, sentence, "a report of a few parts", "more");
                    break;
                }
                let head = layout.heads.pop_front().unwrap_or_default();
                let part = self.read_part(&head, &mut entry.data)?;
                self.parts.push(part);
            }
            Ok(())
        };
        match read_all() {
            Ok(()) => {
                self.keep_files();
                self.check_files();
            }
            Err(error) => self.note_broken(&error, boundary, &layout),
        }
        Ok(())
    }

    fn read_part(&mut self, head: &PartHead, data: &mut impl BufRead) -> io::Result<Part> {
        let file_name = head.file_name();
        let mut file = self.begin_file(file_name.is_some());
        let mut digest = Context::new(&SHA256);
        let (mut size_bytes, mut beginning) = (0, Vec::new());
        loop {
            let piece = data.fill_buf()?;
            if piece.is_empty() {
                break;
            }
            digest.update(piece);
            if let Some(Err(error)) = file.as_mut().map(|file| file.write_all(piece)) {
                self.note_not_saved(&error);
                file = None;
            }
            beginning.extend(piece.iter().take(MAX_VALUE_CHARACTERS * 4 - beginning.len()));
            let length = piece.len();
            size_bytes += length as u64;
            data.consume(length);
        }
        // A form in which no file was chosen has neither name nor content.
        let is_chosen = size_bytes > 0 || file_name.as_ref().is_some_and(|name| !name.is_empty());
        self.files.extend(file.filter(|_| is_chosen).map(|file| (self.parts.len(), file.into_temp_path())));
        let text = || String::from_utf8_lossy(&beginning).chars().take(MAX_VALUE_CHARACTERS).collect();
        let value: Option<String> = file_name.is_none().then(text);
        let field = self.field(head);
        if field == "id" && self.id.is_none() {
            self.id.clone_from(&value);
        }
        Ok(Part {
            field: limited(field),
            file_name: file_name.map(limited),
            content_type: head.content_type().map(limited),
            size_bytes,
            sha256: digest.finish().as_ref().iter().map(|byte| format!("{byte:02x}")).collect(),
            value,
            saved: None,
        })
    }

    /// The name of the field; empty where there is none.
    fn field(&mut self, head: &PartHead) -> String {
        head.field().unwrap_or_else(|| {
            let sentence = format!("part {} of the report has no field name", self.parts.len() + 1);
            self.note(400, sentence, "Content-Disposition: form-data; name=\"...\"", &quoted(head.raw()));
            String::new()
        })
    }

    fn begin_file(&mut self, is_file: bool) -> Option<NamedTempFile> {
        let reports = self.reports.filter(|_| is_file && self.not_saved.is_none())?;
        reports.begin().map_err(|error| self.note_not_saved(&error)).ok()
    }

    /// Called when the report has come whole; the files of another go away by themselves.
    fn keep_files(&mut self) {
        for (index, file) in std::mem::take(&mut self.files) {
            let Some(reports) = self.reports.filter(|_| self.not_saved.is_none()) else { return };
            match reports.keep(file, self.parts[index].file_name.as_deref().unwrap_or_default()) {
                Ok(path) => self.parts[index].saved = Some(path),
                Err(error) => self.note_not_saved(&error),
            }
        }
    }

    fn note_not_saved(&mut self, error: &io::Error) {
        self.not_saved = Some(format!("the report came, but cannot be kept in the folder of --record: {error}"));
    }

    fn note_broken(&mut self, error: &io::Error, boundary: &str, layout: &Layout) {
        let number = layout.begun_parts;
        let sentence = if layout.has_headless_part {
            format!("the header lines of part {number} of the report do not end with an empty line (CR LF, CR LF)")
        } else if number == 0 && layout.has_bare_lf {
            "the lines of the report end with LF alone, where multipart/form-data wants CR LF".to_owned()
        } else if number == 0 {
            let boundary = quoted(boundary.as_bytes());
            format!("the boundary {boundary} of the Content-Type does not occur in the report")
        } else if !layout.has_last_delimiter {
            format!("the report breaks off in part {number}: its last boundary is missing")
        } else {
            format!("the report is malformed in part {number}: {error}")
        };
        let expected = format!("parts between lines \"--{boundary}\", and \"--{boundary}--\" at the end");
        self.note(400, sentence, &expected, &counted(number as u64, "part"));
    }

    fn check_files(&mut self) {
        let mut files =
            self.parts.iter().filter(|part| part.file_name.as_ref().is_some_and(|name| !name.is_empty())).peekable();
        let expected = "a part with a file name and content";
        if files.peek().is_none() {
            let received = format!("{}, none with a file name", counted(self.parts.len() as u64, "part"));
            self.note(422, "the report has no file part", expected, &received);
        } else if let Some(name) = files.find(|part| part.size_bytes == 0).and_then(|part| part.file_name.clone()) {
            let name = quoted(name.as_bytes());
            self.note(422, format!("the file {name} in the report is empty"), expected, "0 bytes");
        }
    }

    fn note(&mut self, status: u16, sentence: impl Into<String>, expected: &str, received: &str) {
        self.findings.push(Finding::new(status, sentence, expected, received));
    }
}

/// The boundary from the Content-Type, or what is wrong with that.
fn boundary(content_type: Option<&str>) -> Result<String, Finding> {
    let received = content_type.map_or_else(|| "no Content-Type".to_owned(), |value| format!("Content-Type: {value}"));
    let finding = |status, sentence| {
        Err(Finding::new(status, sentence, "Content-Type: multipart/form-data; boundary=...", &received))
    };
    let value = content_type.unwrap_or_default();
    let media_type = value.split(';').next().unwrap_or_default().trim();
    if !media_type.eq_ignore_ascii_case("multipart/form-data") {
        return finding(415, "the report is not sent as multipart/form-data");
    }
    match parameter(value.as_bytes(), "boundary") {
        Some(boundary) if !boundary.is_empty() => Ok(String::from_utf8_lossy(&boundary).into_owned()),
        _ => finding(400, "the Content-Type of the report has no boundary; leave it to the HTTP library to set it"),
    }
}

fn limited(name: String) -> String {
    if name.len() <= MAX_NAME_CHARACTERS { name } else { name.chars().take(MAX_NAME_CHARACTERS).collect() }
}

/// More parts, or longer names, would only be there to fill the memory.
const MAX_NAME_CHARACTERS: usize = 1000;
const MAX_PARTS: usize = 1000;
const MAX_VALUE_CHARACTERS: usize = 200;
