//! Whether a backup is what was written, from its first to its last event.
//!
//! Every file with its checksum, every record with its own, their places without a gap,
//! and the chain hash at the end of each file computed anew from the start of the log:
//! a backup with everything that it goes on from is one log.

use crate::error::Error;
use crate::manifest::Manifest;
use crate::place::Place;
use crate::segment::{self, Reached};

/// What was verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified {
    /// The backups, the full one first.
    pub backups: Vec<String>,
    /// Files.
    pub files: u64,
    /// Bytes of them.
    pub file_bytes: u64,
    /// Where they lead.
    pub reached: Reached,
    /// Events of which only the stubs are left.
    pub reclaimed: u64,
}

/// Verifies these backups, which go on from each other. `tell` is called after each file
/// with the position that it leads to.
///
/// # Errors
/// What is wrong, first of all.
pub async fn verify(place: &Place, line: &[Manifest], mut tell: impl FnMut(u64)) -> Result<Verified, Error> {
    let backups = line.iter().map(|manifest| manifest.id.clone()).collect();
    let mut verified = Verified { backups, files: 0, file_bytes: 0, reached: Reached::START, reclaimed: 0 };
    for manifest in line {
        let (position, hash) = manifest.begins()?;
        if position != verified.reached.position || hash != verified.reached.hash {
            return Err(Error::damaged(&manifest.id, "it does not go on where the one before ends"));
        }
        for segment in &manifest.segments {
            let file = fetch(place, manifest, segment).await?;
            let (segment, from) = (segment.clone(), verified.reached);
            let read = tokio::task::spawn_blocking(move || {
                let mut stubs = 0;
                let reached = segment::read(&segment, &file, from, |record, _| {
                    stubs += u64::from(record.is_reclaimed());
                    Ok(())
                });
                reached.map(|reached| (reached, stubs, file.len() as u64))
            });
            let (reached, stubs, bytes) = read.await.map_err(|_| Error::Cancelled)??;
            verified.reached = reached;
            verified.reclaimed += stubs;
            verified.files += 1;
            verified.file_bytes += bytes;
            tell(reached.position.get());
        }
        if manifest.through_hash != verified.reached.hash.to_string() {
            let Reached { position, hash, .. } = verified.reached;
            return Err(Error::Diverged { position, expected: manifest.through_hash.clone(), found: hash });
        }
    }
    Ok(verified)
}

/// The content of a file that a manifest names.
pub(crate) async fn fetch(
    place: &Place,
    manifest: &Manifest,
    segment: &crate::manifest::Segment,
) -> Result<bytes::Bytes, Error> {
    let name = format!("{}/{}", manifest.id, segment.file);
    match place.size(&name).await? {
        None => return Err(Error::damaged(place.name(&name), "it is not there")),
        // Before memory is taken for it.
        Some(size) if size != segment.file_bytes => {
            return Err(Error::damaged(
                place.name(&name),
                format!("it has {size} bytes instead of {}", segment.file_bytes),
            ));
        }
        Some(_) => {}
    }
    place.get(&name).await?.ok_or_else(|| Error::damaged(place.name(&name), "it is not there"))
}
