//! One write of the log: a group of records with their checksums.
//!
//! ```text
//! magic 8 · salt 16 · number u64 · body bytes u32 · crc u32      little-endian
//! crc u32 of each sector of the body
//! zeros up to the next sector
//! body
//! zeros up to the next block
//! ```
//!
//! A frame begins at a block of 4 KiB and ends at one, so that writing it never
//! touches a block that holds what is durable already. `crc` covers what is before
//! it and the checksums behind it. The salt is that of the file's name, drawn at
//! random for each use of a file: neither what a recycled file held before nor
//! what a client puts into an event can pass for a frame.
//!
//! # What a crash leaves
//! A frame is written only after the sync of the one before. So a power cut tears
//! at most the last frame, by leaving whole sectors of 512 bytes as they were, and
//! nobody was told that it is durable. It is told from damage ([`judge`]) by all of
//! - no frame of this file is behind it;
//! - no sector of it is one bit away from what was written.
//!
//! What no rule can tell from a torn write is a last frame of which whole sectors
//! were lost later; the witness judges what is left then, as after every start.

use super::one_bit::is_off_by_one_bit;
use super::record::Encoded;

/// Frames begin and end at multiples of this.
pub(super) const BLOCK: usize = 4096;

/// The unit in which writes are torn.
const SECTOR: usize = 512;

const MAGIC: [u8; 8] = *b"ANNLOG\x00\x02";
const CHECKED: usize = 8 + 16 + 8 + 4;
const HEADER: usize = CHECKED + 4;

/// What frames of one file have in common.
pub(super) type Salt = [u8; 16];

/// Bytes before the body.
pub(super) fn front(body: usize) -> usize {
    (HEADER + 4 * body.div_ceil(SECTOR)).next_multiple_of(SECTOR)
}

/// Bytes of a whole frame.
pub(super) fn len(body: usize) -> usize {
    (front(body) + body).next_multiple_of(BLOCK)
}

/// Bytes that these records take in a frame.
pub(super) fn body_len(records: &[Encoded]) -> usize {
    records.iter().map(Encoded::len).sum()
}

/// Replaces what is in `out` by a frame of these records.
pub(super) fn encode(out: &mut Vec<u8>, salt: &Salt, number: u64, records: &[Encoded]) {
    let body = body_len(records);
    let front = front(body);
    out.clear();
    out.reserve(len(body));
    out.resize(front, 0);
    records.iter().for_each(|record| record.put(out));
    for sector in 0..body.div_ceil(SECTOR) {
        let from = front + sector * SECTOR;
        let sum = crc32c::crc32c(&out[from..(from + SECTOR).min(front + body)]);
        out[HEADER + 4 * sector..][..4].copy_from_slice(&sum.to_le_bytes());
    }
    out[..8].copy_from_slice(&MAGIC);
    out[8..24].copy_from_slice(salt);
    out[24..32].copy_from_slice(&number.to_le_bytes());
    out[32..36].copy_from_slice(&u32::try_from(body).expect("no group comes near 4 GiB").to_le_bytes());
    let crc = header_crc(out, body);
    out[CHECKED..HEADER].copy_from_slice(&crc.to_le_bytes());
    out.resize(len(body), 0);
}

fn header_crc(frame: &[u8], body: usize) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&frame[..CHECKED]), &frame[HEADER..HEADER + 4 * body.div_ceil(SECTOR)])
}

/// An intact header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) number: u64,
    /// Bytes of the body.
    pub(super) body: usize,
}

impl Header {
    /// The header at the front of these bytes, if all of it is there and intact
    /// and of this file.
    pub(super) fn read(bytes: &[u8], salt: &Salt) -> Option<Header> {
        if bytes.len() < HEADER || bytes[..8] != MAGIC || bytes[8..24] != *salt {
            return None;
        }
        let (body, stored) = (u32_at(bytes, 32) as usize, u32_at(bytes, CHECKED));
        if bytes.len() < HEADER + 4 * body.div_ceil(SECTOR) || header_crc(bytes, body) != stored {
            return None;
        }
        let number = u64::from_le_bytes(bytes[24..32].try_into().expect("eight bytes"));
        Some(Header { number, body })
    }

    /// The body's bytes within the frame.
    pub(super) fn body(&self) -> std::ops::Range<usize> {
        let front = front(self.body);
        front..front + self.body
    }

    /// Bytes of the whole frame.
    pub(super) fn len(&self) -> usize {
        len(self.body)
    }

    /// Whether the body at the front of these bytes is all there and intact.
    pub(super) fn has_intact_body(&self, bytes: &[u8]) -> bool {
        bytes.len() >= self.body().end && self.sectors(bytes).all(|(stored, sector)| crc32c::crc32c(sector) == stored)
    }

    /// The sectors of the body that are there, each with its stored checksum.
    fn sectors<'a>(&self, bytes: &'a [u8]) -> impl Iterator<Item = (u32, &'a [u8])> {
        let body = self.body();
        let whole = bytes.get(body.start..body.end.min(bytes.len())).unwrap_or_default();
        let last = self.body.saturating_sub(1) / SECTOR;
        let last_len = self.body - last * SECTOR;
        whole
            .chunks(SECTOR)
            .enumerate()
            .filter(move |(at, sector)| sector.len() == if *at == last { last_len } else { SECTOR })
            .map(|(at, sector)| (u32_at(bytes, HEADER + 4 * at), sector))
    }
}

/// What is behind the last intact frame of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// Nothing, or what a power cut left of a frame that nobody was told of.
    Open {
        /// Whether there is something.
        torn: bool,
    },
    /// Something that was durable and is damaged.
    Damaged(&'static str),
}

/// Judges the end of a file: `content[at..]` does not begin with an intact frame
/// `number`.
pub(super) fn judge(content: &[u8], at: usize, salt: &Salt, number: u64) -> End {
    let rest = content.get(at..).unwrap_or_default();
    let is_behind = |from: usize| Header::read(&rest[from..], salt).is_some_and(|header| header.number > number);
    if (BLOCK..rest.len()).step_by(BLOCK).any(is_behind) {
        return End::Damaged("others follow it");
    }
    match Header::read(rest, salt) {
        Some(header) if header.number != number => End::Damaged("it is another one"),
        Some(header) => {
            let changed = |(stored, sector): (u32, &[u8])| {
                let sum = crc32c::crc32c(sector);
                sum != stored && is_off_by_one_bit(sum ^ stored, sector.len())
            };
            if header.sectors(rest).any(changed) {
                End::Damaged("a bit of it changed after it was written")
            } else {
                End::Open { torn: true }
            }
        }
        None if is_header_with_changed_bit(rest, salt) => End::Damaged("a bit of it changed after it was written"),
        None => End::Open { torn: rest.len() >= 24 && (rest[..8] == MAGIC && rest[8..24] == *salt) },
    }
}

/// Whether the header would be one if a single bit of it were another.
fn is_header_with_changed_bit(bytes: &[u8], salt: &Salt) -> bool {
    if bytes.len() < HEADER {
        return false;
    }
    let differing = |found: &[u8], due: &[u8]| found.iter().zip(due).map(|(a, b)| (a ^ b).count_ones()).sum::<u32>();
    let differing = differing(&bytes[..8], &MAGIC) + differing(&bytes[8..24], salt);
    if differing > 1 {
        return false;
    }
    let (body, stored) = (u32_at(bytes, 32), u32_at(bytes, CHECKED));
    let sums = |body: u32| bytes.get(HEADER..HEADER + 4 * (body as usize).div_ceil(SECTOR));
    let crc = |front: &[u8], sums: &[u8]| crc32c::crc32c_append(crc32c::crc32c(front), sums);
    let front = &bytes[..CHECKED];
    if sums(body).is_some_and(|sums| is_off_by_one_bit(crc(front, sums) ^ stored, CHECKED + sums.len())) {
        return true;
    }
    // With another length the checksum was made of other bytes.
    (0..32).any(|bit| {
        let body = body ^ (1 << bit);
        let front = [&front[..32], &body.to_le_bytes()].concat();
        sums(body).is_some_and(|sums| crc(&front, sums) == stored)
    })
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use rand::rngs::StdRng;
    use rand::{Rng, RngCore, SeedableRng};

    use super::super::record::{Record, take};
    use super::*;
    use crate::codec::LogIdForm;
    use crate::types::Vote;

    const SALT: Salt = *b"salt of the file";

    fn frame(number: u64, bytes: usize) -> Vec<u8> {
        let mut random = StdRng::seed_from_u64(number);
        let mut payload = vec![0; bytes];
        random.fill_bytes(&mut payload);
        let mut out = Vec::new();
        encode(&mut out, &SALT, number, &[Record::Snapshot(payload.into()).encode()]);
        out
    }

    #[test]
    fn a_frame_fills_blocks_and_is_read_back() {
        for bytes in [0, 1, 400, 507, 508, 3_000, 4_000, 100_000] {
            let frame = frame(7, bytes);
            assert_eq!(frame.len() % BLOCK, 0);
            let header = Header::read(&frame, &SALT).expect("intact");
            assert_eq!((header.number, header.len()), (7, frame.len()));
            assert!(header.has_intact_body(&frame));
            let mut body = Bytes::copy_from_slice(&frame[header.body()]);
            assert!(matches!(take(&mut body), Ok(Record::Snapshot(payload)) if payload.len() == bytes));
            assert!(body.is_empty());
            assert_eq!(Header::read(&frame, b"another file's ."), None);
        }
    }

    /// Bytes computed from the description in `docs/storage-format.md` alone.
    #[test]
    fn a_frame_is_what_the_format_says() {
        let records = [Record::Vote(Vote::new(3, 1)), Record::End(LogIdForm { term: 3, node: 2, index: 17 }.into())];
        let mut out = Vec::new();
        encode(&mut out, &SALT, 7, &records.map(|record| record.encode()));
        let header: String = out[..44].iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(header, "414e4e4c4f47000273616c74206f66207468652066696c650700000000000000120000004e93ecae421fba11");
        assert_eq!(out[512..530], [4, 4, 0, 0, 0, 1, 3, 1, 0, 8, 4, 0, 0, 0, 1, 3, 2, 17]);
        assert_eq!(out.len(), 4_096);
        assert!(out[44..512].iter().chain(&out[530..]).all(|byte| *byte == 0));
    }

    #[test]
    fn every_changed_bit_of_a_last_frame_is_damage() {
        for bytes in [20, 700] {
            let mut content = frame(3, bytes);
            let used = Header::read(&content, &SALT).expect("intact").body().end;
            let sums = HEADER + 4 * (bytes + 5).div_ceil(SECTOR);
            let padding = sums..front(bytes + 5);
            content.resize(content.len() + 3 * BLOCK, 0);
            for bit in (0..used * 8).filter(|bit| !padding.contains(&(bit / 8))) {
                content[bit / 8] ^= 1 << (bit % 8);
                assert!(matches!(judge(&content, 0, &SALT, 3), End::Damaged(_)), "bit {bit}");
                content[bit / 8] ^= 1 << (bit % 8);
            }
        }
    }

    #[test]
    fn a_torn_last_frame_is_an_open_end_whatever_was_there_before() {
        let mut random = StdRng::seed_from_u64(5);
        for round in 0..2_000 {
            let new = frame(9, random.random_range(0..20_000));
            // Zeros, or what the file held in its life before.
            let mut content = vec![0; new.len() + 2 * BLOCK];
            if round % 2 == 0 {
                random.fill_bytes(&mut content);
            }
            let sectors = Header::read(&new, &SALT).expect("intact").body().end.div_ceil(SECTOR);
            let mut lost = false;
            for (at, sector) in new.chunks(SECTOR).take(sectors).enumerate() {
                if random.random() {
                    content[at * SECTOR..][..SECTOR].copy_from_slice(sector);
                } else {
                    lost |= content[at * SECTOR..][..SECTOR] != *sector;
                }
            }
            if lost {
                assert!(matches!(judge(&content, 0, &SALT, 9), End::Open { .. }), "round {round}");
            }
        }
    }

    #[test]
    fn a_damaged_frame_that_others_follow_is_no_open_end() {
        let mut content = frame(1, 9_000);
        content[4_096..8_192].fill(0);
        content.extend(frame(2, 10));
        assert_eq!(judge(&content, 0, &SALT, 1), End::Damaged("others follow it"));
        let again = frame(1, 10);
        assert_eq!(judge(&again, 0, &SALT, 2), End::Damaged("it is another one"));
        assert_eq!(judge(&[], 0, &SALT, 1), End::Open { torn: false });
        assert_eq!(judge(&[0; 8_192], 0, &SALT, 1), End::Open { torn: false });
    }
}
