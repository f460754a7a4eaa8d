//! Logs that are written, left, and opened again.

use std::fs;
use std::path::Path;

use openraft::EntryPayload;
use rand::rngs::StdRng;
use rand::{Rng, RngCore, SeedableRng};

use super::*;
use crate::codec::LogIdForm;
use crate::types::Proposal;

fn log_id(term: u64, index: u64) -> LogId {
    LogIdForm { term, node: 1, index }.into()
}

fn entry(term: u64, index: u64, bytes: usize) -> Entry {
    let mut payload = vec![0; bytes];
    StdRng::seed_from_u64(index).fill_bytes(&mut payload);
    let mut entry = Entry { log_id: log_id(term, index), payload: EntryPayload::Normal(Proposal::new(payload.into())) };
    codec::seal_entry(&mut entry);
    entry
}

fn record(entry: &Entry) -> Record {
    Record::Entry(codec::encode_entry(entry))
}

fn open(directory: &Path) -> Writer {
    Writer::open(directory, scan(directory).expect("reads")).expect("opens")
}

fn names(directory: &Path) -> Vec<String> {
    let name = |item: io::Result<fs::DirEntry>| item.expect("reads").file_name().into_string().expect("text");
    let mut names: Vec<String> = fs::read_dir(directory).expect("reads").map(name).collect();
    names.sort();
    names
}

/// All entries from this one on.
fn read_all(segments: &Segments, mut next: u64, end: u64) -> Vec<Entry> {
    let mut entries = Vec::new();
    while next < end {
        let read = segments.read(next, end, 10_000).expect("reads");
        assert!(!read.is_empty(), "entry {next} is missing");
        next += read.len() as u64;
        entries.extend(read);
    }
    entries
}

/// What a log should be, beside the log: random changes, with reopening between
/// them, over many files.
#[test]
fn any_sequence_of_changes_is_there_again_after_reopening() {
    let mut most = 0;
    for seed in 0..6 {
        let directory = tempfile::tempdir().expect("a directory");
        let mut random = StdRng::seed_from_u64(seed);
        let mut writer = open(directory.path());
        let (mut expected, mut first, mut values): (Vec<Entry>, u64, Values) = (Vec::new(), 0, Values::default());
        for _ in 0..300 {
            let mut group = Vec::new();
            for _ in 0..random.random_range(1..4) {
                let next = first + expected.len() as u64;
                let change = match random.random_range(0..200) {
                    0..10 if !expected.is_empty() => {
                        let keep = random.random_range(0..expected.len());
                        expected.truncate(keep);
                        let last = expected.last().map(|entry| entry.log_id).or(values.purged);
                        Record::Truncated(first + keep as u64, last)
                    }
                    10..16 if expected.len() > 1 => {
                        let count = random.random_range(1..expected.len());
                        let upto = expected[count - 1].log_id;
                        expected.drain(..count);
                        first += count as u64;
                        Record::Purged(upto)
                    }
                    16 => {
                        let upto = log_id(1, next + random.random_range(0..50));
                        expected.clear();
                        first = upto.index() + 1;
                        Record::Emptied(upto)
                    }
                    17..30 => Record::Vote(Vote::new(random.random_range(0..9), 1)),
                    30..40 => Record::Snapshot(Bytes::from(vec![7; random.random_range(0..100)])),
                    _ => {
                        let large = random.random_range(0..30) == 0;
                        let entry = entry(1, next, random.random_range(0..if large { 3_000_000 } else { 400_000 }));
                        let record = record(&entry);
                        expected.push(entry);
                        record
                    }
                };
                values.follow(&change);
                group.push(change);
            }
            writer.write(&group, false).expect("writes");
            most = most
                .max(names(directory.path()).last().and_then(|name| Name::parse(name)).map_or(0, |name| name.number));
            if random.random_range(0..10) == 0 {
                drop(writer);
                let found = scan(directory.path()).expect("reads");
                assert!(found.torn.is_none());
                assert_eq!(found.values.vote, values.vote);
                assert_eq!(found.values.purged, values.purged);
                assert_eq!(found.values.snapshot, values.snapshot);
                assert_eq!(found.last(), expected.last().map(|entry| entry.log_id).or(values.purged));
                writer = Writer::open(directory.path(), found).expect("opens");
            }
            let end = first + expected.len() as u64;
            assert_eq!(read_all(&writer.segments(), first, end), expected, "seed {seed}");
        }
    }
    assert!(most > 2, "one or two files show little");
}

/// Entries that fill this many files, in groups of one.
fn filled(directory: &Path, files: usize) -> (Writer, u64) {
    let mut writer = open(directory);
    let mut next = 0;
    while names(directory).len() < files || next % 7 != 0 {
        writer.write(&[record(&entry(1, next, 1_000_000))], false).expect("writes");
        next += 1;
    }
    (writer, next)
}

#[test]
fn a_purged_file_is_written_again_and_what_it_held_is_not_found() {
    let directory = tempfile::tempdir().expect("a directory");
    let (mut writer, mut next) = filled(directory.path(), 7);
    let before = names(directory.path());
    writer.write(&[Record::Purged(log_id(1, next - 2))], true).expect("writes");
    assert_eq!(names(directory.path()).len(), 5, "the last and four to be written again");
    while names(directory.path()).iter().filter(|name| before.contains(name)).count() > 1 {
        writer.write(&[record(&entry(1, next, 1_000_000))], true).expect("writes");
        next += 1;
    }
    let lengths: Vec<u64> = names(directory.path())
        .iter()
        .map(|name| fs::metadata(directory.path().join(name)).expect("there").len())
        .collect();
    assert!(lengths.iter().all(|len| *len > SEGMENT_BYTES - 2_000_000), "{lengths:?}: the new ones are old ones");
    drop(writer);
    let found = scan(directory.path()).expect("reads");
    assert_eq!(found.last(), Some(log_id(1, next - 1)));
    assert!(found.torn.is_none());
}

#[test]
fn a_reader_keeps_a_file_from_being_written_again() {
    let directory = tempfile::tempdir().expect("a directory");
    let (mut writer, mut next) = filled(directory.path(), 2);
    let segments = writer.segments();
    let (_, held) = segments.files.lock().first_key_value().expect("there").1.clone();
    let mut before = vec![0; 1_000];
    held.read_exact_at(&mut before, 4_096).expect("reads");
    writer.write(&[Record::Purged(log_id(1, next - 2))], true).expect("writes");
    for _ in 0..40 {
        writer.write(&[record(&entry(1, next, 1_000_000))], true).expect("writes");
        next += 1;
    }
    let mut after = vec![0; 1_000];
    held.read_exact_at(&mut after, 4_096).expect("reads");
    assert_eq!(before, after);
}

#[test]
fn what_does_not_sync_a_new_length_is_written_into_blocks_that_are_there() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut writer = open(directory.path());
    let mut lengths = std::collections::BTreeSet::new();
    for index in 0..300 {
        writer.write(&[record(&entry(1, index, 100))], true).expect("writes");
        lengths.insert(fs::metadata(directory.path().join(&names(directory.path())[0])).expect("there").len());
    }
    assert!(lengths.len() <= 4, "{lengths:?}");
}

/// What opening says after this was done to a log of three files; each ends with a
/// handful of small frames.
fn after(damage: impl FnOnce(&Path, &[String])) -> Result<Scan, String> {
    let directory = tempfile::tempdir().expect("a directory");
    let (mut writer, next) = filled(directory.path(), 3);
    for index in next..next + 5 {
        writer.write(&[record(&entry(1, index, 100))], true).expect("writes");
    }
    drop(writer);
    damage(directory.path(), &names(directory.path()));
    scan(directory.path()).map_err(|error| error.to_string())
}

fn change(path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    let mut content = fs::read(path).expect("reads");
    change(&mut content);
    fs::write(path, content).expect("writes");
}

#[test]
fn damage_in_the_middle_is_refused() {
    for file in 0..3 {
        let refused = after(|directory, names| {
            change(&directory.join(&names[file]), |content| content[8_192..12_288].fill(0));
        });
        let error = refused.expect_err("damaged");
        assert!(error.contains("is damaged: others follow it") || error.contains("frame"), "{error}");
    }
}

#[test]
fn a_file_that_is_cut_or_gone_is_refused_unless_it_is_the_last() {
    for file in 0..2 {
        for cut in [0, 5_000, 10_000_000] {
            let refused =
                after(|directory, names| change(&directory.join(&names[file]), |content| content.truncate(cut)));
            assert!(refused.is_err(), "file {file} cut at {cut}");
        }
        assert!(after(|directory, names| fs::remove_file(directory.join(&names[file])).expect("removes")).is_err());
    }
    // What is lost of the last is for the witness to notice.
    let shorter = after(|directory, names| fs::remove_file(directory.join(&names[2])).expect("removes"));
    assert!(shorter.expect("reads").last() < after(|_, _| ()).expect("reads").last());
}

#[test]
fn a_torn_last_frame_is_dropped_and_written_over() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut writer = open(directory.path());
    writer.write(&[record(&entry(1, 0, 100))], true).expect("writes");
    writer.write(&[record(&entry(1, 1, 20_000))], true).expect("writes");
    drop(writer);
    let file = directory.path().join(&names(directory.path())[0]);
    change(&file, |content| content[8_192..12_288].fill(0));
    let found = scan(directory.path()).expect("reads");
    assert_eq!(found.last(), Some(log_id(1, 0)));
    assert_eq!(found.torn.as_ref().map(|torn| torn.offset), Some(4_096));
    let mut writer = Writer::open(directory.path(), found).expect("opens");
    writer.write(&[record(&entry(2, 1, 50))], true).expect("writes");
    drop(writer);
    let found = scan(directory.path()).expect("reads");
    assert_eq!(found.last(), Some(log_id(2, 1)));
    assert!(found.torn.is_none());
}

#[test]
fn a_changed_bit_of_the_last_frame_is_refused() {
    let mut random = StdRng::seed_from_u64(4);
    for _ in 0..50 {
        let directory = tempfile::tempdir().expect("a directory");
        let mut writer = open(directory.path());
        writer.write(&[record(&entry(1, 0, 100))], true).expect("writes");
        writer.write(&[record(&entry(1, 1, 3_000))], true).expect("writes");
        drop(writer);
        let file = directory.path().join(&names(directory.path())[0]);
        let at = 4_096 + 512 + random.random_range(0..3_000);
        change(&file, |content| content[at] ^= 1 << random.random_range(0..8));
        let error = scan(directory.path()).map(|_| ()).expect_err("damaged").to_string();
        assert!(error.contains("a bit of it changed after it was written"), "{error}");
    }
}

#[test]
fn an_entry_that_changed_after_the_log_was_opened_is_an_error_that_names_it() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut writer = open(directory.path());
    writer.write(&[record(&entry(1, 0, 100)), record(&entry(1, 1, 100))], true).expect("writes");
    let file = directory.path().join(&names(directory.path())[0]);
    change(&file, |content| {
        let at = content.windows(8).position(|window| window == entry_bytes()).expect("there");
        content[at] ^= 1;
    });
    let segments = writer.segments();
    assert_eq!(segments.read(0, 1, 10).expect("intact").len(), 1);
    assert_eq!(segments.read(1, 2, 10).expect_err("damaged").to_string(), "log entry 1: the checksum does not match");
}

/// The first bytes of the payload of entry 1.
fn entry_bytes() -> [u8; 8] {
    let mut payload = [0; 100];
    StdRng::seed_from_u64(1).fill_bytes(&mut payload);
    payload[..8].try_into().expect("eight bytes")
}

#[test]
fn a_name_is_read_back() {
    let name = Name::new(17);
    assert_eq!(Name::parse(&name.to_string()), Some(name));
    for text in ["000004.log", "LOCK", "000000000017-xyz.log", ""] {
        assert_eq!(Name::parse(text), None);
    }
}
