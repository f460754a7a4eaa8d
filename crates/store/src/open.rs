//! Opening a store.

use std::path::Path;
use std::sync::Arc;

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use rocksdb::Cache;
use tokio::sync::watch;

use crate::apply::Writer;
use crate::directory::Directory;
use crate::error::OpenError;
use crate::interest::Interests;
use crate::options::Options;
use crate::state::State;
use crate::store::{Inner, Store};

/// See [`Store::open`].
pub(crate) fn open(data: &Path, options: Options) -> Result<Store, OpenError> {
    let directory = Directory::new(data)?;
    let cache = Cache::new_lru_cache(options.block_cache_bytes);
    let interests = Arc::new(Interests::default());
    let (number, state) = match directory.current()? {
        Some(number) => (number, open_current(&directory, number, &options, &cache, &interests)?),
        None => (FIRST, open_first(&directory, &options, &cache, &interests)?),
    };
    // Only now: the state that counts is open, and so nobody else has it open.
    for other in directory.states()?.into_iter().filter(|other| *other != number) {
        directory.remove(other)?;
    }
    let unreadable = |source| OpenError::Unreadable { directory: directory.state(number), source };
    let remembered = state.read_remembered().map_err(unreadable)?;
    let (tail, _) = watch::channel(state.tail());
    let scavenge = watch::Sender::new(state.totals().scavenge);
    let lease = watch::Sender::new(state.totals().lease);
    Ok(Store {
        inner: Arc::new(Inner {
            directory,
            options,
            cache,
            state: ArcSwap::from_pointee(state),
            writer: Mutex::new(Writer::new(remembered)),
            tail,
            scavenge,
            lease,
            giving_back: Mutex::new(()),
            interests,
        }),
    })
}

/// The number of the state that a new store begins with.
pub(crate) const FIRST: u64 = 1;

fn open_current(
    directory: &Directory,
    number: u64,
    options: &Options,
    cache: &Cache,
    interests: &Arc<Interests>,
) -> Result<State, OpenError> {
    let path = directory.state(number);
    // RocksDB would make an empty one in its place.
    if !path.is_dir() {
        return Err(OpenError::Missing { directory: path });
    }
    State::open(path, options, cache, interests)
}

/// Without a pointer there is no store yet, or one whose making was cut short
/// before anything was applied. A state with data whose pointer is gone is
/// neither: which one of several counts cannot be known.
fn open_first(
    directory: &Directory,
    options: &Options,
    cache: &Cache,
    interests: &Arc<Interests>,
) -> Result<State, OpenError> {
    let pointer_lost = || OpenError::Pointer { path: directory.pointer() };
    match directory.states()?.as_slice() {
        [] | [FIRST] => {}
        _ => return Err(pointer_lost()),
    }
    let state = State::open(directory.state(FIRST), options, cache, interests)?;
    if state.mark().is_some() {
        return Err(pointer_lost());
    }
    directory.point_to(FIRST)?;
    Ok(state)
}
