//! Trouble on purpose (--fault): which request meets it, and how its answer goes wrong. What is wrong with a certificate
//! is in certificate.rs.

use super::answer::{Sent, send};
use super::socket::is_passing;
use super::tls::Stream;
use crate::message::{Fault, Finding, Reply, Request};
use crate::text::grouped;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// How many requests have come for each step.
pub type Turns = [AtomicU64; 3];

/// A certificate meets all; the others every other request of a step, so that a client that tries again gets through.
/// `request`: `None` where it did not come whole.
pub fn met(fault: Fault, turns: &Turns, request: Option<&Request>) -> bool {
    let is_turn = |turn: &AtomicU64| turn.fetch_add(1, Ordering::Relaxed).is_multiple_of(2);
    let step = request.and_then(Request::step);
    fault.is_of_certificate() || step.is_some_and(|step| is_turn(&turns[step]))
}

/// The reply that `--fault unavailable` puts in the place of another.
pub fn unavailable(other: Reply) -> Reply {
    let mut reply = Reply::error(503, UNAVAILABLE).with("Retry-After", "1");
    (reply.notes.findings, reply.notes.parts) = (other.notes.findings, other.notes.parts);
    reply
}

/// Sends what the fault, if any, makes of the answer to a request; `None`: to one that could not be read.
pub fn send_with(fault: Option<Fault>, stream: &mut Stream, reply: &mut Reply, request: Option<&Request>) -> Sent {
    let length = reply.length_bytes;
    match fault {
        Some(Fault::Reset) => {
            stream.socket.reset_at_end();
            (0, Some("reset instead of an answer".to_owned()))
        }
        // An answer without a body has no middle.
        Some(Fault::Cut) if length > 0 => {
            let (bytes_out, trouble) = send(stream, reply, &[length / 2]);
            let cut = || format!("cut after {} of {} bytes", grouped(length / 2), grouped(length));
            (bytes_out, trouble.or_else(|| Some(cut())))
        }
        Some(Fault::Slow) => {
            let ends: Vec<u64> = (0..=PIECES).map(|piece| length * piece / PIECES).collect();
            send(stream, reply, &ends)
        }
        Some(Fault::Hang) => hang(stream, reply),
        _ if request.is_some_and(|request| request.method == "HEAD") => send(stream, reply, &[0]),
        _ => send(stream, reply, &[length]),
    }
}

/// Leaves the client without an answer until it gives up, or the timeout is over.
fn hang(stream: &mut Stream, reply: &mut Reply) -> Sent {
    let (began, timeout, mut is_there) = (Instant::now(), stream.socket.timeout, true);
    while is_there && began.elapsed() < timeout {
        let left = timeout.saturating_sub(began.elapsed()).max(Duration::from_millis(1));
        is_there = stream.socket.look(left).map_or_else(|error| is_passing(&error), |count| count > 0);
    }
    // In whole ones, so that the same sentence is the same.
    let seconds = began.elapsed().as_secs_f64().round();
    if is_there {
        let sentence = format!("the client waited {seconds} s, until the server closed the connection");
        let expected = "a timeout of its own, shorter than --timeout";
        reply.notes.findings.push(Finding::new(408, sentence, expected, "no timeout, or a longer one"));
    }
    (0, Some(format!("no answer for {seconds} s")))
}

/// In which a slow answer comes.
const PIECES: u64 = 10;
const UNAVAILABLE: &str = "the server is not available for a moment (--fault unavailable): try again";
