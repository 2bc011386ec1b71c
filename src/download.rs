//! GET /xyz/api/cleaner/tasks/download: the tool of a task, whole or in part, or not again.
//! Conditions and ranges follow RFC 9110, 13 and 14.

use crate::data::{Content, Data, Download};
use crate::reply::{Body, FilePiece, Reply};
use crate::server::Request;
use crate::tasks::check_id;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

pub fn download_tools(request: &Request, data: &Data) -> Result<Reply, String> {
    let id = request.id();
    let download = data.download(id)?;
    let validators = Validators::of(&download);
    let length = download.length_bytes;
    let mut reply = match failed_condition(request, &validators) {
        Some(Condition { header, status: 412 }) => {
            let Validators { entity_tag, modified } = &validators;
            Reply::error(412, format!("{header} does not hold: the file is {entity_tag}, changed {}", date(*modified)))
        }
        Some(Condition { status, .. }) => Reply::empty(status),
        None => match range(request, &validators, length) {
            Range::Whole => content(download, 200, 0, length),
            Range::Piece { first, last } => content(download, 206, first, last - first + 1)
                .with("Content-Range", format!("bytes {first}-{last}/{length}")),
            Range::Outside => {
                Reply::error(416, format!("the range asked for lies outside the file, which has {length} bytes"))
                    .with("Content-Range", format!("bytes */{length}"))
            }
        },
    };
    if reply.status < 400 {
        reply = reply
            .with("Last-Modified", date(validators.modified))
            .with("Cache-Control", "no-cache")
            .with("ETag", validators.entity_tag)
            .with("Accept-Ranges", "bytes");
    }
    reply.learnt.findings.extend(check_id(id, data)?);
    Ok(reply)
}

fn content(download: Download, status: u16, start_byte: u64, length_bytes: u64) -> Reply {
    let content_type = mime_guess::from_path(&download.name).first_or_octet_stream();
    let body = match download.content {
        Content::File(file) => Body::File(FilePiece { file, start_byte, length_bytes }),
        Content::BuiltIn(bytes) => {
            let bytes = bytes.iter().skip(start_byte as usize).take(length_bytes as usize);
            Body::Bytes(bytes.copied().collect())
        }
    };
    Reply::new(status, body)
        .with("Content-Type", content_type.essence_str())
        .with("Content-Disposition", disposition(&download.name))
}

/// What tells one state of a file from another.
struct Validators {
    entity_tag: String,
    /// To the second, as HTTP dates are.
    modified: SystemTime,
}

impl Validators {
    fn of(download: &Download) -> Validators {
        let since_1970 = download.modified.duration_since(UNIX_EPOCH).unwrap_or_default();
        Validators {
            entity_tag: format!("\"{:x}-{:x}\"", since_1970.as_nanos(), download.length_bytes),
            modified: UNIX_EPOCH + Duration::from_secs(since_1970.as_secs()),
        }
    }
}

struct Condition {
    header: &'static str,
    status: u16,
}

/// The first condition that does not hold, in the order of RFC 9110, 13.2.2. A date that is none is ignored.
fn failed_condition(request: &Request, validators: &Validators) -> Option<Condition> {
    let date_in = |header| httpdate::parse_http_date(request.header(header)?).ok();
    if let Some(tags) = request.header("If-Match") {
        if !lists(tags, &validators.entity_tag) {
            return Some(Condition { header: "If-Match", status: 412 });
        }
    } else if date_in("If-Unmodified-Since").is_some_and(|date| validators.modified > date) {
        return Some(Condition { header: "If-Unmodified-Since", status: 412 });
    }
    if let Some(tags) = request.header("If-None-Match") {
        // The weak comparison: W/ makes no difference.
        if lists(&tags.replace("W/", ""), &validators.entity_tag) {
            return Some(Condition { header: "If-None-Match", status: 304 });
        }
    } else if date_in("If-Modified-Since").is_some_and(|date| validators.modified <= date) {
        return Some(Condition { header: "If-Modified-Since", status: 304 });
    }
    None
}

fn lists(tags: &str, entity_tag: &str) -> bool {
    tags.split(',').map(str::trim).any(|tag| tag == "*" || tag == entity_tag)
}

enum Range {
    Whole,
    Piece { first: u64, last: u64 },
    Outside,
}

/// One range of bytes. Several, another unit, and what is no range at all mean the whole file (RFC 9110, 14.2).
fn range(request: &Request, validators: &Validators, length: u64) -> Range {
    let Some(range) = request.header("Range").filter(|_| request.method() == "GET") else { return Range::Whole };
    if let Some(state) = request.header("If-Range") {
        let same_date = httpdate::parse_http_date(state).is_ok_and(|date| date == validators.modified);
        if state != validators.entity_tag && !same_date {
            return Range::Whole;
        }
    }
    let piece = range.split_once('=').filter(|(unit, _)| unit.trim().eq_ignore_ascii_case("bytes"));
    let Some((first, last)) = piece.and_then(|(_, piece)| piece.split_once('-')) else { return Range::Whole };
    let (first, last) = match (first.trim(), last.trim()) {
        ("", suffix) => match position(suffix) {
            Some(suffix) => (length.saturating_sub(suffix), u64::MAX),
            None => return Range::Whole,
        },
        (first, "") => match position(first) {
            Some(first) => (first, u64::MAX),
            None => return Range::Whole,
        },
        (first, last) => match (position(first), position(last)) {
            (Some(first), Some(last)) => (first, last),
            _ => return Range::Whole,
        },
    };
    if first >= length || first > last {
        return Range::Outside;
    }
    Range::Piece { first, last: last.min(length - 1) }
}

/// Digits only; a number beyond 64 bits is beyond every file.
fn position(digits: &str) -> Option<u64> {
    let all_digits = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    all_digits.then(|| digits.parse().unwrap_or(u64::MAX))
}

fn date(time: SystemTime) -> String {
    httpdate::fmt_http_date(time)
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
