//! Reads one HTTP/1 request from bytes: the head, then the body by the framing that the head declares.
//! Whatever is refused is refused with a sentence that names the thing. Knows neither sockets nor TLS.
//! The rules are those of RFC 9112; where that leaves a choice, the stricter one is taken.

use crate::link::is_timeout;
use crate::words::{grouped, in_bytes, quoted};
use percent_encoding::AsciiSet;
use std::io::{self, BufRead, ErrorKind, Write};

/// The head of a request.
#[derive(Debug)]
pub struct Head {
    pub method: String,
    /// As sent; bytes beyond ASCII are percent-encoded.
    pub target: String,
    /// The 0 of HTTP/1.0 or the 1 of HTTP/1.1.
    pub minor_version: u8,
    /// As sent, in their order.
    pub headers: Vec<(String, Vec<u8>)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// In bytes; zero where the head declares no body.
    Length(u64),
    Chunked,
}

/// Why a request cannot be accepted.
#[derive(Clone, Debug, PartialEq)]
pub struct Refusal {
    pub status: u16,
    pub sentence: String,
}

impl Refusal {
    pub fn new(status: u16, sentence: impl Into<String>) -> Refusal {
        Refusal { status, sentence: sentence.into() }
    }
}

impl Head {
    /// The target without the scheme and host that clients of a proxy put before it (RFC 9112, 3.2.2).
    pub fn origin_form(&self) -> &str {
        let target = self.target.as_str();
        let before_query = target.split(['?', '#']).next().unwrap_or_default();
        match before_query.find("://").filter(|at| !before_query[..*at].contains('/')) {
            Some(at) => target[at + 3..].find(['/', '?', '#']).map_or("/", |end| &target[at + 3 + end..]),
            None => target,
        }
    }

    /// Whether the client would send another request on this connection.
    pub fn keeps_alive(&self) -> bool {
        match self.minor_version {
            0 => self.lists("connection", "keep-alive"),
            _ => !self.lists("connection", "close"),
        }
    }

    /// Whether the client waits for a word before it sends the body.
    pub fn expects_continue(&self) -> Result<bool, Refusal> {
        match self.all("expect").next() {
            Some(value) if self.minor_version == 1 && !value.eq_ignore_ascii_case(b"100-continue") => Err(
                Refusal::new(417, format!("the only Expect that is understood is 100-continue, not {}", quoted(value))),
            ),
            value => Ok(value.is_some() && self.minor_version == 1),
        }
    }

    /// RFC 9112, 6.3. Everything that two readers of the same bytes could understand differently is refused, and so is
    /// a body that is declared longer than the limit.
    pub fn framing(&self, max_body_bytes: u64) -> Result<Framing, Refusal> {
        let lengths: Vec<&[u8]> = self.all("content-length").collect();
        let encodings: Vec<&[u8]> = self.all("transfer-encoding").collect();
        match (lengths.as_slice(), encodings.as_slice()) {
            ([], []) => Ok(Framing::Length(0)),
            ([length], []) => {
                match str::from_utf8(length).ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit())) {
                    None | Some("") => {
                        Err(bad(format!("Content-Length is {}, which is not a number of bytes", quoted(length))))
                    }
                    Some(digits) => match digits.parse() {
                        Ok(bytes) if bytes > max_body_bytes => Err(too_large(&grouped(bytes), max_body_bytes)),
                        Ok(bytes) => Ok(Framing::Length(bytes)),
                        Err(_) => {
                            Err(bad(format!("Content-Length is {}, which is more than 64 bits hold", quoted(length))))
                        }
                    },
                }
            }
            ([first, second, ..], []) => {
                Err(bad(format!("Content-Length is there twice: {} and {}", quoted(first), quoted(second))))
            }
            ([], _) if self.minor_version == 0 => {
                Err(bad("the request has a Transfer-Encoding, which HTTP/1.0 does not know"))
            }
            ([], [encoding]) if encoding.eq_ignore_ascii_case(b"chunked") => Ok(Framing::Chunked),
            ([], encodings) => {
                let encoding = quoted(&encodings.join(&b", "[..]));
                Err(Refusal::new(
                    501,
                    format!("the only Transfer-Encoding that is understood is chunked, not {encoding}"),
                ))
            }
            _ => Err(bad("the request has both Content-Length and Transfer-Encoding; send one of them")),
        }
    }

    fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a [u8]> {
        self.headers.iter().filter(move |(own, _)| own.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_slice())
    }

    /// Whether one of the comma-separated words of a header is `word`.
    fn lists(&self, name: &str, word: &str) -> bool {
        self.all(name)
            .flat_map(|value| value.split(|byte| *byte == b','))
            .any(|item| item.trim_ascii().eq_ignore_ascii_case(word.as_bytes()))
    }
}

/// Reads a head. `None`: the client closed, or was silent for the time allowed, before its first byte.
pub fn read_head(input: &mut impl BufRead) -> Result<Option<Head>, Refusal> {
    let mut bytes = Vec::new();
    loop {
        let available = match input.fill_buf() {
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Ok([]) | Err(_) if bytes.is_empty() => return Ok(None),
            Ok([]) => return Err(bad("the client closed the connection in the middle of the head")),
            Ok(available) => available,
            Err(error) if is_timeout(&error) => {
                let seen = in_bytes(bytes.len() as u64);
                return Err(Refusal::new(
                    408,
                    format!("the head did not end in time: {seen} came, but not the empty line"),
                ));
            }
            Err(error) => return Err(bad(format!("the connection broke in the middle of the head: {error}"))),
        };
        if bytes.is_empty() {
            // RFC 9112, 2.2: empty lines before a request are skipped.
            let blank = available.iter().take_while(|byte| matches!(byte, b'\r' | b'\n')).count();
            if blank > 0 {
                input.consume(blank);
                continue;
            }
        }
        let seen = bytes.len();
        let wanted = available.len().min(MAX_HEAD_BYTES + 1 - seen);
        bytes.reserve_exact(wanted);
        bytes.extend_from_slice(&available[..wanted]);
        let end = memchr::memmem::find(&bytes[seen.saturating_sub(3)..], b"\r\n\r\n");
        let length = end.map_or(bytes.len(), |at| seen.saturating_sub(3) + at + 4);
        bytes.truncate(length);
        input.consume(length - seen);
        if length > MAX_HEAD_BYTES {
            return Err(too_long(&bytes));
        }
        // Looked at with every new line, so that a mistake is told as soon as it is made.
        if (bytes[seen..].contains(&b'\n') || !is_token_byte(bytes[0]))
            && let Some(head) = parse(&bytes)?
        {
            return Ok(Some(head));
        }
    }
}

/// `None`: so far it is right, but more must come.
fn parse(bytes: &[u8]) -> Result<Option<Head>, Refusal> {
    let bare = memchr::memchr_iter(b'\n', bytes).find(|at| *at == 0 || bytes[at - 1] != b'\r');
    if let Some(at) = bare {
        let number = memchr::memchr_iter(b'\n', &bytes[..at]).count() + 1;
        let line = bytes[..at].rsplit(|byte| *byte == b'\n').next().unwrap_or_default();
        return Err(malformed(number, line, 400, "ends with LF alone, where HTTP wants CR LF"));
    }
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut request = httparse::Request::new(&mut headers);
    match request.parse(bytes) {
        Ok(httparse::Status::Partial) => return Ok(None),
        Ok(httparse::Status::Complete(_)) => {}
        Err(httparse::Error::TooManyHeaders) => {
            return Err(Refusal::new(431, format!("the request has more than {MAX_HEADERS} headers")));
        }
        Err(_) => return Err(explain(bytes)),
    }
    let (Some(method), Some(target), Some(minor_version)) = (request.method, request.path, request.version) else {
        return Err(explain(bytes));
    };
    Ok(Some(Head {
        method: method.to_owned(),
        target: percent_encoding::percent_encode(target.as_bytes(), BEYOND_ASCII).to_string(),
        minor_version,
        headers: request.headers.iter().map(|header| (header.name.to_owned(), header.value.to_vec())).collect(),
    }))
}

/// Reads the whole body into `sink`. Broken off with a refusal beyond `max_bytes`.
pub fn read_body(
    input: &mut impl BufRead,
    framing: Framing,
    max_bytes: u64,
    sink: &mut impl Write,
) -> Result<(), Refusal> {
    match framing {
        Framing::Length(length) => {
            copy(input, length, sink, |received| format!("{} of {}", grouped(received), in_bytes(length)))
        }
        Framing::Chunked => read_chunks(input, max_bytes, sink),
    }
}

/// RFC 9112, 7.1. Chunk extensions and trailers are skipped.
fn read_chunks(input: &mut impl BufRead, max_bytes: u64, sink: &mut impl Write) -> Result<(), Refusal> {
    let mut total = 0;
    loop {
        let line = read_chunk_line(input, total, "the size of a chunk")?;
        let size = match httparse::parse_chunk_size(&line) {
            // httparse takes no digits at all for zero.
            Ok(httparse::Status::Complete((_, size))) if line[0].is_ascii_hexdigit() => size,
            _ => {
                let shown = quoted(line.trim_ascii_end());
                return Err(bad(format!("{shown} is not the size of a chunk, which is a hexadecimal number")));
            }
        };
        if size == 0 {
            break;
        }
        if size > max_bytes - total {
            return Err(too_large(&format!("more than {}", grouped(total.saturating_add(size) - 1)), max_bytes));
        }
        copy(input, size, sink, |received| format!("{}, in the middle of a chunk,", in_bytes(total + received)))?;
        total += size;
        if read_chunk_line(input, total, "the end of a chunk")? != b"\r\n" {
            return Err(bad(format!("a chunk is longer than its size, {}, says", in_bytes(size))));
        }
    }
    let mut trailer_bytes = 0;
    loop {
        let line = read_chunk_line(input, total, "a trailer")?;
        trailer_bytes += line.len();
        if line == b"\r\n" {
            return Ok(());
        }
        if trailer_bytes > MAX_HEAD_BYTES {
            return Err(bad(format!("the trailers are longer than {}", in_bytes(MAX_HEAD_BYTES as u64))));
        }
    }
}

fn read_chunk_line(input: &mut impl BufRead, received: u64, what: &str) -> Result<Vec<u8>, Refusal> {
    let mut line = Vec::new();
    while !line.ends_with(b"\n") {
        let available = next(input).map_err(|end| end.after(&format!("{}, before {what},", in_bytes(received))))?;
        let end = memchr::memchr(b'\n', available).map_or(available.len(), |at| at + 1);
        line.extend_from_slice(&available[..end]);
        input.consume(end);
        if line.len() > MAX_CHUNK_LINE_BYTES {
            return Err(bad(format!("{what} takes more than {}", in_bytes(MAX_CHUNK_LINE_BYTES as u64))));
        }
    }
    match line.ends_with(b"\r\n") {
        true => Ok(line),
        false => Err(bad(format!("the line with {what} ends with LF alone, where HTTP wants CR LF"))),
    }
}

/// Copies so many bytes of a body. `progress` words how many of all have come, where it ends too early.
fn copy(
    input: &mut impl BufRead,
    length: u64,
    sink: &mut impl Write,
    progress: impl Fn(u64) -> String,
) -> Result<(), Refusal> {
    let mut received = 0;
    while received < length {
        let available = next(input).map_err(|end| end.after(&progress(received)))?;
        let piece = available.len().min(usize::try_from(length - received).unwrap_or(usize::MAX));
        sink.write_all(&available[..piece]).map_err(|error| not_stored(&error))?;
        input.consume(piece);
        received += piece as u64;
    }
    Ok(())
}

/// How a body ends before it should.
enum End {
    Closed,
    Broken,
    Silent,
}

impl End {
    fn after(self, received: &str) -> Refusal {
        match self {
            End::Closed => bad(format!("the client closed the connection after {received} of the body")),
            End::Broken => bad(format!("the connection broke after {received} of the body")),
            End::Silent => Refusal::new(408, format!("the client fell silent after {received} of the body")),
        }
    }
}

/// The bytes that come next, at least one.
fn next(input: &mut impl BufRead) -> Result<&[u8], End> {
    // The borrow checker does not let a loop return what `fill_buf` lends; hence first the check, then the loan.
    loop {
        match input.fill_buf() {
            Ok([]) => return Err(End::Closed),
            Ok(_) => break,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if is_timeout(&error) => return Err(End::Silent),
            Err(_) => return Err(End::Broken),
        }
    }
    input.fill_buf().map_err(|_| End::Broken)
}

fn bad(sentence: impl Into<String>) -> Refusal {
    Refusal::new(400, sentence)
}

/// A full disk, mostly.
pub fn not_stored(error: &io::Error) -> Refusal {
    Refusal::new(507, format!("cannot store the body in {}: {error}", std::env::temp_dir().display()))
}

fn too_large(size: &str, max_bytes: u64) -> Refusal {
    let limit = in_bytes(max_bytes);
    Refusal::new(413, format!("the body has {size} bytes; the limit is {limit} (see --max-upload)"))
}

fn too_long(bytes: &[u8]) -> Refusal {
    let limit = grouped(MAX_HEAD_BYTES as u64);
    match memchr::memchr_iter(b'\n', bytes).count() {
        0 => Refusal::new(414, format!("the request target is longer than {limit} bytes")),
        lines => {
            let last = bytes.rsplit(|byte| *byte == b'\n').next().unwrap_or_default();
            let sentence = format!("the head is longer than {limit} bytes; line {} begins {}", lines + 1, quoted(last));
            Refusal::new(431, sentence)
        }
    }
}

/// Names the line and the mistake in a head that httparse has refused.
fn explain(bytes: &[u8]) -> Refusal {
    let whole_lines = memchr::memchr_iter(b'\n', bytes).count();
    for (index, line) in bytes.split(|byte| *byte == b'\n').enumerate() {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let mistake = match index {
            0 => request_line_mistake(line),
            _ => header_mistake(line, index < whole_lines),
        };
        if let Some((status, mistake)) = mistake {
            return malformed(index + 1, line, status, &mistake);
        }
    }
    Refusal::new(400, format!("the head is malformed; it begins {}", quoted(bytes)))
}

fn request_line_mistake(line: &[u8]) -> Option<(u16, String)> {
    let words: Vec<&[u8]> = line.split(|byte| *byte == b' ').collect();
    if let Some(control) = control_character(line) {
        return Some((400, format!("holds {control}")));
    }
    if line.contains(&b'\t') {
        return Some((400, "holds a tab; its words are parted by single spaces".to_owned()));
    }
    let version = match words.as_slice() {
        [_, _, version] => *version,
        [_, _] => return Some((400, "names no HTTP version, and HTTP/0.9 is not spoken".to_owned())),
        _ => return Some((400, "is not a method, a target and HTTP/1.1, with one space between them".to_owned())),
    };
    if words[0].is_empty() || !words[0].iter().all(|byte| is_token_byte(*byte)) {
        return Some((400, "does not begin with a method".to_owned()));
    }
    match version {
        b"HTTP/1.0" | b"HTTP/1.1" if words[1].is_empty() => Some((400, "has no target".to_owned())),
        b"HTTP/1.0" | b"HTTP/1.1" => str::from_utf8(words[1])
            .err()
            .map(|_| (400, "has a target that is neither ASCII nor UTF-8; percent-encode it".to_owned())),
        b"HTTP/2" | b"HTTP/2.0" | b"HTTP/3" | b"HTTP/3.0" => {
            Some((505, "asks for a version of HTTP that is not spoken; HTTP/1.1 is".to_owned()))
        }
        _ => Some((400, "names an HTTP version that does not exist or is not spoken; HTTP/1.1 is".to_owned())),
    }
}

fn header_mistake(line: &[u8], is_whole: bool) -> Option<(u16, String)> {
    let colon = line.iter().position(|byte| *byte == b':');
    let name = &line[..colon.unwrap_or(line.len())];
    let mistake = if line.is_empty() {
        return None;
    } else if matches!(line[0], b' ' | b'\t') {
        "begins with a space, which folds it into the line before; that is not allowed any more".to_owned()
    } else if let Some(control) = control_character(line) {
        format!("holds {control}")
    } else if colon.is_none() && is_whole {
        "is a header without a colon".to_owned()
    } else if name.is_empty() {
        "is a header without a name".to_owned()
    } else if name.ends_with(b" ") || name.ends_with(b"\t") {
        "has a space before the colon".to_owned()
    } else if !name.iter().all(|byte| is_token_byte(*byte)) {
        "has a character in the header's name that must not be there".to_owned()
    } else {
        return None;
    };
    Some((400, mistake))
}

fn control_character(line: &[u8]) -> Option<String> {
    let byte = *line.iter().find(|byte| byte.is_ascii_control() && **byte != b'\t')?;
    Some(match byte {
        0 => "a NUL".to_owned(),
        b'\r' => "a CR that no LF follows".to_owned(),
        _ => format!("the control character 0x{byte:02x}"),
    })
}

fn malformed(number: usize, line: &[u8], status: u16, mistake: &str) -> Refusal {
    Refusal::new(status, format!("line {number} of the request {mistake}: {}", quoted(line)))
}

/// RFC 9110, 5.6.2.
fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// Enough for any cookie; what nginx and Apache allow lies between 8 and 32 KiB.
pub const MAX_HEAD_BYTES: usize = 64 * 1024;
pub const MAX_HEADERS: usize = 100;
/// A size is 16 digits at the most; the rest are extensions, which nobody uses.
const MAX_CHUNK_LINE_BYTES: usize = 4 * 1024;
const BEYOND_ASCII: &AsciiSet = &percent_encoding::AsciiSet::EMPTY;
