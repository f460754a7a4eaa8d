//! The maintenance lease: at most one node of a cluster is being maintained.
//!
//! A node that is to be restarted takes the lease first, and gives it back when it is
//! ready again. So restarts come one after the other, whoever asks for them: several
//! operators, or a controller that does not wait. The lease is state that every node
//! decides alike; time comes from the leader's stamp in the log and is never read here.
//!
//! Rules
//! - It is *held* from the entry that gave it until it is ended, or until its time is
//!   over: a node that never comes back must not keep the others from being maintained.
//! - It is held by a node and one *boot* of it. The same boot that asks again prolongs
//!   it; another boot of the same node takes it over; another node is refused while it
//!   is held.
//! - Only who names node and boot as they are ends it, so that a late command of an
//!   earlier process ends nothing.
//!
//! Whether a restart would do harm now (a voter is down or behind) is not known here:
//! the leader judges that before it proposes.

use bytes::{BufMut, Bytes, BytesMut};
use uuid::Uuid;

use crate::decide::{Decision, Heads};
use crate::wire::{DecodeError, Input};
use crate::{Outcome, Timestamp};

/// The longest time for which the lease is given at once: a day.
pub const SECONDS_MAX: u32 = 86_400;

/// The maintenance lease, as it was given last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lease {
    /// Which node has it.
    pub node: u64,
    /// Names the start of its process that took it.
    pub boot: Uuid,
    /// When it was given.
    pub since: Timestamp,
    /// When it ends by itself, exclusive; when it was ended, if it was.
    pub until: Timestamp,
    /// Whether it was ended.
    pub ended: bool,
}

/// A wish for the lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Acquire {
    /// Of which node.
    pub node: u64,
    /// Of which start of it.
    pub boot: Uuid,
    /// For how many seconds, 1 to [`SECONDS_MAX`].
    pub seconds: u32,
}

/// What became of a command about the lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Whether it was carried out: given, prolonged or ended.
    pub carried_out: bool,
    /// The lease, as it is now.
    pub lease: Option<Lease>,
}

const VERSION: u8 = 1;

impl Lease {
    /// How many bytes it has.
    pub const ENCODED_LEN: usize = 1 + 8 + 16 + 8 + 8 + 1;

    /// Whether somebody has it at this time.
    pub fn is_held(&self, now: Timestamp) -> bool {
        !self.ended && now < self.until
    }

    /// Its bytes, [`Lease::ENCODED_LEN`] of them.
    pub fn encode(&self, out: &mut impl BufMut) {
        out.put_u8(VERSION);
        out.put_u64_le(self.node);
        out.put_slice(self.boot.as_bytes());
        out.put_u64_le(self.since.ticks());
        out.put_u64_le(self.until.ticks());
        out.put_u8(u8::from(self.ended));
    }

    /// The lease in these bytes.
    ///
    /// # Errors
    /// [`DecodeError`]: they are none that this version can read.
    pub fn decode(bytes: Bytes) -> Result<Lease, DecodeError> {
        let mut input = Input::new(bytes);
        let lease = Self::read(&mut input)?;
        input.end()?;
        Ok(lease)
    }

    fn read(input: &mut Input) -> Result<Lease, DecodeError> {
        input.version(VERSION)?;
        Ok(Lease {
            node: input.u64()?,
            boot: input.uuid()?,
            since: Timestamp::from_ticks(input.u64()?),
            until: Timestamp::from_ticks(input.u64()?),
            ended: match input.u8()? {
                0 => false,
                1 => true,
                other => return Err(DecodeError::tag("end of a lease", other)),
            },
        })
    }
}

impl Acquire {
    /// Bytes that it takes.
    pub(crate) const ENCODED_LEN: usize = 8 + 16 + 4;

    pub(crate) fn put(&self, out: &mut BytesMut) {
        out.put_u64_le(self.node);
        out.put_slice(self.boot.as_bytes());
        out.put_u32_le(self.seconds);
    }

    pub(crate) fn read(input: &mut Input) -> Result<Acquire, DecodeError> {
        let acquire = Acquire { node: input.u64()?, boot: input.uuid()?, seconds: input.u32()? };
        if !(1..=SECONDS_MAX).contains(&acquire.seconds) {
            return Err(DecodeError::Invalid("a lease for a time out of bounds"));
        }
        Ok(acquire)
    }
}

impl Answer {
    pub(crate) fn encode(&self, out: &mut BytesMut) {
        out.put_u8(u8::from(self.carried_out));
        out.put_u8(u8::from(self.lease.is_some()));
        if let Some(lease) = &self.lease {
            lease.encode(out);
        }
    }

    pub(crate) fn read(input: &mut Input) -> Result<Answer, DecodeError> {
        let carried_out = input.u8()? != 0;
        let lease = if input.u8()? != 0 { Some(Lease::read(input)?) } else { None };
        Ok(Answer { carried_out, lease })
    }
}

/// The time at which something is decided. A leader whose clock goes behind that of the
/// one before it does not give time that had passed already.
fn now<H: Heads>(heads: &H, last: Option<&Lease>) -> Timestamp {
    let stamped = heads.time();
    last.map_or(stamped, |last| stamped.max(last.since))
}

pub(crate) fn decide_acquire<H: Heads>(heads: &H, wish: &Acquire) -> Decision {
    let last = heads.lease();
    let now = now(heads, last.as_ref());
    let held = last.filter(|last| last.is_held(now));
    if let Some(other) = held.filter(|held| held.node != wish.node) {
        return Decision::of(Outcome::Lease(Answer { carried_out: false, lease: Some(other) }));
    }
    let until = now.plus_seconds(u64::from(wish.seconds));
    let lease = match held.filter(|held| held.boot == wish.boot) {
        Some(held) => Lease { until: until.max(held.until), ..held },
        None => Lease { node: wish.node, boot: wish.boot, since: now, until, ended: false },
    };
    changed(lease)
}

pub(crate) fn decide_release<H: Heads>(heads: &H, node: u64, boot: Uuid) -> Decision {
    let last = heads.lease();
    let now = now(heads, last.as_ref());
    match last.filter(|last| last.is_held(now) && (last.node, last.boot) == (node, boot)) {
        Some(held) => changed(Lease { until: now, ended: true, ..held }),
        None => Decision::of(Outcome::Lease(Answer { carried_out: false, lease: last })),
    }
}

fn changed(lease: Lease) -> Decision {
    let outcome = Outcome::Lease(Answer { carried_out: true, lease: Some(lease) });
    Decision { lease: Some(lease), ..Decision::of(outcome) }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use proptest::prelude::*;

    use super::*;
    use crate::scavenge::Facts;
    use crate::{EventId, Head, Position, Revision, Scavenge, StreamName};

    /// A log of which only the time and the lease matter.
    #[derive(Clone, Copy)]
    struct At {
        seconds: u64,
        lease: Option<Lease>,
    }

    impl Heads for At {
        type Error = Infallible;

        fn tail(&self) -> Position {
            Position::START
        }
        fn head(&self, _: &StreamName) -> Result<Head, Infallible> {
            Ok(Head::default())
        }
        fn event_at(&self, _: &StreamName, _: Revision) -> Result<Option<(EventId, Position)>, Infallible> {
            Ok(None)
        }
        fn remembered(&self, _: &StreamName, _: EventId) -> Result<Option<(Revision, Position)>, Infallible> {
            Ok(None)
        }
        fn newest_data(&self, _: &StreamName) -> Result<Bytes, Infallible> {
            Ok(Bytes::new())
        }
        fn last_node(&self) -> u64 {
            0
        }
        fn time(&self) -> Timestamp {
            at(self.seconds)
        }
        fn scavenge(&self) -> Option<Scavenge> {
            None
        }
        fn lease(&self) -> Option<Lease> {
            self.lease
        }
        fn event(&self, at: Position) -> Result<Facts, Infallible> {
            unreachable!("nobody asks for the event at {at}")
        }
    }

    impl At {
        fn carry_out(&mut self, decision: Decision) -> Answer {
            assert!(decision.events.is_empty() && decision.reclaimed.is_empty() && decision.scavenge.is_none());
            self.lease = decision.lease.or(self.lease);
            match decision.outcome {
                Outcome::Lease(answer) => answer,
                other => unreachable!("{other:?}"),
            }
        }

        fn acquire(&mut self, seconds: u64, node: u64, boot: u128) -> Answer {
            self.seconds = seconds;
            let wish = Acquire { node, boot: Uuid::from_u128(boot), seconds: 100 };
            self.carry_out(decide_acquire(self, &wish))
        }

        fn release(&mut self, seconds: u64, node: u64, boot: u128) -> bool {
            self.seconds = seconds;
            self.carry_out(decide_release(self, node, Uuid::from_u128(boot))).carried_out
        }
    }

    const NOBODY: At = At { seconds: 0, lease: None };

    fn at(seconds: u64) -> Timestamp {
        Timestamp::from_ticks(seconds * Timestamp::TICKS_PER_SECOND)
    }

    #[test]
    fn one_node_at_a_time_has_it() {
        let mut log = NOBODY;
        let first = log.acquire(10, 1, 1);
        assert!(first.carried_out);
        let lease = first.lease.expect("given");
        assert_eq!((lease.node, lease.since, lease.until), (1, at(10), at(110)));
        let refused = log.acquire(109, 2, 2);
        assert_eq!(refused, Answer { carried_out: false, lease: Some(lease) }, "and it says who has it");
        assert!(!log.release(109, 2, 2), "nobody ends what another has");
        assert!(log.release(109, 1, 1));
        assert!(log.acquire(109, 2, 2).carried_out);
    }

    #[test]
    fn it_ends_by_itself() {
        let mut log = NOBODY;
        log.acquire(10, 1, 1);
        assert!(log.acquire(110, 2, 2).carried_out, "until is exclusive");
        assert!(!log.release(111, 1, 1), "the first one has it no more");
        assert_eq!(log.lease.map(|lease| lease.node), Some(2));
    }

    #[test]
    fn who_has_it_prolongs_it_and_never_shortens_it() {
        let mut log = NOBODY;
        log.acquire(10, 1, 1);
        let prolonged = log.acquire(60, 1, 1).lease.expect("given");
        assert_eq!((prolonged.since, prolonged.until), (at(10), at(160)));
        let short = Acquire { node: 1, boot: Uuid::from_u128(1), seconds: 1 };
        let kept = log.carry_out(decide_acquire(&log.clone(), &short)).lease.expect("given");
        assert_eq!(kept.until, at(160));
    }

    #[test]
    fn another_start_of_the_node_takes_it_over_and_a_late_end_of_the_earlier_one_is_none() {
        let mut log = NOBODY;
        log.acquire(10, 1, 1);
        assert!(log.acquire(20, 1, 2).carried_out);
        assert!(!log.release(21, 1, 1));
        assert!(log.release(22, 1, 2));
        assert!(!log.release(23, 1, 2), "once");
    }

    #[test]
    fn a_clock_that_went_back_gives_no_time_that_had_passed() {
        let mut log = NOBODY;
        log.acquire(1_000, 1, 1);
        log.release(1_050, 1, 1);
        let lease = log.acquire(10, 2, 2).lease.expect("given");
        assert!(lease.since >= at(1_000), "{lease:?}");
    }

    #[test]
    fn a_lease_is_read_as_it_was_written() {
        for ended in [false, true] {
            let lease = Lease { node: 3, boot: Uuid::from_u128(4), since: at(5), until: at(6), ended };
            let mut bytes = BytesMut::new();
            lease.encode(&mut bytes);
            assert_eq!(bytes.len(), Lease::ENCODED_LEN);
            let bytes = bytes.freeze();
            assert_eq!(Lease::decode(bytes.clone()), Ok(lease));
            assert!(Lease::decode(bytes.slice(1..)).is_err());
            assert!(Lease::decode(bytes.slice(..bytes.len() - 1)).is_err());
        }
    }

    #[derive(Clone, Debug)]
    enum Step {
        Acquire(u64, u128),
        Release(u64, u128),
        Wait(u64),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            (1..4u64, 1..3u128).prop_map(|(node, boot)| Step::Acquire(node, boot)),
            (1..4u64, 1..3u128).prop_map(|(node, boot)| Step::Release(node, boot)),
            (0..150u64).prop_map(Step::Wait),
        ];
        prop::collection::vec(step, 0..60)
    }

    proptest! {
        /// Whatever is asked in whatever order: who is told that it has the lease has it
        /// alone until it gives it back or the time that it was told is over.
        #[test]
        fn nobody_gets_it_while_another_may_believe_to_have_it(steps in steps()) {
            let mut log = NOBODY;
            let mut now = 1;
            let mut believed: Option<(u64, u128, Timestamp)> = None;
            for step in steps {
                match step {
                    Step::Wait(seconds) => now += seconds,
                    Step::Acquire(node, boot) => {
                        let answer = log.acquire(now, node, boot);
                        let other = believed.filter(|(holder, _, until)| *holder != node && at(now) < *until);
                        prop_assert_eq!(answer.carried_out, other.is_none());
                        if answer.carried_out {
                            let lease = answer.lease.expect("given");
                            prop_assert!(lease.is_held(at(now)));
                            believed = Some((node, boot, lease.until));
                        }
                    }
                    Step::Release(node, boot) => {
                        let has = believed.is_some_and(|(holder, of, until)| (holder, of) == (node, boot) && at(now) < until);
                        prop_assert_eq!(log.release(now, node, boot), has);
                        if has {
                            believed = None;
                        }
                    }
                }
            }
        }
    }
}
