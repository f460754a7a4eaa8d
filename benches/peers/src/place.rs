//! Where servers run: directories on a real disk, and ports.

use std::net::TcpListener;
use std::ops::Range;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context, bail};
use tempfile::TempDir;

/// Below the ports that the kernel hands out to outgoing connections: a node
/// that was killed must find its port free.
const PORTS: Range<u16> = 21_400..31_000;
const TMPFS: u64 = 0x0102_1994;

/// One directory that goes away with all that is in it.
pub(crate) struct Place {
    root: TempDir,
    tried: AtomicUsize,
}

impl Place {
    /// Below `$TMPDIR`, or `/var/tmp`.
    pub(crate) fn new() -> anyhow::Result<Self> {
        let parent = std::env::var_os("TMPDIR").map_or_else(|| PathBuf::from("/var/tmp"), PathBuf::from);
        if rustix::fs::statfs(&parent)?.f_type as u64 == TMPFS {
            bail!("{} is memory, not a disk: set TMPDIR", parent.display());
        }
        let root = tempfile::Builder::new().prefix("annals-compare.").tempdir_in(&parent)?;
        // PostgreSQL runs as another user and has to get to its own directory.
        std::fs::set_permissions(root.path(), std::fs::Permissions::from_mode(0o755))?;
        Ok(Self { root, tried: AtomicUsize::new(0) })
    }

    pub(crate) fn path(&self) -> &Path {
        self.root.path()
    }

    /// A new directory for one cluster.
    pub(crate) fn directory(&self) -> anyhow::Result<TempDir> {
        let directory = tempfile::Builder::new().prefix("cluster.").tempdir_in(self.path())?;
        std::fs::set_permissions(directory.path(), std::fs::Permissions::from_mode(0o755))?;
        Ok(directory)
    }

    /// A port nobody listens on. None is handed out twice before all were.
    pub(crate) fn port(&self) -> anyhow::Result<u16> {
        PORTS
            .filter_map(|_| PORTS.clone().nth(self.tried.fetch_add(1, Ordering::Relaxed) % PORTS.len()))
            .find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok())
            .context("no free port")
    }

    pub(crate) fn ports(&self, count: usize) -> anyhow::Result<Vec<u16>> {
        (0..count).map(|_| self.port()).collect()
    }
}
