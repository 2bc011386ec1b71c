//! GET /xyz/api/cleaner/tasks/download: the file, ranges of it, and conditions.

use std::fs;
use std::path::Path;
use std::time::{Duration, SystemTime};

use tempfile::TempDir;

use crate::connection::Response;
use crate::support::{DOWNLOAD, Server, WITH_AND_WITHOUT_TLS, built_in, data_folder, text};

#[test]
fn download_is_the_built_in_zip_whatever_the_id() {
    for arguments in WITH_AND_WITHOUT_TLS {
        let server = Server::start(arguments);
        for query in ["", "?id=1", "?id=2", "?id=99", "?id=", "?id=x", "?id=1&id=2", "?other"] {
            let response = server.get(&format!("{DOWNLOAD}{query}"));

            assert_eq!(response.status, 200, "{query}");
            assert!(response.body == built_in("1797242037.zip"), "{query}");
        }
    }
}

#[test]
fn a_download_has_the_headers_that_flask_sends() {
    let (_folder, server) = serve(&content());

    let response = server.get(DOWNLOAD);

    for (name, value) in [
        ("Content-Type", "application/zip"),
        ("Content-Disposition", "attachment; filename=1797242037.zip"),
        ("Accept-Ranges", "bytes"),
        ("Cache-Control", "no-cache"),
        ("Last-Modified", LAST_MODIFIED),
        ("Content-Length", "4000"),
    ] {
        assert_eq!(response.header(name), Some(value), "{name}");
    }
    let tag = entity_tag(&server);
    assert!(tag.len() > 2 && tag.starts_with('"') && tag.ends_with('"'), "not strong: {tag}");
}

#[test]
fn head_of_a_download_has_the_headers_of_get_and_no_body() {
    let (_folder, server) = serve(&content());
    let get = server.get(DOWNLOAD);

    // `request` has asserted that nothing follows the head.
    let head = server.request("HEAD", DOWNLOAD, &[]);

    assert_eq!(head.status, 200);
    for (name, value) in &get.headers {
        if name != "Date" {
            assert_eq!(head.header(name), Some(value.as_str()), "{name}");
        }
    }
}

#[test]
fn a_range_is_answered_as_flask_does_or_rfc_9110_says() {
    const WHOLE: (u16, Option<&str>, (usize, usize)) = (200, None, (0, 4000));
    let (_folder, server) = serve(&content());
    for (range, (status, content_range, (start, end))) in [
        ("bytes=0-99", (206, Some("bytes 0-99/4000"), (0, 100))),
        ("bytes=100-", (206, Some("bytes 100-3999/4000"), (100, 4000))),
        ("bytes=-100", (206, Some("bytes 3900-3999/4000"), (3900, 4000))),
        ("bytes=0-0", (206, Some("bytes 0-0/4000"), (0, 1))),
        ("bytes=3999-3999", (206, Some("bytes 3999-3999/4000"), (3999, 4000))),
        ("bytes=0-3999", (206, Some("bytes 0-3999/4000"), (0, 4000))),
        // The end lies past the file, also past every integer.
        ("bytes=3000-9999", (206, Some("bytes 3000-3999/4000"), (3000, 4000))),
        ("bytes=1-99999999999999999999", (206, Some("bytes 1-3999/4000"), (1, 4000))),
        // A longer suffix is the whole file, as a part.
        ("bytes=-5000", (206, Some("bytes 0-3999/4000"), (0, 4000))),
        ("BYTES=0-99", (206, Some("bytes 0-99/4000"), (0, 100))),
        ("bytes= 0-99 ", (206, Some("bytes 0-99/4000"), (0, 100))),
        ("bytes = 0 - 99", (206, Some("bytes 0-99/4000"), (0, 100))),
        // Nothing to ignore, but not worth a multipart answer either.
        ("bytes=0-9,20-29", WHOLE),
        // An unknown unit and bad syntax are ignored.
        ("items=0-9", WHOLE),
        ("bytes", WHOLE),
        ("bytes=", WHOLE),
        ("bytes=-", WHOLE),
        ("bytes=a-b", WHOLE),
        ("bytes=0x10-", WHOLE),
        ("bytes=+1-2", WHOLE),
        ("bytes=1--2", WHOLE),
        ("garbage", WHOLE),
        ("", WHOLE),
    ] {
        let response = server.request("GET", DOWNLOAD, &[&format!("Range: {range}")]);

        assert_eq!(response.status, status, "{range}");
        assert_eq!(response.header("Content-Range"), content_range, "{range}");
        assert!(response.body == content()[start..end], "the bytes of {range}");
        assert_eq!(response.header("Content-Type"), Some("application/zip"), "{range}");
        assert!(response.header("ETag").is_some(), "{range}");
    }
}

#[test]
fn a_range_outside_of_the_file_is_416_with_its_size() {
    let (_folder, server) = serve(&content());
    for range in
        ["bytes=4000-", "bytes=4000-4001", "bytes=5000-6000", "bytes=99999999999999999999-", "bytes=-0", "bytes=10-5"]
    {
        let response = server.request("GET", DOWNLOAD, &[&format!("Range: {range}")]);

        assert_eq!(response.status, 416, "{range}");
        response.assert_error(416);
        assert_eq!(response.header("Content-Range"), Some("bytes */4000"), "{range}");
    }
}

#[test]
fn a_range_means_nothing_to_head() {
    let (_folder, server) = serve(&content());

    let response = server.request("HEAD", DOWNLOAD, &["Range: bytes=0-99"]);

    assert_eq!(response.status, 200);
    assert_eq!(response.content_length(), 4000);
}

#[test]
fn if_range_gives_the_part_only_of_the_same_file() {
    let (_folder, server) = serve(&content());
    let tag = entity_tag(&server);
    for (condition, status) in [
        (tag.as_str(), 206),
        (LAST_MODIFIED, 206),
        ("\"another\"", 200),
        ("Mon, 02 Nov 2020 10:00:01 GMT", 200),
        ("Sun, 01 Nov 2020 10:00:00 GMT", 200),
        ("garbage", 200),
    ] {
        let condition = format!("If-Range: {condition}");
        let response = server.request("GET", DOWNLOAD, &["Range: bytes=0-99", &condition]);

        assert_eq!(response.status, status, "{condition}");
        let length = if status == 206 { 100 } else { 4000 };
        assert_eq!(response.body.len(), length, "{condition}");
    }
}

#[test]
fn conditions_decide_between_the_file_and_304() {
    let (_folder, server) = serve(&content());
    let tag = entity_tag(&server);
    let newer = "If-Modified-Since: Tue, 03 Nov 2020 10:00:00 GMT";
    let older = "If-Modified-Since: Sun, 01 Nov 2020 10:00:00 GMT";
    let equal = format!("If-Modified-Since: {LAST_MODIFIED}");
    let same = format!("If-None-Match: {tag}");
    for (headers, status) in [
        (&[same.as_str()][..], 304),
        (&[&format!("If-None-Match: W/{tag}")], 304),
        (&[&format!("If-None-Match: \"another\", {tag}")], 304),
        (&[&format!("If-None-Match: W/\"a, b\",{tag},\"c\"")], 304),
        (&["If-None-Match: *"], 304),
        (&["If-None-Match: \"another\""], 200),
        (&["If-None-Match: garbage"], 200),
        (&["If-None-Match:"], 200),
        (&[&equal], 304),
        (&[newer], 304),
        (&[older], 200),
        (&["If-Modified-Since: Tue, 03 Nov 2020 10:00:00 -0000"], 304),
        (&["If-Modified-Since: Tue, 03 Nov 2020 10:00:00 UTC"], 304),
        (&["If-Modified-Since: Sun, 01 Nov 2020 10:00:00 -0000"], 200),
        (&["If-Modified-Since: Tue, 03 Nov 2020 10:00:00 +0100"], 200),
        (&["If-Modified-Since: garbage"], 200),
        (&["If-Modified-Since:"], 200),
        // If-Modified-Since is ignored when If-None-Match is there.
        (&["If-None-Match: \"another\"", newer], 200),
        (&[&same, older], 304),
        // 304 goes before a range.
        (&[&same, "Range: bytes=0-99"], 304),
    ] {
        for method in ["GET", "HEAD"] {
            // `request` has asserted that no body follows a 304.
            let response = server.request(method, DOWNLOAD, headers);

            assert_eq!(response.status, status, "{method} {headers:?}");
            assert_eq!(response.header("ETag"), Some(tag.as_str()), "{headers:?}");
            assert_eq!(response.header("Cache-Control"), Some("no-cache"), "{headers:?}");
        }
    }
}

#[test]
fn if_match_fails_with_412_instead_of_the_file() {
    let (_folder, server) = serve(&content());
    let tag = entity_tag(&server);
    for condition in [&tag, "*", &format!("\"another\", {tag}")] {
        let response = server.request("GET", DOWNLOAD, &[&format!("If-Match: {condition}")]);

        assert_eq!(response.status, 200, "{condition}");
        assert_eq!(response.body.len(), 4000, "{condition}");
    }
    for condition in ["\"another\"", "garbage"] {
        let response = server.request("GET", DOWNLOAD, &[&format!("If-Match: {condition}")]);

        assert_eq!(response.status, 412, "{condition}");
        response.assert_error(412);
    }
}

#[test]
fn a_changed_file_has_another_tag_and_breaks_no_resumed_download() {
    let (folder, server) = serve(&content());
    let old_tag = entity_tag(&server);
    let changed = vec![7; 5000];
    fs::write(folder.path().join("1797242037.zip"), &changed).expect("the new file");

    let resumed = [&format!("If-Range: {old_tag}"), "Range: bytes=100-"];
    let response = server.request("GET", DOWNLOAD, &resumed);

    assert_eq!(response.status, 200);
    assert!(response.body == changed, "the new file");
    assert_ne!(response.header("ETag"), Some(old_tag.as_str()));
}

#[test]
fn an_empty_file_is_200_with_no_bytes() {
    let (_folder, server) = serve(b"");

    let response = server.get(DOWNLOAD);
    assert_eq!(response.status, 200);
    assert_eq!(response.content_length(), 0);

    // No range lies in it.
    for range in ["0-", "0-99", "-5", "5-", "5-9", "-0", "9-5"] {
        let response = server.request("GET", DOWNLOAD, &[&format!("Range: bytes={range}")]);
        assert_eq!((response.status, response.content_length()), (200, 0), "{range}");
        assert_eq!(response.header("Content-Range"), None, "{range}");
    }
}

#[test]
fn a_file_of_the_future_was_not_modified_after_the_answer() {
    let (folder, server) = serve(&content());
    set_modified(&folder.path().join("1797242037.zip"), SystemTime::now() + Duration::from_secs(86_400));

    let response = server.get(DOWNLOAD);

    let [modified, date] = ["Last-Modified", "Date"]
        .map(|name| httpdate::parse_http_date(response.header(name).expect("a header")).expect("a date"));
    assert!(modified <= date && date < modified + Duration::from_secs(60), "{modified:?} {date:?}");
    let tag = format!("If-None-Match: {}", response.header("ETag").expect("a tag"));
    assert_eq!(server.request("GET", DOWNLOAD, &[&tag]).status, 304);
}

#[test]
fn another_file_of_the_folder_is_served_under_its_own_name_and_type() {
    let (folder, server) = serve(&content());
    let zip = folder.path().join("1797242037.zip");
    fs::rename(zip, folder.path().join("cleaner tool.txt")).expect("the file is there");

    let response = server.get(DOWNLOAD);

    assert_eq!(response.status, 200);
    let disposition = response.header("Content-Disposition").expect("a name");
    assert!(disposition.starts_with("attachment; filename=\"cleaner tool.txt\""), "{disposition}");
    let content_type = response.header("Content-Type").expect("a type");
    assert!(content_type.starts_with("text/plain"), "{content_type}");
}

#[test]
fn a_large_download_arrives_whole_and_needs_little_memory() {
    let large: Vec<u8> = content().into_iter().cycle().take(64 * 1024 * 1024 + 1).collect();
    let (_folder, server) = serve(&large);
    let mut connection = server.connect();
    for _ in 0..2 {
        connection.send(format!("GET {DOWNLOAD} HTTP/1.1\r\nHost: localhost\r\n\r\n"));
        let response = connection.read_response(false);

        assert_eq!(response.status, 200);
        assert!(response.body == large, "the download differs from the file");
    }
    #[cfg(target_os = "linux")]
    assert!(server.peak_memory_kib() < 30 * 1024, "{} KiB", server.peak_memory_kib());
}

/// 4,000 bytes, no hundred of which equals another.
fn content() -> Vec<u8> {
    (0..4000_u32).map(|i| (i * i / 7 + i).to_le_bytes()[0]).collect()
}

/// Starts a server whose download has this content, and was last modified at `LAST_MODIFIED`:
/// the present second would make every comparison of dates a race.
fn serve(content: &[u8]) -> (TempDir, Server) {
    let folder = data_folder();
    let zip = folder.path().join("1797242037.zip");
    fs::write(&zip, content).expect("the zip");
    set_modified(&zip, httpdate::parse_http_date(LAST_MODIFIED).expect("a date"));
    let server = Server::start(&["--data", text(folder.path())]);
    (folder, server)
}

/// The time of a file has fractions of a second, which HTTP dates leave out.
fn set_modified(path: &Path, time: SystemTime) {
    let file = fs::File::options().write(true).open(path).expect("the file is there");
    file.set_modified(time + Duration::from_millis(321)).expect("the owner may do so");
}

fn entity_tag(server: &Server) -> String {
    let response: Response = server.request("HEAD", DOWNLOAD, &[]);
    response.header("ETag").expect("ETag is there").to_owned()
}

const LAST_MODIFIED: &str = "Mon, 02 Nov 2020 10:00:00 GMT";
