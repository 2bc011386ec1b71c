//! Locks that outlive a panic: a thread that ends while it holds one leaves nothing half done here, so that the others
//! may go on.

use std::sync::{Mutex, MutexGuard, PoisonError};

pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
