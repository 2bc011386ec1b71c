//! The header lines of the parts of an upload. `multipart` 0.18 misreads many that clients send: it wants `name` before
//! `filename`, cuts a quoted name at a semicolon, does not know `filename*` and refuses bytes that are no UTF-8. So they
//! are read here, on the way to it, and it gets plain ones in their place; cutting the upload into parts stays with it.

use crate::words::to_text;
use memchr::memmem;
use percent_encoding::percent_decode;
use std::cell::RefCell;
use std::collections::VecDeque;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io::{self, Read};
use std::rc::Rc;

/// The header lines of one part, as sent.
#[derive(Default)]
pub struct PartHead {
    raw: Vec<u8>,
}

impl PartHead {
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

/// Hands a multipart body on, with a boundary that no client can know, and so no content can hold, and with a stand-in
/// for the header lines of each part, which it keeps. Where the body is malformed, it ends.
pub struct PartHeads<R> {
    body: R,
    /// `--` and the boundary that the client has chosen.
    delimiter: memmem::Finder<'static>,
    new_boundary: String,
    buffer: Vec<u8>,
    /// So much of the buffer can be handed on, and so much has been.
    ready: usize,
    handed_on: usize,
    /// To be handed on then.
    inserted: io::Cursor<Vec<u8>>,
    place: Place,
    body_ended: bool,
    heads: Heads,
}

#[derive(Clone, Copy, PartialEq)]
enum Place {
    Start,
    /// Behind the head of a part, of whose content nothing has been handed on yet.
    ContentStart,
    Content,
    Head,
    /// Nothing more is handed on.
    End,
}

/// What has gone by, for whom `multipart` gives the contents to.
#[derive(Clone, Default)]
pub struct Heads {
    seen: Rc<RefCell<Seen>>,
}

#[derive(Default)]
struct Seen {
    heads: VecDeque<PartHead>,
    begun_parts: usize,
    has_headless_part: bool,
    has_last_delimiter: bool,
    has_bare_lf: bool,
}

impl Heads {
    /// The head of the next part.
    pub fn next(&self) -> PartHead {
        self.seen.borrow_mut().heads.pop_front().unwrap_or_default()
    }

    /// How many parts have begun, whole or not.
    pub fn begun_parts(&self) -> usize {
        self.seen.borrow().begun_parts
    }

    /// Whether the body came to its end.
    pub fn has_last_delimiter(&self) -> bool {
        self.seen.borrow().has_last_delimiter
    }

    /// Whether a line with a delimiter ended with LF alone.
    pub fn has_bare_lf(&self) -> bool {
        self.seen.borrow().has_bare_lf
    }

    /// Whether the header lines of the last of them do not end.
    pub fn has_headless_part(&self) -> bool {
        self.seen.borrow().has_headless_part
    }
}

/// What the bytes behind a delimiter make of it (RFC 2046, 5.1.1).
enum Kind {
    /// The header lines of a part begin so many bytes later.
    Part(usize),
    Last,
    /// It is none, but part of a content.
    Content,
    Unknown,
}

impl<R: Read> PartHeads<R> {
    pub fn new(body: R, boundary: &str) -> PartHeads<R> {
        let random = || RandomState::new().build_hasher().finish();
        PartHeads {
            body,
            delimiter: memmem::Finder::new(&format!("--{boundary}")).into_owned(),
            new_boundary: format!("{:016x}{:016x}", random(), random()),
            buffer: Vec::new(),
            ready: 0,
            handed_on: 0,
            inserted: io::Cursor::default(),
            place: Place::Start,
            body_ended: false,
            heads: Heads::default(),
        }
    }

    /// The boundary that `multipart` is to look for.
    pub fn new_boundary(&self) -> String {
        self.new_boundary.clone()
    }

    pub fn heads(&self) -> Heads {
        self.heads.clone()
    }

    /// Makes more ready to be handed on. False: more of the body must be read first.
    fn advance(&mut self) -> bool {
        match self.place {
            Place::Start | Place::ContentStart | Place::Content => self.advance_content(),
            Place::Head => self.advance_head(),
            Place::End => true,
        }
    }

    fn advance_content(&mut self) -> bool {
        let delimiter_bytes = self.delimiter.needle().len();
        let Some(found) = self.delimiter.find(&self.buffer[self.ready..]) else {
            // The end could be the beginning of a delimiter, or of the CR LF before it, which `multipart` 0.18 takes for
            // content where it gets the CR alone.
            let mut end = (self.buffer.len() + 1).saturating_sub(delimiter_bytes);
            if end > 0 && self.buffer[end - 1] == b'\r' {
                end -= 1;
            }
            self.ready = self.ready.max(end);
            return self.ready > self.handed_on;
        };
        self.ready += found;
        if self.ready > self.handed_on {
            return true;
        }
        let before = &self.buffer[..self.ready];
        let begins_line = before.ends_with(b"\r\n") || (before.is_empty() && self.place == Place::Start);
        let behind = self.ready + delimiter_bytes;
        // The empty line behind a head may be the CR LF of the delimiter too; `multipart` wants one for each.
        let gap = if self.place == Place::ContentStart { "\r\n" } else { "" };
        match kind(&self.buffer[behind..]) {
            Kind::Part(head_offset) if begins_line => {
                self.skip_to(behind + head_offset, gap.to_owned(), Place::Head);
                self.heads.seen.borrow_mut().begun_parts += 1;
            }
            Kind::Last if begins_line => {
                self.skip_to(behind, format!("{gap}--{}--\r\n", self.new_boundary), Place::End);
                self.heads.seen.borrow_mut().has_last_delimiter = true;
            }
            Kind::Unknown if begins_line => return false,
            _ => {
                self.heads.seen.borrow_mut().has_bare_lf |= self.buffer.get(behind) == Some(&b'\n');
                self.ready = behind;
            }
        }
        true
    }

    fn advance_head(&mut self) -> bool {
        let rest = &self.buffer[self.ready..];
        let end = if rest.starts_with(b"\r\n") { Some(2) } else { memmem::find(rest, b"\r\n\r\n").map(|at| at + 4) };
        let head = &rest[..end.unwrap_or(rest.len())];
        if self.delimiter.find(head).is_some_and(|at| head[..at].ends_with(b"\r\n")) || head.len() > MAX_PART_HEAD_BYTES
        {
            self.heads.seen.borrow_mut().has_headless_part = true;
            self.place = Place::End;
            return true;
        }
        let Some(end) = end else { return false };
        self.heads.seen.borrow_mut().heads.push_back(PartHead { raw: head.to_vec() });
        self.skip_to(self.ready + end, format!("--{}\r\n{STAND_IN}", self.new_boundary), Place::ContentStart);
        true
    }

    /// Goes on further behind, with something else in between.
    fn skip_to(&mut self, position: usize, inserted: String, place: Place) {
        (self.ready, self.handed_on) = (position, position);
        self.inserted = io::Cursor::new(inserted.into_bytes());
        self.place = place;
    }

    fn read_more(&mut self) -> io::Result<()> {
        // Two bytes stay, to tell whether a delimiter begins a line.
        let done = self.handed_on.saturating_sub(2);
        self.buffer.drain(..done);
        self.ready -= done;
        self.handed_on -= done;
        if done > 0 && self.place == Place::Start {
            self.place = Place::Content;
        }
        let length = self.buffer.len();
        self.buffer.resize(length + READ_BYTES, 0);
        let count = self.body.read(&mut self.buffer[length..])?;
        self.buffer.truncate(length + count);
        self.body_ended = count == 0;
        Ok(())
    }

    /// The body has ended without a last delimiter. The beginning of one is no content.
    fn end(&mut self) {
        if self.place != Place::Head {
            let delimiter = self.delimiter.needle();
            let begins_delimiter = |at: &usize| {
                let rest = &self.buffer[*at..];
                self.buffer[..*at].ends_with(b"\r\n") && (rest.starts_with(delimiter) || delimiter.starts_with(rest))
            };
            let end = self.buffer.len();
            self.ready = (self.ready..end).find(begins_delimiter).unwrap_or(end);
        }
        self.place = Place::End;
    }
}

impl<R: Read> Read for PartHeads<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        loop {
            let inserted = self.inserted.read(out)?;
            if inserted > 0 {
                return Ok(inserted);
            }
            if self.handed_on < self.ready {
                let mut count = (&self.buffer[self.handed_on..self.ready]).read(out)?;
                if count > 1 && out[count - 1] == b'\r' {
                    count -= 1;
                }
                self.handed_on += count;
                if self.place == Place::ContentStart {
                    self.place = Place::Content;
                }
                return Ok(count);
            }
            if self.place == Place::End {
                return Ok(0);
            }
            if !self.advance() {
                match self.body_ended {
                    true => self.end(),
                    false => self.read_more()?,
                }
            }
        }
    }
}

fn kind(behind: &[u8]) -> Kind {
    let padding = behind.iter().take_while(|byte| matches!(byte, b' ' | b'\t')).count();
    match &behind[padding..] {
        _ if padding > MAX_PADDING_BYTES => Kind::Content,
        [b'-', b'-', ..] if padding == 0 => Kind::Last,
        [b'\r', b'\n', ..] => Kind::Part(padding + 2),
        [] | [b'-' | b'\r'] => Kind::Unknown,
        _ => Kind::Content,
    }
}

/// What `multipart` gets to see.
const STAND_IN: &str = "Content-Disposition: form-data; name=\"part\"\r\n\r\n";
const MAX_PART_HEAD_BYTES: usize = 16 * 1024;
/// Spaces behind a delimiter; nobody sends any.
const MAX_PADDING_BYTES: usize = 1024;
const READ_BYTES: usize = 32 * 1024;

#[cfg(test)]
mod tests {
    use super::*;
    use multipart::server::Multipart;

    /// Gives so many bytes at a time.
    struct Slow<'a>(&'a [u8], usize);

    impl Read for Slow<'_> {
        fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
            let count = self.1.min(out.len());
            self.0.read(&mut out[..count])
        }
    }

    #[test]
    fn contents_come_out_whole_however_the_body_is_cut() {
        let content: Vec<u8> = b"\r\n--b\r--bb\r\n-".iter().copied().cycle().take(3000).collect();
        let body = [b"--b\r\nContent-Disposition: x; name=a\r\n\r\n", &content[..], b"\r\n--b--\r\n"].concat();
        for piece_bytes in (1..100).chain(1000..1050).chain([body.len() - 9, body.len() - 8, body.len()]) {
            let source = PartHeads::new(Slow(&body, piece_bytes), "b");
            let (heads, new_boundary) = (source.heads(), source.new_boundary());
            let mut multipart = Multipart::with_body(source, new_boundary);
            let mut entry = multipart.read_entry().unwrap().unwrap();
            let mut received = Vec::new();
            entry.data.read_to_end(&mut received).unwrap();
            assert!(received == content, "{} bytes in pieces of {piece_bytes}", received.len());
            assert_eq!(heads.next().field().as_deref(), Some("a"));
            assert!(multipart.read_entry().unwrap().is_none() && heads.has_last_delimiter());
        }
    }

    #[test]
    fn an_empty_content_may_share_its_line_end_with_the_delimiter() {
        for body in ["--b\r\nA: b\r\n\r\n--b\r\n\r\nx\r\n--b--", "--b\r\nA: b\r\n\r\n\r\n--b\r\n\r\nx\r\n--b--"] {
            let source = PartHeads::new(body.as_bytes(), "b");
            let new_boundary = source.new_boundary();
            let mut multipart = Multipart::with_body(source, new_boundary);
            for expected in ["", "x"] {
                let mut received = String::new();
                multipart.read_entry().unwrap().unwrap().data.read_to_string(&mut received).unwrap();
                assert_eq!(received, expected, "{body}");
            }
            assert!(multipart.read_entry().unwrap().is_none());
        }
    }

    #[test]
    fn every_length_of_a_content_comes_out_whole() {
        let content = vec![b'x'; 70_000];
        for length in (8_000..8_400).chain(16_300..16_500).chain(32_600..32_900).chain(65_300..65_700) {
            let body = [b"--b\r\n\r\n", &content[..length], b"\r\n--b\r\n\r\nx\r\n--b--"].concat();
            let source = PartHeads::new(body.as_slice(), "b");
            let new_boundary = source.new_boundary();
            let mut multipart = Multipart::with_body(source, new_boundary);
            let mut received = Vec::new();
            multipart.read_entry().unwrap().unwrap().data.read_to_end(&mut received).unwrap();
            assert_eq!(received.len(), length);
        }
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
