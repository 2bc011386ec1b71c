//! Words for people: how numbers and foreign bytes are written, and what is said where the program cannot start.

use std::fmt::Display;
use std::io;

/// Why the program cannot start, and what to do about it, on two lines.
pub struct Failure(pub String);

impl Failure {
    pub fn new(what: impl AsRef<str>, advice: impl AsRef<str>) -> Failure {
        Failure(format!("{}\n{}", what.as_ref(), advice.as_ref()))
    }

    /// Of an attempt, whose error stands behind `what`.
    pub fn of<E: Display>(what: impl Display, advice: &str) -> impl FnOnce(E) -> Failure {
        move |error| Failure::new(format!("{what}: {error}"), advice)
    }

    pub fn no_thread(error: io::Error) -> Failure {
        Failure::of("cannot start a thread", "close other programs")(error)
    }
}

/// Bytes that somebody sent, made safe to print: in quotes, escaped, and no longer than a line.
pub fn quoted(bytes: &[u8]) -> String {
    let dots = if bytes.len() > MAX_QUOTED_BYTES { "..." } else { "" };
    quoted_whole(&bytes[..bytes.len().min(MAX_QUOTED_BYTES)]) + dots
}

/// The same, however long.
pub fn quoted_whole(bytes: &[u8]) -> String {
    let mut text = String::new();
    for chunk in bytes.utf8_chunks() {
        let valid = format!("{:?}", chunk.valid());
        text.push_str(&valid[1..valid.len() - 1]);
        text.push_str(&chunk.invalid().escape_ascii().to_string());
    }
    format!("\"{text}\"")
}

/// What a client sent, without the quotes where it needs none.
pub fn shown(text: &str) -> String {
    let quoted = quoted(text.as_bytes());
    if quoted == format!("\"{text}\"") { text.to_owned() } else { quoted }
}

/// What a client sent, as text. Bytes that are no UTF-8 come from clients that send Latin-1.
pub fn to_text(bytes: &[u8]) -> String {
    str::from_utf8(bytes).map_or_else(|_| bytes.iter().map(|byte| char::from(*byte)).collect(), str::to_owned)
}

/// 1234567 as 1,234,567 bytes.
pub fn in_bytes(number: u64) -> String {
    counted(number, "byte")
}

/// So many things, e.g. 1 part or 2 parts.
pub fn counted(number: u64, thing: &str) -> String {
    format!("{} {thing}{}", grouped(number), if number == 1 { "" } else { "s" })
}

/// 1234567 as 1,234,567.
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let groups: Vec<&str> = digits.as_bytes().rchunks(3).rev().flat_map(str::from_utf8).collect();
    groups.join(",")
}

/// About a line.
const MAX_QUOTED_BYTES: usize = 80;
