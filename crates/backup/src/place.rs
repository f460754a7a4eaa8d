//! Where backups lie: a directory, or a bucket of S3-compatible storage.
//!
//! Each backup is a folder there, and its files have one level. A file is written as a
//! whole or not at all, and is durable when [`Place::put`] returns: in a directory by
//! writing it beside, syncing and renaming it and syncing the folder; in a bucket one
//! PUT is that already.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use bytes::Bytes;

#[cfg(feature = "s3")]
mod bucket;

use crate::error::Error;
use crate::manifest::{self, Kind, Manifest};

/// Backups of one place that are looked at: far above what anybody keeps.
const BACKUPS_MAX: usize = 100_000;

/// Bytes of a manifest: some hundred thousand files.
const MANIFEST_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// See the module.
#[derive(Debug)]
pub struct Place {
    inner: Inner,
    text: String,
}

#[derive(Debug)]
enum Inner {
    Directory(PathBuf),
    #[cfg(feature = "s3")]
    Bucket(bucket::Bucket),
}

/// What lies under one name.
#[derive(Debug)]
pub struct Found {
    /// The name: of a complete backup, its id.
    pub id: String,
    /// What it is.
    pub state: State,
}

/// What a folder of a place is.
#[derive(Debug)]
pub enum State {
    /// A complete backup.
    Complete(Manifest),
    /// One that was interrupted, as far as it came.
    Incomplete(Manifest),
    /// A backup whose manifest cannot be read.
    Unreadable(Error),
}

impl Place {
    /// The place with this name: a path, or `s3://BUCKET/PREFIX`. Keys, region and
    /// endpoint of a bucket come from the environment (`AWS_ACCESS_KEY_ID`,
    /// `AWS_SECRET_ACCESS_KEY`, `AWS_REGION`, `AWS_ENDPOINT`, `AWS_ALLOW_HTTP` …).
    ///
    /// # Errors
    /// [`Error::Invalid`].
    pub fn open(text: &str) -> Result<Place, Error> {
        let inner = match text.split_once("://") {
            #[cfg(feature = "s3")]
            Some(("s3", _)) => Inner::Bucket(bucket::Bucket::open(text)?),
            #[cfg(not(feature = "s3"))]
            Some(("s3", _)) => {
                return Err(Error::Invalid("this annals was built without S3 (feature s3): write a directory".into()));
            }
            Some(("file", path)) => Inner::Directory(path.into()),
            Some((scheme, _)) => {
                return Err(Error::Invalid(format!(
                    "{scheme}:// is no place for backups: write a directory or s3://…"
                )));
            }
            None => Inner::Directory(text.into()),
        };
        Ok(Place { inner, text: text.to_owned() })
    }

    /// Whether nothing was ever there.
    async fn list(&self) -> Result<Vec<String>, Error> {
        let mut names = match &self.inner {
            Inner::Directory(path) => {
                list_directory(path).map_err(|error| Error::place("list", self.name(""), error))?
            }
            #[cfg(feature = "s3")]
            Inner::Bucket(bucket) => bucket.list().await?,
        };
        if names.len() > BACKUPS_MAX {
            return Err(Error::Invalid(format!("{} holds more than {BACKUPS_MAX} folders", self.text)));
        }
        names.sort_unstable();
        Ok(names)
    }

    /// All backups that lie here, in the order of their ids, which is that of time.
    ///
    /// # Errors
    /// The place cannot be read.
    pub async fn backups(&self) -> Result<Vec<Found>, Error> {
        let mut found = Vec::new();
        for id in self.list().await? {
            let state = match self.manifest(&id, manifest::FILE).await {
                Ok(Some(manifest)) => State::Complete(manifest),
                Ok(None) => match self.manifest(&id, manifest::PROGRESS).await {
                    Ok(Some(progress)) => State::Incomplete(progress),
                    // Somebody else's folder.
                    Ok(None) => continue,
                    Err(error @ Error::Place { .. }) => return Err(error),
                    Err(error) => State::Unreadable(error),
                },
                Err(error @ Error::Place { .. }) => return Err(error),
                Err(error) => State::Unreadable(error),
            };
            found.push(Found { id, state });
        }
        Ok(found)
    }

    /// The complete backups that lie here.
    ///
    /// # Errors
    /// The place cannot be read.
    pub async fn complete(&self) -> Result<Vec<Manifest>, Error> {
        let complete = self.backups().await?.into_iter().filter_map(|found| match found.state {
            State::Complete(manifest) => Some(manifest),
            State::Incomplete(_) | State::Unreadable(_) => None,
        });
        Ok(complete.collect())
    }

    /// A backup, by its id or the newest one, with those that it goes on from: the full
    /// one first.
    ///
    /// # Errors
    /// [`Error::NotFound`] where one of them is not there; [`Error::Damaged`] where they
    /// do not go on from each other.
    pub async fn lineage(&self, id: Option<&str>) -> Result<Vec<Manifest>, Error> {
        let complete = self.complete().await?;
        let newest = match id {
            Some(id) => complete.iter().find(|manifest| manifest.id == id),
            None => complete.iter().max_by_key(|manifest| (manifest.ended_ticks(), manifest.through)),
        };
        let newest = newest.ok_or_else(|| match id {
            Some(id) => Error::NotFound(format!("there is no complete backup {id} in {}", self.text)),
            None => Error::NotFound(format!("there is no complete backup in {}", self.text)),
        })?;
        lineage(&complete, newest)
    }

    async fn manifest(&self, id: &str, file: &str) -> Result<Option<Manifest>, Error> {
        let name = format!("{id}/{file}");
        let Some(size) = self.size(&name).await? else { return Ok(None) };
        if size > MANIFEST_BYTES_MAX {
            return Err(Error::damaged(&name, format!("{size} bytes are too many for a manifest")));
        }
        let Some(bytes) = self.get(&name).await? else { return Ok(None) };
        let manifest = Manifest::decode(&name, &bytes)?;
        if manifest.id != id {
            return Err(Error::damaged(&name, format!("it is of backup {}: was the folder renamed?", manifest.id)));
        }
        Ok(Some(manifest))
    }

    /// Writes a file, whole and durable on return.
    ///
    /// # Errors
    /// The place cannot be written.
    pub async fn put(&self, name: &str, bytes: Bytes) -> Result<(), Error> {
        match &self.inner {
            Inner::Directory(path) => {
                let path = path.join(name);
                let written = tokio::task::spawn_blocking(move || write_durably(&path, &bytes)).await;
                let written = written.map_err(|_| Error::Cancelled)?;
                written.map_err(|error| Error::place("write", self.name(name), error))
            }
            #[cfg(feature = "s3")]
            Inner::Bucket(bucket) => bucket.put(name, bytes).await,
        }
    }

    /// The content of a file; none where there is none.
    ///
    /// # Errors
    /// The place cannot be read.
    pub async fn get(&self, name: &str) -> Result<Option<Bytes>, Error> {
        match &self.inner {
            Inner::Directory(path) => {
                let path = path.join(name);
                let read = tokio::task::spawn_blocking(move || fs::read(path)).await.map_err(|_| Error::Cancelled)?;
                there(read)
                    .map(|bytes| bytes.map(Bytes::from))
                    .map_err(|error| Error::place("read", self.name(name), error))
            }
            #[cfg(feature = "s3")]
            Inner::Bucket(bucket) => bucket.get(name).await,
        }
    }

    /// The bytes of a file; none where there is none.
    ///
    /// # Errors
    /// The place cannot be read.
    pub async fn size(&self, name: &str) -> Result<Option<u64>, Error> {
        match &self.inner {
            Inner::Directory(path) => {
                let found = there(fs::metadata(path.join(name)));
                found
                    .map(|found| found.map(|file| file.len()))
                    .map_err(|error| Error::place("look at", self.name(name), error))
            }
            #[cfg(feature = "s3")]
            Inner::Bucket(bucket) => bucket.size(name).await,
        }
    }

    /// Removes a file, if it is there.
    ///
    /// # Errors
    /// The place cannot be written.
    pub async fn remove(&self, name: &str) -> Result<(), Error> {
        match &self.inner {
            Inner::Directory(path) => there(fs::remove_file(path.join(name)))
                .map(|_| ())
                .map_err(|error| Error::place("remove", self.name(name), error)),
            #[cfg(feature = "s3")]
            Inner::Bucket(bucket) => bucket.remove(name).await,
        }
    }

    /// A file here, for people.
    pub fn name(&self, name: &str) -> String {
        format!("{}/{name}", self.text.trim_end_matches('/')).trim_end_matches('/').to_owned()
    }
}

/// A backup with those that it goes on from: the full one first.
pub(crate) fn lineage(complete: &[Manifest], newest: &Manifest) -> Result<Vec<Manifest>, Error> {
    let mut line = vec![newest.clone()];
    while let Some(parent) = line.last().and_then(|last| last.parent.clone()) {
        let found = complete.iter().find(|manifest| manifest.id == parent);
        let found = found.ok_or_else(|| {
            Error::NotFound(format!("backup {parent}, on which {} is built, is not there or not complete", newest.id))
        })?;
        let child = line.last().ok_or(Error::Cancelled)?;
        let follows =
            found.cluster == child.cluster && found.through == child.after && found.through_hash == child.after_hash;
        if !follows || line.len() > complete.len() {
            return Err(Error::damaged(&child.id, format!("it does not go on where {parent} ends")));
        }
        line.push(found.clone());
    }
    debug_assert!(line.last().is_some_and(|first| first.kind == Kind::Full));
    line.reverse();
    Ok(line)
}

fn there<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn list_directory(path: &Path) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    let Some(entries) = there(fs::read_dir(path))? else { return Ok(names) };
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir()
            && let Ok(name) = entry.file_name().into_string()
        {
            names.push(name);
        }
    }
    Ok(names)
}

fn write_durably(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let no_folder = || io::Error::new(io::ErrorKind::InvalidInput, "it has no folder");
    let folder = path.parent().ok_or_else(no_folder)?;
    if !folder.is_dir() {
        fs::create_dir_all(folder)?;
        // The folder itself is durable once the one around it is.
        if let Some(around) = folder.parent().filter(|around| !around.as_os_str().is_empty()) {
            File::open(around)?.sync_all()?;
        }
    }
    let temporary = path.with_extension("tmp");
    let mut file = File::create(&temporary)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&temporary, path)?;
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::tests::manifest;

    fn chain() -> Vec<Manifest> {
        let full = manifest();
        let next = |id: &str, parent: &Manifest| {
            let mut next =
                Manifest { id: id.into(), kind: Kind::Incremental, parent: Some(parent.id.clone()), ..parent.clone() };
            next.after = parent.through;
            next.through = parent.through + 3;
            next.segments[0].first = next.after + 1;
            next.segments[0].last = next.through;
            next
        };
        let second = next("c", &full);
        let third = next("d", &second);
        vec![full, second, third]
    }

    #[test]
    fn a_backup_is_found_with_those_that_it_goes_on_from() {
        let all = chain();
        let ids = |line: Vec<Manifest>| line.into_iter().map(|manifest| manifest.id).collect::<Vec<_>>();
        assert_eq!(ids(lineage(&all, &all[2]).expect("whole")), ["b", "c", "d"]);
        assert_eq!(ids(lineage(&all, &all[0]).expect("whole")), ["b"]);
        assert!(matches!(lineage(&all[1..], &all[2]), Err(Error::NotFound(_))));
        for change in [
            (|manifest| manifest.through_hash = "0".repeat(31) + "1") as fn(&mut Manifest),
            |manifest| manifest.cluster = "another".into(),
            |manifest| manifest.through += 1,
        ] {
            let mut changed = chain();
            change(&mut changed[0]);
            assert!(matches!(lineage(&changed, &changed[2]), Err(Error::Damaged { .. })));
        }
        let mut circle = chain();
        circle[0].parent = Some("d".into());
        assert!(lineage(&circle, &circle[2]).is_err(), "a circle ends");
    }

    #[tokio::test]
    async fn what_was_put_into_a_directory_is_there() {
        let directory = tempfile::tempdir().expect("a directory");
        let place = Place::open(directory.path().join("new/place").to_str().expect("UTF-8")).expect("a path");
        assert!(place.backups().await.expect("nothing is there yet").is_empty());
        place.put("b/manifest.json", manifest().encode().expect("written").into()).await.expect("written");
        place
            .put("i/progress.json", Manifest { id: "i".into(), ..manifest() }.encode().expect("written").into())
            .await
            .expect("written");
        place.put("z/manifest.json", Bytes::from_static(b"{}")).await.expect("written");
        place.put("other/file", Bytes::from_static(b"x")).await.expect("written");
        let found = place.backups().await.expect("readable");
        let states: Vec<_> = found.iter().map(|found| (found.id.as_str(), &found.state)).collect();
        assert!(matches!(
            states.as_slice(),
            [("b", State::Complete(_)), ("i", State::Incomplete(_)), ("z", State::Unreadable(_))]
        ));
        assert_eq!(place.size("other/file").await.expect("readable"), Some(1));
        place.remove("other/file").await.expect("removed");
        place.remove("other/file").await.expect("it is gone already");
        assert_eq!(place.get("other/file").await.expect("readable"), None);
        assert!(Place::open("ftp://x").is_err());
    }
}
