//! The program under test as a child process: its output collected line by line, a limit on every
//! wait, and never left running.
//!
//! `CLEANER_TEST_SERVER` names another executable than the one that cargo built, and
//! `CLEANER_TEST_LAUNCHER` a program to start it with, such as wine.

use std::env;
use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};

/// No wait of any test is longer than this; a wait that reaches it has failed.
pub const LIMIT: Duration = Duration::from_secs(60);

/// Runs the program to its own end; for what does not serve.
pub fn run(arguments: &[&str]) -> Finished {
    Process::spawn(command(&program()).args(arguments)).finish()
}

/// A program that has ended, with all that it wrote.
pub struct Finished {
    /// `None` where a signal ended it.
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

/// The executable under test.
pub fn program() -> PathBuf {
    env::var_os("CLEANER_TEST_SERVER")
        .map_or_else(|| PathBuf::from(env!("CARGO_BIN_EXE_cleaner-test-server")), PathBuf::from)
}

/// The command that starts an executable, through the launcher if there is one.
pub fn command(program: &Path) -> Command {
    match env::var_os("CLEANER_TEST_LAUNCHER") {
        Some(launcher) => {
            let mut command = Command::new(launcher);
            command.arg(program);
            command
        }
        None => Command::new(program),
    }
}

/// Whether wine runs the program, which then is a Windows program among the files of another system.
pub fn is_under_wine() -> bool {
    env::var_os("CLEANER_TEST_LAUNCHER").is_some()
}

/// For what wine cannot show; it says so aloud.
pub fn is_skipped_under_wine(reason: &str) -> bool {
    if is_under_wine() {
        // Unlike `eprintln!`, this is shown for a test that passes, too.
        let test = thread::current().name().unwrap_or_default().to_owned();
        writeln!(io::stderr(), "skipped under wine: {test}: {reason}").expect("standard error is open");
    }
    is_under_wine()
}

pub struct Process {
    pub child: Child,
    pub stdout: Output,
    pub stderr: Output,
}

impl Process {
    /// Its standard input stays open and silent until the test closes it.
    pub fn spawn(command: &mut Command) -> Process {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start {command:?}: {error}"));
        let stdout = Output::drain(child.stdout.take().expect("stdout is piped"));
        let stderr = Output::drain(child.stderr.take().expect("stderr is piped"));
        Process { child, stdout, stderr }
    }

    /// A file that appears cannot be waited for portably; the output's end can, so the wait for
    /// that, which is a failure, is cut into short pieces.
    pub fn wait_until_ready(&self, file: &Path) -> serde_json::Value {
        let deadline = Instant::now() + LIMIT;
        loop {
            if let Ok(json) = fs::read(file) {
                return serde_json::from_slice(&json).expect("ready.json is whole");
            }
            if self.stdout.wait_for_end(Duration::from_millis(2)) {
                self.stderr.wait_for_end(LIMIT);
                panic!("the program has ended:\n{}", self.stderr.text());
            }
            let late = Instant::now() > deadline;
            assert!(!late, "the program is not ready:\n{}", self.stdout.text());
        }
    }

    /// Waits for the program's own end. Both pipes close before that, and they can be waited for.
    pub fn finish(&mut self) -> Finished {
        for output in [&self.stdout, &self.stderr] {
            let ended = output.wait_for_end(LIMIT);
            assert!(ended, "still running:\n{}", self.stdout.text());
        }
        Finished {
            code: self.child.wait().expect("the program has ended").code(),
            stdout: self.stdout.text(),
            stderr: self.stderr.text(),
        }
    }

    pub fn kill(&mut self) {
        let killed = self.child.kill();
        let ended = killed.and_then(|()| self.child.wait());
        if let Err(error) = ended {
            eprintln!("cannot end the program: {error}");
        }
        self.stderr.wait_for_end(LIMIT);
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// What the program has written to one of its two outputs so far, kept by a thread that reads it.
#[derive(Clone, Default)]
pub struct Output(Arc<(Mutex<Captured>, Condvar)>);

#[derive(Default)]
pub struct Captured {
    pub lines: Vec<String>,
    ended: bool,
}

impl Output {
    fn drain(pipe: impl Read + Send + 'static) -> Output {
        let output = Output::default();
        let writer = output.clone();
        thread::spawn(move || {
            for line in BufReader::new(pipe).lines() {
                let line = line.expect("the program writes UTF-8");
                writer.change(|captured| captured.lines.push(line));
            }
            writer.change(|captured| captured.ended = true);
        });
        output
    }

    fn change(&self, change: impl FnOnce(&mut Captured)) {
        change(&mut self.lock());
        self.0.1.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, Captured> {
        self.0.0.lock().expect("no reader of the output panics")
    }

    /// Waits until `find` finds something, the output ends, or the time is over.
    pub fn wait_for<T>(&self, limit: Duration, find: impl Fn(&Captured) -> Option<T>) -> Option<T> {
        let unfinished = |captured: &mut Captured| !captured.ended && find(captured).is_none();
        let waited = self.0.1.wait_timeout_while(self.lock(), limit, unfinished);
        let (captured, _) = waited.expect("no reader of the output panics");
        find(&captured)
    }

    /// Waits for a line, and takes it away with all that are before it.
    pub fn take_through(&self, limit: Duration, wanted: impl Fn(&str) -> bool) -> Option<Vec<String>> {
        let position = |captured: &Captured| captured.lines.iter().position(|line| wanted(line));
        let last = self.wait_for(limit, position)?;
        Some(self.lock().lines.drain(..=last).collect())
    }

    pub fn wait_for_end(&self, limit: Duration) -> bool {
        self.wait_for(limit, |captured| captured.ended.then_some(())).is_some()
    }

    pub fn text(&self) -> String {
        let captured = self.lock();
        captured.lines.iter().map(|line| format!("{line}\n")).collect()
    }
}
