//! What a read may rely on, and what every answer says about it.
//!
//! | asked by | on which node | what is done |
//! |---|---|---|
//! | nothing, or `annals-consistency: local` | any | answered from what is applied here |
//! | `requires-leader: true` | the leader, others name it | read barrier |
//! | `annals-consistency: linearizable` | any | read barrier |
//! | `annals-min-position: P` | any | waits until P is applied here |
//!
//! A *read barrier* asks the leader, confirmed by a quorum, for its commit
//! index and waits until that is applied here. No clock decides anything. A
//! node that cannot do what was asked refuses; it never answers with less.
//!
//! Answers and refusals carry `annals-as-of`, `annals-node` and `annals-term`.
//! What a read shows and what the rules of the log refuse is as of exactly that
//! position: everything up to it was taken into account, and nothing after it.

use std::time::{Duration, Instant};

use annals_core::Position;
use annals_core::seeded::{self, Bug};
use annals_raft::{BarrierError, Phase, Role, Route};
use tonic::metadata::{MetadataMap, MetadataValue};
use tonic::{Response, Status};

use crate::context::Context;
use crate::status::Failure;

const REQUIRES_LEADER: &str = "requires-leader";
const CONSISTENCY: &str = "annals-consistency";
const MIN_POSITION: &str = "annals-min-position";
const AS_OF: &str = "annals-as-of";
const NODE: &str = "annals-node";
const TERM: &str = "annals-term";
const TIMEOUT: &str = "grpc-timeout";

/// How fresh a read has to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Wanted {
    /// Only the leader may answer.
    requires_leader: bool,
    /// Everything acknowledged before the call must be seen.
    linearizable: bool,
    /// This position must have been applied.
    at_least: Option<Position>,
    /// The client's own patience.
    patience: Option<Duration>,
}

impl Wanted {
    /// What the headers of a call ask for.
    ///
    /// # Errors
    /// [`Failure::Invalid`] for a value that cannot be understood: guessing
    /// could promise less than was asked for.
    pub(crate) fn from_headers(headers: &MetadataMap) -> Result<Self, Failure> {
        let linearizable = match text(headers, CONSISTENCY)? {
            None | Some("local") => false,
            Some("linearizable") => true,
            Some(other) => {
                return Err(Failure::invalid(
                    CONSISTENCY,
                    format!("{CONSISTENCY} is linearizable or local, not {other:?}"),
                ));
            }
        };
        let at_least = match text(headers, MIN_POSITION)? {
            None => None,
            Some(number) => match number.parse() {
                Ok(number) => Some(Position::new(number)),
                Err(_) => {
                    return Err(Failure::invalid(
                        MIN_POSITION,
                        format!("{MIN_POSITION} is a position, not {number:?}"),
                    ));
                }
            },
        };
        let requires_leader = requires_leader(headers);
        let patience = headers.get(TIMEOUT).and_then(|value| value.to_str().ok()).and_then(timeout);
        Ok(Wanted { requires_leader, linearizable, at_least, patience })
    }

    /// Waits until a read made now is as fresh as wanted.
    ///
    /// # Errors
    /// What keeps this node from it; at the latest after the configured
    /// request timeout or the client's own deadline.
    pub(crate) async fn reach(&self, context: &Context) -> Result<Stamp, Failure> {
        if context.stopping.is_cancelled() {
            return Err(Failure::ShuttingDown);
        }
        let leads = {
            let status = context.node.watch_status();
            let status = status.borrow();
            match status.phase {
                Phase::Ready => {}
                Phase::Waiting | Phase::Bootstrapping | Phase::Recovering | Phase::Removed | Phase::Outdated => {
                    return Err(Failure::NotReady);
                }
                Phase::ShuttingDown | Phase::Stopped => return Err(Failure::ShuttingDown),
            }
            if self.requires_leader {
                match status.role {
                    Role::Leader => {}
                    Role::Follower | Role::Candidate | Role::Learner => {
                        return Err(Failure::from_leader(status.leader.clone()));
                    }
                }
            }
            status.role == Role::Leader
        };
        let patience = context.config.request_timeout();
        let deadline = Instant::now() + self.patience.map_or(patience, |own| own.min(patience));
        if (self.requires_leader || self.linearizable) && (leads || !seeded::is(Bug::S4)) {
            context.node.read_barrier(deadline).await?;
        }
        if let Some(wanted) = self.at_least
            && context.node.store().tail() < wanted
        {
            context.node.wait_for(wanted, deadline).await.map_err(|error| match error {
                BarrierError::TimedOut => Failure::Behind { wanted, tail: context.node.store().tail() },
                BarrierError::NoLeader | BarrierError::ShuttingDown | BarrierError::NotLeader { .. } => error.into(),
            })?;
        }
        Ok(Stamp::now(context))
    }
}

/// Which node may carry out a write, by the headers of its call.
pub(crate) fn route(headers: &MetadataMap) -> Route {
    if requires_leader(headers) { Route::LeaderOnly } else { Route::Forward }
}

/// What cannot be understood counts as false, as clients expect (protocol 4.1).
fn requires_leader(headers: &MetadataMap) -> bool {
    headers
        .get(REQUIRES_LEADER)
        .and_then(|value| value.to_str().ok())
        .is_some_and(|value| value.eq_ignore_ascii_case("true"))
}

fn text<'a>(headers: &'a MetadataMap, name: &'static str) -> Result<Option<&'a str>, Failure> {
    let Some(value) = headers.get(name) else { return Ok(None) };
    value.to_str().map(Some).map_err(|_| Failure::invalid(name, format!("{name} is not ASCII")))
}

/// The time in a `grpc-timeout` header: at most eight digits and a unit.
pub(crate) fn timeout(value: &str) -> Option<Duration> {
    let unit = value.chars().last()?;
    let number: u64 = value.strip_suffix(unit)?.parse().ok()?;
    match unit {
        'H' => Some(Duration::from_secs(number.saturating_mul(3600))),
        'M' => Some(Duration::from_secs(number.saturating_mul(60))),
        'S' => Some(Duration::from_secs(number)),
        'm' => Some(Duration::from_millis(number)),
        'u' => Some(Duration::from_micros(number)),
        'n' => Some(Duration::from_nanos(number)),
        _ => None,
    }
}

/// Where a node stood when it answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stamp {
    /// Everything up to this position was there, inclusive.
    pub(crate) as_of: Position,
    node: u64,
    term: u64,
}

impl Stamp {
    /// Where this node stands now.
    pub(crate) fn now(context: &Context) -> Self {
        // The tail first: what is read afterwards can only hold more.
        let as_of = context.node.store().tail();
        let status = context.node.watch_status();
        let status = status.borrow();
        Stamp { as_of, node: status.node, term: status.term }
    }

    /// The same for what was decided, elsewhere perhaps, as of a position.
    pub(crate) fn decided(context: &Context, as_of: Position) -> Self {
        Stamp::now(context).at(as_of)
    }

    fn of(context: &Context, failure: &Failure) -> Self {
        match failure.as_of() {
            Some(as_of) => Stamp::decided(context, as_of),
            None => Stamp::now(context),
        }
    }

    /// As of another position.
    pub(crate) fn at(self, as_of: Position) -> Self {
        Stamp { as_of, ..self }
    }

    /// The same for what goes on: in the term in which this node serves it.
    pub(crate) fn serving(self, term: u64) -> Self {
        Stamp { term, ..self }
    }

    /// Says it in the metadata of an answer.
    pub(crate) fn put(&self, metadata: &mut MetadataMap) {
        metadata.insert(AS_OF, MetadataValue::from(self.as_of.get()));
        metadata.insert(NODE, MetadataValue::from(self.node));
        metadata.insert(TERM, MetadataValue::from(self.term));
    }

    /// The answer, with this stamp.
    pub(crate) fn answer<T>(&self, message: T) -> Response<T> {
        let mut response = Response::new(message);
        self.put(response.metadata_mut());
        response
    }

    /// The refusal, with this stamp.
    pub(crate) fn refusal(&self, mut status: Status) -> Status {
        self.put(status.metadata_mut());
        status
    }
}

/// The v1 status of a failure, with the position as of which it was decided, or
/// where this node stands now if the log had no part in it.
pub(crate) fn refuse_v1(context: &Context, failure: &Failure) -> Status {
    Stamp::of(context, failure).refusal(failure.v1())
}

/// The v2 status of a failure, as [`refuse_v1`].
pub(crate) fn refuse_v2(context: &Context, failure: &Failure) -> Status {
    let alone = context.node.watch_status().borrow().members.len() <= 1;
    Stamp::of(context, failure).refusal(failure.v2(alone))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(headers: &[(&'static str, &'static str)]) -> Result<Wanted, Failure> {
        let mut metadata = MetadataMap::new();
        for (name, value) in headers {
            metadata.insert(*name, MetadataValue::from_static(value));
        }
        Wanted::from_headers(&metadata)
    }

    #[test]
    fn a_call_without_headers_is_answered_locally() {
        let local = Wanted { requires_leader: false, linearizable: false, at_least: None, patience: None };
        assert_eq!(wanted(&[]), Ok(local));
        assert_eq!(wanted(&[("annals-consistency", "local")]), Ok(local));
        assert_eq!(wanted(&[("requires-leader", "perhaps")]), Ok(local), "what cannot be understood counts as false");
    }

    #[test]
    fn the_leader_is_required_in_any_spelling_of_true() {
        for value in ["true", "True", "TRUE"] {
            assert!(wanted(&[("requires-leader", value)]).expect("valid").requires_leader, "{value}");
        }
        assert!(!wanted(&[("requires-leader", "False")]).expect("valid").requires_leader);
    }

    #[test]
    fn our_own_headers_are_refused_when_they_make_no_sense() {
        assert!(matches!(wanted(&[("annals-consistency", "strong")]), Err(Failure::Invalid { .. })));
        assert!(matches!(wanted(&[("annals-min-position", "-1")]), Err(Failure::Invalid { .. })));
        assert_eq!(wanted(&[("annals-min-position", "7")]).expect("valid").at_least, Some(Position::new(7)));
        assert!(wanted(&[("annals-consistency", "linearizable")]).expect("valid").linearizable);
    }

    #[test]
    fn a_timeout_of_centuries_is_a_timeout() {
        assert_eq!(timeout("2562047H"), Some(Duration::from_secs(2_562_047 * 3600)));
        assert_eq!(timeout("99999999H"), Some(Duration::from_secs(99_999_999 * 3600)));
        assert_eq!(timeout("0n"), Some(Duration::ZERO));
        assert_eq!(timeout("250m"), Some(Duration::from_millis(250)));
        for nonsense in ["", "H", "1", "1x", "-1S", "1 S", "ü"] {
            assert_eq!(timeout(nonsense), None, "{nonsense}");
        }
    }
}
