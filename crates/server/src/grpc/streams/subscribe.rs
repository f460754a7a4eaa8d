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

/// How large pages are: so large that the client takes one in [`Pace::SLOW`], by the
/// time that it took for the last one.
///
/// What a slow client has not taken yet lies in memory, and a thousand such clients must
/// not hold a thousand large pages. Nor must they cost as much as these: who took every
/// event while that was easy, and then has to be waited for, often does so at the same
/// moment as all others, and each of them gets a page in the next.
struct Pace {
    room: usize,
    /// Since when a page is being sent, and its bytes.
    sending: Option<(Instant, usize)>,
}

impl Default for Pace {
    fn default() -> Self {
        Pace { room: Room::LEAST, sending: None }
    }
}

impl Pace {
    const ROOM_MIN: usize = 32 * 1024;
    /// Who takes longer for a page gets smaller ones.
    const SLOW: Duration = Duration::from_millis(250);

    /// A page of so many bytes is on its way.
    fn begin(&mut self, bytes: usize) {
        self.sending = Some((Instant::now(), bytes));
    }

    /// Bytes of the next page, now that the one before is taken.
    fn room(&mut self) -> usize {
        if let Some((since, bytes)) = self.sending.take() {
            self.room = self.after(bytes, since.elapsed());
        }
        self.room
    }

    /// Bytes of the next page where so many were taken in this time.
    fn after(&self, bytes: usize, took: Duration) -> usize {
        if took <= Self::SLOW {
            return (self.room * 2).min(PAGE_BYTES_MAX);
        }
        let in_time = bytes as f64 * Self::SLOW.div_duration_f64(took);
        (in_time as usize).clamp(Self::ROOM_MIN, self.room.max(Self::ROOM_MIN))
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
                let page = frames.into_bytes();
                self.pace.begin(page.len());
                return Ok((self, space.hold(page)));
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
    fn who_is_slow_gets_small_pages_at_once_and_who_is_quick_again_large_ones() {
        let mut pace = Pace::default();
        assert_eq!(pace.room(), Room::LEAST, "whether it reads at all is not known yet");
        let quick = |pace: &mut Pace| {
            for _ in 0..10 {
                pace.begin(100);
                pace.room();
            }
            assert_eq!(pace.room(), PAGE_BYTES_MAX, "nothing was sent meanwhile");
        };
        quick(&mut pace);
        pace.sending = Instant::now().checked_sub(2 * Pace::SLOW).map(|since| (since, 1_000));
        assert_eq!(pace.room(), Pace::ROOM_MIN, "a page of a few events took long");
        quick(&mut pace);
    }

    #[test]
    fn a_page_is_as_large_as_its_client_takes_in_a_quarter_of_a_second() {
        let large = Pace { room: PAGE_BYTES_MAX, sending: None };
        for (took, next) in [(1, 1024), (250, 1024), (500, 512), (1_000, 256), (4_000, 64), (60_000, 32)] {
            assert_eq!(large.after(PAGE_BYTES_MAX, Duration::from_millis(took)), next * 1024, "{took} ms");
        }
        let small = Pace { room: Pace::ROOM_MIN, sending: None };
        assert_eq!(small.after(PAGE_BYTES_MAX, Duration::from_millis(500)), Pace::ROOM_MIN, "it does not grow by that");
    }
}
