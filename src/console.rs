//! Every word that is printed. Text for standard output waits in a bounded queue for a thread that prints it: a full
//! pipe, or a Windows console that a mouse selection has frozen, holds up the printing and never the serving.

use crate::threads::lock;
use std::fmt::{self, Display};
#[cfg(windows)]
use std::io::IsTerminal;
use std::io::{self, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Why the program cannot start, and what to do about it.
#[derive(Debug)]
pub struct Failure {
    pub what: String,
    pub advice: String,
}

impl Failure {
    pub fn new(what: impl Into<String>, advice: impl Into<String>) -> Failure {
        Failure { what: what.into(), advice: advice.into() }
    }
}

impl Display for Failure {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}\n{}", self.what, self.advice)
    }
}

#[derive(Clone, Default)]
pub struct Console {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    queue: Mutex<Queue>,
    changed: Condvar,
}

#[derive(Default)]
struct Queue {
    text: String,
    lost_lines: usize,
    /// The printing thread has printed all that it took.
    printer_waits: bool,
}

impl Console {
    /// Starts the printing thread.
    pub fn open() -> Result<Console, Failure> {
        let console = Console::default();
        let shared = Arc::clone(&console.shared);
        let print_all = move || {
            loop {
                shared.wait();
                // Many lines at once cost as little as one, and nobody reads faster.
                std::thread::sleep(COLLECT);
                let text = shared.take();
                // A closed standard output is no reason to stop serving; nobody is there to be told.
                io::stdout().write_all(text.as_bytes()).and_then(|()| io::stdout().flush()).ok();
            }
        };
        crate::threads::start("console", print_all)?;
        Ok(console)
    }

    /// Queues one line or several; where the queue is full, they are counted instead.
    pub fn print(&self, lines: &str) {
        let mut queue = self.shared.lock();
        if queue.text.len() + lines.len() > QUEUE_BYTES {
            queue.lost_lines += lines.lines().count();
        } else {
            queue.text.push_str(lines);
            queue.text.push('\n');
        }
        if queue.printer_waits {
            self.shared.changed.notify_all();
        }
    }

    /// Waits until all is printed, but not for a reader that does not read.
    pub fn flush(&self) {
        let queue = self.shared.lock();
        let unprinted = |queue: &mut Queue| !queue.printer_waits || !queue.text.is_empty();
        let waited = self.shared.changed.wait_timeout_while(queue, FLUSH_LIMIT, unprinted);
        drop(waited);
    }
}

impl Shared {
    /// Waits until there is something to print.
    fn wait(&self) {
        let mut queue = self.lock();
        queue.printer_waits = true;
        self.changed.notify_all();
        while queue.text.is_empty() && queue.lost_lines == 0 {
            queue = self.changed.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
        queue.printer_waits = false;
    }

    /// All that is to be printed now.
    fn take(&self) -> String {
        let mut queue = self.lock();
        let mut text = std::mem::take(&mut queue.text);
        match std::mem::take(&mut queue.lost_lines) {
            0 => {}
            1 => text.push_str("(one line was lost here: what reads this output was too slow)\n"),
            lost => text.push_str(&format!("({lost} lines were lost here: what reads this output was too slow)\n")),
        }
        text
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        lock(&self.queue)
    }
}

/// Says on standard error why the program ends. It ends either way, so a closed standard error is no further failure.
pub fn print_failure(failure: &dyn Display) {
    writeln!(io::stderr(), "{failure}").ok();
    // A window that Windows has opened for this program alone, as for a double-click, closes with it. There the message
    // stays until it is read; never in a shell, and never where another program has started this one and reads along.
    #[cfg(windows)]
    if wexit::has_own_console() && io::stdin().is_terminal() && io::stderr().is_terminal() {
        write!(io::stderr(), "\nPress Enter to close this window.").ok();
        io::stdin().read_line(&mut String::new()).ok();
    }
}

/// For --help, --version and --write-data, whose output is all that they are for.
pub fn print_now(text: &str) {
    writeln!(io::stdout(), "{text}").ok();
}

/// Some five thousand lines.
const QUEUE_BYTES: usize = 512 * 1024;
const COLLECT: Duration = Duration::from_millis(5);
/// Together with `FINISH_LIMIT` of proxy.rs less than the five seconds that Windows gives when the window is closed.
const FLUSH_LIMIT: Duration = Duration::from_secs(2);
