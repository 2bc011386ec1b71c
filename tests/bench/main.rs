//! `cargo bench`: how fast the release program is over TLS, as a client sees it.
//!
//! `cargo bench -- --url https://host:port` measures another server with the same paths in the same run, in short slices
//! in turn (A B A B): absolute figures of a shared machine mean little, so the ratios are the result. The script
//! `compare` does that with nginx and Flask. Read on in `server` (what is measured), `load` (how) and `table` (the result).
#![expect(clippy::print_stderr, clippy::print_stdout, reason = "a harness talks to the person who runs it")]

mod client;
mod load;
mod server;
mod table;

use std::env::consts::{ARCH, OS};
use std::error::Error;
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use lexopt::{Arg, Parser, ValueExt};

use crate::load::{beside_idle, download, kept, new_connections, upload};
use crate::server::{Other, Server};
use crate::table::{Row, Table};

type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

const HELP: &str = "\
Usage: cargo bench [-- [--quick] [--url URL [--name NAME] [--ca FILE] [--start COMMAND]]...]

Measures this program, and beside it each server named by --url, such as https://localhost:5443.
  --quick          fewer and shorter slices
  --name NAME      what to call the server of the --url before; else it is called by its address
  --ca FILE        verify its certificate with this CA, in PEM; else it is not verified
  --start COMMAND  start it so, without a shell; then its start and memory are measured too";

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Outcome<()> {
    let Some(plan) = Plan::parse(Parser::from_env())? else { return Ok(()) };
    let began = Instant::now();
    let mut servers = vec![Server::own()?];
    for other in plan.others {
        servers.push(Server::other(other)?);
    }
    let mut table = Table { servers: servers.iter().map(|server| server.name.clone()).collect(), rows: Vec::new() };
    for stage in &STAGES {
        table.rows.extend(run_stage(stage, &mut servers, plan.rounds, plan.slice)?);
    }
    let (cores, minutes) = (thread::available_parallelism()?, began.elapsed().as_secs_f64() / 60.0);
    println!("{OS} {ARCH}, {cores} cores, {} rounds, {minutes:.1} minutes\n\n{table}", plan.rounds);
    Ok(())
}

/// Measures every server once in each round. Only for another server a failure is no more than a gap in the table.
fn run_stage(stage: &Stage, servers: &mut [Server], rounds: usize, slice: Duration) -> Outcome<Vec<Row>> {
    let mut rows: Vec<Row> = stage.rows.iter().map(|name| Row::new(name, servers.len())).collect();
    for round in 1..=rounds {
        for (column, server) in servers.iter_mut().enumerate() {
            let values = match (stage.measure)(server, slice) {
                Err(error) if column > 0 => {
                    eprintln!("{}: not measured with {}: {error}", stage.rows[0], server.name);
                    Vec::new()
                }
                outcome => outcome.map_err(|error| format!("{}: {error}\n{}", stage.rows[0], server.said()))?,
            };
            if let Some(value) = values.first() {
                eprintln!("{round}/{rounds}  {:<32}  {:<20}  {value:.1}", stage.rows[0], server.name);
            }
            for (row, value) in rows.iter_mut().zip(values) {
                row.slices[column].push(value);
            }
        }
    }
    Ok(rows)
}

/// What the command line asks for.
struct Plan {
    others: Vec<Other>,
    rounds: usize,
    slice: Duration,
}

impl Plan {
    /// `None`: there is nothing to measure, and why not has been said.
    fn parse(mut arguments: Parser) -> Outcome<Option<Plan>> {
        let mut plan = Plan { others: Vec::new(), rounds: 7, slice: Duration::from_secs(1) };
        let mut is_bench = false;
        while let Some(argument) = arguments.next()? {
            match argument {
                Arg::Long("bench") => is_bench = true,
                Arg::Long("quick") => (plan.rounds, plan.slice) = (3, Duration::from_millis(200)),
                Arg::Long("url") => plan.others.push(Other::at(arguments.value()?.string()?)),
                Arg::Long("name") => last(&mut plan.others)?.name = arguments.value()?.string()?,
                Arg::Long("ca") => last(&mut plan.others)?.ca = Some(arguments.value()?.into()),
                Arg::Long("start") => last(&mut plan.others)?.start = Some(arguments.value()?.string()?),
                Arg::Long("help") => {
                    println!("{HELP}");
                    return Ok(None);
                }
                argument => return Err(format!("{}\n\n{HELP}", argument.unexpected()).into()),
            }
        }
        if !is_bench {
            // `cargo test --all-targets` comes here with a debug build, whose speed means nothing.
            eprintln!("nothing is measured: start this with cargo bench");
        }
        Ok(is_bench.then_some(plan))
    }
}

fn last(others: &mut [Other]) -> Outcome<&mut Other> {
    others.last_mut().ok_or_else(|| "--name, --ca and --start come after the --url that they are about".into())
}

/// Rows of the table, and how one value for each of them is measured.
struct Stage {
    rows: &'static [&'static str],
    /// No values: this cannot be told of this server.
    measure: fn(&mut Server, Duration) -> Outcome<Vec<f64>>,
}

const STAGES: [Stage; 10] = [
    Stage { rows: &["start to first answer, ms"], measure: |server, _| server.restart() },
    Stage { rows: &["resident memory, idle, MB"], measure: |server, _| Ok(server.resident_memory()) },
    Stage {
        rows: &["GET over 1 connection, 1/s", "  p50, µs", "  p99, µs"],
        measure: |server, slice| kept(server, slice, 1),
    },
    Stage {
        rows: &["GET over 8 connections, 1/s", "  p50, µs", "  p99, µs"],
        measure: |server, slice| kept(server, slice, 8),
    },
    Stage {
        rows: &["GET over 64 connections, 1/s", "  p50, µs", "  p99, µs"],
        measure: |server, slice| kept(server, slice, 64),
    },
    Stage {
        rows: &["GET over 8, beside 100 idle, 1/s", "  p50, µs", "  p99, µs"],
        measure: |server, slice| beside_idle(server, slice, 8, 100),
    },
    Stage { rows: &["new connections, 1/s"], measure: |server, slice| new_connections(server, slice) },
    Stage { rows: &["download, MB/s"], measure: |server, _| download(server) },
    Stage { rows: &["upload, MB/s"], measure: |server, _| upload(server) },
    Stage { rows: &["resident memory, afterwards, MB"], measure: |server, _| Ok(server.resident_memory()) },
];
