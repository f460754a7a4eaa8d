//! Whether bytes are one bit away from those that a checksum was made of.
//!
//! A write that a power cut tore leaves whole sectors as they were before. A
//! single bit that changed since was written, and what was written may have
//! been acknowledged. A CRC tells the two apart: it is linear, so the difference
//! of two checksums depends only on which bits differ, and each single bit of a
//! message has a difference of its own (for any message shorter than 2³¹ bits).

/// The polynomial of CRC32C, bits reversed.
const POLYNOMIAL: u32 = 0x82f6_3b78;

/// Whether a message of `bytes` bytes whose checksum differs by `difference` from
/// the stored one (computed `^` stored) differs from the stored message in one bit,
/// or has a stored checksum of which one bit changed.
pub(super) fn is_off_by_one_bit(difference: u32, bytes: usize) -> bool {
    if difference.count_ones() == 1 {
        return true;
    }
    // The difference that a bit makes is what the one behind it makes, shifted
    // once through the register. The last bit of the last byte comes first.
    let mut syndrome = POLYNOMIAL;
    for _ in 0..bytes * 8 {
        if syndrome == difference {
            return true;
        }
        syndrome = if syndrome & 1 == 1 { (syndrome >> 1) ^ POLYNOMIAL } else { syndrome >> 1 };
    }
    false
}

#[cfg(test)]
mod tests {
    use rand::rngs::StdRng;
    use rand::{Rng, RngCore, SeedableRng};

    use super::*;

    #[test]
    fn every_single_bit_is_recognised() {
        let mut random = StdRng::seed_from_u64(1);
        for bytes in [1, 3, 40, 512] {
            let mut message = vec![0; bytes];
            random.fill_bytes(&mut message);
            let stored = crc32c::crc32c(&message);
            for bit in 0..bytes * 8 {
                message[bit / 8] ^= 1 << (bit % 8);
                assert!(is_off_by_one_bit(crc32c::crc32c(&message) ^ stored, bytes), "bit {bit} of {bytes} bytes");
                message[bit / 8] ^= 1 << (bit % 8);
            }
        }
    }

    #[test]
    fn other_bytes_are_not_taken_for_a_changed_bit() {
        let mut random = StdRng::seed_from_u64(2);
        for _ in 0..1_000 {
            let mut message = [0; 512];
            random.fill_bytes(&mut message);
            let stored = crc32c::crc32c(&message);
            let zeros = crc32c::crc32c(&[0; 512]);
            assert!(!is_off_by_one_bit(zeros ^ stored, 512));
            let (one, other) = (random.random_range(0..2_048), random.random_range(2_048..4_096));
            for bit in [one, other] {
                message[bit / 8] ^= 1 << (bit % 8);
            }
            assert!(!is_off_by_one_bit(crc32c::crc32c(&message) ^ stored, 512), "two bits");
        }
    }
}
