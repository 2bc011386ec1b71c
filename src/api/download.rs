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
    let validators = Validators::of(&download);
    let (length, warning) = (download.length_bytes, download.warning.clone());
    let mut reply = match failed_condition(request, &validators) {
        Some((header, 412)) => {
            let Validators { entity_tag: tag, modified } = &validators;
            Reply::error(412, format!("{header} does not hold: the file is {tag}, changed {modified}"))
        }
        Some((_, status)) => Reply::empty(status),
        // No range lies in an empty file; Flask and RFC 9110, 14.1.2 make it the whole of it.
        None => match range(request, &validators, length).filter(|_| length > 0) {
            None => content(download, &validators, 200, 0..length)?,
            Some((first, last)) if first < length && first <= last => {
                let last = last.min(length - 1);
                content(download, &validators, 206, first..last + 1)?
                    .with("Content-Range", format!("bytes {first}-{last}/{length}"))
            }
            Some(_) => {
                Reply::error(416, format!("the range asked for lies outside the file, which has {length} bytes"))
                    .with("Content-Range", format!("bytes */{length}"))
            }
        },
    };
    if reply.status < 400 {
        reply = reply
            .with("Last-Modified", validators.modified.to_string())
            .with("Cache-Control", "no-cache")
            .with("ETag", validators.entity_tag)
            .with("Accept-Ranges", "bytes");
    }
    reply.notes.findings.extend(check_id(&ids, &listed));
    reply.notes.advice = warning;
    Ok(reply)
}

/// The bytes in this range.
fn content(download: Download, validators: &Validators, status: u16, range: Range<u64>) -> Result<Reply, String> {
    let content_type = mime_guess::from_path(&download.name).first_or_octet_stream();
    let state = format!("{} {}", download.name, validators.entity_tag);
    let piece = Piece { state, file_bytes: download.length_bytes, first_byte: range.start };
    let body: Box<dyn Read + Send> = match download.file {
        Some(mut file) => {
            file.seek(SeekFrom::Start(range.start))
                .map_err(|error| format!("cannot read {}: {error}", download.name))?;
            Box::new(file)
        }
        None => Box::new(&BUILT_IN_DOWNLOAD[range.start as usize..]),
    };
    let mut reply = Reply::new(status, body, range.end - range.start)
        .with("Content-Type", content_type.essence_str())
        .with("Content-Disposition", disposition(&download.name));
    reply.notes.piece = Some(piece);
    Ok(reply)
}

/// What tells one state of a file from another.
struct Validators {
    entity_tag: String,
    /// To the second, as HTTP dates are, and not later than Date (RFC 9110, 8.8.2.1).
    modified: HttpDate,
}

impl Validators {
    fn of(download: &Download) -> Validators {
        let since_1970 = download.modified.duration_since(UNIX_EPOCH).unwrap_or_default();
        let entity_tag = format!("\"{:x}-{:x}\"", since_1970.as_nanos(), download.length_bytes);
        Validators { entity_tag, modified: download.modified.min(SystemTime::now()).max(UNIX_EPOCH).into() }
    }
}

/// The first condition that does not hold, with the status for it, in the order of RFC 9110, 13.2.2. A date that is none
/// is ignored.
fn failed_condition(request: &Request, validators: &Validators) -> Option<(&'static str, u16)> {
    let date_in = |header| request.header(header)?.parse::<HttpDate>().ok();
    let lists = |header, tag: &str| request.list(header).any(|own| own == b"*" || own == tag.as_bytes());
    let tag = validators.entity_tag.as_str();
    if request.header("If-Match").is_some() {
        if !lists("If-Match", tag) {
            return Some(("If-Match", 412));
        }
    } else if date_in("If-Unmodified-Since").is_some_and(|date| validators.modified > date) {
        return Some(("If-Unmodified-Since", 412));
    }
    if request.header("If-None-Match").is_some() {
        // The weak comparison: W/ makes no difference.
        let is_listed = lists("If-None-Match", tag) || lists("If-None-Match", &format!("W/{tag}"));
        return is_listed.then_some(("If-None-Match", 304));
    }
    date_in("If-Modified-Since").filter(|date| validators.modified <= *date).map(|_| ("If-Modified-Since", 304))
}

/// The first and the last byte of the range asked for; the last may be beyond the end. `None`: the whole file, as for
/// several ranges, another unit, and what is no range at all (RFC 9110, 14.2).
fn range(request: &Request, validators: &Validators, length: u64) -> Option<(u64, u64)> {
    let range = request.header("Range").filter(|_| request.method == "GET" && request.headers("Range").count() == 1)?;
    if let Some(state) = request.header("If-Range") {
        let same_date = state.parse().is_ok_and(|date: HttpDate| date == validators.modified);
        if state != validators.entity_tag && !same_date {
            return None;
        }
    }
    let (_, piece) = range.split_once('=').filter(|(unit, _)| unit.trim().eq_ignore_ascii_case("bytes"))?;
    let (first, last) = piece.split_once('-')?;
    match (first.trim(), last.trim()) {
        ("", suffix) => Some((length.saturating_sub(position(suffix)?), u64::MAX)),
        (first, "") => Some((position(first)?, u64::MAX)),
        (first, last) => Some((position(first)?, position(last)?)),
    }
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
