//! Replicas that come and go: how one that has left begins anew.
//!
//! A replica with `leave_on_shutdown` asks to be taken out of its cluster when it stops in
//! order. What is in its data directory is of no use after that: its id is used up. Whoever
//! stopped it need not know: a kubelet whose liveness probe has failed starts the same
//! container again, with the same volume. So the replica says in a file, before it asks,
//! that it goes; a start that finds the file empties the directory and joins as any empty
//! node does. Nothing is lost, since a replica's acknowledgement counts for nothing: all
//! that it had, a quorum has.
//!
//! - The file is there before the cluster can have heard of it, and goes last. A crash at
//!   any point is one start more that empties the directory.
//! - Whether the cluster took the replica out may be unknown. The one that comes back has
//!   the same address and another incarnation, and is a replica again; the leader takes out
//!   the former one then ([`crate::admin`]).
//! - Only what a node makes is removed, and only where the node would leave again and
//!   knows seeds by which it finds back.

use std::fs::{self, File};
use std::io;
use std::path::Path;

use crate::config::Config;
use crate::error::OpenError;
use crate::identity::write_durably;

const FILE: &str = "leaving";

/// What a node makes in its data directory, but the lock and the file above.
const OURS: [&str; 8] = ["identity", "founders", "peers", "HEAD", "log", "CURRENT_STATE", "removed", "outdated"];

/// Says that this node is about to leave. Durable on return.
pub(crate) fn announce(data: &Path) -> io::Result<()> {
    write_durably(data, FILE, b"this replica leaves its cluster; its next start empties the directory and joins anew\n")
}

/// Empties the directory of a replica that has left. Its lock is held.
///
/// # Errors
/// [`OpenError::Io`]: the next attempt goes on from there.
pub(crate) fn begin_anew(config: &Config) -> Result<(), OpenError> {
    if !(config.replica && config.leave_on_shutdown && config.seeds.is_some() && config.data.join(FILE).exists()) {
        return Ok(());
    }
    tracing::info!("this replica had left its cluster: it joins anew, with nothing");
    empty(&config.data).map_err(|source| OpenError::Io {
        action: "empty the directory of a replica that had left,",
        path: config.data.clone(),
        source,
    })
}

fn empty(data: &Path) -> io::Result<()> {
    for entry in fs::read_dir(data)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if !OURS.contains(&name.as_str()) && !name.starts_with("state-") {
            continue;
        }
        if entry.file_type()?.is_dir() {
            fs::remove_dir_all(entry.path())?;
        } else {
            fs::remove_file(entry.path())?;
        }
    }
    let directory = File::open(data)?;
    // All of it is gone, durably, before what says that it has to go.
    directory.sync_all()?;
    fs::remove_file(data.join(FILE))?;
    directory.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_node_made_goes_and_everything_else_stays() {
        let data = tempfile::tempdir().expect("a directory");
        let data = data.path();
        for directory in ["log", "state-1", "lost+found", "mine"] {
            fs::create_dir(data.join(directory)).expect("made");
            fs::write(data.join(directory).join("file"), "x").expect("written");
        }
        for file in ["identity", "HEAD", "CURRENT_STATE", "removed", "LOCK", "local-token", "notes"] {
            fs::write(data.join(file), "x").expect("written");
        }
        announce(data).expect("written");
        empty(data).expect("emptied");
        let mut left: Vec<String> = fs::read_dir(data)
            .expect("readable")
            .map(|e| e.expect("an entry").file_name().into_string().expect("text"))
            .collect();
        left.sort();
        assert_eq!(left, ["LOCK", "local-token", "lost+found", "mine", "notes"]);
    }
}
