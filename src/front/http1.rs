//! The head of an HTTP/1 request: read from bytes, checked, and what it says of the connection and the body. Whatever
//! is refused is refused with a sentence that names the thing. The rules are those of RFC 9112; where that leaves a
//! choice, the stricter one is taken.

use crate::message::{Finding, Reply, Request};
use crate::text::{grouped, in_bytes, quoted, shown, to_text};
use percent_encoding::AsciiSet;
use std::io::{BufRead, ErrorKind, Read, Take};
use std::net::Ipv6Addr;
use tempfile::SpooledTempFile;

/// The answer to a request that cannot be accepted; in a box, since errors are to be small.
pub type Refusal = Box<Reply>;

pub fn refusal(status: u16, sentence: impl Into<String>) -> Refusal {
    Box::new(Reply::error(status, sentence))
}

pub fn too_large(size: &str, max_bytes: u64) -> Refusal {
    let limit = in_bytes(max_bytes);
    refusal(413, format!("the body has {size} bytes; the limit is {limit} (see --max-upload)"))
}

/// Reads a head. `None`: the client closed, or was silent for the time allowed, before its first byte. Each line is
/// checked as it comes, so that a mistake is told as soon as it is made.
pub fn read_head(input: &mut impl BufRead) -> Result<Option<Request>, Refusal> {
    loop {
        match input.fill_buf() {
            Ok([]) | Err(_) => return Ok(None),
            // RFC 9112, 2.2: empty lines before a request are skipped.
            Ok([b'\r' | b'\n', ..]) => input.consume(1),
            // What is no HTTP may never end its line.
            Ok(bytes) if !is_token(&bytes[..1]) => {
                let line = bytes.split(|byte| *byte == b'\n').next().unwrap_or_default();
                return parse_request_line(line.strip_suffix(b"\r").unwrap_or(line)).map(Some);
            }
            Ok(_) => break,
        }
    }
    let mut input = input.by_ref().take(MAX_HEAD_BYTES + 1);
    let mut request = parse_request_line(&read_line(&mut input, 1)?)?;
    loop {
        let number = request.headers.len() + 2;
        let line = read_line(&mut input, number)?;
        if line.is_empty() {
            return Ok(Some(request));
        }
        if request.headers.len() == MAX_HEADERS {
            return Err(refusal(431, format!("the request has more than {MAX_HEADERS} headers")));
        }
        request.headers.push(parse_header(&line).map_err(|mistake| malformed(number, &line, 400, &mistake))?);
    }
}

/// The line of that number, without its end.
fn read_line(input: &mut Take<impl BufRead>, number: usize) -> Result<Vec<u8>, Refusal> {
    let mut line = Vec::new();
    let outcome = input.read_until(b'\n', &mut line);
    if input.limit() == 0 {
        let (limit, begin) = (in_bytes(MAX_HEAD_BYTES), quoted(&line));
        return Err(match number {
            1 => refusal(414, format!("the request target is longer than {limit}")),
            _ => refusal(431, format!("the head is longer than {limit}; line {number} begins {begin}")),
        });
    }
    match (outcome, line.as_slice()) {
        (_, [whole @ .., b'\r', b'\n']) => Ok(whole.to_vec()),
        (_, [bare @ .., b'\n']) => Err(malformed(number, bare, 400, "ends with LF alone, where HTTP wants CR LF")),
        (Ok(_), _) => Err(refusal(400, "the client closed the connection in the middle of the head")),
        (Err(error), _) if error.kind() == ErrorKind::TimedOut => {
            let seen = in_bytes(MAX_HEAD_BYTES + 1 - input.limit());
            Err(refusal(408, format!("the head did not end in time: {seen} came, but not the empty line")))
        }
        (Err(error), _) => Err(refusal(400, format!("the connection broke in the middle of the head: {error}"))),
    }
}

fn parse_request_line(line: &[u8]) -> Result<Request, Refusal> {
    refuse_controls(line).map_err(|mistake| malformed(1, line, 400, &mistake))?;
    let words: Vec<&[u8]> = line.split(|byte| *byte == b' ').collect();
    let (status, mistake) = match words.as_slice() {
        [_, _] => (400, "names no HTTP version, and HTTP/0.9 is not spoken"),
        [method, target, version] if is_token(method) && !target.is_empty() && !target.contains(&b'\t') => {
            match version.strip_prefix(b"HTTP/") {
                Some([b'2'..=b'9', ..] | [b'1', b'0'..=b'9', ..]) => {
                    (505, "asks for a later version of HTTP than 1.1, which is not spoken here")
                }
                Some([b'1', b'.', digit @ b'0'..=b'9']) if str::from_utf8(target).is_ok() => {
                    return Ok(Request {
                        method: to_text(method),
                        target: percent_encoding::percent_encode(target, BEYOND_ASCII).to_string(),
                        minor_version: digit - b'0',
                        headers: Vec::new(),
                        body: SpooledTempFile::new(MAX_MEMORY_BYTES),
                        body_bytes: 0,
                    });
                }
                Some([b'1', b'.', b'0'..=b'9']) => {
                    (400, "has a target that is neither ASCII nor UTF-8; percent-encode it")
                }
                _ => (400, "names an HTTP version that does not exist, or is not spoken here"),
            }
        }
        _ => (400, "is not a method, a target and HTTP/1.1, with one space between them"),
    };
    Err(malformed(1, line, status, mistake))
}

/// A header's name and value, or what is wrong with its line.
pub fn parse_header(line: &[u8]) -> Result<(String, Vec<u8>), String> {
    refuse_controls(line)?;
    let colon = line.iter().position(|byte| *byte == b':');
    let mistake = match colon.map(|colon| (&line[..colon], &line[colon + 1..])) {
        Some((name, value)) if is_token(name) => return Ok((to_text(name), value.trim_ascii().to_vec())),
        _ if line.starts_with(b" ") || line.starts_with(b"\t") => {
            "begins with a space, which folds it into the line before; that is not allowed any more"
        }
        None => "is a header without a colon",
        Some(([], _)) => "is a header without a name",
        Some(([.., b' ' | b'\t'], _)) => "has a space before the colon",
        Some(_) => "has a character in the header's name that must not be there",
    };
    Err(mistake.to_owned())
}

/// No line of a head may hold a control character: others may take some for its end.
fn refuse_controls(line: &[u8]) -> Result<(), String> {
    match line.iter().find(|byte| byte.is_ascii_control() && **byte != b'\t') {
        None => Ok(()),
        Some(0) => Err("holds a NUL".to_owned()),
        Some(b'\r') => Err("holds a CR that no LF follows".to_owned()),
        Some(other) => Err(format!("holds the control character 0x{other:02x}")),
    }
}

fn malformed(number: usize, line: &[u8], status: u16, mistake: &str) -> Refusal {
    refusal(status, format!("line {number} of the request {mistake}: {}", quoted(line)))
}

/// RFC 9110, 5.6.2.
pub fn is_token(bytes: &[u8]) -> bool {
    let is_token_byte = |byte: &u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte);
    !bytes.is_empty() && bytes.iter().all(is_token_byte)
}

/// What a strict server refuses in a head that can be read: a field that may stand once and does not, and a Host that
/// is none (RFC 9112, 3.2).
pub fn findings(request: &Request) -> Vec<Finding> {
    let check = |name: &&'static str| {
        let values: Vec<&[u8]> = request.headers(name).collect();
        let mut expected = format!("one {name} header");
        let (sentence, received) = match values.as_slice() {
            [] if *name == HOST && request.minor_version > 0 => {
                ("the request has no Host header, which HTTP/1.1 demands".to_owned(), "no Host".to_owned())
            }
            [host] if *name == HOST && !is_host(&to_text(host)) => {
                expected = "the name and port of the URL".to_owned();
                (format!("the Host {} is not a name or address with a port", quoted(host)), quoted(host))
            }
            [] | [_] => return None,
            values => {
                let each: Vec<String> = values.iter().map(|value| quoted(value)).collect();
                let sentence = format!("the request has {} {name} headers: {}", values.len(), each.join(" and "));
                (sentence, shown(&to_text(&values.join(&b", "[..]))))
            }
        };
        Some(Finding::new(400, sentence, &expected, &received))
    };
    ONCE.iter().filter_map(check).collect()
}

/// RFC 3986, 3.2.2 and 3.2.3, without those characters that no name of a machine has.
fn is_host(text: &str) -> bool {
    let port_at = text.rfind(':').filter(|at| !text[*at..].contains(']'));
    let (name, port) = text.split_at(port_at.unwrap_or(text.len()));
    let port = port.trim_start_matches(':');
    let is_port = port.is_empty() || port.bytes().all(|byte| byte.is_ascii_digit()) && port.parse::<u16>().is_ok();
    let is_name = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._~%".contains(&byte)) && !name.is_empty();
    let address = name.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    is_port && (is_name || address.is_some_and(|address| address.parse::<Ipv6Addr>().is_ok()))
}

/// Whether the client would send another request on this connection.
pub fn keeps_alive(request: &Request) -> bool {
    let lists = |word: &[u8]| request.list("Connection").any(|own| own.eq_ignore_ascii_case(word));
    if request.minor_version == 0 { lists(b"keep-alive") } else { !lists(b"close") }
}

/// Whether the client waits for a word before it sends the body.
pub fn expects_continue(request: &Request) -> Result<bool, Refusal> {
    let expected = request.list("Expect").filter(|own| !own.is_empty() && request.minor_version > 0);
    let (known, others): (Vec<&[u8]>, _) = expected.partition(|own| own.eq_ignore_ascii_case(b"100-continue"));
    let refused = |other: &&[u8]| format!("the only Expect that is understood is 100-continue, not {}", quoted(other));
    others.first().map_or(Ok(!known.is_empty()), |other| Err(refusal(417, refused(other))))
}

/// The length of the body, zero where the head declares none; `None`: it comes in chunks (RFC 9112, 6.3). Everything
/// that two readers of the same bytes could understand differently is refused, and so is a body that is declared longer
/// than the limit.
pub fn framing(request: &Request, max_body_bytes: u64) -> Result<Option<u64>, Refusal> {
    let lengths: Vec<&[u8]> = request.headers("Content-Length").collect();
    let encodings: Vec<&[u8]> = request.list("Transfer-Encoding").collect();
    let is_chunked = |encoding: &&[u8]| encoding.eq_ignore_ascii_case(b"chunked");
    match (lengths.as_slice(), encodings.as_slice()) {
        ([], []) => Ok(Some(0)),
        ([length], []) => content_length(length, max_body_bytes).map(Some),
        ([first, second, ..], []) => {
            Err(refusal(400, format!("Content-Length is there twice: {} and {}", quoted(first), quoted(second))))
        }
        ([], _) if request.minor_version == 0 => {
            Err(refusal(400, "the request has a Transfer-Encoding, which HTTP/1.0 does not know"))
        }
        ([], [encoding]) if is_chunked(encoding) => Ok(None),
        ([], [all_but_last @ .., _]) => {
            let shown = quoted(&encodings.join(&b", "[..]));
            Err(if all_but_last.iter().any(is_chunked) {
                refusal(400, format!("the Transfer-Encoding is {shown}: chunked must stand once, at the end"))
            } else {
                refusal(501, format!("the only Transfer-Encoding that is understood is chunked, not {shown}"))
            })
        }
        _ => Err(refusal(400, "the request has both Content-Length and Transfer-Encoding; send one of them")),
    }
}

fn content_length(value: &[u8], max_body_bytes: u64) -> Result<u64, Refusal> {
    // A sign, which std reads, is none of HTTP's.
    let digits = str::from_utf8(value).ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
    match digits.and_then(|digits| digits.parse().ok()) {
        Some(bytes) if bytes > max_body_bytes => Err(too_large(&grouped(bytes), max_body_bytes)),
        Some(bytes) => Ok(bytes),
        None => Err(refusal(400, format!("Content-Length is {}, which is no number of 64 bits", quoted(value)))),
    }
}

/// Enough for any cookie; what nginx and Apache allow lies between 8 and 32 KiB.
pub const MAX_HEAD_BYTES: u64 = 64 * 1024;
pub const MAX_HEADERS: usize = 100;
/// A larger body goes to a temporary file. 512 of these are 32 MiB.
const MAX_MEMORY_BYTES: usize = 64 * 1024;
const HOST: &str = "Host";
/// Those that mean something here.
const ONCE: [&str; 6] = [HOST, "Range", "If-Range", "Content-Type", "If-Modified-Since", "If-Unmodified-Since"];
const BEYOND_ASCII: &AsciiSet = &AsciiSet::EMPTY;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_a_name_or_an_address_with_or_without_a_port() {
        for host in ["a", "localhost:5000", "a.example:", "127.0.0.1:1", "a_b-c~%41", "[::1]", "[::1]:65535", "[::]:"] {
            assert!(is_host(host), "{host}");
        }
        for host in [
            "",
            ":",
            ":80",
            "a:b",
            "a:b:c",
            "a:80:80",
            "::1",
            "[",
            "[]",
            "]",
            "[a]",
            "[::1",
            "::1]",
            "[::1]80",
            "[::1]a:80",
            "a:65536",
            "a:+8",
            "a:-8",
            "a b",
            "a,b",
            "a/b",
            "http://a",
            "u@a",
            "\u{e4}",
        ] {
            assert!(!is_host(host), "{host}");
        }
    }
}
