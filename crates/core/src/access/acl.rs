//! The lists of names that rights are given to.

use bytes::{Buf, BufMut};
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::value::RawValue;
use std::collections::BTreeMap;

use super::Right;

/// For each right who has it; none where the list does not say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Acl([Option<Vec<String>>; 5]);

/// What holds of streams whose own metadata leaves a right open (`$settings`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Defaults {
    /// Of streams of applications.
    pub user: Acl,
    /// Of streams whose name begins with `$`.
    pub system: Acl,
}

/// One name or several.
#[derive(Deserialize)]
#[serde(untagged)]
enum Names {
    One(String),
    Many(Vec<String>),
    Other(IgnoredAny),
}

impl Acl {
    /// Bytes of all names together. A longer list counts as one that cannot be read:
    /// each node holds those of the streams in use in memory.
    pub const BYTES_MAX: usize = 16 * 1024;

    /// Nobody but administrators.
    fn closed() -> Self {
        Acl(std::array::from_fn(|_| Some(Vec::new())))
    }

    /// The value of `$acl` in a stream's metadata, if it has the key.
    pub fn in_metadata(json: &[u8]) -> Option<Self> {
        let fields: BTreeMap<String, Box<RawValue>> = serde_json::from_slice(json).ok()?;
        fields.get("$acl").map(|value| Acl::parse(value.get()))
    }

    /// The list in this JSON. What cannot be read gives the right to nobody.
    pub fn parse(json: &str) -> Self {
        if json.len() > Self::BYTES_MAX {
            return Self::closed();
        }
        let Ok(fields) = serde_json::from_str::<BTreeMap<String, Names>>(json) else { return Self::closed() };
        let mut acl = Acl::default();
        for right in Right::ALL {
            acl.0[right as usize] = fields.get(right.key()).map(|names| match names {
                Names::One(name) => vec![name.clone()],
                Names::Many(names) => names.clone(),
                Names::Other(_) => Vec::new(),
            });
        }
        acl
    }

    /// Who has a right; none where the list does not say.
    pub fn names(&self, right: Right) -> Option<&[String]> {
        self.0[right as usize].as_deref()
    }

    /// Puts the list's bytes at the end: which rights it has, and their names.
    pub fn put(&self, out: &mut Vec<u8>) {
        let said = Right::ALL.into_iter().filter(|right| self.names(*right).is_some());
        out.put_u8(said.fold(0, |set, right| set | 1 << right as u8));
        for names in self.0.iter().flatten() {
            out.put_u16_le(length(names.len()));
            for name in names {
                out.put_u16_le(length(name.len()));
                out.put_slice(name.as_bytes());
            }
        }
    }

    /// The list at the beginning of these bytes, which are what comes after it then.
    /// None: there is none that this version can read.
    pub fn take(bytes: &mut &[u8]) -> Option<Self> {
        let set = bytes.try_get_u8().ok().filter(|set| set >> Right::ALL.len() == 0)?;
        let mut acl = Acl::default();
        for right in Right::ALL.into_iter().filter(|right| set & 1 << *right as u8 != 0) {
            let count = bytes.try_get_u16_le().ok()?;
            // Each takes two bytes at least.
            let mut names = Vec::with_capacity(usize::from(count).min(bytes.len() / 2));
            for _ in 0..count {
                let len = usize::from(bytes.try_get_u16_le().ok()?);
                let (name, rest) = bytes.split_at_checked(len)?;
                names.push(std::str::from_utf8(name).ok()?.to_owned());
                *bytes = rest;
            }
            acl.0[right as usize] = Some(names);
        }
        Some(acl)
    }
}

/// Both fit: the whole list has at most [`Acl::BYTES_MAX`].
fn length(len: usize) -> u16 {
    u16::try_from(len).expect("a list of names is short")
}

impl Defaults {
    /// The defaults in the newest event of `$settings`. JSON that cannot be read
    /// counts as absent, as metadata does.
    pub fn parse(json: &[u8]) -> Self {
        let Ok(fields) = serde_json::from_slice::<BTreeMap<String, Box<RawValue>>>(json) else {
            return Defaults::default();
        };
        let of = |key: &str| fields.get(key).map(|value| Acl::parse(value.get())).unwrap_or_default();
        Defaults { user: of("$userStreamAcl"), system: of("$systemStreamAcl") }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_list_is_read_as_it_was_written(
            lists in proptest::array::uniform5(proptest::option::of(proptest::collection::vec(".{0,9}", 0..5))),
        ) {
            let acl = Acl(lists);
            let mut bytes = Vec::new();
            acl.put(&mut bytes);
            bytes.push(7);
            let mut rest = &bytes[..];
            prop_assert_eq!(Acl::take(&mut rest), Some(acl));
            prop_assert_eq!(rest, [7]);
            bytes.truncate(bytes.len() - 2);
            prop_assert_eq!(Acl::take(&mut &bytes[..]), None);
        }

        #[test]
        fn any_bytes_are_a_list_or_none(bytes: Vec<u8>) {
            let _ = Acl::take(&mut &bytes[..]);
        }
    }
}
