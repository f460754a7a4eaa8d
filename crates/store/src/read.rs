//! Reading: pages of records, by position, by stream, by index.
//!
//! A page is bounded in records and in bytes, and so is what is read to make
//! it. The newest records come from the ring. On disk, records with
//! consecutive positions are scanned; others are looked up together.

use annals_core::{Head, Position, Revision, State as StreamState, StreamName, Timestamp};
use bytes::BytesMut;

use crate::chain::{ChainHash, SAVED_EVERY};
use crate::database::{Reach, reading};
use crate::error::Error;
use crate::keys::{self, Column, Key, ListId};
use crate::record::{Corruption, Record};
use crate::state::{READAHEAD, State, record_among, record_at};

/// Which way a read goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    /// From lower to higher numbers.
    Forward,
    /// From higher to lower numbers.
    Backward,
}

/// How much one page may hold. Whatever the limits, a page has at least one
/// record when there is one, so that a reader always gets on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageLimit {
    /// Records.
    pub records: usize,
    /// Bytes of encoded records.
    pub bytes: usize,
}

/// A stream as it is to be read: its head, and what of it is hidden.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamView {
    /// The stream.
    pub stream: StreamName,
    /// Its head.
    pub head: Head,
    /// Its state.
    pub state: StreamState,
    /// The first revision that `$maxCount` and `$tb` leave visible.
    pub first_visible: Revision,
    /// Events created before this are hidden too (`$maxAge`).
    pub not_before: Option<Timestamp>,
}

impl StreamView {
    /// What a head leaves visible at a time, which is not before the newest
    /// event's.
    pub(crate) fn new(stream: &StreamName, head: Head, now: Timestamp) -> StreamView {
        StreamView {
            stream: stream.clone(),
            state: head.state(),
            first_visible: head.first_visible(),
            not_before: head.metadata.max_age_seconds.map(|seconds| now.minus_seconds(seconds)),
            head,
        }
    }
}

/// A part of a stream.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StreamPage {
    /// The records, in the direction of the read. Never a tombstone.
    pub records: Vec<Record>,
    /// Where to go on in the same direction, inclusive. None at the end of
    /// what the view shows.
    pub next: Option<Revision>,
}

/// A page in the making.
struct Page<T> {
    items: Vec<T>,
    left: PageLimit,
}

impl<T> Page<T> {
    /// A page of which no more than `there` records exist.
    fn new(limit: PageLimit, there: u64) -> Self {
        let there = usize::try_from(there).unwrap_or(usize::MAX);
        Page { items: Vec::new(), left: PageLimit { records: limit.records.min(there), ..limit } }
    }

    /// Whether this record still fits. The first one always does.
    fn takes(&mut self, record: &Record) -> bool {
        let bytes = record.encoded().len();
        if !self.items.is_empty() && (self.left.records == 0 || bytes > self.left.bytes) {
            return false;
        }
        if self.items.is_empty() {
            // As many as fit if all have the size of this one: grown step by step, a large page is copied often.
            self.items.reserve_exact(self.left.records.min(self.left.bytes / bytes).max(1));
        }
        self.left.records = self.left.records.saturating_sub(1);
        self.left.bytes = self.left.bytes.saturating_sub(bytes);
        true
    }

    fn is_full(&self) -> bool {
        !self.items.is_empty() && (self.left.records == 0 || self.left.bytes == 0)
    }
}

/// Entries that are looked up together, at first and at most. Small at first,
/// because a page's limit in bytes may be reached soon.
const LOOKED_UP_FIRST: usize = 16;
const LOOKED_UP_MAX: usize = 256;

/// As many records close to each other are worth a scan instead of look-ups.
const SCAN_MIN: usize = 4;

/// Records that are this far apart are close: passing over one costs a tenth
/// of looking one up.
const SCAN_GAP_MAX: u64 = 8;

impl State {
    /// See [`crate::Store::read_all`].
    pub(crate) fn read_all(
        &self,
        from: Position,
        direction: Direction,
        limit: PageLimit,
    ) -> Result<Vec<Record>, Error> {
        let tail = self.tail();
        match direction {
            Direction::Forward => {
                let from = from.max(Position::new(1));
                let mut page = Page::new(limit, (tail.get() + 1).saturating_sub(from.get()));
                if from <= tail && !self.take_from_ring(from, &mut page, |at| (at < tail).then(|| at.next())) {
                    self.scan_forward(from, tail, &mut page)?;
                }
                Ok(page.items)
            }
            Direction::Backward => {
                let from = from.min(tail);
                let mut page = Page::new(limit, from.get());
                let down = |at: Position| Some(Position::new(at.get() - 1)).filter(|at| *at > Position::START);
                if from > Position::START {
                    self.take_from_ring(from, &mut page, down);
                    let below = page.items.last().map_or(Some(from), |last: &Record| down(last.position()));
                    if let (Some(below), false) = (below, page.is_full()) {
                        self.scan_backward(below, &mut page)?;
                    }
                }
                Ok(page.items)
            }
        }
    }

    /// Takes records from the ring as long as they are there and the page has
    /// room; whether the first one was there.
    fn take_from_ring(
        &self,
        from: Position,
        page: &mut Page<Record>,
        step: impl Fn(Position) -> Option<Position>,
    ) -> bool {
        let ring = self.ring.read();
        let mut next = Some(from);
        while let Some(record) = next.and_then(|at| ring.get(at)) {
            if !page.takes(record) {
                // A page that is full by its bytes may have some left.
                page.left.bytes = 0;
                break;
            }
            page.items.push(record.clone());
            next = step(record.position());
        }
        !page.items.is_empty()
    }

    fn scan_forward(&self, from: Position, to: Position, page: &mut Page<Record>) -> Result<(), Error> {
        // Never further than the page can reach, or reading ahead reads for nothing.
        let reach = (page.left.records.max(1) as u64).min(to.get() - from.get() + 1);
        let end = from.plus(reach);
        let readahead = page.left.bytes.clamp(64 * 1024, READAHEAD);
        let mut records =
            self.database.scan(Column::Records, &keys::number(from.get()), &keys::number(end.get()), readahead);
        records.seek_to_first();
        let mut memory = BytesMut::new();
        let mut at = from;
        while at < end {
            let value = records.value();
            if value.is_none() {
                records.status().map_err(reading)?;
            }
            let record = record_among(at, value, &mut memory)?;
            if !page.takes(&record) {
                break;
            }
            page.items.push(record);
            records.next();
            at = at.next();
        }
        Ok(())
    }

    fn scan_backward(&self, from: Position, page: &mut Page<Record>) -> Result<(), Error> {
        let first = Position::new((from.get() + 1).saturating_sub(page.left.records.max(1) as u64).max(1));
        let mut records =
            self.database.scan(Column::Records, &keys::number(first.get()), &keys::number(from.next().get()), 0);
        records.seek_to_last();
        let mut at = from;
        loop {
            if records.value().is_none() {
                records.status().map_err(reading)?;
            }
            let record = record_at(at, records.value())?;
            if !page.takes(&record) {
                return Ok(());
            }
            page.items.push(record);
            if at == first {
                return Ok(());
            }
            records.prev();
            at = Position::new(at.get() - 1);
        }
    }

    /// See [`crate::Store::view`].
    pub(crate) fn view(&self, stream: &StreamName, now: Timestamp) -> Result<StreamView, Error> {
        let head = self.head(stream.as_str())?;
        Ok(StreamView::new(stream, head, now.max(self.totals().newest_time)))
    }

    /// See [`crate::Store::read_stream`].
    pub(crate) fn read_stream(
        &self,
        view: &StreamView,
        from: Revision,
        direction: Direction,
        limit: PageLimit,
    ) -> Result<StreamPage, Error> {
        let StreamState::Live(last) = view.state else { return Ok(StreamPage::default()) };
        let stream = view.stream.as_str();
        let known = self.stream_head(stream, &mut Vec::with_capacity(1 + stream.len()), Reach::Disk)?;
        let Some(list) = known.map(|known| known.list) else { return Ok(StreamPage::default()) };
        let first = match view.not_before {
            Some(not_before) => self.first_not_before(list, view.first_visible, last, not_before)?,
            None => view.first_visible,
        };
        self.stream_page(list, (first, last), from, direction, limit, Reach::Disk)
    }

    /// See [`crate::Store::read_stream_at_hand`].
    pub(crate) fn read_stream_at_hand(
        &self,
        view: &StreamView,
        from: Revision,
        direction: Direction,
        limit: PageLimit,
    ) -> Result<Option<StreamPage>, Error> {
        let StreamState::Live(last) = view.state else { return Ok(Some(StreamPage::default())) };
        // What age hides is found by bisection, which may lead anywhere.
        if view.not_before.is_some() {
            return Ok(None);
        }
        let Some(known) = self.head_at_hand(&view.stream) else { return Ok(None) };
        let visible = (view.first_visible, last);
        match self.stream_page(known.list, visible, from, direction, limit, Reach::Memory) {
            Ok(page) => Ok(Some(page)),
            Err(error) if error.is_out_of_reach() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// A page of the visible part of a stream, whose bounds are inclusive.
    fn stream_page(
        &self,
        list: ListId,
        (first, last): (Revision, Revision),
        from: Revision,
        direction: Direction,
        limit: PageLimit,
        reach: Reach,
    ) -> Result<StreamPage, Error> {
        let (from, to) = match direction {
            Direction::Forward => (from.max(first), last),
            Direction::Backward => (from.min(last), first),
        };
        let ahead = |at: Revision| match direction {
            Direction::Forward => at <= to,
            Direction::Backward => at >= to,
        };
        if first > last || !ahead(from) {
            return Ok(StreamPage::default());
        }
        let entries = self.read_list(list, from.get(), to.get(), direction, limit, reach)?;
        let records: Vec<Record> = entries.into_iter().map(|(_, record)| record).collect();
        let next = records.last().map(Record::revision).filter(|at| *at != to).map(|at| match direction {
            Direction::Forward => at.next(),
            Direction::Backward => Revision::saturating(at.get() - 1),
        });
        Ok(StreamPage { records, next })
    }

    /// The first revision from `first` to `last` that was created at `time` or
    /// later; the one after `last` if there is none. By bisection: `created`
    /// never goes back along a stream.
    fn first_not_before(
        &self,
        list: ListId,
        first: Revision,
        last: Revision,
        time: Timestamp,
    ) -> Result<Revision, Error> {
        let is_visible = |revision: u64| -> Result<bool, Error> {
            let position = self.position_of(list, revision, Reach::Disk)?;
            Ok(self.record(position, Reach::Disk)?.created() >= time)
        };
        let (mut low, mut high) = (first.get(), last.get().saturating_add(1));
        // Mostly nothing or little is hidden: ask the first before bisecting.
        if low < high && is_visible(low)? {
            return Ok(first);
        }
        while low < high {
            let middle = low + (high - low) / 2;
            if is_visible(middle)? {
                high = middle;
            } else {
                low = middle + 1;
            }
        }
        Ok(Revision::saturating(low))
    }

    /// A page of a list: its entries from one number to another, both
    /// inclusive, which the caller knows to exist.
    pub(crate) fn read_list(
        &self,
        list: ListId,
        from: u64,
        to: u64,
        direction: Direction,
        limit: PageLimit,
        reach: Reach,
    ) -> Result<Vec<(u64, Record)>, Error> {
        let mut entries = self.entries(list, from, to, direction, reach)?;
        let mut page = Page::new(limit, from.abs_diff(to).saturating_add(1));
        let mut count = LOOKED_UP_FIRST;
        let mut numbers = Vec::new();
        let mut positions = Vec::new();
        while !page.is_full() {
            numbers.clear();
            positions.clear();
            for entry in entries.by_ref().take(count.min(page.left.records.max(1))) {
                let (number, position) = entry?;
                numbers.push(number);
                positions.push(position);
            }
            if numbers.is_empty() {
                break;
            }
            let records = self.look_up(&positions, reach)?;
            for (number, record) in numbers.iter().zip(records) {
                if !page.takes(&record) {
                    return Ok(page.items);
                }
                page.items.push((*number, record));
            }
            count = (count * 2).min(LOOKED_UP_MAX);
        }
        Ok(page.items)
    }

    /// The records at these positions, which exist and ascend or descend.
    pub(crate) fn look_up(&self, positions: &[Position], reach: Reach) -> Result<Vec<Record>, Error> {
        let mut found: Vec<Option<Record>> = {
            let ring = self.ring.read();
            positions.iter().map(|at| ring.get(*at).cloned()).collect()
        };
        let mut missing: Vec<usize> = (0..positions.len()).filter(|index| found[*index].is_none()).collect();
        missing.sort_unstable_by_key(|index| positions[*index]);
        let mut scattered = Vec::new();
        let is_close = |a: &usize, b: &usize| positions[*b].get() - positions[*a].get() <= SCAN_GAP_MAX;
        for stretch in missing.chunk_by(is_close) {
            if stretch.len() < SCAN_MIN {
                scattered.extend_from_slice(stretch);
                continue;
            }
            let (first, last) = (positions[stretch[0]], positions[stretch[stretch.len() - 1]]);
            let (from, to) = (keys::number(first.get()), keys::number(last.next().get()));
            let mut records = self.database.stretch(Column::Records, &from, &to, reach);
            records.seek_to_first();
            for index in stretch {
                let wanted = keys::number(positions[*index].get());
                while records.key().is_some_and(|key| key < &wanted[..]) {
                    records.next();
                }
                if records.value().is_none() {
                    records.status().map_err(reading)?;
                }
                found[*index] = Some(record_at(positions[*index], records.value())?);
            }
        }
        if !scattered.is_empty() {
            let keys: Vec<[u8; 8]> = scattered.iter().map(|index| keys::number(positions[*index].get())).collect();
            let values = self.database.get_sorted(Column::Records, &keys, reach)?;
            for (index, value) in scattered.iter().zip(values) {
                found[*index] = Some(record_at(positions[*index], value.as_deref())?);
            }
        }
        Ok(found.into_iter().map(|record| record.expect("each was in the ring, scanned or looked up")).collect())
    }

    /// See [`crate::Store::record_at`].
    pub(crate) fn record_at(&self, stream: &StreamName, revision: Revision) -> Result<Option<Record>, Error> {
        let stream = stream.as_str();
        let Some(known) = self.stream_head(stream, &mut Vec::with_capacity(1 + stream.len()), Reach::Disk)? else {
            return Ok(None);
        };
        let exists =
            if revision == Revision::TOMBSTONE { known.head.tombstoned } else { Some(revision) <= known.head.last };
        if !exists {
            return Ok(None);
        }
        let position = self.position_of(known.list, revision.get(), Reach::Disk)?;
        self.record(position, Reach::Disk).map(Some)
    }

    /// See [`crate::Store::chain`].
    pub(crate) fn chain(&self, at: Position) -> Result<Option<ChainHash>, Error> {
        let totals = self.totals();
        if at > totals.tail {
            return Ok(None);
        }
        if at == totals.tail {
            return Ok(Some(totals.chain));
        }
        let saved = Position::new(at.get() - at.get() % SAVED_EVERY);
        let mut chain = self.saved_chain(saved)?;
        let mut next = saved.next();
        while next <= at {
            let records = self.read_all(
                next,
                Direction::Forward,
                PageLimit {
                    records: usize::try_from(at.get() + 1 - next.get()).expect("below 1,000"),
                    bytes: READAHEAD,
                },
            )?;
            for record in &records {
                chain = chain.then(record);
                next = record.position().next();
            }
        }
        Ok(Some(chain))
    }

    fn saved_chain(&self, at: Position) -> Result<ChainHash, Error> {
        if at == Position::START {
            return Ok(ChainHash::START);
        }
        let corrupt = |source| Error::corrupt(Key::Chain(at), source);
        let bytes = self.database.get(Column::Chain, &keys::number(at.get()))?;
        let bytes = bytes.ok_or(Corruption::Missing).map_err(corrupt)?;
        let hash: [u8; 16] = (*bytes)
            .try_into()
            .map_err(|_| Corruption::Length { expected: 16, found: bytes.len() })
            .map_err(corrupt)?;
        Ok(ChainHash::from_bytes(hash))
    }
}
