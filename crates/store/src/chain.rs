//! The chain hash: one number that says whether two nodes hold the same log.
//!
//! `chain(0)` is all zeros; `chain(n)` is the XXH3 (128 bit) of `chain(n - 1)`
//! and the place, time, id, stream and checksum of event n. It is computed
//! from these fields and not from the stored bytes, so that a later record
//! format does not change it. It finds divergence and decay; it is not a
//! cryptographic proof.

use std::fmt;

use annals_core::Position;
use annals_core::limits::STREAM_NAME_BYTES_MAX;
use xxhash_rust::xxh3::xxh3_128;

use crate::record::Record;

/// Saved chain hashes are this many positions apart, so that the hash at any
/// position costs less than one such stretch of records.
pub(crate) const SAVED_EVERY: u64 = 1_000;

/// The chain hash at a position. Displayed as 32 hexadecimal digits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct ChainHash([u8; 16]);

impl ChainHash {
    /// The hash at [`Position::START`].
    pub const START: ChainHash = ChainHash([0; 16]);

    /// The hash with these bytes.
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        ChainHash(bytes)
    }

    /// Its bytes.
    pub const fn to_bytes(self) -> [u8; 16] {
        self.0
    }

    /// The hash once this record follows.
    #[must_use]
    pub fn then(self, record: &Record) -> ChainHash {
        const FIXED: usize = 16 + 8 + 8 + 8 + 16 + 4;
        // A metastream's name is two bytes longer than a stream's.
        let mut input = [0u8; FIXED + STREAM_NAME_BYTES_MAX + 2];
        let stream = record.stream().as_bytes();
        input[..16].copy_from_slice(&self.0);
        input[16..24].copy_from_slice(&record.position().get().to_le_bytes());
        input[24..32].copy_from_slice(&record.revision().get().to_le_bytes());
        input[32..40].copy_from_slice(&record.created().ticks().to_le_bytes());
        input[40..56].copy_from_slice(record.id().uuid().as_bytes());
        input[56..60].copy_from_slice(&record.checksum().to_le_bytes());
        input[FIXED..FIXED + stream.len()].copy_from_slice(stream);
        ChainHash(xxh3_128(&input[..FIXED + stream.len()]).to_be_bytes())
    }

    /// Whether the hash at this position is saved.
    pub(crate) fn is_saved_at(position: Position) -> bool {
        position.get().is_multiple_of(SAVED_EVERY)
    }
}

impl fmt::Display for ChainHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", u128::from_be_bytes(self.0))
    }
}
