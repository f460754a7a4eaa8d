//! RocksDB: how it is opened, and nothing of what is in it.
//!
//! Every write goes without a write-ahead log: the replicated log is the log.
//! All column families are flushed together (`atomic_flush`), and never by
//! RocksDB's own choice, so that after a crash the state is that after some
//! entry, and the entries after it are applied again. `ReadTier::Persisted`
//! tells which entry that would be.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rocksdb::statistics::{StatsLevel, Ticker};
use rocksdb::{
    BlockBasedOptions, Cache, ColumnFamily, ColumnFamilyDescriptor, CompactOptions, DB, DBCompressionType,
    DBPinnableSlice, DBRawIterator, Env, FlushOptions, ReadOptions, ReadTier, WriteBatch, WriteOptions,
    checkpoint::Checkpoint,
};

use crate::error::{Error, OpenError};
use crate::keys::{self, Column, Key, ListId};
use crate::options::Options;
use crate::pace::{Pace, Pacing};
use crate::record::Corruption;
use crate::runs::Run;

/// An open RocksDB.
pub(crate) struct Database {
    rocks: DB,
    /// RocksDB's counters hang on the options it was opened with.
    options: rocksdb::Options,
    pace: Arc<Pace>,
}

/// How far a read, or a write, may go for what it wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reach {
    /// To what RocksDB has in memory. What is not there is an error
    /// ([`Error::is_out_of_reach`]).
    Memory,
    /// To the disk.
    Disk,
}

impl Reach {
    fn options(self) -> ReadOptions {
        let mut options = ReadOptions::default();
        match self {
            Reach::Memory => options.set_read_tier(ReadTier::BlockCache),
            Reach::Disk => {}
        }
        options
    }
}

/// The column families of a database, looked up once.
#[derive(Clone, Copy)]
pub(crate) struct Columns<'d> {
    pub(crate) meta: &'d ColumnFamily,
    pub(crate) records: &'d ColumnFamily,
    pub(crate) heads: &'d ColumnFamily,
    pub(crate) runs: &'d ColumnFamily,
    pub(crate) chain: &'d ColumnFamily,
    pub(crate) times: &'d ColumnFamily,
}

/// Files kept open. A file beyond that is opened again when it is read; a
/// process has often no more than 1,024 descriptors, and the replicated log
/// and the connections need theirs.
const OPEN_FILES_MAX: i32 = 400;

/// A memtable is never as large: when it is flushed is decided in
/// [`crate::state`], never by RocksDB. Takes no memory by itself.
const MEMTABLE_BYTES_NEVER: usize = 16 * 1024 * 1024 * 1024;

impl Database {
    /// Opens the database in this directory, or makes it.
    pub(crate) fn open(directory: &Path, cache: &Cache) -> Result<Database, OpenError> {
        if let Err(error) = yield_to_the_rest() {
            tracing::warn!(%error, "flushes and merges have the same share of the processors as appends");
        }
        let pace = Arc::new(Pace::default());
        let open = |direct_io| {
            let columns = Column::ALL
                .map(|column| ColumnFamilyDescriptor::new(column.name(), column_options(column, cache, &pace)));
            let mut options = database_options();
            // What is flushed and merged goes past the page cache: getting pages for it takes
            // several times as long as copying into them, and leaves fewer for what is read.
            options.set_use_direct_io_for_flush_and_compaction(direct_io);
            DB::open_cf_descriptors(&options, directory, columns).map(|rocks| (rocks, options))
        };
        let opened = open(true).or_else(|error| match lacks_direct_io(&error) {
            true => {
                tracing::info!(directory = %directory.display(), "no direct I/O here: flushes take memory from the page cache");
                open(false)
            }
            false => Err(error),
        });
        match opened {
            Ok((rocks, options)) => Ok(Database { rocks, options, pace }),
            Err(source) => {
                let directory = PathBuf::from(directory);
                // RocksDB has no kind of its own for this.
                let locked = source.kind() == rocksdb::ErrorKind::IOError && source.as_ref().contains("lock");
                Err(if locked { OpenError::InUse { directory } } else { OpenError::Database { directory, source } })
            }
        }
    }

    /// Opens the database in this directory to look at it; nothing is written,
    /// not even by RocksDB.
    pub(crate) fn open_read_only(directory: &Path) -> Result<Database, rocksdb::Error> {
        let cache = Cache::new_lru_cache(Options::default().block_cache_bytes);
        let pace = Arc::new(Pace::default());
        let columns =
            Column::ALL.map(|column| ColumnFamilyDescriptor::new(column.name(), column_options(column, &cache, &pace)));
        let mut options = database_options();
        options.create_if_missing(false);
        options.create_missing_column_families(false);
        let rocks = DB::open_cf_descriptors_read_only(&options, directory, columns, false)?;
        Ok(Database { rocks, options, pace })
    }

    pub(crate) fn columns(&self) -> Columns<'_> {
        Columns {
            meta: self.column(Column::Meta),
            records: self.column(Column::Records),
            heads: self.column(Column::Heads),
            runs: self.column(Column::Runs),
            chain: self.column(Column::Chain),
            times: self.column(Column::Times),
        }
    }

    pub(crate) fn column(&self, column: Column) -> &ColumnFamily {
        self.rocks.cf_handle(column.name()).expect("every column family is opened")
    }

    /// The value under a key.
    pub(crate) fn get(&self, column: Column, key: &[u8]) -> Result<Option<DBPinnableSlice<'_>>, Error> {
        self.get_within(column, key, Reach::Disk)
    }

    /// The value under a key, if it can be told from within this reach.
    pub(crate) fn get_within(
        &self,
        column: Column,
        key: &[u8],
        reach: Reach,
    ) -> Result<Option<DBPinnableSlice<'_>>, Error> {
        self.rocks.get_pinned_cf_opt(self.column(column), key, &reach.options()).map_err(reading)
    }

    /// The value under a key as a crash now would leave it.
    pub(crate) fn get_durable(&self, key: &Key) -> Result<Option<DBPinnableSlice<'_>>, Error> {
        let mut options = ReadOptions::default();
        options.set_read_tier(ReadTier::Persisted);
        self.rocks.get_pinned_cf_opt(self.column(key.column()), key.encode(), &options).map_err(reading)
    }

    /// The values under keys, which are in ascending order.
    pub(crate) fn get_sorted(
        &self,
        column: Column,
        keys: &[[u8; 8]],
        reach: Reach,
    ) -> Result<Vec<Option<DBPinnableSlice<'_>>>, Error> {
        let options = reach.options();
        let values = self.rocks.batched_multi_get_cf_opt(self.column(column), keys.iter(), true, &options);
        values.into_iter().collect::<Result<_, _>>().map_err(reading)
    }

    /// Writes a batch, all or nothing. Durable only after a flush.
    pub(crate) fn write(&self, batch: WriteBatch) -> Result<(), Error> {
        self.write_within(batch, Reach::Disk)
    }

    /// As [`Database::write`]. Where RocksDB would have it wait for flushes or merges, and
    /// the disk is out of reach, nothing is written.
    pub(crate) fn write_within(&self, batch: WriteBatch, reach: Reach) -> Result<(), Error> {
        let mut options = WriteOptions::default();
        options.disable_wal(true);
        options.set_no_slowdown(reach == Reach::Memory);
        self.rocks.write_opt(batch, &options).map_err(|source| Error::database("write an entry's effects", source))
    }

    /// Makes everything written durable.
    pub(crate) fn flush(&self) -> Result<(), Error> {
        self.flush_all(true)
    }

    /// Writes one value. Durable only after a flush.
    pub(crate) fn put(&self, key: &Key, value: &[u8]) -> Result<(), Error> {
        let mut batch = WriteBatch::default();
        batch.put_cf(self.column(key.column()), key.encode(), value);
        self.write(batch)
    }

    /// Has the files that hold keys from one to another, both inclusive, written anew,
    /// so that what was overwritten in them goes. Returns when that is done; other
    /// compactions go on meanwhile. What is in memory from that range would be flushed.
    /// Records are written no faster than at the [pace](Database::pace).
    pub(crate) fn compact(&self, column: Column, from: &[u8], to: &[u8]) {
        let mut options = CompactOptions::default();
        options.set_exclusive_manual_compaction(false);
        self.rocks.compact_range_cf_opt(self.column(column), Some(from), Some(to), &options);
    }

    /// How fast [`compact`](Database::compact) goes.
    pub(crate) fn pace(&self) -> &Pace {
        &self.pace
    }

    /// Bytes of the files that hold keys from one to another, the second exclusive;
    /// about.
    pub(crate) fn size_of(&self, column: Column, from: &[u8], to: &[u8]) -> u64 {
        let range = rocksdb::Range::new(from, to);
        self.rocks.get_approximate_sizes_cf(self.column(column), &[range]).first().copied().unwrap_or(0)
    }

    /// Begins to make everything written until now durable. Waits only where
    /// too much is being flushed already.
    pub(crate) fn begin_flush(&self) -> Result<(), Error> {
        self.flush_all(false)
    }

    fn flush_all(&self, wait: bool) -> Result<(), Error> {
        let columns = Column::ALL.map(|column| self.column(column));
        let mut options = FlushOptions::default();
        options.set_wait(wait);
        self.rocks
            .flush_cfs_opt(&columns.each_ref().map(|column| *column), &options)
            .map_err(|source| Error::database("flush the state", source))
    }

    /// What RocksDB has counted since it was opened.
    pub(crate) fn ticker(&self, ticker: Ticker) -> u64 {
        self.options.get_ticker_count(ticker)
    }

    /// Ends the database's own threads, and waits for them.
    pub(crate) fn end_background_work(&self) {
        self.rocks.cancel_all_background_work(true);
    }

    /// Makes a copy in a directory that does not exist yet. Files are linked,
    /// not copied.
    pub(crate) fn copy_to(&self, directory: &Path) -> Result<(), Error> {
        let copy = Checkpoint::new(&self.rocks).and_then(|checkpoint| checkpoint.create_checkpoint(directory));
        copy.map_err(|source| Error::database("make a copy of the state", source))
    }

    /// The runs of a list.
    pub(crate) fn runs(&self, list: ListId, reach: Reach) -> RunIterator<'_> {
        let mut options = reach.options();
        options.set_iterate_lower_bound(keys::run(list, 0));
        options.set_iterate_upper_bound(keys::run(list.next(), 0));
        RunIterator { raw: self.rocks.raw_iterator_cf_opt(self.column(Column::Runs), options), list }
    }

    /// Everything in a column from one key to another, the second exclusive.
    /// `readahead` is in bytes; 0 leaves it to RocksDB.
    pub(crate) fn scan(&self, column: Column, from: &[u8], to: &[u8], readahead: usize) -> DBRawIterator<'_> {
        let mut options = ReadOptions::default();
        options.set_readahead_size(readahead);
        // A long scan would drive out of the cache what others read often.
        options.fill_cache(readahead == 0);
        self.bounded(column, from, to, options)
    }

    /// The same for a short stretch, which may have to be in memory.
    pub(crate) fn stretch(&self, column: Column, from: &[u8], to: &[u8], reach: Reach) -> DBRawIterator<'_> {
        self.bounded(column, from, to, reach.options())
    }

    fn bounded(&self, column: Column, from: &[u8], to: &[u8], mut options: ReadOptions) -> DBRawIterator<'_> {
        options.set_iterate_lower_bound(from);
        options.set_iterate_upper_bound(to);
        self.rocks.raw_iterator_cf_opt(self.column(column), options)
    }

    /// Files at level 0 of a column family.
    pub(crate) fn level0_files(&self, column: Column) -> u64 {
        let name = rocksdb::properties::num_files_at_level(0);
        let text = self.rocks.property_value_cf(self.column(column), &name).ok().flatten();
        text.and_then(|text| text.parse().ok()).unwrap_or(0)
    }

    /// A number that RocksDB keeps about a column family; 0 if it does not.
    pub(crate) fn property(&self, column: Column, name: &rocksdb::properties::PropName) -> u64 {
        self.rocks.property_int_value_cf(self.column(column), name).ok().flatten().unwrap_or(0)
    }
}

/// What an error means that came up while reading.
pub(crate) fn reading(source: rocksdb::Error) -> Error {
    Error::database("read the state", source)
}

/// Moves over the runs of one list.
pub(crate) struct RunIterator<'d> {
    raw: DBRawIterator<'d>,
    list: ListId,
}

impl RunIterator<'_> {
    /// The run that holds this number, or the first after it.
    pub(crate) fn seek(&mut self, number: u64) -> Result<Option<Run>, Error> {
        self.raw.seek(keys::run(self.list, number));
        self.current()
    }

    pub(crate) fn next(&mut self) -> Result<Option<Run>, Error> {
        self.raw.next();
        self.current()
    }

    pub(crate) fn previous(&mut self) -> Result<Option<Run>, Error> {
        self.raw.prev();
        self.current()
    }

    fn current(&self) -> Result<Option<Run>, Error> {
        let Some((key, value)) = self.raw.item() else {
            self.raw.status().map_err(reading)?;
            return Ok(None);
        };
        let Some(Key::Run(list, last)) = Key::decode(Column::Runs, key) else {
            return Err(Error::corrupt(Key::Run(self.list, 0), Corruption::Invalid("a key of its list is malformed")));
        };
        let run = Run::decode(last, value);
        run.map(Some).map_err(|source| Error::corrupt(Key::Run(list, last), source))
    }
}

/// Whether a database cannot be opened only because its file system has no `O_DIRECT`.
fn lacks_direct_io(error: &rocksdb::Error) -> bool {
    // RocksDB has no kind of its own for this.
    error.kind() == rocksdb::ErrorKind::InvalidArgument && error.as_ref().contains("Direct I/O is not supported")
}

/// Has RocksDB's own threads run where nobody else wants the processor (nice 19), those of all
/// databases of this process. One flush keeps a processor busy for a tenth of a second, for
/// which every append of a machine with few of them would wait. Where flushes cannot keep up,
/// writes wait for them, and leave them the processor.
fn yield_to_the_rest() -> Result<(), rocksdb::Error> {
    let mut threads = Env::new()?;
    threads.lower_thread_pool_cpu_priority();
    threads.lower_high_priority_thread_pool_cpu_priority();
    Ok(())
}

fn database_options() -> rocksdb::Options {
    let mut options = rocksdb::Options::default();
    options.create_if_missing(true);
    options.create_missing_column_families(true);
    options.set_atomic_flush(true);
    options.set_max_open_files(OPEN_FILES_MAX);
    options.set_max_background_jobs(3);
    // Where there is no direct I/O: written out as it is produced, so that a flush does not
    // end with one large sync that the replicated log's syncs would have to wait for.
    options.set_bytes_per_sync(1024 * 1024);
    // Counters only: the timers would cost a clock reading per operation.
    options.enable_statistics();
    options.set_statistics_level(StatsLevel::ExceptHistogramOrTimers);
    options.set_keep_log_file_num(4);
    options.set_max_log_file_size(8 * 1024 * 1024);
    options
}

fn column_options(column: Column, cache: &Cache, pace: &Arc<Pace>) -> rocksdb::Options {
    let mut blocks = BlockBasedOptions::default();
    blocks.set_block_cache(cache);
    blocks.set_block_size(16 * 1024);
    blocks.set_cache_index_and_filter_blocks(true);
    blocks.set_pin_l0_filter_and_index_blocks_in_cache(true);
    match column {
        // Asked for keys that are not there: each stream that is new.
        Column::Heads => {
            blocks.set_bloom_filter(10.0, false);
            blocks.set_optimize_filters_for_memory(true);
        }
        // Read by keys that are there, or through iterators.
        Column::Meta | Column::Records | Column::Runs | Column::Chain | Column::Times => {}
    }
    let mut out = rocksdb::Options::default();
    out.set_block_based_table_factory(&blocks);
    out.set_write_buffer_size(MEMTABLE_BYTES_NEVER);
    out.set_max_write_buffer_number(4);
    // The same on every level: files of records never overlap, and a file that
    // need not be recompressed is moved instead of rewritten.
    out.set_compression_type(DBCompressionType::Lz4);
    if column == Column::Records {
        out.set_compaction_filter_factory(Pacing(pace.clone()));
    }
    out
}
