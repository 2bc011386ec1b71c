//! The header lines of the parts of an upload. `multipart` 0.18 misreads many that clients send: it wants `name` before
//! `filename`, cuts a quoted name at a semicolon, does not know `filename*` and refuses bytes that are no UTF-8. So they
//! are read here, on the way to it, and it gets plain ones in their place; cutting the upload into parts stays with it.

use crate::http1::to_text;
use memchr::memmem;
use percent_encoding::percent_decode;
use std::cell::RefCell;
use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read};
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
            // Lines end with CR LF; an LF alone belongs to a value.
            let end = memmem::find(rest, b"\r\n").unwrap_or(rest.len());
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
    while let Some(byte) = quoted.get(at).filter(|byte| **byte != b'"') {
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

/// Hands a multipart body on, with a stand-in for the header lines of each part, which it keeps.
pub struct PartHeads<R> {
    body: R,
    /// `--` and the boundary.
    delimiter: memmem::Finder<'static>,
    state: State,
    /// Read from the body.
    buffer: Vec<u8>,
    /// So much of the buffer has been handed on, and so much can be.
    handed_on: usize,
    ready: usize,
    stand_in: &'static [u8],
    body_ended: bool,
    heads: Heads,
}

/// What has gone by, shared with whom `multipart` hands the contents to.
#[derive(Clone, Default)]
pub struct Heads {
    shared: Rc<RefCell<(VecDeque<PartHead>, usize)>>,
}

impl Heads {
    /// The head of the next part.
    pub fn next(&self) -> PartHead {
        self.shared.borrow_mut().0.pop_front().unwrap_or_default()
    }

    /// How many parts have begun, whole or not.
    pub fn begun(&self) -> usize {
        self.shared.borrow().1
    }
}

#[derive(Clone, Copy)]
enum State {
    InContent,
    BehindDelimiter,
    InHead,
}

impl<R: Read> PartHeads<R> {
    pub fn new(body: R, boundary: &str) -> PartHeads<R> {
        PartHeads {
            body,
            delimiter: memmem::Finder::new(&format!("--{boundary}")).into_owned(),
            state: State::InContent,
            buffer: Vec::new(),
            handed_on: 0,
            ready: 0,
            stand_in: b"",
            body_ended: false,
            heads: Heads::default(),
        }
    }

    pub fn heads(&self) -> Heads {
        self.heads.clone()
    }

    /// Makes more of the buffer ready. False: more of the body is needed first.
    fn advance(&mut self) -> io::Result<bool> {
        let rest = &self.buffer[self.ready..];
        match self.state {
            State::InContent => {
                let delimiter_bytes = self.delimiter.needle().len();
                if let Some(at) = self.delimiter.find(rest) {
                    self.ready += at + delimiter_bytes;
                    self.state = State::BehindDelimiter;
                } else if self.body_ended {
                    self.ready = self.buffer.len();
                } else {
                    // What is left could be the beginning of a delimiter.
                    self.ready += rest.len().saturating_sub(delimiter_bytes - 1);
                }
                Ok(self.ready > self.handed_on || self.body_ended)
            }
            State::BehindDelimiter if rest.len() < 2 && !self.body_ended => Ok(false),
            State::BehindDelimiter if rest.starts_with(b"\r\n") => {
                self.ready += 2;
                self.state = State::InHead;
                self.heads.shared.borrow_mut().1 += 1;
                Ok(true)
            }
            // The last delimiter, which ends with `--`, or one that `multipart` will complain about.
            State::BehindDelimiter => {
                self.state = State::InContent;
                Ok(true)
            }
            State::InHead => {
                let end =
                    if rest.starts_with(b"\r\n") { Some(2) } else { memmem::find(rest, b"\r\n\r\n").map(|at| at + 4) };
                match end {
                    Some(end) => {
                        self.heads.shared.borrow_mut().0.push_back(PartHead { raw: rest[..end].to_vec() });
                        self.handed_on += end;
                        self.ready = self.handed_on;
                        self.stand_in = STAND_IN;
                        self.state = State::InContent;
                        Ok(true)
                    }
                    None if self.body_ended => Err(ErrorKind::UnexpectedEof.into()),
                    None if rest.len() > MAX_PART_HEAD_BYTES => {
                        let sentence = "the header lines of a part do not end with an empty line (CR LF, CR LF)";
                        Err(io::Error::new(ErrorKind::InvalidData, sentence))
                    }
                    None => Ok(false),
                }
            }
        }
    }

    fn read_more(&mut self) -> io::Result<()> {
        self.buffer.drain(..self.handed_on);
        self.ready -= self.handed_on;
        self.handed_on = 0;
        let length = self.buffer.len();
        self.buffer.resize(length + READ_BYTES, 0);
        let count = self.body.read(&mut self.buffer[length..])?;
        self.buffer.truncate(length + count);
        self.body_ended = count == 0;
        Ok(())
    }
}

impl<R: Read> Read for PartHeads<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        loop {
            if self.handed_on < self.ready {
                let count = (&self.buffer[self.handed_on..self.ready]).read(out)?;
                self.handed_on += count;
                return Ok(count);
            }
            if !self.stand_in.is_empty() {
                return self.stand_in.read(out);
            }
            if self.body_ended && self.ready == self.buffer.len() && matches!(self.state, State::InContent) {
                return Ok(0);
            }
            if !self.advance()? {
                self.read_more()?;
            }
        }
    }
}

/// What `multipart` gets to see.
const STAND_IN: &[u8] = b"Content-Disposition: form-data; name=\"part\"\r\n\r\n";
const MAX_PART_HEAD_BYTES: usize = 16 * 1024;
const READ_BYTES: usize = 32 * 1024;
