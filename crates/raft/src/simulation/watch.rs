//! A watch that wakes its receivers in the order in which they came.
//!
//! Tokio's spreads them over eight lists at random, which is right for many
//! threads and wrong for a run that is to be repeated.

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Poll, Waker};

use openraft::async_runtime::watch::{RecvError, SendError, Watch, WatchReceiver, WatchSender};
use parking_lot::{Mutex, RwLock, RwLockReadGuard};

/// See the module.
#[derive(Debug)]
pub(crate) struct OrderedWatch;

struct Shared<T> {
    value: RwLock<T>,
    book: Mutex<Book>,
}

struct Book {
    version: u64,
    senders: usize,
    receivers: usize,
    last_receiver: u64,
    waiting: BTreeMap<u64, Waker>,
}

/// The end that sends.
pub(crate) struct Sender<T>(Arc<Shared<T>>);

/// An end that is told.
pub(crate) struct Receiver<T> {
    shared: Arc<Shared<T>>,
    number: u64,
    seen: u64,
}

impl<T> Shared<T> {
    fn tell(&self) {
        let mut book = self.book.lock();
        book.version += 1;
        let waiting = std::mem::take(&mut book.waiting);
        drop(book);
        waiting.into_values().for_each(Waker::wake);
    }

    fn receiver(self: &Arc<Self>, seen: Option<u64>) -> Receiver<T> {
        let mut book = self.book.lock();
        book.receivers += 1;
        book.last_receiver += 1;
        Receiver { shared: self.clone(), number: book.last_receiver, seen: seen.unwrap_or(book.version) }
    }
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        self.0.book.lock().senders += 1;
        Sender(self.0.clone())
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        let mut book = self.0.book.lock();
        book.senders -= 1;
        if book.senders == 0 {
            let waiting = std::mem::take(&mut book.waiting);
            drop(book);
            waiting.into_values().for_each(Waker::wake);
        }
    }
}

impl<T> Clone for Receiver<T> {
    fn clone(&self) -> Self {
        self.shared.receiver(Some(self.seen))
    }
}

impl<T> Drop for Receiver<T> {
    fn drop(&mut self) {
        let mut book = self.shared.book.lock();
        book.receivers -= 1;
        book.waiting.remove(&self.number);
    }
}

impl Watch for OrderedWatch {
    type Sender<T: Send + Sync> = Sender<T>;
    type Receiver<T: Send + Sync> = Receiver<T>;
    type Ref<'a, T: Send + 'a> = RwLockReadGuard<'a, T>;

    fn channel<T: Send + Sync>(init: T) -> (Sender<T>, Receiver<T>) {
        let book = Book { version: 0, senders: 1, receivers: 0, last_receiver: 0, waiting: BTreeMap::new() };
        let shared = Arc::new(Shared { value: RwLock::new(init), book: Mutex::new(book) });
        let receiver = shared.receiver(None);
        (Sender(shared), receiver)
    }
}

impl<T: Send + Sync> WatchSender<OrderedWatch, T> for Sender<T> {
    fn send(&self, value: T) -> Result<(), SendError<T>> {
        if self.0.book.lock().receivers == 0 {
            return Err(SendError(value));
        }
        *self.0.value.write() = value;
        self.0.tell();
        Ok(())
    }

    fn send_if_modified<F>(&self, modify: F) -> bool
    where
        F: FnOnce(&mut T) -> bool,
    {
        let modified = modify(&mut self.0.value.write());
        if modified {
            self.0.tell();
        }
        modified
    }

    fn borrow_watched(&self) -> RwLockReadGuard<'_, T> {
        self.0.value.read()
    }

    fn subscribe(&self) -> Receiver<T> {
        self.0.receiver(None)
    }
}

impl<T: Send + Sync> WatchReceiver<OrderedWatch, T> for Receiver<T> {
    async fn changed(&mut self) -> Result<(), RecvError> {
        poll_fn(|context| {
            let mut book = self.shared.book.lock();
            if book.version != self.seen {
                self.seen = book.version;
                return Poll::Ready(Ok(()));
            }
            if book.senders == 0 {
                return Poll::Ready(Err(RecvError(())));
            }
            book.waiting.insert(self.number, context.waker().clone());
            Poll::Pending
        })
        .await
    }

    fn borrow_watched(&self) -> RwLockReadGuard<'_, T> {
        self.shared.value.read()
    }

    fn borrow_and_update(&mut self) -> RwLockReadGuard<'_, T> {
        let value = self.shared.value.read();
        self.seen = self.shared.book.lock().version;
        value
    }
}
