//! The folder of --record: ready.json and certificate.pem for a client to start with, journal.jsonl (journal.rs writes
//! it), and the uploaded files in reports/.

use crate::message::json_object;
use crate::text::Failure;
use serde_json::json;
use std::cell::{OnceCell, RefCell};
use std::collections::HashMap;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, BufRead, BufReader, ErrorKind, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use tempfile::{NamedTempFile, TempPath};

pub struct Record {
    folder: PathBuf,
    /// Locked for as long as the program runs.
    _lock: File,
    /// What ready.json says, once it does.
    ready: OnceCell<String>,
}

impl Record {
    /// Makes the folder where it is missing, makes sure that no other server has it, and removes what a killed server
    /// has left there: its ready.json, and files that were not whole.
    pub fn open(folder: PathBuf) -> Result<Record, Failure> {
        // A folder that is no record may have files that only look so.
        let is_record = folder.join(LOCK).exists();
        if let Some(name) = OWN.iter().find(|name| !is_record && folder.join(name).exists()) {
            let what = format!("{} holds a {name}, but no {LOCK}: it is no record of this program", folder.display());
            return Err(Failure::new(what, "name another folder with --record, or move that file away"));
        }
        let mut options = File::options();
        options.write(true).create(true).truncate(false);
        let lock = fs::create_dir_all(folder.join(REPORTS)).and_then(|()| options.open(folder.join(LOCK)));
        let lock = lock.map_err(unusable(&folder))?;
        lock.try_lock().map_err(|error| match error {
            TryLockError::WouldBlock => {
                let what = format!("another cleaner-test-server records into {}", folder.display());
                Failure::new(what, "stop it, or name another folder with --record")
            }
            TryLockError::Error(error) => unusable(&folder)(error),
        })?;
        clear(&folder, &[READY, CERTIFICATE, TRUSTSTORE]).map_err(unusable(&folder))?;
        Ok(Record { folder, _lock: lock, ready: OnceCell::new() })
    }

    pub fn journal(&self) -> Result<Lines, Failure> {
        Lines::open(&self.folder.join(JOURNAL)).map_err(unusable(&self.folder))
    }

    pub fn reports(&self) -> Reports {
        Reports { folder: self.folder.join(REPORTS), numbers: RefCell::default() }
    }

    /// Says that connections are accepted, and how to make one.
    pub fn write_ready(&self, url: &str, port: u16, certificate: Option<&Path>) -> Result<(), Failure> {
        let members = [
            ("url", json!(url)),
            ("port", json!(port)),
            ("pid", json!(std::process::id())),
            ("certificate", json!(certificate.map(Path::to_string_lossy))),
        ];
        self.write(READY, self.ready.get_or_init(|| json_object(&members) + "\n")).map(drop)
    }

    /// Says that the server has stopped, and removes what is not whole; unless the folder has been made anew meanwhile
    /// and is another server's.
    pub fn close(&self) -> io::Result<()> {
        let ready = fs::read_to_string(self.folder.join(READY)).ok();
        if ready.as_ref() == self.ready.get() { clear(&self.folder, &[READY]) } else { Ok(()) }
    }

    /// Returns the file's path. Whoever sees the file sees all of it.
    pub fn write(&self, name: &str, content: &str) -> Result<PathBuf, Failure> {
        let path = self.folder.join(name);
        let write = || {
            let mut file = begin_file(&self.folder)?;
            file.write_all(content.as_bytes())?;
            file.persist(&path).map_err(|error| error.error)
        };
        write().map_err(unusable(&self.folder))?;
        Ok(path)
    }
}

/// A file of lines, which are there whole or not at all, also where the disk is full.
pub struct Lines {
    file: File,
    /// Of the last whole line.
    end: u64,
}

impl Lines {
    /// To be continued. Half a line, which a full disk or a crash has left, goes.
    fn open(path: &Path) -> io::Result<Lines> {
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
        let (mut lines, mut line, mut end) = (BufReader::new(&file), Vec::new(), 0);
        while lines.read_until(b'\n', &mut line)? > 0 && line.ends_with(b"\n") {
            end += line.len() as u64;
            line.clear();
        }
        file.set_len(end)?;
        Ok(Lines { file, end })
    }

    pub fn append(&mut self, line: &str) -> io::Result<()> {
        // Somebody may have emptied it meanwhile.
        self.end = self.end.min(self.file.metadata()?.len());
        self.file.seek(SeekFrom::Start(self.end))?;
        self.file.write_all(line.as_bytes()).inspect_err(|_| {
            // Where not even that works, the next line is written over it.
            self.file.set_len(self.end).ok();
        })?;
        self.end += line.len() as u64;
        Ok(())
    }
}

/// Where uploaded files are kept.
pub struct Reports {
    folder: PathBuf,
    /// The highest number that a name has got. Without it the thousandth file of a name would be tried under all the
    /// numbers before, which takes a second, and more on Windows.
    numbers: RefCell<HashMap<String, u32>>,
}

impl Reports {
    /// A file that goes away again unless it is kept.
    pub fn begin(&self) -> io::Result<NamedTempFile> {
        begin_file(&self.folder)
    }

    /// Gives it the name that the client sent, as far as that is safe; with a number where the name is taken.
    pub fn keep(&self, mut file: TempPath, sent_name: &str) -> io::Result<PathBuf> {
        let name = safe_name(sent_name);
        let (stem, extension) = name.split_at(name.rfind('.').unwrap_or(name.len()));
        let mut numbers = self.numbers.borrow_mut();
        let highest = numbers.entry(name.clone()).or_insert(1);
        let mut path = self.folder.join(&name);
        loop {
            match file.persist_noclobber(&path) {
                Ok(()) => return Ok(path),
                Err(error) if error.error.kind() == ErrorKind::AlreadyExists => file = error.path,
                Err(error) => return Err(error.error),
            }
            *highest += 1;
            path = self.folder.join(format!("{stem}-{highest}{extension}"));
        }
    }
}

/// A name that means a plain file in its folder on every system: no path, nothing that Windows forbids or reserves
/// (Microsoft, "Naming Files, Paths, and Namespaces"), not hidden, not too long.
fn safe_name(sent: &str) -> String {
    let last = sent.rsplit(['/', '\\']).next().unwrap_or_default();
    let mut name = String::new();
    for character in last.chars() {
        let is_within_word = name.ends_with(|before: char| before.is_alphanumeric() || is_mark(before));
        let is_safe = character.is_alphanumeric() || is_within_word && is_mark(character);
        name.push(if is_safe || " -_.,+()[]@=".contains(character) { character } else { '_' });
    }
    // macOS writes letters with a mark as two; those of other languages stay as they come.
    for (mark, letters, composed) in COMPOSED {
        for (letter, composed) in letters.chars().zip(composed.chars()) {
            name = name.replace(&format!("{letter}{mark}"), &composed.to_string());
        }
    }
    let name = name.trim_start_matches(['.', ' ']).trim_end_matches(['.', ' ']);
    let (stem, extension) = name.rsplit_once('.').unwrap_or((name, ""));
    let device = name.split('.').next().unwrap_or_default().trim_end().to_ascii_uppercase();
    let is_device = DEVICES.contains(&device.as_str())
        || ((device.starts_with("COM") || device.starts_with("LPT")) && device.chars().count() == 4);
    let prefix = if is_device || stem.is_empty() { "file-" } else { "" };
    let stem: String = stem.chars().take(MAX_STEM_CHARACTERS).collect();
    let extension: String = extension.chars().take(MAX_EXTENSION_CHARACTERS).collect();
    format!("{prefix}{}.{extension}", stem.trim_end()).trim_end_matches(['.', ' ']).to_owned()
}

/// A mark on the letter before: only at the beginning of a text it is written as an escape.
fn is_mark(character: char) -> bool {
    let text = format!("a{character}");
    character.escape_debug().len() > 1 && text.escape_debug().eq(text.chars())
}

/// Removes these files, and those in the folder and its reports that are not whole.
fn clear(folder: &Path, names: &[&str]) -> io::Result<()> {
    let files = names.iter().map(|name| folder.join(name));
    for entry in fs::read_dir(folder)?.chain(fs::read_dir(folder.join(REPORTS))?) {
        let entry = entry?;
        let is_stale = files.clone().any(|file| file == entry.path());
        if is_stale || entry.file_name().to_string_lossy().starts_with(INCOMING) {
            match fs::remove_file(entry.path()) {
                // What is not whole goes by itself too.
                Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
    }
    Ok(())
}

/// A client of another user, or in a container, is to read it too.
fn begin_file(folder: &Path) -> io::Result<NamedTempFile> {
    let mut builder = tempfile::Builder::new();
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o644));
    builder.prefix(INCOMING).tempfile_in(folder)
}

fn unusable(folder: &Path) -> impl FnOnce(io::Error) -> Failure {
    let what = format!("cannot write into {}", folder.display());
    Failure::of(what, "name a folder with --record that can be made and written to")
}

const READY: &str = "ready.json";
const JOURNAL: &str = "journal.jsonl";
/// For Java (command.rs).
const TRUSTSTORE: &str = "truststore.jks";
/// The CA to trust.
pub const CERTIFICATE: &str = "certificate.pem";
/// By which a folder is known as a record.
const LOCK: &str = ".cleaner-test-server.lock";
const OWN: [&str; 4] = [READY, CERTIFICATE, TRUSTSTORE, JOURNAL];
const REPORTS: &str = "reports";
/// Begins the names of files on their way; no kept file's name begins with a dot.
const INCOMING: &str = ".incoming-";
/// A mark, letters, and the letters with it.
const COMPOSED: [(char, &str, &str); 8] = [
    ('\u{300}', "AEIOUaeiou", "ÀÈÌÒÙàèìòù"),
    ('\u{301}', "AEIOUYaeiouyCNSZcnsz", "ÁÉÍÓÚÝáéíóúýĆŃŚŹćńśź"),
    ('\u{302}', "AEIOUaeiou", "ÂÊÎÔÛâêîôû"),
    ('\u{303}', "ANOano", "ÃÑÕãñõ"),
    ('\u{308}', "AEIOUaeiou", "ÄËÏÖÜäëïöü"),
    ('\u{30a}', "AUau", "ÅŮåů"),
    ('\u{30c}', "CDENRSTZcdenrstz", "ČĎĚŇŘŠŤŽčďěňřšťž"),
    ('\u{327}', "CSTcst", "ÇŞŢçşţ"),
];
const DEVICES: [&str; 4] = ["CON", "PRN", "AUX", "NUL"];
/// File systems allow 255 bytes, and a character takes up to four; a number may still be added.
const MAX_STEM_CHARACTERS: usize = 50;
const MAX_EXTENSION_CHARACTERS: usize = 10;
