//! GET /xyz/api/cleaner/tasks/download: the tool of a task, whole or in part, or not again.
//! Conditions and ranges follow RFC 9110, 13 and 14.

use super::data::{BUILT_IN_DOWNLOAD, Data, Download};
use super::tasks::check_id;
use crate::message::{Piece, Reply, Request};
use httpdate::HttpDate;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use std::io::{Read, Seek, SeekFrom};
use std::ops::Range;
use std::time::{SystemTime, UNIX_EPOCH};

pub fn download_tools(request: &Request, data: &Data) -> Result<Reply, String> {
    let (ids, listed) = (request.ids(), data.task_ids()?);
    let download = data.download(ids.first().map(String::as_str), &listed)?;
    let (tag, modified) = validators(&download);
    let (length, warning) = (download.length_bytes, download.warning.clone());
    let mut reply = match (failed_condition(request, &tag, modified), range(request, &tag, modified, length)) {
        (Some((header, 412)), _) => {
            Reply::error(412, format!("{header} does not hold: the file is {tag}, changed {modified}"))
        }
        (Some((_, status)), _) => Reply::empty(status),
        (None, Some(range)) if range.is_empty() => {
            Reply::error(416, format!("the range asked for lies outside the file, which has {length} bytes"))
                .with("Content-Range", format!("bytes */{length}"))
        }
        (None, range) => content(download, &tag, range)?,
    };
    if reply.status < 400 {
        reply = reply
            .with("Last-Modified", modified.to_string())
            .with("Cache-Control", "no-cache")
            .with("ETag", tag)
            .with("Accept-Ranges", "bytes");
    }
    reply.notes.findings.extend(check_id(&ids, &listed));
    reply.notes.advice = warning;
    Ok(reply)
}

/// All of the file, or the range of it.
fn content(download: Download, tag: &str, range: Option<Range<u64>>) -> Result<Reply, String> {
    let Download { name, length_bytes: file_bytes, .. } = download;
    let status = if range.is_some() { 206 } else { 200 };
    let range = range.unwrap_or(0..file_bytes);
    let Range { start, end } = range;
    let body: Box<dyn Read + Send> = match download.file {
        None => Box::new(&BUILT_IN_DOWNLOAD[start as usize..]),
        Some(mut file) => {
            file.seek(SeekFrom::Start(start)).map_err(|error| format!("cannot read {name}: {error}"))?;
            Box::new(file)
        }
    };
    let content_type = mime_guess::from_path(&name).first_or_octet_stream();
    let mut reply = Reply::new(status, body, end - start)
        .with("Content-Type", content_type.essence_str())
        .with("Content-Disposition", disposition(&name));
    if status == 206 {
        reply = reply.with("Content-Range", format!("bytes {start}-{}/{file_bytes}", end - 1));
    }
    let state = format!("{name} {tag}");
    reply.notes.piece = Some(Piece { state, file_bytes, range });
    Ok(reply)
}

/// What tells one state of a file from another: its entity tag, and when it changed, to the second, as HTTP dates are, and
/// not later than Date (RFC 9110, 8.8.2.1).
fn validators(download: &Download) -> (String, HttpDate) {
    let since_1970 = download.modified.duration_since(UNIX_EPOCH).unwrap_or_default();
    let tag = format!("\"{:x}-{:x}\"", since_1970.as_nanos(), download.length_bytes);
    (tag, download.modified.min(SystemTime::now()).max(UNIX_EPOCH).into())
}

/// The first condition that does not hold, with the status for it, in the order of RFC 9110, 13.2.2. A date that is none
/// is ignored.
fn failed_condition(request: &Request, tag: &str, modified: HttpDate) -> Option<(&'static str, u16)> {
    let date_in = |header| date(&request.header(header)?);
    let lists = |header, tag: &str| request.list(header).any(|own| own == b"*" || own == tag.as_bytes());
    if request.header("If-Match").is_some() {
        if !lists("If-Match", tag) {
            return Some(("If-Match", 412));
        }
    } else if date_in("If-Unmodified-Since").is_some_and(|date| modified > date) {
        return Some(("If-Unmodified-Since", 412));
    }
    if request.header("If-None-Match").is_some() {
        // The weak comparison: W/ makes no difference.
        let is_listed = lists("If-None-Match", tag) || lists("If-None-Match", &format!("W/{tag}"));
        return is_listed.then_some(("If-None-Match", 304));
    }
    date_in("If-Modified-Since").filter(|date| modified <= *date).map(|_| ("If-Modified-Since", 304))
}

/// Python's email package writes GMT as -0000.
fn date(text: &str) -> Option<HttpDate> {
    let rest = ["-0000", "+0000", "UTC"].iter().find_map(|zone| text.strip_suffix(zone));
    rest.map_or(text.to_owned(), |rest| format!("{rest}GMT")).parse().ok()
}

/// What the range asked for has of the file, maybe nothing. `None`: the whole file, as for several ranges, another unit,
/// and what is no range at all (RFC 9110, 14.2); also for an empty file, as in Flask and RFC 9110, 14.1.2.
fn range(request: &Request, tag: &str, modified: HttpDate, length: u64) -> Option<Range<u64>> {
    let is_one = request.method == "GET" && request.headers("Range").count() == 1 && length > 0;
    let range = request.header("Range").filter(|_| is_one)?;
    if request.header("If-Range").is_some_and(|state| state != tag && date(&state) != Some(modified)) {
        return None;
    }
    let (_, piece) = range.split_once('=').filter(|(unit, _)| unit.trim().eq_ignore_ascii_case("bytes"))?;
    let (first, last) = piece.split_once('-')?;
    let (first, last) = match (first.trim(), last.trim()) {
        ("", suffix) => (length.saturating_sub(position(suffix)?), u64::MAX),
        (first, "") => (position(first)?, u64::MAX),
        (first, last) => (position(first)?, position(last)?),
    };
    Some(first..length.min(last.saturating_add(1)))
}

/// Digits only; a number beyond 64 bits is beyond every file.
fn position(digits: &str) -> Option<u64> {
    let all_digits = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    all_digits.then(|| digits.parse().unwrap_or(u64::MAX))
}

/// RFC 6266. A plain name stays unquoted, as Flask has it; another gets a form for every client besides its own.
fn disposition(name: &str) -> String {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$&+-.^_`|~".contains(&byte);
    if name.bytes().all(is_plain) {
        return format!("attachment; filename={name}");
    }
    let simple: String =
        name.chars().map(|c| if matches!(c, ' '..='~') && !"\"\\%".contains(c) { c } else { '_' }).collect();
    format!("attachment; filename=\"{simple}\"; filename*=UTF-8''{}", utf8_percent_encode(name, NON_ALPHANUMERIC))
}
