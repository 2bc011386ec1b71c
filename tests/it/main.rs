//! The real executable, driven over real sockets by a client that verifies its certificate.
//! Start reading at `support` (a running server), `process` (the program as a child) and `connection` (the client).
#![allow(
    clippy::panic,
    clippy::print_stderr,
    reason = "a test ends at the first surprise, and says aloud when it is skipped"
)]

mod bridge;
mod changing;
mod command;
mod connection;
mod fault;
mod fixture;
mod foreign;
mod options;
mod process;
mod startup;
mod stop;
mod support;
mod tidy;

mod front {
    mod body;
    mod certificate;
    mod delivered;
    mod fault;
    mod generator;
    mod head;
    mod protocol;
    mod random;
    mod refusal;
    #[cfg(unix)]
    mod stopped;
    mod stuck;
    mod timeout;
    mod tls;
}

mod api {
    mod data;
    mod download;
    mod findings;
    mod multipart;
    mod per_task;
    pub mod report;
    mod routes;
    mod tasks;
    mod written;
}

mod journal {
    mod checklist;
    mod console;
    mod record;
    mod words;
}
