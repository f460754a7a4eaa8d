//! The wall clock of one node, without touching the machine's.
//!
//! `libfaketime` is loaded into the node's process and reads an offset from a
//! file, each time the clock is asked. Only the wall clock is faked: timers of
//! a program that waits in the kernel by the monotonic clock would hang if
//! that clock ran otherwise.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

/// Where the library may be.
const LIBRARIES: [&str; 3] = [
    "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1",
    "/usr/lib/aarch64-linux-gnu/faketime/libfaketimeMT.so.1",
    "/usr/lib64/faketime/libfaketimeMT.so.1",
];

/// The library, if it is installed.
pub fn library() -> Option<PathBuf> {
    LIBRARIES.iter().map(PathBuf::from).find(|path| path.exists())
}

/// The environment of a process whose wall clock follows a file.
pub(crate) fn environment(library: &Path, file: &Path) -> Vec<(String, String)> {
    [
        ("LD_PRELOAD", library.display().to_string()),
        ("FAKETIME_TIMESTAMP_FILE", file.display().to_string()),
        ("FAKETIME_NO_CACHE", "1".into()),
        ("DONT_FAKE_MONOTONIC", "1".into()),
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1".into()),
        // Times of files stay true; nobody but people reads them.
        ("NO_FAKE_STAT", "1".into()),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .into()
}

/// Sets the offset, for the next time that the clock is asked.
pub(crate) fn set(file: &Path, seconds: i64) -> Result<()> {
    // A reader sees the old or the new offset, never half a file.
    let beside = file.with_extension("new");
    std::fs::write(&beside, format!("{seconds:+}s\n"))
        .with_context(|| format!("could not write {}", beside.display()))?;
    std::fs::rename(&beside, file).with_context(|| format!("could not replace {}", file.display()))
}
