//! The real executable, driven over real sockets by a client that verifies its certificate.
//! Start reading at `support` (a running server), `process` (the program as a child) and `connection` (the client).
#![allow(
    clippy::panic,
    clippy::print_stderr,
    reason = "a test ends at the first surprise, and says aloud when it is skipped"
)]

mod certificate;
mod checklist;
mod connection;
mod data;
mod download;
mod findings;
mod fixture;
mod foreign;
mod hostile;
mod options;
mod parts;
mod per_task;
mod process;
mod protocol;
mod random;
mod record;
mod report;
mod routes;
mod startup;
mod stuck;
mod support;
mod tasks;
mod tidy;
