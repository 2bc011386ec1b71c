//! Finds the parts of a report. `multipart` 0.18 misreads many that clients send: it wants `name` before `filename`, cuts
//! a quoted name at a semicolon, refuses bytes that are no UTF-8, and takes a boundary within a line for one. So a body
//! is looked through here first, and `multipart` gets each part made plain; cutting it out stays with it. The only file
//! that uses it. What Flask takes for a delimiter is one here too, with a flaw where it is written wrongly.

use super::part_head::{PartHead, begins};
use crate::text::quoted;
use memchr::memmem::{self, Finder};
use multipart::server::Multipart;
use ring::rand::{SystemRandom, generate};
use std::io::{self, BufRead, Cursor, Read, Seek, SeekFrom};
use std::ops::Range;

/// Where the parts of a body lie (RFC 2046, 5.1.1), as far as it can be told, and what was noticed on the way.
#[derive(Default)]
pub struct Layout {
    /// Each with the place of its content.
    pub parts: Vec<(PartHead, Range<u64>)>,
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
    /// A sentence on the first delimiter that is not a line of its own.
    misplaced: Option<String>,
}

impl Layout {
    /// Looks a body through, for at most so many parts.
    pub fn of(body: &mut (impl Read + Seek), boundary: &str, max_parts: usize) -> io::Result<Layout> {
        let mut layout = Layout::read(body, &format!("--{boundary}"), max_parts)?;
        if layout.begun_parts == 0 && !layout.has_last_delimiter {
            let is_named = |(head, _): &(PartHead, Range<u64>)| head.name("name").is_some();
            let (shown, has_delimiter) = (quoted(boundary.as_bytes()), layout.has_delimiter);
            let bare = if has_delimiter { Layout::default() } else { Layout::read(body, boundary, 1)? };
            layout.stopped = Some(if bare.misplaced.is_none() && bare.parts.iter().any(is_named) {
                let right = quoted(format!("--{boundary}").as_bytes());
                format!(
                    "the delimiters of the report lack the two dashes before the boundary: {shown} where {right} belongs"
                )
            } else {
                let how = if has_delimiter { " as a line of its own" } else { "" };
                format!("the boundary {shown} of the Content-Type does not occur in the report{how}")
            });
        }
        Ok(layout)
    }

    /// Goes from delimiter to delimiter, in time that is linear in the bytes, whatever they are.
    fn read(body: &mut (impl Read + Seek), delimiter: &str, max_parts: usize) -> io::Result<Layout> {
        let delimiter = Finder::new(delimiter);
        let mut layout = Layout::default();
        let mut window = Window { body_bytes: body.seek(SeekFrom::End(0))?, body, start: 0, bytes: Vec::new() };
        let mut position = 0;
        while let Some((found, before, behind)) = window.find(&delimiter, position)? {
            layout.has_delimiter = true;
            position = found + delimiter.needle().len() as u64;
            let Some(offset) = head_offset(behind) else { continue };
            let (own_end, lines) = behind.split_at(offset);
            let lines = &lines[..lines.len().min(MAX_PART_HEAD_BYTES)];
            let is_line = (found == 0 || before.ends_with(b"\n")) && !own_end.ends_with(b"\r");
            // Before the first part, only header lines of a part tell it from a text, or that there is none.
            let is_first = before.len() as u64 == found && before.iter().all(|byte| b" \t\xef\xbb\xbf".contains(byte));
            let begins_head = offset > 0 && (is_first || begins(lines.trim_ascii_start(), "Content-"));
            if !is_line && (layout.begun_parts > 0 || begins_head) {
                let shown = offset.clamp(2, SHOWN_BYTES).min(behind.len());
                layout.note_misplaced(before, delimiter.needle(), &behind[..shown]);
            }
            if !is_line && (layout.begun_parts > 0 || !begins_head) {
                continue;
            }
            layout.end_content(found, before, own_end);
            layout.has_last_delimiter = offset == 0 || layout.begun_parts == max_parts;
            if offset == 0 {
                layout.look_for_strays(&mut window, position)?;
                return Ok(layout);
            }
            if layout.begun_parts == max_parts {
                layout.stopped = Some(format!("the report has more than {max_parts} parts"));
                return Ok(layout);
            }
            layout.begun_parts += 1;
            let Some(head) = PartHead::begin(lines, &delimiter) else {
                let is_headless = lines.len() == MAX_PART_HEAD_BYTES || delimiter.find(lines).is_some();
                layout.stopped = is_headless.then(|| no_end(layout.begun_parts));
                return Ok(layout);
            };
            position += (offset + head.raw.len()) as u64;
            layout.parts.push((head, position..position));
        }
        if let Some((_, content)) = layout.parts.last_mut() {
            content.end = window.broken_end(delimiter.needle(), content.start)?;
        }
        Ok(layout)
    }

    /// Parts whose delimiter is written wrongly, before the first and behind the last that is right; in both places the
    /// header lines come first, if there are any.
    fn look_for_strays(&mut self, window: &mut Window<impl Read + Seek>, end: u64) -> io::Result<()> {
        let mut behind = window.from(end, 0)?.split(|byte| *byte == b'\n');
        if behind.any(|line| begins(line, "Content-")) {
            self.stopped = Some("a part of the report comes behind its last boundary".to_owned());
        }
        let first = self.parts.first().map_or(end, |(head, content)| content.start - head.raw.len() as u64);
        let before = window.from(0, 0)?;
        let before = before[..before.len().min(first as usize)].to_ascii_lowercase();
        if memmem::find(&before, b"content-disposition: form-data").is_some() {
            let sentence = "a part of the report comes before its first boundary";
            self.misplaced.get_or_insert_with(|| sentence.to_owned());
        }
        Ok(())
    }

    /// At a delimiter that was found there.
    fn end_content(&mut self, found: u64, before: &[u8], own_end: &[u8]) {
        for line in [before, own_end] {
            self.has_cr_lf |= line.ends_with(b"\r\n");
            self.has_bare_lf |= line.ends_with(b"\n") && !line.ends_with(b"\r\n");
        }
        if let Some((_, content)) = self.parts.last_mut() {
            // The line end belongs to the delimiter; an empty content may have none of its own.
            content.end = content.start.max(found - if before.ends_with(b"\r\n") { 2 } else { 1 });
        }
    }

    fn note_misplaced(&mut self, before: &[u8], delimiter: &[u8], behind: &[u8]) {
        self.misplaced.get_or_insert_with(|| {
            let line = before.rsplit(|byte| *byte == b'\n').next().unwrap_or_default();
            let shown = quoted(&[line, delimiter, behind].concat());
            match self.begun_parts {
                0 => format!("the first delimiter of the report is not a line of its own: {shown}"),
                part => {
                    format!("CR LF is missing before a delimiter in part {part} of the report, or behind it: {shown}")
                }
            }
        });
    }

    pub fn is_whole(&self) -> bool {
        self.has_last_delimiter && self.stopped.is_none()
    }

    /// What is written wrongly, as sentences.
    pub fn flaws(&self) -> Vec<String> {
        let mut flaws = Vec::new();
        if self.has_bare_lf {
            let which = if self.has_cr_lf { "some" } else { "the" };
            flaws.push(format!("{which} lines of the report end with LF alone, where multipart/form-data wants CR LF"));
        } else if let Some(index) = self.parts.iter().position(|(head, _)| head.has_bare_lf) {
            flaws.push(format!("{} and CR LF each, but with LF alone", no_end(index + 1)));
        }
        flaws.extend(self.misplaced.clone());
        flaws.extend(self.stopped.clone());
        if !self.has_last_delimiter && self.misplaced.is_none() && self.stopped.is_none() {
            flaws.push(format!("the report breaks off in part {}: its last boundary is missing", self.begun_parts));
        }
        flaws
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
    body_bytes: u64,
    /// Where the piece begins in the body.
    start: u64,
    bytes: Vec<u8>,
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
        let before_bytes = (found - start) as usize;
        let around = self.from(start, before_bytes + length + MAX_PADDING_BYTES + MAX_PART_HEAD_BYTES)?;
        Ok(Some((found, &around[..before_bytes], &around[before_bytes + length..])))
    }

    /// Where a content ends in which the body breaks off: the beginning of a delimiter is no part of it.
    fn broken_end(&mut self, delimiter: &[u8], start: u64) -> io::Result<u64> {
        let tail_bytes = delimiter.len() + MAX_PADDING_BYTES + 4;
        let from = start.max(self.body_bytes.saturating_sub(tail_bytes as u64));
        let tail = self.from(from, tail_bytes)?;
        let begins_delimiter = |at: &usize| {
            let rest = &tail[*at + 2..];
            rest.starts_with(delimiter) || delimiter.starts_with(rest)
        };
        let end = memmem::rfind(tail, b"\r\n").filter(begins_delimiter).unwrap_or(tail.len());
        Ok(from + end as u64)
    }

    /// All there is from there on, and at least so many bytes, unless the body ends.
    fn from(&mut self, position: u64, least: usize) -> io::Result<&[u8]> {
        let end = self.body_bytes.min(position + least as u64);
        if position < self.start || self.start + (self.bytes.len() as u64) < end {
            // What stands before is looked at next.
            self.start = position.saturating_sub(MAX_BEFORE_BYTES);
            let length = READ_BYTES.max(least) as u64 + MAX_BEFORE_BYTES;
            self.bytes.clear();
            self.body.seek(SeekFrom::Start(self.start))?;
            self.body.take(length).read_to_end(&mut self.bytes)?;
        }
        Ok(&self.bytes[(position - self.start) as usize..])
    }
}

/// The content of a part, as `multipart` cuts it out. What that gets has a boundary that no client can know, and so no
/// content can hold, and a stand-in for the header lines. Words and content never come by one call of `read`: `multipart`
/// 0.18 always has room for the words alone, and takes the CR before a delimiter for content where its buffer ends with it.
pub fn content(body: &mut (impl Read + Seek), place: &Range<u64>) -> io::Result<impl BufRead> {
    let random: [u8; 16] = generate(&SystemRandom::new()).expect("the system has random numbers").expose();
    let boundary = format!("{:032x}", u128::from_ne_bytes(random));
    let begin = format!("\r\n--{boundary}\r\nContent-Disposition: form-data; name=\"part\"\r\n\r\n");
    let end = format!("\r\n--{boundary}--\r\n");
    body.seek(SeekFrom::Start(place.start))?;
    let content = body.take(place.end - place.start);
    let part = Multipart::with_body(Cursor::new(begin).chain(content).chain(Cursor::new(end)), boundary);
    Ok(part.into_entry().into_result()?.expect("a part follows the first boundary").data)
}

const MAX_PART_HEAD_BYTES: usize = 16 * 1024;
/// To be shown of what stands before a delimiter, and behind it.
const MAX_BEFORE_BYTES: u64 = 16;
const SHOWN_BYTES: usize = 4;
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
        let mut contents = Vec::new();
        for (_, place) in &layout.parts {
            let mut bytes = Vec::new();
            content(&mut body, place).unwrap().read_to_end(&mut bytes).unwrap();
            contents.push(bytes);
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
        let layout = Layout::of(&mut body, "b", 10).unwrap();
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
        let first = "the first delimiter of the report is not a line of its own: ";
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
            (" --b\r\nF\r\n\r\nhello\r\n--b--", &format!("{first}\" --b\\r\\n\"")),
            ("\r\n\t--b\r\nF\r\n\r\nhello\r\n--b--", &format!("{first}\"\\t--b\\r\\n\"")),
            ("x--b\r\nF\r\n\r\nhello\r\n--b--", &format!("{first}\"x--b\\r\\n\"")),
            ("----b\r\nF\r\n\r\nhello\r\n--b--", &format!("{first}\"----b\\r\\n\"")),
            ("\u{feff}--b\r\nF\r\n\r\nhello\r\n--b--", &format!("{first}\"\\u{{feff}}--b\\r\\n\"")),
            ("x--b\r\nX: y\r\nF\r\n\r\nlost\r\n\t--b\r\nF\r\n\r\nhello\r\n--b--", &format!("{first}\"\\t--b\\r\\n\"")),
            ("x--b\r\n F\r\n\r\nhello\r\n--b--", &format!("{first}\"x--b\\r\\n\"")),
            ("--b\rF\r\n\r\nhello\r\n--b--", &format!("{first}\"--b\\rC\"")),
            ("x--b\r\n\r\n --b\r\nF\r\n\r\nhello\r\n--b--", &format!("{first}\" --b\\r\\n\"")),
            ("--b\r\nF\r\n\r\nhello\r\n--b--\r\n--b\r\nF\r\n\r\nlost\r\n--b--", LATE),
            ("--b\r\nF\r\n\r\nhello\r\n--b----b\nF\n\nlost\n--b--", LATE),
            ("--b\r\nF\r\n\r\nhello\r\n--b--\r\n--b\r\nX: y\r\nF\r\n\r\nlost\r\n--b--", LATE),
            ("--b\r\nF\r\n\r\nhello\r\n--b--\r\n--c\r\nF\r\n\r\nlost\r\n--c--", LATE),
            ("--b\r\nF\r\n\r\nhello\r\n--b--\r\n--b\r\ncontent-type: text/plain\r\n\r\nlost\r\n--b--", LATE),
            ("--b\r\nF\r\n\r\nhello\r\n--b--\r\n--b\r\ncontent-disposition:form-data\r\n\r\nlost\r\n--b--", LATE),
            ("b\r\nF\r\n\r\nlost\r\n--b\r\nF\r\n\r\nhello\r\n--b--", EARLY),
            ("--b;\r\nF\r\n\r\nlost\r\n--b\r\nF\r\n\r\nhello\r\n--b--", EARLY),
            ("F\r\n\r\nlost\r\n--b\r\nF\r\n\r\nhello\r\n--b--", EARLY),
        ] {
            let body = body.replace('F', FILE);
            assert_eq!(contents(body.as_bytes(), "b"), [b"hello"], "{body:?}");
            let flaws = counted(body.clone().into_bytes()).0.flaws();
            assert!(flaws.len() == 1 && flaws[0].starts_with(flaw), "{body:?}: {flaws:?}");
        }
    }

    const LATE: &str = "a part of the report comes behind its last boundary";
    const EARLY: &str = "a part of the report comes before its first boundary";

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
            let flaws = counted(body.clone().into_bytes()).0.flaws();
            let flaw = format!("CR LF is missing before a delimiter in part {part} of the report, or behind it: ");
            assert!(flaws.len() == 1 && flaws[0].starts_with(&flaw), "{body:?}: {flaws:?}");
        }
        let (layout, _) = counted(format!("--b\r\n{FILE}\r\n\r\nhello--b--\r\n").into_bytes());
        assert!(!layout.has_last_delimiter);
        assert_eq!(
            layout.flaws(),
            ["CR LF is missing before a delimiter in part 1 of the report, or behind it: \"hello--b--\""]
        );
    }

    #[test]
    fn two_mistakes_are_two_flaws() {
        for (body, flaws) in [
            ("\u{feff}--b\r\nF\r\n--b--\r\n", ["the first delimiter", "the header lines of part 1"]),
            ("\n--b\r\nF\r\n\r\nhello", ["some lines of the report end with LF", "the report breaks off in part 1"]),
            ("--b\nF\n\n1--b\nF\n\n2\n--b--", ["the lines of the report end with LF", "CR LF is missing"]),
        ] {
            let told = counted(body.replace('F', FILE).into_bytes()).0.flaws();
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
            assert_eq!(counted(body.clone().into_bytes()).0.flaws(), [""; 0], "{body:?}");
        }
        for content in ["a\nb\n\nc\n", "\n--bb\n", "x--bb\r\n", "\r\n--b-", "--b x\r\n", "x--b\tx", "\r", "\n"] {
            let body = format!("--b\r\n{FILE}\r\n\r\n{content}\r\n--b--");
            assert_eq!(contents(body.as_bytes(), "b"), [content.as_bytes()], "{content:?}");
            assert_eq!(counted(body.into_bytes()).0.flaws(), [""; 0], "{content:?}");
        }
    }
}
