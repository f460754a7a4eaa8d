//! The wall clock of one node, without touching the machine's.
//!
//! A small library of our own (`wall_clock.c`) is loaded into the node's process before the C
//! library, and adds an offset that it shares with us through a file. Only the wall clock is
//! moved: timers of a program that waits in the kernel by the monotonic clock would hang if
//! that clock ran otherwise.
//!
//! Debian's `libfaketime` does the same for most programs, but not for ours: it allocates when
//! it is first asked for the time, which jemalloc does while it sets itself up, and so both
//! wait for each other for ever (its issue 130).

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use anyhow::{Context as _, Result};

const LIBRARY: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/wall_clock.so"));

/// Writes the library, for processes that are started with [`environment`].
pub(crate) fn install(library: &Path) -> Result<()> {
    std::fs::write(library, LIBRARY).with_context(|| format!("could not write {}", library.display()))
}

/// The environment of a process whose wall clock follows a file.
pub(crate) fn environment(library: &Path, file: &Path) -> [(String, String); 2] {
    [("LD_PRELOAD", library), ("WALL_CLOCK", file)].map(|(name, path)| (name.to_owned(), path.display().to_string()))
}

/// Sets the offset, for the next time that the clock is asked.
pub(crate) fn set(file: &Path, seconds: i64) -> Result<()> {
    let nanos = seconds.checked_mul(1_000_000_000).context("a clock is moved by less than 292 years")?;
    // In place, for who has mapped it; twice, so that half of it is seen to be that.
    let mut offsets = [0; 16];
    offsets[..8].copy_from_slice(&nanos.to_ne_bytes());
    offsets[8..].copy_from_slice(&nanos.to_ne_bytes());
    let write = || OpenOptions::new().create(true).truncate(false).write(true).open(file)?.write_all_at(&offsets, 0);
    write().with_context(|| format!("could not write {}", file.display()))
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead as _, BufReader, Write as _};
    use std::process::{Command, Stdio};
    use std::time::{SystemTime, UNIX_EPOCH};

    use super::*;

    /// The year is far enough away to be told from a slow machine.
    const YEAR: i64 = 365 * 24 * 60 * 60;

    #[test]
    fn a_process_that_runs_sees_its_clock_jump() -> Result<()> {
        let directory = tempfile::tempdir()?;
        let (library, file) = (directory.path().join("clock.so"), directory.path().join("clock"));
        install(&library)?;
        set(&file, 0)?;
        // `time`, `gettimeofday` and `clock_gettime`.
        let script = r#"while read -r _; do printf '%(%s)T %s %s\n' -1 "$EPOCHSECONDS" "$(date +%s)"; done"#;
        let mut shell = Command::new("bash")
            .args(["-c", script])
            .envs(environment(&library, &file))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let mut asked = shell.stdin.take().context("piped")?;
        let mut told = BufReader::new(shell.stdout.take().context("piped")?).lines();
        for offset in [0, YEAR, -YEAR, 1, 0] {
            set(&file, offset)?;
            asked.write_all(b"now\n")?;
            let line = told.next().context("it ended")??;
            let truth = i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs())?;
            for seen in line.split(' ') {
                let seen: i64 = seen.parse()?;
                assert!((seen - truth - offset).abs() < 60, "{line} at {truth}, moved by {offset}");
            }
        }
        drop(asked);
        assert!(shell.wait()?.success());
        Ok(())
    }
}
