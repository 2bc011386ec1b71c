//! What threads need: a start, locks that outlive a panic, and a moment before they go to sleep.

use crate::console::Failure;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

pub fn start(name: &str, work: impl FnOnce() + Send + 'static) -> Result<(), Failure> {
    let started = thread::Builder::new().name(name.to_owned()).spawn(work);
    started.map(drop).map_err(|error| Failure::new(format!("cannot start a thread: {error}"), "close other programs"))
}

/// A thread that ends while it holds a lock leaves nothing half done here, so that the others may go on.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
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

/// Somewhat longer than the loop needs for a small answer, or a client on the same machine from one to the next request.
const AWAKE: Duration = Duration::from_micros(100);
