//! The body of an HTTP/1 request, read by the framing that its head declares.

use super::http1::{self, MAX_HEAD_BYTES, Refusal, is_token, parse_header, refusal, too_large};
use crate::message::Request;
use crate::text::{grouped, in_bytes, quoted};
use std::io::{self, BufRead, BufReader, ErrorKind, Read, Seek, Write};

/// Makes a request whole. Broken off with a refusal beyond `max_bytes`.
pub fn read(input: &mut BufReader<impl Read + Write>, request: &mut Request, max_bytes: u64) -> Result<(), Refusal> {
    let length = http1::framing(request, max_bytes)?;
    let expects_continue = http1::expects_continue(request)?;
    if length == Some(0) {
        return Ok(());
    }
    if expects_continue && input.buffer().is_empty() {
        // Where this fails the client is gone, and reading the body says so.
        input.get_mut().write_all(b"HTTP/1.1 100 Continue\r\n\r\n").ok();
    }
    let sink = &mut request.body;
    let read = match length {
        Some(length) => copy(input, length, sink, |received| format!("{} of {}", grouped(received), in_bytes(length))),
        None => read_chunks(input, max_bytes, sink),
    };
    request.body_bytes = request.body.stream_position().map_err(not_stored)?;
    read?;
    request.body.rewind().map_err(not_stored)
}

/// RFC 9112, 7.1. Chunk extensions and trailers are skipped.
fn read_chunks(input: &mut impl BufRead, max_bytes: u64, sink: &mut impl Write) -> Result<(), Refusal> {
    let mut total = 0;
    loop {
        let line = read_chunk_line(input, total, "the size of a chunk")?;
        let Some(size) = chunk_size(&line) else {
            let form = "a hexadecimal number, with or without extensions";
            return Err(refusal(400, format!("{} is not the size of a chunk, which is {form}", quoted(&line))));
        };
        if size == 0 {
            break;
        }
        if size > max_bytes - total {
            let more = format!("more than {}", grouped(total.saturating_add(size) - 1));
            return Err(too_large(&more, max_bytes));
        }
        copy(input, size, sink, |received| format!("{}, in the middle of a chunk,", in_bytes(total + received)))?;
        total += size;
        if !read_chunk_line(input, total, "the end of a chunk")?.is_empty() {
            return Err(refusal(400, format!("a chunk is longer than its size, {}, says", in_bytes(size))));
        }
    }
    let mut trailer_bytes = 0;
    while trailer_bytes <= MAX_HEAD_BYTES {
        let line = read_chunk_line(input, total, "a trailer")?;
        if line.is_empty() {
            return Ok(());
        }
        trailer_bytes += line.len() as u64;
        parse_header(&line).map_err(|mistake| refusal(400, format!("a trailer {mistake}: {}", quoted(&line))))?;
    }
    Err(refusal(400, format!("the trailers are longer than {}", in_bytes(MAX_HEAD_BYTES))))
}

/// RFC 9112, 7.1. Extensions, which nobody uses, must begin with a name; nothing in them may be taken for the end of the
/// line, and what else they are is not looked at.
fn chunk_size(line: &[u8]) -> Option<u64> {
    let digits = line.iter().position(|byte| !byte.is_ascii_hexdigit()).unwrap_or(line.len());
    let (digits, extensions) = line.split_at(digits);
    let mut pieces = extensions.split(|byte| *byte == b';');
    let are_named = pieces.next() == Some(b"")
        && pieces.all(|piece| piece.trim_ascii_start().first().is_some_and(|first| is_token(&[*first])));
    let size = u64::from_str_radix(str::from_utf8(digits).ok()?, 16).ok()?;
    (are_named && !line.iter().any(u8::is_ascii_control)).then_some(size)
}

/// The next line, without its end.
fn read_chunk_line(input: &mut impl BufRead, received: u64, what: &str) -> Result<Vec<u8>, Refusal> {
    let mut line = Vec::new();
    let outcome = input.by_ref().take(MAX_CHUNK_LINE_BYTES + 1).read_until(b'\n', &mut line);
    if line.len() as u64 > MAX_CHUNK_LINE_BYTES {
        return Err(refusal(400, format!("{what} takes more than {}", in_bytes(MAX_CHUNK_LINE_BYTES))));
    }
    match line.as_slice() {
        [whole @ .., b'\r', b'\n'] => Ok(whole.to_vec()),
        [.., b'\n'] => Err(refusal(400, format!("the line with {what} ends with LF alone, where HTTP wants CR LF"))),
        _ => Err(broken_off(outcome.err(), &format!("{}, before {what},", in_bytes(received)))),
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
        let available = match input.fill_buf() {
            Ok(available) if !available.is_empty() => available,
            end => return Err(broken_off(end.err(), &progress(received))),
        };
        let piece = available.len().min(usize::try_from(length - received).unwrap_or(usize::MAX));
        sink.write_all(&available[..piece]).map_err(not_stored)?;
        input.consume(piece);
        received += piece as u64;
    }
    Ok(())
}

/// Without an error the client has closed the connection.
fn broken_off(error: Option<io::Error>, progress: &str) -> Refusal {
    match error.map(|error| error.kind()) {
        None => refusal(400, format!("the client closed the connection after {progress} of the body")),
        Some(ErrorKind::TimedOut) => refusal(408, format!("the client fell silent after {progress} of the body")),
        Some(_) => refusal(400, format!("the connection broke after {progress} of the body")),
    }
}

/// A full disk, mostly.
fn not_stored(error: io::Error) -> Refusal {
    refusal(507, format!("cannot store the body in {}: {error}", std::env::temp_dir().display()))
}

/// A size needs 16 digits; the rest are zeros before it and extensions, which nobody uses.
const MAX_CHUNK_LINE_BYTES: u64 = 4 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chunk_size_is_digits_and_extensions() {
        for (line, size) in [
            (&b"5"[..], 5),
            (b"0", 0),
            (b"00000000000000000000000fF", 255),
            (b"ffffffffffffffff", u64::MAX),
            (b"5;a", 5),
            (b"5;a=b;c=\"d;e=\xff \";f", 5),
            (b"5; a", 5),
            (b"5;a ;b", 5),
        ] {
            assert_eq!(chunk_size(line), Some(size), "{}", line.escape_ascii());
        }
        for line in [
            &b""[..],
            b" 5",
            b"5 ",
            b"5\t",
            b"5 ;a",
            b"+5",
            b"-5",
            b"0x5",
            b"5_0",
            b"5,",
            b"5\0",
            b"10000000000000000",
            b";a",
            b"5;",
            b"5;;a",
            b"5;=b",
            b"5; ",
            b"5;a;",
            b"5;\"a\"",
            b"5;a\0",
            b"5;a=b\0",
            b"5;a=\"b\0\"",
            b"5;a\rb",
            b"5;\x7f",
        ] {
            assert!(chunk_size(line).is_none(), "{}", line.escape_ascii());
        }
    }
}
