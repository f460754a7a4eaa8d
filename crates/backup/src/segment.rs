//! A stretch of the log in one file.
//!
//! A zstd stream of `ANNBAK` 0 1, then of each record its length (u32, little-endian)
//! and its bytes as the store has them. Immutable once it is there. It says nothing of
//! itself that its manifest does not say as well; what a file is worth is decided by
//! the manifest's checksum and chain hash.

use std::io::{self, Read, Write};

use annals_core::{Position, Timestamp};
use annals_store::{ChainHash, Record};
use bytes::Bytes;

use crate::error::Error;
use crate::manifest::Segment;

const MAGIC: [u8; 8] = *b"ANNBAK\0\x01";

/// Bytes of records after which a segment ends: large enough that there are few files,
/// small enough to be held in memory and uploaded at once.
pub const SEGMENT_BYTES: u64 = 64 * 1024 * 1024;

/// Bytes of one record: an event of the largest size with all around it.
const RECORD_BYTES_MAX: usize = 32 * 1024 * 1024;

/// zstd's own default: a third of the bytes of typical JSON, at some hundreds of MB per
/// second.
const LEVEL: i32 = 3;

/// The end of a stretch of records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reached {
    /// The last position.
    pub position: Position,
    /// The chain hash there.
    pub hash: ChainHash,
    /// When that event was created.
    pub created: Timestamp,
}

impl Reached {
    /// Before the first record of a log.
    pub const START: Reached =
        Reached { position: Position::START, hash: ChainHash::START, created: Timestamp::from_ticks(0) };

    /// Where it stands once this record follows.
    ///
    /// # Errors
    /// [`Error::Damaged`]: it does not follow. `file` is for the message.
    pub fn then(self, record: &Record, file: &str) -> Result<Reached, Error> {
        let position = self.position.next();
        if record.position() != position {
            let why = format!("after position {} comes {}", self.position, record.position());
            return Err(Error::damaged(file, why));
        }
        Ok(Reached { position, hash: self.hash.then(record), created: record.created() })
    }
}

/// A segment in the making. All of it is in memory.
pub struct Builder {
    first: Position,
    reached: Reached,
    record_bytes: u64,
    encoder: zstd::Encoder<'static, Vec<u8>>,
}

impl Builder {
    /// Nothing yet, after what is `reached`.
    ///
    /// # Errors
    /// zstd cannot be set up.
    pub fn new(reached: Reached) -> Result<Builder, Error> {
        let begin = || {
            let mut encoder = zstd::Encoder::new(Vec::new(), LEVEL)?;
            encoder.include_checksum(true)?;
            encoder.write_all(&MAGIC)?;
            Ok::<_, io::Error>(encoder)
        };
        let encoder = begin().map_err(|error| Error::place("compress", "a segment", error))?;
        Ok(Builder { first: reached.position.next(), reached, record_bytes: 0, encoder })
    }

    /// Where it stands.
    pub fn reached(&self) -> Reached {
        self.reached
    }

    /// Bytes of the records in it.
    pub fn record_bytes(&self) -> u64 {
        self.record_bytes
    }

    /// Adds the record that follows, as it is stored. Its checksums are verified.
    ///
    /// # Errors
    /// [`Error::Record`], [`Error::Damaged`].
    pub fn add(&mut self, bytes: Bytes) -> Result<(), Error> {
        let position = self.reached.position.next();
        let record = Record::from_bytes(bytes).map_err(|source| Error::Record { position, source })?;
        let reached = self.reached.then(&record, "what was sent")?;
        let encoded = record.encoded();
        let length = u32::try_from(encoded.len()).ok().filter(|length| *length as usize <= RECORD_BYTES_MAX);
        let length =
            length.ok_or_else(|| Error::damaged("what was sent", format!("record {position} is too large")))?;
        let written = self.encoder.write_all(&length.to_le_bytes()).and_then(|()| self.encoder.write_all(encoded));
        written.map_err(|error| Error::place("compress", "a segment", error))?;
        self.record_bytes += u64::from(length);
        self.reached = reached;
        Ok(())
    }

    /// The file, and what a manifest says of it; none where no record was added.
    ///
    /// # Errors
    /// zstd failed.
    pub fn finish(self) -> Result<Option<(Segment, Bytes)>, Error> {
        if self.record_bytes == 0 {
            return Ok(None);
        }
        let file = self.encoder.finish().map_err(|error| Error::place("compress", "a segment", error))?;
        let (first, last) = (self.first.get(), self.reached.position.get());
        let segment = Segment {
            file: format!("records-{first:020}-{last:020}.zst"),
            first,
            last,
            record_bytes: self.record_bytes,
            file_bytes: file.len() as u64,
            sha256: sha256(&file),
            hash: self.reached.hash.to_string(),
            created: self.reached.created.ticks(),
        };
        Ok(Some((segment, file.into())))
    }
}

/// Calls `with` for each record of a file, in order, after its checksums were verified
/// and its place; answers where they lead. Everything that the manifest says of the file
/// is verified, what concerns its end after the last call.
///
/// # Errors
/// [`Error::Damaged`], [`Error::Record`], [`Error::Diverged`], and those of `with`.
pub fn read(
    segment: &Segment,
    file: &[u8],
    from: Reached,
    mut with: impl FnMut(Record, Reached) -> Result<(), Error>,
) -> Result<Reached, Error> {
    let damaged = |why: String| Error::damaged(&segment.file, why);
    if file.len() as u64 != segment.file_bytes {
        return Err(damaged(format!("it has {} bytes instead of {}", file.len(), segment.file_bytes)));
    }
    if sha256(file) != segment.sha256 {
        return Err(damaged("it does not match its checksum".into()));
    }
    let unreadable = |error: io::Error| damaged(error.to_string());
    let decoder = zstd::Decoder::new(file).map_err(unreadable)?;
    // No more than the manifest says, whatever the file expands to.
    let records = segment.last.saturating_sub(segment.first).saturating_add(1);
    let expected = segment.record_bytes.saturating_add(records.saturating_mul(4)).saturating_add(MAGIC.len() as u64);
    let mut decoder = io::BufReader::with_capacity(1024 * 1024, decoder.take(expected.saturating_add(1)));
    let mut magic = [0; MAGIC.len()];
    decoder.read_exact(&mut magic).map_err(unreadable)?;
    if magic != MAGIC {
        return Err(damaged("it is no file of a backup, or of a newer release".into()));
    }
    let mut reached = from;
    for _ in 0..records {
        let mut length = [0; 4];
        decoder.read_exact(&mut length).map_err(unreadable)?;
        let length = u32::from_le_bytes(length) as usize;
        if length > RECORD_BYTES_MAX || length as u64 > segment.record_bytes {
            return Err(damaged(format!("a record of {length} bytes is too large")));
        }
        let mut bytes = vec![0; length];
        decoder.read_exact(&mut bytes).map_err(unreadable)?;
        let position = reached.position.next();
        let record = Record::from_bytes(bytes.into()).map_err(|source| Error::Record { position, source })?;
        reached = reached.then(&record, &segment.file)?;
        with(record, reached)?;
    }
    if decoder.read(&mut [0]).map_err(unreadable)? != 0 {
        return Err(damaged("more follows its last record".into()));
    }
    if reached.position.get() != segment.last {
        return Err(damaged(format!("it ends at position {}, not at {}", reached.position, segment.last)));
    }
    if reached.hash.to_string() != segment.hash {
        let expected = segment.hash.clone();
        return Err(Error::Diverged { position: reached.position, expected, found: reached.hash });
    }
    Ok(reached)
}

/// 64 hexadecimal digits.
pub(crate) fn sha256(bytes: &[u8]) -> String {
    let digest = ring::digest::digest(&ring::digest::SHA256, bytes);
    digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use annals_core::decide::Placed;
    use annals_core::{Content, Event, EventId, EventType, Properties, Revision, StreamName};
    use bytes::BytesMut;

    use super::*;

    fn record(position: u64) -> Bytes {
        let placed = Placed {
            stream: StreamName::new("s".to_owned()).expect("a name"),
            revision: Revision::saturating(position - 1),
            position: Position::new(position),
            event: Event::new(
                EventId::new(uuid::Uuid::from_u128(position.into())).expect("not nil"),
                EventType::new("T").expect("a type"),
                Content::Json,
                Properties::Opaque,
                Bytes::new(),
                Bytes::from(vec![b'x'; 100]),
            ),
        };
        Record::encode(&placed, Timestamp::from_ticks(position), &mut BytesMut::new()).encoded().clone()
    }

    fn segment() -> (Segment, Bytes) {
        let mut builder = Builder::new(Reached::START).expect("zstd");
        for position in 1..=50 {
            builder.add(record(position)).expect("it follows");
        }
        builder.finish().expect("zstd").expect("not empty")
    }

    #[test]
    fn records_come_back_as_they_were_added() {
        let (segment, file) = segment();
        let mut found = Vec::new();
        let reached = read(&segment, &file, Reached::START, |record, _| {
            found.push(record.encoded().clone());
            Ok(())
        });
        assert_eq!(reached.expect("intact").position, Position::new(50));
        assert_eq!(found, (1..=50).map(record).collect::<Vec<_>>());
        assert!(segment.file_bytes < segment.record_bytes / 2);
    }

    #[test]
    fn nothing_that_is_not_what_was_written_is_taken_for_it() {
        let (segment, file) = segment();
        let is_refused = |segment: &Segment, file: &[u8]| read(segment, file, Reached::START, |_, _| Ok(())).is_err();
        assert!(!is_refused(&segment, &file));
        assert!(is_refused(&segment, &file[..file.len() - 1]));
        for at in (0..file.len()).step_by(7) {
            let mut changed = file.to_vec();
            changed[at] ^= 1;
            assert!(is_refused(&segment, &changed), "byte {at}");
            // Where somebody has made the checksum fit, the records still vouch for
            // themselves.
            let fitting = Segment { sha256: sha256(&changed), ..segment.clone() };
            let mut found = Vec::new();
            let result = read(&fitting, &changed, Reached::START, |record, _| {
                found.push(record.encoded().clone());
                Ok(())
            });
            assert!(result.is_err() || found == (1..=50).map(record).collect::<Vec<_>>(), "byte {at}");
        }
        let hash = ChainHash::START.to_string();
        assert!(is_refused(&Segment { hash, ..segment.clone() }, &file));
        assert!(is_refused(&Segment { record_bytes: 100, ..segment.clone() }, &file));
        assert!(is_refused(&Segment { last: 49, ..segment.clone() }, &file));
        assert!(is_refused(&Segment { last: 51, ..segment }, &file));
    }

    #[test]
    fn a_record_that_does_not_follow_is_refused() {
        let mut builder = Builder::new(Reached::START).expect("zstd");
        assert!(builder.add(record(2)).is_err());
        builder.add(record(1)).expect("the first one");
        assert!(builder.add(record(1)).is_err());
        let mut flipped = record(2).to_vec();
        flipped[70] ^= 1;
        assert!(builder.add(flipped.into()).is_err());
    }
}
