//! Counted reads: of a stream, of an index, of the whole log.
//!
//! A read is a cursor that makes one page at a time, each on a thread that may
//! block. While the connection takes a page the next one is made, and no more
//! than that one: a slow reader holds two pages. It ends at what was there when
//! it began: a read of everything ends also while others write. That moment is
//! its stamp: a stream or an index is looked at as of the position that is told,
//! not a little later.
//!
//! Most reads of streams are short and of what is in memory. Handing those to
//! another thread costs more than they do, so the first page of a stream is a
//! small one that is made at once, if everything is at hand.

use std::time::{Instant, SystemTime};

use annals_core::{Position, Revision, State, StreamName, Timestamp};
use annals_proto::event_store::client::StreamIdentifier;
use annals_proto::event_store::client::streams::read_resp::{Content as Answer, StreamNotFound};
use annals_store::{Direction, IndexName, PageLimit, Record, Store, StreamPage, StreamView};
use bytes::Bytes;
use futures::stream::{self, StreamExt as _};
use tokio::task::JoinHandle;
use tonic::Status;

use super::body::{Leaf, Pages};
use super::page::{self, Page, broken};
use super::query::{SelectedBy, Selection, Source, Start, Style};
use super::room::Room;
use super::selection::selects;
use super::start::{first_number, first_position, number_from, start_number};
use crate::blocking::blocking;
use crate::consistency::Stamp;
use crate::context::Shared;
use crate::metrics::Metrics;
use crate::status::Failure;

/// Records that a filter examines before its thread is given back.
const EXAMINED_MAX: usize = 10_000;

/// As much as is read on a thread that serves everybody: some tens of
/// microseconds.
const AT_HAND: PageLimit = PageLimit { records: 64, bytes: 64 * 1024 };

/// Bytes of the first page that is made on another thread; each one that follows
/// has [`PAGE_GROWTH`] times as many, up to [`page::BYTES_MAX`]. Who stops
/// reading early has made us hold little.
const PAGE_BYTES_FIRST: usize = 256 * 1024;
const PAGE_GROWTH: usize = 4;

/// Revisions that today's server looks at first; where they hold nothing
/// visible, the client is told where to go on (protocol 3.3).
const FIRST_PAGE: u64 = 32;

/// Starts a read, of a log that is at least as new as `stamp`, and answers with
/// the stamp of what it shows. What keeps it from starting is known before it
/// answers.
pub(super) async fn open(
    context: &Shared,
    stamp: Stamp,
    source: Source,
    style: Style,
    direction: Direction,
    count: u64,
    compatibility: u32,
) -> Result<(Stamp, Pages), Failure> {
    let mut reading = Reading {
        store: context.node.store().clone(),
        style,
        direction,
        left: count,
        positions: compatibility >= 1,
        as_of: stamp.as_of,
        cursor: Cursor::Done,
        room: context.room.clone(),
        page_bytes: PAGE_BYTES_FIRST,
        measured: Measured::new(source.api(), context.metrics.clone()),
    };
    let (reading, first) = match reading.page_at_hand(&source) {
        Some(first) => (reading, first),
        None => {
            blocking(move || {
                let first = reading.begin(source).and_then(|()| reading.page());
                (reading, first)
            })
            .await
        }
    };
    let first = reading.noted(first);
    let (reading, first) = match first {
        (reading, Ok(first)) => (reading, first),
        (reading, Err(failure)) => return Err(failure.decided(reading.as_of)),
    };
    let stamp = stamp.at(reading.as_of);
    let rest = stream::unfold(Ahead::of(reading), move |ahead| async move {
        let page = match ahead {
            Ahead::Page(page) => page,
            Ahead::Nothing(mut reading) => {
                reading.measured.result = "ok";
                return None;
            }
            Ahead::Failed => return None,
        };
        let (reading, page) = page.await.expect("a read does not panic, and the runtime outlives its calls");
        match reading.noted(page) {
            (reading, Ok(page)) => Some((Ok(Leaf::from(page)), Ahead::of(reading))),
            (_, Err(failure)) => Some((Err(stamp.refusal(failure.v1())), Ahead::Failed)),
        }
    });
    Ok((stamp, joined(first, rest)))
}

/// What comes after a page, while the connection takes that one.
enum Ahead {
    Page(JoinHandle<(Reading, Result<Bytes, Failure>)>),
    /// The page was the last.
    Nothing(Reading),
    Failed,
}

impl Ahead {
    /// Begins with the next page.
    fn of(mut reading: Reading) -> Ahead {
        if matches!(reading.cursor, Cursor::Done) {
            return Ahead::Nothing(reading);
        }
        Ahead::Page(tokio::spawn(blocking(move || {
            let page = reading.page();
            (reading, page)
        })))
    }
}

/// The first page, then the others.
pub(super) fn joined<S>(first: Bytes, rest: S) -> Pages
where
    S: stream::Stream<Item = Result<Leaf, Status>> + Send + 'static,
{
    stream::once(std::future::ready(Ok(Leaf::from(first)))).chain(rest).boxed()
}

/// A counted read under way.
struct Reading {
    store: Store,
    style: Style,
    direction: Direction,
    /// Events that may still be sent.
    left: u64,
    /// Whether the client understands stream positions among its answers.
    positions: bool,
    /// The position up to which it looks at the log.
    as_of: Position,
    cursor: Cursor,
    /// Where the memory of pages comes from.
    room: Room,
    /// Bytes of the next page, if there is room.
    page_bytes: usize,
    measured: Measured,
}

/// Where a read is. Numbers are those of what comes next.
enum Cursor {
    Stream { view: Box<StreamView>, next: Option<Revision>, begun: bool },
    Index { index: IndexName, next: Option<u64>, len: u64, as_links: bool },
    All { next: Option<Position>, end: Position, by: Option<SelectedBy> },
    Done,
}

impl Reading {
    /// Looks at what is to be read.
    fn begin(&mut self, source: Source) -> Result<(), Failure> {
        self.cursor = match source {
            Source::Stream { name, start } => self.begin_stream(&name, start)?,
            Source::Index { index, start } => {
                let len = self.see_index(&index)?;
                let next = first_number(start_number(start), len.checked_sub(1), self.direction);
                Cursor::Index { index, next, len, as_links: true }
            }
            Source::All { start, selection } => {
                let by = selection.map(|Selection { by, .. }| by);
                if let Some(SelectedBy::Index(index)) = by {
                    self.begin_selected(index, start)?
                } else {
                    let as_of = self.as_of;
                    Cursor::All { next: first_position(start, as_of, self.direction), end: as_of, by }
                }
            }
        };
        Ok(())
    }

    fn begin_stream(&mut self, name: &StreamName, start: Start<Revision>) -> Result<Cursor, Failure> {
        let (as_of, view) = page::see(&self.store, name, Timestamp::from(SystemTime::now()))?;
        self.as_of = as_of;
        if view.state == State::Tombstoned {
            return Err(Failure::StreamDeleted { stream: name.clone(), tombstoned: true });
        }
        let next = self.first_revision(&view, start);
        Ok(Cursor::Stream { view: Box::new(view), next, begun: false })
    }

    fn first_revision(&self, view: &StreamView, start: Start<Revision>) -> Option<Revision> {
        let last = view.head.last.map(Revision::get);
        first_number(start_number(start), last, self.direction).map(Revision::saturating)
    }

    /// Begins and makes the first page of a stream, without ever waiting; none,
    /// and nothing has happened, where that cannot be done.
    fn page_at_hand(&mut self, source: &Source) -> Option<Result<Bytes, Failure>> {
        let Source::Stream { name, start } = source else { return None };
        // Links lead anywhere.
        if self.style.resolve_links {
            return None;
        }
        let (as_of, view) = page::see_at_hand(&self.store, name, Timestamp::from(SystemTime::now()))?;
        let State::Live(_) = view.state else { return None };
        let next = self.first_revision(&view, *start);
        let read = match next.filter(|_| self.left > 0) {
            None => StreamPage::default(),
            Some(from) => {
                let records = usize::try_from(self.left).unwrap_or(usize::MAX).min(AT_HAND.records);
                let limit = PageLimit { records, ..AT_HAND };
                match self.store.read_stream_at_hand(&view, from, self.direction, limit) {
                    Ok(read) => read?,
                    Err(error) => return Some(Err(broken(&error))),
                }
            }
        };
        self.as_of = as_of;
        let store = self.store.clone();
        let mut page = Page::new(&store, self.style.clone(), Some(as_of));
        let filled = self.fill(&mut page, Box::new(view), next, false, read);
        self.measured.events += page.events;
        Some(filled.map(|()| page.frames.into_bytes()))
    }

    /// `$idx-ce-` and `$idx-et-`: the log, but only what an index holds.
    fn begin_selected(&mut self, index: IndexName, start: Start<Position>) -> Result<Cursor, Failure> {
        let len = self.see_index(&index)?;
        if len == 0 {
            return Err(Failure::IndexNotFound(index.name().to_string().replacen('$', "$idx-", 1)));
        }
        let next = match (first_position(start, self.as_of, self.direction), self.direction) {
            (None, Direction::Forward | Direction::Backward) => None,
            (Some(position), Direction::Forward) => Some(number_from(&self.store, &index, len, position)?),
            (Some(position), Direction::Backward) => {
                number_from(&self.store, &index, len, position.next())?.checked_sub(1)
            }
        };
        Ok(Cursor::Index { index, next, len, as_links: false })
    }

    /// How many entries an index has, as of the position that is told.
    fn see_index(&mut self, index: &IndexName) -> Result<u64, Failure> {
        let (as_of, len) = self.store.see_index(index).map_err(|error| broken(&error))?;
        self.as_of = as_of;
        Ok(len)
    }

    /// The next page. An empty one is not the end: a filter may have found
    /// nothing yet, and a client that went away must be noticed.
    fn page(&mut self) -> Result<Bytes, Failure> {
        let store = self.store.clone();
        let space = self.room.take(self.page_bytes);
        self.page_bytes = (self.page_bytes * PAGE_GROWTH).min(page::BYTES_MAX);
        let mut page = Page::new(&store, self.style.clone(), Some(self.as_of)).with_room(space.bytes());
        match std::mem::replace(&mut self.cursor, Cursor::Done) {
            Cursor::Done => {}
            Cursor::Stream { view, next, begun } => self.stream_page(&mut page, view, next, begun)?,
            Cursor::Index { index, next, len, as_links } => self.index_page(&mut page, index, next, len, as_links)?,
            Cursor::All { next, end, by } => self.all_page(&mut page, next, end, by)?,
        }
        self.measured.events += page.events;
        Ok(space.hold(page.frames.into_bytes()))
    }

    fn stream_page(
        &mut self,
        page: &mut Page<'_>,
        view: Box<StreamView>,
        next: Option<Revision>,
        begun: bool,
    ) -> Result<(), Failure> {
        match view.state {
            State::Live(_) => {}
            State::Empty | State::SoftDeleted(_) => {
                page.say(not_found(&view.stream));
                return Ok(());
            }
            State::Tombstoned => unreachable!("refused when the read began"),
        }
        let read = match next.filter(|_| self.left > 0) {
            None => StreamPage::default(),
            Some(from) => {
                let read = |from, events| {
                    let read = self.store.read_stream(&view, from, self.direction, page.limit_of(events));
                    read.map_err(|error| broken(&error))
                };
                let mut found = read(from, self.left)?;
                let mut examined = found.records.len();
                // Who wants one event does not look at what is reclaimed one by one.
                while let Some(on) = found.next.filter(|_| found.records.iter().all(Record::is_reclaimed)) {
                    if examined >= EXAMINED_MAX {
                        break;
                    }
                    found = read(on, u64::MAX)?;
                    examined += found.records.len();
                }
                found
            }
        };
        self.fill(page, view, next, begun, read)
    }

    /// Fills a page with what was read of a live stream.
    fn fill(
        &mut self,
        page: &mut Page<'_>,
        view: Box<StreamView>,
        next: Option<Revision>,
        begun: bool,
        read: StreamPage,
    ) -> Result<(), Failure> {
        let mut after = None;
        if let Some(from) = next.filter(|_| self.left > 0) {
            after = read.next;
            if !begun && self.positions && self.direction == Direction::Forward {
                let looked_at = from.plus(self.left.min(FIRST_PAGE));
                let mut there = read.records.iter().filter(|record| !record.is_reclaimed());
                if let Some(first) = there.next().map(Record::revision).filter(|first| *first >= looked_at) {
                    page.say(Answer::FirstStreamPosition(first.get()));
                }
            }
            page.expect(&read.records);
            for record in read.records.iter().filter(|record| !record.is_reclaimed()) {
                page.event(record)?;
                self.left -= 1;
                if self.left == 0 {
                    break;
                }
                if page.is_full() && read.records.last() != Some(record) {
                    after = self.beside(record.revision().get()).map(Revision::saturating);
                    break;
                }
            }
        }
        if after.is_some() && self.left > 0 {
            self.cursor = Cursor::Stream { view, next: after, begun: true };
        } else if let (true, State::Live(last)) = (self.positions, view.state) {
            page.say(Answer::LastStreamPosition(last.get()));
        }
        Ok(())
    }

    fn index_page(
        &mut self,
        page: &mut Page<'_>,
        index: IndexName,
        next: Option<u64>,
        len: u64,
        as_links: bool,
    ) -> Result<(), Failure> {
        if len == 0 {
            page.say(not_found(&index.name()));
            return Ok(());
        }
        let mut after = None;
        let (mut from, mut wanted, mut examined) = (next, self.left, 0);
        while let Some(first) = from.filter(|from| self.left > 0 && *from < len) {
            let links = self.store.read_index(&index, first, self.direction, page.limit_of(wanted));
            let links = links.map_err(|error| broken(&error))?;
            examined += links.len();
            after = None;
            for link in links.into_iter().take_while(|link| link.revision < len) {
                after = self.beside(link.revision).filter(|number| *number < len);
                if link.record.is_reclaimed() {
                    continue;
                }
                if as_links {
                    page.entry(&index, &link)?;
                } else {
                    page.event(&link.record)?;
                }
                self.left -= 1;
                if page.is_full() || self.left == 0 {
                    break;
                }
            }
            // On only where all of it is reclaimed.
            (from, wanted) = (after.filter(|_| page.events == 0 && examined < EXAMINED_MAX), u64::MAX);
        }
        if after.is_some() && self.left > 0 {
            self.cursor = Cursor::Index { index, next: after, len, as_links };
        } else if self.positions && as_links {
            page.say(Answer::LastStreamPosition(len - 1));
        }
        Ok(())
    }

    fn all_page(
        &mut self,
        page: &mut Page<'_>,
        next: Option<Position>,
        end: Position,
        by: Option<SelectedBy>,
    ) -> Result<(), Failure> {
        let mut next = next;
        let mut examined = 0;
        // Bounded in what is examined too, so that a filter that matches
        // nothing does not keep a thread from others.
        while let Some(from) = next.filter(|from| *from <= end && self.left > 0) {
            // Where all was reclaimed so far, more is looked at at once.
            let wanted = if by.is_some() || examined > 0 { u64::MAX } else { self.left };
            let records = self.store.read_all(from, self.direction, page.limit_of(wanted));
            let records = records.map_err(|error| broken(&error))?;
            next = None;
            if by.is_none() {
                page.expect(&records);
            }
            for record in &records {
                if record.position() > end {
                    next = None;
                    break;
                }
                next = self.beside(record.position().get()).map(Position::new).filter(|place| *place > Position::START);
                examined += 1;
                if selects(by.as_ref(), record)? {
                    page.event(record)?;
                    self.left -= 1;
                    if self.left == 0 || page.is_full() {
                        break;
                    }
                }
            }
            if page.is_full() || examined >= EXAMINED_MAX || (by.is_none() && page.events > 0) {
                break;
            }
        }
        if next.is_some_and(|next| next <= end) && self.left > 0 {
            self.cursor = Cursor::All { next, end, by };
        }
        Ok(())
    }

    /// The number after this one in the direction of the read.
    fn beside(&self, number: u64) -> Option<u64> {
        match self.direction {
            Direction::Forward => number.checked_add(1),
            Direction::Backward => number.checked_sub(1),
        }
    }

    /// Notes how a page ended.
    fn noted<T>(mut self, result: Result<T, Failure>) -> (Self, Result<T, Failure>) {
        if let Err(failure) = &result {
            self.measured.result = failure.label();
        }
        (self, result)
    }
}

fn not_found(stream: &StreamName) -> Answer {
    let stream_identifier = Some(StreamIdentifier { stream_name: stream.as_bytes().clone() });
    Answer::StreamNotFound(StreamNotFound { stream_identifier })
}

impl Source {
    /// The bounded word by which metrics count it.
    pub(super) fn api(&self) -> &'static str {
        match self {
            Source::Stream { .. } => "stream",
            Source::Index { .. } => "index",
            Source::All { selection: None, .. } => "all",
            Source::All { selection: Some(_), .. } => "all_filtered",
        }
    }
}

/// A read being measured. Counted once; as cancelled where nobody waits for
/// its end.
struct Measured {
    api: &'static str,
    metrics: Metrics,
    started: Instant,
    events: usize,
    result: &'static str,
}

impl Measured {
    fn new(api: &'static str, metrics: Metrics) -> Self {
        Measured { api, metrics, started: Instant::now(), events: 0, result: "cancelled" }
    }
}

impl Drop for Measured {
    fn drop(&mut self) {
        self.metrics.read_finished(self.api, self.result, self.started.elapsed(), self.events);
    }
}
