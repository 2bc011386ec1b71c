//! The table beside the loopback connection, for what HTTP cannot carry from one half of the program to the other, or
//! what would only cost time there. Under the number of a request the proxy leaves its body; the loop takes that, and
//! gives back the body of the reply and what it has learnt.

use crate::reply::{Body, Learnt};
use crate::threads::lock;
use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use tempfile::SpooledTempFile;

#[derive(Default)]
pub struct Handover {
    requests: Mutex<HashMap<u64, Asked>>,
    /// So many there are of them.
    under_way: AtomicUsize,
    is_closed: AtomicBool,
}

pub struct Asked {
    /// Empty where the request has none.
    pub body: SpooledTempFile,
    /// For one reply. Dropped without it, it tells the proxy that there will be none.
    pub reply: SyncSender<(Body, Learnt)>,
}

/// A request on its way to the loop or back. Dropped, it is so no more.
pub struct UnderWay<'a> {
    handover: &'a Handover,
    request: u64,
    pub reply: Receiver<(Body, Learnt)>,
}

impl Handover {
    pub fn put(&self, request: u64, body: SpooledTempFile) -> UnderWay<'_> {
        let (sender, receiver) = sync_channel(1);
        self.under_way.fetch_add(1, Ordering::Relaxed);
        lock(&self.requests).insert(request, Asked { body, reply: sender });
        UnderWay { handover: self, request, reply: receiver }
    }

    pub fn take(&self, request: u64) -> Option<Asked> {
        lock(&self.requests).remove(&request)
    }

    /// At most one request is under way.
    pub fn is_calm(&self) -> bool {
        self.under_way.load(Ordering::Relaxed) <= 1
    }

    /// No reply comes any more to those that wait for one.
    pub fn give_up(&self) {
        lock(&self.requests).clear();
    }

    /// The loop is to end, once it is woken.
    pub fn close(&self) {
        self.is_closed.store(true, Ordering::Relaxed);
    }

    pub fn is_closed(&self) -> bool {
        self.is_closed.load(Ordering::Relaxed)
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        drop(self.handover.take(self.request));
        self.handover.under_way.fetch_sub(1, Ordering::Relaxed);
    }
}
