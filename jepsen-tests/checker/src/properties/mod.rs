//! The promises, one module for each or for a few that look at the same.
//!
//! | module | judges |
//! |---|---|
//! | `sightings` | P1, P2 and P15 of everything seen; P3 of what is gone |
//! | `acks` | P3, P5 and P1 of everything acknowledged |
//! | `reads` | P4, P6, P8, P10 and P14 of each read by itself |
//! | `order` | P7, P8 and P9 of all together, by the sweep |
//! | `subscriptions` | P11 |
//! | `groups` | P11 of consumer groups |
//! | `replicas` | P13, and P3 of final states |
//! | `time` | P15 of the log |
//!
//! P2, P4, P5, P6, P9 and P14 of the log itself are judged where it is
//! walked, in `replay`; P12 is `coverage`.

pub(crate) mod acks;
pub(crate) mod groups;
pub(crate) mod order;
pub(crate) mod reads;
pub(crate) mod replicas;
pub(crate) mod sightings;
pub(crate) mod subscriptions;
pub(crate) mod time;

use crate::index::Index;
use crate::replay::Replay;
use crate::settings::Settings;

/// What every property looks at.
pub(crate) struct Case<'a, 'h> {
    /// The history.
    pub(crate) index: &'a Index<'h>,
    /// Its log.
    pub(crate) replay: &'a Replay,
    /// What it was supposed to be.
    pub(crate) settings: &'a Settings,
}
