//! An event as it is stored.
//!
//! A record describes itself: it holds its position, its stream's name and its
//! revision, so that everything else in the store can be rebuilt from records
//! alone. That is what catch-up does.
//!
//! ```text
//!  0 version      u8     1
//!  1 flags        u8     content and properties, as in commands
//!  2 header crc   u32    CRC32C over bytes 0..2 and 6..62 + stream
//!  6 position     u64
//! 14 revision     u64
//! 22 created      u64    100 ns ticks since 1970
//! 30 id           16 B
//! 46 checksum     u32    the event's own, from the moment it was accepted
//! 50 stream len   u16
//! 52 type len     u16
//! 54 metadata len u32
//! 58 data len     u32
//! 62 stream, type, metadata, data
//! ```
//!
//! Of an event that was reclaimed its *stub* is left. It has the same header, which
//! still tells how long metadata and data were, and after it only what others
//! depend on: the stream and the type, the correlation id by which an index has an
//! entry, and the data where rules may look at it
//! ([`annals_core::scavenge::keeps_data`]):
//!
//! ```text
//!  0 version      u8     2
//!  2 header crc   u32    CRC32C over bytes 0..2 and all from 6 on
//!    (the others as above)
//! 62 stream, type, correlation len u16, correlation id, data if it is kept
//! ```
//!
//! A stub is a function of the record, so that it is the same on every node.
//!
//! All numbers are little-endian. Two checksums because they have two makers:
//! the event's covers what the client sent (id, labels, type, metadata, data)
//! and travels with it from the node that accepted it; the header's covers
//! what apply added.

use annals_core::decide::Placed;
use annals_core::scavenge::{Facts, keeps_data};
use annals_core::{Content, EventId, Position, Properties, Revision, StreamName, Timestamp, event};
use bytes::{BufMut, Bytes, BytesMut};
use uuid::Uuid;

const VERSION: u8 = 1;
const STUB_VERSION: u8 = 2;
const CRC_AT: usize = 2;
const POSITION_AT: usize = 6;
const REVISION_AT: usize = 14;
const CREATED_AT: usize = 22;
const ID_AT: usize = 30;
const CHECKSUM_AT: usize = 46;
const STREAM_LEN_AT: usize = 50;
const TYPE_LEN_AT: usize = 52;
const METADATA_LEN_AT: usize = 54;
const DATA_LEN_AT: usize = 58;
const STREAM_AT: usize = 62;

/// An event as it is stored, with its place and time. Its bytes have been
/// checked against both checksums. Cloning and slicing share the bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record(Bytes);

/// Why stored bytes are not what they should be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Corruption {
    /// Nothing is stored where something must be.
    #[error("it is not there")]
    Missing,
    /// The bytes are fewer or more than they say.
    #[error("it has {found} bytes instead of {expected}")]
    Length {
        /// What follows from the bytes themselves.
        expected: usize,
        /// How many there are.
        found: usize,
    },
    /// Written by a version that this one does not know.
    #[error("its format version {found} is not known, this release reads versions {VERSION} and {STUB_VERSION}")]
    Version {
        /// What the bytes say.
        found: u8,
    },
    /// What apply added is not what it was.
    #[error("its header does not match its checksum")]
    Header,
    /// What the client sent is not what it was.
    #[error("its content does not match its checksum")]
    Content,
    /// It is intact but belongs elsewhere.
    #[error("it holds what belongs at position {found}")]
    Misplaced {
        /// The position that it names.
        found: Position,
    },
    /// A value that no writer produces.
    #[error("{0}")]
    Invalid(&'static str),
}

impl Record {
    /// Bytes that the record of this event will take.
    pub(crate) fn encoded_len(placed: &Placed) -> usize {
        STREAM_AT + placed.stream.as_str().len() + placed.event.size()
    }

    /// The record of a placed event. Takes its memory from `out`, where many
    /// records can share one allocation.
    pub fn encode(placed: &Placed, created: Timestamp, out: &mut BytesMut) -> Record {
        let event = &placed.event;
        let stream = placed.stream.as_str().as_bytes();
        let event_type = event.event_type().as_str().as_bytes();
        let length = |length: usize| u16::try_from(length).expect("names and types are limited to far below 64 KiB");
        let size = |size: usize| u32::try_from(size).expect("events are limited to far below 4 GiB");
        let mut header = [0; STREAM_AT];
        header[0] = VERSION;
        header[1] = event::flags(event.content(), event.properties());
        header[POSITION_AT..REVISION_AT].copy_from_slice(&placed.position.get().to_le_bytes());
        header[REVISION_AT..CREATED_AT].copy_from_slice(&placed.revision.get().to_le_bytes());
        header[CREATED_AT..ID_AT].copy_from_slice(&created.ticks().to_le_bytes());
        header[ID_AT..CHECKSUM_AT].copy_from_slice(event.id().uuid().as_bytes());
        header[CHECKSUM_AT..STREAM_LEN_AT].copy_from_slice(&event.checksum().to_le_bytes());
        header[STREAM_LEN_AT..TYPE_LEN_AT].copy_from_slice(&length(stream.len()).to_le_bytes());
        header[TYPE_LEN_AT..METADATA_LEN_AT].copy_from_slice(&length(event_type.len()).to_le_bytes());
        header[METADATA_LEN_AT..DATA_LEN_AT].copy_from_slice(&size(event.metadata().len()).to_le_bytes());
        header[DATA_LEN_AT..].copy_from_slice(&size(event.data().len()).to_le_bytes());
        let crc = crc32c::crc32c_append(header_crc(&header), stream);
        header[CRC_AT..POSITION_AT].copy_from_slice(&crc.to_le_bytes());
        debug_assert!(out.is_empty(), "records are split off as they are made");
        out.reserve(Self::encoded_len(placed));
        out.put_slice(&header);
        out.put_slice(stream);
        out.put_slice(event_type);
        out.put_slice(event.metadata());
        out.put_slice(event.data());
        Record(out.split().freeze())
    }

    /// What is left of it when it is reclaimed; itself if it is that already.
    /// `correlation` is by what the index of correlation ids has it.
    pub(crate) fn stub(&self, correlation: Option<&str>) -> Record {
        if self.is_reclaimed() {
            return self.clone();
        }
        let correlation = correlation.unwrap_or_default().as_bytes();
        let kept = if keeps_data(&self.stream_name()) { self.data_slice() } else { &[] };
        let mut out = BytesMut::with_capacity(self.metadata_at() + 2 + correlation.len() + kept.len());
        out.put_slice(&self.0[..self.metadata_at()]);
        out[0] = STUB_VERSION;
        out.put_u16_le(u16::try_from(correlation.len()).expect("the name of an index is far below 64 KiB"));
        out.put_slice(correlation);
        out.put_slice(kept);
        let crc = header_crc(&out);
        out[CRC_AT..POSITION_AT].copy_from_slice(&crc.to_le_bytes());
        Record(out.freeze())
    }

    /// Whether this is the stub of an event that was reclaimed. Readers pass over it.
    pub fn is_reclaimed(&self) -> bool {
        self.0[0] == STUB_VERSION
    }

    /// By what the index of correlation ids has the event of this stub.
    pub(crate) fn stub_correlation(&self) -> Option<&str> {
        debug_assert!(self.is_reclaimed());
        let correlation = &self.0[self.metadata_at() + 2..self.kept_at()];
        let correlation = std::str::from_utf8(correlation).expect("checked when the record was made");
        Some(correlation).filter(|correlation| !correlation.is_empty())
    }

    /// Whether the other record is of the same event, reclaimed or not.
    pub(crate) fn is_same_event(&self, other: &Record) -> bool {
        self.0.len() >= STREAM_AT
            && self.0[POSITION_AT..STREAM_AT] == other.0[POSITION_AT..STREAM_AT]
            && self.stream_slice() == other.stream_slice()
            && self.event_type_slice() == other.event_type_slice()
    }

    /// Bytes of metadata and data of the event, also when it is reclaimed.
    pub(crate) fn content_bytes(&self) -> u64 {
        content_bytes(&self.0)
    }

    /// What decides whether it is gone.
    pub(crate) fn facts(&self) -> Facts {
        Facts {
            stream: self.stream_name(),
            revision: self.revision(),
            created: self.created(),
            bytes: self.content_bytes(),
        }
    }

    /// The record in these bytes, which are copied once.
    ///
    /// # Errors
    /// [`Corruption`]: they are not what was written.
    pub fn from_slice(bytes: &[u8]) -> Result<Record, Corruption> {
        verify(bytes)?;
        Ok(Record(Bytes::copy_from_slice(bytes)))
    }

    /// The same, with its memory taken from `out`, where many records can
    /// share one allocation.
    pub(crate) fn from_slice_into(bytes: &[u8], out: &mut BytesMut) -> Result<Record, Corruption> {
        verify(bytes)?;
        debug_assert!(out.is_empty(), "records are split off as they are made");
        out.extend_from_slice(bytes);
        Ok(Record(out.split().freeze()))
    }

    /// The record in these bytes, which are kept. They come from another node:
    /// its checksums say only that they are what that node sent.
    ///
    /// # Errors
    /// As [`Record::from_slice`], and for a stream's name that is none.
    pub fn from_bytes(bytes: Bytes) -> Result<Record, Corruption> {
        verify(&bytes)?;
        let record = Record(bytes);
        match StreamName::from_utf8(record.0.slice(STREAM_AT..record.type_at())) {
            Ok(_) => Ok(record),
            Err(_) => Err(Corruption::Invalid("its stream's name is none")),
        }
    }

    /// Its place in the log.
    pub fn position(&self) -> Position {
        Position::new(u64_at(&self.0, POSITION_AT))
    }

    /// Its place in its stream.
    pub fn revision(&self) -> Revision {
        Revision::saturating(u64_at(&self.0, REVISION_AT))
    }

    /// When the leader took it in. Never goes back along positions.
    pub fn created(&self) -> Timestamp {
        Timestamp::from_ticks(u64_at(&self.0, CREATED_AT))
    }

    /// The id that the client gave it.
    pub fn id(&self) -> EventId {
        id_at(&self.0).expect("checked when the record was made")
    }

    /// The name of its stream.
    pub fn stream(&self) -> &str {
        std::str::from_utf8(&self.0[STREAM_AT..self.type_at()]).expect("checked when the record was made")
    }

    /// The name of its stream: UTF-8, not checked again.
    pub fn stream_slice(&self) -> &[u8] {
        &self.0[STREAM_AT..self.type_at()]
    }

    /// The name of its stream, as a name.
    pub fn stream_name(&self) -> StreamName {
        StreamName::from_utf8(self.0.slice(STREAM_AT..self.type_at())).expect("only valid names are written")
    }

    /// Its type.
    pub fn event_type(&self) -> &str {
        std::str::from_utf8(&self.0[self.type_at()..self.metadata_at()]).expect("checked when the record was made")
    }

    /// Its type: UTF-8, not checked again.
    pub fn event_type_slice(&self) -> &[u8] {
        &self.0[self.type_at()..self.metadata_at()]
    }

    /// Whether its data is said to be JSON.
    pub fn content(&self) -> Content {
        self.labels().0
    }

    /// Whether its data is said to be JSON.
    pub fn is_json(&self) -> bool {
        self.content() == Content::Json
    }

    /// What its metadata bytes are.
    pub fn properties(&self) -> Properties {
        self.labels().1
    }

    /// The client's metadata; empty when it is reclaimed.
    pub fn metadata(&self) -> Bytes {
        self.0.slice(self.metadata_range())
    }

    /// The client's data; empty when it is reclaimed, unless the stub keeps it.
    pub fn data(&self) -> Bytes {
        self.0.slice(self.data_at()..)
    }

    /// The event's checksum, as [`annals_core::Event::checksum`].
    pub fn checksum(&self) -> u32 {
        u32_at(&self.0, CHECKSUM_AT)
    }

    /// The record's bytes: what is stored, and what another node ingests.
    pub fn encoded(&self) -> &Bytes {
        &self.0
    }

    /// The client's metadata, not shared.
    pub fn metadata_slice(&self) -> &[u8] {
        &self.0[self.metadata_range()]
    }

    /// The client's data, not shared.
    pub fn data_slice(&self) -> &[u8] {
        &self.0[self.data_at()..]
    }

    fn labels(&self) -> (Content, Properties) {
        event::labels(self.0[1]).expect("checked when the record was made")
    }

    fn type_at(&self) -> usize {
        STREAM_AT + usize::from(u16_at(&self.0, STREAM_LEN_AT))
    }

    fn metadata_at(&self) -> usize {
        self.type_at() + usize::from(u16_at(&self.0, TYPE_LEN_AT))
    }

    fn metadata_range(&self) -> std::ops::Range<usize> {
        let from = self.metadata_at();
        from..if self.is_reclaimed() { from } else { self.data_at() }
    }

    fn data_at(&self) -> usize {
        match self.is_reclaimed() {
            true => self.kept_at(),
            false => self.metadata_at() + u32_at(&self.0, METADATA_LEN_AT) as usize,
        }
    }

    /// In a stub: behind the correlation id.
    fn kept_at(&self) -> usize {
        let at = self.metadata_at();
        at + 2 + usize::from(u16_at(&self.0, at))
    }
}

/// What the window of remembered ids, and who looks for what is gone, need of a
/// record, without reading its content: at open this is asked a million times.
pub(crate) struct Header<'a> {
    pub(crate) position: Position,
    pub(crate) revision: Revision,
    pub(crate) created: Timestamp,
    pub(crate) id: EventId,
    pub(crate) stream: &'a [u8],
    pub(crate) content_bytes: u64,
    pub(crate) is_reclaimed: bool,
}

impl<'a> Header<'a> {
    /// The header in these bytes. Only the header's checksum is verified.
    pub(crate) fn read(bytes: &'a [u8]) -> Result<Header<'a>, Corruption> {
        let stream = verify_header(bytes)?;
        Ok(Header {
            position: Position::new(u64_at(bytes, POSITION_AT)),
            revision: Revision::saturating(u64_at(bytes, REVISION_AT)),
            created: Timestamp::from_ticks(u64_at(bytes, CREATED_AT)),
            id: id_at(bytes).ok_or(Corruption::Invalid("its id is nil"))?,
            stream,
            content_bytes: content_bytes(bytes),
            is_reclaimed: bytes[0] == STUB_VERSION,
        })
    }
}

/// Verifies everything but the content; answers the stream's name.
fn verify_header(bytes: &[u8]) -> Result<&[u8], Corruption> {
    if bytes.len() < STREAM_AT {
        return Err(Corruption::Length { expected: STREAM_AT, found: bytes.len() });
    }
    match bytes[0] {
        VERSION => {}
        STUB_VERSION => return verify_stub(bytes),
        found => return Err(Corruption::Version { found }),
    }
    let type_at = STREAM_AT + usize::from(u16_at(bytes, STREAM_LEN_AT));
    let data_at = type_at + usize::from(u16_at(bytes, TYPE_LEN_AT)) + u32_at(bytes, METADATA_LEN_AT) as usize;
    let expected = data_at + u32_at(bytes, DATA_LEN_AT) as usize;
    if bytes.len() != expected {
        return Err(Corruption::Length { expected, found: bytes.len() });
    }
    if header_crc(&bytes[..type_at]) != u32_at(bytes, CRC_AT) {
        return Err(Corruption::Header);
    }
    Ok(&bytes[STREAM_AT..type_at])
}

/// Verifies all of a stub; answers the stream's name.
fn verify_stub(bytes: &[u8]) -> Result<&[u8], Corruption> {
    let short = |expected: usize| Corruption::Length { expected, found: bytes.len() };
    let type_at = STREAM_AT + usize::from(u16_at(bytes, STREAM_LEN_AT));
    let correlation_at = type_at + usize::from(u16_at(bytes, TYPE_LEN_AT)) + 2;
    if bytes.len() < correlation_at {
        return Err(short(correlation_at));
    }
    let kept_at = correlation_at + usize::from(u16_at(bytes, correlation_at - 2));
    let kept = bytes.len().checked_sub(kept_at).ok_or(short(kept_at))?;
    if kept > 0 && kept != u32_at(bytes, DATA_LEN_AT) as usize {
        return Err(short(kept_at + u32_at(bytes, DATA_LEN_AT) as usize));
    }
    if header_crc(bytes) != u32_at(bytes, CRC_AT) {
        return Err(Corruption::Header);
    }
    if std::str::from_utf8(&bytes[type_at..correlation_at - 2]).is_err() {
        return Err(Corruption::Invalid("its type is not UTF-8"));
    }
    if std::str::from_utf8(&bytes[correlation_at..kept_at]).is_err() {
        return Err(Corruption::Invalid("its correlation id is not UTF-8"));
    }
    if event::labels(bytes[1]).is_none() {
        return Err(Corruption::Invalid("it has unknown flags"));
    }
    Ok(&bytes[STREAM_AT..type_at])
}

fn verify(bytes: &[u8]) -> Result<(), Corruption> {
    let stream = verify_header(bytes)?;
    if std::str::from_utf8(stream).is_err() {
        return Err(Corruption::Invalid("its stream's name is not UTF-8"));
    }
    if u64_at(bytes, REVISION_AT) > Revision::TOMBSTONE.get() {
        return Err(Corruption::Invalid("its revision is out of bounds"));
    }
    let id = id_at(bytes).ok_or(Corruption::Invalid("its id is nil"))?;
    if bytes[0] == STUB_VERSION {
        return Ok(());
    }
    let rest = &bytes[STREAM_AT + stream.len()..];
    let (event_type, rest) = rest.split_at(usize::from(u16_at(bytes, TYPE_LEN_AT)));
    let (metadata, data) = rest.split_at(u32_at(bytes, METADATA_LEN_AT) as usize);
    let event_type = std::str::from_utf8(event_type).map_err(|_| Corruption::Content)?;
    let (content, properties) = event::labels(bytes[1]).ok_or(Corruption::Invalid("it has unknown flags"))?;
    if event::checksum(id, event_type, content, properties, metadata, data) != u32_at(bytes, CHECKSUM_AT) {
        return Err(Corruption::Content);
    }
    Ok(())
}

/// The same bytes with the checksums that they would have if they had been
/// written so, for the fuzz targets: past a checksum decoding begins.
pub(crate) fn mended(bytes: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    if bytes.len() < STREAM_AT {
        return bytes;
    }
    bytes[0] = VERSION;
    let stream_end = STREAM_AT + usize::from(u16_at(&bytes, STREAM_LEN_AT));
    let data_at = stream_end + usize::from(u16_at(&bytes, TYPE_LEN_AT)) + u32_at(&bytes, METADATA_LEN_AT) as usize;
    if data_at > bytes.len() {
        return bytes;
    }
    let data_len = u32::try_from(bytes.len() - data_at).expect("a short input");
    bytes[DATA_LEN_AT..STREAM_AT].copy_from_slice(&data_len.to_le_bytes());
    let type_end = stream_end + usize::from(u16_at(&bytes, TYPE_LEN_AT));
    if let (Ok(event_type), Some((content, properties)), Some(id)) =
        (std::str::from_utf8(&bytes[stream_end..type_end]), event::labels(bytes[1]), id_at(&bytes))
    {
        let (metadata, data) = (&bytes[type_end..data_at], &bytes[data_at..]);
        let checksum = event::checksum(id, event_type, content, properties, metadata, data);
        bytes[CHECKSUM_AT..STREAM_LEN_AT].copy_from_slice(&checksum.to_le_bytes());
    }
    let crc = header_crc(&bytes[..stream_end]);
    bytes[CRC_AT..POSITION_AT].copy_from_slice(&crc.to_le_bytes());
    bytes
}

/// CRC32C over the header but itself, up to the end of `header`.
fn header_crc(header: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&header[..CRC_AT]), &header[POSITION_AT..])
}

fn content_bytes(bytes: &[u8]) -> u64 {
    u64::from(u32_at(bytes, METADATA_LEN_AT)) + u64::from(u32_at(bytes, DATA_LEN_AT))
}

fn id_at(bytes: &[u8]) -> Option<EventId> {
    EventId::new(Uuid::from_slice(&bytes[ID_AT..CHECKSUM_AT]).expect("sixteen bytes"))
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(bytes[at..at + 2].try_into().expect("two bytes"))
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

#[cfg(test)]
mod tests {
    use annals_core::{Event, EventType};
    use proptest::prelude::*;

    use super::*;

    fn placed(stream: &str, revision: u64, metadata: Vec<u8>, data: Vec<u8>) -> Placed {
        Placed {
            stream: StreamName::new(stream.to_owned()).expect("a name"),
            revision: Revision::saturating(revision),
            position: Position::new(7),
            event: Event::new(
                EventId::new(Uuid::from_u128(0x1234)).expect("not nil"),
                EventType::new("Größe").expect("a type"),
                Content::Json,
                Properties::Struct,
                Bytes::from(metadata),
                Bytes::from(data),
            ),
        }
    }

    fn record(placed: &Placed) -> Record {
        Record::encode(placed, Timestamp::from_ticks(99), &mut BytesMut::new())
    }

    proptest! {
        #[test]
        fn a_record_is_read_as_it_was_written(
            stream in "[a-zäß/-]{1,20}",
            revision in 0..=i64::MAX as u64,
            metadata: Vec<u8>,
            data: Vec<u8>,
        ) {
            let placed = placed(&stream, revision, metadata, data);
            let record = record(&placed);
            prop_assert_eq!(record.encoded().len(), Record::encoded_len(&placed));
            prop_assert_eq!(Record::from_slice(record.encoded()), Ok(record.clone()));
            prop_assert_eq!(record.position(), placed.position);
            prop_assert_eq!(record.revision(), placed.revision);
            prop_assert_eq!(record.created(), Timestamp::from_ticks(99));
            prop_assert_eq!(record.id(), placed.event.id());
            prop_assert_eq!(record.stream_name(), placed.stream);
            prop_assert_eq!(record.event_type(), placed.event.event_type().as_str());
            prop_assert_eq!(record.content(), placed.event.content());
            prop_assert_eq!(record.properties(), placed.event.properties());
            prop_assert_eq!(&record.metadata(), placed.event.metadata());
            prop_assert_eq!(&record.data(), placed.event.data());
            prop_assert_eq!(record.checksum(), placed.event.checksum());
        }
    }

    proptest! {
        #[test]
        fn of_a_reclaimed_event_the_stub_keeps_its_place_and_nothing_that_it_said(
            stream in "(\\$\\$)?[a-zäß/-]{1,20}",
            revision in 0..=i64::MAX as u64,
            metadata: Vec<u8>,
            data: Vec<u8>,
            correlation in proptest::option::of("[a-zäß]{1,9}"),
        ) {
            let placed = placed(&stream, revision, metadata, data);
            let record = record(&placed);
            let stub = record.stub(correlation.as_deref());
            prop_assert!(stub.is_reclaimed() && !record.is_reclaimed());
            prop_assert_eq!(Record::from_slice(stub.encoded()), Ok(stub.clone()));
            prop_assert_eq!(stub.facts(), record.facts());
            prop_assert_eq!(stub.position(), record.position());
            prop_assert_eq!(stub.id(), record.id());
            prop_assert_eq!(stub.checksum(), record.checksum());
            prop_assert_eq!(stub.event_type(), record.event_type());
            prop_assert_eq!(stub.stub_correlation(), correlation.as_deref());
            prop_assert_eq!(stub.metadata(), Bytes::new());
            let kept = if placed.stream.is_metastream() { record.data() } else { Bytes::new() };
            prop_assert_eq!(stub.data(), kept);
            prop_assert_eq!(stub.stub(None), stub.clone());
            prop_assert!(stub.is_same_event(&record));
        }
    }

    #[test]
    fn every_flipped_bit_and_every_missing_byte_is_noticed() {
        let record = record(&placed("order-1", 3, b"{}".to_vec(), b"some data".to_vec()));
        damages(record.encoded());
        damages(record.stub(Some("abc")).encoded());
        let metadata = placed("$$order-1", 3, b"{}".to_vec(), b"some data".to_vec());
        damages(self::record(&metadata).stub(None).encoded());
    }

    fn damages(bytes: &Bytes) {
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.to_vec();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(Record::from_slice(&flipped).is_err(), "bit {bit}");
        }
        for len in 0..bytes.len() {
            assert!(Record::from_slice(&bytes[..len]).is_err(), "{len} bytes");
        }
        assert!(Record::from_slice(&[bytes, &b"x"[..]].concat()).is_err());
    }
}
