//! `BatchAppend`: many appends over one call.
//!
//! Pieces with the same correlation id are gathered until one is final, then
//! handed to the node; many appends are in flight at a time, in the order in
//! which they became final. Each id is answered exactly once. A failure that
//! makes clients look for another node ends the call.
//!
//! Everything is driven by the stream of answers: a client that does not take
//! its answers is not read from either.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use annals_core::{Append, Appended, Command, Expected, Outcome, StreamName};
use annals_proto::event_store::client::streams::batch_append_req::options::{DeadlineOption, ExpectedStreamPosition};
use annals_proto::event_store::client::streams::batch_append_req::{Options, ProposedMessage};
use annals_proto::event_store::client::streams::batch_append_resp::success::{CurrentRevisionOption, PositionOption};
use annals_proto::event_store::client::streams::batch_append_resp::{Result as Answered, Success};
use annals_proto::event_store::client::streams::{BatchAppendReq, BatchAppendResp};
use annals_proto::event_store::client::{AllStreamPosition, StreamIdentifier, Uuid as WireUuid};
use annals_raft::Route;
use futures::future::BoxFuture;
use futures::stream::{self, BoxStream, FuturesUnordered, StreamExt as _};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Status, Streaming};
use uuid::Uuid;

use super::append::{Gathering, WRITE_TIMEOUT, Writing, last_revision, refused, unexpected};
use super::{Service, convert};
use crate::access::Caller;
use crate::consistency;
use crate::limits::Standing;
use crate::status::Failure;

/// Appends of one call that are with the node at a time. Beyond it nothing is
/// read from the call.
pub(crate) const IN_FLIGHT_MAX: usize = 4_096;

/// Appends of one call that have begun and are not final.
pub(crate) const GATHERING_MAX: usize = 1_024;

pub(super) async fn open(
    service: &Service,
    request: Request<Streaming<BatchAppendReq>>,
) -> Result<BoxStream<'static, Result<BatchAppendResp, Status>>, Failure> {
    let caller = service.context.caller(&request).await?;
    let call = Call {
        service: service.clone(),
        standing: service.context.standing(&caller, request.extensions()),
        caller,
        route: consistency::route(request.metadata()),
        requests: Some(request.into_inner()),
        leaving: service.context.leaving.token(),
        gathering: HashMap::new(),
        in_flight: FuturesUnordered::new(),
        ready: Vec::new(),
    };
    let answers = stream::unfold(Some(call), |call| async move {
        let mut call = call?;
        match call.next().await {
            Ok(Some(answer)) => Some((Ok(answer), Some(call))),
            Ok(None) => None,
            Err(failure) => Some((Err(consistency::refuse_v1(&call.service.context, &failure)), None)),
        }
    });
    Ok(answers.boxed())
}

/// What becomes of one append; an error ends the whole call.
type Answering = BoxFuture<'static, Result<BatchAppendResp, Failure>>;

struct Call {
    service: Service,
    caller: Caller,
    /// What its caller has taken.
    standing: Option<Arc<Standing>>,
    route: Route,
    /// None once the client has closed its side.
    requests: Option<Streaming<BatchAppendReq>>,
    gathering: HashMap<Uuid, Batch>,
    in_flight: FuturesUnordered<Answering>,
    /// Answers that need no waiting.
    ready: Vec<BatchAppendResp>,
    /// Cancelled when the client is to go elsewhere.
    leaving: CancellationToken,
}

/// An append whose pieces are coming in.
struct Batch {
    whom: Whom,
    stream: StreamName,
    expected: Expected,
    deadline: Instant,
    events: Gathering,
}

/// What an answer repeats of its request, so that the client knows it.
#[derive(Clone)]
struct Whom {
    correlation_id: WireUuid,
    stream_identifier: Option<StreamIdentifier>,
}

impl Call {
    /// The next answer; none when the client has closed its side and has
    /// every answer.
    async fn next(&mut self) -> Result<Option<BatchAppendResp>, Failure> {
        loop {
            if let Some(answer) = self.ready.pop() {
                return Ok(Some(answer));
            }
            if self.requests.is_none() && self.in_flight.is_empty() {
                return Ok(None);
            }
            let (stopping, leaving) = (self.service.context.stopping.clone(), self.leaving.clone());
            let is_leaving = leaving.is_cancelled();
            if is_leaving && self.in_flight.is_empty() {
                return Err(Failure::ShuttingDown);
            }
            let expiry = self.gathering.values().map(|batch| batch.deadline).min();
            // Who is to go elsewhere still gets an answer to what was taken.
            let may_receive = self.in_flight.len() < IN_FLIGHT_MAX && !is_leaving;
            tokio::select! {
                biased; // answers first: they give back what receiving takes
                () = stopping.cancelled() => return Err(Failure::ShuttingDown),
                Some(answer) = self.in_flight.next() => return answer.map(Some),
                () = leaving.cancelled(), if !is_leaving => {}
                () = until(expiry) => self.expire(),
                piece = receive(&mut self.requests), if may_receive => match piece? {
                    Some(piece) => self.gather(piece).await?,
                    None => self.close(),
                },
            }
        }
    }

    /// Takes a piece in. Fails only where nobody could be answered.
    async fn gather(&mut self, piece: BatchAppendReq) -> Result<(), Failure> {
        let id = convert::uuid(piece.correlation_id.as_ref(), "correlation_id")?;
        let correlation_id = piece.correlation_id.expect("it was parsed");
        let mut batch = match (self.gathering.remove(&id), piece.options) {
            // Options that are repeated change nothing.
            (Some(batch), Some(_) | None) => batch,
            (None, Some(options)) => {
                let whom = Whom { correlation_id, stream_identifier: options.stream_identifier.clone() };
                match self.begin(options, whom.clone()) {
                    Ok(batch) => batch,
                    Err(failure) => return self.refuse(whom, &failure),
                }
            }
            // Answered already, or never begun: nobody waits for it.
            (None, None) => return Ok(()),
        };
        for message in piece.proposed_messages {
            if let Err(failure) = self.keep(&mut batch, message).await? {
                return self.refuse(batch.whom, &failure);
            }
        }
        if piece.is_final {
            self.submit(batch)
        } else {
            self.gathering.insert(id, batch);
            Ok(())
        }
    }

    /// Keeps an event of a batch. The outer error ends the call.
    async fn keep(&mut self, batch: &mut Batch, message: ProposedMessage) -> Result<Result<(), Failure>, Failure> {
        let pushing = batch.push(&self.service, message);
        tokio::pin!(pushing);
        loop {
            tokio::select! {
                biased; // mostly there is memory, at once
                pushed = &mut pushing => return Ok(pushed),
                // The memory that is waited for may be held by our own appends.
                Some(answer) = self.in_flight.next() => self.ready.push(answer?),
            }
        }
    }

    fn begin(&self, options: Options, whom: Whom) -> Result<Batch, Failure> {
        if self.gathering.len() >= GATHERING_MAX {
            return Err(Failure::Overloaded);
        }
        if self.standing.as_ref().is_some_and(|standing| !standing.may_call()) {
            return Err(Failure::TooManyCalls { per_second: self.service.context.config.calls_per_second_max });
        }
        let stream = convert::writable(convert::stream(options.stream_identifier)?)?;
        let expected = match options.expected_stream_position {
            Some(ExpectedStreamPosition::StreamPosition(revision)) => convert::exactly(revision)?,
            Some(ExpectedStreamPosition::NoStream(())) => Expected::NoStream,
            Some(ExpectedStreamPosition::Any(())) => Expected::Any,
            Some(ExpectedStreamPosition::StreamExists(())) => Expected::Exists,
            None => return Err(convert::no_expectation()),
        };
        let patience = patience(options.deadline_option.as_ref(), SystemTime::now());
        if patience.is_zero() {
            return Err(Failure::TimedOut("the deadline had passed when the append arrived".to_owned()));
        }
        let events = Gathering::new(self.service.append_bytes_max());
        Ok(Batch { whom, stream, expected, deadline: Instant::now() + patience, events })
    }

    /// Hands a batch to the node.
    fn submit(&mut self, batch: Batch) -> Result<(), Failure> {
        let context = self.service.context.clone();
        let (caller, route) = (self.caller.clone(), self.route);
        let mut writing = Writing::new("batch_append", context.metrics.clone());
        writing.count(&batch.events.events);
        let Batch { whom, stream, expected, deadline, events: Gathering { events, held, .. } } = batch;
        let mut answering: Answering = Box::pin(async move {
            let command = Command::Append(Append::single(stream, expected, events));
            let outcome = context.append(&caller, command, route, deadline).await;
            drop(held);
            let result = match outcome {
                Ok(Outcome::Appended(appended)) => Ok(success(&appended)),
                Ok(Outcome::Refused(refusal)) => Err(refused(refusal)),
                Ok(outcome @ (Outcome::Node(_) | Outcome::Denied(_) | Outcome::Scavenge(_) | Outcome::Lease(_))) => {
                    Err(unexpected(&outcome))
                }
                Err(failure) => Err(failure),
            };
            writing.finish(result.as_ref().map_or_else(Failure::label, |_| "ok"));
            match result {
                Ok(success) => Ok(whom.answer(Answered::Success(success))),
                Err(failure) => whom.refuse(&failure).ok_or(failure),
            }
        });
        // Polled once, here: the node gets appends in the order in which they
        // became final, whatever the order in which futures are polled later.
        let mut once = std::task::Context::from_waker(std::task::Waker::noop());
        match Pin::new(&mut answering).poll(&mut once) {
            Poll::Ready(answer) => self.ready.push(answer?),
            Poll::Pending => self.in_flight.push(answering),
        }
        Ok(())
    }

    fn refuse(&mut self, whom: Whom, failure: &Failure) -> Result<(), Failure> {
        Writing::new("batch_append", self.service.context.metrics.clone()).finish(failure.label());
        let answer = whom.refuse(failure).ok_or_else(|| failure.clone())?;
        self.ready.push(answer);
        Ok(())
    }

    /// Answers what did not become final in time.
    fn expire(&mut self) {
        let now = Instant::now();
        let late = self.gathering.extract_if(|_, batch| batch.deadline <= now);
        let failure = Failure::TimedOut("the append did not become final in time".to_owned());
        self.ready.extend(late.filter_map(|(_, batch)| batch.whom.refuse(&failure)));
    }

    /// The client sends nothing more: what is not final never will be.
    fn close(&mut self) {
        self.requests = None;
        let failure = Failure::invalid("is_final", "the call was closed before the append was final");
        self.ready.extend(self.gathering.drain().filter_map(|(_, batch)| batch.whom.refuse(&failure)));
    }
}

impl Batch {
    async fn push(&mut self, service: &Service, message: ProposedMessage) -> Result<(), Failure> {
        let (event, size) = convert::proposed(
            &self.stream,
            message.id.as_ref(),
            message.metadata,
            message.custom_metadata,
            message.data,
        )?;
        self.events.push(&service.budget, event, size).await
    }
}

impl Whom {
    fn answer(self, result: Answered) -> BatchAppendResp {
        BatchAppendResp {
            correlation_id: Some(self.correlation_id),
            stream_identifier: Some(self.stream_identifier.unwrap_or_default()),
            result: Some(result),
            expected_stream_position: None,
        }
    }

    /// The answer that tells a failure; none where it ends the call.
    fn refuse(self, failure: &Failure) -> Option<BatchAppendResp> {
        failure.entry().map(|error| self.answer(Answered::Error(error)))
    }
}

async fn receive(requests: &mut Option<Streaming<BatchAppendReq>>) -> Result<Option<BatchAppendReq>, Failure> {
    match requests {
        Some(requests) => requests.message().await.map_err(|status| Failure::received(&status)),
        None => std::future::pending().await,
    }
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
        None => std::future::pending().await,
    }
}

fn success(appended: &Appended) -> Success {
    let current = match last_revision(appended) {
        Some(revision) => CurrentRevisionOption::CurrentRevision(revision.get()),
        None => CurrentRevisionOption::NoStream(()),
    };
    let position = appended.position.get();
    let position = AllStreamPosition { commit_position: position, prepare_position: position };
    Success { current_revision_option: Some(current), position_option: Some(PositionOption::Position(position)) }
}

/// How long an append may take: what the client says, never more than a write
/// may take anyway. Clients send years; that is no mistake (protocol 2.5).
pub(super) fn patience(deadline: Option<&DeadlineOption>, now: SystemTime) -> Duration {
    /// In seconds; far above everything, far below what overflows.
    const YEARS: u64 = 1 << 40;
    // By hand: the conversions of the protobuf types overflow on the numbers
    // that a hostile client sends.
    let span = |seconds: i64, nanos: i32| match u64::try_from(seconds) {
        Ok(seconds) => Duration::new(seconds.min(YEARS), u32::try_from(nanos).unwrap_or(0).min(999_999_999)),
        Err(_) => Duration::ZERO,
    };
    let asked = match deadline {
        None => WRITE_TIMEOUT,
        Some(DeadlineOption::Deadline(duration)) => span(duration.seconds, duration.nanos),
        Some(DeadlineOption::Deadline21100(at)) => {
            span(at.seconds, at.nanos).saturating_sub(now.duration_since(UNIX_EPOCH).unwrap_or_default())
        }
    };
    asked.min(WRITE_TIMEOUT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deadlines_are_clamped_and_never_refused() {
        let now = SystemTime::now();
        let duration = |seconds, nanos| Some(DeadlineOption::Deadline(prost_types::Duration { seconds, nanos }));
        let at = |seconds, nanos| Some(DeadlineOption::Deadline21100(prost_types::Timestamp { seconds, nanos }));
        for (deadline, expected) in [
            (None, WRITE_TIMEOUT),
            (duration(315_576_000_000, 0), WRITE_TIMEOUT),
            (duration(1_700_000_010, 0), WRITE_TIMEOUT),
            (duration(i64::MAX, 999_999_999), WRITE_TIMEOUT),
            (duration(0, 500_000_000), Duration::from_millis(500)),
            (duration(0, 0), Duration::ZERO),
            (duration(-1, 0), Duration::ZERO),
            (duration(i64::MIN, i32::MIN), Duration::ZERO),
            (at(253_402_300_799, 999_999_999), WRITE_TIMEOUT),
            (at(i64::MAX, i32::MAX), WRITE_TIMEOUT),
            (at(0, 0), Duration::ZERO),
            (at(i64::MIN, i32::MIN), Duration::ZERO),
        ] {
            assert_eq!(patience(deadline.as_ref(), now), expected, "{deadline:?}");
        }
    }
}
