//! Reads one HTTP/1 request from bytes: the head, then the body by the framing that the head declares.
//! Whatever is refused is refused with a sentence that names the thing. Knows neither sockets nor TLS.
//! The rules are those of RFC 9112; where that leaves a choice, the stricter one is taken.

use percent_encoding::AsciiSet;
use std::io::{self, BufRead, ErrorKind, Write};

/// The head of a request, checked.
#[derive(Debug)]
pub struct Head {
    pub method: String,
    /// As sent; bytes beyond ASCII are percent-encoded.
    pub target: String,
    /// The 0 of HTTP/1.0 or the 1 of HTTP/1.1.
    pub minor_version: u8,
    /// As sent, in their order.
    pub headers: Vec<(String, Vec<u8>)>,
    pub framing: Framing,
    pub expects_continue: bool,
    /// Whether the client would send another request on this connection.
    pub keep_alive: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// Content-Length in bytes; zero where the head declares no body.
    Length(u64),
    Chunked,
}

/// Why there is no whole request.
#[derive(Debug)]
pub enum Fault {
    /// What was sent cannot be accepted; the client can still be told so.
    Refused { status: u16, sentence: String, head: Option<Box<Head>> },
    /// The body could not be stored; the client can be told so.
    NotStored(io::Error),
}

impl Fault {
    pub fn refused(status: u16, sentence: impl Into<String>) -> Fault {
        Fault::Refused { status, sentence: sentence.into(), head: None }
    }
}

impl Head {
    /// The value of the first header of that name.
    fn header<'a>(&'a self, name: &'a str) -> Option<&'a [u8]> {
        self.all(name).next()
    }

    fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a [u8]> {
        self.headers.iter().filter(move |(own, _)| own.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_slice())
    }

    /// The target without the scheme and host that clients of a proxy put before it (RFC 9112, 3.2.2).
    pub fn origin_form(&self) -> &str {
        let target = self.target.as_str();
        let before_query = target.split(['?', '#']).next().unwrap_or_default();
        match before_query.find("://").filter(|at| !before_query[..*at].contains('/')) {
            Some(at) => target[at + 3..].find(['/', '?', '#']).map_or("/", |end| &target[at + 3 + end..]),
            None => target,
        }
    }

    /// Whether one of the comma-separated words of a header is `word`.
    fn lists(&self, name: &str, word: &str) -> bool {
        self.all(name)
            .flat_map(|value| value.split(|byte| *byte == b','))
            .any(|item| item.trim_ascii().eq_ignore_ascii_case(word.as_bytes()))
    }
}

/// Reads a head. `None`: the client closed, or was silent for the time allowed, before its first byte.
pub fn read_head(input: &mut impl BufRead) -> Result<Option<Head>, Fault> {
    let mut bytes = Vec::new();
    loop {
        let available = match input.fill_buf() {
            Ok([]) if bytes.is_empty() => return Ok(None),
            Ok([]) => return Err(Fault::refused(400, "the client closed the connection in the middle of the head")),
            Ok(available) => available,
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(error) if is_timeout(&error) && bytes.is_empty() => return Ok(None),
            Err(error) if is_timeout(&error) => {
                let seen = in_bytes(bytes.len() as u64);
                let sentence = format!("the head did not end in time: {seen} came, but not the empty line");
                return Err(Fault::refused(408, sentence));
            }
            Err(_) if bytes.is_empty() => return Ok(None),
            Err(error) => {
                return Err(Fault::refused(400, format!("the connection broke in the middle of the head: {error}")));
            }
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
            return check(head).map(Some);
        }
    }
}

/// `None`: so far it is right, but more must come.
fn parse(bytes: &[u8]) -> Result<Option<Head>, Fault> {
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
            return Err(Fault::refused(431, format!("the request has more than {MAX_HEADERS} headers")));
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
        framing: Framing::Length(0),
        expects_continue: false,
        keep_alive: false,
    }))
}

/// What httparse leaves open: how the body is framed, and what the client expects of the connection.
fn check(mut head: Head) -> Result<Head, Fault> {
    let is_http11 = head.minor_version == 1;
    head.keep_alive =
        if is_http11 { !head.lists("connection", "close") } else { head.lists("connection", "keep-alive") };
    match framing(&head) {
        Ok(framing) => head.framing = framing,
        Err((status, sentence)) => return Err(Fault::Refused { status, sentence, head: Some(Box::new(head)) }),
    }
    if is_http11 && let Some(expectation) = head.header("expect") {
        if !expectation.eq_ignore_ascii_case(b"100-continue") {
            let sentence = format!("the only Expect that is understood is 100-continue, not {}", quoted(expectation));
            return Err(Fault::Refused { status: 417, sentence, head: Some(Box::new(head)) });
        }
        head.expects_continue = head.framing != Framing::Length(0);
    }
    Ok(head)
}

/// RFC 9112, 6.3. Everything that two readers of the same bytes could understand differently is refused.
fn framing(head: &Head) -> Result<Framing, (u16, String)> {
    let lengths: Vec<&[u8]> = head.all("content-length").collect();
    if let Some(encoding) = head.header("transfer-encoding") {
        if !lengths.is_empty() {
            return Err((
                400,
                "the request has both Content-Length and Transfer-Encoding; send one of them".to_owned(),
            ));
        }
        if head.minor_version == 0 {
            return Err((400, "the request has a Transfer-Encoding, which HTTP/1.0 does not know".to_owned()));
        }
        if head.all("transfer-encoding").count() > 1 || !encoding.eq_ignore_ascii_case(b"chunked") {
            let sentence =
                format!("the only Transfer-Encoding that is understood is chunked, not {}", quoted(encoding));
            return Err((501, sentence));
        }
        return Ok(Framing::Chunked);
    }
    match lengths.as_slice() {
        [] => Ok(Framing::Length(0)),
        [length] if length.is_empty() || !length.iter().all(u8::is_ascii_digit) => {
            Err((400, format!("Content-Length is {}, which is not a number of bytes", quoted(length))))
        }
        [length] => match String::from_utf8_lossy(length).parse() {
            Ok(length) => Ok(Framing::Length(length)),
            Err(_) => Err((400, format!("Content-Length is {}, which is more than 64 bits hold", quoted(length)))),
        },
        [first, second, ..] => {
            Err((400, format!("Content-Length is there twice: {} and {}", quoted(first), quoted(second))))
        }
    }
}

/// Refuses a body that is declared longer than the limit, before it is asked for.
pub fn check_size(framing: Framing, max_bytes: u64) -> Result<(), Fault> {
    match framing {
        Framing::Length(length) if length > max_bytes => Err(too_large(&grouped(length), max_bytes)),
        _ => Ok(()),
    }
}

/// Reads the whole body into `sink`; returns its length in bytes. Broken off with a refusal beyond `max_bytes`.
pub fn read_body(
    input: &mut impl BufRead,
    framing: Framing,
    max_bytes: u64,
    sink: &mut impl Write,
) -> Result<u64, Fault> {
    match framing {
        Framing::Length(length) => {
            let received = copy(input, length, sink)?;
            match received.ended {
                None => Ok(length),
                Some(end) => Err(cut_off(end, &format!("{} of {}", grouped(received.bytes), in_bytes(length)))),
            }
        }
        Framing::Chunked => read_chunks(input, max_bytes, sink),
    }
}

/// RFC 9112, 7.1. Chunk extensions and trailers are skipped.
fn read_chunks(input: &mut impl BufRead, max_bytes: u64, sink: &mut impl Write) -> Result<u64, Fault> {
    let mut total = 0;
    loop {
        let line = read_chunk_line(input, total, "the size of a chunk")?;
        let size = match httparse::parse_chunk_size(&line) {
            // httparse takes no digits at all for zero.
            Ok(httparse::Status::Complete((_, size))) if line[0].is_ascii_hexdigit() => size,
            _ => {
                let sentence = format!(
                    "{} is not the size of a chunk, which is a hexadecimal number",
                    quoted(line.trim_ascii_end())
                );
                return Err(Fault::refused(400, sentence));
            }
        };
        if size == 0 {
            break;
        }
        if size > max_bytes - total {
            return Err(too_large(&format!("more than {}", grouped(total.saturating_add(size) - 1)), max_bytes));
        }
        let received = copy(input, size, sink)?;
        total += received.bytes;
        if let Some(end) = received.ended {
            return Err(cut_off(end, &format!("{}, in the middle of a chunk,", in_bytes(total))));
        }
        if read_chunk_line(input, total, "the end of a chunk")? != b"\r\n" {
            return Err(Fault::refused(400, format!("a chunk is longer than its size, {}, says", in_bytes(size))));
        }
    }
    let mut trailer_bytes = 0;
    loop {
        let line = read_chunk_line(input, total, "a trailer")?;
        trailer_bytes += line.len();
        if line == b"\r\n" {
            return Ok(total);
        }
        if trailer_bytes > MAX_HEAD_BYTES {
            return Err(Fault::refused(
                400,
                format!("the trailers are longer than {} bytes", grouped(MAX_HEAD_BYTES as u64)),
            ));
        }
    }
}

fn read_chunk_line(input: &mut impl BufRead, received: u64, what: &str) -> Result<Vec<u8>, Fault> {
    let mut line = Vec::new();
    loop {
        let available = match next(input) {
            Ok(available) => available,
            Err(end) => {
                return Err(cut_off(end, &format!("{}, before {what},", in_bytes(received))));
            }
        };
        let end = memchr::memchr(b'\n', available).map_or(available.len(), |at| at + 1);
        line.extend_from_slice(&available[..end]);
        input.consume(end);
        if line.len() > MAX_CHUNK_LINE_BYTES {
            return Err(Fault::refused(
                400,
                format!("{what} takes more than {} bytes", grouped(MAX_CHUNK_LINE_BYTES as u64)),
            ));
        }
        if line.ends_with(b"\r\n") {
            return Ok(line);
        }
        if line.ends_with(b"\n") {
            return Err(Fault::refused(
                400,
                format!("the line with {what} ends with LF alone, where HTTP wants CR LF"),
            ));
        }
    }
}

struct Copied {
    bytes: u64,
    ended: Option<End>,
}

/// How a body ends before it should.
#[derive(Clone, Copy)]
enum End {
    Closed,
    Silent,
    Broken,
}

fn copy(input: &mut impl BufRead, length: u64, sink: &mut impl Write) -> Result<Copied, Fault> {
    let mut left = length;
    while left > 0 {
        let available = match next(input) {
            Ok(available) => available,
            Err(end) => return Ok(Copied { bytes: length - left, ended: Some(end) }),
        };
        let piece = available.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        sink.write_all(&available[..piece]).map_err(Fault::NotStored)?;
        input.consume(piece);
        left -= piece as u64;
    }
    Ok(Copied { bytes: length, ended: None })
}

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

fn cut_off(end: End, received: &str) -> Fault {
    match end {
        End::Closed => Fault::refused(400, format!("the client closed the connection after {received} of the body")),
        End::Broken => Fault::refused(400, format!("the connection broke after {received} of the body")),
        End::Silent => {
            Fault::refused(408, format!("the body did not come in time: the client fell silent after {received}"))
        }
    }
}

fn too_large(size: &str, max_bytes: u64) -> Fault {
    let limit = in_bytes(max_bytes);
    Fault::refused(413, format!("the body has {size} bytes; the limit is {limit} (see --max-upload)"))
}

fn too_long(bytes: &[u8]) -> Fault {
    let limit = grouped(MAX_HEAD_BYTES as u64);
    match memchr::memchr_iter(b'\n', bytes).count() {
        0 => Fault::refused(414, format!("the request target is longer than {limit} bytes")),
        lines => {
            let last = bytes.rsplit(|byte| *byte == b'\n').next().unwrap_or_default();
            let sentence = format!("the head is longer than {limit} bytes; line {} begins {}", lines + 1, quoted(last));
            Fault::refused(431, sentence)
        }
    }
}

/// Names the line and the mistake in a head that httparse has refused.
fn explain(bytes: &[u8]) -> Fault {
    for (index, line) in bytes.split(|byte| *byte == b'\n').enumerate() {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let mistake = if index == 0 { request_line_mistake(line) } else { header_mistake(line) };
        if let Some((status, mistake)) = mistake {
            return malformed(index + 1, line, status, &mistake);
        }
    }
    Fault::refused(400, format!("the head is malformed; it begins {}", quoted(bytes)))
}

fn request_line_mistake(line: &[u8]) -> Option<(u16, String)> {
    let words: Vec<&[u8]> = line.split(|byte| *byte == b' ').collect();
    if let Some(control) = control_character(line) {
        return Some((400, format!("holds {control}")));
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

fn header_mistake(line: &[u8]) -> Option<(u16, String)> {
    let colon = line.iter().position(|byte| *byte == b':');
    let name = &line[..colon.unwrap_or(line.len())];
    let mistake = if line.is_empty() {
        return None;
    } else if matches!(line[0], b' ' | b'\t') {
        "begins with a space, which folds it into the line before; that is not allowed any more".to_owned()
    } else if let Some(control) = control_character(line) {
        format!("holds {control}")
    } else if colon.is_none() {
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

fn malformed(number: usize, line: &[u8], status: u16, mistake: &str) -> Fault {
    Fault::refused(status, format!("line {number} of the request {mistake}: {}", quoted(line)))
}

/// RFC 9110, 5.6.2.
fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// A read that took longer than the time allowed is WouldBlock on Unix and TimedOut on Windows.
pub fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut)
}

/// Bytes that somebody sent, made safe to print: in quotes, escaped, and no longer than a line.
pub fn quoted(bytes: &[u8]) -> String {
    let mut text = String::from("\"");
    for chunk in bytes[..bytes.len().min(MAX_QUOTED_BYTES)].utf8_chunks() {
        for character in chunk.valid().chars() {
            match character {
                '\'' => text.push('\''),
                _ => text.extend(character.escape_debug()),
            }
        }
        text.push_str(&chunk.invalid().escape_ascii().to_string());
    }
    text + if bytes.len() > MAX_QUOTED_BYTES { "\"..." } else { "\"" }
}

/// What a client sent, as text. Bytes that are no UTF-8 come from clients that send Latin-1.
pub fn to_text(bytes: &[u8]) -> String {
    str::from_utf8(bytes).map_or_else(|_| bytes.iter().map(|byte| char::from(*byte)).collect(), str::to_owned)
}

/// 1234567 as 1,234,567 bytes.
pub fn in_bytes(number: u64) -> String {
    format!("{} {}", grouped(number), if number == 1 { "byte" } else { "bytes" })
}

/// 1234567 as 1,234,567.
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.char_indices() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Enough for any cookie; what nginx and Apache allow lies between 8 and 32 KiB.
pub const MAX_HEAD_BYTES: usize = 64 * 1024;
pub const MAX_HEADERS: usize = 100;
/// A size is 16 digits at the most; the rest are extensions, which nobody uses.
const MAX_CHUNK_LINE_BYTES: usize = 4 * 1024;
const MAX_QUOTED_BYTES: usize = 80;
const BEYOND_ASCII: &AsciiSet = &percent_encoding::AsciiSet::EMPTY;
