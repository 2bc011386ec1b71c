//! Finds the parts of a report. `multipart` 0.18 misreads many that clients send: it wants `name` before `filename`, cuts
//! a quoted name at a semicolon, refuses bytes that are no UTF-8, and takes a boundary within a line for one. So a body
//! is looked through here first, and `multipart` gets it made plain; cutting it into parts stays with it. The only file
//! that uses it. What Flask takes for a delimiter is one here too, with a flaw where it is written wrongly.

use super::part_head::PartHead;
use crate::text::quoted;
use memchr::memmem::Finder;
use multipart::server::Multipart;
use ring::rand::{SystemRandom, generate};
use std::collections::VecDeque;
use std::io::{self, Cursor, Read, Seek, SeekFrom};
use std::ops::Range;

/// Where the parts of a body lie (RFC 2046, 5.1.1), as far as it can be told, and what was noticed on the way.
#[derive(Default)]
pub struct Layout {
    pub heads: VecDeque<PartHead>,
    contents: Vec<Range<u64>>,
    /// How many parts have begun, whole or not.
    pub begun_parts: usize,
    has_last_delimiter: bool,
    /// Why it was not looked through to its end.
    stopped: Option<String>,
    /// The delimiter is there, if only within a line.
    has_delimiter: bool,
    /// How lines with a delimiter end, and those before them.
    has_cr_lf: bool,
    has_bare_lf: bool,
    /// The first part with a header line that ends with LF alone.
    bare_head: Option<usize>,
    /// A sentence on the first delimiter that is not a line of its own.
    misplaced: Option<String>,
}

/// Where the content of a part begins that does not end.
type Broken = io::Result<Option<u64>>;

impl Layout {
    /// Looks a body through, for at most so many parts.
    pub fn of(body: &mut (impl Read + Seek), delimiter: &[u8], max_parts: usize) -> io::Result<Layout> {
        let mut layout = Layout::default();
        let mut window = Window { body, start: 0, bytes: Vec::new(), is_last: false };
        if let Some(start) = layout.read(&mut window, &Finder::new(delimiter), max_parts)? {
            layout.contents.push(start..window.broken_end(delimiter, start)?);
        }
        if let Some(boundary) = delimiter.strip_prefix(b"--").filter(|_| !layout.has_delimiter && max_parts > 1)
            && Layout::of(body, boundary, 1)?.heads.front().is_some_and(|head| head.name("name").is_some())
        {
            let boundary = quoted(boundary);
            let dashes = format!("the report lacks the two dashes that stand before {boundary} in the body only");
            layout.stopped = Some(dashes);
        }
        Ok(layout)
    }

    /// Goes from delimiter to delimiter, in time that is linear in the bytes, whatever they are.
    fn read(&mut self, window: &mut Window<impl Read + Seek>, delimiter: &Finder, max_parts: usize) -> Broken {
        let (mut content_start, mut position) = (None, 0);
        while let Some((found, before, behind)) = window.find(delimiter, position)? {
            self.has_delimiter = true;
            position = found + delimiter.needle().len() as u64;
            let Some(offset) = head_offset(behind) else { continue };
            let is_line = (found == 0 || before.ends_with(b"\n")) && !behind[..offset].ends_with(b"\r");
            if content_start.is_some() && !is_line {
                self.note_misplaced(before);
                continue;
            }
            let lines = &behind[offset..behind.len().min(offset + MAX_PART_HEAD_BYTES)];
            // Before the first part and behind the last one, only header lines of a part tell it from a text.
            let begins_head = offset > 0
                && lines.trim_ascii_start().get(..8).is_some_and(|name| name.eq_ignore_ascii_case(b"Content-"));
            if !begins_head && (!is_line || self.has_last_delimiter) {
                continue;
            }
            if self.has_last_delimiter {
                self.stopped = Some("a part of the report comes behind its last boundary".to_owned());
                break;
            }
            self.end_content(content_start.take(), found, before, &behind[..offset]);
            self.has_last_delimiter = offset == 0 || self.begun_parts == max_parts;
            if offset == 0 {
                continue;
            } else if self.begun_parts == max_parts {
                self.stopped = Some(format!("the report has more than {max_parts} parts"));
                break;
            } else if !is_line {
                self.note_misplaced(before);
            }
            self.begun_parts += 1;
            let Some(head) = PartHead::begin(lines, delimiter) else {
                let is_headless = lines.len() == MAX_PART_HEAD_BYTES || delimiter.find(lines).is_some();
                self.stopped = is_headless.then(|| no_end(self.begun_parts));
                break;
            };
            self.bare_head = self.bare_head.or(head.has_bare_lf.then_some(self.begun_parts));
            position += (offset + head.raw.len()) as u64;
            content_start = Some(position);
            self.heads.push_back(head);
        }
        Ok(content_start)
    }

    /// The line end belongs to the delimiter; an empty content may have none of its own.
    fn end_content(&mut self, start: Option<u64>, found: u64, before: &[u8], own_end: &[u8]) {
        for line in [before, own_end] {
            self.has_cr_lf |= line.ends_with(b"\r\n");
            self.has_bare_lf |= line.ends_with(b"\n") && !line.ends_with(b"\r\n");
        }
        let end = found.saturating_sub(if before.ends_with(b"\r\n") { 2 } else { 1 });
        self.contents.extend(start.map(|start| start..start.max(end)));
    }

    fn note_misplaced(&mut self, before: &[u8]) {
        let (part, line) = (self.begun_parts, before.rsplit(|byte| *byte == b'\n').next().unwrap_or_default());
        self.misplaced.get_or_insert_with(|| match (part, quoted(line)) {
            (0, before) => format!("the first delimiter of the report is not a line of its own, behind {before}"),
            (_, before) => {
                format!("CR LF is missing before a delimiter in part {part} of the report, or behind it: {before}")
            }
        });
    }

    /// What is written wrongly, as sentences.
    pub fn flaws(&self, boundary: &str) -> Vec<String> {
        let (part, boundary) = (self.begun_parts, quoted(boundary.as_bytes()));
        let which = if self.has_cr_lf { "some" } else { "the" };
        let how = if self.has_delimiter { " as a line of its own" } else { "" };
        let lf = self.has_bare_lf;
        let is_cut = !self.has_last_delimiter && self.stopped.is_none();
        let breaks_off = is_cut && part > 0 && self.misplaced.is_none();
        let bare_head = self.bare_head.filter(|_| !lf);
        let flaws = [
            lf.then(|| format!("{which} lines of the report end with LF alone, where multipart/form-data wants CR LF")),
            bare_head.map(|part| format!("{} and CR LF each, but with LF alone", no_end(part))),
            self.misplaced.clone(),
            self.stopped.clone(),
            (is_cut && part == 0)
                .then(|| format!("the boundary {boundary} of the Content-Type does not occur in the report{how}")),
            breaks_off.then(|| format!("the report breaks off in part {part}: its last boundary is missing")),
        ];
        flaws.into_iter().flatten().collect()
    }
}

fn no_end(part: usize) -> String {
    format!("the header lines of part {part} of the report do not end with an empty line (CR LF, CR LF)")
}

/// So far behind a delimiter the header lines of a part begin; 0: it is the last. `None`: it is part of a content.
fn head_offset(behind: &[u8]) -> Option<usize> {
    let is_space = |byte: &&u8| matches!(byte, b' ' | b'\t');
    let padding = behind.iter().take(MAX_PADDING_BYTES).take_while(is_space).count();
    match &behind[padding..] {
        [b'-', b'-', ..] if padding == 0 => Some(0),
        [b'\r', b'\n', ..] => Some(padding + 2),
        [b'\n', ..] | [b'\r', _, ..] => Some(padding + 1),
        _ => None,
    }
}

/// A piece of a body that is being looked through.
struct Window<'a, B> {
    body: &'a mut B,
    /// Where the piece begins in the body.
    start: u64,
    bytes: Vec<u8>,
    /// The body ends with it.
    is_last: bool,
}

/// Where a delimiter is, and what stands before and behind it.
type Found<'a> = (u64, &'a [u8], &'a [u8]);

impl<B: Read + Seek> Window<'_, B> {
    /// The next delimiter.
    fn find(&mut self, finder: &Finder, mut position: u64) -> io::Result<Option<Found<'_>>> {
        let length = finder.needle().len();
        let found = loop {
            let piece = self.from(position, length)?;
            match finder.find(piece) {
                Some(at) => break position + at as u64,
                None if piece.len() < length => return Ok(None),
                None => position += (piece.len() - length + 1) as u64,
            }
        };
        let start = found.saturating_sub(MAX_BEFORE_BYTES);
        let wanted = length + MAX_PADDING_BYTES + MAX_PART_HEAD_BYTES;
        let around = self.from(start, wanted + (found - start) as usize)?;
        let (before, rest) = around.split_at((found - start) as usize);
        Ok(Some((found, before, &rest[length..])))
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
        let is_short = !self.is_last && position + least as u64 > self.start + self.bytes.len() as u64;
        if is_short || position < self.start {
            // What stands before is looked at next.
            self.start = position.saturating_sub(MAX_BEFORE_BYTES);
            let length = READ_BYTES.max(least) as u64 + MAX_BEFORE_BYTES;
            self.bytes.clear();
            self.body.seek(SeekFrom::Start(self.start))?;
            self.is_last = (self.body.take(length).read_to_end(&mut self.bytes)? as u64) < length;
        }
        Ok(&self.bytes[(position - self.start) as usize..])
    }
}

/// A body as `multipart` gets it: with a boundary that no client can know, and so no content can hold, and with a
/// stand-in for the header lines of each part.
pub struct PlainBody<'a, B> {
    body: &'a mut B,
    /// Words, each with a piece of the body.
    pieces: VecDeque<(Cursor<String>, Range<u64>)>,
    holds_cr: bool,
    /// The next piece is elsewhere in the body.
    wants_seek: bool,
}

/// The parts of a body that has been looked through.
pub fn parts<'a, B: Read + Seek>(body: &'a mut B, layout: &Layout) -> Multipart<PlainBody<'a, B>> {
    let random: [u8; 16] = generate(&SystemRandom::new()).expect("the system has random numbers").expose();
    let boundary = format!("{:032x}", u128::from_ne_bytes(random));
    let piece = |words: String, content: &Range<u64>| (Cursor::new(words), content.clone());
    let begin = |content| piece(format!("\r\n--{boundary}\r\n{STAND_IN}"), content);
    let mut pieces: VecDeque<_> = layout.contents.iter().map(begin).collect();
    if layout.has_last_delimiter {
        pieces.push_back(piece(format!("\r\n--{boundary}--\r\n"), &(0..0)));
    }
    Multipart::with_body(PlainBody { body, pieces, holds_cr: false, wants_seek: true }, boundary)
}

impl<B: Read + Seek> Read for PlainBody<'_, B> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let mut count = usize::from(!out.is_empty() && std::mem::take(&mut self.holds_cr));
        out[..count].fill(b'\r');
        while count < out.len()
            && let Some((words, content)) = self.pieces.front_mut()
        {
            count += words.read(&mut out[count..])?;
            let wanted = (content.end - content.start).min((out.len() - count) as u64);
            if wanted > 0 {
                if std::mem::take(&mut self.wants_seek) {
                    self.body.seek(SeekFrom::Start(content.start))?;
                }
                self.body.read_exact(&mut out[count..][..wanted as usize])?;
                content.start += wanted;
                count += wanted as usize;
            }
            if count < out.len() {
                self.wants_seek = true;
                self.pieces.pop_front();
            }
        }
        // `multipart` 0.18 takes the CR before a delimiter for content where it gets the CR alone.
        if count > 1 && out[count - 1] == b'\r' {
            count -= 1;
            self.holds_cr = true;
        }
        Ok(count)
    }
}

/// What `multipart` gets to see.
const STAND_IN: &str = "Content-Disposition: form-data; name=\"part\"\r\n\r\n";
const MAX_PART_HEAD_BYTES: usize = 16 * 1024;
/// To be shown.
const MAX_BEFORE_BYTES: u64 = 16;
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
        let layout = Layout::of(&mut body, format!("--{boundary}").as_bytes(), 10).unwrap();
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

    /// The layout, and how many bytes were read for it.
    fn counted(body: Vec<u8>) -> (Layout, usize) {
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
        let mut body = Counted(Cursor::new(body), 0);
        let layout = Layout::of(&mut body, b"--b", 10).unwrap();
        (layout, body.1)
    }

    #[test]
    fn many_boundaries_within_lines_cost_no_more_than_their_bytes() {
        for before in ["", "--b\r\n\r\n", "--b--\r\n", "--b\r\n\r\n--b--"] {
            for piece in ["x--b", "x--b\r\n", "x--b\r\nA: b", "x--b\nContent:\n", "x--b--\r\n", "x--b \t", "x--b\r"] {
                let body = [before, &piece.repeat(100_000 / piece.len())].concat().into_bytes();
                let started = std::time::Instant::now();
                let (layout, read_bytes) = counted(body);
                assert_eq!(layout.begun_parts, before.matches("--b\r").count(), "{before:?} {piece:?}");
                assert!(read_bytes < 200_000, "{before:?} {piece:?}: {read_bytes} bytes were read");
                assert!(started.elapsed().as_millis() < 1000, "{before:?} {piece:?}: {:?}", started.elapsed());
            }
        }
    }

    const FILE: &str = "Content-Disposition: form-data; name=\"f\"; filename=\"x\"";

    /// What is read as Flask reads it, and how the flaw begins that is told.
    #[test]
    fn delimiters_that_are_written_wrongly_are_found() {
        let lf = "the lines of the report end with LF alone";
        let some_lf = "some lines of the report end with LF alone";
        let first = "the first delimiter of the report is not a line of its own, behind ";
        let head =
            "the header lines of part 1 of the report do not end with an empty line (CR LF, CR LF) and CR LF each";
        for (body, flaw) in [
            ("\n--b\r\nF\r\n\r\nhello\r\n--b--\r\n", some_lf),
            ("\n\n--b\r\nF\r\n\r\nhello\r\n--b--", some_lf),
            ("text\n--b\r\nF\r\n\r\nhello\r\n--b--", some_lf),
            ("--b\r\nF\r\n\r\nhello\n--b--\r\n", some_lf),
            ("--b\nF\r\n\r\nhello\r\n--b--", some_lf),
            ("--b\r\nF\nX: y\r\n\r\nhello\r\n--b--", head),
            ("--b\nF\n\nhello\n--b--\n", lf),
            ("\n--b\nF\n\nhello\n--b--", lf),
            ("--b \nF\n\nhello\n--b--", lf),
            ("--b\r\nF\n\nhello\r\n--b--\r\n", head),
            ("--b\r\nF\r\n\nhello\r\n--b--\r\n", head),
            (" --b\r\nF\r\n\r\nhello\r\n--b--", &format!("{first}\" \"")),
            ("\r\n\t--b\r\nF\r\n\r\nhello\r\n--b--", &format!("{first}\"\\t\"")),
            ("x--b\r\nF\r\n\r\nhello\r\n--b--", &format!("{first}\"x\"")),
            ("----b\r\nF\r\n\r\nhello\r\n--b--", &format!("{first}\"--\"")),
            ("\u{feff}--b\r\nF\r\n\r\nhello\r\n--b--", &format!("{first}\"\\u{{feff}}\"")),
            ("x--b\r\nX: y\r\nF\r\n\r\nlost\r\n\t--b\r\nF\r\n\r\nhello\r\n--b--", &format!("{first}\"\\t\"")),
            ("x--b\r\n F\r\n\r\nhello\r\n--b--", &format!("{first}\"x\"")),
            ("--b\rF\r\n\r\nhello\r\n--b--", &format!("{first}\"\"")),
            ("x--b\r\n\r\n --b\r\nF\r\n\r\nhello\r\n--b--", &format!("{first}\" \"")),
            ("--b\r\nF\r\n\r\nhello\r\n--b--\r\n--b\r\nF\r\n\r\nlost\r\n--b--", LATE),
            ("--b\r\nF\r\n\r\nhello\r\n--b----b\nF\n\nlost\n--b--", LATE),
        ] {
            let body = body.replace('F', FILE);
            assert_eq!(contents(body.as_bytes(), "b"), [b"hello"], "{body:?}");
            let flaws = counted(body.clone().into_bytes()).0.flaws("b");
            assert!(flaws.len() == 1 && flaws[0].starts_with(flaw), "{body:?}: {flaws:?}");
        }
    }

    const LATE: &str = "a part of the report comes behind its last boundary";

    #[test]
    fn a_delimiter_without_a_line_end_before_it_is_noticed() {
        for (content, part) in [
            ("1--b\r\nF\r\n\r\n2", 1),
            ("1--b\nF\r\n\r\n2", 1),
            ("1\r--b\r\nF\r\n\r\n2", 1),
            ("1--b\r\nF\r\n\r\n2\r\n--b\r\nF\r\n\r\n3", 1),
            ("1--b--\r\n", 1),
            ("1\r\n --b\r\nF\r\n\r\n2", 1),
            ("1\r\n--b\r\nF\r\n\r\n2--b\r\nF\r\n\r\n3", 2),
        ] {
            let body = format!("--b\r\nF\r\n\r\n{content}\r\n--b--\r\n").replace('F', FILE);
            let flaws = counted(body.clone().into_bytes()).0.flaws("b");
            let flaw = format!("CR LF is missing before a delimiter in part {part} of the report, or behind it: ");
            assert!(flaws.len() == 1 && flaws[0].starts_with(&flaw), "{body:?}: {flaws:?}");
        }
        let (layout, _) = counted(format!("--b\r\n{FILE}\r\n\r\nhello--b--\r\n").into_bytes());
        assert!(!layout.has_last_delimiter);
        assert_eq!(
            layout.flaws("b"),
            ["CR LF is missing before a delimiter in part 1 of the report, or behind it: \"hello\""]
        );
    }

    #[test]
    fn two_mistakes_are_two_flaws() {
        for (body, flaws) in [
            ("\u{feff}--b\r\nF\r\n--b--\r\n", ["the first delimiter", "the header lines of part 1"]),
            ("\n--b\r\nF\r\n\r\nhello", ["some lines of the report end with LF", "the report breaks off in part 1"]),
            ("--b\nF\n\n1--b\nF\n\n2\n--b--", ["the lines of the report end with LF", "CR LF is missing"]),
        ] {
            let told = counted(body.replace('F', FILE).into_bytes()).0.flaws("b");
            assert!(told.len() == 2 && told.iter().zip(flaws).all(|(told, flaw)| told.starts_with(flaw)), "{told:?}");
        }
    }

    #[test]
    fn what_is_well_formed_has_no_flaw() {
        for body in [
            "--b\r\nF\r\n\r\nhello\r\n--b--",
            "\r\n\r\n--b\r\nF\r\n\r\nhello\r\n--b--\r\n",
            "--b \t\r\nF\r\n\r\nhello\r\n--b--\n",
            "a text, x--b\r\n and --b--\r\n--b\r\nF\r\n\r\nhello\r\n--b-- \r\n",
            "--b\r\nF\r\n\r\nhello\r\n--b--\r\nbye\n--b\n--b--\n",
            "--b\r\nX: y\r\n z\r\nF\r\n\r\nhello\r\n--b--",
        ] {
            let body = body.replace('F', FILE);
            assert_eq!(contents(body.as_bytes(), "b"), [b"hello"], "{body:?}");
            assert_eq!(counted(body.clone().into_bytes()).0.flaws("b"), [""; 0], "{body:?}");
        }
        for content in ["a\nb\n\nc\n", "\n--bb\n", "x--bb\r\n", "\r\n--b-", "--b x\r\n", "x--b\tx", "\r", "\n"] {
            let body = format!("--b\r\n{FILE}\r\n\r\n{content}\r\n--b--");
            assert_eq!(contents(body.as_bytes(), "b"), [content.as_bytes()], "{content:?}");
            assert_eq!(counted(body.into_bytes()).0.flaws("b"), [""; 0], "{content:?}");
        }
    }
}
