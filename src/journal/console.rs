//! Every word that is printed. What is told of clients waits in a bounded queue for a thread that prints it: a full
//! pipe, or a Windows console that a mouse selection has frozen, holds up the printing and never the serving.

use crate::text::{Failure, counted};
use std::io::{self, ErrorKind, IsTerminal, Write};
use std::iter;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

/// By the code that terminals know it by.
#[derive(Clone, Copy)]
pub enum Colour {
    Dim = 2,
    Red = 31,
    Green = 32,
    Yellow = 33,
}

pub struct Console {
    has_colours: bool,
    /// `None`: closed. The receiver hears nothing but the end of the printing thread.
    queue: Mutex<Option<(Sender<String>, Receiver<()>)>>,
    waiting: Arc<Waiting>,
}

#[derive(Default)]
struct Waiting {
    bytes: AtomicUsize,
    lost_lines: AtomicU64,
}

impl Console {
    /// Starts the printing thread. On standard error where standard output is somebody else's.
    pub fn open(is_on_stderr: bool) -> Result<Console, Failure> {
        let (sender, texts) = channel();
        let (printing, ended) = channel();
        let waiting = Arc::<Waiting>::default();
        let queue = Mutex::new(Some((sender, ended)));
        let console = Console { has_colours: has_colours(is_on_stderr), queue, waiting: Arc::clone(&waiting) };
        let print_all = move || {
            let _until_the_end: Sender<()> = printing;
            let mut output: Box<dyn Write> = if is_on_stderr { Box::new(io::stderr()) } else { Box::new(io::stdout()) };
            while let Ok(first) = texts.recv() {
                // Many lines at once cost as little as one, and nobody reads faster.
                thread::sleep(COLLECT);
                let mut text: String = iter::once(first).chain(texts.try_iter()).collect();
                waiting.bytes.fetch_sub(text.len(), Ordering::Relaxed);
                let lost = waiting.lost_lines.swap(0, Ordering::Relaxed);
                if lost > 0 {
                    let lost = counted(lost, "line");
                    text.push_str(&format!("({lost} lost here: what reads this output was too slow)\n"));
                }
                // A closed output is no reason to stop serving; nobody is there to be told.
                write_all(&mut *output, text.as_bytes()).ok();
            }
        };
        thread::Builder::new().name("console".to_owned()).spawn(print_all).map_err(Failure::no_thread)?;
        Ok(console)
    }

    pub fn painted(&self, colour: Colour, text: &str) -> String {
        // "Select Graphic Rendition" of ECMA-48, 8.3.117.
        if self.has_colours { format!("\x1b[{}m{text}\x1b[0m", colour as u8) } else { text.to_owned() }
    }

    /// Queues one line or several, however long where none waits; where the queue is full, they are counted instead.
    pub fn print(&self, lines: &str) {
        let queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        let Some((sender, _)) = &*queue else { return };
        let text = format!("{lines}\n");
        let waiting = self.waiting.bytes.load(Ordering::Relaxed);
        if waiting > 0 && waiting + text.len() > QUEUE_BYTES {
            self.waiting.lost_lines.fetch_add(text.lines().count() as u64, Ordering::Relaxed);
            return;
        }
        self.waiting.bytes.fetch_add(text.len(), Ordering::Relaxed);
        // The printing thread ends only when this sender is dropped.
        sender.send(text).ok();
    }

    /// Waits until all is printed, but not for a reader that does not read. Nothing is printed any more then.
    pub fn close(&self) {
        let queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some((sender, ended)) = queue else { return };
        drop(sender);
        ended.recv_timeout(CLOSING_LIMIT).ok();
    }
}

/// Waits, too, where another program has made the output one that never waits.
fn write_all(output: &mut dyn Write, mut bytes: &[u8]) -> io::Result<()> {
    loop {
        match if bytes.is_empty() { output.flush().map(|()| 0) } else { output.write(bytes) } {
            Ok(0) => return Ok(()),
            Ok(count) => bytes = &bytes[count..],
            Err(error) if error.kind() == ErrorKind::WouldBlock => thread::sleep(COLLECT),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// On a terminal that understands them, unless the user wants none (https://no-color.org).
fn has_colours(is_on_stderr: bool) -> bool {
    let is_terminal = if is_on_stderr { io::stderr().is_terminal() } else { io::stdout().is_terminal() };
    is_terminal
        && !anstyle_query::no_color()
        && anstyle_query::windows::enable_ansi_colors().unwrap_or_else(anstyle_query::term_supports_ansi_color)
}

/// Says on standard error why the program ends. It ends either way, so a closed standard error is no further failure.
pub fn print_failure(failure: &str) {
    writeln!(io::stderr(), "{failure}").ok();
    hold_window();
}

/// A window that Windows has opened for this program alone, as for a double-click, closes with it. There the last words
/// stay until they are read; never in a shell, and never where another program has started this one and reads along.
pub fn hold_window() {
    #[cfg(windows)]
    if wexit::has_own_console() && io::stdin().is_terminal() && io::stderr().is_terminal() {
        write!(io::stderr(), "\nPress Enter to close this window.").ok();
        io::stdin().read_line(&mut String::new()).ok();
    }
}

/// For --help, --version and --write-data, whose output is all that they are for. Returns the exit code.
pub fn print_now(text: &str) -> u8 {
    writeln!(io::stdout(), "{text}").ok();
    0
}

/// Some five thousand lines.
const QUEUE_BYTES: usize = 512 * 1024;
const COLLECT: Duration = Duration::from_millis(5);
/// With what `Front::finish` may take less than three seconds; Windows gives five when the window is closed.
const CLOSING_LIMIT: Duration = Duration::from_secs(1);
