//! The header lines of one part of a report: what they mean, as browsers, curl, Python, .NET and others write them, and
//! what is wrong with them by RFC 7578, 4. Knows no bodies.

use crate::message::Finding;
use crate::text::{quoted, shown, to_text};
use memchr::memmem::{self, Finder};
use memchr::{memchr, memchr_iter, memchr2};
use percent_encoding::percent_decode;
use std::collections::BTreeMap;
use std::iter;

pub struct PartHead {
    /// As sent.
    pub raw: Vec<u8>,
    /// A line ends with LF alone.
    pub has_bare_lf: bool,
}

impl PartHead {
    /// The lines through the empty one; empty lines before them are skipped. `None`: there is no such line behind them,
    /// or a delimiter comes before it.
    pub fn begin(bytes: &[u8], delimiter: &Finder) -> Option<PartHead> {
        let own = bytes.trim_ascii_start();
        let mut length = if begins(own, "Content-") { bytes.len() - own.len() } else { 0 };
        lines(&bytes[length..]).inspect(|line| length += line.len()).find(|line| matches!(*line, b"\n" | b"\r\n"))?;
        let raw = &bytes[..length];
        let is_broken = delimiter.find_iter(raw).any(|at| raw[..at].ends_with(b"\n"));
        let has_bare_lf = lines(raw).any(|line| !line.ends_with(b"\r\n"));
        (!is_broken).then(|| PartHead { raw: raw.to_vec(), has_bare_lf })
    }

    /// The `name` or `filename` of its Content-Disposition.
    pub fn name(&self, parameter: &str) -> Option<String> {
        Parameters::of(self.header("content-disposition")?).text(parameter)
    }

    pub fn content_type(&self) -> Option<String> {
        self.header("content-type").map(to_text)
    }

    /// The text of a field.
    pub fn decode(&self, text: &[u8]) -> String {
        let parameters = Parameters::of(self.header("content-type").unwrap_or_default());
        let charset = parameters.text("charset").unwrap_or_default().to_ascii_lowercase();
        match charset.as_str() {
            "iso-8859-1" | "iso8859-1" | "latin1" => text.iter().map(|byte| char::from(*byte)).collect(),
            _ => to_text(text),
        }
    }

    /// What is wrong with it as the part of that number.
    pub fn flaws(&self, number: usize) -> Vec<Finding> {
        let part = format!("part {number} of the report");
        let disposition = self.header("content-disposition");
        let parameters = Parameters::of(disposition.unwrap_or_default());
        let is_malformed = parameters.is_malformed
            || disposition.is_some() && parameters.kind != "form-data"
            || ["name", "filename"].iter().any(|name| parameters.values(name).count() > 1);
        // `filename*` whole is what requests and .NET write.
        let is_forbidden =
            |name: &str| name.starts_with("name*") || name.starts_with("filename*") && name != "filename*";
        let has_forbidden = parameters.list.iter().any(|(name, _)| is_forbidden(name));
        let encoding = to_text(self.header("content-transfer-encoding").unwrap_or_default()).to_ascii_lowercase();
        let is_encoded = !["", "7bit", "8bit", "binary"].contains(&encoding.as_str());
        let content_type = self.content_type().unwrap_or_default();
        let is_nested = content_type.to_ascii_lowercase().starts_with("multipart/");
        let (disposition, encoding) = (quoted(disposition.unwrap_or_default()), shown(&encoding));
        let (content_type, received) = (shown(&content_type), quoted(&self.raw));
        let is_late = matches!(self.raw.first(), Some(b'\r' | b'\n')) && !self.raw.trim_ascii().is_empty();
        let flaws = [
            (is_late, format!("an empty line stands before the header lines of {part}")),
            (is_malformed, format!("the Content-Disposition of {part} is malformed: {disposition}")),
            (!is_malformed && parameters.text("name").is_none(), format!("{part} has no field name")),
            (has_forbidden, format!("{part} has a name in a form that RFC 7578, 4.2 forbids: {disposition}")),
            (is_encoded, format!("{part} has Content-Transfer-Encoding: {encoding}, which nobody decodes")),
            (is_nested, format!("{part} is {content_type}; send each file as a part: curl -F file=@a -F file=@b")),
        ];
        let flaws = flaws.into_iter().filter(|(is_there, _)| *is_there);
        flaws.map(|(_, sentence)| Finding::new(400, sentence, WELL_FORMED, &received)).collect()
    }

    fn header(&self, name: &str) -> Option<&[u8]> {
        lines(&self.raw).find_map(|line| {
            let (own, value) = line.split_at(memchr(b':', line)?);
            own.trim_ascii().eq_ignore_ascii_case(name.as_bytes()).then(|| value[1..].trim_ascii())
        })
    }
}

/// Each line with its end.
fn lines(mut bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    iter::from_fn(move || bytes.split_off(..=line_end(bytes)?))
}

/// Where the first line ends. Neither a line that a space folds in ends it, nor an LF alone within a value.
fn line_end(bytes: &[u8]) -> Option<usize> {
    let is_name = |byte: &&u8| byte.is_ascii_alphanumeric() || **byte == b'-';
    let is_end = |at: &usize| match (&bytes[..*at], &bytes[at + 1..]) {
        ([] | b"\r", _) | (_, [b'\n', ..] | [b'\r', b'\n', ..]) => true,
        ([.., b'\r'], rest) => !matches!(rest, [b' ' | b'\t', ..]),
        (_, rest) => {
            let length = rest.iter().take_while(is_name).count();
            length > 0 && rest.get(length) == Some(&b':')
        }
    };
    memchr_iter(b'\n', bytes).find(is_end)
}

/// The parameters behind the first semicolon of a header's value, without their quotes (RFC 9110, 5.6.6).
pub struct Parameters {
    /// What stands before them, in lower case.
    pub kind: String,
    /// The names in lower case.
    list: Vec<(String, Vec<u8>)>,
    /// No semicolon between two, no value, a quote that is not closed or not opened, a space beside an equals sign, or a
    /// line end that does not fold.
    pub is_malformed: bool,
}

impl Parameters {
    pub fn of(value: &[u8]) -> Parameters {
        let (kind, mut rest) = value.split_at(memchr(b';', value).unwrap_or(value.len()));
        let kind = to_text(kind.trim_ascii()).to_ascii_lowercase();
        let unfolded = to_text(rest).replace("\r\n ", "").replace("\r\n\t", "");
        let mut parameters = Parameters { kind, list: Vec::new(), is_malformed: unfolded.contains(['\r', '\n']) };
        while !rest.trim_ascii_start().is_empty() {
            rest = rest.strip_prefix(b";").or(rest.strip_prefix(b",")).unwrap_or(rest);
            let end = rest.iter().position(|byte| matches!(byte, b'=' | b';')).unwrap_or(rest.len());
            let name = to_text(rest[..end].trim_ascii()).to_ascii_lowercase();
            let own = rest[end..].strip_prefix(b"=");
            let (value, behind) =
                own.map_or((Vec::new(), Some(&rest[end..])), |own| parameter_value(own.trim_ascii_start()));
            let behind = behind.map(<[u8]>::trim_ascii_start);
            let is_spaced = own.is_some_and(|own| rest[..end].ends_with(b" ") || own.starts_with(b" "));
            let is_quoted = own.is_some_and(|own| own.trim_ascii_start().starts_with(b"\""));
            // A quote that is not closed takes the next parameter in.
            let sent = &rest[end..rest.len() - behind.map_or(0, <[u8]>::len)];
            let has_slip = if is_quoted { memmem::find(sent, b"name=\"").is_some() } else { value.contains(&b'"') };
            let is_well_formed = matches!(behind, Some([] | [b';', ..])) && memchr2(b'\r', b'\n', &value).is_none();
            let has_no_value = own.is_none() && !name.is_empty();
            parameters.is_malformed |= !is_well_formed || is_spaced || has_slip || has_no_value;
            rest = behind.unwrap_or_default();
            parameters.list.push((name, value));
        }
        parameters
    }

    /// The values of all of that name.
    pub fn values(&self, name: &str) -> impl DoubleEndedIterator<Item = &[u8]> {
        self.list.iter().filter(move |(own, _)| own == name).map(|(_, value)| value.as_slice())
    }

    /// The same as text, in the forms of RFC 5987 (`name*`) and RFC 2231 (`name*0`, `name*1*`) as well, which say it
    /// better where both are there (RFC 6266, 4.3).
    fn text(&self, name: &str) -> Option<String> {
        let piece = |(own, value): &'_ (String, Vec<u8>)| {
            let suffix = own.strip_prefix(name)?.strip_prefix('*')?;
            let number: u32 = format!("0{}", suffix.trim_end_matches('*')).parse().ok()?;
            let is_encoded = suffix.is_empty() || suffix.ends_with('*');
            // The charset and the language stand before the first only.
            let encoded = value.splitn(3, |byte| *byte == b'\'').nth(2).filter(|_| number == 0).unwrap_or(value);
            Some((number, if is_encoded { percent_decode(encoded).collect() } else { value.clone() }))
        };
        let pieces: BTreeMap<u32, Vec<u8>> = self.list.iter().rev().filter_map(piece).collect();
        if pieces.is_empty() {
            // Browsers and requests write these three so, and no others.
            let text = self.values(name).next().map(to_text)?;
            return Some(text.replace("%22", "\"").replace("%0D", "\r").replace("%0A", "\n"));
        }
        Some(to_text(&pieces.into_values().flatten().collect::<Vec<u8>>()))
    }
}

/// The value at the beginning of `rest`, and what is behind it. `None`: its quotes are not closed.
fn parameter_value(rest: &[u8]) -> (Vec<u8>, Option<&[u8]>) {
    let Some(quoted) = rest.strip_prefix(b"\"") else {
        let is_end = |at: &usize| match rest[*at] {
            b' ' | b'\t' | b',' => begins_parameter(&rest[at + 1..]),
            byte => byte == b';',
        };
        let end = (0..rest.len()).find(is_end).unwrap_or(rest.len());
        return (rest[..end].trim_ascii_end().to_vec(), Some(&rest[end..]));
    };
    let (mut value, mut at) = (Vec::new(), 0);
    // A quote ends the value only before a semicolon, the end or a parameter: careless clients do not escape those within.
    // What else stands before a semicolon and a parameter is a slip.
    let is_end = |at: usize| {
        let behind = quoted[at + 1..].trim_ascii_start();
        let slip = memchr2(b'"', b';', behind).filter(|end| behind[*end] == b';');
        matches!(behind, [] | [b';', ..])
            || begins_parameter(behind.strip_prefix(b",").unwrap_or(behind).trim_ascii_start())
            || slip.is_some_and(|end| begins_parameter(behind[end + 1..].trim_ascii_start()))
    };
    while let Some(byte) = quoted.get(at).filter(|byte| **byte != b'"' || !is_end(at)) {
        // Only \" and \\ are escapes: in "C:\tool.zip" the backslash means itself.
        let escaped = quoted.get(at + 1).filter(|next| *byte == b'\\' && matches!(next, b'"' | b'\\'));
        value.push(*escaped.unwrap_or(byte));
        at += if escaped.is_some() { 2 } else { 1 };
    }
    (value, quoted.get(at + 1..))
}

/// For values that no semicolon ends.
fn begins_parameter(bytes: &[u8]) -> bool {
    let names = ["name", "filename", "boundary", "charset"];
    names.iter().any(|name| begins(bytes, name) && matches!(bytes[name.len()..], [b'=' | b'*', ..]))
}

/// Whether they begin with this name, in capitals or not.
pub fn begins(bytes: &[u8], name: &str) -> bool {
    bytes.get(..name.len()).is_some_and(|begin| begin.eq_ignore_ascii_case(name.as_bytes()))
}

const WELL_FORMED: &str = "Content-Disposition: form-data; name=\"...\"; filename=\"...\", and the bytes as they are";

#[cfg(test)]
mod tests {
    use super::*;

    fn head(lines: &[u8]) -> Option<PartHead> {
        PartHead::begin(lines, &Finder::new("--b"))
    }

    fn disposition(value: &str) -> PartHead {
        head(format!("Content-Disposition: {value}\r\n\r\n").as_bytes()).unwrap()
    }

    #[test]
    fn a_parameter_is_found_with_quotes_or_without() {
        for (value, name, expected) in [
            ("form-data; name=a", "name", Some("a")),
            ("form-data; NAME=\"a;b\" ; x=y", "name", Some("a;b")),
            ("form-data; filename=\"name=x\"; name=y", "name", Some("y")),
            ("form-data; filename=\"C:\\dir\\a.zip\"", "filename", Some("C:\\dir\\a.zip")),
            ("form-data; filename=\"a\\\"b\\\\c\"", "filename", Some("a\"b\\c")),
            ("form-data; filename=\"a \"b\" c\"; name=z", "name", Some("z")),
            ("form-data; filename=\"a, name of b.zip\"", "filename", Some("a, name of b.zip")),
            ("form-data; filename=\"rename=\\\"x\\\".zip\"", "filename", Some("rename=\"x\".zip")),
            ("form-data; filename=my name.zip; name=z", "filename", Some("my name.zip")),
            ("form-data;; ;name=a;", "name", Some("a")),
            ("multipart/form-data; boundary=\"a b;c\"", "boundary", Some("a b;c")),
            ("multipart/form-data; boundary=a=b=", "boundary", Some("a=b=")),
            ("form-data", "name", None),
            ("name=a", "name", None),
        ] {
            let parameters = Parameters::of(value.as_bytes());
            assert_eq!(parameters.values(name).next(), expected.map(str::as_bytes), "{value}");
            assert!(!parameters.is_malformed, "{value}");
        }
    }

    #[test]
    fn parameters_that_are_written_wrongly_are_read_and_noticed() {
        for (value, field, file_name) in [
            ("form-data; name=\"a\" filename=\"b c.png\"", "a", Some("b c.png")),
            ("form-data; name=\"a\"filename=\"b\"", "a", Some("b")),
            ("form-data; name=\"a\"X; filename=\"b\"", "a", Some("b")),
            ("form-data; name=\"a\" . ; filename=\"b\"", "a", Some("b")),
            ("form-data; name=\"a\"; filename=\"b\"; filename=\"c\"", "a", Some("b")),
            ("form-data; name=\"a\", filename=\"b\"", "a", Some("b")),
            ("form-data; name=a filename=b", "a", Some("b")),
            ("form-data; name=a,filename=b", "a", Some("b")),
            ("form-data; filename=\"b\" NAME=\"a\"", "a", Some("b")),
            ("form-data; name=\"a\" filename*=utf-8''b", "a", Some("b")),
            ("form-data; name=\"a\"; filename=\"b", "a", Some("b")),
            ("form-data; name=\"a\"; filename=\"b\\\"", "a", Some("b\"")),
            ("form-data; name=\"a\"; filename=\"b\rc\"", "a", Some("b\rc")),
            ("form-data; name=\"a\nb\"", "a\nb", None),
            ("form-data; name=\"a\r\n b\"", "a\r\n b", None),
            ("attachment; name=\"a\"; filename=\"b\"", "a", Some("b")),
            ("form-data; name=\"a\"; filename", "a", Some("")),
            ("form-data; name = \"a\"; filename=\"b\"", "a", Some("b")),
            ("form-data; name=\"a\"; filename= b", "a", Some("b")),
            ("form-data; name=a\"; filename=\"b\"", "a\"", Some("b")),
            ("form-data; name=\"a; filename=\"b\"", "a; filename=\"b", None),
            ("form-data; name=\"a\";\n filename=\"b\"", "a", Some("b")),
            ("form-data; name=\"a\";\rfilename=\"b\"", "a", Some("b")),
        ] {
            let head = disposition(value);
            assert_eq!(
                (head.name("name").as_deref(), head.name("filename").as_deref()),
                (Some(field), file_name),
                "{value:?}"
            );
            let flaws = head.flaws(3);
            let sentence =
                format!("the Content-Disposition of part 3 of the report is malformed: {}", quoted(value.as_bytes()));
            assert_eq!(flaws.iter().map(|flaw| &flaw.sentence).collect::<Vec<_>>(), [&sentence], "{value:?}");
        }
        // What is before the first semicolon belongs to no parameter.
        for value in ["form-data, name=\"a\"; filename=\"b\"", "form-data name=\"a\"", "name=\"a\"", "x"] {
            let flaws = disposition(value).flaws(1);
            assert!(flaws.len() == 1 && flaws[0].sentence.contains("is malformed"), "{value}: {flaws:?}");
        }
    }

    #[test]
    fn names_in_every_form_are_put_together() {
        for (value, file_name, is_flaw) in [
            ("filename*0=\"pp\"; filename*1=\".png\"", "pp.png", true),
            ("filename*1=.png; filename*0=pp", "pp.png", true),
            ("filename*0*=utf-8''p%C3%BC; filename*1*=.png", "pü.png", true),
            ("filename*0*=utf-8'de'p%C3; filename*1*=%BC'; filename*2=\"%41.png\"", "pü'%41.png", true),
            ("filename*0*=iso-8859-1''p%FC; filename*1=.png", "pü.png", true),
            ("filename=\"x\"; filename*0=p; filename*1=q", "pq", true),
            ("filename*10=k; filename*9=j; filename*2=c; filename*0=a", "acjk", true),
            ("filename*=utf-8''p%C3%BC%22.png", "pü\".png", false),
            ("filename*=utf-8''a%2522b", "a%22b", false),
            ("filename*=plain.png", "plain.png", false),
            ("filename=\"a%22b%0D%0Ac.zip\"", "a\"b\r\nc.zip", false),
            ("filename=\"100%.zip\"", "100%.zip", false),
            ("filename=\"%20%2522%0d%C3%BC%\"", "%20%2522%0d%C3%BC%", false),
            ("filename*x=y; filename=z", "z", true),
        ] {
            let head = disposition(&format!("form-data; name=\"f\"; {value}"));
            assert_eq!(head.name("filename").as_deref(), Some(file_name), "{value}");
            assert_eq!(!head.flaws(1).is_empty(), is_flaw, "{value}: {:?}", head.flaws(1));
        }
        for (value, field) in [("name*=utf-8''f%C3%BCr", "für"), ("name*0=f; name*1*=%C3%BCr", "für")] {
            let head = disposition(&format!("form-data; {value}; filename=x"));
            assert_eq!(head.name("name").as_deref(), Some(field), "{value}");
            assert!(head.flaws(1)[0].sentence.contains("that RFC 7578, 4.2 forbids: "), "{:?}", head.flaws(1));
        }
    }

    #[test]
    fn header_lines_end_as_flask_ends_them() {
        for (bytes, content, has_bare_lf) in [
            ("A: b\r\nB: c\r\n\r\nx", "x", false),
            ("A: b\nB: c\n\nx", "x", true),
            ("A: b\rd\r\nB: c\r\n\r\nx", "x", false),
            ("A: b\nB: c\r\n\r\nx", "x", true),
            ("A: b\r\nB: c\n\nx\r\n\r\n", "x\r\n\r\n", true),
            ("A: b\r\nB: c\n\r\nx", "x", true),
            ("A: b\r\nB: c\r\n\nx", "x", true),
            ("A: b\nc\r\nB: c\r\n\r\nx", "x", false),
            ("A: b\r\n c\r\nB: c\r\n\r\nx", "x", false),
            ("\r\nB: c", "B: c", false),
            ("\nB: c", "B: c", true),
        ] {
            let head = head(bytes.as_bytes()).unwrap();
            assert_eq!(&bytes[head.raw.len()..], content, "{bytes:?}");
            assert_eq!(head.has_bare_lf, has_bare_lf, "{bytes:?}");
            let second = Some(&b"c"[..]).filter(|_| head.raw.len() > 2);
            assert_eq!(head.header("b"), second, "{bytes:?}");
        }
        for bytes in ["", "A: b", "A: b\r\n", "A: b\r\n--b\r\n\r\n", "A: b\n--b\n\n"] {
            assert!(head(bytes.as_bytes()).is_none(), "{bytes:?}");
        }
    }

    #[test]
    fn a_text_is_decoded_by_its_charset() {
        for (content_type, expected) in [
            ("text/plain; charset=ISO-8859-1", "Ã¼"),
            ("text/plain;charset=\"latin1\"", "Ã¼"),
            ("text/plain; charset=utf-8", "ü"),
            ("text/plain", "ü"),
        ] {
            let head = head(format!("Content-Type: {content_type}\r\n\r\n").as_bytes()).unwrap();
            assert_eq!(head.decode(b"\xc3\xbc"), expected, "{content_type}");
        }
    }

    /// A client may send a thousand such heads.
    #[test]
    fn no_head_takes_long() {
        for piece in ["\n", "\r\n ", "\na", "; ", "\" ", " ", ", name", "\"", "filename*0=;", "=;", "\\\"", "'", "%22"]
        {
            for start in
                ["Content-Disposition: form-data; name=\"", "Content-Disposition: x;", "Content-Disposition: x; y="]
            {
                let lines = format!("{start}{}\"\r\n\r\n", piece.repeat(16_000 / piece.len()));
                let started = std::time::Instant::now();
                if let Some(head) = head(lines.as_bytes()) {
                    std::hint::black_box((head.name("name"), head.name("filename"), head.flaws(1)));
                }
                assert!(started.elapsed().as_millis() < 200, "{start}{piece:?}: {:?}", started.elapsed());
            }
        }
    }
}
