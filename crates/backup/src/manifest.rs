//! What a backup is, in one small file.
//!
//! `manifest.json` holds the manifest and the SHA-256 of its text, so that a manifest
//! that was cut or changed is no manifest. While a backup is being made the same lies in
//! `progress.json`, with what is complete so far.

use annals_core::{Position, Timestamp, rfc3339};
use annals_store::ChainHash;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::error::Error;
use crate::segment::sha256;

/// The version of manifests and segments that is written, and the newest that is read.
pub const FORMAT: u32 = 1;

/// The file that makes a backup complete.
pub(crate) const FILE: &str = "manifest.json";
/// The same of one that is not.
pub(crate) const PROGRESS: &str = "progress.json";

/// Where a backup begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// At the start of the log.
    Full,
    /// Where another one ends.
    Incremental,
}

impl Kind {
    /// `full` or `incremental`.
    pub fn as_str(self) -> &'static str {
        match self {
            Kind::Full => "full",
            Kind::Incremental => "incremental",
        }
    }
}

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// [`FORMAT`].
    pub format: u32,
    /// Names the backup within its place.
    pub id: String,
    /// Where it begins.
    pub kind: Kind,
    /// The backup that it continues.
    pub parent: Option<String>,
    /// The cluster that it was taken from.
    pub cluster: String,
    /// RFC 3339.
    pub began: String,
    /// RFC 3339.
    pub ended: String,
    /// It holds the events after this position ...
    pub after: u64,
    /// ... where the chain hash is this one ...
    pub after_hash: String,
    /// ... up to this position ...
    pub through: u64,
    /// ... where it is this one.
    pub through_hash: String,
    /// When the last event in it was created, in ticks; what is known of its parent
    /// where it has none.
    pub through_created: u64,
    /// Events.
    pub events: u64,
    /// Bytes of their records.
    pub record_bytes: u64,
    /// Bytes of the files.
    pub file_bytes: u64,
    /// How far the log was reclaimed when the backup began. Events before `after` that
    /// were reclaimed since are still whole in the backups before this one.
    pub reclaimed: Option<Reclaimed>,
    /// The files, in order.
    pub segments: Vec<Segment>,
}

/// See [`Manifest::reclaimed`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reclaimed {
    /// The last scavenge.
    pub scavenge: String,
    /// Up to where it had looked.
    pub position: u64,
    /// Events that it had reclaimed.
    pub events: u64,
}

/// A file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Segment {
    /// Its name, beside the manifest.
    pub file: String,
    /// The position of its first event.
    pub first: u64,
    /// The position of its last event.
    pub last: u64,
    /// Bytes of the records in it.
    pub record_bytes: u64,
    /// Its own bytes.
    pub file_bytes: u64,
    /// Of the file, 64 hexadecimal digits.
    pub sha256: String,
    /// The chain hash at its last event.
    pub hash: String,
    /// When its last event was created, in ticks.
    pub created: u64,
}

#[derive(Serialize, Deserialize)]
struct Sealed {
    sha256: String,
    manifest: Box<RawValue>,
}

impl Manifest {
    /// The bytes of its file.
    pub(crate) fn encode(&self) -> Result<Vec<u8>, Error> {
        let invalid = |error: serde_json::Error| Error::Invalid(error.to_string());
        let text = serde_json::to_string_pretty(self).map_err(invalid)?;
        let sealed =
            Sealed { sha256: sha256(text.as_bytes()), manifest: RawValue::from_string(text).map_err(invalid)? };
        let mut bytes = serde_json::to_vec(&sealed).map_err(invalid)?;
        bytes.push(b'\n');
        Ok(bytes)
    }

    /// The manifest in these bytes, which come from this file.
    pub(crate) fn decode(file: &str, bytes: &[u8]) -> Result<Manifest, Error> {
        let sealed: Sealed = serde_json::from_slice(bytes).map_err(|error| Error::damaged(file, error.to_string()))?;
        if sha256(sealed.manifest.get().as_bytes()) != sealed.sha256 {
            return Err(Error::damaged(file, "its text does not match its checksum"));
        }
        #[derive(Deserialize)]
        struct Version {
            format: u32,
        }
        let Version { format } =
            serde_json::from_str(sealed.manifest.get()).map_err(|error| Error::damaged(file, error.to_string()))?;
        if format == 0 || format > FORMAT {
            return Err(Error::Invalid(format!(
                "{file} has format {format}, this release reads formats up to {FORMAT}: use a newer annals"
            )));
        }
        let manifest: Manifest =
            serde_json::from_str(sealed.manifest.get()).map_err(|error| Error::damaged(file, error.to_string()))?;
        manifest.check().map_err(|why| Error::damaged(file, why))?;
        Ok(manifest)
    }

    /// Whether its parts fit each other.
    fn check(&self) -> Result<(), String> {
        let mut at = self.after;
        for segment in &self.segments {
            if segment.first != at + 1 || segment.last < segment.first {
                return Err(format!("its file {} does not go on after position {at}", segment.file));
            }
            let is_plain = !segment.file.is_empty() && !segment.file.contains(['/', '\\']) && segment.file != "..";
            if !is_plain {
                return Err(format!("{} is no name of a file", segment.file));
            }
            at = segment.last;
        }
        if at != self.through {
            return Err(format!("its files end at position {at}, not at {}", self.through));
        }
        if (self.kind == Kind::Full) != (self.after == 0) || (self.kind == Kind::Full) != self.parent.is_none() {
            return Err("it is neither full nor incremental".into());
        }
        Ok(())
    }

    /// Where it begins, with the chain hash there.
    ///
    /// # Errors
    /// [`Error::Damaged`].
    pub fn begins(&self) -> Result<(Position, ChainHash), Error> {
        Ok((Position::new(self.after), parse_hash(&self.after_hash)?))
    }

    /// When it ended, in ticks.
    pub fn ended_ticks(&self) -> u64 {
        rfc3339::parse(&self.ended).map_or(0, Timestamp::ticks)
    }

    /// When it began, in ticks.
    pub fn began_ticks(&self) -> u64 {
        rfc3339::parse(&self.began).map_or(0, Timestamp::ticks)
    }
}

/// The chain hash in 32 hexadecimal digits.
pub(crate) fn parse_hash(text: &str) -> Result<ChainHash, Error> {
    let is_hash = text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    let number = u128::from_str_radix(text, 16).ok().filter(|_| is_hash);
    let number = number.ok_or_else(|| Error::damaged(FILE, format!("\"{text}\" is no chain hash")))?;
    Ok(ChainHash::from_bytes(number.to_be_bytes()))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn manifest() -> Manifest {
        Manifest {
            format: FORMAT,
            id: "b".into(),
            kind: Kind::Full,
            parent: None,
            cluster: "c".into(),
            began: "2024-02-29T12:34:56.0000000Z".into(),
            ended: "2024-02-29T12:34:57.0000000Z".into(),
            after: 0,
            after_hash: ChainHash::START.to_string(),
            through: 3,
            through_hash: ChainHash::START.to_string(),
            through_created: 9,
            events: 3,
            record_bytes: 30,
            file_bytes: 20,
            reclaimed: None,
            segments: vec![Segment {
                file: "f".into(),
                first: 1,
                last: 3,
                record_bytes: 30,
                file_bytes: 20,
                sha256: sha256(b""),
                hash: ChainHash::START.to_string(),
                created: 9,
            }],
        }
    }

    #[test]
    fn a_manifest_is_read_as_it_was_written_and_not_when_it_was_changed() {
        let bytes = manifest().encode().expect("it can be written");
        assert_eq!(Manifest::decode("m", &bytes).expect("it is one"), manifest());
        for at in 0..bytes.len() - 1 {
            let mut changed = bytes.clone();
            changed[at] ^= 1;
            assert!(Manifest::decode("m", &changed).is_err(), "byte {at}");
            assert!(Manifest::decode("m", &bytes[..at]).is_err(), "{at} bytes");
        }
    }

    #[test]
    fn parts_that_do_not_fit_are_refused() {
        let wrong: [fn(&mut Manifest); 6] = [
            |manifest| manifest.segments[0].first = 2,
            |manifest| manifest.through = 4,
            |manifest| manifest.segments[0].file = "../f".into(),
            |manifest| manifest.kind = Kind::Incremental,
            |manifest| manifest.parent = Some("p".into()),
            |manifest| manifest.format = FORMAT + 1,
        ];
        for change in wrong {
            let mut changed = manifest();
            change(&mut changed);
            assert!(Manifest::decode("m", &changed.encode().expect("written")).is_err(), "{changed:?}");
        }
    }
}
