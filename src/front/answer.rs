//! Sends an answer at the client's own pace: head and beginning of the body together, so that a small one is one
//! segment, and a file straight from the disk.

use crate::message::Reply;
use crate::text::grouped;
use std::io::{ErrorKind, Read, Write};
use std::thread;
use std::time::{Duration, SystemTime};

/// How many bytes of an answer's body were handed to the system, and why that is not all.
pub type Sent = (u64, Option<String>);

/// The head promises all; the body goes out up to each of these bytes, with a pause before the next.
pub fn send(stream: &mut impl Write, reply: &mut Reply, ends: &[u64]) -> Sent {
    let mut bytes_out = 0;
    let outcome = try_send(stream, reply, ends, &mut bytes_out);
    let (sent, all) = (grouped(bytes_out), grouped(reply.length_bytes));
    (bytes_out, outcome.err().map(|what| format!("{what} after {sent} of {all} bytes of the answer")))
}

/// The error says what went wrong.
fn try_send(stream: &mut impl Write, reply: &mut Reply, ends: &[u64], sent: &mut u64) -> Result<(), String> {
    let mut buffer = head_bytes(reply);
    for (index, end) in ends.iter().enumerate() {
        thread::sleep(if index == 0 { Duration::ZERO } else { PAUSE });
        loop {
            let before = buffer.len();
            let wanted = (end - *sent).min(PIECE_BYTES) as usize;
            buffer.resize(before + wanted, 0);
            let count = reply.body.read(&mut buffer[before..]);
            let count = count.map_err(|error| format!("the file could not be read any more ({error}),"))?;
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
