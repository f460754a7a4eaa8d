//! How much memory there is, and defaults that fit into it.
//!
//! A container has a limit of memory (its *cgroup*), and the kernel kills who goes beyond
//! it. Options that say how much memory something may take have defaults for a machine
//! with some GiB; where the limit is too small for them, all that are not set are made
//! smaller. What is set is never changed, and without a limit, or
//! with a large one, nothing is.

use std::fs;
use std::path::{Component, Path, PathBuf};

use annals_core::limits::MESSAGE_BYTES_MAX;

use crate::config::Config;
use crate::grpc::streams::APPENDS_RECEIVED_AT_ONCE;

const MIB: u64 = 1024 * 1024;

/// What budgets may take of the limit, in percent. The rest is for the process itself, its
/// connections, what lies between two budgets, and the kernel's cache of files.
const SHARE: u64 = 60;

/// A limit from which on there is none: what cgroups write for "none" (v1), and more than
/// any machine has.
const UNLIMITED: u64 = 1 << 60;

/// The least limit of memory that holds for this process, in bytes; none if there is none.
pub fn limit() -> Option<u64> {
    limit_below(Path::new("/"))
}

/// The same with the system's files below this directory.
fn limit_below(root: &Path) -> Option<u64> {
    let groups = fs::read_to_string(root.join("proc/self/cgroup")).ok()?;
    let mounted = root.join("sys/fs/cgroup");
    // `hierarchy:controllers:path`; version 2 is the hierarchy 0, without controllers.
    let limits = groups.lines().filter_map(|line| {
        let mut parts = line.splitn(3, ':');
        let (hierarchy, controllers, path) = (parts.next()?, parts.next()?, parts.next()?);
        if hierarchy == "0" && controllers.is_empty() {
            least(&mounted, path, "memory.max")
        } else if controllers.split(',').any(|controller| controller == "memory") {
            least(&mounted.join("memory"), path, "memory.limit_in_bytes")
        } else {
            None
        }
    });
    limits.min()
}

/// The least of the limits of a group and of those around it. What a container cannot see
/// is skipped: then its own group is the root of what it sees.
fn least(mounted: &Path, path: &str, file: &str) -> Option<u64> {
    let inside: PathBuf = Path::new(path).components().filter(|part| matches!(part, Component::Normal(_))).collect();
    let limit = |group: &Path| fs::read_to_string(mounted.join(group).join(file)).ok()?.trim().parse::<u64>().ok();
    inside.ancestors().filter_map(limit).filter(|limit| *limit < UNLIMITED).min()
}

/// An option that says how much memory something may take.
struct Budget {
    of: fn(&mut Config) -> &mut u64,
    /// Bytes that it needs to be of use.
    least: u64,
    /// How often that much may be taken.
    times: u64,
}

/// All of them. A message, and an append, of one event of the largest size always fits.
const BUDGETS: [Budget; 7] = [
    Budget { of: |config| &mut config.memtable_bytes, least: 4 * MIB, times: 1 },
    Budget { of: |config| &mut config.block_cache_bytes, least: 4 * MIB, times: 1 },
    Budget { of: |config| &mut config.ring_bytes, least: 2 * MIB, times: 1 },
    Budget { of: |config| &mut config.pages_bytes_max, least: 4 * MIB, times: 1 },
    Budget { of: |config| &mut config.receive_bytes_max, least: MESSAGE_BYTES_MAX as u64, times: 1 },
    Budget { of: |config| &mut config.append_queue_bytes, least: LARGEST, times: 1 },
    // Both generations of the protocol receive some at a time.
    Budget { of: |config| &mut config.append_bytes_max, least: LARGEST, times: 2 * APPENDS_RECEIVED_AT_ONCE as u64 },
];

/// Bytes of an append of one event of the largest size, in whole MiB.
const LARGEST: u64 = (MESSAGE_BYTES_MAX as u64).next_multiple_of(MIB);

impl Config {
    /// The defaults for a process with this limit of memory. [`Config::default`] without.
    ///
    /// Each budget has what it needs to be of use, and of what is left its part.
    pub fn defaults_within(limit: Option<u64>) -> Config {
        let mut config = Config::default();
        let Some(limit) = limit else { return config };
        let (planned, may_take) = (config.planned_bytes(), limit / 100 * SHARE);
        if planned <= may_take {
            return config;
        }
        let least: u64 = BUDGETS.iter().map(|budget| budget.least * budget.times).sum();
        let (left, wanted) = (may_take.saturating_sub(least), planned - least);
        for Budget { of, least, .. } in BUDGETS {
            let bytes = of(&mut config);
            // As `left` is below `wanted`, this is below what it was.
            let part = u128::from(*bytes - least) * u128::from(left) / u128::from(wanted);
            *bytes = least + u64::try_from(part).unwrap_or(0) / MIB * MIB;
        }
        config
    }

    /// Bytes that all budgets may take together.
    pub fn planned_bytes(&self) -> u64 {
        let mut config = self.clone();
        let taken = BUDGETS.map(|budget| (budget.of)(&mut config).saturating_mul(budget.times));
        taken.into_iter().fold(0, u64::saturating_add)
    }
}

/// Tells what is planned, and of a plan that is beyond the limit.
pub(crate) fn tell(config: &Config) {
    let (limit, planned) = (limit(), config.planned_bytes());
    let mib = |bytes: u64| bytes / MIB;
    tracing::info!(
        limit_mib = limit.map(mib),
        planned_mib = mib(planned),
        memtable_mib = mib(config.memtable_bytes),
        block_cache_mib = mib(config.block_cache_bytes),
        ring_mib = mib(config.ring_bytes),
        receive_mib = mib(config.receive_bytes_max),
        append_queue_mib = mib(config.append_queue_bytes),
        pages_mib = mib(config.pages_bytes_max),
        append_max_mib = mib(config.append_bytes_max),
        "memory is planned"
    );
    if let Some(limit) = limit.filter(|limit| planned > *limit) {
        tracing::warn!(
            limit_mib = mib(limit),
            planned_mib = mib(planned),
            "more memory is planned than the limit of this container: it may be killed under load; raise the limit, \
             or leave the options named before to their defaults"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn system(files: &[(&str, &str)]) -> Option<u64> {
        let root = tempfile::tempdir().expect("a directory");
        for (name, text) in files {
            let file = root.path().join(name);
            fs::create_dir_all(file.parent().expect("below the root")).expect("made");
            fs::write(file, text).expect("written");
        }
        limit_below(root.path())
    }

    #[test]
    fn the_least_limit_on_the_way_up_holds() {
        let group = ("proc/self/cgroup", "0::/kubepods/pod7/node\n");
        assert_eq!(system(&[group, ("sys/fs/cgroup/kubepods/pod7/node/memory.max", "max\n")]), None);
        let own = ("sys/fs/cgroup/kubepods/pod7/node/memory.max", "1073741824\n");
        assert_eq!(system(&[group, own]), Some(1 << 30));
        let around = ("sys/fs/cgroup/kubepods/pod7/memory.max", "536870912\n");
        assert_eq!(system(&[group, own, around]), Some(512 * MIB));
    }

    #[test]
    fn a_container_that_sees_only_its_own_group_finds_it_at_the_root() {
        let root = ("sys/fs/cgroup/memory.max", "536870912\n");
        for path in ["0::/\n", "0::/docker/abc\n", "0::/../../pod\n"] {
            assert_eq!(system(&[("proc/self/cgroup", path), root]), Some(512 * MIB), "{path}");
        }
    }

    #[test]
    fn version_1_is_read_as_well() {
        let group = ("proc/self/cgroup", "9:cpu,cpuacct:/x\n7:memory:/docker/abc\n0::/docker/abc\n");
        let limit = |text| system(&[group, ("sys/fs/cgroup/memory/memory.limit_in_bytes", text)]);
        assert_eq!(limit("268435456\n"), Some(256 * MIB));
        assert_eq!(limit("9223372036854771712\n"), None, "that is no limit");
        assert_eq!(limit("nonsense"), None);
    }

    #[test]
    fn without_cgroups_there_is_no_limit() {
        assert_eq!(system(&[]), None);
        assert_eq!(system(&[("proc/self/cgroup", "nonsense\n\n::\n")]), None);
    }

    #[test]
    fn defaults_stay_without_a_limit_and_with_a_large_one() {
        assert_eq!(Config::defaults_within(None), Config::default());
        assert_eq!(Config::defaults_within(Some(4 << 30)), Config::default());
    }

    #[test]
    fn what_is_planned_fits_into_a_small_container_and_is_valid() {
        let mut before = 0;
        for limit in [384, 512, 1_024, 2_048] {
            let config = Config::defaults_within(Some(limit * MIB));
            config.validate().unwrap_or_else(|error| panic!("{limit} MiB: {error}"));
            let planned = config.planned_bytes();
            assert!(planned <= limit * MIB / 10 * 6, "{limit} MiB: {planned}");
            assert!(planned > before, "{limit} MiB: more where there is more");
            before = planned;
        }
    }

    #[test]
    fn the_least_that_works_is_planned_for_where_nothing_fits() {
        let config = Config::defaults_within(Some(1));
        config.validate().expect("valid");
        assert!(config.planned_bytes() < 192 * MIB);
    }
}
