//! A real node on disks that fail: it says why and ends, and nothing that it
//! acknowledged is lost. Each test also shows that the fault happened.
//!
//! Needs root, the programs, and the binary `annals` (see
//! [`annals_disks::node::binary`]).

use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use annals_disks::corruption::{Damage, Part};
use annals_disks::device_error::FailingVolume;
use annals_disks::full_disk::SmallVolume;
use annals_disks::image::{Check, check_image};
use annals_disks::io_error::{self, Attached, inject, inject_on, lying_sync, slow_sync};
use annals_disks::ledger::Ledger;
use annals_disks::node::{Node, Options, Started, binary};
use annals_disks::power_cut::{self, Plan};
use annals_disks::power_loss::Filesystem;
use annals_disks::rot::{Ending, Made, Specimen};
use annals_disks::{crash_points, tools};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

const PATIENCE: Duration = Duration::from_secs(20);
const BYTES: u64 = 2 << 30;

fn options(directory: &Path) -> Options {
    Options::new(&binary().expect("a binary"), directory).expect("a free port")
}

fn ready(options: &Options) -> Node {
    let mut node = Node::start(options).expect("started");
    let started = node.wait_ready(PATIENCE).expect("asked");
    assert!(matches!(started, Started::Ready(_)), "{started:?}");
    node
}

/// Appends until one fails; gives why, or nothing when none did.
fn append(node: &Node, ledger: &mut Ledger, count: usize, bytes: usize) -> Option<String> {
    for _ in 0..count {
        let sent = ledger.next(bytes);
        match node.append(&sent.stream, sent.id, sent.data, Duration::from_secs(5)) {
            Ok(position) => ledger.acked(position),
            Err(error) => return Some(format!("{error:#}")),
        }
    }
    None
}

/// It ends within `within`, with a message that names the error.
#[track_caller]
fn ends_and_says(node: &mut Node, within: Duration, error: &str) {
    let since = Instant::now();
    let status = node.wait_exit(within).expect("asked");
    let message = node.message();
    let status = status.unwrap_or_else(|| panic!("it runs on: {message}"));
    assert!(!status.success(), "{status}");
    assert!(message.contains(error), "after {:?}: {message}", since.elapsed());
}

/// Started without a fault it serves everything that it acknowledged.
fn recovers(options: &Options, ledger: &Ledger) {
    let options = options.clone().wrapped(Vec::new());
    let mut node = ready(&options);
    let events = node.read_all(PATIENCE).expect("readable");
    assert_eq!(ledger.verify(&events), Vec::<String>::new());
    let mut more = ledger.clone();
    assert_eq!(append(&node, &mut more, 10, 100), None);
    node.kill();
}

fn plan(filesystem: Filesystem) -> Plan {
    let small = [("memtable_bytes", "65536"), ("log_keep_entries", "20"), ("log_keep_bytes", "65536")];
    Plan {
        binary: binary().expect("a binary"),
        filesystem,
        appends: 160,
        event_bytes: 2_000,
        at_once: 8,
        pauses: 2,
        moments: 6,
        images: 4,
        seed: 11,
        settings: small.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec(),
        env: Vec::new(),
        wrapper: Vec::new(),
    }
}

fn a_power_cut_loses_nothing(filesystem: Filesystem) {
    let directory = tempfile::tempdir().expect("a directory");
    let report = power_cut::run(&plan(filesystem), directory.path()).expect("carried out");
    assert!(report.failures.is_empty(), "{report:#?}");
    assert!(!report.acked_without_power, "{report:#?}");
    assert!(report.ended_after_ms.is_some(), "it goes on without a disk: {report:#?}");
    assert_eq!((report.images, report.good), (24, 24), "{report:#?}");
    assert!(report.lossy_images > 0, "no image lost anything: {report:#?}");
}

#[test]
fn a_power_cut_loses_nothing_that_was_acknowledged_on_ext4() {
    a_power_cut_loses_nothing(Filesystem::Ext4);
}

#[test]
fn a_power_cut_loses_nothing_that_was_acknowledged_on_xfs() {
    a_power_cut_loses_nothing(Filesystem::Xfs);
}

#[test]
fn a_disk_that_lies_about_syncs_is_caught_by_a_power_cut() {
    let directory = tempfile::tempdir().expect("a directory");
    let trace = directory.path().join("trace");
    let plan = Plan { wrapper: lying_sync(&trace), moments: 2, images: 2, ..plan(Filesystem::Ext4) };
    let report = power_cut::run(&plan, directory.path()).expect("carried out");
    assert!(io_error::tampered(&trace) > 10, "no sync was tampered with");
    assert!(!report.failures.is_empty(), "{report:#?}");
}

/// The only segment of a short log.
fn log(data: &Path) -> PathBuf {
    let mut files = fs::read_dir(data.join("log")).expect("readable");
    files.next().expect("there is one").expect("readable").path()
}

/// What a power cut on ext4 leaves of a group of entries that was not synced:
/// the file has its length, the record's first page is there, the rest is
/// zeros. Exactly that, without a power cut: a node is killed as it syncs a
/// record of several pages, whose rest is then zeroed. Nothing of it was
/// acknowledged, so the node must start and serve all else.
#[test]
fn a_record_that_a_power_cut_tore_before_its_sync_does_not_keep_a_node_from_starting() {
    const PAGE: u64 = 4096;
    let directory = tempfile::tempdir().expect("a directory");
    let (options, trace) = (options(directory.path()), directory.path().join("trace"));
    let mut node = ready(&options.clone().wrapped(io_error::kill_at("fdatasync", 60, &trace)));
    let used = || {
        let bytes = fs::read(log(&options.data)).expect("readable");
        bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last as u64 + 1)
    };
    let mut ledger = Ledger::default();
    let mut synced = used();
    while append(&node, &mut ledger, 1, 12_000).is_none() {
        synced = used();
    }
    assert!(node.wait_exit(PATIENCE).expect("asked").is_some(), "it was not killed");
    let (tear, end) = ((synced / PAGE + 2) * PAGE, used());
    assert!(tear < end, "the last write, from {synced} to {end}, has no second page");
    let zeros = vec![0; usize::try_from(end - tear).expect("a few pages")];
    let torn = File::options().write(true).open(log(&options.data)).and_then(|file| file.write_all_at(&zeros, tear));
    torn.expect("writable");
    recovers(&options, &ledger);
}

/// A file system in memory that has no `O_DIRECT`, until it is dropped.
struct Ramfs(PathBuf);

impl Ramfs {
    fn mount(at: PathBuf) -> Ramfs {
        fs::create_dir(&at).expect("writable");
        tools::run("mount", &["-t", "ramfs", "none", &at.display().to_string()]).expect("mounted");
        Ramfs(at)
    }
}

impl Drop for Ramfs {
    fn drop(&mut self) {
        let _ = tools::run("umount", &[&self.0]);
    }
}

#[test]
fn a_file_system_without_direct_io_serves_as_well() {
    let directory = tempfile::tempdir().expect("a directory");
    let mounted = Ramfs::mount(directory.path().join("mount"));
    let direct = rustix::fs::open(mounted.0.join("direct"), OFlags::RDWR | OFlags::CREATE | OFlags::DIRECT, Mode::RUSR);
    assert_eq!(direct.map(drop), Err(Errno::INVAL), "it has direct I/O");
    // It says of itself that it has no space.
    let options = options(&mounted.0).set("memtable_bytes", 65_536).set("disk_reserve_bytes", 0);
    let mut node = ready(&options);
    let mut ledger = Ledger::default();
    assert_eq!(append(&node, &mut ledger, 100, 10_000), None);
    node.kill();
    recovers(&options, &ledger);
}

#[test]
fn an_image_is_judged_in_a_network_of_its_own() {
    let directory = tempfile::tempdir().expect("a directory");
    let options = options(directory.path());
    let mut ledger = Ledger::default();
    let mut node = ready(&options);
    assert_eq!(append(&node, &mut ledger, 20, 100), None);
    let (_, hash) = node.hash(None, PATIENCE).expect("a hash");
    node.kill();
    let (binary, address) = (binary().expect("a binary"), options.address.to_string());
    let check =
        Check { binary: &binary, data: &options.data, scratch: directory.path(), address: &address, alone: true };
    let verdict = check_image(&check).expect("started");
    assert!(verdict.is_clear() && verdict.ready, "{verdict:?}");
    assert_eq!((verdict.tail, verdict.hash), (Some(20), Some(hash)));
    let damaged =
        File::options().write(true).open(log(&options.data)).and_then(|file| file.write_all_at(&[0; 4096], 0));
    damaged.expect("writable");
    let verdict = check_image(&check).expect("started");
    assert!(verdict.is_clear() && !verdict.opens && verdict.refusal.is_some(), "{verdict:?}");
}

#[test]
fn after_a_sync_of_the_log_that_failed_a_node_ends_at_once() {
    let directory = tempfile::tempdir().expect("a directory");
    let (options, trace) = (options(directory.path()), directory.path().join("trace"));
    let mut ledger = Ledger::default();
    let mut node = ready(&options.clone().wrapped(inject("fdatasync", "error=EIO:when=50", &trace)));
    assert!(append(&node, &mut ledger, 200, 500).is_some(), "no append met the error");
    ends_and_says(&mut node, Duration::from_secs(1), "Input/output error");
    assert_eq!(io_error::tampered(&trace), 1);
    assert!(ledger.acks() > 10, "{}", ledger.acks());
    recovers(&options, &ledger);
}

#[test]
fn after_a_write_to_the_log_without_space_a_node_ends_at_once() {
    let directory = tempfile::tempdir().expect("a directory");
    let (options, trace) = (options(directory.path()), directory.path().join("trace"));
    let mut ledger = Ledger::default();
    let mut node = ready(&options);
    assert_eq!(append(&node, &mut ledger, 1, 500), None);
    node.terminate(PATIENCE).expect("asked").expect("stopped");
    let wrapper = inject_on(&[log(&options.data)], "pwrite64", "error=ENOSPC:when=40+", &trace);
    let mut node = ready(&options.clone().wrapped(wrapper));
    assert!(append(&node, &mut ledger, 200, 500).is_some(), "no append met the error");
    ends_and_says(&mut node, Duration::from_secs(1), "No space left");
    assert!(io_error::tampered(&trace) > 0);
    recovers(&options, &ledger);
}

#[test]
fn errors_can_be_brought_to_a_node_that_runs() {
    let directory = tempfile::tempdir().expect("a directory");
    let (options, trace) = (options(directory.path()), directory.path().join("trace"));
    let mut ledger = Ledger::default();
    let mut node = ready(&options);
    assert_eq!(append(&node, &mut ledger, 20, 500), None);
    let attached = Attached::to(node.pid(), "fdatasync,fsync", "error=EIO", &trace).expect("attached");
    assert!(append(&node, &mut ledger, 20, 500).is_some(), "no append met the error");
    ends_and_says(&mut node, Duration::from_secs(1), "Input/output error");
    drop(attached);
    assert!(io_error::tampered(&trace) > 0);
    recovers(&options, &ledger);
}

#[test]
fn a_node_runs_on_when_the_tampering_ends() {
    let directory = tempfile::tempdir().expect("a directory");
    let (options, trace) = (options(directory.path()), directory.path().join("trace"));
    let mut ledger = Ledger::default();
    let mut node = ready(&options);
    let slow = Attached::to(node.pid(), "fdatasync", "delay_enter=50000", &trace).expect("attached");
    let since = Instant::now();
    assert_eq!(append(&node, &mut ledger, 5, 500), None);
    assert!(since.elapsed() >= Duration::from_millis(250), "{:?}", since.elapsed());
    drop(slow);
    assert_eq!(append(&node, &mut ledger, 50, 500), None);
    node.kill();
    recovers(&options, &ledger);
}

#[test]
fn a_slow_disk_makes_appends_slow_and_nothing_else() {
    let directory = tempfile::tempdir().expect("a directory");
    let (options, trace) = (options(directory.path()), directory.path().join("trace"));
    let mut ledger = Ledger::default();
    let mut node = ready(&options.clone().wrapped(slow_sync(Duration::from_millis(50), &trace)));
    let since = Instant::now();
    assert_eq!(append(&node, &mut ledger, 20, 500), None);
    assert!(since.elapsed() >= Duration::from_secs(1), "{:?}", since.elapsed());
    node.kill();
    recovers(&options, &ledger);
}

/// The reason why a node must never sync again after a sync that failed.
#[test]
fn a_device_that_failed_for_a_moment_lets_the_next_sync_lie() {
    let directory = tempfile::tempdir().expect("a directory");
    let volume =
        FailingVolume::create(directory.path(), "volume", 1 << 29, Filesystem::Ext4, Duration::ZERO).expect("made");
    let path = volume.mount_point().join("file");
    let mut file = File::create(&path).expect("writable");
    file.write_all(&[1; 4096]).and_then(|()| file.sync_all()).expect("the device works");
    File::open(volume.mount_point()).and_then(|mount| mount.sync_all()).expect("the device works");
    // In the first block, so that no metadata has to reach the disk later.
    std::os::unix::fs::FileExt::write_all_at(&file, &[2; 4096], 0).expect("into the page cache");
    volume.fail().expect("told");
    assert!(file.sync_data().is_err());
    volume.heal().expect("told");
    assert!(file.sync_data().is_ok(), "the kernel does not forget any more: a better kernel");
    drop(file);
    volume.remount().expect("mounted again");
    assert_eq!(fs::read(&path).expect("readable")[0], 1, "what was synced successfully was written");
}

#[test]
fn a_device_that_failed_for_a_moment_ends_a_node_and_loses_nothing_acknowledged() {
    let directory = tempfile::tempdir().expect("a directory");
    let volume =
        FailingVolume::create(directory.path(), "volume", BYTES, Filesystem::Ext4, Duration::ZERO).expect("made");
    let mut options = options(directory.path());
    options.data = volume.data();
    let mut ledger = Ledger::default();
    let mut node = ready(&options);
    assert_eq!(append(&node, &mut ledger, 50, 500), None);
    volume.fail().expect("told");
    assert!(append(&node, &mut ledger, 50, 500).is_some(), "no append met the error");
    volume.heal().expect("told");
    ends_and_says(&mut node, Duration::from_secs(1), "Input/output error");
    volume.remount().expect("mounted again");
    recovers(&options, &ledger);
}

#[test]
fn a_full_disk_ends_a_node_or_refuses_appends_and_with_space_it_is_back() {
    let directory = tempfile::tempdir().expect("a directory");
    let volume = SmallVolume::ext4(directory.path(), "volume", BYTES).expect("made");
    let mut options = options(directory.path()).set("memtable_bytes", 65_536);
    options.data = volume.data();
    let mut ledger = Ledger::default();
    let mut node = ready(&options);
    assert_eq!(append(&node, &mut ledger, 50, 2_000), None);
    volume.fill(0).expect("filled");
    let why = append(&node, &mut ledger, 5_000, 2_000).expect("an append met the full disk");
    if let Some(status) = node.wait_exit(Duration::from_secs(2)).expect("asked") {
        assert!(!status.success() && node.message().contains("No space left"), "{status}: {}", node.message());
    } else {
        assert!(why.contains("disk") || why.contains("space"), "{why}");
        volume.free().expect("freed");
        let again = || append(&node, &mut ledger, 10, 2_000).is_none();
        tools::eventually("appends are taken again", PATIENCE, again).expect("without a restart");
    }
    node.kill();
    volume.free().expect("freed");
    recovers(&options, &ledger);
}

#[test]
fn a_node_on_a_disk_that_is_full_says_so_or_serves() {
    let directory = tempfile::tempdir().expect("a directory");
    let volume = SmallVolume::ext4(directory.path(), "volume", BYTES).expect("made");
    let mut options = options(directory.path());
    options.data = volume.data();
    let mut ledger = Ledger::default();
    let mut node = ready(&options);
    assert_eq!(append(&node, &mut ledger, 50, 2_000), None);
    node.terminate(PATIENCE).expect("asked").expect("stopped");
    volume.fill(0).expect("filled");
    let mut node = Node::start(&options).expect("started");
    match node.wait_ready(PATIENCE).expect("asked") {
        Started::Exited { message, .. } => assert!(message.contains("No space left"), "{message}"),
        Started::Ready(_) => {
            let events = node.read_all(PATIENCE).expect("readable");
            assert_eq!(ledger.verify(&events), Vec::<String>::new());
        }
        Started::NotReady { message } => panic!("{message}"),
    }
    node.kill();
    volume.free().expect("freed");
    recovers(&options, &ledger);
}

#[test]
fn a_file_that_rots_is_noticed_or_harmless() {
    let directory = tempfile::tempdir().expect("a directory");
    let specimen = Specimen::make(&binary().expect("a binary"), directory.path(), Ending::Orderly).expect("made");
    let mut noticed = 0;
    for (part, seed) in Part::ALL.into_iter().zip(0..) {
        for damage in Damage::ALL {
            let Some(case) = specimen.try_damage(part, damage, seed).expect("carried out") else { continue };
            assert!(!case.is_failure(), "{case:#?}");
            noticed += u32::from(case.made != Made::Served);
        }
    }
    assert!(noticed >= 16, "only {noticed} damages were noticed");
}

#[test]
fn a_node_recovers_from_a_kill_at_some_of_its_system_calls() {
    let directory = tempfile::tempdir().expect("a directory");
    let plan = crash_points::Plan {
        binary: binary().expect("a binary"),
        env: Vec::new(),
        directory: directory.path().to_owned(),
        every: 150,
        seed: 7,
    };
    let report = crash_points::run(&plan).expect("carried out");
    assert!(report.failures.is_empty(), "{report:#?}");
    assert!(report.killed * 2 > report.points && report.killed > 5, "{report:#?}");
}
