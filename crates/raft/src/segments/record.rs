//! What a frame holds: records, each a kind, a length and that many bytes.
//!
//! Read in order, they say what the log is: entries come at its end, others are
//! dropped from its ends, single values replace each other.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use crate::codec::{self, CodecError};
use crate::types::{LogId, Vote};

/// Bytes of a record before its payload: kind and length.
pub(super) const HEADER: usize = 1 + 4;

const ENTRY: u8 = 1;
const TRUNCATED: u8 = 2;
const PURGED: u8 = 3;
const VOTE: u8 = 4;
const COMMITTED: u8 = 5;
const SNAPSHOT: u8 = 6;
const EMPTIED: u8 = 7;
const END: u8 = 8;

/// One change of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Record {
    /// The next entry, encoded.
    Entry(Bytes),
    /// Entries from this index on are gone, what is left ends at the log id.
    Truncated(u64, Option<LogId>),
    /// Entries up to this one are gone.
    Purged(LogId),
    /// The log is empty and goes on after this one.
    Emptied(LogId),
    /// The node's vote.
    Vote(Vote),
    /// An entry that is known to be committed.
    Committed(LogId),
    /// The current snapshot, encoded.
    Snapshot(Bytes),
    /// Where the log ended when the segment began.
    End(LogId),
}

/// A record as the bytes that it becomes.
pub(super) struct Encoded {
    kind: u8,
    pub(super) payload: Bytes,
    /// The index, of an entry.
    pub(super) entry: Option<u64>,
}

impl Record {
    /// # Panics
    /// An entry that this node encoded is none.
    pub(super) fn encode(&self) -> Encoded {
        let of = |kind, payload| Encoded { kind, payload, entry: None };
        match self {
            Record::Entry(encoded) => {
                let index = codec::entry_log_id(encoded).expect("encoded by this node").index();
                Encoded { kind: ENTRY, payload: encoded.clone(), entry: Some(index) }
            }
            Record::Truncated(from, last) => {
                let mut payload = BytesMut::new();
                payload.put_u64_le(*from);
                if let Some(last) = last {
                    payload.put_slice(&codec::encode_log_id(last));
                }
                of(TRUNCATED, payload.freeze())
            }
            Record::Purged(upto) => of(PURGED, codec::encode_log_id(upto)),
            Record::Emptied(upto) => of(EMPTIED, codec::encode_log_id(upto)),
            Record::Vote(vote) => of(VOTE, codec::encode_vote(vote)),
            Record::Committed(log_id) => of(COMMITTED, codec::encode_log_id(log_id)),
            Record::Snapshot(encoded) => of(SNAPSHOT, encoded.clone()),
            Record::End(log_id) => of(END, codec::encode_log_id(log_id)),
        }
    }
}

impl Encoded {
    /// Bytes that it takes.
    pub(super) fn len(&self) -> usize {
        HEADER + self.payload.len()
    }

    pub(super) fn put(&self, out: &mut Vec<u8>) {
        out.put_u8(self.kind);
        out.put_u32_le(u32::try_from(self.payload.len()).expect("no record comes near 4 GiB"));
        out.put_slice(&self.payload);
    }
}

/// Takes the next record off the front.
///
/// # Errors
/// It is none.
pub(super) fn take(body: &mut Bytes) -> Result<Record, CodecError> {
    if body.len() < HEADER {
        return Err(CodecError::Truncated);
    }
    let kind = body.get_u8();
    let len = body.get_u32_le() as usize;
    if body.len() < len {
        return Err(CodecError::Truncated);
    }
    let mut payload = body.split_to(len);
    Ok(match kind {
        ENTRY => Record::Entry(payload),
        TRUNCATED => {
            if payload.len() < 8 {
                return Err(CodecError::Truncated);
            }
            let from = payload.get_u64_le();
            Record::Truncated(from, if payload.is_empty() { None } else { Some(codec::decode_log_id(&payload)?) })
        }
        PURGED => Record::Purged(codec::decode_log_id(&payload)?),
        EMPTIED => Record::Emptied(codec::decode_log_id(&payload)?),
        VOTE => Record::Vote(codec::decode_vote(&payload)?),
        COMMITTED => Record::Committed(codec::decode_log_id(&payload)?),
        SNAPSHOT => Record::Snapshot(payload),
        END => Record::End(codec::decode_log_id(&payload)?),
        other => return Err(CodecError::Invalid(format!("{other} is no kind of record of the log"))),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::LogIdForm;
    use crate::types::Entry;

    #[test]
    fn every_record_is_read_back() {
        let log_id: LogId = LogIdForm { term: 3, node: 2, index: 17 }.into();
        let mut entry = Entry { log_id, payload: openraft::EntryPayload::Blank };
        let records = [
            Record::Entry(codec::seal_entry(&mut entry)),
            Record::Truncated(9, None),
            Record::Truncated(9, Some(log_id)),
            Record::Purged(log_id),
            Record::Emptied(log_id),
            Record::Vote(Vote::new_committed(4, 1)),
            Record::Committed(log_id),
            Record::Snapshot(Bytes::from_static(b"a snapshot")),
            Record::End(log_id),
        ];
        let mut bytes = Vec::new();
        for record in &records {
            let before = bytes.len();
            record.encode().put(&mut bytes);
            assert_eq!(bytes.len() - before, record.encode().len());
        }
        let mut body = Bytes::from(bytes);
        for record in &records {
            assert_eq!(take(&mut body).as_ref(), Ok(record));
        }
        assert!(body.is_empty());
    }

    #[test]
    fn what_is_no_record_is_an_error() {
        for bytes in [&[][..], &[1], &[1, 9, 0, 0, 0, 1], &[99, 0, 0, 0, 0], &[TRUNCATED, 1, 0, 0, 0, 7]] {
            assert!(take(&mut Bytes::copy_from_slice(bytes)).is_err(), "{bytes:?}");
        }
    }
}
