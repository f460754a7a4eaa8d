//! Readers that do not read.
//!
//! What is sent waits in memory until the client takes it. A client may be slow,
//! but one that takes nothing for `stall_timeout_ms` is *given up*: its pages,
//! its cursor and its place are freed. When it reads again after all, it gets the
//! rest of the message that it was in the middle of and then a status that says
//! up to where it was sent everything, from which it can go on. One that takes
//! nothing for as long again has its stream reset.
//!
//! The connection asks a body for more only when the client has taken what was
//! there. So each body leaves what it has in a [`Line`], and the lines are looked
//! after from outside, once a second ([`Stalls::sweep`]).

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::Mutex;

use super::body::Pages;
use super::feed::Reached;
use crate::status::Failure;
use crate::tasks::{self, Task};

/// All readers that are being sent something.
#[derive(Clone)]
pub(crate) struct Stalls(Arc<Lines>);

struct Lines {
    timeout: Duration,
    next: AtomicU64,
    lines: Mutex<HashMap<u64, Weak<Line>>>,
}

/// One reader: what it is sent, and since when it takes nothing.
pub(super) struct Line {
    id: u64,
    of: Stalls,
    pub(super) state: Mutex<Sending>,
}

/// See [`Line`].
pub(super) struct Sending {
    /// Where more comes from. None once the reader is given up.
    pub(super) pages: Option<Pages>,
    /// What is being sent,
    pub(super) page: Bytes,
    /// and how much of it was.
    pub(super) at: usize,
    /// Up to where everything was sent.
    pub(super) reached: Option<Reached>,
    /// The same once this page is.
    pub(super) reached_with_page: Option<Reached>,
    /// Since when the reader has not come back for more. None: it waits for us.
    pub(super) since: Option<Instant>,
    task: Option<Task>,
}

impl Stalls {
    pub(crate) fn new(timeout: Duration) -> Self {
        Stalls(Arc::new(Lines { timeout, next: AtomicU64::new(0), lines: Mutex::default() }))
    }

    /// A reader of these pages.
    pub(super) fn line(&self, pages: Pages) -> Arc<Line> {
        let id = self.0.next.fetch_add(1, Ordering::Relaxed);
        let state = Sending {
            pages: Some(pages),
            page: Bytes::new(),
            at: 0,
            reached: None,
            reached_with_page: None,
            since: Some(Instant::now()),
            task: None,
        };
        let line = Arc::new(Line { id, of: self.clone(), state: Mutex::new(state) });
        self.0.lines.lock().insert(id, Arc::downgrade(&line));
        line
    }

    /// Gives up who has taken nothing for too long; how many those are.
    pub(crate) fn sweep(&self) -> usize {
        let lines: Vec<Arc<Line>> = self.0.lines.lock().values().filter_map(Weak::upgrade).collect();
        lines.iter().filter(|line| line.look(self.0.timeout)).count()
    }
}

impl Line {
    /// What it says to who comes back after it was given up.
    pub(super) fn farewell(&self, reached: Option<Reached>) -> Failure {
        Failure::Stalled { timeout: self.of.0.timeout, reached }
    }

    /// Whether the reader is given up now.
    fn look(&self, timeout: Duration) -> bool {
        // Who holds the lock is being sent something.
        let Some(mut sending) = self.state.try_lock() else { return false };
        let Some(stalled) = sending.since.map(|since| since.elapsed()) else { return false };
        if sending.pages.is_none() {
            if stalled >= 2 * timeout
                && let Some(task) = &sending.task
            {
                task.abort();
            }
            return false;
        }
        if stalled < timeout {
            return false;
        }
        if !sending.page.is_empty() {
            // Not all of this page will be sent.
            sending.reached_with_page = None;
        }
        let rest = sending.page.get(sending.at..rest_of_message(&sending.page, sending.at));
        let rest = rest.map(Bytes::copy_from_slice).unwrap_or_default();
        let freed = (sending.pages.take(), std::mem::replace(&mut sending.page, rest));
        sending.at = 0;
        drop(sending);
        // A subscription ends here, which takes other locks.
        drop(freed);
        true
    }
}

impl Sending {
    /// The call that sends this, to be ended if it must.
    pub(super) fn note_task(&mut self) {
        if self.task.is_none() {
            self.task = tasks::current();
        }
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.of.0.lines.lock().remove(&self.id);
    }
}

/// Where the message ends that has begun before `at`. Pages hold whole messages.
fn rest_of_message(page: &[u8], at: usize) -> usize {
    let mut end = 0;
    while end < at {
        let Some([_, length @ ..]) = page.get(end..end + 5).and_then(|header| <[u8; 5]>::try_from(header).ok()) else {
            return page.len();
        };
        end += 5 + u32::from_be_bytes(length) as usize;
    }
    end.min(page.len())
}

#[cfg(test)]
mod tests {
    use futures::StreamExt as _;
    use futures::stream;

    use super::*;

    fn message(length: u8) -> Vec<u8> {
        let mut bytes = vec![0, 0, 0, 0, length];
        bytes.resize(5 + usize::from(length), 1);
        bytes
    }

    #[test]
    fn a_message_that_has_begun_is_sent_to_its_end() {
        let page = [message(3), message(0), message(10)].concat();
        for (at, end) in [(0, 0), (1, 8), (8, 8), (9, 13), (13, 13), (14, 28), (27, 28), (28, 28)] {
            assert_eq!(rest_of_message(&page, at), end, "{at}");
        }
    }

    #[test]
    fn what_the_connection_has_of_a_page_does_not_keep_the_page() {
        let stalls = Stalls::new(Duration::ZERO);
        let line = stalls.line(stream::pending().boxed());
        let mut sending = line.state.lock();
        let content: Vec<u8> = (0..300_000_u32).map(|number| number as u8).collect();
        sending.page = content.clone().into();
        let mut chunks = Vec::new();
        while !sending.page.is_empty() {
            chunks.push(sending.next_chunk());
            assert!(sending.page.is_empty() || sending.page.is_unique(), "chunk {} is part of it", chunks.len());
        }
        assert_eq!((chunks.concat(), sending.at), (content, 0));
        sending.page = vec![7; 1_000].into();
        assert_eq!((sending.next_chunk().len(), sending.page.len()), (1_000, 0), "a small one is given as it is");
    }

    #[test]
    fn who_takes_nothing_is_given_up_and_who_waits_for_more_is_not() {
        let stalls = Stalls::new(Duration::ZERO);
        let stalled = stalls.line(stream::pending().boxed());
        {
            let mut sending = stalled.state.lock();
            sending.page = [message(4), message(9)].concat().into();
            sending.at = 2;
        }
        let waits = stalls.line(stream::pending().boxed());
        waits.state.lock().since = None;
        assert_eq!(stalls.sweep(), 1);
        let sending = stalled.state.lock();
        assert!(sending.pages.is_none());
        assert_eq!(sending.page.len(), 9 - 2, "the rest of the first message");
        assert!(waits.state.lock().pages.is_some());
        drop(sending);
        assert_eq!(stalls.sweep(), 0, "once");
        drop((stalled, waits));
        assert!(stalls.0.lines.lock().is_empty());
    }
}
