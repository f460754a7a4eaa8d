//! For the fuzz targets (`fuzz/`) alone: decoders that nobody outside may name.
//! Not an interface. Each takes any bytes, asserts what must hold of them, and
//! answers what it made of them in words.

use annals_proto::annals::internal::v1 as pb;
use bytes::Bytes;
use openraft::raft::{AppendEntriesRequest, VoteRequest};
use prost::Message as _;

use crate::codec::{self, LogIdForm, VoteForm};
use crate::segments;
use crate::types::{Entry, LogId, TypeConfig, Vote};
use crate::{admin, forward};

/// Whatever nodes say to each other and keep beside the log. The first byte
/// chooses what the others are taken for.
pub fn message(bytes: &[u8]) -> String {
    let Some((kind, bytes)) = bytes.split_first() else { return "nothing".to_owned() };
    /// What decodes, encodes to what decodes to the same. Numbers have more than
    /// one form, so that the bytes may differ the first time.
    macro_rules! stable {
        ($decode:path, $encode:expr) => {
            $decode(bytes).map(|value| {
                let encoded: Bytes = $encode(&value);
                let again = $decode(&encoded).expect("as it was encoded");
                assert_eq!($encode(&again), encoded);
            })
        };
    }
    let told = match kind % 11 {
        0 => stable!(codec::decode_log_id, codec::encode_log_id),
        1 => stable!(codec::decode_vote, codec::encode_vote),
        2 => codec::decode_mark(bytes).map(|_| ()),
        3 => stable!(codec::decode_snapshot_meta, codec::encode_snapshot_meta),
        4 => stable!(codec::decode_snapshot, |(meta, position, residue): &(_, _, Bytes)| {
            codec::encode_snapshot(meta, *position, residue)
        }),
        5 => stable!(codec::decode_append_answer, codec::encode_append_answer),
        6 => stable!(codec::decode_vote_request, codec::encode_vote_request),
        7 => stable!(codec::decode_vote_response, codec::encode_vote_response),
        8 => stable!(codec::decode_transfer_request, codec::encode_transfer_request),
        9 => stable!(codec::decode_transfer_answer, codec::encode_transfer_answer),
        _ => return wire(bytes),
    };
    match told {
        Ok(()) => format!("{} decodes", kind % 11),
        Err(error) => format!("{}: {error}", kind % 11),
    }
}

/// The messages around those.
fn wire(bytes: &[u8]) -> String {
    let appended = pb::AppendRequest::decode(bytes).map(|request| {
        codec::decode_append(&request.header, request.entries).map(|request| request.entries.len().min(3))
    });
    let administered = pb::AdminRequest::decode(bytes).map(|request| admin::read_request(request).is_some());
    let replied = pb::AdminReply::decode(bytes).map(|reply| admin::read_reply(reply).is_ok());
    let forwarded = pb::ForwardReply::decode(bytes).map(|reply| forward::read_answer(reply.result).is_ok());
    let chunk = pb::RecordChunk::decode(bytes).map(|chunk| {
        chunk.records.into_iter().filter(|record| annals_store::Record::from_bytes(record.clone()).is_ok()).count()
    });
    format!(
        "{:?} {:?} {:?} {:?} {:?}",
        appended.is_ok_and(|appended| appended.is_ok()),
        administered.ok(),
        replied.ok(),
        forwarded.ok(),
        chunk.map(|records| records.min(2)).ok()
    )
}

/// An entry of the log, also with the checksum that it should have.
pub fn entry(bytes: &[u8]) -> String {
    let as_it_came = look_at_entry(Bytes::copy_from_slice(bytes));
    let mended = look_at_entry(codec::mended(bytes));
    format!("{as_it_came}, mended {mended}")
}

fn look_at_entry(bytes: Bytes) -> String {
    let log_id = codec::entry_log_id(&bytes);
    match codec::decode_entry(bytes.clone()) {
        Ok(entry) => {
            assert_eq!(log_id.ok(), Some(entry.log_id), "its id is read without the rest");
            let encoded = codec::encode_entry(&entry);
            let again = codec::decode_entry(encoded).expect("as it was encoded");
            assert_eq!(again.log_id, entry.log_id);
            match &entry.payload {
                openraft::EntryPayload::Normal(proposal) => match annals_core::Batch::decode(proposal.batch.clone()) {
                    Ok(batch) => format!("a batch of {}", batch.commands.len().min(3)),
                    Err(error) => format!("a batch: {error}"),
                },
                openraft::EntryPayload::Blank => "blank".to_owned(),
                openraft::EntryPayload::Membership(_) => "a membership".to_owned(),
            }
        }
        Err(error) => error.to_string(),
    }
}

/// A file of the log.
pub fn segment(bytes: &[u8]) -> String {
    segments::fuzzing::look(bytes)
}

/// Bytes that decode, for a corpus.
pub fn samples() -> Vec<(&'static str, Vec<u8>)> {
    let form = LogIdForm { term: 3, node: 2, index: 1_000 };
    let log_id: LogId = form.into();
    let vote: Vote = VoteForm { term: 3, node: 2, committed: true }.into();
    let blank = Entry { log_id, payload: openraft::EntryPayload::Blank };
    let request = VoteRequest::<TypeConfig>::new(vote, Some(log_id));
    let append = AppendEntriesRequest::<TypeConfig> {
        vote,
        prev_log_id: Some(log_id),
        entries: vec![blank.clone()],
        leader_commit: None,
    };
    let (header, entries) = codec::encode_append(&append);
    let wire = pb::AppendRequest { header, entries }.encode_to_vec();
    let with = |kind: u8, bytes: &[u8]| ("raft-message", [&[kind], bytes].concat());
    let (kind, mark) = (2, crate::micro::Applied::new(3).encode());
    let mut samples = vec![
        with(0, &codec::encode_log_id(&log_id)),
        with(1, &codec::encode_vote(&vote)),
        with(kind, &mark),
        with(5, &codec::encode_append_answer(&Ok(Some(log_id)))),
        with(6, &codec::encode_vote_request(&request)),
        with(9, &codec::encode_transfer_answer(&Ok(()))),
        with(10, &wire),
        ("entry", codec::encode_entry(&blank).to_vec()),
    ];
    let membership = codec::decode_mark(&mark).expect("as it was encoded").1;
    let payload = openraft::EntryPayload::Membership(membership.membership().clone());
    samples.push(("entry", codec::encode_entry(&Entry { log_id, payload }).to_vec()));
    let meta = crate::types::SnapshotMeta { last_log_id: Some(log_id), last_membership: membership };
    samples.push(with(3, &codec::encode_snapshot_meta(&meta)));
    samples.push(with(4, &codec::encode_snapshot(&meta, 7, b"residue")));
    samples.extend(segments::fuzzing::samples(&blank).into_iter().map(|sample| ("segment", sample)));
    samples
}
