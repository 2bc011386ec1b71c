//! The command line: what can be asked for, what each value must be, and --help.

use crate::message::Fault;
use std::ffi::OsString;
use std::net::IpAddr;
use std::path::PathBuf;

#[derive(Debug, Default)]
pub struct Options {
    pub port: u16,
    /// `None`: both loopback addresses.
    pub host: Option<String>,
    /// Plain HTTP, without a certificate.
    pub http: bool,
    /// The user's own, and its private key: both or neither.
    pub certificate: Option<PathBuf>,
    pub key: Option<PathBuf>,
    /// What the certificate made for the run is for, beside the usual.
    pub names: Vec<String>,
    pub data: Option<PathBuf>,
    pub record: Option<PathBuf>,
    pub strict: bool,
    pub timeout_seconds: u64,
    pub max_upload_bytes: u64,
    pub exit_on_stdin_close: bool,
    pub fault: Option<Fault>,
    /// A client to run, and its arguments; empty without one.
    pub command: Vec<OsString>,
}

/// What the command line asks for.
#[derive(Debug)]
pub enum Action {
    Serve(Options),
    /// With all faults, one after the other: the options as they are given.
    ServeEach(Options, Vec<OsString>),
    WriteData(PathBuf),
    /// What --help and --version ask for.
    Print(&'static str),
}

impl Action {
    /// The error is one sentence.
    pub fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Action, String> {
        let (port, timeout_seconds, max_upload_bytes) = (5000, 30, 1 << 30);
        let mut options = Options { port, timeout_seconds, max_upload_bytes, ..Options::default() };
        let (mut fault, mut written) = ("none".to_owned(), None);
        let mut arguments: Vec<OsString> = arguments.into_iter().collect();
        if let Some(dashes) = arguments.iter().position(|argument| argument == "--") {
            options.command = arguments.split_off(dashes + 1);
            arguments.pop();
            if options.command.is_empty() {
                return Err("-- needs a command behind it, such as -- python client.py".to_owned());
            }
        }
        let mut parser = lexopt::Parser::from_args(arguments.clone());
        while let Some(argument) = parser.next().map_err(|error| error.to_string())? {
            use lexopt::Arg::{Long, Short, Value};
            match argument {
                Long("port") => options.port = number(&mut parser, "--port", 0, u16::MAX.into())? as u16,
                Long("host") => options.host = Some(host(&text(&mut parser, "--host")?)),
                Long("http") => options.http = true,
                Long("cert") => options.certificate = Some(path(&mut parser, "--cert")?),
                Long("key") => options.key = Some(path(&mut parser, "--key")?),
                Long("name") => options.names.push(name(&text(&mut parser, "--name")?)?),
                Long("data") => options.data = Some(path(&mut parser, "--data")?),
                Long("write-data") => written = Some(path(&mut parser, "--write-data")?),
                Long("record") => options.record = Some(path(&mut parser, "--record")?),
                Long("strict") => options.strict = true,
                Long("timeout") => options.timeout_seconds = number(&mut parser, "--timeout", 1, MAX_TIMEOUT_SECONDS)?,
                Long("max-upload") => options.max_upload_bytes = size(&text(&mut parser, "--max-upload")?)?,
                Long("exit-on-stdin-close") => options.exit_on_stdin_close = true,
                Long("fault") => fault = text(&mut parser, "--fault")?,
                Long("help") | Short('h') => return Ok(Action::Print(HELP)),
                Long("version") | Short('V') => return Ok(Action::Print(VERSION)),
                Long(name) => return Err(unknown(&format!("--{name}"))),
                Short(name) => return Err(unknown(&format!("-{name}"))),
                Value(word) => return Err(format!("{} is no option; a command goes behind --", word.display())),
            }
        }
        let named = Fault::ALL.iter().filter(|(_, own, _)| [own, "all"].contains(&fault.as_str()));
        let faults: Vec<Fault> = named.map(|(fault, ..)| *fault).collect();
        options.fault = faults.first().copied();
        options.check(&fault, &faults, written.is_some())?;
        Ok(match written {
            Some(folder) => Action::WriteData(folder),
            None if faults.len() > 1 => Action::ServeEach(options, arguments),
            None => Action::Serve(options),
        })
    }
}

impl Options {
    /// Whether all that was given goes together. `faults`: one, all, or with "none" none.
    fn check(&self, fault: &str, faults: &[Fault], writes_data: bool) -> Result<(), String> {
        let has_command = !self.command.is_empty();
        let has_own = self.certificate.is_some() || self.key.is_some();
        let makes_none = self.http || has_own;
        let names = Fault::ALL.map(|(_, name, _)| name).join(", ");
        let unknown = format!("there is no fault {fault:?}\n--fault takes one of {names}, or none, or all");
        let no_client = "--fault all needs a client to run, such as --fault all -- python client.py";
        let of_certificate = format!("--fault {fault} makes the certificate, and {NEITHER}");
        let mistakes = [
            (
                self.http && has_own,
                "--http serves without a certificate\nleave out --http, or --cert and --key".to_owned(),
            ),
            (has_own && self.key.is_none(), format!("--cert is given without --key\n{BOTH}")),
            (has_own && self.certificate.is_none(), format!("--key is given without --cert\n{BOTH}")),
            (makes_none && !self.names.is_empty(), format!("--name is for a certificate made here, and {NEITHER}")),
            (faults.is_empty() && fault != "none", unknown),
            (faults.len() > 1 && !has_command, no_client.to_owned()),
            (makes_none && faults.iter().any(|fault| fault.is_of_certificate()), of_certificate),
            (self.data.is_some() && self.data == self.record, format!("--data and --record are one folder\n{APART}")),
            (has_command && writes_data, format!("--write-data {NO_COMMAND}")),
            (has_command && self.exit_on_stdin_close, format!("--exit-on-stdin-close {NO_COMMAND}")),
        ];
        let sentence = mistakes.into_iter().find_map(|(is_made, sentence)| is_made.then_some(sentence));
        sentence.map_or(Ok(()), Err)
    }
}

/// Without the brackets that an IPv6 address has in a URL.
fn host(value: &str) -> String {
    value.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(value).to_owned()
}

/// What a certificate can be for.
fn name(value: &str) -> Result<String, String> {
    let is_name =
        !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._*".contains(&byte));
    if is_name || value.parse::<IpAddr>().is_ok() {
        return Ok(value.to_owned());
    }
    Err(format!("--name takes a name such as host.docker.internal, or an address, without a port, not {value:?}"))
}

/// What stands behind an option. Another option there is a value forgotten.
fn value(parser: &mut lexopt::Parser, name: &str) -> Result<OsString, String> {
    let value = parser.value().map_err(|_| format!("{name} needs a value behind it"))?;
    match value.to_string_lossy().starts_with("--") {
        true => Err(format!("{name} needs a value before {}", value.display())),
        false => Ok(value),
    }
}

fn text(parser: &mut lexopt::Parser, name: &str) -> Result<String, String> {
    let value = value(parser, name)?;
    value.into_string().map_err(|value| format!("{name} {} is not valid text", value.display()))
}

/// Absolute, so that what is printed later can be used from anywhere.
fn path(parser: &mut lexopt::Parser, name: &str) -> Result<PathBuf, String> {
    let value = value(parser, name)?;
    std::path::absolute(&value).map_err(|error| format!("{:?} is not a path: {error}", value.display().to_string()))
}

fn number(parser: &mut lexopt::Parser, name: &str, least: u64, most: u64) -> Result<u64, String> {
    let value = text(parser, name)?;
    let number = value.parse().ok().filter(|number| (least..=most).contains(number));
    number.ok_or_else(|| format!("{name} takes a whole number from {least} to {most}, not {value:?}"))
}

/// Bytes, or with K, M or G behind the number, 1024 to the power of 1, 2 or 3 as many.
fn size(value: &str) -> Result<u64, String> {
    let (digits, shift) = match value.char_indices().last() {
        Some((at, 'k' | 'K')) => (&value[..at], 10),
        Some((at, 'm' | 'M')) => (&value[..at], 20),
        Some((at, 'g' | 'G')) => (&value[..at], 30),
        _ => (value, 0),
    };
    let bytes = digits.parse::<u64>().ok().and_then(|number| number.checked_mul(1 << shift));
    bytes.ok_or_else(|| format!("--max-upload takes a number of bytes such as 500000, 200M or 4G, not {value:?}"))
}

fn unknown(name: &str) -> String {
    let options = HELP.split_whitespace().filter_map(|word| word.strip_prefix("--"));
    let distance = |option: &&str| strsim::damerau_levenshtein(option, name.trim_start_matches('-'));
    match options.min_by_key(distance).filter(|option| distance(option) <= option.len().div_ceil(2)) {
        Some(nearest) => format!("there is no option {name}; did you mean --{nearest}? See --help"),
        None if name.starts_with("--") => format!("there is no option {name}; see --help"),
        None => format!("there is no option {name}; those that are words begin with two dashes, see --help"),
    }
}

const BOTH: &str = "give both: --cert is the certificate, --key its private key";
const NEITHER: &str = "goes with neither --http nor --cert";
const APART: &str = "what is recorded would be served: name two";
const NO_COMMAND: &str = "goes with no command: leave it out, or -- and what is behind it";
/// A day: longer than anybody waits, and short enough for every clock.
const MAX_TIMEOUT_SECONDS: u64 = 86_400;

const VERSION: &str = concat!("cleaner-test-server ", env!("CARGO_PKG_VERSION"));
const HELP: &str = "\
A local HTTPS test server with the three answers of the cleaner API, for people who write clients.
It accepts much that a strict server would refuse, and prints a finding, with what was received and what
was expected; with --strict it refuses that.

Usage: cleaner-test-server [OPTIONS] [-- COMMAND]

Without options it serves the folder \"data\" beside the program, if that holds tasks.json or report.json,
or else the data built into it, at https://localhost:5000. It is for tests only, never for production.

With -- COMMAND, such as -- python client.py, it runs that client, stops when it ends, and says whether
the client is ready: whether it ended with 0, did each of the three steps right, and nothing wrong. It
finds the address in the environment variable CLEANER_URL, and trusts the certificate by what else is
set there.

  --port N               listen on port N, 0 for any free one [5000]
  --host ADDRESS         listen on this address instead of 127.0.0.1 and ::1
  --http                 speak plain HTTP instead of HTTPS
  --cert FILE            use this certificate chain (PEM) instead of one made for the run
  --key FILE             the private key (PEM) of --cert
  --fault NAME           make trouble on purpose, to see whether the client handles it: unavailable,
                         reset, cut, slow, hang, expired, wrong-host, untrusted-root, or none; with a
                         command also all, which runs the client once for each
  --name NAME            one more name or address that the certificate made for the run is for
  --data DIR             serve the files of this folder
  --write-data DIR       write the built-in files into this folder, to be changed and served, and end
  --record DIR           keep in this folder what a client needs and what it did: ready.json,
                         certificate.pem, journal.jsonl, reports/
  --strict               refuse what is only a finding otherwise
  --timeout SECONDS      give up on a client that is silent for so long [30]
  --max-upload SIZE      refuse a request body larger than this, in bytes or as 200M, 4G [1G]
  --exit-on-stdin-close  stop when standard input closes, as it does when the starting program ends
  -h, --help             print this text, and end
  -V, --version          print the version, and end

Exit codes: 0 stopped, 1 could not start, 2 wrong usage. With a command: 0 ready, 3 not ready, 125 the
server could not start, 126 the command cannot be run, 127 it is not there.";
