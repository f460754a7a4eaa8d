//! What followers have acknowledged to this leader.
//!
//! A follower that acknowledged an entry has it on its disk for as long as the
//! same leader leads: only another leader may have it taken back. So a
//! follower that answers that it has *not* what it acknowledged has lost it,
//! by a disk that lied or by a copy that was put back. Its vote and its
//! acknowledgements are worth nothing any more, and the consensus library,
//! which rests on them, ends the process when it hears of it. It shall not:
//! the leader is not at fault. The answer ends here, and the follower is told
//! to stop.
//!
//! An answer is measured against what had been acknowledged when its *request*
//! was sent: a refusal that travelled on one stream while another stream
//! filled the gap is no loss.
//!
//! Kept in memory only. A leader that is new knows nothing of what was
//! acknowledged to others; that a node lost its past is then up to
//! [`crate::lineage`].

use std::collections::BTreeMap;

use parking_lot::Mutex;

use crate::types::Vote;

/// The highest acknowledged entry of each follower.
#[derive(Default)]
pub(crate) struct Ledger {
    lines: Mutex<BTreeMap<u64, Line>>,
}

struct Line {
    /// The leadership it was acknowledged to.
    leadership: Vote,
    index: u64,
}

impl Ledger {
    /// A follower acknowledged everything up to `index` to this leadership.
    pub(crate) fn note(&self, follower: u64, leadership: &Vote, index: u64) {
        let mut lines = self.lines.lock();
        let line = lines.entry(follower).or_insert_with(|| Line { leadership: *leadership, index });
        if line.leadership == *leadership {
            line.index = line.index.max(index);
        } else if line.leadership < *leadership {
            *line = Line { leadership: *leadership, index };
        }
    }

    /// The highest entry that a follower acknowledged to this leadership.
    pub(crate) fn acknowledged(&self, follower: u64, leadership: &Vote) -> Option<u64> {
        let lines = self.lines.lock();
        lines.get(&follower).filter(|line| line.leadership == *leadership).map(|line| line.index)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_highest_acknowledgement_of_a_leadership_counts() {
        let ledger = Ledger::default();
        let (first, second) = (Vote::new_committed(1, 1), Vote::new_committed(3, 1));
        assert_eq!(ledger.acknowledged(2, &first), None);
        ledger.note(2, &first, 7);
        ledger.note(2, &first, 5);
        assert_eq!(ledger.acknowledged(2, &first), Some(7));
        assert_eq!(ledger.acknowledged(3, &first), None);

        // What was acknowledged to an earlier leadership may have been taken
        // back since.
        assert_eq!(ledger.acknowledged(2, &second), None);
        ledger.note(2, &second, 4);
        ledger.note(2, &first, 9);
        assert_eq!(ledger.acknowledged(2, &second), Some(4));
    }
}
