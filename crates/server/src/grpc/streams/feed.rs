//! What subscriptions and consumer groups are fed with: a cursor in a stream, an
//! index or the log, that reads on from where it is.
//!
//! Only what was put on a page moves the cursor. Whoever holds one decides when to read
//! ([`super::subscribe`], [`crate::groups`]).

use std::fmt;
use std::time::SystemTime;

use annals_core::seeded::{self, Bug};
use annals_core::{Position, Revision, State, StreamName, Timestamp};
use annals_proto::event_store::client::streams::ReadResp;
use annals_proto::event_store::client::streams::read_resp::{
    CaughtUp, Checkpoint, Content as Answer, Position as Place,
};
use annals_store::{Direction, IndexName, Interest, Store};

use super::frames::Frames;
use super::page::{self, Page, broken};
use super::query::{SelectedBy, Selection, Source, Start, Style};
use super::selection::selects;
use super::start::number_from;
use crate::status::Failure;

/// Records that are examined before the loop looks around.
const EXAMINED_MAX: usize = 10_000;

/// Where a subscription is in what it is subscribed to.
pub(crate) enum Feed {
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
pub(crate) struct Progress {
    by: SelectedBy,
    every: u64,
    /// Since the last checkpoint that was due.
    examined: u64,
    /// The last position that the client was told of as examined.
    told: Position,
}

/// Up to where a subscriber was sent everything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reached {
    /// This revision of a stream, or number of an index.
    Revision(u64),
    /// This position of the log.
    Position(u64),
}

impl fmt::Display for Reached {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reached::Revision(revision) => write!(f, "revision {revision}"),
            Reached::Position(position) => write!(f, "position {position}"),
        }
    }
}

/// What reading a feed came to.
pub(crate) struct Step {
    pub(crate) frames: Frames,
    pub(crate) events: usize,
    pub(crate) at_end: bool,
    pub(crate) ended: Option<Failure>,
}

impl Feed {
    /// The lists that it waits for, if not for every entry. A quiet stream costs
    /// nothing then, however busy others are.
    pub(crate) fn interests(&self, store: &Store) -> Vec<Interest> {
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

    /// The last place that it has passed: a revision, a number of an index, a
    /// position. None at the beginning.
    pub(crate) fn passed(&self) -> Option<u64> {
        match self {
            Feed::Stream { next, .. } => next.get().checked_sub(1),
            Feed::Index { next, .. } => next.checked_sub(1),
            Feed::All { after, .. } | Feed::Selected { after, .. } => Some(after.get()).filter(|at| *at > 0),
        }
    }

    /// [`Feed::passed`] as a subscriber is told.
    pub(super) fn reached(&self) -> Option<Reached> {
        let passed = self.passed()?;
        Some(match self {
            Feed::Stream { .. } | Feed::Index { .. } => Reached::Revision(passed),
            Feed::All { .. } | Feed::Selected { .. } => Reached::Position(passed),
        })
    }

    /// Where a subscription begins. Places are exclusive (protocol 3.2).
    pub(crate) fn begin(store: &Store, source: Source) -> Result<Feed, Failure> {
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
    pub(crate) fn read(&mut self, store: &Store, style: &Style, room: usize, events: usize) -> Result<Step, Failure> {
        let mut page = Page::new(store, style.clone(), None).with_room(room).with_events(events);
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
                        *next = link.revision + 1;
                        if !link.record.is_reclaimed() {
                            page.entry(index, &link)?;
                        }
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
    pub(super) fn stays_in_memory(&self, style: &Style) -> bool {
        match self {
            // Links that were written lead anywhere.
            Feed::Stream { .. } | Feed::All { .. } | Feed::Selected { .. } => !style.resolve_links,
            Feed::Index { .. } => true,
        }
    }

    /// Says up to where the client is served.
    pub(super) fn caught_up(&self) -> ReadResp {
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
    pub(super) fn is_ahead(&self) -> bool {
        match self {
            Feed::Stream { .. } | Feed::Index { .. } | Feed::All { progress: None, .. } => false,
            Feed::All { after, progress: Some(progress) } | Feed::Selected { after, progress, .. } => {
                *after > progress.told
            }
        }
    }

    /// Says what was examined, unless the client knows.
    pub(super) fn checkpoint(&mut self) -> Option<ReadResp> {
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
    page.expect(&read.records);
    for record in &read.records {
        if !record.is_reclaimed() {
            page.event(record)?;
        }
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
    let mut examined = 0;
    while let Some(revision) = view.head.last.filter(|last| *last >= *next).map(|_| *next) {
        let record = store.record_at(name, revision).map_err(|error| broken(&error))?;
        if let Some(record) = record.filter(|record| live_once || !page::hides(&view, record)) {
            page.event(&record)?;
        }
        *next = revision.next();
        examined += 1;
        if page.is_full() || examined >= EXAMINED_MAX {
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
        if progress.is_none() {
            page.expect(&records);
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
            if !link.record.is_reclaimed() {
                page.event(&link.record)?;
            }
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
