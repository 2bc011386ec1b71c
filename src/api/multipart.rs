//! Finds the parts of a report and reads their header lines. `multipart` 0.18 misreads many that clients send: it wants
//! `name` before `filename`, cuts a quoted name at a semicolon, does not know `filename*`, refuses bytes that are no
//! UTF-8, and takes a boundary within a line for one. So a body is looked through here first, and `multipart` gets it
//! made plain; cutting it into parts stays with it. The only file that uses it.

use crate::text::to_text;
use memchr::memmem;
use multipart::server::Multipart;
use percent_encoding::percent_decode;
use ring::rand::{SystemRandom, generate};
use std::collections::VecDeque;
use std::io::{self, Read, Seek, SeekFrom};
use std::ops::Range;

/// Where the parts of a body lie (RFC 2046, 5.1.1), as far as it is well-formed.
#[derive(Default)]
pub struct Layout {
    pub heads: VecDeque<PartHead>,
    contents: Vec<Range<u64>>,
    /// How many parts have begun, whole or not.
    pub begun_parts: usize,
    /// The header lines of the last of them do not end.
    pub has_headless_part: bool,
    /// The body came to its end.
    pub has_last_delimiter: bool,
    /// A line with a delimiter ends with LF alone.
    pub has_bare_lf: bool,
}

impl Layout {
    /// Looks a body through, for at most so many parts.
    pub fn of(body: &mut (impl Read + Seek), boundary: &str, max_parts: usize) -> io::Result<Layout> {
        let mut layout = Layout::default();
        let mut window = Window { body, start: 0, bytes: Vec::new() };
        let delimiter = memmem::Finder::new(&format!("--{boundary}")).into_owned();
        let mut content_start = None;
        let mut position = 0;
        while layout.begun_parts <= max_parts
            && let Some(found) = window.find(&delimiter, position)?
        {
            let behind = found + delimiter.needle().len() as u64;
            let line_end = found.saturating_sub(2);
            let place = window.at(line_end, (behind - line_end) as usize + MAX_PADDING_BYTES + 2)?;
            let (before, rest) = place.split_at((found - line_end) as usize);
            let rest = &rest[delimiter.needle().len()..];
            let Some(kind) = Kind::of(rest).filter(|_| found == 0 || before == b"\r\n") else {
                layout.has_bare_lf |= rest.starts_with(b"\n");
                position = behind;
                continue;
            };
            // The line end belongs to the delimiter; an empty content may have none of its own.
            layout.contents.extend(content_start.map(|start: u64| start..start.max(line_end)));
            let Kind::Part(head_offset) = kind else {
                layout.has_last_delimiter = true;
                return Ok(layout);
            };
            layout.begun_parts += 1;
            let head_start = behind + head_offset as u64;
            let lines = window.at(head_start, MAX_PART_HEAD_BYTES)?;
            let Some(head) = PartHead::begin(lines, &delimiter) else {
                layout.has_headless_part = lines.len() == MAX_PART_HEAD_BYTES || delimiter.find(lines).is_some();
                return Ok(layout);
            };
            position = head_start + head.raw.len() as u64;
            content_start = Some(position);
            layout.heads.push_back(head);
        }
        if let Some(start) = content_start {
            layout.contents.push(start..window.broken_end(delimiter.needle(), start)?);
        }
        Ok(layout)
    }
}

/// What the bytes behind a delimiter make of it. `None`: it is none, but part of a content.
enum Kind {
    /// The header lines of a part begin so many bytes later.
    Part(usize),
    Last,
}

impl Kind {
    fn of(behind: &[u8]) -> Option<Kind> {
        let padding = behind.iter().take_while(|byte| matches!(byte, b' ' | b'\t')).count();
        match &behind[padding..] {
            [b'-', b'-', ..] if padding == 0 => Some(Kind::Last),
            [b'\r', b'\n', ..] => Some(Kind::Part(padding + 2)),
            _ => None,
        }
    }
}

/// A piece of a body that is being looked through.
struct Window<'a, B> {
    body: &'a mut B,
    /// Where the piece begins in the body.
    start: u64,
    bytes: Vec<u8>,
}

impl<B: Read + Seek> Window<'_, B> {
    /// So many bytes from there on; fewer where the body ends.
    fn at(&mut self, position: u64, length: usize) -> io::Result<&[u8]> {
        let rest = self.from(position, length)?;
        Ok(&rest[..length.min(rest.len())])
    }

    /// Where the needle is next.
    fn find(&mut self, needle: &memmem::Finder, mut position: u64) -> io::Result<Option<u64>> {
        let length = needle.needle().len();
        loop {
            let piece = self.from(position, length)?;
            if let Some(found) = needle.find(piece) {
                return Ok(Some(position + found as u64));
            }
            if piece.len() < length {
                return Ok(None);
            }
            position += (piece.len() - length + 1) as u64;
        }
    }

    /// Where a content ends in which the body breaks off: the beginning of a delimiter is no part of it.
    fn broken_end(&mut self, delimiter: &[u8], start: u64) -> io::Result<u64> {
        let end = self.body.seek(SeekFrom::End(0))?;
        let from = start.max(end.saturating_sub((delimiter.len() + MAX_PADDING_BYTES + 4) as u64));
        let tail = self.from(from, (end - from) as usize)?;
        let begins_delimiter = |at: &usize| {
            let rest = &tail[*at..];
            tail[..*at].ends_with(b"\r\n") && (rest.starts_with(delimiter) || delimiter.starts_with(rest))
        };
        Ok((0..tail.len()).find(begins_delimiter).map_or(end, |at| from + at as u64 - 2))
    }

    /// All there is from there on, and at least so many bytes, unless the body ends.
    fn from(&mut self, position: u64, least: usize) -> io::Result<&[u8]> {
        if position < self.start || position + least as u64 > self.start + self.bytes.len() as u64 {
            self.start = position;
            self.bytes.clear();
            read_at(self.body, position, READ_BYTES, &mut self.bytes)?;
        }
        Ok(&self.bytes[(position - self.start) as usize..])
    }
}

/// Appends so many bytes from there on; fewer where the body ends.
fn read_at(body: &mut (impl Read + Seek), position: u64, length: usize, bytes: &mut Vec<u8>) -> io::Result<usize> {
    body.seek(SeekFrom::Start(position))?;
    let start = bytes.len();
    bytes.resize(start + length, 0);
    let mut end = start;
    while end < bytes.len() {
        match body.read(&mut bytes[end..])? {
            0 => break,
            count => end += count,
        }
    }
    bytes.truncate(end);
    Ok(end - start)
}

/// A body as `multipart` gets it: with a boundary that no client can know, and so no content can hold, and with a
/// stand-in for the header lines of each part.
pub struct PlainBody<'a, B> {
    body: &'a mut B,
    /// Behind the buffer: words, each with a piece of the body.
    pieces: VecDeque<(String, Range<u64>)>,
    buffer: Vec<u8>,
    handed_on: usize,
}

/// The parts of a body that has been looked through.
pub fn parts<'a, B: Read + Seek>(body: &'a mut B, layout: &Layout) -> Multipart<PlainBody<'a, B>> {
    let random: [u8; 16] = generate(&SystemRandom::new()).expect("the system has random numbers").expose();
    let boundary = format!("{:032x}", u128::from_ne_bytes(random));
    let begin = |content: &Range<u64>| (format!("\r\n--{boundary}\r\n{STAND_IN}"), content.clone());
    let mut pieces: VecDeque<_> = layout.contents.iter().map(begin).collect();
    if layout.has_last_delimiter {
        pieces.push_back((format!("\r\n--{boundary}--\r\n"), 0..0));
    }
    Multipart::with_body(PlainBody { body, pieces, buffer: Vec::new(), handed_on: 0 }, boundary)
}

impl<B: Read + Seek> PlainBody<'_, B> {
    fn refill(&mut self) -> io::Result<()> {
        self.buffer.drain(..std::mem::take(&mut self.handed_on));
        while self.buffer.len() < READ_BYTES
            && let Some((words, content)) = self.pieces.front_mut()
        {
            self.buffer.append(&mut std::mem::take(words).into_bytes());
            let wanted = (content.end - content.start).min(READ_BYTES as u64) as usize;
            let count = read_at(self.body, content.start, wanted, &mut self.buffer)?;
            content.start += count as u64;
            if count < wanted || content.is_empty() {
                self.pieces.pop_front();
            }
        }
        Ok(())
    }
}

impl<B: Read + Seek> Read for PlainBody<'_, B> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if self.buffer.len() - self.handed_on < 2 {
            self.refill()?;
        }
        let mut count = (&self.buffer[self.handed_on..]).read(out)?;
        // `multipart` 0.18 takes the CR before a delimiter for content where it gets the CR alone.
        if count > 1 && out[count - 1] == b'\r' {
            count -= 1;
        }
        self.handed_on += count;
        Ok(count)
    }
}

/// The header lines of one part, as sent.
#[derive(Default)]
pub struct PartHead {
    raw: Vec<u8>,
}

impl PartHead {
    /// The lines through the empty one. `None`: there is none, or a delimiter comes before it.
    fn begin(bytes: &[u8], delimiter: &memmem::Finder) -> Option<PartHead> {
        let end = if bytes.starts_with(b"\r\n") { 2 } else { memmem::find(bytes, b"\r\n\r\n")? + 4 };
        let raw = &bytes[..end];
        let is_broken = delimiter.find_iter(raw).any(|at| raw[..at].ends_with(b"\r\n"));
        (!is_broken).then(|| PartHead { raw: raw.to_vec() })
    }

    pub fn raw(&self) -> &[u8] {
        &self.raw
    }

    pub fn field(&self) -> Option<String> {
        self.disposition("name").map(|value| to_text(&value))
    }

    /// `filename*` says it better where both are there (RFC 6266, 4.3).
    pub fn file_name(&self) -> Option<String> {
        let extended = self.disposition("filename*").and_then(|value| {
            let encoded = value.splitn(3, |byte| *byte == b'\'').nth(2)?;
            Some(percent_decode(encoded).collect())
        });
        extended.or_else(|| self.disposition("filename")).map(|value| to_text(&value))
    }

    pub fn content_type(&self) -> Option<String> {
        self.header("content-type").map(to_text)
    }

    fn disposition(&self, name: &str) -> Option<Vec<u8>> {
        self.header("content-disposition").and_then(|value| parameter(value, name))
    }

    fn header(&self, name: &str) -> Option<&[u8]> {
        let mut rest = self.raw.as_slice();
        while !rest.is_empty() {
            // Lines end with CR LF; an LF alone belongs to a value, and so does what a space at its beginning folds in.
            let mut ends = memmem::find_iter(rest, b"\r\n");
            let end = ends.find(|end| !matches!(rest.get(end + 2), Some(b' ' | b'\t'))).unwrap_or(rest.len());
            let line = &rest[..end];
            if let Some(colon) = memchr::memchr(b':', line)
                && line[..colon].trim_ascii().eq_ignore_ascii_case(name.as_bytes())
            {
                return Some(line[colon + 1..].trim_ascii());
            }
            rest = rest.get(end + 2..).unwrap_or_default();
        }
        None
    }
}

/// The value of a parameter behind the first semicolon of a header's value, without its quotes (RFC 9110, 5.6.6).
pub fn parameter(value: &[u8], name: &str) -> Option<Vec<u8>> {
    let mut rest = behind_semicolon(value)?;
    loop {
        let end = rest.iter().position(|byte| matches!(byte, b'=' | b';')).unwrap_or(rest.len());
        let own_name = rest[..end].trim_ascii();
        let (own_value, behind) = match rest[end..].strip_prefix(b"=") {
            Some(value) => parameter_value(value.trim_ascii_start()),
            None => (Vec::new(), &rest[end..]),
        };
        if own_name.eq_ignore_ascii_case(name.as_bytes()) {
            return Some(own_value);
        }
        rest = behind_semicolon(behind)?;
    }
}

/// The value at the beginning of `rest`, and what is behind it.
fn parameter_value(rest: &[u8]) -> (Vec<u8>, &[u8]) {
    let Some(quoted) = rest.strip_prefix(b"\"") else {
        let end = memchr::memchr(b';', rest).unwrap_or(rest.len());
        return (rest[..end].trim_ascii_end().to_vec(), &rest[end..]);
    };
    let (mut value, mut at) = (Vec::new(), 0);
    // A quote ends the value only before a semicolon or the end: careless clients do not escape those within.
    let is_end = |at: usize| quoted[at] == b'"' && matches!(quoted[at + 1..].trim_ascii_start(), [] | [b';', ..]);
    while let Some(byte) = quoted.get(at).filter(|_| !is_end(at)) {
        // Only \" and \\ are escapes: in "C:\tool.zip" the backslash means itself.
        let escaped = quoted.get(at + 1).filter(|next| *byte == b'\\' && matches!(next, b'"' | b'\\'));
        value.push(*escaped.unwrap_or(byte));
        at += if escaped.is_some() { 2 } else { 1 };
    }
    (value, &quoted[at..])
}

fn behind_semicolon(bytes: &[u8]) -> Option<&[u8]> {
    memchr::memchr(b';', bytes).map(|at| &bytes[at + 1..])
}

/// What `multipart` gets to see.
const STAND_IN: &str = "Content-Disposition: form-data; name=\"part\"\r\n\r\n";
const MAX_PART_HEAD_BYTES: usize = 16 * 1024;
/// Spaces behind a delimiter; nobody sends any.
const MAX_PADDING_BYTES: usize = 1024;
const READ_BYTES: usize = 64 * 1024;

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Cursor;

    /// The contents of all parts, as `multipart` cuts them.
    fn contents(body: &[u8], boundary: &str) -> Vec<Vec<u8>> {
        let mut body = Cursor::new(body);
        let layout = Layout::of(&mut body, boundary, 10).unwrap();
        assert!(layout.has_last_delimiter);
        let mut multipart = parts(&mut body, &layout);
        let mut contents = Vec::new();
        while let Some(mut entry) = multipart.read_entry().unwrap() {
            let mut content = Vec::new();
            entry.data.read_to_end(&mut content).unwrap();
            contents.push(content);
        }
        contents
    }

    #[test]
    fn contents_come_out_whole_wherever_the_reading_is_cut() {
        let content: Vec<u8> = b"\r\n--b\r--bb\r\n-".iter().copied().cycle().take(3000).collect();
        for padding_bytes in
            (0..40).chain((READ_BYTES - 3100..READ_BYTES - 60).step_by(97)).chain(READ_BYTES - 60..READ_BYTES + 40)
        {
            let padding = vec![b'x'; padding_bytes];
            let body = [b"--b\r\n\r\n", &padding[..], b"\r\n--b\r\n\r\n", &content, b"\r\n--b--\r\n"].concat();
            assert!(contents(&body, "b") == [padding, content.clone()], "{padding_bytes}");
        }
    }

    #[test]
    fn an_empty_content_may_share_its_line_end_with_the_delimiter() {
        for body in ["--b\r\nA: b\r\n\r\n--b\r\n\r\nx\r\n--b--", "--b\r\nA: b\r\n\r\n\r\n--b\r\n\r\nx\r\n--b--"] {
            assert_eq!(contents(body.as_bytes(), "b"), [&b""[..], b"x"], "{body}");
        }
    }

    #[test]
    fn every_length_of_a_content_comes_out_whole() {
        let content = vec![b'\r'; 70_000];
        for length in (8_180..8_200).chain(16_370..16_390).chain(65_480..65_540) {
            let body = [b"--b\r\n\r\n", &content[..length], b"\r\n--b\r\n\r\nx\r\n--b--"].concat();
            assert!(contents(&body, "b") == [&content[..length], b"x"], "{length}");
        }
    }

    #[test]
    fn many_boundaries_within_lines_cost_no_more_than_their_bytes() {
        /// Counts what is read.
        struct Counted(Cursor<Vec<u8>>, usize);
        impl Read for Counted {
            fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
                self.0.read(out).inspect(|count| self.1 += count)
            }
        }
        impl Seek for Counted {
            fn seek(&mut self, position: SeekFrom) -> io::Result<u64> {
                self.0.seek(position)
            }
        }
        let mut body = Counted(Cursor::new(b"--b".repeat(100_000)), 0);
        assert_eq!(Layout::of(&mut body, "b", 10).unwrap().begun_parts, 0);
        assert!(body.1 < 400_000, "{} bytes were read", body.1);
    }

    #[test]
    fn a_parameter_is_found_with_quotes_or_without() {
        for (value, name, expected) in [
            ("form-data; name=a", "name", Some("a")),
            ("form-data; NAME = \"a;b\" ; x=y", "name", Some("a;b")),
            ("form-data; filename=\"name=x\"; name=y", "name", Some("y")),
            ("form-data; filename=\"C:\\dir\\a.zip\"", "filename", Some("C:\\dir\\a.zip")),
            ("form-data; filename=\"a\\\"b\\\\c\"", "filename", Some("a\"b\\c")),
            ("form-data; filename=\"a \"b\" c\"; name=z", "name", Some("z")),
            ("form-data; name", "name", Some("")),
            ("form-data", "name", None),
            ("name=a", "name", None),
        ] {
            let found = parameter(value.as_bytes(), name);
            assert_eq!(found.as_deref(), expected.map(str::as_bytes), "{value}");
        }
    }
}
