//! What ends the program: Ctrl+C and its relatives on each system, and on request the end of standard input.

use crate::text::Failure;
use std::io::{self, ErrorKind};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::Duration;

/// Why the program is to end.
#[derive(Clone, Copy, PartialEq)]
pub enum Word {
    /// Which reaches a client that was run here too.
    CtrlC,
    /// SIGTERM or SIGHUP; on Windows, the console window was closed.
    Terminated,
    StdinClosed,
}

/// `has_client`: a second Ctrl+C ends that, and not this program.
pub fn words(on_stdin_close: bool, has_client: bool) -> Result<Receiver<Word>, Failure> {
    let (stop, stopped) = channel();
    let failed = Failure::of("cannot watch for Ctrl+C", "close other programs, or start it from another shell");
    on_signal(stop.clone(), has_client).map_err(failed)?;
    if on_stdin_close {
        // Standard input closes when the program that started this one ends, however it ends.
        let wait = move || {
            // An error is an end too, unless the starting program has its end of the pipe so that it never waits.
            while io::copy(&mut io::stdin(), &mut io::sink()).is_err_and(|error| error.kind() == ErrorKind::WouldBlock)
            {
                thread::sleep(LOOK);
            }
            stop.send(Word::StdinClosed).ok();
        };
        thread::Builder::new().name("stdin".to_owned()).spawn(wait).map_err(Failure::no_thread)?;
    }
    Ok(stopped)
}

/// Ctrl+C, SIGTERM or SIGHUP. A second Ctrl+C ends the program at once, unless it runs a client.
#[cfg(unix)]
fn on_signal(stop: Sender<Word>, has_client: bool) -> io::Result<()> {
    use signal_hook::consts::{SIGCHLD, SIGHUP, SIGINT, SIGTERM, SIGXFSZ};
    use std::sync::{Arc, atomic::AtomicBool};

    // A file that grows beyond `ulimit -f` is an error like a full disk, and not the end.
    signal_hook::flag::register(SIGXFSZ, Arc::default())?;
    // Where the starting program ignores it, nobody could be waited for.
    signal_hook::flag::register(SIGCHLD, Arc::default())?;
    let watched = if is_hangup_ignored() { vec![SIGINT, SIGTERM] } else { vec![SIGINT, SIGTERM, SIGHUP] };
    let is_stopping = Arc::new(AtomicBool::new(false));
    if !has_client {
        signal_hook::flag::register_conditional_default(SIGINT, Arc::clone(&is_stopping))?;
    }
    for signal in &watched {
        signal_hook::flag::register(*signal, Arc::clone(&is_stopping))?;
    }
    let mut signals = signal_hook::iterator::Signals::new(&watched)?;
    let word = |signal| if signal == SIGINT { Word::CtrlC } else { Word::Terminated };
    let wait = move || signals.forever().map(word).try_for_each(|word| stop.send(word));
    thread::Builder::new().name("signals".to_owned()).spawn(wait).map(drop)
}

/// Whether the program is to outlive its terminal, as under nohup. Linux tells; elsewhere a shell does, which inherits
/// it, and cannot set a trap for a signal that it was started to ignore (POSIX, "trap").
#[cfg(unix)]
fn is_hangup_ignored() -> bool {
    let Ok(status) = std::fs::read_to_string("/proc/self/status") else {
        let ask = std::process::Command::new("/bin/sh").args(["-c", "trap 'exit 1' HUP; kill -HUP $$"]).status();
        return ask.is_ok_and(|status| status.success());
    };
    let ignored = status.lines().find_map(|line| u64::from_str_radix(line.strip_prefix("SigIgn:")?.trim(), 16).ok());
    ignored.is_some_and(|mask| mask & 1 << (signal_hook::consts::SIGHUP - 1) != 0)
}

/// Ctrl+C, or the console window closed, from which simple_sigh cannot tell Ctrl+Break.
#[cfg(windows)]
fn on_signal(stop: Sender<Word>, _has_client: bool) -> io::Result<()> {
    let failed = |error| io::Error::other(format!("{error}"));
    simple_sigh::init().map_err(failed)?;
    let handle = move |event| {
        let is_closed = matches!(event, simple_sigh::SigType::Term);
        stop.send(if is_closed { Word::Terminated } else { Word::CtrlC }).ok();
        // Once the window is closed, Windows ends the program as soon as this returns. So it does not return: the end
        // of `main` ends this thread too.
        while is_closed {
            thread::park();
        }
    };
    simple_sigh::register(handle).map_err(failed)
}

/// How soon it is noticed that such a pipe has ended.
const LOOK: Duration = Duration::from_millis(100);
