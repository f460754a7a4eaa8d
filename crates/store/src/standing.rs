//! What a state comes to: the few numbers from which the next entry goes on.
//!
//! They are one value under one key, rewritten with every entry, so that
//! whatever part of the log is durable, a single read tells all of it, and
//! none of it can be newer than the rest.
//!
//! ```text
//!  0 index      u64     of the last applied entry of the replicated log
//!  8 tail       u64
//! 16 time       u64     created of the newest event
//! 24 chain      16 B    at the tail
//! 40 next list  u64
//! 48 last node  u64     highest node id ever taken
//! 56 opaque             the replicated log's own
//! ```
//!
//! The last scavenge and the maintenance lease have keys of their own, which are written
//! together with it.

use annals_core::{Lease, Position, Scavenge, Timestamp};
use bytes::{Buf, BufMut, Bytes};

use crate::chain::ChainHash;
use crate::keys::ListId;
use crate::record::Corruption;
use crate::store::Mark;

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Standing {
    /// None before the first entry.
    pub(crate) mark: Option<Mark>,
    pub(crate) totals: Totals,
}

/// What follows from the entries alone, and is the same on every node that
/// applied them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Totals {
    pub(crate) tail: Position,
    pub(crate) newest_time: Timestamp,
    pub(crate) chain: ChainHash,
    pub(crate) next_list: ListId,
    pub(crate) last_node: u64,
    /// The last scavenge, if there was one.
    pub(crate) scavenge: Option<Scavenge>,
    /// The maintenance lease, if it was ever given.
    pub(crate) lease: Option<Lease>,
}

const TOTALS_LEN: usize = 48;
/// Of a state in which there was no scavenge.
const RESIDUE_VERSION: u8 = 1;
/// With the last scavenge behind the numbers.
const SCAVENGED_RESIDUE_VERSION: u8 = 2;
/// With the maintenance lease behind the numbers, and then the last scavenge, if there was one.
const LEASED_RESIDUE_VERSION: u8 = 3;

impl Standing {
    /// Of a state to which nothing was applied.
    pub(crate) fn new() -> Self {
        Standing {
            mark: None,
            totals: Totals {
                tail: Position::START,
                newest_time: Timestamp::default(),
                chain: ChainHash::START,
                next_list: ListId::new(0),
                last_node: 0,
                scavenge: None,
                lease: None,
            },
        }
    }

    /// The same with the last scavenge and the lease, which are read from keys of their own.
    pub(crate) fn with(mut self, scavenge: Option<Scavenge>, lease: Option<Lease>) -> Self {
        self.totals.scavenge = scavenge;
        self.totals.lease = lease;
        self
    }

    /// Puts the bytes of a standing in place of what is in `out`.
    pub(crate) fn encode(mark: &Mark, totals: &Totals, out: &mut Vec<u8>) {
        out.clear();
        out.put_u64_le(mark.index);
        totals.put(out);
        out.put_slice(&mark.opaque);
    }

    pub(crate) fn decode(mut bytes: &[u8]) -> Result<Standing, Corruption> {
        if bytes.len() < 8 + TOTALS_LEN {
            return Err(Corruption::Length { expected: 8 + TOTALS_LEN, found: bytes.len() });
        }
        let index = bytes.get_u64_le();
        let totals = Totals::take(&mut bytes);
        Ok(Standing { mark: Some(Mark { index, opaque: Bytes::copy_from_slice(bytes) }), totals })
    }
}

impl Totals {
    /// What another node needs besides the records, and to check that it has
    /// come to the same.
    pub(crate) fn residue(&self) -> Bytes {
        let mut out = Vec::with_capacity(1 + TOTALS_LEN);
        out.put_u8(match (self.scavenge, self.lease) {
            (None, None) => RESIDUE_VERSION,
            (Some(_), None) => SCAVENGED_RESIDUE_VERSION,
            (_, Some(_)) => LEASED_RESIDUE_VERSION,
        });
        self.put(&mut out);
        if let Some(lease) = self.lease {
            lease.encode(&mut out);
        }
        if let Some(scavenge) = self.scavenge {
            scavenge.encode(&mut out);
        }
        Bytes::from(out)
    }

    pub(crate) fn from_residue(bytes: &[u8]) -> Option<Totals> {
        let (version, bytes) = bytes.split_first()?;
        let (mut numbers, rest) = bytes.split_at_checked(TOTALS_LEN)?;
        let scavenge = |bytes: &[u8]| Scavenge::decode(Bytes::copy_from_slice(bytes)).ok();
        let (scavenge, lease) = match *version {
            RESIDUE_VERSION if rest.is_empty() => (None, None),
            SCAVENGED_RESIDUE_VERSION => (Some(scavenge(rest)?), None),
            LEASED_RESIDUE_VERSION => {
                let (lease, rest) = rest.split_at_checked(Lease::ENCODED_LEN)?;
                let lease = Lease::decode(Bytes::copy_from_slice(lease)).ok()?;
                (if rest.is_empty() { None } else { Some(scavenge(rest)?) }, Some(lease))
            }
            _ => return None,
        };
        Some(Totals { scavenge, lease, ..Totals::take(&mut numbers) })
    }

    /// Commands of scavenges that were carried out: where two states of the same log
    /// have the same number, they have reclaimed the same.
    pub(crate) fn reclaims(&self) -> u64 {
        self.scavenge.map_or(0, |scavenge| scavenge.commands)
    }

    fn put(&self, out: &mut Vec<u8>) {
        out.put_u64_le(self.tail.get());
        out.put_u64_le(self.newest_time.ticks());
        out.put_slice(&self.chain.to_bytes());
        out.put_u64_le(self.next_list.get());
        out.put_u64_le(self.last_node);
    }

    /// From bytes that are known to be enough.
    fn take(bytes: &mut &[u8]) -> Totals {
        let tail = Position::new(bytes.get_u64_le());
        let newest_time = Timestamp::from_ticks(bytes.get_u64_le());
        let mut chain = [0; 16];
        bytes.copy_to_slice(&mut chain);
        Totals {
            tail,
            newest_time,
            chain: ChainHash::from_bytes(chain),
            next_list: ListId::new(bytes.get_u64_le()),
            last_node: bytes.get_u64_le(),
            scavenge: None,
            lease: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn totals() -> Totals {
        Totals {
            tail: Position::new(1),
            newest_time: Timestamp::from_ticks(2),
            chain: ChainHash::from_bytes([3; 16]),
            next_list: ListId::new(4),
            last_node: 5,
            scavenge: None,
            lease: None,
        }
    }

    fn scavenged() -> Totals {
        let scavenge = Scavenge {
            id: uuid::Uuid::from_u128(6),
            phase: annals_core::scavenge::Phase::Stopped,
            started: Timestamp::from_ticks(7),
            ended: Some(Timestamp::from_ticks(8)),
            point: Position::new(9),
            cursor: Position::new(10),
            events: 11,
            bytes: 12,
            commands: 13,
        };
        Totals { scavenge: Some(scavenge), ..totals() }
    }

    fn leased(totals: Totals) -> Totals {
        let (since, until) = (Timestamp::from_ticks(16), Timestamp::from_ticks(17));
        let lease = Lease { node: 14, boot: uuid::Uuid::from_u128(15), since, until, ended: false };
        Totals { lease: Some(lease), ..totals }
    }

    #[test]
    fn a_standing_is_read_as_it_was_written() {
        let mark = Mark { index: 9, opaque: Bytes::from_static(b"raft's own") };
        let mut bytes = Vec::new();
        Standing::encode(&mark, &totals(), &mut bytes);
        assert_eq!(Standing::decode(&bytes), Ok(Standing { mark: Some(mark), totals: totals() }));
        assert!(matches!(Standing::decode(&bytes[..55]), Err(Corruption::Length { .. })));
    }

    #[test]
    fn a_residue_is_read_only_in_full() {
        for totals in [totals(), scavenged(), leased(totals()), leased(scavenged())] {
            let bytes = totals.residue();
            assert_eq!(Totals::from_residue(&bytes), Some(totals));
            assert_eq!(Totals::from_residue(&bytes[..bytes.len() - 1]), None);
        }
        assert_eq!(Totals::from_residue(b""), None);
    }
}
