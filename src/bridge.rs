//! From the front over tiny_http to the loop and back. tiny_http cannot meet clients (main.rs says why), so its only
//! connection is one within this program, made at the start; then its listener is closed, and nobody can reach the loop
//! any more. Over that connection go only the line and the number of a request, to wake the loop. The request itself and
//! its reply go by a table, under that number.

use crate::message::{Reply, Request};
use ring::rand::{SystemRandom, generate};
use std::collections::HashMap;
use std::io::{self, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::panic::{self, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

pub struct Bridge {
    pub server: tiny_http::Server,
    /// Begins at a number that no stranger can guess.
    next_number: AtomicU64,
    /// To be sent together.
    lines: Mutex<Vec<u8>>,
    stream: Mutex<TcpStream>,
    /// The requests on their way to the loop. `None`: the connection is broken, for good.
    asked: Mutex<Option<HashMap<u64, Asked>>>,
}

/// A request, and the place where its thread waits for the reply; the request goes back with it.
pub struct Asked {
    pub request: Request,
    pub answered: SyncSender<(Request, Reply)>,
}

impl Bridge {
    /// Starts tiny_http and connects to it. It panics where threads or descriptors run out, mostly in a thread of its own;
    /// that is an error here, and nobody is to read it on standard error.
    pub fn open() -> io::Result<&'static Bridge> {
        let has_panicked = Arc::new(AtomicBool::new(false));
        let (told, hook) = (Arc::clone(&has_panicked), panic::take_hook());
        panic::set_hook(Box::new(move |_| told.store(true, Ordering::Relaxed)));
        let opened = catch_unwind(|| Bridge::connect(&has_panicked));
        panic::set_hook(hook);
        opened.unwrap_or_else(|_| Err(io::Error::other(RAN_OUT)))
    }

    /// To a tiny_http whose listener is closed then.
    fn connect(has_panicked: &AtomicBool) -> io::Result<&'static Bridge> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let (door, address) = (listener.try_clone()?, listener.local_addr()?);
        let mut stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        let (outgoing, next_number) = (Mutex::new(stream.try_clone()?), AtomicU64::new(unguessable()?));
        let server = tiny_http::Server::from_listener(listener, None).map_err(io::Error::other)?;
        let (lines, asked) = (Mutex::default(), Mutex::new(Some(HashMap::new())));
        let bridge: &Bridge = Box::leak(Box::new(Bridge { server, next_number, lines, stream: outgoing, asked }));
        // What no stranger can know: once it has come, tiny_http has accepted this very connection.
        let secret = format!("/{}", unguessable()?);
        write!(stream, "GET {secret} HTTP/1.1\r\n\r\n")?;
        while bridge.server.recv_timeout(LOOK)?.is_none_or(|line| line.url() != secret) {
            if has_panicked.load(Ordering::Relaxed) {
                return Err(io::Error::other(RAN_OUT));
            }
        }
        // tiny_http's accepting thread ends at its first error. That is forced here: one more connection wakes it, and
        // the next call of accept finds the listener non-blocking and nobody waiting. On Windows that rests on a word of
        // Microsoft's, that duplicates of a socket have all its state in common; hence the limit.
        door.set_nonblocking(true)?;
        drop(TcpStream::connect(address)?);
        while let Ok(Some(_)) = bridge.server.recv_timeout(CLOSING_LIMIT) {}
        thread::Builder::new().name("bridge".to_owned()).spawn(move || bridge.watch(stream))?;
        Ok(bridge)
    }

    /// Has the loop answer a request, and waits for that.
    pub fn ask(&self, request: Request) -> (Request, Reply) {
        let number = self.next_number.fetch_add(1, Ordering::Relaxed);
        let line = format!("{} {} HTTP/1.1\r\n{NUMBER}: {number}\r\n\r\n", request.method, request.origin_form());
        let (answered, answer) = sync_channel(1);
        let asked = Asked { request, answered };
        match &mut *lock(&self.asked) {
            Some(table) => drop(table.insert(number, asked)),
            None => asked.give_up(),
        }
        // Where sending fails the connection is broken, and `watch` gives up all that wait.
        self.send(line.as_bytes()).ok();
        let answer = stay_awake(|| answer.try_recv().ok()).or_else(|| answer.recv().ok());
        answer.expect("the loop answers every request, and so does `give_up`")
    }

    /// What tiny_http has brought the line of. `None`: it is not from the front.
    pub fn take(&self, line: &tiny_http::Request) -> Option<Asked> {
        let number = line.headers().iter().find(|header| header.field.equiv(NUMBER))?.value.as_str().parse().ok()?;
        lock(&self.asked).as_mut()?.remove(&number)
    }

    /// Each sending wakes threads on the way, which takes longer than all the rest. So other threads that are about to
    /// send get a moment to add their lines, and the first to come back sends all of them.
    fn send(&self, line: &[u8]) -> io::Result<()> {
        lock(&self.lines).extend_from_slice(line);
        thread::yield_now();
        let mut stream = lock(&self.stream);
        let lines = std::mem::take(&mut *lock(&self.lines));
        stream.write_all(&lines)
    }

    /// tiny_http never sends anything. That the connection ends, only somebody's tampering with this program can do.
    fn watch(&self, mut stream: TcpStream) {
        // Also an error is an end.
        io::copy(&mut stream, &mut io::sink()).ok();
        let waiting = lock(&self.asked).take().unwrap_or_default();
        waiting.into_values().for_each(Asked::give_up);
    }
}

impl Asked {
    fn give_up(self) {
        let reply = Reply::error(500, "the connection within the server is broken; start the server anew");
        // Its thread waits, or has gone and needs no reply.
        self.answered.send((self.request, reply)).ok();
    }
}

/// Looks again and again for something that is about to come, while other threads go first. To sleep and to be woken
/// can take longer than all of an answer. `None`: it did not come at once, and sleeping is the better way to wait.
pub fn stay_awake<T>(mut look: impl FnMut() -> Option<T>) -> Option<T> {
    let began = Instant::now();
    loop {
        let found = look();
        if found.is_some() || began.elapsed() > AWAKE {
            return found;
        }
        thread::yield_now();
    }
}

/// A thread that ends while it holds one of these locks leaves nothing half done, so that the others may go on.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn unguessable() -> io::Result<u64> {
    let bytes = generate(&SystemRandom::new()).map_err(|_| io::Error::other("the system has no random numbers"))?;
    Ok(u64::from_ne_bytes(bytes.expose()))
}

/// The header with the number of a request.
const NUMBER: &str = "Number";
/// Somewhat longer than the loop needs for a small answer, or a client on the same machine from one to the next request.
const AWAKE: Duration = Duration::from_micros(100);
/// Closing takes a fraction of a millisecond.
const CLOSING_LIMIT: Duration = Duration::from_secs(1);
/// How soon it is noticed that tiny_http has panicked.
const LOOK: Duration = Duration::from_millis(10);
const RAN_OUT: &str = "no more threads or descriptors";
