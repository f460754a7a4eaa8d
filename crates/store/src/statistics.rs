//! What an operator wants to know of the state's disk and memory.

use std::time::Duration;

use rocksdb::properties;
use rocksdb::statistics::Ticker;

use crate::keys::Column;
use crate::state::State;
use crate::store::Inner;

/// Numbers for metrics, as of now. Reading them costs microseconds and no I/O.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Statistics {
    /// One for each column family, by name.
    pub columns: Vec<ColumnStatistics>,
    /// Bytes of decompressed blocks in memory.
    pub block_cache_bytes: u64,
    /// Blocks found in memory, since the start.
    pub block_cache_hits: u64,
    /// Blocks read from files, since the start.
    pub block_cache_misses: u64,
    /// How long writes were held back for compaction, since the start.
    pub write_stall: Duration,
    /// Compactions running now.
    pub running_compactions: u64,
    /// Flushes running now.
    pub running_flushes: u64,
    /// Whether RocksDB holds back all writes until compaction catches up.
    pub write_stopped: bool,
    /// Bytes per second to which RocksDB slows writes; 0 when it does not.
    pub delayed_write_rate: u64,
    /// Background errors since the start. Anything but 0 is an alarm.
    pub background_errors: u64,
    /// How often something stored was found not to be what was written, since the start.
    pub corruptions: u64,
    /// Bytes of records in the ring of the newest records.
    pub ring_bytes: u64,
    /// Heads in the cache.
    pub heads_cached: u64,
    /// Events in the idempotency window, by whose ids repetitions are known.
    pub ids_remembered: u64,
}

/// Numbers of one column family.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ColumnStatistics {
    /// Its name.
    pub name: &'static str,
    /// Bytes of its files.
    pub file_bytes: u64,
    /// Bytes in memory that are not in a file yet.
    pub memtable_bytes: u64,
    /// Files at level 0: many of them slow reads, then writes.
    pub level0_files: u64,
    /// Bytes that compaction still has to rewrite.
    pub pending_compaction_bytes: u64,
    /// Keys, estimated.
    pub keys: u64,
}

impl State {
    /// See [`crate::Store::statistics`].
    pub(crate) fn statistics(&self, inner: &Inner) -> Statistics {
        let database = &self.database;
        let columns = Column::ALL.map(|column| ColumnStatistics {
            name: column.name(),
            file_bytes: database.property(column, properties::TOTAL_SST_FILES_SIZE),
            memtable_bytes: database.property(column, properties::CUR_SIZE_ALL_MEM_TABLES),
            level0_files: database.level0_files(column),
            pending_compaction_bytes: database.property(column, properties::ESTIMATE_PENDING_COMPACTION_BYTES),
            keys: database.property(column, properties::ESTIMATE_NUM_KEYS),
        });
        // These are the database's own, whichever column is asked.
        let of_all = |name| database.property(Column::Meta, name);
        Statistics {
            columns: columns.to_vec(),
            block_cache_bytes: inner.cache.get_usage() as u64,
            block_cache_hits: database.ticker(Ticker::BlockCacheHit),
            block_cache_misses: database.ticker(Ticker::BlockCacheMiss),
            write_stall: Duration::from_micros(database.ticker(Ticker::StallMicros)),
            running_compactions: of_all(properties::NUM_RUNNING_COMPACTIONS),
            running_flushes: of_all(properties::NUM_RUNNING_FLUSHES),
            write_stopped: of_all(properties::IS_WRITE_STOPPED) != 0,
            delayed_write_rate: of_all(properties::ACTUAL_DELAYED_WRITE_RATE),
            background_errors: of_all(properties::BACKGROUND_ERRORS),
            corruptions: crate::error::corruptions(),
            ring_bytes: self.ring.read().bytes() as u64,
            heads_cached: (self.streams.len() + self.indexes.len()) as u64,
            // Never waits for an entry that is being applied.
            ids_remembered: inner.writer.try_lock().map_or(0, |writer| writer.remembered.len()),
        }
    }
}
