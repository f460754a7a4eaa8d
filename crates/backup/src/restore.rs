//! Making the data directory of a new cluster out of a backup.
//!
//! What follows from the records comes out as it was: heads, indexes, users, consumer
//! groups, the window of remembered ids. What does not is left behind on purpose: the
//! nodes and the identity of the cluster that was backed up, and how far its last
//! scavenge was. Events that were reclaimed before they were backed up are stubs here
//! too; those that were reclaimed later are whole again and hidden, until the next
//! scavenge.
//!
//! The chain hash is computed twice from the same bytes: here, against the manifests, and
//! by the state that is being made. The file in which the restore ends is read to its
//! end, so that also a hash in the midst of it is vouched for.

use std::path::Path;

use annals_core::{Position, Timestamp};
use annals_raft::restore::{Restoration, Restored};
use bytes::Bytes;
use tokio::sync::mpsc;

use crate::error::Error;
use crate::manifest::{Manifest, Segment};
use crate::place::Place;
use crate::segment::{self, Reached};
use crate::verify::fetch;

/// Bytes of records that are taken in at once.
const CHUNK: usize = 4 * 1024 * 1024;

/// Up to where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Until {
    /// All of it.
    End,
    /// The event at this position, inclusive.
    Position(Position),
    /// Every event that was created at or before this time.
    Time(Timestamp),
}

impl Until {
    fn includes(self, reached: Reached) -> bool {
        match self {
            Until::End => true,
            Until::Position(last) => reached.position <= last,
            Until::Time(last) => reached.created <= last,
        }
    }
}

/// What came out of a restore.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// The new cluster.
    pub restored: Restored,
    /// Where it ends, by the backup's own reckoning.
    pub reached: Reached,
    /// The backups that were read, the full one first.
    pub backups: Vec<String>,
}

/// Restores these backups, which go on from each other, into an empty directory, as a
/// node at this `host:port`. `tell` is told the position from time to time.
///
/// # Errors
/// [`Error`]. The directory is marked as unfinished, and the next attempt begins anew.
pub async fn restore(
    place: &Place,
    line: &[Manifest],
    data: &Path,
    address: &str,
    until: Until,
    mut tell: impl FnMut(u64),
) -> Result<Outcome, Error> {
    check(line, until)?;
    let id = line.last().map(|manifest| manifest.id.clone()).unwrap_or_default();
    let what = format!("{} {until:?}", place.name(&id));
    let directory = data.to_owned();
    let begun = tokio::task::spawn_blocking(move || Restoration::begin(&directory, &what));
    let restoration = begun.await.map_err(|_| Error::Cancelled)??;

    // The next file comes while one is taken in.
    let (files, waiting) = mpsc::channel::<(Segment, Bytes)>(1);
    let (positions, mut told) = mpsc::channel(16);
    let working = tokio::task::spawn_blocking(move || take_in(restoration, waiting, until, &positions));
    let sending = async {
        for manifest in line {
            for segment in &manifest.segments {
                let file = fetch(place, manifest, segment).await?;
                // Nobody listens: it has come to its end, or failed.
                if files.send((segment.clone(), file)).await.is_err() {
                    return Ok::<(), Error>(());
                }
            }
        }
        drop(files);
        Ok(())
    };
    let telling = async {
        while let Some(position) = told.recv().await {
            tell(position);
        }
    };
    let (sent, (), worked) = tokio::join!(sending, telling, working);
    let (restoration, reached) = worked.map_err(|_| Error::Cancelled)??;
    sent?;
    if let Until::Position(wanted) = until
        && reached.position != wanted
    {
        return Err(Error::NotFound(format!("the backup ends at position {}, before {wanted}", reached.position)));
    }
    if restoration.chain_hash() != reached.hash || restoration.position() != reached.position {
        let found = restoration.chain_hash();
        return Err(Error::Diverged { position: reached.position, expected: reached.hash.to_string(), found });
    }
    let restored = restoration.finish(address).await?;
    let backups = line.iter().map(|manifest| manifest.id.clone()).collect();
    Ok(Outcome { restored, reached, backups })
}

/// What can be refused before anything is written.
fn check(line: &[Manifest], until: Until) -> Result<(), Error> {
    let Some(last) = line.last() else { return Err(Error::NotFound("there is no backup".into())) };
    match until {
        Until::Position(wanted) if wanted.get() > last.through => Err(Error::NotFound(format!(
            "backup {} ends at position {}, before {wanted}: restore a later one, or without --to-position",
            last.id, last.through
        ))),
        Until::End | Until::Position(_) | Until::Time(_) => Ok(()),
    }
}

/// Takes in file after file, as far as it is wanted; answers where that ends.
fn take_in(
    mut restoration: Restoration,
    mut files: mpsc::Receiver<(Segment, Bytes)>,
    until: Until,
    positions: &mpsc::Sender<u64>,
) -> Result<(Restoration, Reached), Error> {
    let (mut read, mut taken) = (Reached::START, Reached::START);
    while let Some((segment, file)) = files.blocking_recv() {
        let (mut chunk, mut bytes) = (Vec::new(), 0);
        read = segment::read(&segment, &file, read, |record, reached| {
            if !until.includes(reached) {
                return Ok(());
            }
            taken = reached;
            bytes += record.encoded().len();
            chunk.push(record.encoded().clone());
            if bytes >= CHUNK {
                bytes = 0;
                restoration.ingest(std::mem::take(&mut chunk))?;
                // Nobody has to listen.
                let _ = positions.try_send(reached.position.get());
            }
            Ok(())
        })?;
        if !chunk.is_empty() {
            restoration.ingest(chunk)?;
        }
        if taken != read {
            break;
        }
    }
    Ok((restoration, taken))
}
