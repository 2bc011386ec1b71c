//! The ways in which browsers, curl, Python, .NET, Node and others write the parts of a report: the journal says what
//! their developers meant, or there is a finding.

use serde_json::{Value, json};

use crate::api::report::{MULTIPART, form, text_part};
use crate::support::{REPORT, Server, sha256};

/// Who writes a head so, the head, and what it means: the field and the file name.
type Head = (&'static str, &'static [u8], &'static str, Option<&'static str>);

const HEADS: &[Head] = &[
    (
        "browsers",
        b"Content-Disposition: form-data; name=\"file\"; filename=\"a b.zip\"\r\nContent-Type: application/zip",
        "file",
        Some("a b.zip"),
    ),
    (
        "a quote in browsers, urllib3 and Node",
        b"Content-Disposition: form-data; name=\"file\"; filename=\"a%22b.zip\"",
        "file",
        Some("a\"b.zip"),
    ),
    (
        "UTF-8 in browsers, urllib3 and Node",
        b"Content-Disposition: form-data; name=\"f\xc3\xbcr\"; filename=\"\xe2\x82\xac \xe6\x97\xa5.zip\"",
        "für",
        Some("€ 日.zip"),
    ),
    ("a text field in a browser", b"Content-Disposition: form-data; name=\"note\"", "note", None),
    (
        "a browser without a chosen file",
        b"Content-Disposition: form-data; name=\"file\"; filename=\"\"\r\nContent-Type: application/zip",
        "file",
        Some(""),
    ),
    (
        "an old browser on Windows",
        b"Content-Disposition: form-data; name=\"file\"; filename=\"C:\\dir\\x.zip\"",
        "file",
        Some("C:\\dir\\x.zip"),
    ),
    (
        "curl's escapes",
        b"Content-Disposition: form-data; name=\"file\"; filename=\"a\\\"b\\\\c.zip\"",
        "file",
        Some("a\"b\\c.zip"),
    ),
    (
        "curl with a semicolon",
        b"Content-Disposition: form-data; name=\"a;b\"; filename=\"x; filename=y.zip\"",
        "a;b",
        Some("x; filename=y.zip"),
    ),
    (
        "urllib3 1 and requests",
        b"Content-Disposition: form-data; name=\"file\"; filename*=utf-8''na%C3%AFve%20%E2%82%AC.zip",
        "file",
        Some("naïve €.zip"),
    ),
    (
        ".NET",
        b"Content-Type: application/zip\r\n\
          Content-Disposition: form-data; name=file; filename=x.zip; filename*=utf-8''x.zip",
        "file",
        Some("x.zip"),
    ),
    (
        ".NET with an umlaut",
        b"Content-Disposition: form-data; name=file; filename=\"=?utf-8?B?w7wuemlw?=\"; filename*=utf-8''%C3%BC.zip",
        "file",
        Some("ü.zip"),
    ),
    (
        "both, the other way round",
        b"Content-Disposition: form-data; name=\"file\"; filename*=UTF-8'en'%e2%82%ac.zip; filename=\"EUR.zip\"",
        "file",
        Some("€.zip"),
    ),
    (
        "Latin-1 after RFC 5987",
        b"Content-Disposition: form-data; name=\"file\"; filename*=iso-8859-1''%FC.zip",
        "file",
        Some("ü.zip"),
    ),
    (
        "Latin-1 bytes",
        b"Content-Disposition: form-data; name=\"f\xfcr\"; filename=\"gr\xfc\xdfe.zip\"",
        "für",
        Some("grüße.zip"),
    ),
    (
        "unquoted",
        b"Content-Disposition: form-data; name=file; filename=C:\\dir\\a b.zip",
        "file",
        Some("C:\\dir\\a b.zip"),
    ),
    (
        "without spaces, in capitals",
        b"CONTENT-DISPOSITION:FORM-DATA;NAME=\"file\";FILENAME=\"x.zip\"\r\ncontent-type:application/zip",
        "file",
        Some("x.zip"),
    ),
    (
        "with spaces",
        b"Content-Disposition :  form-data ; name = \"file\" ; filename = \"x.zip\" ; ",
        "file",
        Some("x.zip"),
    ),
    (
        "the file name first",
        b"Content-Disposition: form-data; filename=\"x.zip\"; name=\"file\"",
        "file",
        Some("x.zip"),
    ),
    (
        "Content-Disposition last of many",
        b"Content-Type: application/zip\r\nContent-Length: 5\r\nContent-ID: 1\r\nX-A: 1\r\nX-B: 2\r\nX-C: 3\r\n\
          Content-Transfer-Encoding: binary\r\nContent-Disposition: form-data; name=\"file\"; filename=\"x.zip\"",
        "file",
        Some("x.zip"),
    ),
    (
        "a line feed in a value",
        b"Content-Disposition: form-data; name=\"a\nb\"; filename=\"x\ny.zip\"",
        "a\nb",
        Some("x\ny.zip"),
    ),
    (
        "folded lines, as mail libraries write them",
        b"Content-Disposition: form-data;\r\n name=\"file\";\r\n\tfilename=\"x.zip\"\r\nContent-Type: application/zip",
        "file",
        Some("x.zip"),
    ),
    (
        "quotes within quotes, as careless string building writes them",
        b"Content-Disposition: form-data; name=\"file\"; filename=\"a \"b\" c.zip\"\r\nContent-Type: application/zip",
        "file",
        Some("a \"b\" c.zip"),
    ),
    ("an empty name", b"Content-Disposition: form-data; name=\"\"; filename=\"x.zip\"", "", Some("x.zip")),
    ("an apostrophe", b"Content-Disposition: form-data; name='file'; filename=it's.zip", "'file'", Some("it's.zip")),
    (
        "a type with a parameter",
        b"Content-Disposition: form-data; name=\"note\"\r\nContent-Type: application/zip",
        "note",
        None,
    ),
];

#[test]
fn every_way_to_write_a_part_is_understood() {
    let server = Server::start(&[]);
    for (who, head, field, file_name) in HEADS {
        // A head names this type or none.
        let content_type = head.ends_with(b"application/zip") || head.starts_with(b"Content-Type: application/zip\r\n");
        let event = sent(&server, &[b"--frontier\r\n" as &[u8], head, b"\r\n\r\nhello\r\n--frontier--\r\n"].concat());

        let value = file_name.is_none().then_some("hello");
        assert_eq!(
            event["parts"],
            json!([part(field, *file_name, content_type.then_some("application/zip"), "hello", value)]),
            "{who}"
        );
    }
}

/// What nobody can tell for sure may not pass in silence.
#[test]
fn a_part_that_cannot_be_understood_is_a_finding() {
    let server = Server::start(&[]);
    for (what, parts, sentence) in [
        ("no head", "\r\nhello", "part 1 of the report has no field name"),
        ("no Content-Disposition", "Content-Type: text/plain\r\n\r\nhello", "part 1 of the report has no field name"),
        (
            "no name",
            "Content-Disposition: form-data; filename=\"x.zip\"\r\n\r\nhello",
            "part 1 of the report has no field name",
        ),
        (
            "an unnamed second part",
            "Content-Disposition: form-data; name=\"a\"\r\n\r\nb\r\n--frontier\r\n\r\nhello",
            "part 2 of the report has no field name",
        ),
        ("bare LF after the head", "Content-Disposition: form-data; name=\"a\"\n\nhello", NO_END),
        ("no empty line after the head", "Content-Disposition: form-data; name=\"a\"", NO_END),
        (
            "no empty line, and another part",
            "Content-Disposition: form-data; name=\"a\"; filename=\"a.zip\"\r\n--frontier\r\n\
             Content-Disposition: form-data; name=\"file\"; filename=\"x.zip\"\r\n\r\nhello",
            NO_END,
        ),
    ] {
        let event = sent(&server, format!("--frontier\r\n{parts}\r\n--frontier--\r\n").as_bytes());

        let first = event["findings"][0].as_str().unwrap_or_else(|| panic!("{what}: no finding in {event}"));
        assert!(first.starts_with(sentence), "{what}: {first}");
    }
}

#[test]
fn parts_are_cut_where_multipart_says() {
    let server = Server::start(&[]);
    let head = "Content-Disposition: form-data; name=\"file\"; filename=\"x.zip\"\r\n\r\n";
    for (what, before, content, after) in [
        ("nothing around", "--frontier\r\n", "hello", "\r\n--frontier--\r\n"),
        ("no line end at the end", "--frontier\r\n", "hello", "\r\n--frontier--"),
        ("a line end first", "\r\n--frontier\r\n", "hello", "\r\n--frontier--\r\n"),
        ("preamble and epilogue", "To old readers\r\n--frontier\r\n", "hello", "\r\n--frontier--\r\nbye\r\n"),
        ("the boundary in the preamble", "x --frontier\r\n\r\n--frontier\r\n", "hello", "\r\n--frontier--\r\n"),
        ("the boundary in the epilogue", "--frontier\r\n", "hello", "\r\n--frontier--\r\n--frontier\r\nbye"),
        ("spaces behind the boundary", "--frontier \t\r\n", "hello", "\r\n--frontier-- \r\n"),
        ("line ends in the content", "--frontier\r\n", "\r\n\r\nhello\n\r\r\n", "\r\n--frontier--\r\n"),
        ("dashes in the content", "--frontier\r\n", "--\r\n--front\r\n--", "\r\n--frontier--\r\n"),
        ("the boundary within a line", "--frontier\r\n", "x--frontier y\r\n\r\nw", "\r\n--frontier--\r\n"),
        ("a longer boundary", "--frontier\r\n", "\r\n--frontiers\r\n", "\r\n--frontier--\r\n"),
        ("a head in the content", "--frontier\r\n", head, "\r\n--frontier--\r\n"),
    ] {
        let event = sent(&server, [before, head, content, after].concat().as_bytes());

        assert_eq!(event["parts"], json!([part("file", Some("x.zip"), None, content, None)]), "{what}");
        assert_eq!(event["findings"], json!([]), "{what}");
    }
}

#[test]
fn lines_that_end_with_lf_alone_are_a_finding_that_says_so() {
    let server = Server::start(&[]);
    let body = "--frontier\nContent-Disposition: form-data; name=\"file\"; filename=\"x.zip\"\n\nhello\n--frontier--\n";

    let event = sent(&server, body.as_bytes());

    let sentence = "the lines of the report end with LF alone, where multipart/form-data wants CR LF";
    assert_eq!(event["findings"], json!([sentence]));
}

/// Wherever a boundary and a head fall in the buffers through which they go.
#[test]
fn parts_of_all_lengths_are_whole() {
    let server = Server::start(&[]);
    let contents: Vec<String> =
        (0..200).map(|number| "\r\n--fron".repeat(4000 + number)[number..].to_owned()).collect();
    let texts = contents.iter().map(|content| text_part("note", content)).collect::<String>();

    let event = sent(&server, format!("{texts}--frontier--\r\n").as_bytes());

    let told = contents.iter().map(|content| part("note", None, None, content, content.get(..16_384)));
    assert!(event["parts"] == told.collect::<Value>());
}

#[test]
fn the_parts_before_a_break_are_told() {
    let server = Server::start(&[]);
    let named = "--frontier\r\nContent-Disposition: form-data; name=\"a\"\r\n\r\n";
    for second in ["--fron", "--frontier", "--frontier\r\nContent-Dispo", named] {
        let event = sent(&server, (text_part("note", "hello") + second).as_bytes());

        assert_eq!(event["parts"][0], part("note", None, None, "hello", Some("hello")), "{second}");
        let finding = event["findings"][0].as_str().expect("a finding");
        assert!(finding.starts_with("the report breaks off"), "{second}: {finding}");
    }
}

#[test]
fn parts_of_one_report_are_told_in_their_order() {
    let server = Server::start(&[]);
    let parts: Vec<(String, String)> =
        (0..1000).map(|number| (format!("field {number}"), number.to_string())).collect();
    let texts = parts.iter().map(|(field, value)| text_part(field, value)).collect::<String>();

    let event = sent(&server, format!("{texts}--frontier--\r\n").as_bytes());

    let told = parts.iter().map(|(field, value)| part(field, None, None, value, Some(value)));
    assert_eq!(event["parts"], told.collect::<Value>());
    assert_eq!(event["findings"], json!(["the report has no file part"]));
}

#[test]
fn more_than_1000_parts_are_a_finding() {
    let server = Server::start(&[]);

    let event = sent(&server, format!("{}--frontier--\r\n", text_part("a", "b").repeat(1500)).as_bytes());

    assert_eq!(event["findings"][0], "the report has more than 1000 parts");
    assert_eq!(event["parts"].as_array().map(Vec::len), Some(1000));
}

#[test]
fn a_terminal_does_not_obey_what_a_client_sends() {
    let server = Server::start(&[]);
    let text = "a\u{1b}[2J\"\n".repeat(2);

    let event = sent(&server, format!("{}--frontier--\r\n", text_part("note", &text)).as_bytes());

    assert_eq!(event["parts"], json!([part("note", None, None, &text, Some(&text))]));
    server.wait_for_line(|line| line == r#"    part note = "a\u{1b}[2J\"\na\u{1b}[2J\"\n""#);
}

const NO_END: &str = "the header lines of part 1 of the report do not end with an empty line (CR LF, CR LF)";

/// The event of a report, whose parts are told without `saved`, which record.rs is about.
#[track_caller]
fn sent(server: &Server, body: &[u8]) -> Value {
    let (response, mut event) = server.recorded(|server| server.post(REPORT, MULTIPART, body));
    assert_eq!(response.status, 200);
    for part in event["parts"].as_array_mut().expect("a list") {
        part.as_object_mut().expect("an object").remove("saved").expect("README names it");
    }
    event
}

/// A part as `sent` returns it.
fn part(field: &str, file_name: Option<&str>, content_type: Option<&str>, content: &str, value: Option<&str>) -> Value {
    json!({
        "field": field,
        "filename": file_name,
        "content_type": content_type,
        "bytes": content.len(),
        "sha256": sha256(content.as_bytes()),
        "value": value,
        "value_bytes": value.map(str::len),
    })
}

/// A boundary may be followed by spaces, which say nothing.
#[test]
fn endless_spaces_behind_a_boundary_need_little_memory() {
    let server = Server::start(&["--http"]);
    let body = [b"--b".as_slice(), &vec![b' '; 40_000_000]].concat();

    assert_eq!(server.post(REPORT, "multipart/form-data; boundary=b", &body).status, 200);

    server.wait_for_line(|line| line.contains("the boundary \"b\" of the Content-Type does not occur"));
    #[cfg(target_os = "linux")]
    assert!(server.peak_memory_kib() < 30 * 1024, "{} KiB", server.peak_memory_kib());
}

/// The names are kept for console and journal, where each of these bytes is written as six.
#[test]
#[cfg(target_os = "linux")]
fn a_report_of_a_thousand_long_names_needs_little_memory() {
    let server = Server::start(&["--http"]);
    let name = "\u{1}".repeat(16_000);
    let part = format!("--b\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\nx\r\n");
    let body = part.repeat(1000) + "--b--\r\n";

    assert_eq!(server.post(REPORT, "multipart/form-data; boundary=b", body.as_bytes()).status, 200);

    assert!(server.peak_memory_kib() < 64 * 1024, "{} KiB", server.peak_memory_kib());
}

/// The reader of parts has buffers, and a content may end anywhere in them.
#[test]
fn a_part_may_have_every_size() {
    let server = Server::start(&["--http"]);
    let mut connection = server.connect();
    let (file, end) = (form(b"hello"), "\r\n--frontier--\r\n".len());
    let sizes: Vec<usize> = (1..100).chain(65_300..65_600).collect();
    for size in &sizes {
        let sized = form(&vec![b'x'; *size]);
        let body = [&sized[..sized.len() - end], b"\r\n", &file].concat();
        let head = format!("POST {REPORT} HTTP/1.1\r\nHost: localhost\r\nContent-Type: {MULTIPART}");
        connection.send(format!("{head}\r\nContent-Length: {}\r\n\r\n", body.len()));
        connection.send(body);
        assert_eq!(connection.read_response(false).status, 200, "{size} bytes");
    }
    connection.finish_sending();
    connection.assert_closed();

    let journal = server.journal();
    assert_eq!(journal.len(), 1 + sizes.len());
    for (size, event) in sizes.iter().zip(&journal[1..]) {
        let seen: Vec<&Value> = event["parts"].as_array().into_iter().flatten().map(|part| &part["bytes"]).collect();
        assert_eq!(seen, [&json!(size), &json!(5)], "{event}");
    }
}
