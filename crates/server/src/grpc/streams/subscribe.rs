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

use std::time::{Duration, Instant, SystemTime};

use annals_core::seeded::{self, Bug};
use annals_core::{Position, Revision, State, StreamName, Timestamp};
use annals_proto::event_store::client::streams::ReadResp;
use annals_proto::event_store::client::streams::read_resp::{
    CaughtUp, Checkpoint, Content as Answer, Position as Place, SubscriptionConfirmation,
};
use annals_store::{Direction, IndexName, Interest, Store};
use bytes::Bytes;
use futures::stream;
use tokio::sync::{OwnedSemaphorePermit, watch};
use uuid::Uuid;

use super::body::Pages;
use super::frames::Frames;
use super::page::{self, Page, broken};
use super::query::{SelectedBy, Selection, Source, Start, Style};
use super::read::{blocking, joined, number_from, selects};
use crate::consistency;
use crate::context::Shared;
use crate::metrics::Counted;
use crate::status::Failure;

/// Records that are examined before the loop looks around.
const EXAMINED_MAX: usize = 10_000;

/// So many new positions are still in memory: they are read at once, without
/// a detour over a thread that may block.
const IN_MEMORY: u64 = 1_000;

/// How long a filtered subscription may have examined events without saying
/// so. Its client can then resume behind them.
const QUIET_MAX: Duration = Duration::from_secs(1);

/// Starts a subscription. What keeps it from starting is known before it is
/// confirmed.
pub(super) async fn open(
    context: &Shared,
    source: Source,
    style: Style,
    permit: OwnedSemaphorePermit,
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
        feed,
        pace: Pace::default(),
        live: false,
        #[cfg(feature = "seeded-bugs")]
        was_live: false,
        seen: Position::START,
        ended: None,
        counted: context.metrics.subscription(kind),
        permit,
        context: context.clone(),
    };
    let id = Uuid::new_v4().to_string();
    let confirmation =
        ReadResp { content: Some(Answer::Confirmation(SubscriptionConfirmation { subscription_id: id })) };
    let rest = stream::unfold(Some(subscription), |subscription| async move {
        let subscription: Subscription = subscription?;
        let context = subscription.context.clone();
        match subscription.next().await {
            Ok((subscription, page)) => Some((Ok(page), Some(subscription))),
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

struct Subscription {
    store: Store,
    style: Style,
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
    permit: OwnedSemaphorePermit,
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
        Pace { room: page::BYTES_MAX, since: None }
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
                false => (self.room * 2).min(page::BYTES_MAX),
            };
        }
        self.room
    }
}

/// Where a subscription is in what it is subscribed to.
enum Feed {
    Stream {
        name: StreamName,
        next: Revision,
        /// Whether it was live once: nothing is hidden from then on.
        live_once: bool,
    },
    Index {
        index: IndexName,
        next: u64,
    },
    All {
        after: Position,
        progress: Option<Progress>,
    },
    /// `$idx-…`: the log, but read from an index.
    Selected {
        index: IndexName,
        next: u64,
        after: Position,
        progress: Progress,
    },
}

/// What a filtered subscription has examined.
struct Progress {
    by: SelectedBy,
    every: u64,
    /// Since the last checkpoint that was due.
    examined: u64,
    /// The last position that the client was told of as examined.
    told: Position,
}

/// What reading a feed came to.
struct Step {
    frames: Frames,
    events: usize,
    at_end: bool,
    ended: Option<Failure>,
}

impl Subscription {
    /// The next answers; waits until there are some.
    async fn next(mut self) -> Result<(Self, Bytes), Failure> {
        let room = self.pace.room();
        loop {
            if let Some(failure) = self.ended.take() {
                return Err(failure);
            }
            if self.context.stopping.is_cancelled() {
                return Err(Failure::ShuttingDown);
            }
            // Before the page is read, see above.
            self.interests.iter_mut().for_each(Interest::look);
            let tail = *self.tail.borrow_and_update();
            let few = tail.get().saturating_sub(self.seen.get()) <= IN_MEMORY;
            #[cfg(feature = "seeded-bugs")]
            self.skip(tail)?;
            let step = if self.live && few && self.feed.stays_in_memory(self.style) {
                self.feed.read(&self.store, self.style, room)?
            } else {
                let (store, style, mut feed) = (self.store.clone(), self.style, self.feed);
                let (feed, step) = blocking(move || {
                    let step = feed.read(&store, style, room);
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
                return Ok((self, frames.into_bytes()));
            }
            if at_end
                && self.ended.is_none()
                && let Some(checkpoint) = self.wait().await?
            {
                return Ok((self, framed(&checkpoint)));
            }
        }
    }

    /// Waits until there may be something new. Answers a checkpoint when it
    /// was quiet for a while since something was examined.
    async fn wait(&mut self) -> Result<Option<ReadResp>, Failure> {
        let stopping = self.context.stopping.clone();
        let quiet = self.feed.is_ahead();
        tokio::select! {
            biased; // a stop is told even where the tail never rests
            () = stopping.cancelled() => Err(Failure::ShuttingDown),
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
async fn any_changed(interests: &mut [Interest]) {
    let changes = interests.iter_mut().map(|interest| Box::pin(interest.changed()));
    futures::future::select_all(changes).await;
}

impl Feed {
    /// The lists that it waits for, if not for every entry. A quiet stream costs
    /// nothing then, however busy others are.
    fn interests(&self, store: &Store) -> Vec<Interest> {
        match self {
            Feed::Stream { name, .. } => {
                // A metastream ends with the stream that it describes.
                let described = name.described().map(|described| store.watch_stream(&described));
                std::iter::once(store.watch_stream(name)).chain(described).collect()
            }
            Feed::Index { index, .. } => vec![store.watch_index(index)],
            Feed::All { .. } | Feed::Selected { .. } => Vec::new(),
        }
    }

    /// Where a subscription begins. Places are exclusive (protocol 3.2).
    fn begin(store: &Store, source: Source) -> Result<Feed, Failure> {
        Ok(match source {
            Source::Stream { name, start } => {
                let view = page::view(store, &name, Timestamp::from(SystemTime::now()))?;
                if view.state == State::Tombstoned {
                    return Err(Failure::StreamDeleted { stream: name, tombstoned: true });
                }
                let next = match start {
                    Start::Beginning => Revision::FIRST,
                    Start::At(revision) if seeded::is(Bug::S14) => revision,
                    Start::At(revision) => revision.next(),
                    Start::End => Revision::after(view.head.last),
                };
                Feed::Stream { name, next, live_once: false }
            }
            Source::Index { index, start } => {
                let next = match start {
                    Start::Beginning => 0,
                    Start::At(revision) if seeded::is(Bug::S14) => revision.get(),
                    Start::At(revision) => revision.next().get(),
                    Start::End => store.index_len(&index).map_err(|error| broken(&error))?,
                };
                Feed::Index { index, next }
            }
            Source::All { start, selection } => {
                let after = match start {
                    Start::Beginning => Position::START,
                    Start::At(position) if seeded::is(Bug::S14) => Position::new(position.get().saturating_sub(1)),
                    Start::At(position) => position,
                    Start::End => store.tail(),
                };
                let progress = selection.map(|Selection { by, checkpoint_every }| Progress {
                    by,
                    every: checkpoint_every,
                    examined: 0,
                    told: after,
                });
                match progress {
                    Some(progress @ Progress { by: SelectedBy::Index(_), .. }) => {
                        Self::begin_selected(store, after, progress)?
                    }
                    progress => Feed::All { after, progress },
                }
            }
        })
    }

    fn begin_selected(store: &Store, after: Position, progress: Progress) -> Result<Feed, Failure> {
        let SelectedBy::Index(index) = &progress.by else { return Ok(Feed::All { after, progress: Some(progress) }) };
        let index = index.clone();
        let len = store.index_len(&index).map_err(|error| broken(&error))?;
        let next = number_from(store, &index, len, after.next())?;
        Ok(Feed::Selected { index, next, after, progress })
    }

    /// Reads from the cursor as much as one page holds. Blocking.
    fn read(&mut self, store: &Store, style: Style, room: usize) -> Result<Step, Failure> {
        let mut page = Page::new(store, style, None).with_room(room);
        let mut ended = None;
        let at_end = match self {
            Feed::Stream { name, next, live_once } => {
                let at_end = read_stream(&mut page, store, name, next, *live_once, &mut ended)?;
                *live_once |= at_end;
                at_end
            }
            Feed::Index { index, next } => {
                let len = store.index_len(index).map_err(|error| broken(&error))?;
                if *next < len {
                    let links = store.read_index(index, *next, Direction::Forward, page.limit());
                    for link in links.map_err(|error| broken(&error))? {
                        page.entry(index, &link)?;
                        *next = link.revision + 1;
                        if page.is_full() {
                            break;
                        }
                    }
                }
                *next >= len
            }
            Feed::All { after, progress } => read_all(&mut page, store, after, progress.as_mut())?,
            Feed::Selected { index, next, after, progress } => {
                read_selected(&mut page, store, index, next, after, progress)?
            }
        };
        Ok(Step { frames: page.frames, events: page.events, at_end, ended })
    }

    /// Whether what is new can be delivered without looking at what is old.
    fn stays_in_memory(&self, style: Style) -> bool {
        match self {
            // Links that were written lead anywhere.
            Feed::Stream { .. } | Feed::All { .. } | Feed::Selected { .. } => !style.resolve_links,
            Feed::Index { .. } => true,
        }
    }

    /// Says up to where the client is served.
    fn caught_up(&self) -> ReadResp {
        let timestamp = Some(prost_types::Timestamp::from(SystemTime::now()));
        let (stream_revision, position) = match self {
            Feed::Stream { next, .. } => (next.get().checked_sub(1), None),
            Feed::Index { next, .. } => (next.checked_sub(1), None),
            Feed::All { after, .. } | Feed::Selected { after, .. } => {
                (None, Some(after.get()).filter(|place| *place > 0))
            }
        };
        let caught_up = CaughtUp {
            timestamp,
            stream_revision: stream_revision.and_then(|revision| i64::try_from(revision).ok()),
            position: position.map(|place| Place { commit_position: place, prepare_position: place }),
        };
        ReadResp { content: Some(Answer::CaughtUp(caught_up)) }
    }

    /// Whether more was examined than the client was told.
    fn is_ahead(&self) -> bool {
        match self {
            Feed::Stream { .. } | Feed::Index { .. } | Feed::All { progress: None, .. } => false,
            Feed::All { after, progress: Some(progress) } | Feed::Selected { after, progress, .. } => {
                *after > progress.told
            }
        }
    }

    /// Says what was examined, unless the client knows.
    fn checkpoint(&mut self) -> Option<ReadResp> {
        if !self.is_ahead() {
            return None;
        }
        match self {
            Feed::Stream { .. } | Feed::Index { .. } | Feed::All { progress: None, .. } => None,
            Feed::All { after, progress: Some(progress) } | Feed::Selected { after, progress, .. } => {
                Some(ReadResp { content: Some(progress.tell(*after)) })
            }
        }
    }
}

impl Progress {
    /// A checkpoint at this position.
    fn tell(&mut self, at: Position) -> Answer {
        self.told = at;
        let place = at.get();
        let timestamp = Some(prost_types::Timestamp::from(SystemTime::now()));
        Answer::Checkpoint(Checkpoint { commit_position: place, prepare_position: place, timestamp })
    }

    /// Counts an examined event; the checkpoint, when one is due.
    fn examine(&mut self, at: Position) -> Option<Answer> {
        self.examined += 1;
        if self.examined < self.every {
            return None;
        }
        self.examined = 0;
        Some(self.tell(at))
    }
}

/// Reads a stream on from `next`; whether its end was reached.
fn read_stream(
    page: &mut Page<'_>,
    store: &Store,
    name: &StreamName,
    next: &mut Revision,
    live_once: bool,
    ended: &mut Option<Failure>,
) -> Result<bool, Failure> {
    // Most wake-ups are for other streams: the head alone tells.
    let head = store.head(name).map_err(|error| broken(&error))?;
    if !head.tombstoned && !name.is_metastream() && head.last.is_none_or(|last| last < *next) {
        return Ok(true);
    }
    let mut view = page.view(name)?;
    if view.state == State::Tombstoned {
        return read_to_tombstone(page, store, name, next, live_once, ended);
    }
    let Some(last) = view.head.last.filter(|last| *last >= *next) else { return Ok(true) };
    if live_once {
        view.state = State::Live(last);
        view.first_visible = Revision::FIRST;
        view.not_before = None;
    }
    match view.state {
        State::Live(_) => {}
        State::Empty | State::SoftDeleted(_) | State::Tombstoned => {
            *next = last.next();
            return Ok(true);
        }
    }
    let read = store.read_stream(&view, *next, Direction::Forward, page.limit());
    let read = read.map_err(|error| broken(&error))?;
    for record in &read.records {
        page.event(record)?;
        *next = record.revision().next();
        if page.is_full() {
            return Ok(*next > last);
        }
    }
    *next = read.next.unwrap_or(last.next()).max(*next);
    Ok(*next > last)
}

/// Reads what a stream held before its tombstone, then the tombstone, which is
/// the last thing that is delivered.
fn read_to_tombstone(
    page: &mut Page<'_>,
    store: &Store,
    name: &StreamName,
    next: &mut Revision,
    live_once: bool,
    ended: &mut Option<Failure>,
) -> Result<bool, Failure> {
    // A page of a tombstoned stream is empty, its events are still there.
    let view = page.view(name)?;
    while let Some(revision) = view.head.last.filter(|last| *last >= *next).map(|_| *next) {
        let record = store.record_at(name, revision).map_err(|error| broken(&error))?;
        if let Some(record) = record.filter(|record| live_once || !page::hides(&view, record)) {
            page.event(&record)?;
        }
        *next = revision.next();
        if page.is_full() {
            return Ok(false);
        }
    }
    let tombstone = store.record_at(name, Revision::TOMBSTONE).map_err(|error| broken(&error))?;
    if let Some(tombstone) = tombstone {
        page.event(&tombstone)?;
    }
    *ended = Some(Failure::StreamDeleted { stream: name.clone(), tombstoned: true });
    Ok(true)
}

/// Reads the log on from `after`; whether its end was reached.
fn read_all(
    page: &mut Page<'_>,
    store: &Store,
    after: &mut Position,
    mut progress: Option<&mut Progress>,
) -> Result<bool, Failure> {
    let tail = store.tail();
    let mut examined = 0;
    while *after < tail && !page.is_full() && examined < EXAMINED_MAX {
        let records = store.read_all(after.next(), Direction::Forward, page.limit());
        let records = records.map_err(|error| broken(&error))?;
        if records.is_empty() {
            break;
        }
        for record in &records {
            *after = record.position();
            examined += 1;
            if selects(progress.as_deref().map(|progress| &progress.by), record)? {
                page.event(record)?;
            }
            if let Some(checkpoint) = progress.as_deref_mut().and_then(|progress| progress.examine(*after)) {
                page.say(checkpoint);
            }
            if page.is_full() {
                break;
            }
        }
    }
    Ok(*after >= tail)
}

/// Reads the log on from `after` through an index: what the index does not
/// hold has been examined without being looked at.
fn read_selected(
    page: &mut Page<'_>,
    store: &Store,
    index: &IndexName,
    next: &mut u64,
    after: &mut Position,
    progress: &mut Progress,
) -> Result<bool, Failure> {
    // The tail first: what lies before it is then in the index for sure.
    let tail = store.tail();
    let len = store.index_len(index).map_err(|error| broken(&error))?;
    if *next < len {
        let links = store.read_index(index, *next, Direction::Forward, page.limit());
        for link in links.map_err(|error| broken(&error))? {
            let position = link.record.position();
            *next = link.revision + 1;
            // The client asked for a place in the future.
            if position <= *after {
                continue;
            }
            *after = position;
            page.event(&link.record)?;
            if let Some(checkpoint) = progress.examine(position) {
                page.say(checkpoint);
            }
            if page.is_full() {
                break;
            }
        }
    }
    let at_end = *next >= len;
    if at_end {
        *after = tail.max(*after);
    }
    Ok(at_end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_slow_gets_small_pages_and_who_is_quick_again_large_ones() {
        let mut pace = Pace::default();
        assert_eq!(pace.room(), page::BYTES_MAX);
        for _ in 0..10 {
            pace.since = Instant::now().checked_sub(2 * Pace::SLOW);
            pace.room();
        }
        assert_eq!(pace.room(), Pace::ROOM_MIN, "nothing was sent meanwhile");
        for _ in 0..10 {
            pace.begin();
            pace.room();
        }
        assert_eq!(pace.room(), page::BYTES_MAX);
    }
}
