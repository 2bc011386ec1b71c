//! Sends an answer at the client's own pace: head and beginning of the body together, so that a small one is one
//! segment, and a file straight from the disk.

use crate::message::Reply;
use crate::text::grouped;
use std::io::{ErrorKind, Read, Write};
use std::thread;
use std::time::{Duration, SystemTime};

/// What became of an answer.
pub struct Sent {
    /// Of the body, handed to the system.
    pub body_bytes: u64,
    /// Why that is not all.
    pub trouble: Option<String>,
}

/// `omits_body`: it is the answer to HEAD.
pub fn send(stream: &mut impl Write, reply: &mut Reply, omits_body: bool) -> Sent {
    let end = if omits_body { 0 } else { reply.length_bytes };
    send_in_pieces(stream, reply, &[end])
}

/// The head promises all; the body goes out up to each of these bytes, with a pause before the next.
pub fn send_in_pieces(stream: &mut impl Write, reply: &mut Reply, ends: &[u64]) -> Sent {
    let (mut body_bytes, length) = (0, grouped(reply.length_bytes));
    let outcome = copy(head_bytes(reply), &mut reply.body, ends, stream, &mut body_bytes);
    let trouble = outcome.err().map(|what| format!("{what} after {} of {length} bytes", grouped(body_bytes)));
    Sent { body_bytes, trouble }
}

/// Sends what is in the buffer, and the body behind it up to each of the ends. The error says what went wrong.
fn copy(
    mut buffer: Vec<u8>,
    body: &mut impl Read,
    ends: &[u64],
    stream: &mut impl Write,
    sent: &mut u64,
) -> Result<(), String> {
    for (index, end) in ends.iter().enumerate() {
        thread::sleep(if index == 0 { Duration::ZERO } else { PAUSE });
        loop {
            let before = buffer.len();
            let wanted = (end - *sent).min(PIECE_BYTES) as usize;
            buffer.resize(before + wanted, 0);
            let count = body
                .read(&mut buffer[before..])
                .map_err(|error| format!("the file could not be read any more ({error}),"))?;
            stream.write_all(&buffer[..before + count]).map_err(|error| match error.kind() {
                ErrorKind::TimedOut => "the client stopped reading",
                _ => "the client closed the connection",
            })?;
            *sent += count as u64;
            buffer.clear();
            if sent == end {
                break;
            }
            if count == 0 {
                return Err("the file became shorter while it was sent,".to_owned());
            }
        }
    }
    Ok(())
}

fn head_bytes(reply: &Reply) -> Vec<u8> {
    let status = tiny_http::StatusCode(reply.status);
    let date = httpdate::HttpDate::from(SystemTime::now());
    let mut head =
        format!("HTTP/1.1 {} {}\r\nServer: {SERVER}\r\nDate: {date}\r\n", reply.status, status.default_reason_phrase());
    for (name, value) in &reply.headers {
        head.extend([name, ": ", value, "\r\n"]);
    }
    // A 304 has no body, and its length would be that of the 200 (RFC 9110, 8.6).
    if reply.status != 304 {
        head.push_str(&format!("Content-Length: {}\r\n", reply.length_bytes));
    }
    head.push_str("\r\n");
    head.into_bytes()
}

const PIECE_BYTES: u64 = 32 * 1024;
const PAUSE: Duration = Duration::from_millis(500);
const SERVER: &str = concat!("cleaner-test-server/", env!("CARGO_PKG_VERSION"));
