//! Valid requests by chance and what the server must make of them, and small changes that spoil them.

use serde_json::{Value, json};

use crate::support::{DOWNLOAD, REPORT, TASKS, built_in, sha256};

/// A valid request, and what the server must make of it.
pub struct Request {
    pub bytes: Vec<u8>,
    pub answer: Option<Vec<u8>>,
    /// The members of its event in the journal that are known beforehand.
    pub event: Value,
}

impl Request {
    pub fn random(random: &mut Random) -> Request {
        let zip = built_in("1797242037.zip");
        let first = random.below(zip.len());
        let last = first + random.below(zip.len() - first);
        let range = format!("bytes={first}-{last}");
        match random.below(8) {
            0 => Request::new(random, "GET", TASKS, 200, Some(built_in("tasks.json")), &[], None),
            1 => Request::new(random, "HEAD", TASKS, 200, Some(Vec::new()), &[], None),
            2 => Request::new(random, "GET", DOWNLOAD, 200, Some(zip), &[], None),
            3 => {
                let piece = zip[first..=last].to_vec();
                Request::new(random, "GET", DOWNLOAD, 206, Some(piece), &[("Range", range)], None)
            }
            4 => {
                let body = Body { bytes: random.long_bytes(), parts: Vec::new() };
                let (method, path, status) = random.one_of(&[("PUT", TASKS, 405), ("POST", "/elsewhere", 404)]);
                Request::new(random, method, path, status, None, &[], Some(body))
            }
            _ => {
                let boundary: String = random.text(BOUNDARY_CHARACTERS, 1, 60);
                let body = Body::random(random, &boundary);
                let content_type = [("Content-Type", format!("multipart/form-data; boundary=\"{boundary}\""))];
                Request::new(random, "POST", REPORT, 200, Some(built_in("report.json")), &content_type, Some(body))
            }
        }
    }

    fn new(
        random: &mut Random,
        method: &str,
        path: &str,
        status: u16,
        answer: Option<Vec<u8>>,
        needed: &[(&str, String)],
        body: Option<Body>,
    ) -> Request {
        let target = random.spelling(path);
        let mut headers = vec![("Host".to_owned(), "localhost".to_owned())];
        for _ in 0..random.below(6) {
            headers.push((format!("X-{}", random.text("abcXYZ019-_", 1, 20)), random.header_value()));
        }
        headers.extend(needed.iter().map(|(name, value)| ((*name).to_owned(), value.clone())));
        let mut framed = Vec::new();
        if let Some(body) = &body {
            let framing = if random.below(2) == 0 {
                framed.extend(&body.bytes);
                ("Content-Length".to_owned(), body.bytes.len().to_string())
            } else {
                framed = random.chunks(&body.bytes);
                ("Transfer-Encoding".to_owned(), random.one_of(&["chunked", "Chunked"]).to_owned())
            };
            headers.push(framing);
            if random.below(8) == 0 {
                headers.push(("Expect".to_owned(), "100-continue".to_owned()));
            }
        }
        for index in (1..headers.len()).rev() {
            headers.swap(index, random.below(index + 1));
        }
        let mut bytes = format!("{method} {target} HTTP/1.1\r\n").into_bytes();
        for (name, value) in &mut headers {
            *name = random.one_of(&[name.to_lowercase(), name.to_uppercase(), name.clone()]);
            let space = random.one_of(&["", " ", "\t", "  "]);
            bytes.extend(format!("{name}:{space}{value}{space}\r\n").as_bytes());
        }
        bytes.extend(b"\r\n");
        bytes.extend(framed);
        let (bytes_in, parts) = body.map_or((0, Vec::new()), |body| (body.bytes.len(), body.parts));
        let event = json!({
            "event": "request",
            "method": method,
            "target": target,
            "version": "HTTP/1.1",
            "headers": headers,
            "status": status,
            "bytes_in": bytes_in,
            "delivered": true,
            "parts": parts,
            "findings": [],
        });
        let event =
            if path == DOWNLOAD || path == TASKS || path == REPORT { event } else { without(event, "findings") };
        Request { bytes, answer, event }
    }
}

/// A small change anywhere, but in the heads rather than in the long contents.
pub fn mutate(random: &mut Random, bytes: &mut Vec<u8>) {
    let reach = if random.below(4) == 0 { bytes.len() } else { bytes.len().min(600) };
    let at = random.below(reach + 1);
    let end = (at + 1 + random.below(20)).min(bytes.len());
    match random.below(7) {
        0 => bytes.truncate(at),
        1 => drop(bytes.drain(at..end)),
        2 => {
            let twice = bytes[at..end].to_vec();
            bytes.splice(at..at, twice);
        }
        3 => {
            let length = random.below(10);
            let noise = random.bytes(length);
            bytes.splice(at..at, noise);
        }
        4 => {
            let word = random.one_of(&[
                "\r\n",
                "\n",
                "\r",
                "\0",
                ":",
                " ",
                "\t",
                "0",
                "9",
                ",",
                ";",
                "\"",
                "--",
                "\r\n\r\n",
                "\u{7f}",
                "\u{e9}",
                "Content-Length: 5\r\n",
                "Transfer-Encoding: chunked\r\n",
                "Expect: 100-continue\r\n",
                "HTTP/1.0",
                "%",
            ]);
            bytes.splice(at..at, word.bytes());
        }
        _ if at < bytes.len() => bytes[at] ^= 1 << random.below(8),
        _ => bytes.push(random.below(256) as u8),
    }
}

fn without(mut event: Value, member: &str) -> Value {
    event.as_object_mut().expect("an object").remove(member);
    event
}

/// What is sent as the body, and the parts that it has as multipart/form-data.
struct Body {
    bytes: Vec<u8>,
    parts: Vec<Value>,
}

impl Body {
    /// Begins with a file that has content, so that there are no findings.
    fn random(random: &mut Random, boundary: &str) -> Body {
        let mut bytes = Vec::new();
        if random.below(4) == 0 {
            bytes.extend(b"a preamble\r\n");
        }
        let mut parts = Vec::new();
        for index in 0..=random.below(4) {
            let field = format!("field-{}", random.text(NAME_CHARACTERS, 0, 20));
            let file_name =
                (index == 0 || random.below(2) == 0).then(|| format!("f{}", random.text(NAME_CHARACTERS, 0, 30)));
            let content_type =
                random.one_of(&[None, Some("application/zip"), Some("text/plain; charset=utf-8"), Some("x/y")]);
            let content = random.content(boundary);
            let mut disposition = format!("Content-Disposition: form-data; name={}", quoted(&field));
            if let Some(name) = &file_name {
                disposition += &format!("; filename={}", quoted(name));
            }
            let mut lines = vec![disposition];
            lines.extend(content_type.map(|content_type| format!("Content-Type: {content_type}")));
            if random.below(4) == 0 {
                lines.push("X-Other: 1".to_owned());
            }
            if random.below(2) == 0 {
                lines.reverse();
            }
            bytes.extend(format!("--{boundary}\r\n{}\r\n\r\n", lines.join("\r\n")).as_bytes());
            bytes.extend(&content);
            bytes.extend(b"\r\n");
            // The journal has 16 KiB of a text, without a last character that may be cut in two.
            let mut beginning = content[..content.len().min(16_384)].to_vec();
            if let Some(cut) = std::str::from_utf8(&beginning).err().filter(|_| content.len() > 16_384)
                && cut.error_len().is_none()
            {
                beginning.truncate(cut.valid_up_to());
            }
            let latin_1 = || beginning.iter().map(|byte| char::from(*byte)).collect();
            let text: String = str::from_utf8(&beginning).map_or_else(|_| latin_1(), str::to_owned);
            parts.push(json!({
                "field": field,
                "filename": file_name,
                "content_type": content_type,
                "bytes": content.len(),
                "sha256": sha256(&content),
                "value": file_name.is_none().then_some(text),
                "value_bytes": file_name.is_none().then_some(beginning.len()),
            }));
        }
        bytes.extend(format!("--{boundary}--{}", random.one_of(&["", "\r\n", "\r\nan epilogue"])).as_bytes());
        Body { bytes, parts }
    }
}

fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', r"\\").replace('"', "\\\""))
}

/// SplitMix64: one addition and a mix per number, and every seed is as good as another.
pub struct Random(pub u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }

    fn one_of<T: Clone>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len())].clone()
    }

    fn bytes(&mut self, length: usize) -> Vec<u8> {
        (0..length).map(|_| self.next() as u8).collect()
    }

    fn text(&mut self, alphabet: &str, least: usize, most: usize) -> String {
        let alphabet: Vec<char> = alphabet.chars().collect();
        let length = least + self.below(most - least + 1);
        (0..length).map(|_| self.one_of(&alphabet)).collect()
    }

    fn header_value(&mut self) -> String {
        match self.below(10) {
            0 => String::new(),
            1 => "x".repeat(self.below(5000)),
            _ => format!("v{}.", self.text(NAME_CHARACTERS, 0, 40)),
        }
    }

    /// Mostly short; sometimes longer than every buffer, seldom so long that it goes through a file.
    fn long_bytes(&mut self) -> Vec<u8> {
        let most = match self.below(50) {
            0 => 1_500_000,
            1..10 => 100_000,
            _ => 3000,
        };
        let length = 1 + self.below(most);
        self.bytes(length)
    }

    /// Noise, or what looks much like the boundary and never is.
    fn content(&mut self, boundary: &str) -> Vec<u8> {
        if self.below(2) == 0 {
            return self.long_bytes();
        }
        let almost = &boundary[..boundary.len() - 1];
        let mut content = Vec::new();
        for _ in 0..self.below(20) {
            let piece = match self.below(7) {
                0 => format!("\r\n--{almost}\n"),
                1 => "\r\n--".to_owned(),
                2 => "\r\n".to_owned(),
                3 => "--".to_owned(),
                4 => "\r".to_owned(),
                5 => "\r\n\r\n".to_owned(),
                _ => self.text("abc", 0, 9),
            };
            content.extend(piece.bytes());
        }
        let whole = format!("--{boundary}");
        let has_boundary = content.windows(whole.len()).any(|window| window == whole.as_bytes());
        if content.is_empty() || has_boundary { b"content".to_vec() } else { content }
    }

    /// The path as clients may spell it, and a query.
    fn spelling(&mut self, path: &str) -> String {
        let path = match self.below(5) {
            0 => format!("/{path}"),
            1 => format!("https://localhost{path}"),
            2 => path.replacen('s', "%73", 1),
            _ => path.to_owned(),
        };
        format!("{path}?id={}&n={}", 1 + self.below(2), self.below(1000))
    }

    fn chunks(&mut self, body: &[u8]) -> Vec<u8> {
        let mut chunks = Vec::new();
        let mut rest = body;
        while !rest.is_empty() {
            let most = self.one_of(&[1, 10, 1000, 100_000, 1_000_000]).max(rest.len() / 50);
            let (chunk, behind) = rest.split_at((1 + self.below(most)).min(rest.len()));
            let size = chunk.len();
            let line = self.one_of(&[format!("{size:x}"), format!("{size:X}"), format!("{size:08x};a=\"b;c\"")]);
            chunks.extend(format!("{line}\r\n").as_bytes());
            chunks.extend(chunk);
            chunks.extend(b"\r\n");
            rest = behind;
        }
        let end = self.one_of(&["0\r\n\r\n", "000\r\n\r\n", "0;end\r\nX-Trailer: 1\r\nX-Other: 2\r\n\r\n"]);
        chunks.extend(end.as_bytes());
        chunks
    }
}

const BOUNDARY_CHARACTERS: &str = "abcdefXYZ0123456789'()+_,-./:=?";
const NAME_CHARACTERS: &str = "abcXYZ019 -_.,;:=\"\\'%&()[]{}?/\u{e9}\u{20ac}\u{1f600}";
