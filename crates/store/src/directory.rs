//! Where the current state is.
//!
//! A node's data directory holds states as `state-<n>/` and the file
//! `CURRENT_STATE`, which names the one that counts. Every other one is left
//! over: a catch-up that was not finished, or a state that was replaced by
//! one. The file is replaced by renaming, so that a crash at any moment leaves
//! it naming the old state or the new one, both whole.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use crate::error::OpenError;

const POINTER: &str = "CURRENT_STATE";
const PREFIX: &str = "state-";

/// A file or directory operation that failed.
#[derive(Debug)]
pub(crate) struct Failed {
    pub(crate) attempted: &'static str,
    pub(crate) path: PathBuf,
    pub(crate) source: io::Error,
}

impl From<Failed> for OpenError {
    fn from(Failed { attempted, path, source }: Failed) -> Self {
        OpenError::Io { attempted, path, source }
    }
}

/// The states in a data directory.
pub(crate) struct Directory {
    data: PathBuf,
}

impl Directory {
    /// The states in this data directory, which is made if it is not there.
    pub(crate) fn new(data: &Path) -> Result<Directory, Failed> {
        attempt("make", data, fs::create_dir_all(data))?;
        Ok(Directory { data: data.to_owned() })
    }

    /// The states in this data directory, which is left as it is.
    pub(crate) fn existing(data: &Path) -> Directory {
        Directory { data: data.to_owned() }
    }

    /// The directory of the state with this number.
    pub(crate) fn state(&self, number: u64) -> PathBuf {
        self.data.join(format!("{PREFIX}{number}"))
    }

    /// The file that names the current state.
    pub(crate) fn pointer(&self) -> PathBuf {
        self.data.join(POINTER)
    }

    /// The number of the current state; none if no state is named.
    pub(crate) fn current(&self) -> Result<Option<u64>, OpenError> {
        let path = self.pointer();
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(OpenError::Io { attempted: "read", path, source }),
        };
        number_of(text.trim_end()).map(Some).ok_or(OpenError::Pointer { path })
    }

    /// Makes this state the current one. Durable when it returns.
    pub(crate) fn point_to(&self, number: u64) -> Result<(), Failed> {
        let path = self.pointer();
        let next = path.with_extension("next");
        let write = || {
            let mut file = File::create(&next)?;
            writeln!(file, "{PREFIX}{number}")?;
            file.sync_all()
        };
        attempt("write", &next, write())?;
        attempt("replace", &path, fs::rename(&next, &path))?;
        // The rename is durable only once its directory is.
        attempt("sync", &self.data, File::open(&self.data).and_then(|directory| directory.sync_all()))
    }

    /// The numbers of all states that are there, ascending.
    pub(crate) fn states(&self) -> Result<Vec<u64>, Failed> {
        let list = || {
            let mut numbers = Vec::new();
            for entry in fs::read_dir(&self.data)? {
                numbers.extend(entry?.file_name().to_str().and_then(number_of));
            }
            numbers.sort_unstable();
            Ok(numbers)
        };
        attempt("list", &self.data, list())
    }

    /// Removes a state that does not count.
    pub(crate) fn remove(&self, number: u64) -> Result<(), Failed> {
        let path = self.state(number);
        attempt("remove", &path, fs::remove_dir_all(&path))
    }
}

fn number_of(name: &str) -> Option<u64> {
    let digits = name.strip_prefix(PREFIX)?;
    let number: u64 = digits.parse().ok()?;
    // Only the one way in which it is written: `state-+1` is not ours.
    (number.to_string() == digits).then_some(number)
}

fn attempt<T>(attempted: &'static str, path: &Path, result: io::Result<T>) -> Result<T, Failed> {
    result.map_err(|source| Failed { attempted, path: path.to_owned(), source })
}

/// The directory of an open state. Retired, it is removed when its last user
/// is gone.
pub(crate) struct Home {
    path: PathBuf,
    retired: AtomicBool,
}

impl Home {
    pub(crate) fn new(path: PathBuf) -> Self {
        Home { path, retired: AtomicBool::new(false) }
    }

    /// The state in it no longer counts.
    pub(crate) fn retire(&self) {
        self.retired.store(true, Ordering::Release);
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        if self.retired.load(Ordering::Acquire)
            && let Err(error) = fs::remove_dir_all(&self.path)
        {
            // Nothing depends on it: the next start tries again.
            tracing::warn!(directory = %self.path.display(), %error, "a replaced state could not be removed");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn directory() -> (tempfile::TempDir, Directory) {
        let temp = tempfile::tempdir().expect("a temporary directory");
        let directory = Directory::new(temp.path()).expect("it is there");
        (temp, directory)
    }

    #[test]
    fn the_state_that_was_pointed_to_last_is_the_current_one() {
        let (_temp, directory) = directory();
        assert_eq!(directory.current().expect("readable"), None);
        directory.point_to(1).expect("writable");
        directory.point_to(12).expect("writable");
        assert_eq!(directory.current().expect("readable"), Some(12));
    }

    #[test]
    fn a_pointer_that_names_no_state_is_refused() {
        let (_temp, directory) = directory();
        for text in ["", "state-", "state-01", "state-x", "../state-1", "log"] {
            fs::write(directory.pointer(), text).expect("writable");
            assert!(matches!(directory.current(), Err(OpenError::Pointer { .. })), "{text}");
        }
    }

    #[test]
    fn only_states_are_listed() {
        let (temp, directory) = directory();
        for name in ["state-2", "state-10", "state-x", "log", "state-1.next"] {
            fs::create_dir(temp.path().join(name)).expect("writable");
        }
        assert_eq!(directory.states().expect("readable"), [2, 10]);
    }
}
