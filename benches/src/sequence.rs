//! Numbers that must come in order: revisions of a stream, positions of the log.
//!
//! This is what shows a lost or doubled event. Within a stream there are no
//! gaps; in the whole log of Annals neither, but other servers of the protocol
//! count positions in bytes, and deleted streams leave gaps.

use anyhow::bail;

/// Whether gaps are a mistake.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Order {
    /// Each number follows the last one.
    Dense,
    /// Each number is above the last one.
    Strict,
}

/// What came so far.
#[derive(Clone, Copy, Debug)]
pub struct Sequence {
    order: Order,
    /// The least number that may come now; none before the first one.
    next: Option<u64>,
}

impl Sequence {
    /// Without gaps, beginning with this number.
    pub fn dense_from(first: u64) -> Self {
        Sequence { order: Order::Dense, next: Some(first) }
    }

    /// Beginning anywhere.
    pub fn anywhere(order: Order) -> Self {
        Sequence { order, next: None }
    }

    /// The least number that may come now; 0 before the first one.
    pub fn next(&self) -> u64 {
        self.next.unwrap_or(0)
    }

    /// Takes the next number.
    ///
    /// # Errors
    /// It came before, or one before it is missing.
    pub fn take(&mut self, number: u64) -> anyhow::Result<()> {
        if let Some(next) = self.next {
            if number < next {
                bail!("{number} came where {next} was due: events came twice or out of order");
            }
            if number > next && self.order == Order::Dense {
                bail!("{number} came where {next} was due: {} missing", number - next);
            }
        }
        self.next = Some(number + 1);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(mut sequence: Sequence, numbers: &[u64]) -> anyhow::Result<u64> {
        numbers.iter().try_for_each(|number| sequence.take(*number))?;
        Ok(sequence.next())
    }

    #[test]
    fn a_dense_sequence_has_no_gaps_and_no_repetitions() {
        assert_eq!(taken(Sequence::dense_from(0), &[0, 1, 2]).expect("dense"), 3);
        assert_eq!(taken(Sequence::anywhere(Order::Dense), &[7, 8]).expect("dense"), 9);
        for wrong in [&[1][..], &[0, 2], &[0, 0], &[0, 1, 0]] {
            assert!(taken(Sequence::dense_from(0), wrong).is_err(), "{wrong:?}");
        }
        let missing = taken(Sequence::dense_from(0), &[0, 3]).expect_err("a gap").to_string();
        assert_eq!(missing, "3 came where 1 was due: 2 missing");
    }

    #[test]
    fn a_strict_sequence_only_goes_up() {
        assert_eq!(taken(Sequence::anywhere(Order::Strict), &[5, 9, 10]).expect("strict"), 11);
        for wrong in [&[5, 5][..], &[5, 9, 6]] {
            assert!(taken(Sequence::anywhere(Order::Strict), wrong).is_err(), "{wrong:?}");
        }
    }
}
