//! How Raft's structures become bytes, on disk and between nodes.
//!
//! None of the consensus library's own encodings is used, so that a new
//! version of it is never a migration of data. Two shapes:
//!
//! - small structures: a version byte, then bincode of a mirror struct below;
//! - entries: `version u8 · crc32c u32 · kind u8 · term u64 · node u64 ·
//!   index u64 · payload`, little-endian. The checksum covers everything but
//!   itself. A payload is carried verbatim, never encoded again.
//!
//! Bytes come from disks and networks, so decoding never panics.

mod messages;

use std::collections::{BTreeMap, BTreeSet};

use bincode::config::{Configuration, Limit, LittleEndian, Varint};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use openraft::EntryPayload;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::types::{Entry, LeaderId, LogId, Membership, NodeInfo, Proposal, SnapshotMeta, StoredMembership, Vote};

pub(crate) use messages::{
    decode_append, decode_append_answer, decode_transfer_answer, decode_transfer_request, decode_vote_request,
    decode_vote_response, encode_append, encode_append_answer, encode_transfer_answer, encode_transfer_request,
    encode_vote_request, encode_vote_response,
};

const VERSION: u8 = 1;
/// Of structures that hold a membership in which a node has a name, is a replica or
/// takes the place of another one.
const WITH_ATTRIBUTES: u8 = 2;
/// Bytes that a structure may take when it is decoded: far above what any does.
/// A length is believed before what it measures is there, so that without a bound
/// a few bytes of a peer or a disk would ask for all the memory there is.
const DECODED_BYTES_MAX: usize = 4 * 1024 * 1024;

const BINCODE: Configuration<LittleEndian, Varint, Limit<DECODED_BYTES_MAX>> =
    bincode::config::standard().with_limit::<DECODED_BYTES_MAX>();

/// Bytes of an entry before its payload.
pub(crate) const ENTRY_HEADER: usize = 1 + 4 + 1 + 8 + 8 + 8;

/// Why bytes could not be read as what they were said to be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum CodecError {
    #[error("the bytes end too early")]
    Truncated,
    #[error("format version {0} is not known, this release reads version {VERSION}")]
    Version(u8),
    #[error("the checksum does not match")]
    Checksum,
    #[error("invalid bytes: {0}")]
    Invalid(String),
}

impl From<CodecError> for std::io::Error {
    fn from(error: CodecError) -> Self {
        std::io::Error::new(std::io::ErrorKind::InvalidData, error)
    }
}

// ---------------------------------------------------------------- mirrors --

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LogIdForm {
    pub(crate) term: u64,
    pub(crate) node: u64,
    pub(crate) index: u64,
}

impl From<&LogId> for LogIdForm {
    fn from(log_id: &LogId) -> Self {
        let leader = log_id.committed_leader_id();
        LogIdForm { term: leader.term, node: leader.node_id, index: log_id.index() }
    }
}

impl From<LogIdForm> for LogId {
    fn from(form: LogIdForm) -> Self {
        LogId::new(LeaderId { term: form.term, node_id: form.node }, form.index)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct VoteForm {
    pub(crate) term: u64,
    pub(crate) node: u64,
    pub(crate) committed: bool,
}

impl From<&Vote> for VoteForm {
    fn from(vote: &Vote) -> Self {
        VoteForm { term: vote.leader_id.term, node: vote.leader_id.node_id, committed: vote.committed }
    }
}

impl From<VoteForm> for Vote {
    fn from(form: VoteForm) -> Self {
        if form.committed { Vote::new_committed(form.term, form.node) } else { Vote::new(form.term, form.node) }
    }
}

/// A node of a membership as the first format has it: without attributes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct PlainNode {
    address: String,
    incarnation: [u8; 16],
}

impl From<&NodeInfo> for PlainNode {
    fn from(node: &NodeInfo) -> Self {
        PlainNode { address: node.address.clone(), incarnation: node.incarnation }
    }
}

impl From<PlainNode> for NodeInfo {
    fn from(PlainNode { address, incarnation }: PlainNode) -> Self {
        NodeInfo { address, incarnation, ..NodeInfo::default() }
    }
}

impl From<&NodeInfo> for NodeInfo {
    fn from(node: &NodeInfo) -> Self {
        node.clone()
    }
}

/// The format that a membership needs: the first one wherever that can say all, so
/// that releases that know no other go on reading it.
fn version_of(membership: &Membership) -> u8 {
    let says_more = |node: &NodeInfo| !node.name.is_empty() || node.replica || node.replaces != 0;
    if membership.nodes().any(|(_, node)| says_more(node)) { WITH_ATTRIBUTES } else { VERSION }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct MembershipForm<N> {
    configs: Vec<BTreeSet<u64>>,
    nodes: BTreeMap<u64, N>,
}

impl<N: for<'a> From<&'a NodeInfo>> From<&Membership> for MembershipForm<N> {
    fn from(membership: &Membership) -> Self {
        MembershipForm {
            configs: membership.get_joint_config().clone(),
            nodes: membership.nodes().map(|(id, node)| (*id, node.into())).collect(),
        }
    }
}

impl<N: Into<NodeInfo>> TryFrom<MembershipForm<N>> for Membership {
    type Error = CodecError;

    fn try_from(form: MembershipForm<N>) -> Result<Self, CodecError> {
        // The membership of a node that never had one is empty, which the
        // checked constructor refuses.
        if form.configs.is_empty() && form.nodes.is_empty() {
            return Ok(Membership::default());
        }
        let nodes: BTreeMap<u64, NodeInfo> = form.nodes.into_iter().map(|(id, node)| (id, node.into())).collect();
        Membership::new(form.configs, nodes).map_err(|error| CodecError::Invalid(error.to_string()))
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct StoredMembershipForm<N> {
    log_id: Option<LogIdForm>,
    membership: MembershipForm<N>,
}

impl<N: for<'a> From<&'a NodeInfo>> From<&StoredMembership> for StoredMembershipForm<N> {
    fn from(stored: &StoredMembership) -> Self {
        StoredMembershipForm {
            log_id: stored.log_id().as_ref().map(LogIdForm::from),
            membership: stored.membership().into(),
        }
    }
}

impl<N: Into<NodeInfo>> TryFrom<StoredMembershipForm<N>> for StoredMembership {
    type Error = CodecError;

    fn try_from(form: StoredMembershipForm<N>) -> Result<Self, CodecError> {
        Ok(StoredMembership::new(form.log_id.map(LogId::from), form.membership.try_into()?))
    }
}

#[derive(Serialize, Deserialize)]
struct SnapshotMetaForm<N> {
    last: Option<LogIdForm>,
    membership: StoredMembershipForm<N>,
}

// ------------------------------------------------------- small structures --

fn encode(form: &impl Serialize) -> Bytes {
    encode_as(VERSION, form)
}

fn encode_as(version: u8, form: &impl Serialize) -> Bytes {
    let mut out = vec![version];
    bincode::serde::encode_into_std_write(form, &mut out, BINCODE)
        .expect("a vector takes every byte, and the forms have no unencodable part");
    out.into()
}

fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, CodecError> {
    match bytes.split_first() {
        Some((&VERSION, body)) => decode_body(body),
        Some((version, _)) => Err(CodecError::Version(*version)),
        None => Err(CodecError::Truncated),
    }
}

/// What holds a membership, in whichever format it was needed.
fn decode_either<Plain, Full, T>(bytes: &[u8]) -> Result<T, CodecError>
where
    Plain: DeserializeOwned,
    Full: DeserializeOwned,
    T: TryFrom<Plain, Error = CodecError> + TryFrom<Full, Error = CodecError>,
{
    match bytes.split_first() {
        Some((&VERSION, body)) => decode_body::<Plain>(body)?.try_into(),
        Some((&WITH_ATTRIBUTES, body)) => decode_body::<Full>(body)?.try_into(),
        Some((version, _)) => Err(CodecError::Version(*version)),
        None => Err(CodecError::Truncated),
    }
}

fn decode_body<T: DeserializeOwned>(body: &[u8]) -> Result<T, CodecError> {
    let (form, read) =
        bincode::serde::decode_from_slice(body, BINCODE).map_err(|error| CodecError::Invalid(error.to_string()))?;
    if read != body.len() {
        return Err(CodecError::Invalid(format!("{} bytes follow the end", body.len() - read)));
    }
    Ok(form)
}

pub(crate) fn encode_log_id(log_id: &LogId) -> Bytes {
    encode(&LogIdForm::from(log_id))
}

pub(crate) fn decode_log_id(bytes: &[u8]) -> Result<LogId, CodecError> {
    decode::<LogIdForm>(bytes).map(LogId::from)
}

pub(crate) fn encode_vote(vote: &Vote) -> Bytes {
    encode(&VoteForm::from(vote))
}

pub(crate) fn decode_vote(bytes: &[u8]) -> Result<Vote, CodecError> {
    decode::<VoteForm>(bytes).map(Vote::from)
}

/// A membership as a part of every mark, encoded once, with the format at its front.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct EncodedMembership(Bytes);

impl From<&StoredMembership> for EncodedMembership {
    fn from(membership: &StoredMembership) -> Self {
        EncodedMembership(match version_of(membership.membership()) {
            VERSION => encode(&StoredMembershipForm::<PlainNode>::from(membership)),
            version => encode_as(version, &StoredMembershipForm::<NodeInfo>::from(membership)),
        })
    }
}

/// What the store keeps with its mark: the applied log id and membership.
pub(crate) fn encode_mark(applied: &LogId, membership: &EncodedMembership) -> Bytes {
    // The format comes first, and is the membership's.
    let (version, membership) = membership.0.split_at(1);
    let applied = encode(&LogIdForm::from(applied));
    let mut mark = BytesMut::with_capacity(applied.len() + membership.len());
    mark.put_slice(version);
    mark.put_slice(&applied[1..]);
    mark.put_slice(membership);
    mark.freeze()
}

/// What a mark says.
struct MarkRead(LogId, StoredMembership);

impl<N: Into<NodeInfo>> TryFrom<(LogIdForm, StoredMembershipForm<N>)> for MarkRead {
    type Error = CodecError;

    fn try_from((applied, membership): (LogIdForm, StoredMembershipForm<N>)) -> Result<Self, CodecError> {
        Ok(MarkRead(applied.into(), membership.try_into()?))
    }
}

pub(crate) fn decode_mark(bytes: &[u8]) -> Result<(LogId, StoredMembership), CodecError> {
    type Form<N> = (LogIdForm, StoredMembershipForm<N>);
    let MarkRead(applied, membership) = decode_either::<Form<PlainNode>, Form<NodeInfo>, _>(bytes)?;
    Ok((applied, membership))
}

pub(crate) fn encode_snapshot_meta(meta: &SnapshotMeta) -> Bytes {
    fn form<N: for<'a> From<&'a NodeInfo>>(meta: &SnapshotMeta) -> SnapshotMetaForm<N> {
        SnapshotMetaForm {
            last: meta.last_log_id.as_ref().map(LogIdForm::from),
            membership: (&meta.last_membership).into(),
        }
    }
    match version_of(meta.last_membership.membership()) {
        VERSION => encode(&form::<PlainNode>(meta)),
        version => encode_as(version, &form::<NodeInfo>(meta)),
    }
}

impl<N: Into<NodeInfo>> TryFrom<SnapshotMetaForm<N>> for SnapshotMeta {
    type Error = CodecError;

    fn try_from(form: SnapshotMetaForm<N>) -> Result<Self, CodecError> {
        Ok(SnapshotMeta { last_log_id: form.last.map(LogId::from), last_membership: form.membership.try_into()? })
    }
}

pub(crate) fn decode_snapshot_meta(bytes: &[u8]) -> Result<SnapshotMeta, CodecError> {
    decode_either::<SnapshotMetaForm<PlainNode>, SnapshotMetaForm<NodeInfo>, _>(bytes)
}

/// A snapshot as it is kept: what it includes, the position there, and the
/// store's residue.
pub(crate) fn encode_snapshot(meta: &SnapshotMeta, position: u64, residue: &[u8]) -> Bytes {
    encode(&(encode_snapshot_meta(meta).to_vec(), position, residue.to_vec()))
}

pub(crate) fn decode_snapshot(bytes: &[u8]) -> Result<(SnapshotMeta, u64, Bytes), CodecError> {
    let (meta, position, residue): (Vec<u8>, u64, Vec<u8>) = decode(bytes)?;
    Ok((decode_snapshot_meta(&meta)?, position, residue.into()))
}

// ---------------------------------------------------------------- entries --

const KIND_BLANK: u8 = 0;
const KIND_BATCH: u8 = 1;
const KIND_MEMBERSHIP: u8 = 2;

/// The entry's bytes: those it came in, if it did.
pub(crate) fn encode_entry(entry: &Entry) -> Bytes {
    if let EntryPayload::Normal(Proposal { encoded: Some(encoded), .. }) = &entry.payload
        && encoded[6..ENTRY_HEADER] == log_id_bytes(&entry.log_id)
    {
        return encoded.clone();
    }
    let encoded;
    let (kind, payload): (u8, &[u8]) = match &entry.payload {
        EntryPayload::Blank => (KIND_BLANK, &[]),
        EntryPayload::Normal(proposal) => (KIND_BATCH, &proposal.batch),
        EntryPayload::Membership(membership) => {
            encoded = match version_of(membership) {
                VERSION => encode(&MembershipForm::<PlainNode>::from(membership)),
                version => encode_as(version, &MembershipForm::<NodeInfo>::from(membership)),
            };
            (KIND_MEMBERSHIP, &encoded)
        }
    };
    let mut out = BytesMut::with_capacity(ENTRY_HEADER + payload.len());
    out.put_u8(VERSION);
    out.put_u32_le(0);
    out.put_u8(kind);
    out.put_slice(&log_id_bytes(&entry.log_id));
    out.put_slice(payload);
    let checksum = entry_checksum(&out);
    out[1..5].copy_from_slice(&checksum.to_le_bytes());
    out.freeze()
}

/// As [`encode_entry`]; a batch is a slice of the bytes from now on, so that
/// the entry is neither encoded nor held a second time.
pub(crate) fn seal_entry(entry: &mut Entry) -> Bytes {
    let encoded = encode_entry(entry);
    if let EntryPayload::Normal(proposal) = &mut entry.payload {
        *proposal = Proposal { batch: encoded.slice(ENTRY_HEADER..), encoded: Some(encoded.clone()) };
    }
    encoded
}

/// An entry's term, node and index.
fn log_id_bytes(log_id: &LogId) -> [u8; 24] {
    let leader = log_id.committed_leader_id();
    let mut bytes = [0; 24];
    bytes[..8].copy_from_slice(&leader.term.to_le_bytes());
    bytes[8..16].copy_from_slice(&leader.node_id.to_le_bytes());
    bytes[16..].copy_from_slice(&log_id.index().to_le_bytes());
    bytes
}

/// The entry in these bytes. A batch is a slice of them, not a copy.
pub(crate) fn decode_entry(bytes: Bytes) -> Result<Entry, CodecError> {
    if bytes.len() < ENTRY_HEADER {
        return Err(CodecError::Truncated);
    }
    if bytes[0] != VERSION {
        return Err(CodecError::Version(bytes[0]));
    }
    let found = u32::from_le_bytes(bytes[1..5].try_into().expect("four bytes"));
    if entry_checksum(&bytes) != found {
        return Err(CodecError::Checksum);
    }
    let mut rest = bytes.slice(5..);
    let kind = rest.get_u8();
    let term = rest.get_u64_le();
    let node = rest.get_u64_le();
    let index = rest.get_u64_le();
    let payload = match kind {
        KIND_BLANK => EntryPayload::Blank,
        KIND_BATCH => EntryPayload::Normal(Proposal { batch: rest, encoded: Some(bytes) }),
        KIND_MEMBERSHIP => {
            EntryPayload::Membership(decode_either::<MembershipForm<PlainNode>, MembershipForm<NodeInfo>, _>(&rest)?)
        }
        other => return Err(CodecError::Invalid(format!("{other} is no kind of entry"))),
    };
    Ok(Entry { log_id: LogIdForm { term, node, index }.into(), payload })
}

/// The log id of the entry in these bytes, whose checksum is not looked at.
pub(crate) fn entry_log_id(bytes: &[u8]) -> Result<LogId, CodecError> {
    let mut rest = bytes.get(6..ENTRY_HEADER).ok_or(CodecError::Truncated)?;
    if bytes[0] != VERSION {
        return Err(CodecError::Version(bytes[0]));
    }
    Ok(LogIdForm { term: rest.get_u64_le(), node: rest.get_u64_le(), index: rest.get_u64_le() }.into())
}

/// The same bytes with the checksum that they would have if they had been
/// written so, for the fuzz targets: past a checksum decoding begins.
pub(crate) fn mended(bytes: &[u8]) -> Bytes {
    let mut bytes = bytes.to_vec();
    if bytes.len() >= ENTRY_HEADER {
        bytes[0] = VERSION;
        let checksum = entry_checksum(&bytes);
        bytes[1..5].copy_from_slice(&checksum.to_le_bytes());
    }
    bytes.into()
}

fn entry_checksum(bytes: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&bytes[..1]), &bytes[5..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_length_that_promises_too_much_is_refused_before_memory_is_taken_for_it() {
        // A snapshot whose first field says that it has 2^62 bytes.
        let lie = [&[VERSION, 253][..], &(1_u64 << 62).to_le_bytes(), b"few"].concat();
        assert!(matches!(decode_snapshot(&lie), Err(CodecError::Invalid(_))));
    }

    fn log_id(term: u64, node: u64, index: u64) -> LogId {
        LogIdForm { term, node, index }.into()
    }

    fn membership() -> Membership {
        let node =
            |port: u16| NodeInfo { address: format!("a:{port}"), incarnation: [port as u8; 16], ..NodeInfo::default() };
        Membership::new(
            vec![BTreeSet::from([1, 2]), BTreeSet::from([1, 3])],
            BTreeMap::from([(1, node(1)), (2, node(2)), (3, node(3)), (4, node(4))]),
        )
        .expect("every voter has a node")
    }

    /// As [`membership`], with one attribute.
    fn attributed(change: impl Fn(&mut NodeInfo)) -> Membership {
        let plain = membership();
        let mut nodes: BTreeMap<u64, NodeInfo> = plain.nodes().map(|(id, node)| (*id, node.clone())).collect();
        nodes.entry(4).and_modify(|node| change(node));
        Membership::new(plain.get_joint_config().clone(), nodes).expect("valid")
    }

    #[test]
    fn a_membership_with_attributes_comes_back_and_only_that_needs_the_second_format() {
        let kinds = [
            attributed(|node| node.name = "annals-3".into()),
            attributed(|node| node.replica = true),
            attributed(|node| node.replaces = 2),
        ];
        for membership in kinds {
            let entry = Entry { log_id: log_id(3, 2, 7), payload: EntryPayload::Membership(membership.clone()) };
            let encoded = encode_entry(&entry);
            assert_eq!(encoded[ENTRY_HEADER], WITH_ATTRIBUTES);
            assert_eq!(decode_entry(encoded), Ok(entry));

            let stored = StoredMembership::new(Some(log_id(1, 1, 1)), membership);
            let mark = encode_mark(&log_id(2, 1, 9), &(&stored).into());
            assert_eq!(mark[0], WITH_ATTRIBUTES);
            assert_eq!(decode_mark(&mark), Ok((log_id(2, 1, 9), stored.clone())));

            let meta = SnapshotMeta { last_log_id: Some(log_id(2, 1, 9)), last_membership: stored };
            assert_eq!(decode_snapshot_meta(&encode_snapshot_meta(&meta)), Ok(meta));
        }
        let entry = Entry { log_id: log_id(3, 2, 7), payload: EntryPayload::Membership(membership()) };
        assert_eq!(encode_entry(&entry)[ENTRY_HEADER], VERSION);
    }

    #[test]
    fn an_entry_of_each_kind_comes_back_as_it_was() {
        let payloads = [
            EntryPayload::Blank,
            EntryPayload::Normal(Proposal::new(Bytes::from_static(b"a batch"))),
            EntryPayload::Membership(membership()),
        ];
        for payload in payloads {
            let entry = Entry { log_id: log_id(3, 2, 7), payload };
            assert_eq!(decode_entry(encode_entry(&entry)), Ok(entry));
        }
    }

    #[test]
    fn every_flipped_bit_of_an_entry_is_noticed() {
        let entry =
            Entry { log_id: log_id(3, 2, 7), payload: EntryPayload::Normal(Proposal::new(Bytes::from_static(b"xyz"))) };
        let good = encode_entry(&entry);
        for bit in 0..good.len() * 8 {
            let mut bad = good.to_vec();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(decode_entry(bad.into()).is_err(), "bit {bit} went unnoticed");
        }
        for len in 0..good.len() {
            assert!(decode_entry(good.slice(..len)).is_err(), "a cut at {len} went unnoticed");
        }
    }

    #[test]
    fn an_entry_is_encoded_once() {
        let mut entry =
            Entry { log_id: log_id(3, 2, 7), payload: EntryPayload::Normal(Proposal::new(Bytes::from_static(b"xyz"))) };
        let encoded = seal_entry(&mut entry);
        assert_eq!(encode_entry(&entry).as_ptr(), encoded.as_ptr());
        let decoded = decode_entry(encoded.clone()).expect("an entry");
        assert_eq!(encode_entry(&decoded).as_ptr(), encoded.as_ptr());

        // Bytes that say that they are another entry are not taken for this one.
        entry.log_id = log_id(4, 2, 7);
        assert_eq!(decode_entry(encode_entry(&entry)), Ok(entry));
    }

    #[test]
    fn an_entry_is_written_as_release_one_wrote_it() {
        let entry =
            Entry { log_id: log_id(3, 2, 7), payload: EntryPayload::Normal(Proposal::new(Bytes::from_static(b"xyz"))) };
        let hex: String = encode_entry(&entry).iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, "015d5dcf240103000000000000000200000000000000070000000000000078797a");
    }

    #[test]
    fn a_mark_and_a_snapshot_come_back_as_they_were() {
        let stored = StoredMembership::new(Some(log_id(1, 1, 1)), membership());
        assert_eq!(
            decode_mark(&encode_mark(&log_id(2, 1, 9), &(&stored).into())),
            Ok((log_id(2, 1, 9), stored.clone()))
        );

        let meta = SnapshotMeta { last_log_id: Some(log_id(2, 1, 9)), last_membership: stored };
        assert_eq!(decode_snapshot(&encode_snapshot(&meta, 77, b"r")), Ok((meta, 77, Bytes::from_static(b"r"))));

        let empty = StoredMembership::default();
        assert_eq!(decode_mark(&encode_mark(&log_id(0, 0, 0), &(&empty).into())), Ok((log_id(0, 0, 0), empty)));
    }
}
