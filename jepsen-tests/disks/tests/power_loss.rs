//! A writer that syncs loses nothing in any crash image, one that does not
//! loses almost everything: without the second the first would prove nothing.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::Path;

use annals_disks::power_loss::{Cut, Filesystem, Volume, power_off_all};

const RECORDS: u64 = 300;
const BYTES: u64 = 1 << 30;

fn record(number: u64) -> [u8; 100] {
    let mut record = [b'.'; 100];
    record[..8].copy_from_slice(&number.to_le_bytes());
    record
}

/// How many records are there, in order and whole.
fn records(path: &Path) -> u64 {
    let bytes = fs::read(path).unwrap_or_default();
    bytes.chunks(100).zip(0..).take_while(|(bytes, number)| *bytes == record(*number)).count() as u64
}

/// Writes records and gives the volume after its power was cut.
fn write_and_cut(directory: &Path, filesystem: Filesystem, sync: bool) -> Cut {
    let mut volume = Volume::create(directory, "volume", BYTES, filesystem).expect("root and the programs are there");
    let mount = volume.mount_point();
    let mut file = File::create(mount.join("records")).expect("writable");
    for number in 0..RECORDS {
        file.write_all(&record(number)).expect("writable");
        if sync {
            file.sync_data().expect("it has power");
        }
        if number == 0 {
            // The directory entry too, or a writer that syncs loses the file.
            File::open(&mount).and_then(|mount| mount.sync_all()).expect("it has power");
        }
    }
    power_off_all([&mut volume]).expect("it had power");
    file.write_all(&record(RECORDS)).expect("into the page cache");
    file.sync_data().expect_err("nothing can be synced without power");
    drop(file);
    volume.cut().expect("a readable log")
}

fn survivors(mut cut: Cut, directory: &Path, count: u64) -> Vec<u64> {
    let images = cut.images(1, count).expect("images");
    let survivor = |(number, image): (usize, annals_disks::power_loss::CrashImage)| {
        let restored = image.restore(directory, &format!("image-{number}")).expect("restored");
        let volume = restored.mounted().expect("a journal is replayed whatever the cut left");
        let found = records(&volume.mount_point().join("records"));
        volume.discard().expect("removed");
        found
    };
    images.into_iter().enumerate().map(survivor).collect()
}

fn a_synced_record_survives(filesystem: Filesystem) {
    let directory = tempfile::tempdir().expect("a directory");
    let cut = write_and_cut(directory.path(), filesystem, true);
    let survivors = survivors(cut, directory.path(), 8);
    assert!(survivors.iter().all(|found| *found >= RECORDS), "{survivors:?}");
}

fn a_record_that_was_not_synced_is_lost(filesystem: Filesystem) {
    let directory = tempfile::tempdir().expect("a directory");
    let cut = write_and_cut(directory.path(), filesystem, false);
    let survivors = survivors(cut, directory.path(), 8);
    assert!(survivors.iter().all(|found| *found < RECORDS / 2), "{survivors:?}");
}

#[test]
fn on_ext4_a_synced_record_survives_every_power_cut() {
    a_synced_record_survives(Filesystem::Ext4);
}

#[test]
fn on_xfs_a_synced_record_survives_every_power_cut() {
    a_synced_record_survives(Filesystem::Xfs);
}

#[test]
fn on_ext4_a_record_that_was_not_synced_is_lost() {
    a_record_that_was_not_synced_is_lost(Filesystem::Ext4);
}

#[test]
fn on_xfs_a_record_that_was_not_synced_is_lost() {
    a_record_that_was_not_synced_is_lost(Filesystem::Xfs);
}

#[test]
fn of_every_earlier_moment_there_is_an_image_with_what_was_synced_by_then() {
    let directory = tempfile::tempdir().expect("a directory");
    let volume = Volume::create(directory.path(), "volume", BYTES, Filesystem::Ext4).expect("made");
    let mut file = File::create(volume.mount_point().join("records")).expect("writable");
    let mut moments = Vec::new();
    for number in 0..40 {
        file.write_all(&record(number)).and_then(|()| file.sync_all()).expect("it has power");
        File::open(volume.mount_point()).and_then(|mount| mount.sync_all()).expect("it has power");
        moments.push((number + 1, volume.moment().expect("a log")));
    }
    drop(file);
    let mut cut = volume.cut().expect("a readable log");
    for (synced, moment) in moments.into_iter().step_by(7) {
        let image = cut.image_at(moment, synced).expect("an image");
        let volume = image.restore(directory.path(), &format!("at-{synced}")).expect("restored");
        let volume = volume.mounted().expect("mounted");
        let found = records(&volume.mount_point().join("records"));
        assert!((synced..=synced + 1).contains(&found), "{found} of {synced}");
    }
}

#[test]
fn an_image_can_lose_power_again() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut cut = write_and_cut(directory.path(), Filesystem::Ext4, true);
    let image = cut.image(7).expect("an image");
    let volume = image.restore(directory.path(), "second").expect("restored").mounted().expect("mounted");
    let mount = volume.mount_point();
    let mut file = File::create(mount.join("more")).expect("writable");
    file.write_all(b"more").and_then(|()| file.sync_all()).expect("it has power");
    File::open(&mount).and_then(|mount| mount.sync_all()).expect("it has power");
    drop(file);
    let mut cut = volume.cut().expect("a readable log");
    let volume = cut.image(8).expect("an image").restore(directory.path(), "third").expect("restored");
    let volume = volume.mounted().expect("mounted");
    assert!(records(&volume.mount_point().join("records")) >= RECORDS);
    assert_eq!(fs::read(volume.mount_point().join("more")).expect("readable"), b"more");
}

#[test]
fn nothing_is_left_mounted_attached_or_running() {
    let directory = tempfile::tempdir().expect("a directory");
    let here = directory.path().canonicalize().expect("it is there").display().to_string();
    drop(Volume::create(directory.path(), "volume", BYTES, Filesystem::Ext4).expect("made"));
    let mounts = fs::read_to_string("/proc/self/mounts").expect("readable");
    assert!(!mounts.contains(&here), "{mounts}");
    let devices = annals_disks::tools::run("losetup", &["-a"]).expect("listed");
    assert!(!devices.contains(&here), "{devices}");
}
