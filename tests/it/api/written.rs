//! Reports as real clients write them, after public bug reports: what Flask reads as a file is a file, with a finding
//! where it is written wrongly, and no finding names a wrong cause.

use serde_json::{Value, json};

use crate::api::report::{MULTIPART, assert_passed};
use crate::support::{DOWNLOAD, REPORT, Server, sha256};

/// What arrives, what its parts are, words of its only finding, and what `--strict` answers.
struct Row {
    what: &'static str,
    query: &'static str,
    content_type: &'static str,
    header: &'static str,
    body: Vec<u8>,
    /// The field, the file name, and the content.
    parts: &'static [(&'static str, Option<&'static str>, &'static str)],
    finding: &'static [&'static str],
    strict: u16,
}

const HEAD: &str = "Content-Disposition: form-data; name=\"file\"; filename=\"report.zip\"\r\n\r\n";
const FILE: &[(&str, Option<&str>, &str)] = &[("file", Some("report.zip"), "hello")];
const GOOD: &str = "--frontier\r\nHEADhello\r\n--frontier--\r\n";
const SOME_LF: &[&str] = &["some lines of the report end with LF alone"];
const LF: &[&str] = &["the lines of the report end with LF alone"];

fn body(what: &'static str, body: &str, finding: &'static [&'static str], strict: u16) -> Row {
    let body = body.replace("HEAD", HEAD).into_bytes();
    Row { what, query: "", content_type: MULTIPART, header: "", body, parts: FILE, finding, strict }
}

/// A head of the only part, whose name is looked at.
fn head(what: &'static str, head: &str, name: &'static str, finding: &'static [&'static str]) -> Row {
    let part = [("file", Some(name), "hello")];
    let strict = if finding.is_empty() { 200 } else { 400 };
    let text = format!("--frontier\r\nContent-Disposition: form-data; {head}\r\n\r\nhello\r\n--frontier--\r\n");
    Row { parts: Vec::from(part).leak(), ..body(what, &text, finding, strict) }
}

fn typed(what: &'static str, content_type: &'static str, finding: &'static [&'static str], strict: u16) -> Row {
    let parts = if strict == 200 { FILE } else { &[] };
    Row { content_type, parts, ..body(what, GOOD, finding, strict) }
}

fn around_delimiters() -> Vec<Row> {
    let lf_body = GOOD.replace("HEAD", HEAD).replace("\r\n", "\n");
    let glued: &[&str] = &["CR LF is missing before a delimiter in part 1"];
    let second = "--frontier\r\nContent-Disposition: form-data; name=\"id\"\r\n\r\n1\r\n";
    let swallowed = "hello--frontier\r\nContent-Disposition: form-data; name=\"id\"\r\n\r\n1";
    let first: &[&str] = &["the first delimiter of the report is not a line of its own"];
    vec![
        body("LF before the first delimiter", &format!("\n{GOOD}"), SOME_LF, 400),
        body("LF twice before the first delimiter", &format!("\n\n{GOOD}"), SOME_LF, 400),
        body("a space before the first delimiter", &format!(" {GOOD}"), first, 400),
        body("a line end and a tab before the first delimiter", &format!("\r\n\t{GOOD}"), first, 400),
        body(
            "a byte order mark",
            &format!("\u{feff}{GOOD}"),
            &["is not a line of its own: \"\\u{feff}--frontier\\r\\n"],
            400,
        ),
        Row {
            parts: &[("file", Some("report.zip"), "hello"), ("id", None, "1")],
            ..body(
                "a byte order mark before another header line",
                &format!("\u{feff}--frontier\r\nX-A: b\r\nHEADhello\r\n{second}--frontier--\r\n"),
                &["is not a line of its own: \"\\u{feff}--frontier\\r\\n"],
                400,
            )
        },
        body(
            "an empty line behind the delimiter",
            "--frontier\r\n\r\nHEADhello\r\n--frontier--\r\n",
            &["an empty line stands before the header lines of part 1"],
            400,
        ),
        Row {
            parts: &[],
            ..body(
                "no line end behind the first delimiter",
                "--frontierHEADhello\r\n--frontier--\r\n",
                &["a part of the report comes before its first boundary"],
                400,
            )
        },
        Row {
            parts: &[],
            ..body(
                "another beginning of the boundary",
                &GOOD.replace("frontier", "--Xfrontier"),
                &["\"frontier\" of the Content-Type does not occur in the report"],
                400,
            )
        },
        body("two dashes too many", &format!("--{GOOD}"), &["is not a line of its own: \"----frontier"], 400),
        body("LF before a later delimiter", "--frontier\r\nHEADhello\n--frontier--\r\n", SOME_LF, 400),
        body("LF behind a delimiter", "--frontier\nHEADhello\r\n--frontier--\r\n", SOME_LF, 400),
        body("LF everywhere", &lf_body, LF, 400),
        body("LF everywhere, and first", &format!("\n{lf_body}"), LF, 400),
        body(
            "LF in the head",
            &GOOD.replace("HEAD", &HEAD.replace("\r\n", "\n")),
            &["the header lines of part 1"],
            400,
        ),
        Row {
            parts: &[("file", Some("report.zip"), "hello"), ("id", None, "1")],
            ..body("LF between parts", &format!("--frontier\r\nHEADhello\n{second}--frontier--\r\n"), SOME_LF, 400)
        },
        Row {
            parts: &[("file", Some("report.zip"), "hello--frontier--")],
            ..body("no line end at the end", "--frontier\r\nHEADhello--frontier--\r\n", glued, 400)
        },
        Row {
            parts: Vec::from([("file", Some("report.zip"), swallowed)]).leak(),
            ..body("no line end between", &format!("--frontier\r\nHEADhello{second}--frontier--\r\n"), glued, 400)
        },
        Row {
            parts: &[("note", None, "1--frontier\r\nX: y\r\n\r\nhello")],
            ..body(
                "no line end behind a text",
                "--frontier\r\nContent-Disposition: form-data; name=\"note\"\r\n\r\n1--frontier\r\nX: y\r\n\r\nhello\
                 \r\n--frontier--\r\n",
                &["CR LF is missing before a delimiter in part 1 of the report, or behind it: \"1--frontier\\r\\n\""],
                400,
            )
        },
        Row {
            parts: &[("file", Some("report.zip"), "hello\r\n --frontier--")],
            ..body("a space before the last delimiter", "--frontier\r\nHEADhello\r\n --frontier--\r\n", glued, 400)
        },
        body("an end after each part", &[GOOD, GOOD].concat(), &["a part of the report comes behind its last"], 400),
        Row { parts: &[], ..body("an empty body", "", &["the body of the report is empty"], 400) },
        Row { parts: &[], ..body("an empty line", "\r\n", &["does not occur in the report"], 400) },
        Row {
            parts: &[],
            ..body(
                "no line end behind",
                "--frontierX: y\r\n\r\nhello\r\n",
                &["does not occur in the report as a line"],
                400,
            )
        },
        Row {
            parts: &[],
            ..body(
                "no dashes",
                &GOOD.replace("--frontier", "frontier"),
                &["lack the two dashes", "\"frontier\" where \"--frontier\" belongs"],
                400,
            )
        },
    ]
}

fn in_heads() -> Vec<Row> {
    let pieces: &[&str] = &["part 1 of the report has a name in a form that RFC 7578, 4.2 forbids: \"form-data; "];
    let malformed: &[&str] = &["the Content-Disposition of part 1 of the report is malformed: \"form-data; name="];
    vec![
        head("a name in pieces", "name=\"file\"; filename*0=\"pp\"; filename*1=\".png\"", "pp.png", pieces),
        head("pieces in another order", "name=\"file\"; filename*1=.png; filename*0=pp", "pp.png", pieces),
        head("encoded", "name=\"file\"; filename*0*=utf-8''p%C3%BC; filename*1*=.png", "pü.png", pieces),
        head(
            "mixed pieces",
            "name=\"file\"; filename*0*=utf-8''p%C3; filename*1*=%BC; filename*2=%.png",
            "pü%.png",
            pieces,
        ),
        head("an encoded field", "name*=utf-8''%66ile; filename=\"a.zip\"", "a.zip", &["4.2 forbids", "name*="]),
        head("a field in pieces", "name*0=fi; name*1=le; filename=\"a.zip\"", "a.zip", &["4.2 forbids", "name*0="]),
        head("no semicolon", "name=\"file\" filename=\"pp.png\"", "pp.png", malformed),
        head("nothing between", "name=\"file\"filename=\"pp.png\"", "pp.png", malformed),
        head("a comma between", "name=\"file\", filename=\"pp.png\"", "pp.png", malformed),
        head("no semicolon and no quotes", "name=file filename=pp.png", "pp.png", malformed),
        head("an open quote", "name=\"file\"; filename=\"pp.png", "pp.png", malformed),
        head("no opening quote", "name=\"file\"; filename=pp.png\"", "pp.png\"", malformed),
        head("a space before the equals sign", "name=\"file\"; filename =\"pp.png\"", "pp.png", malformed),
        head("LF between parameters", "name=\"file\";\nfilename=\"pp.png\"", "pp.png", malformed),
        Row {
            parts: &[("file; filename=\"report.zip", None, "hello")],
            ..body(
                "an open quote before a parameter",
                &GOOD.replace("HEAD", &HEAD.replace("file\";", "file;")),
                malformed,
                400,
            )
        },
        head("LF in a name", "name=\"file\"; filename=\"p\np.png\"", "p\np.png", malformed),
        head("CR in a name", "name=\"file\"; filename=\"p\rp.png\"", "p\rp.png", malformed),
        head("CR LF in a name", "name=\"file\"; filename=\"pp\r\n.png\"", "pp", malformed),
        head("CR LF and a space in a name", "name=\"file\"; filename=\"p\r\n p\"", "p\r\n p", malformed),
        head(
            "Base64",
            "name=\"file\"; filename=\"a\"\r\nContent-Transfer-Encoding: base64",
            "a",
            &["base64", "nobody"],
        ),
        head(
            "quoted-printable",
            "name=\"file\"; filename=\"a\"\r\nContent-Transfer-Encoding: Quoted-Printable",
            "a",
            &["quoted-"],
        ),
        Row {
            parts: &[("file", Some("report.zip"), "hello")],
            ..body(
                "another type",
                &GOOD.replace("HEAD", &HEAD.replace("form-data", "attachment")),
                &["malformed: \"attach"],
                400,
            )
        },
        Row {
            parts: &[("file", None, NESTED)],
            ..body(
                "curl's several files",
                &format!(
                    "--frontier\r\nContent-Disposition: form-data; name=\"file\"\r\n\
                     Content-Type: multipart/mixed; boundary=inner\r\n\r\n{NESTED}\r\n--frontier--\r\n"
                ),
                &["part 1 of the report is multipart/mixed; boundary=inner; send each", "curl -F file=@a -F file=@b"],
                400,
            )
        },
    ]
}

const NESTED: &str = "--inner\r\nContent-Disposition: attachment; filename=\"a\"\r\n\r\nhello\r\n--inner--\r\n";

fn in_the_request() -> Vec<Row> {
    let id = "--frontier\r\nContent-Disposition: form-data; name=\"id\"\r\n\r\n2\r\n";
    let with_id = |what, query, finding, strict| Row {
        query,
        parts: &[("id", None, "2"), ("file", Some("report.zip"), "hello")],
        ..body(what, &[id, GOOD].concat(), finding, strict)
    };
    let gzip: &[&str] = &["the report has Content-Encoding: gzip, which nobody decodes"];
    let comma: &[&str] = &["the Content-Type of the report is malformed, by a comma", "\"multipart/form-data"];
    let packed =
        Row { header: "Content-Encoding: gzip\r\n", parts: &[], ..body("a packed body", "\u{1f}\u{8b}", gzip, 415) };
    vec![
        Row { header: "Content-Encoding: gzip\r\n", ..body("a body that only says so", GOOD, gzip, 415) },
        Row {
            header: "content-encoding: GZIP, identity\r\n",
            ..body("two codings", GOOD, &["Content-Encoding: gzip"], 415)
        },
        Row {
            header: "Content-Encoding: identity\r\nContent-Encoding: gzip\r\n",
            ..body("two codings in two lines", GOOD, gzip, 415)
        },
        Row { header: "Content-Encoding: utf-8\r\n", ..body("no coding", GOOD, &["Content-Encoding: utf-8"], 415) },
        packed,
        typed("a comma", "multipart/form-data, boundary=frontier", comma, 400),
        Row {
            parts: FILE,
            ..typed("a comma behind a parameter", "multipart/form-data; charset=utf-8, boundary=frontier", comma, 400)
        },
        Row { parts: FILE, ..typed("a comma at the end", "multipart/form-data; boundary=frontier,", comma, 400) },
        Row {
            parts: FILE,
            ..typed(
                "all of it twice",
                "multipart/form-data; boundary=frontier, multipart/form-data; boundary=frontier",
                &["two boundaries"],
                400,
            )
        },
        Row {
            parts: FILE,
            ..typed(
                "a boundary of one's own before curl's",
                "multipart/form-data; boundary=mine; boundary=frontier",
                &["malformed: it has two boundaries: \"multipart/form-data; boundary=mine; boundary=frontier\""],
                400,
            )
        },
        typed(
            "a boundary of one's own behind",
            "multipart/form-data; boundary=frontier; boundary=mine",
            &["two b"],
            400,
        ),
        Row {
            parts: FILE,
            ..typed("spaces", "multipart/form-data; boundary = frontier", &["malformed: \"multipart/form-data; b"], 400)
        },
        Row { header: "Content-Encoding: gzip\r\n", parts: &[], ..body("nothing, packed", "", gzip, 415) },
        typed("a space", "multipart/form-data boundary=frontier", &["malformed: \"multipart/form-data b"], 400),
        Row {
            parts: FILE,
            ..typed(
                "an open quote",
                "multipart/form-data; boundary=\"frontier",
                &["malformed: \"multipart/form-data; b"],
                400,
            )
        },
        typed(
            "dashes",
            "multipart/form-data; boundary=--frontier",
            &["lack the two dashes", "\"--frontier\" where \"----frontier\" belongs"],
            400,
        ),
        typed("more dashes", "multipart/form-data; boundary=----frontier", &["does not occur"], 400),
        with_id("another id", "?id=1", &["the request is for two tasks: id=1 and id=2"], 400),
        with_id("two ids in the query", "?id=1&id=3", &["the request is for two tasks: id=1 and id=3"], 400),
        Row { query: "?id=1&x=y&id=2", ..body("two ids", GOOD, &["id=1 and id=2"], 400) },
        with_id("the same id", "?id=2", &[], 200),
        Row { query: "?id=1&id=1", ..body("the same id in the query", GOOD, &[], 200) },
    ]
}

fn that_must_not_change() -> Vec<Row> {
    let content = |what, content: &'static str| Row {
        parts: Vec::from([("file", Some("report.zip"), content)]).leak(),
        ..body(what, &GOOD.replace("hello", content), &[], 200)
    };
    vec![
        typed("a quoted boundary", "multipart/form-data; boundary=\"frontier\"", &[], 200),
        typed("parameters around", "multipart/form-data; charset=utf-8; boundary=frontier; x=\"a, b\"", &[], 200),
        Row {
            content_type: "multipart/form-data; boundary==frontier=a=",
            ..body("equals signs", &GOOD.replace("frontier", "=frontier=a="), &[], 200)
        },
        Row {
            content_type: "multipart/form-data; boundary=\"a b,c:(d)'e\"",
            ..body("all signs", &GOOD.replace("frontier", "a b,c:(d)'e"), &[], 200)
        },
        Row {
            content_type: "multipart/form-data; boundary=----WebKitFormBoundary7MA4YWxk",
            ..body("dashes on both sides", &GOOD.replace("frontier", "----WebKitFormBoundary7MA4YWxk"), &[], 200)
        },
        Row { header: "Content-Encoding: identity\r\n", ..body("no coding at all", GOOD, &[], 200) },
        body("no line end at the very end", GOOD.trim_end(), &[], 200),
        body("LF at the very end", &format!("{}\n", GOOD.trim_end()), &[], 200),
        body("empty lines first", &format!("\r\n\r\n{GOOD}"), &[], 200),
        body("a text first", &format!("This is MIME, x--frontier\r\n\r\n{GOOD}"), &[], 200),
        body("a text last", &format!("{GOOD}bye\n--frontier\nbye --frontier--\n"), &[], 200),
        content("LF within a file", "a\nb\n\n\nc\n"),
        content("line ends around a file", "\r\n\n\r\nhello\r\n\r\n"),
        content("a longer delimiter", "a\r\n--frontiers\r\nb--frontier2\r\n"),
        content("a delimiter within a line", "a --frontier b\r\n--frontier b\r\n"),
        content("half a delimiter", "a\r\n--front\r\n--frontier-\r\n--fron"),
        head("a percent sign", "name=\"file\"; filename=\"100%.zip\"", "100%.zip", &[]),
        head("percent codes", "name=\"file\"; filename=\"a%20b%2522%c3%0d%zz.zip\"", "a%20b%2522%c3%0d%zz.zip", &[]),
        head("browsers' escapes", "name=\"file\"; filename=\"a%22b%0D%0Ac.zip\"", "a\"b\r\nc.zip", &[]),
        head("backslashes", "name=\"file\"; filename=\"C:\\dir\\new\\a.zip\"", "C:\\dir\\new\\a.zip", &[]),
        head("escaped quotes", "name=\"file\"; filename=\"a\\\"b\\\\c.zip\"", "a\"b\\c.zip", &[]),
        head("bare quotes", "name=\"file\"; filename=\"a \"b\" c.zip\"", "a \"b\" c.zip", &[]),
        head(
            "parameters in a name",
            "name=\"file\"; filename=\"x; filename=y, name=z.zip\"",
            "x; filename=y, name=z.zip",
            &[],
        ),
        head("spaces without quotes", "name=file; filename=C:\\dir\\a b, name.zip", "C:\\dir\\a b, name.zip", &[]),
        head("requests' umlaut", "name=\"file\"; filename*=utf-8''p%C3%BC.png", "pü.png", &[]),
        head("a percent code in it", "name=\"file\"; filename*=utf-8''a%2522b.png", "a%22b.png", &[]),
        head("both", "name=file; filename=\"=?utf-8?B?w7wuemlw?=\"; filename*=utf-8''%C3%BC.zip", "ü.zip", &[]),
        head("folded", "name=\"file\";\r\n\tfilename=\"a.zip\"", "a.zip", &[]),
        head("binary", "name=\"file\"; filename=\"a\"\r\nContent-Transfer-Encoding: Binary", "a", &[]),
        head("8bit", "name=\"file\"; filename=\"a\"\r\nContent-Transfer-Encoding: 8bit", "a", &[]),
        Row {
            parts: &[("note", None, "für"), ("file", Some("report.zip"), "hello")],
            body: [
                b"--frontier\r\nContent-Disposition: form-data; name=\"note\"\r\n" as &[u8],
                b"Content-Type: text/plain; charset=ISO-8859-1\r\n\r\nf\xfcr\r\n",
                GOOD.replace("HEAD", HEAD).as_bytes(),
            ]
            .concat(),
            ..body("Latin-1", "", &[], 200)
        },
    ]
}

#[test]
fn what_flask_reads_is_read_and_what_is_wrong_is_found() {
    let rows = [around_delimiters(), in_heads(), in_the_request(), that_must_not_change()];
    let (server, strict) = (Server::start(&["--http"]), Server::start(&["--http", "--strict"]));
    for row in rows.iter().flatten() {
        let what = row.what;
        let head = format!(
            "POST {REPORT}{} HTTP/1.1\r\nHost: localhost\r\n{}Content-Type: {}\r\nContent-Length: {}\r\n\r\n",
            row.query,
            row.header,
            row.content_type,
            row.body.len()
        );
        let request = [head.as_bytes(), &row.body].concat();

        let (response, event) = server.recorded(|server| server.raw(&request));

        assert_passed(&response, what);
        let parts = event["parts"].as_array().expect("a list");
        let told: Vec<Value> =
            parts.iter().map(|part| json!([part["field"], part["filename"], part["sha256"]])).collect();
        let digest = |what: &str, content: &str| sha256(if what == "Latin-1" { b"f\xfcr" } else { content.as_bytes() });
        let expected = row.parts.iter().map(|(field, file_name, content)| {
            let is_latin_1 = *field == "note";
            json!([field, file_name, digest(if is_latin_1 { what } else { "" }, content)])
        });
        assert_eq!(told, expected.collect::<Vec<_>>(), "{what}: {event}");
        for (part, (_, file_name, content)) in parts.iter().zip(row.parts) {
            assert_eq!(part["value"].as_str(), file_name.is_none().then_some(*content), "{what}");
        }
        let findings = event["findings"].as_array().expect("a list");
        assert_eq!(findings.len(), usize::from(!row.finding.is_empty()), "{what}: {findings:?}");
        for words in row.finding {
            assert!(findings[0].as_str().is_some_and(|finding| finding.contains(words)), "{what}: {findings:?}");
        }
        let refused = strict.raw(&request);
        assert_eq!(refused.status, row.strict, "{what}");
        if row.strict != 200 {
            assert_eq!(refused.assert_error(row.strict), findings[0], "{what}");
        }
    }
}

/// Stored blocks leave delimiters readable, so that the parts look well.
#[test]
fn a_packed_body_whose_parts_can_be_read_is_found() {
    let server = Server::start(&["--http", "--strict"]);
    let plain = GOOD.replace("HEAD", HEAD);
    let (length, inverse) = (plain.len() as u16, !(plain.len() as u16));
    let packed = [
        b"\x1f\x8b\x08\0\0\0\0\0\0\xff\x01" as &[u8],
        &length.to_le_bytes(),
        &inverse.to_le_bytes(),
        plain.as_bytes(),
        b"\0\0\0\0\0\0\0\0",
    ]
    .concat();
    let head = format!("POST {REPORT} HTTP/1.1\r\nHost: localhost\r\nContent-Encoding: gzip\r\n");
    let head = format!("{head}Content-Type: {MULTIPART}\r\nContent-Length: {}\r\n\r\n", packed.len());

    let (response, event) = server.recorded(|server| server.raw([head.as_bytes(), &packed].concat()));

    let sentence = response.assert_error(415);
    assert!(sentence.contains("gzip"), "{sentence}");
    assert_eq!(event["findings"], json!([sentence]));
}

#[test]
fn two_ids_for_a_download_are_a_finding() {
    let server = Server::start(&["--http", "--strict"]);

    let sentence = server.get(&format!("{DOWNLOAD}?id=1&id=2")).assert_error(400);

    assert_eq!(sentence, "the request is for two tasks: id=1 and id=2");
    assert_eq!(server.get(&format!("{DOWNLOAD}?id=2&id=2")).status, 200);
}
