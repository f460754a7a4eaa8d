//! The starts of a node, by which an older copy of its own disk is recognised.
//!
//! A data directory that was copied and put back later (a restored backup, a
//! volume's snapshot) holds a valid identity, a valid log and a valid witness.
//! Only one thing is wrong with it: the node has acknowledged more since. It
//! cannot know that by itself, but the others can:
//!
//! - Every start of a node is a [`Boot`] with a number and a random name. It is
//!   durable in the identity file before anything is sent.
//! - The calls and answers of a node carry its [`Lineage`]: how often it was
//!   started, and the names of its last [`KEPT`] starts.
//! - Every node remembers the newest boot of each peer (`peer_memory`). A
//!   lineage that lacks it belongs to a copy that was made before that boot.
//!
//! What this cannot catch:
//!
//! - a copy that was made *during* the newest boot that a peer remembers. The
//!   leader notices that it lacks what it acknowledged (`ledger`), as long as
//!   this leader goes on to lead;
//! - a peer that was down, or unreachable, since before the copy was made
//!   remembers nothing newer. An outdated node that reaches nobody else is
//!   admitted by it;
//! - a copy that was started more than [`KEPT`] times since without reaching
//!   any peer that remembers: what lies further back than the kept names is
//!   believed, because otherwise a node that is restarted again and again
//!   while a peer is away would be lost to that peer.

use std::fmt;
use std::str::FromStr;

use uuid::Uuid;

/// Boots whose names are kept.
pub(crate) const KEPT: usize = 16;

/// One start of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Boot {
    /// The how-manieth start of this data directory, from 1.
    number: u64,
    name: Uuid,
}

impl Boot {
    /// Its random name.
    pub(crate) fn name(&self) -> Uuid {
        self.name
    }
}

/// The starts of a node. Empty for one that was never started by a release
/// that counts them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Lineage {
    starts: u64,
    /// The newest first; nil where there was none.
    names: [Uuid; KEPT],
}

impl Lineage {
    /// With one more start of this name.
    #[must_use]
    pub(crate) fn started(mut self, name: Uuid) -> Lineage {
        self.starts += 1;
        self.names.rotate_right(1);
        self.names[0] = name;
        self
    }

    /// The newest start.
    pub(crate) fn newest(&self) -> Option<Boot> {
        (self.starts > 0).then(|| Boot { number: self.starts, name: self.names[0] })
    }

    /// Whether this boot is among the starts, as far as they reach back.
    pub(crate) fn holds(&self, boot: &Boot) -> bool {
        let Some(since) = self.starts.checked_sub(boot.number) else { return false };
        match usize::try_from(since).ok().and_then(|since| self.names.get(since)) {
            Some(name) => *name == boot.name,
            None => true,
        }
    }

    fn kept(&self) -> &[Uuid] {
        &self.names[..usize::try_from(self.starts).unwrap_or(KEPT).min(KEPT)]
    }
}

impl fmt::Display for Boot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.number, self.name.simple())
    }
}

/// What text is not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Unreadable;

impl FromStr for Boot {
    type Err = Unreadable;

    fn from_str(text: &str) -> Result<Self, Unreadable> {
        let (number, name) = text.split_once(' ').ok_or(Unreadable)?;
        let number = number.parse().ok().filter(|number| *number > 0).ok_or(Unreadable)?;
        Ok(Boot { number, name: read_name(name)? })
    }
}

impl fmt::Display for Lineage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.starts)?;
        self.kept().iter().try_for_each(|name| write!(f, " {}", name.simple()))
    }
}

impl FromStr for Lineage {
    type Err = Unreadable;

    fn from_str(text: &str) -> Result<Self, Unreadable> {
        let mut words = text.split(' ');
        let starts = words.next().and_then(|starts| starts.parse().ok()).ok_or(Unreadable)?;
        let mut lineage = Lineage { starts, ..Lineage::default() };
        let kept = lineage.kept().len();
        for name in &mut lineage.names[..kept] {
            *name = read_name(words.next().ok_or(Unreadable)?)?;
        }
        if words.next().is_some() { Err(Unreadable) } else { Ok(lineage) }
    }
}

fn read_name(text: &str) -> Result<Uuid, Unreadable> {
    Uuid::try_parse(text).ok().filter(|name| !name.is_nil()).ok_or(Unreadable)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(starts: u128) -> Lineage {
        (1..=starts).fold(Lineage::default(), |lineage, name| lineage.started(Uuid::from_u128(name)))
    }

    #[test]
    fn a_lineage_is_read_back_however_long_it_is() {
        for starts in [0, 1, 2, 15, 16, 17, 40] {
            let lineage = after(starts);
            assert_eq!(lineage.to_string().parse(), Ok(lineage), "{lineage}");
        }
        let boot = after(3).newest().expect("started");
        assert_eq!(boot.to_string().parse(), Ok(boot));
    }

    #[test]
    fn what_is_no_lineage_is_not_read_as_one() {
        let good = after(2).to_string();
        let nil = Uuid::nil().simple();
        for text in ["", "x", "1", "0 x", &format!("{good} {nil}"), &format!("1 {nil}"), &good[..good.len() - 1]] {
            assert_eq!(text.parse::<Lineage>(), Err(Unreadable), "{text}");
        }
        assert_eq!(format!("0 {}", Uuid::from_u128(1)).parse::<Boot>(), Err(Unreadable));
    }

    #[test]
    fn a_node_that_was_started_again_holds_its_earlier_boots() {
        let known = after(3).newest().expect("started");
        assert!(after(3).holds(&known));
        assert!(after(4).holds(&known));
        assert!(after(18).holds(&known));
    }

    #[test]
    fn a_copy_from_before_a_boot_lacks_it_however_it_is_started_since() {
        let known = after(3).newest().expect("started");
        let mut copy = after(2);
        assert!(!copy.holds(&known));
        for name in 0..KEPT as u128 {
            copy = copy.started(Uuid::from_u128(1_000 + name));
            assert!(!copy.holds(&known), "{copy}");
        }
        assert!(!Lineage::default().holds(&known));
    }

    #[test]
    fn a_boot_that_lies_further_back_than_what_is_kept_is_believed() {
        let known = after(3).newest().expect("started");
        assert!(after(3 + KEPT as u128).holds(&known));
    }
}
