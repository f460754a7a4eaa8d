//! Making a backup of a cluster that goes on being written.
//!
//! One stream of records from one node, in order, each verified as it comes: its own
//! checksums, its place, and at the end the chain hash against the node's. It is cut
//! into segments, each of which is durable before the next one is begun; then
//! `progress.json` says so, which is what an interrupted backup is resumed from. The
//! manifest comes last.
//!
//! A node that fails on the way is asked again, or another one is: every node has the
//! same log. In memory is one segment, compressed, and one message.

use std::time::{Duration, SystemTime};

use annals_client::Client;
use annals_core::{Position, Timestamp, rfc3339};
use annals_proto::annals::v1::records_reply::{Content, End};
use annals_proto::annals::v1::{RecordsRequest, ReportRequest};
use annals_store::ChainHash;
use uuid::Uuid;

use crate::error::Error;
use crate::manifest::{self, FORMAT, Kind, Manifest, Reclaimed, parse_hash};
use crate::place::{Place, State};
use crate::segment::{Builder, Reached, SEGMENT_BYTES};

/// Attempts in a row without a single record before it is given up, and the first pause
/// between them, which doubles.
const ATTEMPTS: u32 = 8;
const PAUSE: Duration = Duration::from_millis(200);

/// How a backup is to be made.
#[derive(Clone, Copy, Debug)]
pub struct Wanted {
    /// Where it begins.
    pub kind: Kind,
    /// Go on with one that was interrupted, if there is one.
    pub resume: bool,
    /// Bytes of records per second, at most; 0: as the node has it.
    pub bytes_per_second: u64,
    /// Take what the node has applied, also where no majority answers.
    pub as_applied: bool,
}

/// How far a backup is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Where it began.
    pub after: u64,
    /// Where it is.
    pub position: u64,
    /// Where it will end.
    pub through: u64,
    /// Bytes of the records that have come, this time.
    pub bytes: u64,
}

/// Makes a backup; answers its manifest, which is durable.
///
/// # Errors
/// [`Error`]. What is complete of it stays, to be resumed.
pub async fn create(
    client: &Client,
    place: &Place,
    wanted: Wanted,
    mut tell: impl FnMut(Progress),
) -> Result<Manifest, Error> {
    let cluster = client.cluster().status().await?.cluster;
    if cluster.is_empty() {
        return Err(Error::Invalid("the node belongs to no cluster yet: there is nothing to back up".into()));
    }
    let mut manifest = begin(place, wanted, &cluster).await?;
    let resumed_bytes = manifest.record_bytes;
    let mut taking =
        Taking { place, builder: Builder::new(reached(&manifest)?)?, manifest: &mut manifest, through: None };
    let (mut failures, mut pause) = (0, PAUSE);
    let end = loop {
        let before = taking.builder.reached().position;
        let error = match taking.take(client, wanted, resumed_bytes, &mut tell).await {
            Ok(end) => break end,
            Err(Error::Cluster(error)) if error.may_pass() => error,
            Err(error) => return Err(error),
        };
        (failures, pause) =
            if taking.builder.reached().position > before { (1, PAUSE) } else { (failures + 1, pause * 2) };
        if failures >= ATTEMPTS {
            return Err(error.into());
        }
        client.backups().forget().await;
        tokio::time::sleep(pause).await;
    };
    let last = taking.builder.reached();
    if end.through != last.position.get() || end.hash != last.hash.to_string() {
        return Err(Error::Diverged { position: last.position, expected: end.hash, found: last.hash });
    }
    taking.finish_segment().await?;
    manifest.ended = rfc3339::exact(now());
    place.put(&format!("{}/{}", manifest.id, manifest::FILE), manifest.encode()?.into()).await?;
    place.remove(&format!("{}/{}", manifest.id, manifest::PROGRESS)).await?;
    Ok(manifest)
}

/// Tells the cluster of a complete backup.
///
/// # Errors
/// No leader. The backup is complete all the same.
pub async fn report(client: &Client, manifest: &Manifest) -> Result<(), Error> {
    let report = ReportRequest {
        kind: manifest.kind.as_str().to_owned(),
        backup: manifest.id.clone(),
        through: manifest.through,
        bytes: manifest.file_bytes,
        began: manifest.began_ticks(),
        ended: manifest.ended_ticks(),
    };
    client.backups().report(report).await?;
    Ok(())
}

/// The manifest to go on with: a new one, or that of an interrupted backup.
async fn begin(place: &Place, wanted: Wanted, cluster: &str) -> Result<Manifest, Error> {
    let found = place.backups().await?;
    let complete: Vec<&Manifest> = found
        .iter()
        .filter_map(|found| match &found.state {
            State::Complete(manifest) if manifest.cluster == cluster => Some(manifest),
            State::Complete(_) | State::Incomplete(_) | State::Unreadable(_) => None,
        })
        .collect();
    let parent = match wanted.kind {
        Kind::Full => None,
        Kind::Incremental => {
            let newest = complete.iter().max_by_key(|manifest| (manifest.through, manifest.ended_ticks()));
            Some(*newest.ok_or_else(|| {
                Error::NotFound(format!(
                    "there is no complete backup of cluster {cluster} in {} to go on from: begin with a full one \
                     (without --incremental)",
                    place.name("")
                ))
            })?)
        }
    };
    if wanted.resume {
        let interrupted = found.iter().rev().find_map(|found| match &found.state {
            State::Incomplete(progress) => Some(progress).filter(|progress| {
                let same_parent = progress.parent.as_ref() == parent.map(|parent| &parent.id);
                progress.cluster == cluster && progress.kind == wanted.kind && same_parent
            }),
            State::Complete(_) | State::Unreadable(_) => None,
        });
        if let Some(progress) = interrupted
            && all_there(place, progress).await?
        {
            return Ok(progress.clone());
        }
    }
    let began = now();
    let (after, hash, created) = match parent {
        None => (0, ChainHash::START.to_string(), 0),
        Some(parent) => (parent.through, parent.through_hash.clone(), parent.through_created),
    };
    let random = Uuid::new_v4().simple().to_string();
    Ok(Manifest {
        format: FORMAT,
        id: format!("{}-{}-{}", rfc3339::compact(began), wanted.kind.as_str(), random.get(..6).unwrap_or_default()),
        kind: wanted.kind,
        parent: parent.map(|parent| parent.id.clone()),
        cluster: cluster.to_owned(),
        began: rfc3339::exact(began),
        ended: rfc3339::exact(began),
        after,
        after_hash: hash.clone(),
        through: after,
        through_hash: hash,
        through_created: created,
        events: 0,
        record_bytes: 0,
        file_bytes: 0,
        reclaimed: None,
        segments: Vec::new(),
    })
}

/// Whether all that an interrupted backup says to have written is there.
async fn all_there(place: &Place, progress: &Manifest) -> Result<bool, Error> {
    for segment in &progress.segments {
        if place.size(&format!("{}/{}", progress.id, segment.file)).await? != Some(segment.file_bytes) {
            return Ok(false);
        }
    }
    Ok(true)
}

fn reached(manifest: &Manifest) -> Result<Reached, Error> {
    Ok(Reached {
        position: Position::new(manifest.through),
        hash: parse_hash(&manifest.through_hash)?,
        created: Timestamp::from_ticks(manifest.through_created),
    })
}

fn now() -> Timestamp {
    Timestamp::from(SystemTime::now())
}

/// A backup in the making.
struct Taking<'a> {
    place: &'a Place,
    manifest: &'a mut Manifest,
    builder: Builder,
    /// Where it ends, once a node has said so.
    through: Option<u64>,
}

impl Taking<'_> {
    /// Takes what one node sends, to the end.
    async fn take(
        &mut self,
        client: &Client,
        wanted: Wanted,
        resumed_bytes: u64,
        tell: &mut impl FnMut(Progress),
    ) -> Result<End, Error> {
        let Reached { position, hash, .. } = self.builder.reached();
        let request = RecordsRequest {
            after: position.get(),
            through: self.through.unwrap_or(0),
            after_hash: if position > Position::START { hash.to_string() } else { String::new() },
            bytes_per_second: wanted.bytes_per_second,
            as_applied: wanted.as_applied,
        };
        let mut records = client.backups().records(request).await?;
        loop {
            match records.next().await? {
                Some(Content::Begin(begin)) => {
                    if begin.cluster != self.manifest.cluster {
                        let why = format!("the node belongs to cluster {}", begin.cluster);
                        return Err(Error::damaged("what was sent", why));
                    }
                    self.through = Some(begin.through);
                    let last = begin.scavenge.filter(|last| !last.id.is_empty());
                    self.manifest.reclaimed = self.manifest.reclaimed.take().or(last.map(|last| Reclaimed {
                        scavenge: last.id,
                        position: last.cursor,
                        events: last.events,
                    }));
                }
                Some(Content::Chunk(chunk)) => {
                    for record in chunk.records {
                        self.builder.add(record)?;
                        if self.builder.record_bytes() >= SEGMENT_BYTES {
                            self.finish_segment().await?;
                        }
                    }
                    tell(Progress {
                        after: self.manifest.after,
                        position: self.builder.reached().position.get(),
                        through: self.through.unwrap_or(0),
                        bytes: self.manifest.record_bytes - resumed_bytes + self.builder.record_bytes(),
                    });
                }
                Some(Content::End(end)) => return Ok(end),
                None => return Err(Error::damaged("what was sent", "it ends early")),
            }
        }
    }

    /// Makes what was gathered a file, durable on return.
    async fn finish_segment(&mut self) -> Result<(), Error> {
        let next = Builder::new(self.builder.reached())?;
        let Reached { position, hash, created } = self.builder.reached();
        let Some((segment, file)) = std::mem::replace(&mut self.builder, next).finish()? else { return Ok(()) };
        let manifest = &mut *self.manifest;
        self.place.put(&format!("{}/{}", manifest.id, segment.file), file).await?;
        manifest.events += segment.last - segment.first + 1;
        manifest.record_bytes += segment.record_bytes;
        manifest.file_bytes += segment.file_bytes;
        manifest.through = position.get();
        manifest.through_hash = hash.to_string();
        manifest.through_created = created.ticks();
        manifest.segments.push(segment);
        let progress = format!("{}/{}", manifest.id, manifest::PROGRESS);
        self.place.put(&progress, manifest.encode()?.into()).await
    }
}
