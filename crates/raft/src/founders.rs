//! With whom a node is to start a cluster.
//!
//! The list is given (`bootstrap`), or found by looking at seeds ([`crate::join`]);
//! then it may change as nodes come and go. It is *frozen* before the node takes an
//! identity in a cluster of exactly these nodes, and written down: whatever crashes
//! afterwards, nobody of the list starts another cluster, and the coordinator goes on
//! with the same list. A node of which nothing is written down never founds anything
//! with an identity that it has: it belongs to a cluster that was there before.

use std::fs;
use std::io;
use std::path::Path;

use parking_lot::Mutex;

use crate::error::OpenError;
use crate::identity::write_durably;

const FILE: &str = "founders";
const FIRST_LINE: &str = "annals founders 1";

/// The list of a node, sorted. Empty: it starts none.
pub(crate) struct Founders(Mutex<List>);

#[derive(Clone, Debug, Default)]
struct List {
    addresses: Vec<String>,
    /// It changes no more.
    frozen: bool,
    /// It is in the data directory.
    written: bool,
}

impl Founders {
    /// What was written down, or else what was configured. What a node without an
    /// identity has written down led to nothing, and binds nobody.
    pub(crate) fn load(data: &Path, has_identity: bool, configured: &[String]) -> Result<Self, OpenError> {
        let path = data.join(FILE);
        let written = if has_identity { fs::read_to_string(&path) } else { Err(io::ErrorKind::NotFound.into()) };
        let list = match written {
            Ok(text) => match parse(&text) {
                Some(addresses) => List { addresses, frozen: true, written: true },
                None => {
                    let why = format!("the file {FILE} is not what was written");
                    return Err(OpenError::Damaged { path: data.to_owned(), why });
                }
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let mut addresses = configured.to_vec();
                addresses.sort();
                List { addresses, frozen: !configured.is_empty(), written: false }
            }
            Err(source) => return Err(OpenError::Io { action: "read", path, source }),
        };
        Ok(Founders(Mutex::new(list)))
    }

    /// The list, sorted.
    pub(crate) fn list(&self) -> Vec<String> {
        self.0.lock().addresses.clone()
    }

    /// Takes another list, unless this one is frozen. Answers the list that holds.
    pub(crate) fn propose(&self, addresses: Vec<String>) -> Vec<String> {
        let mut list = self.0.lock();
        if !list.frozen {
            list.addresses = addresses;
        }
        list.addresses.clone()
    }

    /// Freezes the list if it is this one, and writes it down. Durable on return.
    ///
    /// # Errors
    /// A sentence that says why not.
    pub(crate) fn freeze(&self, data: &Path, expected: &[String]) -> Result<(), String> {
        let mut list = self.0.lock();
        if list.addresses != expected {
            return Err(format!(
                "this node is to start a cluster with {}, not with {}",
                told(&list.addresses),
                told(expected)
            ));
        }
        if !list.written {
            write_durably(data, FILE, print(expected).as_bytes())
                .map_err(|error| format!("the list of first members could not be written: {error}"))?;
        }
        list.frozen = true;
        list.written = true;
        Ok(())
    }

    /// Whether an identity that the node has can come from starting this cluster.
    pub(crate) fn is_written(&self) -> bool {
        self.0.lock().written
    }
}

/// A list of addresses in a sentence.
pub(crate) fn told(addresses: &[String]) -> String {
    if addresses.is_empty() { "nobody".to_owned() } else { addresses.join(", ") }
}

fn print(addresses: &[String]) -> String {
    let body = format!("{FIRST_LINE}\n{}\n", addresses.join("\n"));
    let checksum = crc32c::crc32c(body.as_bytes());
    format!("{body}checksum {checksum:08x}\n")
}

fn parse(text: &str) -> Option<Vec<String>> {
    let addresses: Vec<String> = text.lines().skip(1).map(str::to_owned).collect();
    let (_, addresses) = addresses.split_last()?;
    // Printing is exact, so comparing the whole covers the checksum too.
    (print(addresses) == text).then(|| addresses.to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(addresses: &[&str]) -> Vec<String> {
        addresses.iter().map(|address| (*address).to_owned()).collect()
    }

    #[test]
    fn a_list_that_was_found_changes_until_it_is_frozen_and_then_outlives_the_process() {
        let dir = tempfile::tempdir().expect("a directory");
        let founders = Founders::load(dir.path(), true, &[]).expect("nothing there is fine");
        assert_eq!(founders.propose(list(&["a:1", "b:1"])), list(&["a:1", "b:1"]));
        assert_eq!(founders.propose(list(&["b:1", "c:1"])), list(&["b:1", "c:1"]));
        assert!(!founders.is_written());
        let refused = founders.freeze(dir.path(), &list(&["a:1", "b:1"])).expect_err("another list");
        assert_eq!(refused, "this node is to start a cluster with b:1, c:1, not with a:1, b:1");
        founders.freeze(dir.path(), &list(&["b:1", "c:1"])).expect("frozen");
        assert_eq!(founders.propose(Vec::new()), list(&["b:1", "c:1"]));

        let again = Founders::load(dir.path(), false, &[]).expect("readable");
        assert_eq!(again.propose(list(&["a:1"])), list(&["a:1"]), "no identity came out of it");
        let again = Founders::load(dir.path(), true, &[]).expect("readable");
        assert!(again.is_written());
        assert_eq!(again.propose(list(&["a:1"])), list(&["b:1", "c:1"]));
    }

    #[test]
    fn a_list_that_is_configured_is_what_holds_until_another_was_written() {
        let dir = tempfile::tempdir().expect("a directory");
        let founders = Founders::load(dir.path(), true, &list(&["b:1", "a:1"])).expect("readable");
        assert_eq!(founders.propose(Vec::new()), list(&["a:1", "b:1"]));
        assert!(!founders.is_written());
        founders.freeze(dir.path(), &list(&["a:1", "b:1"])).expect("frozen");
        let again = Founders::load(dir.path(), true, &list(&["z:1"])).expect("readable");
        assert_eq!(again.list(), list(&["a:1", "b:1"]));
    }

    #[test]
    fn a_changed_file_is_refused() {
        let dir = tempfile::tempdir().expect("a directory");
        let founders = Founders::load(dir.path(), true, &list(&["a:1"])).expect("readable");
        founders.freeze(dir.path(), &list(&["a:1"])).expect("frozen");
        let text = fs::read_to_string(dir.path().join(FILE)).expect("readable");
        for other in [text.replace("a:1", "b:1"), String::new(), format!("{text}a:2\n")] {
            fs::write(dir.path().join(FILE), other).expect("written");
            assert!(matches!(Founders::load(dir.path(), true, &[]), Err(OpenError::Damaged { .. })));
        }
    }
}
