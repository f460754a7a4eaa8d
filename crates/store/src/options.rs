//! How much memory a store may take.

/// Memory budgets of a store, in bytes. They change how fast a store is, never
/// what it answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// What may be applied before RocksDB writes it out as a file. Larger
    /// makes fewer, larger files; smaller makes apply faster (the structure in
    /// memory is less deep) and lets the replicated log be purged sooner.
    /// Default 64 MiB.
    pub memtable_bytes: usize,
    /// Decompressed blocks, indexes and filters kept in memory, shared by
    /// everything that is read. Default 64 MiB.
    pub block_cache_bytes: usize,
    /// The newest records kept in memory, from which live readers are served, and
    /// who reads what was just written. Default 64 MiB.
    pub ring_bytes: usize,
}

impl Default for Options {
    fn default() -> Self {
        const MIB: usize = 1024 * 1024;
        Options { memtable_bytes: 64 * MIB, block_cache_bytes: 64 * MIB, ring_bytes: 64 * MIB }
    }
}
