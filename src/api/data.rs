//! What is served: the files of the data folder, or the copy built into the program. Files are read anew for each
//! request, so that an edit shows at once, and a mistake in one is told with file, line and column. Knows no HTTP.

use crate::text::{Failure, shown};
use serde_json::Value;
use std::fs::{self, File, Metadata};
use std::io::{self, ErrorKind, Read, Write};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

pub struct Data {
    /// `None`: the built-in copy.
    folder: Option<PathBuf>,
    /// The built-in download counts as modified then.
    started: SystemTime,
    /// For the banner.
    pub about: Vec<String>,
}

/// The file that a client is to download.
pub struct Download {
    pub name: String,
    /// `None`: the built-in copy.
    pub file: Option<File>,
    pub length_bytes: u64,
    pub modified: SystemTime,
    /// What the user may not know about the choice.
    pub warning: Option<String>,
}

/// The ids in tasks.json. `None` where its form is not `{"tasks": [{"id": ...}, ...]}`, so that no id can be told.
pub type Ids = Option<Vec<String>>;

impl Data {
    /// The folder that was asked for, else `data` beside the executable if it is meant for this program, else the
    /// built-in copy. All JSON in it is read once, so that a broken file is noticed before a client meets it.
    pub fn open(folder: Option<PathBuf>) -> Result<Data, Failure> {
        let is_ours = |beside: &PathBuf| [TASKS, REPORT].iter().any(|name| beside.join(name).exists());
        let folder = folder.or_else(|| beside_executable().filter(is_ours));
        let data = Data { folder, started: SystemTime::now(), about: Vec::new() };
        let about = data.look_through();
        let advice = "mend it, or write a fresh folder with --write-data DIR";
        about.map(|about| Data { about, ..data }).map_err(|what| Failure::new(what, advice))
    }

    /// Returns where the data comes from, and what is there beyond the usual.
    fn look_through(&self) -> Result<Vec<String>, String> {
        let Some(folder) = &self.folder else {
            let mut lines = vec!["built in (--write-data DIR writes a copy that you can change)".to_owned()];
            let why = format!("is not served: it holds neither {TASKS} nor {REPORT}");
            lines.extend(beside_executable().map(|other| format!("{} {why}", other.display())));
            return Ok(lines);
        };
        if !folder.is_dir() {
            return Err(format!("{} is not there, or is no folder", folder.display()));
        }
        let ids = self.task_ids()?;
        self.report(None)?;
        let (own, common) = self.downloads(&ids)?;
        if own.is_empty() {
            self.download(None, &ids)?;
        }
        let mut lines = vec![folder.display().to_string()];
        lines.extend(own.iter().map(|name| format!("{name} is the download for task {}", stem(name))));
        for name in self.file_names()? {
            if let Some(id) = report_id(&name) {
                self.json(&name)?;
                lines.push(format!("{name} answers reports on task {id}"));
            }
        }
        lines.extend(several(&common));
        let lacks_own = |id: &&String| common.is_empty() && own.iter().all(|name| stem(name) != *id);
        let lacking = ids.iter().flatten().filter(lacks_own);
        lines.extend(lacking.map(|id| format!("warning: there is no file to download for task {}", shown(id))));
        if ids.is_none() {
            lines.push(format!(
                "warning: {TASKS} has no list \"tasks\" in which each has an \"id\": ids are not checked"
            ));
        }
        Ok(lines)
    }

    /// The body of the answer to GET /tasks.
    pub fn tasks(&self) -> Result<Vec<u8>, String> {
        Ok(self.json(TASKS)?.0)
    }

    pub fn task_ids(&self) -> Result<Ids, String> {
        let tasks = self.json(TASKS)?.1;
        let id = |task: &Value| match &task["id"] {
            Value::String(id) => Some(id.clone()),
            Value::Number(id) => Some(id.to_string()),
            _ => None,
        };
        Ok(tasks["tasks"].as_array().and_then(|tasks| tasks.iter().map(id).collect()))
    }

    /// The body of the answer to a report on task `id`: from the task's own file if there is one.
    pub fn report(&self, id: Option<&str>) -> Result<Vec<u8>, String> {
        let own = self.file_names()?.into_iter().find(|name| id.is_some() && report_id(name) == id);
        Ok(self.json(own.as_deref().unwrap_or(REPORT))?.0)
    }

    /// The download for task `id`, else the one for all tasks.
    pub fn download(&self, id: Option<&str>, ids: &Ids) -> Result<Download, String> {
        let Some(folder) = &self.folder else {
            let (length_bytes, modified) = (BUILT_IN_DOWNLOAD.len() as u64, self.started);
            return Ok(Download { name: DOWNLOAD.to_owned(), file: None, length_bytes, modified, warning: None });
        };
        let (own, common) = self.downloads(ids)?;
        let asked_for = |name: &&String| id.is_some_and(|id| stem(name) == id);
        let Some(name) = own.iter().chain(&common).find(asked_for).or(common.first()) else {
            let folder = folder.display();
            let whose = id.map_or_else(String::new, |id| format!(" for task {}", shown(id)));
            return Err(format!("{folder} holds no file to download{whose}, such as {DOWNLOAD}"));
        };
        let warning = several(&common).filter(|_| common.contains(name));
        let path = folder.join(name);
        let open = || -> io::Result<Download> {
            let (file, metadata) = open_file(&path)?;
            let (length_bytes, modified) = (metadata.len(), metadata.modified()?);
            Ok(Download { name: name.clone(), file: Some(file), length_bytes, modified, warning })
        };
        open().map_err(|error| unreadable(&path, &error))
    }

    /// The files for one task each, and the files for all tasks, by name.
    fn downloads(&self, ids: &Ids) -> Result<(Vec<String>, Vec<String>), String> {
        let ids = ids.as_deref().unwrap_or_default();
        // Nor are tasks.json.bak and the like.
        let is_answer = |name: &String| {
            let name = name.to_ascii_lowercase();
            [TASKS, REPORT].iter().any(|answer| name.starts_with(answer))
                || name.starts_with("report-") && name.contains(".json") && !name.ends_with(".zip")
        };
        Ok(self
            .file_names()?
            .into_iter()
            .filter(|name| !is_answer(name))
            .partition(|name| ids.iter().any(|id| stem(name) == id)))
    }

    /// The bytes of a file that is to be JSON, as they are, and what they say.
    fn json(&self, name: &str) -> Result<(Vec<u8>, Value), String> {
        let Some(folder) = &self.folder else {
            let bytes = if name == TASKS { BUILT_IN_TASKS } else { BUILT_IN_REPORT };
            return Ok((bytes.to_vec(), parse(bytes)?));
        };
        let path = folder.join(name);
        let mut bytes = Vec::new();
        let read = open_file(&path).and_then(|(mut file, _)| file.read_to_end(&mut bytes));
        read.map_err(|error| unreadable(&path, &error))?;
        let value = parse(&bytes).map_err(|what| format!("{} is not JSON: {what}", path.display()))?;
        Ok((bytes, value))
    }

    /// The names in the folder, sorted; what file managers leave there is not looked at.
    fn file_names(&self) -> Result<Vec<String>, String> {
        let Some(folder) = &self.folder else { return Ok(Vec::new()) };
        let entries = fs::read_dir(folder).and_then(Iterator::collect::<io::Result<Vec<_>>>);
        let entries = entries.map_err(|error| unreadable(folder, &error))?;
        let is_looked_at = |name: &String| {
            !name.starts_with(['.', '#', '~'])
                && !LEFT_BEHIND.iter().any(|end| name.to_ascii_lowercase().ends_with(end))
                && fs::metadata(folder.join(name)).is_ok_and(|metadata| !metadata.is_dir())
        };
        let names = entries.into_iter().filter_map(|entry| entry.file_name().into_string().ok());
        let mut names: Vec<String> = names.filter(is_looked_at).collect();
        names.sort();
        Ok(names)
    }
}

/// Writes the built-in files into `folder`. A file that is there already is left as it is, and reported as kept.
pub fn write_built_in(folder: &Path) -> Result<Vec<String>, Failure> {
    let advice = "name another folder with --write-data DIR";
    let failed = |path: &Path| Failure::of(format!("cannot write {}", path.display()), advice);
    fs::create_dir_all(folder).map_err(failed(folder))?;
    let files = [(TASKS, BUILT_IN_TASKS), (REPORT, BUILT_IN_REPORT), (DOWNLOAD, BUILT_IN_DOWNLOAD)];
    let mut told = Vec::new();
    for (name, bytes) in files {
        let path = folder.join(name);
        let write = |mut file: File| file.write_all(bytes).inspect_err(|_| drop(fs::remove_file(&path)));
        match File::create_new(&path).and_then(write) {
            Ok(()) => told.push(format!("wrote {}", path.display())),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                told.push(format!("kept  {}, which was there already", path.display()));
            }
            Err(error) => return Err(failed(&path)(error)),
        }
    }
    told.push(format!("serve them with --data {}", folder.display()));
    Ok(told)
}

fn parse(bytes: &[u8]) -> Result<Value, String> {
    if bytes.starts_with(b"\xef\xbb\xbf") {
        return Err("line 1, column 1: a byte order mark; save it as UTF-8 without BOM".to_owned());
    }
    if bytes.starts_with(b"\xff\xfe") || bytes.starts_with(b"\xfe\xff") {
        return Err("line 1, column 1: it is UTF-16; save it as UTF-8 without BOM".to_owned());
    }
    serde_json::from_slice(bytes).map_err(|error| {
        if error.is_eof() {
            return unclosed(bytes);
        }
        let (line, column, text) = (error.line(), error.column(), error.to_string());
        let known = MISTAKES.iter().find(|(begin, _)| text.starts_with(begin));
        let what = known.map_or_else(|| text.split(" at line ").next().unwrap_or_default(), |(_, what)| what);
        match column {
            0 => format!("the end of line {}: {what}", line - 1),
            column => format!("line {line}, column {column}: {what}"),
        }
    })
}

/// What is open at the end of a JSON text that breaks off.
fn unclosed(bytes: &[u8]) -> String {
    let (mut open, mut line, mut is_escaped) = (Vec::new(), 1, false);
    for byte in bytes {
        let is_in_text = matches!(open.last(), Some(("text", _)));
        match byte {
            _ if is_escaped => is_escaped = false,
            b'\\' => is_escaped = true,
            b'"' if is_in_text => drop(open.pop()),
            b'"' => open.push(("text", line)),
            b'{' if !is_in_text => open.push(("object", line)),
            b'[' if !is_in_text => open.push(("list", line)),
            b'}' | b']' if !is_in_text => drop(open.pop()),
            b'\n' => line += 1,
            _ => {}
        }
    }
    match open.pop() {
        Some((what, line)) => format!("the file ends before the {what} that begins in line {line} is closed"),
        None => "the file ends before there is a value in it".to_owned(),
    }
}

/// Opening anything else, such as a named pipe, could take for ever, and all clients would wait; also where it takes a
/// file's place in this very moment.
fn open_file(path: &Path) -> io::Result<(File, Metadata)> {
    let of_a_file = |metadata: Metadata| {
        let what = if metadata.is_dir() { "a folder" } else { "a named pipe, a socket or a device" };
        if metadata.is_file() { Ok(metadata) } else { Err(io::Error::other(format!("it is {what}, and no file"))) }
    };
    of_a_file(fs::metadata(path)?)?;
    let mut options = File::options();
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::custom_flags(&mut options, libc::O_NONBLOCK);
    let file = options.read(true).open(path)?;
    let metadata = of_a_file(file.metadata()?)?;
    Ok((file, metadata))
}

fn unreadable(path: &Path, error: &io::Error) -> String {
    match error.kind() {
        ErrorKind::NotFound => format!("{} is missing", path.display()),
        ErrorKind::NotADirectory => format!("{} is not a folder", path.display()),
        _ => format!("cannot read {}: {error}", path.display()),
    }
}

/// Never a `data` folder of the current directory: a program started from anywhere must serve the same.
fn beside_executable() -> Option<PathBuf> {
    let folder = std::env::current_exe().ok()?.parent()?.join("data");
    folder.is_dir().then_some(folder)
}

/// A warning if there is more than one download for all tasks.
fn several(common: &[String]) -> Option<String> {
    let [first, _, ..] = common else { return None };
    Some(format!("warning: several files could be the download for all tasks; {first} is, as the first by name"))
}

/// The N of `report-N.json`.
fn report_id(name: &str) -> Option<&str> {
    name.strip_prefix("report-")?.strip_suffix(".json")
}

/// The name up to its first dot: `2` for `2.tar.gz`.
fn stem(name: &str) -> &str {
    name.split('.').next().unwrap_or(name)
}

const TASKS: &str = "tasks.json";
const REPORT: &str = "report.json";
const DOWNLOAD: &str = "1797242037.zip";
const BUILT_IN_TASKS: &[u8] = include_bytes!("../../data/tasks.json");
const BUILT_IN_REPORT: &[u8] = include_bytes!("../../data/report.json");
pub const BUILT_IN_DOWNLOAD: &[u8] = include_bytes!("../../data/1797242037.zip");
/// How serde_json says what is wrong at a place, and how people do.
const MISTAKES: [(&str, &str); 9] = [
    ("expected `,` or `}`", "a comma or the closing } is missing before this place"),
    ("expected `,` or `]`", "a comma or the closing ] is missing before this place"),
    ("expected `:`", "a colon is missing before this place"),
    ("expected value", "no value begins like this; a text stands in double quotes"),
    ("key must be a string", "a name in double quotes belongs here"),
    ("trailing comma", "the comma before this place is one too many"),
    ("trailing characters", "the value ends before this place, and something follows"),
    ("invalid unicode", "a letter here is not in UTF-8; save the file as UTF-8"),
    ("control character", "a text does not end in the line in which it begins; \\n in a text is a new line"),
];
/// How names end of files that editors, browsers and Windows leave behind; those of others begin so, see `file_names`.
const LEFT_BEHIND: [&str; 8] = ["~", "#", ".swp", ".tmp", ".part", ".crdownload", "thumbs.db", "desktop.ini"];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_with_json_is_said_in_plain_words() {
        for (json, what) in [
            ("", "the file ends before there is a value in it"),
            (" \n", "the file ends before there is a value in it"),
            ("{\n\"a\": [1,\n", "the file ends before the list that begins in line 2 is closed"),
            ("{\n\"a\": \"}]\\\"\"\n", "the file ends before the object that begins in line 1 is closed"),
            ("[\n\n\"a", "the file ends before the text that begins in line 3 is closed"),
            ("{\"a\": 1\n\"b\": 2}", "line 2, column 1: a comma or the closing } is missing before this place"),
            ("[1 2]", "line 1, column 4: a comma or the closing ] is missing before this place"),
            ("{\"a\" 1}", "line 1, column 6: a colon is missing before this place"),
            ("{\"a\": b}", "line 1, column 7: no value begins like this; a text stands in double quotes"),
            ("{a: 1}", "line 1, column 2: a name in double quotes belongs here"),
            ("[1,]", "line 1, column 4: the comma before this place is one too many"),
            ("[1] 2", "line 1, column 5: the value ends before this place, and something follows"),
            (
                "[\"a\nb\"]",
                "the end of line 1: a text does not end in the line in which it begins; \\n in a text is a new line",
            ),
        ] {
            assert_eq!(parse(json.as_bytes()).expect_err("no JSON"), what, "{json:?}");
        }
        assert!(parse(b"[\"\\\\\"]").is_ok());
        let latin_1 = parse(b"[\"\xfc\"]").expect_err("no UTF-8");
        assert!(latin_1.ends_with(": a letter here is not in UTF-8; save the file as UTF-8"), "{latin_1}");
    }
}
