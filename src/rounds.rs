//! `--fault all`: runs this program again and again, first without a fault and then with each, and says at the end which
//! of them the client handles.

use crate::command;
use crate::journal::console::Console;
use crate::message::{Ended, Fault};
use crate::stop::{Word, words};
use crate::text::{Failure, to_text};
use std::env;
use std::ffi::OsString;
use std::io::{self, Read, Seek};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc::Receiver;
use std::time::Duration;

/// `given`: the options as they were given. Returns the exit code.
pub fn run(given: &[OsString], client: &[OsString], record: Option<&Path>) -> Result<u8, Failure> {
    let console = Console::open(true)?;
    // Ctrl+C reaches the run that is going on, too, and ends that; then those before it are told.
    let stopped = words(false, true)?;
    let names: Vec<&str> = ["none"].into_iter().chain(Fault::ALL.map(|(_, name, _)| name)).collect();
    let (count, mut unready, mut rows) = (names.len(), None, format!("\n{:<14}  {:<9}  why", "fault", "verdict"));
    console.print(&format!("The client runs {count} times, without a fault and with each; that may take minutes.\n"));
    for (number, name) in (1..).zip(names) {
        console.print(&format!("{number} of {count}  {name}: the client runs ..."));
        // Of an option that is there twice, the last holds.
        let mut options = [given, &["--fault".into(), name.into()]].concat();
        options.extend(record.into_iter().flat_map(|folder| ["--record".into(), folder.join(name).into()]));
        let served = serve(&[&options[..], &["--".into()], client].concat(), &stopped);
        let failed = Failure::of("cannot run this program again", "name one fault instead of all");
        let (ended, said) = served.map_err(failed)?;
        let verdict = match ended.exit_code {
            Some(0) => "ready",
            Some(3) => "NOT READY",
            code => {
                let broken_off = format!("{rows}\n{name:<14}  broken off, by Ctrl+C or another signal\n\nNOT READY");
                console.print(if code.is_none() { &broken_off } else { &said });
                console.close();
                return Ok(code.and_then(|code| code.try_into().ok()).unwrap_or(3));
            }
        };
        console.print(&format!("{number} of {count}  {name}: {verdict}"));
        let why = said.trim_start_matches("ready: ").trim_start_matches("NOT READY\n  ");
        rows.push_str(&format!("\n{name:<14}  {verdict:<9}  {}", why.replace("\n  ", &format!("\n{:27}", ""))));
        unready = unready.or((verdict != "ready").then_some(name));
    }
    console.print(&format!("{rows}\n"));
    console.print(&unready.map_or("ready: the client handles every fault".to_owned(), |name| {
        format!("NOT READY\n  to see all that happens, name a fault instead of all: --fault {name}")
    }));
    console.close();
    Ok(if unready.is_none() { 0 } else { 3 })
}

/// One run: how it has ended, and the last that was said. Only one could have the standard input.
fn serve(arguments: &[OsString], stopped: &Receiver<Word>) -> io::Result<(Ended, String)> {
    let (mut output, mut said) = (tempfile::tempfile()?, Vec::new());
    let mut program = Command::new(env::current_exe()?);
    program.args(arguments).stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output.try_clone()?);
    let ended = command::run(program, stopped, GRACE);
    if ended.not_run.is_some() {
        return Err(io::Error::other(ended.trouble.unwrap_or_default()));
    }
    output.rewind()?;
    output.read_to_end(&mut said)?;
    let said = to_text(&said);
    let mut blocks = said.trim_end().rsplit("\n\n");
    let last = blocks.clone().next().unwrap_or_default();
    // Something that the client has left behind may still speak.
    let verdict = blocks.find(|block| block.starts_with("ready: ") || block.starts_with("NOT READY"));
    Ok((ended, verdict.unwrap_or(last).to_owned()))
}

/// How long a run may take to end at the word to stop, and then at SIGTERM: its client may take two seconds of that.
const GRACE: Duration = Duration::from_secs(3);
