//! Subscriptions: a cursor that pulls.
//!
//! Read a page from the cursor to the tail, send it, wait for the tail to
//! move, again. Catching up and being live are the same loop, so there is no
//! moment between them at which an event could be missed or repeated:
//!
//! - the tail, or the list that is subscribed to, is marked as seen *before* a
//!   page is read, so that an entry applied while it is read wakes the loop once
//!   more;
//! - the cursor alone decides what comes next, and only moves over what was
//!   put on a page.
//!
//! Pages are pulled by the connection: who does not read is not read for.
//! What truncation hides stays hidden while catching up; once live, everything
//! new is delivered, also what was truncated before the page was read.
//!
//! A subscription never ends with OK: some clients never notice, one spins
//! (protocol 0.1). On shutdown it ends with UNAVAILABLE.

#[cfg(feature = "seeded-bugs")]
mod mistakes;

use std::time::{Duration, Instant};

use annals_core::{Position, Right, StreamName};
use annals_proto::event_store::client::streams::ReadResp;
use annals_proto::event_store::client::streams::read_resp::{Content as Answer, SubscriptionConfirmation};
use annals_store::{Interest, Store};
use bytes::Bytes;
use futures::stream;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::body::{Leaf, Pages};
use super::feed::{Feed, Step};
use super::frames::Frames;
use super::page;
use super::query::{Source, Style};
use super::read::joined;
use super::room::Room;
use crate::access::Caller;
use crate::blocking::blocking;
use crate::consistency;
use crate::context::Shared;
use crate::limits::Seat;
use crate::metrics::Counted;
use crate::status::Failure;

/// So many new positions are still in memory: they are read at once, without
/// a detour over a thread that may block.
const IN_MEMORY: u64 = 1_000;

/// How long a filtered subscription may have examined events without saying
/// so. Its client can then resume behind them.
const QUIET_MAX: Duration = Duration::from_secs(1);

/// Bytes of a page. More is not quicker, and waits in memory for who stops
/// reading.
pub(crate) const PAGE_BYTES_MAX: usize = 1024 * 1024;

/// Starts a subscription. What keeps it from starting is known before it is
/// confirmed.
pub(super) async fn open(
    context: &Shared,
    watched: Watched,
    source: Source,
    style: Style,
    seat: Seat,
) -> Result<Pages, Failure> {
    let kind = source.api();
    let store = context.node.store().clone();
    let feed = {
        let store = store.clone();
        blocking(move || Feed::begin(&store, source)).await?
    };
    let subscription = Subscription {
        tail: store.watch_tail(),
        interests: feed.interests(&store),
        store,
        style,
        watched,
        feed,
        pace: Pace::default(),
        live: false,
        #[cfg(feature = "seeded-bugs")]
        was_live: false,
        seen: Position::START,
        ended: None,
        counted: context.metrics.subscription(kind),
        seat,
        leaving: context.leaving.token(),
        context: context.clone(),
    };
    let id = Uuid::new_v4().to_string();
    let confirmation =
        ReadResp { content: Some(Answer::Confirmation(SubscriptionConfirmation { subscription_id: id })) };
    let rest = stream::unfold(Some(subscription), |subscription| async move {
        let subscription: Subscription = subscription?;
        let context = subscription.context.clone();
        match subscription.next().await {
            Ok((subscription, bytes)) => {
                let reached = subscription.feed.reached();
                Some((Ok(Leaf { bytes, reached }), Some(subscription)))
            }
            Err(failure) => Some((Err(consistency::refuse_v1(&context, &failure)), None)),
        }
    });
    Ok(joined(framed(&confirmation), rest))
}

/// An answer by itself.
fn framed(answer: &ReadResp) -> Bytes {
    let mut frames = Frames::default();
    frames.say(answer);
    frames.into_bytes()
}

/// Who subscribes, and the stream that they must be able to read as long as they do.
pub(super) struct Watched {
    pub(super) caller: Caller,
    pub(super) stream: StreamName,
}

struct Subscription {
    store: Store,
    style: Style,
    watched: Watched,
    feed: Feed,
    tail: watch::Receiver<Position>,
    /// In the list that it is subscribed to. None where every entry matters.
    interests: Vec<Interest>,
    pace: Pace,
    /// Whether the client was told that it is caught up, and still is.
    live: bool,
    #[cfg(feature = "seeded-bugs")]
    was_live: bool,
    /// The tail when the feed was last read.
    seen: Position,
    /// Why it ends once what it has is sent.
    ended: Option<Failure>,
    #[expect(dead_code, reason = "held for its drop")]
    counted: Counted,
    #[expect(dead_code, reason = "held for its drop")]
    seat: Seat,
    /// Cancelled when the client is to go elsewhere.
    leaving: CancellationToken,
    context: Shared,
}

/// How large pages are. What a slow client has not taken yet lies in memory: a
/// thousand such clients must not hold a thousand large pages.
struct Pace {
    room: usize,
    /// Since when a page is being sent.
    since: Option<Instant>,
}

impl Default for Pace {
    fn default() -> Self {
        Pace { room: Room::LEAST, since: None }
    }
}

impl Pace {
    const ROOM_MIN: usize = 32 * 1024;
    /// Who takes longer for a page gets smaller ones.
    const SLOW: Duration = Duration::from_millis(250);

    /// A page is on its way.
    fn begin(&mut self) {
        self.since = Some(Instant::now());
    }

    /// Bytes of the next page, now that the one before is taken.
    fn room(&mut self) -> usize {
        if let Some(since) = self.since.take() {
            self.room = match since.elapsed() > Self::SLOW {
                true => (self.room / 4).max(Self::ROOM_MIN),
                false => (self.room * 2).min(PAGE_BYTES_MAX),
            };
        }
        self.room
    }
}

impl Subscription {
    /// The next answers; waits until there are some.
    async fn next(mut self) -> Result<(Self, Bytes), Failure> {
        let room = self.pace.room();
        loop {
            if let Some(failure) = self.ended.take() {
                return Err(failure);
            }
            if self.leaving.is_cancelled() {
                return Err(Failure::ShuttingDown);
            }
            self.look_again()?;
            // Before the page is read, see above.
            self.interests.iter_mut().for_each(Interest::look);
            let tail = *self.tail.borrow_and_update();
            let few = tail.get().saturating_sub(self.seen.get()) <= IN_MEMORY;
            #[cfg(feature = "seeded-bugs")]
            self.skip(tail)?;
            let space = self.context.room.take(room);
            let room = space.bytes();
            let step = if self.live && few && self.feed.stays_in_memory(&self.style) {
                self.feed.read(&self.store, &self.style, room, page::EVENTS_MAX)?
            } else {
                let (store, style, mut feed) = (self.store.clone(), self.style.clone(), self.feed);
                let (feed, step) = blocking(move || {
                    let step = feed.read(&store, &style, room, page::EVENTS_MAX);
                    (feed, step)
                })
                .await;
                self.feed = feed;
                step?
            };
            self.seen = tail;
            let Step { mut frames, events, at_end, ended } = step;
            self.context.metrics.events_sent(events);
            self.ended = ended;
            if at_end && !self.live && self.ended.is_none() {
                if let Some(checkpoint) = self.feed.checkpoint() {
                    frames.say(&checkpoint);
                }
                frames.say(&self.feed.caught_up());
            }
            if self.live && !at_end {
                self.context.metrics.subscription_fell_behind();
            }
            self.live = at_end;
            if !frames.is_empty() {
                self.pace.begin();
                return Ok((self, space.hold(frames.into_bytes())));
            }
            // Whoever waits, however long, holds nothing.
            drop(space);
            if at_end
                && self.ended.is_none()
                && let Some(checkpoint) = self.wait().await?
            {
                return Ok((self, framed(&checkpoint)));
            }
        }
    }

    /// Whether the subscriber may still read: a right that was taken away ends the
    /// subscription with what is delivered next.
    fn look_again(&mut self) -> Result<(), Failure> {
        if let Caller::Trusted = self.watched.caller {
            return Ok(());
        }
        self.style.eyes = self.context.eyes(&self.watched.caller)?;
        self.context.permit(&self.watched.caller, Right::Read, &self.watched.stream)
    }

    /// Waits until there may be something new. Answers a checkpoint when it
    /// was quiet for a while since something was examined.
    async fn wait(&mut self) -> Result<Option<ReadResp>, Failure> {
        let leaving = self.leaving.clone();
        let quiet = self.feed.is_ahead();
        tokio::select! {
            biased; // a drain is told even where the tail never rests
            () = leaving.cancelled() => Err(Failure::ShuttingDown),
            () = any_changed(&mut self.interests), if !self.interests.is_empty() => Ok(None),
            moved = self.tail.changed(), if self.interests.is_empty() => match moved {
                Ok(()) => Ok(None),
                Err(_) => Err(Failure::ShuttingDown),
            },
            () = tokio::time::sleep(QUIET_MAX), if quiet => Ok(self.feed.checkpoint()),
        }
    }
}

/// Returns once one of these lists may have changed.
pub(crate) async fn any_changed(interests: &mut [Interest]) {
    let changes = interests.iter_mut().map(|interest| Box::pin(interest.changed()));
    futures::future::select_all(changes).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_slow_gets_small_pages_and_who_is_quick_again_large_ones() {
        let mut pace = Pace::default();
        assert_eq!(pace.room(), Room::LEAST, "whether it reads at all is not known yet");
        for _ in 0..10 {
            pace.since = Instant::now().checked_sub(2 * Pace::SLOW);
            pace.room();
        }
        assert_eq!(pace.room(), Pace::ROOM_MIN, "nothing was sent meanwhile");
        for _ in 0..10 {
            pace.begin();
            pace.room();
        }
        assert_eq!(pace.room(), PAGE_BYTES_MAX);
    }
}
