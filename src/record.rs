//! The folder of --record: what a client needs to start (ready.json, certificate.pem).

use crate::console::Failure;
use crate::reply::json_object;
use serde_json::json;
use std::fs;
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};
use tempfile::NamedTempFile;

pub struct Record {
    folder: PathBuf,
}

impl Record {
    /// Makes the folder where it is missing, and removes the ready.json that a killed server has left there.
    pub fn open(folder: PathBuf) -> Result<Record, Failure> {
        let opened = fs::create_dir_all(&folder).and_then(|()| remove(&folder.join(READY)));
        opened.map_err(|error| unusable(&folder, &error))?;
        Ok(Record { folder })
    }

    /// The CA to trust. Returns the file's path.
    pub fn write_certificate(&self, pem: &str) -> Result<PathBuf, Failure> {
        self.write("certificate.pem", pem)
    }

    /// Says that connections are accepted, and how to make one.
    pub fn write_ready(&self, url: &str, port: u16, certificate: Option<&Path>) -> Result<(), Failure> {
        let ready = json_object(&[
            ("url", json!(url)),
            ("port", json!(port)),
            ("pid", json!(std::process::id())),
            ("certificate", json!(certificate)),
        ]);
        self.write(READY, &(ready + "\n")).map(drop)
    }

    /// Says that the server has stopped.
    pub fn remove_ready(&self) -> io::Result<()> {
        remove(&self.folder.join(READY))
    }

    /// Whoever sees the file sees all of it.
    fn write(&self, name: &str, content: &str) -> Result<PathBuf, Failure> {
        let path = self.folder.join(name);
        let write = || {
            let mut file = NamedTempFile::new_in(&self.folder)?;
            file.write_all(content.as_bytes())?;
            file.persist(&path).map_err(|error| error.error)
        };
        write().map_err(|error| unusable(&self.folder, &error))?;
        Ok(path)
    }
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn unusable(folder: &Path, error: &io::Error) -> Failure {
    let what = format!("cannot write into {}: {error}", folder.display());
    Failure::new(what, "name a folder with --record that can be made and written to")
}

const READY: &str = "ready.json";
