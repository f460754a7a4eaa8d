//! The machine that a node runs on.

use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::fs::statfs;
use rustix::process::{Resource, getrlimit};

use super::{Check, Finding};

/// Descriptors that a node with some thousand connections needs.
const DESCRIPTORS_MIN: u64 = 16_384;

/// Flushes that are timed.
const FLUSHES: usize = 50;

/// An append waits for one flush on a quorum of nodes.
const FLUSH_SLOW: Duration = Duration::from_millis(10);

/// Free bytes below which a node refuses appends by default, and as many again.
const FREE_BYTES_MIN: u64 = 2 * 1024 * 1024 * 1024;

/// File systems by the number that `statfs` tells (linux/magic.h), which are no disk of
/// this machine.
const REMOTE: &[(i64, &str)] = &[
    (0x6969, "NFS"),
    (0xff53_4d42, "CIFS"),
    (0x517b, "SMB"),
    (0x0102_1997, "9P"),
    (0x6573_5546, "FUSE"),
    (0x0119_8303, "GlusterFS"),
];

/// The same, which are gone with the container or the machine.
const FLEETING: &[(i64, &str)] = &[(0x0102_1994, "tmpfs"), (0x794c_7630, "overlayfs")];

const DATA: Check = Check { name: "data", code: "ANN-3017" };
const DESCRIPTORS: Check = Check { name: "descriptors", code: "ANN-3015" };
const HUGE_PAGES: Check = Check { name: "huge pages", code: "ANN-3016" };

pub(super) fn look(data: &Path) -> Vec<Finding> {
    let mut findings = vec![descriptors()];
    if !data.is_dir() {
        findings.push(Finding::fail(
            DATA,
            format!("{} is no directory", data.display()),
            "name the node's data directory",
        ));
        return findings;
    }
    findings.push(file_system(data));
    findings.push(space(data));
    findings.push(flushes(data));
    findings.extend(huge_pages());
    findings
}

fn descriptors() -> Finding {
    let limit = getrlimit(Resource::Nofile).current;
    let found = limit.map_or_else(|| "no limit of open files".to_owned(), |limit| format!("{limit} open files"));
    match limit {
        Some(limit) if limit < DESCRIPTORS_MIN => Finding::warn(
            DESCRIPTORS,
            found,
            "raise it for the node's process: LimitNOFILE=65536 in its systemd unit; this is the limit of this shell",
        ),
        _ => Finding::pass(DESCRIPTORS, found),
    }
}

fn file_system(data: &Path) -> Finding {
    const CHECK: Check = Check { name: "file system", code: "ANN-3013" };
    let kind = match statfs(data) {
        Ok(found) => found.f_type,
        Err(error) => return Finding::fail(CHECK, format!("cannot ask for it: {error}"), "look at the mount"),
    };
    let named = |list: &[(i64, &'static str)]| list.iter().find(|(number, _)| *number == kind).map(|(_, name)| *name);
    if let Some(name) = named(REMOTE) {
        return Finding::warn(
            CHECK,
            name,
            "use a local disk: flushes and locks over a network are not always what they say",
        );
    }
    match named(FLEETING) {
        Some(name) => {
            Finding::fail(CHECK, name, "what is on it is gone with the machine or the container: mount a volume")
        }
        None => Finding::pass(CHECK, format!("local (type {kind:#x})")),
    }
}

fn space(data: &Path) -> Finding {
    const CHECK: Check = Check { name: "disk space", code: "ANN-3012" };
    let found = match statfs(data) {
        Ok(found) => found,
        Err(error) => return Finding::fail(CHECK, format!("cannot ask for it: {error}"), "look at the mount"),
    };
    let block = u64::try_from(found.f_bsize).unwrap_or(0);
    let (free, all) = (block.saturating_mul(found.f_bavail), block.saturating_mul(found.f_blocks));
    let text = format!("{:.1} of {:.1} GiB free", gib(free), gib(all));
    if free < FREE_BYTES_MIN {
        return Finding::fail(
            CHECK,
            text,
            "grow the volume: with less than disk_reserve_bytes free, appends are refused",
        );
    }
    if free < all / 5 {
        return Finding::warn(CHECK, text, "grow the volume, or delete and scavenge, before it is full");
    }
    Finding::pass(CHECK, text)
}

#[expect(clippy::cast_precision_loss, reason = "printed with one digit")]
fn gib(bytes: u64) -> f64 {
    bytes as f64 / 1024.0 / 1024.0 / 1024.0
}

fn flushes(data: &Path) -> Finding {
    const CHECK: Check = Check { name: "flushes", code: "ANN-3014" };
    let mut took = match time_flushes(data) {
        Ok(took) => took,
        Err(error) => {
            return Finding::fail(
                CHECK,
                format!("cannot write to {}: {error}", data.display()),
                "run this as the node's user",
            );
        }
    };
    took.sort_unstable();
    let (median, slowest) = (took[took.len() / 2], took[took.len() - 1]);
    let found = format!("median {median:.1?}, slowest {slowest:.1?} of {FLUSHES}");
    if median > FLUSH_SLOW {
        return Finding::warn(CHECK, found, "every append waits for a flush: use a disk with a power-safe cache");
    }
    Finding::pass(CHECK, found)
}

/// What the log does for each group of appends: some KiB, then a flush.
fn time_flushes(data: &Path) -> std::io::Result<Vec<Duration>> {
    let mut file = tempfile::Builder::new().prefix("doctor-").tempfile_in(data)?;
    (0..FLUSHES)
        .map(|_| {
            file.write_all(&[0; 4096])?;
            let begin = Instant::now();
            file.as_file().sync_data()?;
            Ok(begin.elapsed())
        })
        .collect()
}

fn huge_pages() -> Option<Finding> {
    let setting = fs::read_to_string("/sys/kernel/mm/transparent_hugepage/enabled").ok()?;
    Some(if setting.contains("[always]") {
        Finding::warn(
            HUGE_PAGES,
            "transparent huge pages are always used",
            "prefer madvise: they cost memory and pauses (echo madvise > /sys/kernel/mm/transparent_hugepage/enabled)",
        )
    } else {
        Finding::pass(HUGE_PAGES, "transparent huge pages only where asked for")
    })
}

#[cfg(test)]
mod tests {
    use super::super::Grade;
    use super::*;

    #[test]
    fn a_directory_that_is_not_there_fails() {
        let findings = look(Path::new("/nowhere/at/all"));
        assert!(findings.iter().any(|finding| finding.check == DATA && finding.grade == Grade::Fail));
    }

    #[test]
    fn every_check_says_something_about_a_directory() {
        let directory = tempfile::tempdir().expect("a directory");
        let findings = look(directory.path());
        for check in ["descriptors", "file system", "disk space", "flushes"] {
            assert!(findings.iter().any(|finding| finding.check.name == check && !finding.found.is_empty()), "{check}");
        }
        assert!(findings.iter().all(|finding| (finding.grade == Grade::Pass) == finding.advice.is_empty()));
        assert_eq!(fs::read_dir(directory.path()).expect("readable").count(), 0, "nothing is left behind");
    }
}
