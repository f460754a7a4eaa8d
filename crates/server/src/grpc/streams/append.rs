//! `Append`: options first, then one message per event, then one answer.

use std::time::{Duration, Instant};

use annals_core::limits::APPEND_EVENTS_MAX;
use annals_core::{
    Actual, Append, Appended, Command, Event, Expected, Outcome, Position, Refusal, Revision, StreamName, Violation,
};
use annals_proto::event_store::client::Empty;
use annals_proto::event_store::client::streams::append_req::options::ExpectedStreamRevision;
use annals_proto::event_store::client::streams::append_req::{Content, Options};
use annals_proto::event_store::client::streams::append_resp::success::{CurrentRevisionOption, PositionOption};
use annals_proto::event_store::client::streams::append_resp::{self, wrong_expected_version as wrong};
use annals_proto::event_store::client::streams::{AppendReq, AppendResp};
use tonic::{Request, Response, Streaming};

use super::budget::{Budget, Held};
use super::{Service, convert};
use crate::consistency::{self, Stamp};
use crate::metrics::Metrics;
use crate::status::Failure;

/// How long a write may take before its fate is told as unknown (protocol 2.8).
pub(crate) const WRITE_TIMEOUT: Duration = Duration::from_secs(2);

/// Bytes that an event costs besides its content while it is held.
const EVENT_OVERHEAD: usize = 256;

pub(super) async fn append(
    service: &Service,
    request: Request<Streaming<AppendReq>>,
) -> Result<Response<AppendResp>, Failure> {
    let context = &service.context;
    let route = consistency::route(request.metadata());
    let caller = context.caller(&request).await?;
    let mut writing = Writing::new("append", context.metrics.clone());
    let patience = context.config.request_timeout_max();
    let receiving = receive(service, request.into_inner(), &mut writing);
    // A client that stops sending in the middle holds memory.
    let received = match tokio::time::timeout(patience, receiving).await {
        Ok(received) => received,
        Err(_) => Err(Failure::Received {
            code: tonic::Code::DeadlineExceeded,
            message: format!("the append was not received within {} s", patience.as_secs()),
        }),
    };
    let result = match received {
        Ok((command, held)) => {
            let outcome = context.append(&caller, command, route, Instant::now() + WRITE_TIMEOUT).await;
            drop(held);
            outcome.and_then(answer)
        }
        Err(failure) => Err(failure),
    };
    writing.finish(match &result {
        Ok((_, Some(_))) => "wrong_expected_version",
        Ok((_, None)) => "ok",
        Err(failure) => failure.label(),
    });
    result.map(|(answer, decided)| match decided {
        Some(as_of) => Stamp::decided(context, as_of).answer(answer),
        None => Response::new(answer),
    })
}

async fn receive(
    service: &Service,
    mut frames: Streaming<AppendReq>,
    writing: &mut Writing,
) -> Result<(Command, Held), Failure> {
    let first = frames.message().await.map_err(|status| Failure::received(&status))?;
    let Some(Content::Options(options)) = first.and_then(|frame| frame.content) else {
        return Err(Failure::invalid("options", "the first message of an append must hold its options"));
    };
    let (stream, expected) = parse(options)?;
    let mut events = Gathering::new(service.append_bytes_max());
    loop {
        let frame = frames.message().await.map_err(|status| Failure::received(&status))?;
        let Some(frame) = frame else { break };
        match frame.content {
            Some(Content::ProposedMessage(message)) => {
                let (event, size) = convert::proposed(
                    &stream,
                    message.id.as_ref(),
                    message.metadata,
                    message.custom_metadata,
                    message.data,
                )?;
                events.push(&service.budget, event, size).await?;
            }
            Some(Content::Options(_)) | None => {
                return Err(Failure::invalid("content", "every message after the first must hold an event"));
            }
        }
    }
    writing.count(&events.events);
    let Gathering { events, held, .. } = events;
    Ok((Command::Append(Append::single(stream, expected, events)), held))
}

pub(super) fn parse(options: Options) -> Result<(StreamName, Expected), Failure> {
    let stream = convert::stream(options.stream_identifier)?;
    let expected = convert::expected!(ExpectedStreamRevision, options.expected_stream_revision)?;
    Ok((convert::writable(stream)?, expected))
}

/// The events of an append while they come in, under the limits of one append
/// and the memory of all.
pub(crate) struct Gathering {
    /// What has come in.
    pub(crate) events: Vec<Event>,
    /// The memory it holds.
    pub(crate) held: Held,
    bytes: usize,
    bytes_max: usize,
}

impl Gathering {
    pub(crate) fn new(bytes_max: usize) -> Self {
        Gathering { events: Vec::new(), held: Held::default(), bytes: 0, bytes_max }
    }

    /// Keeps an event of this size.
    ///
    /// # Errors
    /// When the append gets too large, or the memory of all appends does not
    /// come free.
    pub(crate) async fn push(&mut self, budget: &Budget, event: Event, size: usize) -> Result<(), Failure> {
        self.bytes += size;
        if self.bytes > self.bytes_max {
            return Err(Failure::AppendTooLarge { size: self.bytes, max: self.bytes_max });
        }
        if self.events.len() >= APPEND_EVENTS_MAX {
            return Err(Failure::invalid("events", format!("an append has at most {APPEND_EVENTS_MAX} events")));
        }
        budget.take(&mut self.held, size + EVENT_OVERHEAD).await?;
        self.events.push(event);
        Ok(())
    }
}

/// The answer; where it says that the command was refused, also the position as
/// of which that was decided.
fn answer(outcome: Outcome) -> Result<(AppendResp, Option<Position>), Failure> {
    let (result, decided) = match outcome {
        Outcome::Appended(appended) => (append_resp::Result::Success(success(&appended)), None),
        Outcome::Refused(Refusal { as_of, violations }) => match Failure::refused(first(violations)?) {
            // A wrong expectation is a normal answer here (protocol 2.4).
            Failure::Conflict(violation) => {
                (append_resp::Result::WrongExpectedVersion(wrong_expected_version(&violation)), Some(as_of))
            }
            other => return Err(other.decided(as_of)),
        },
        Outcome::Node(_) | Outcome::Denied(_) | Outcome::Scavenge(_) | Outcome::Lease(_) => {
            return Err(unexpected(&outcome));
        }
    };
    Ok((AppendResp { result: Some(result) }, decided))
}

/// Why a command that has one target was not carried out.
pub(crate) fn refused(refusal: Refusal) -> Failure {
    let as_of = refusal.as_of;
    first(refusal.violations).map_or_else(|failure| failure, |violation| Failure::refused(violation).decided(as_of))
}

fn first(violations: Vec<Violation>) -> Result<Violation, Failure> {
    violations.into_iter().next().ok_or_else(|| Failure::broken("answering a write", &NoViolation))
}

/// A refusal without a reason. A bug, but of one call.
#[derive(Debug, thiserror::Error)]
#[error("a refusal names no stream that was not as expected")]
pub(crate) struct NoViolation;

/// An outcome that does not belong to the command. A bug, but of one call.
pub(crate) fn unexpected(outcome: &Outcome) -> Failure {
    #[derive(Debug, thiserror::Error)]
    #[error("the outcome {0:?} does not belong to the command")]
    struct Unexpected(Outcome);
    Failure::broken("answering a write", &Unexpected(outcome.clone()))
}

/// The last revision that a command for one stream left behind.
pub(super) fn last_revision(appended: &Appended) -> Option<Revision> {
    appended.revisions.first().copied().flatten()
}

fn success(appended: &Appended) -> append_resp::Success {
    let current = match last_revision(appended) {
        Some(revision) => CurrentRevisionOption::CurrentRevision(revision.get()),
        None => CurrentRevisionOption::NoStream(Empty {}),
    };
    let position = appended.position.get();
    let position = append_resp::Position { commit_position: position, prepare_position: position };
    append_resp::Success {
        current_revision_option: Some(current),
        position_option: Some(PositionOption::Position(position)),
    }
}

/// Fills both generations of fields (protocol 2.4).
fn wrong_expected_version(violation: &Violation) -> append_resp::WrongExpectedVersion {
    use wrong::{CurrentRevisionOption as New, CurrentRevisionOption2060 as Old};
    use wrong::{ExpectedRevisionOption as NewWanted, ExpectedRevisionOption2060 as OldWanted};
    let (current, current_old) = match violation.actual {
        Actual::At(last) | Actual::SoftDeleted(last) => {
            (New::CurrentRevision(last.get()), Old::CurrentRevision2060(last.get()))
        }
        Actual::NoStream | Actual::Tombstoned => (New::CurrentNoStream(Empty {}), Old::NoStream2060(Empty {})),
    };
    let (expected, expected_old) = match violation.expected {
        Expected::Exactly(revision) => {
            (NewWanted::ExpectedRevision(revision.get()), OldWanted::ExpectedRevision2060(revision.get()))
        }
        Expected::NoStream => (NewWanted::ExpectedNoStream(Empty {}), OldWanted::ExpectedRevision2060(u64::MAX)),
        Expected::Exists => (NewWanted::ExpectedStreamExists(Empty {}), OldWanted::StreamExists2060(Empty {})),
        // The last two cannot be asked for in v1.
        Expected::Any | Expected::SoftDeleted | Expected::Tombstoned => {
            (NewWanted::ExpectedAny(Empty {}), OldWanted::Any2060(Empty {}))
        }
    };
    append_resp::WrongExpectedVersion {
        current_revision_option: Some(current),
        current_revision_option_20_6_0: Some(current_old),
        expected_revision_option: Some(expected),
        expected_revision_option_20_6_0: Some(expected_old),
    }
}

/// A write being measured. Counted once; as cancelled where nobody waits for
/// its answer any more.
pub(crate) struct Writing {
    api: &'static str,
    metrics: Metrics,
    started: Instant,
    events: usize,
    bytes: usize,
    result: &'static str,
}

impl Writing {
    pub(crate) fn new(api: &'static str, metrics: Metrics) -> Self {
        Writing { api, metrics, started: Instant::now(), events: 0, bytes: 0, result: "cancelled" }
    }

    /// The request is there: time counts from now.
    pub(crate) fn count(&mut self, events: &[Event]) {
        self.started = Instant::now();
        self.events = events.len();
        self.bytes = events.iter().map(Event::size).sum();
    }

    /// Counts it with this result.
    pub(crate) fn finish(mut self, result: &'static str) {
        self.result = result;
    }
}

impl Drop for Writing {
    fn drop(&mut self) {
        self.metrics.append_finished(self.api, self.result, self.started.elapsed(), self.events, self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(expected: Expected, actual: Actual) -> Result<append_resp::WrongExpectedVersion, Failure> {
        let stream = StreamName::new("s").expect("a valid name");
        let violation = Violation { target: 0, stream, expected, actual };
        let as_of = Position::new(7);
        let (answer, decided) = answer(Outcome::Refused(Refusal { as_of, violations: vec![violation] }))?;
        assert_eq!(decided, Some(as_of));
        match answer.result {
            Some(append_resp::Result::WrongExpectedVersion(wrong)) => Ok(wrong),
            other => panic!("not a conflict: {other:?}"),
        }
    }

    #[test]
    fn a_conflict_fills_both_generations_of_fields() {
        let at = Actual::At(Revision::saturating(7));
        let conflict = refused(Expected::Exactly(Revision::saturating(3)), at).expect("a conflict");
        assert_eq!(conflict.current_revision_option, Some(wrong::CurrentRevisionOption::CurrentRevision(7)));
        assert_eq!(
            conflict.current_revision_option_20_6_0,
            Some(wrong::CurrentRevisionOption2060::CurrentRevision2060(7))
        );
        assert_eq!(conflict.expected_revision_option, Some(wrong::ExpectedRevisionOption::ExpectedRevision(3)));
        assert_eq!(
            conflict.expected_revision_option_20_6_0,
            Some(wrong::ExpectedRevisionOption2060::ExpectedRevision2060(3))
        );

        let conflict = refused(Expected::NoStream, at).expect("a conflict");
        assert_eq!(conflict.expected_revision_option, Some(wrong::ExpectedRevisionOption::ExpectedNoStream(Empty {})));
        let old = wrong::ExpectedRevisionOption2060::ExpectedRevision2060(u64::MAX);
        assert_eq!(conflict.expected_revision_option_20_6_0, Some(old));

        let conflict = refused(Expected::Exists, Actual::NoStream).expect("a conflict");
        assert_eq!(conflict.current_revision_option, Some(wrong::CurrentRevisionOption::CurrentNoStream(Empty {})));
        assert_eq!(
            conflict.expected_revision_option,
            Some(wrong::ExpectedRevisionOption::ExpectedStreamExists(Empty {}))
        );

        let conflict = refused(Expected::Any, at).expect("a conflict");
        assert_eq!(
            conflict.expected_revision_option_20_6_0,
            Some(wrong::ExpectedRevisionOption2060::Any2060(Empty {}))
        );
    }

    #[test]
    fn a_deleted_stream_is_an_error_and_no_conflict() {
        let deleted = |result: Result<_, Failure>| match result.expect_err("no conflict") {
            Failure::Decided { as_of, failure } if as_of == Position::new(7) => *failure,
            other => panic!("not decided: {other:?}"),
        };
        let ended = deleted(refused(Expected::Any, Actual::Tombstoned));
        assert!(matches!(ended, Failure::StreamDeleted { tombstoned: true, .. }), "{ended:?}");
        let soft = Actual::SoftDeleted(Revision::FIRST);
        let gone = deleted(refused(Expected::Exists, soft));
        assert!(matches!(gone, Failure::StreamDeleted { tombstoned: false, .. }), "{gone:?}");
        let conflict = refused(Expected::Exactly(Revision::saturating(9)), soft).expect("a conflict");
        assert_eq!(conflict.current_revision_option, Some(wrong::CurrentRevisionOption::CurrentRevision(0)));
    }

    #[test]
    fn an_append_without_events_tells_the_last_revision_or_none() {
        let appended = |last: Option<u64>| {
            let revisions = vec![last.map(Revision::saturating)];
            success(&Appended { position: annals_core::Position::new(9), revisions, repeated: false })
        };
        assert_eq!(appended(Some(4)).current_revision_option, Some(CurrentRevisionOption::CurrentRevision(4)));
        assert_eq!(appended(None).current_revision_option, Some(CurrentRevisionOption::NoStream(Empty {})));
        let position = append_resp::Position { commit_position: 9, prepare_position: 9 };
        assert_eq!(appended(None).position_option, Some(PositionOption::Position(position)));
    }
}
