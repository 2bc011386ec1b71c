//! `--fault all`: runs this program again and again, first without a fault and then with each, and says at the end which
//! of them the client bears.

use crate::journal::console::Console;
use crate::message::Fault;
use crate::text::{Failure, to_text};
use std::env;
use std::ffi::OsString;
use std::io::{self, Read, Seek};
use std::path::Path;
use std::process::Command;
use std::time::Instant;

/// `given`: the options as they were given. Returns the exit code.
pub fn run(given: &[OsString], client: &[OsString], record: Option<&Path>) -> Result<u8, Failure> {
    let console = Console::open(true)?;
    let names: Vec<&str> = ["none"].into_iter().chain(Fault::ALL.map(|(_, name, _)| name)).collect();
    let (count, mut unready, mut rows) = (names.len(), Vec::new(), String::new());
    console.print(&format!(
        "The client runs {count} times, without a fault and then with each; that may take a minute.\n"
    ));
    for (number, name) in (1..).zip(names) {
        console.print(&format!("{number} of {count}  {name}: the client runs ..."));
        let began = Instant::now();
        let (code, said) = serve_with(name, given, client, record).map_err(|error| {
            Failure::new(format!("cannot run this program again: {error}"), "name one fault instead of all")
        })?;
        let (verdict, why) = match (code, said.strip_prefix("ready: ")) {
            (Some(0), Some(why)) => ("ready", why),
            (Some(3), _) => ("NOT READY", said.trim_start_matches("NOT READY\n  ")),
            _ => {
                console.print(&said);
                console.close();
                return Ok(code.and_then(|code| code.try_into().ok()).unwrap_or(125));
            }
        };
        console.print(&format!("{number} of {count}  {name}: {verdict} after {:.1} s", began.elapsed().as_secs_f64()));
        rows.push_str(&format!("\n{name:<14}  {verdict:<9}  {}", why.replace("\n  ", &format!("\n{:27}", ""))));
        unready.extend((code != Some(0)).then_some(name));
    }
    console.print(&format!("\n{:<14}  {:<9}  why{rows}\n", "fault", "verdict"));
    console.print(&match unready.first() {
        None => "ready: the client bears every fault".to_owned(),
        Some(name) => format!("NOT READY\n  to see all that happens, name a fault instead of all: --fault {name}"),
    });
    console.close();
    Ok(if unready.is_empty() { 0 } else { 3 })
}

/// One run: its exit code, and the last that was said.
fn serve_with(
    name: &str,
    given: &[OsString],
    client: &[OsString],
    record: Option<&Path>,
) -> io::Result<(Option<i32>, String)> {
    let mut output = tempfile::tempfile()?;
    let mut program = Command::new(env::current_exe()?);
    // Of an option that is there twice, the last holds.
    program.args(given).args(["--fault", name]);
    if let Some(folder) = record {
        program.arg("--record").arg(folder.join(name));
    }
    program.arg("--").args(client).stdout(output.try_clone()?).stderr(output.try_clone()?);
    let status = program.status()?;
    let mut said = Vec::new();
    output.rewind()?;
    output.read_to_end(&mut said)?;
    let said = to_text(&said);
    Ok((status.code(), said.trim_end().rsplit("\n\n").next().unwrap_or_default().to_owned()))
}
