//! Seeded bugs S13 and S15: two ways in which a subscription loses events
//! where catching up and being live are not one loop.

use annals_core::seeded::{self, Bug};
use annals_core::{Position, Revision};

use super::super::page::broken;
use super::{Failure, Feed, Subscription};

/// What the buffer of a live subscription would hold.
const BUFFERED: u64 = 256;

impl Subscription {
    /// Goes on from the tail where the mistake does.
    pub(super) fn skip(&mut self, tail: Position) -> Result<(), Failure> {
        let just_switched = !std::mem::replace(&mut self.was_live, self.live) && self.live;
        let overflown = self.live && tail.get().saturating_sub(self.seen.get()) > BUFFERED;
        if (seeded::is(Bug::S13) && just_switched) || (seeded::is(Bug::S15) && overflown) {
            self.feed.jump(&self.store)?;
        }
        Ok(())
    }
}

impl Feed {
    /// Moves behind everything that is there.
    fn jump(&mut self, store: &annals_store::Store) -> Result<(), Failure> {
        match self {
            Feed::Stream { name, next, .. } => {
                let head = store.head(name).map_err(|error| broken(&error))?;
                *next = (*next).max(Revision::after(head.last));
            }
            Feed::Index { index, next } => {
                *next = (*next).max(store.index_len(index).map_err(|error| broken(&error))?);
            }
            Feed::All { after, .. } => *after = (*after).max(store.tail()),
            Feed::Selected { index, next, after, .. } => {
                *after = (*after).max(store.tail());
                *next = (*next).max(store.index_len(index).map_err(|error| broken(&error))?);
            }
        }
        Ok(())
    }
}
