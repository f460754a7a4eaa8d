//! Counted reads.

use annals_checker::history::{Direction, Mode, Read, ReadOutcome, Record, Seen, Target};
use annals_proto::event_store::client::Empty;
use annals_proto::event_store::client::streams::read_req::Options;
use annals_proto::event_store::client::streams::read_req::options::filter_options::{Expression, Filter, Window};
use annals_proto::event_store::client::streams::read_req::options::{
    AllOptions, ControlOption, CountOption, FilterOption, FilterOptions, Position, ReadDirection, StreamOption,
    StreamOptions, UuidOption, all_options, stream_options, uuid_option,
};
use annals_proto::event_store::client::streams::{ReadReq, read_resp};
use tonic::metadata::MetadataValue;
use tonic::{Code, Status};

use super::append::identifier;
use super::outcome;
use super::{Terms, seen};
use crate::Recorder;
use crate::wire::{Contact, Wire};

/// Events that a filtered subscription may examine between two checkpoints.
const WINDOW: u32 = 100;

/// What to read.
#[derive(Clone, Debug)]
pub struct Query {
    /// From what.
    pub target: Target,
    /// In which order.
    pub direction: Direction,
    /// From where on, inclusive; see [`Read::from`].
    pub from: Option<u64>,
    /// At most so many events.
    pub limit: u64,
    /// How fresh. A linearizable read asks any node, unless its terms require
    /// the leader.
    pub mode: Mode,
}

/// What came of a read.
#[derive(Clone, Debug)]
pub struct Answer {
    /// How it went.
    pub outcome: ReadOutcome,
    /// How well the node was reached.
    pub contact: Contact,
    /// The `host:port` of the leader, where a refusal names it.
    pub leader: Option<String>,
}

impl Answer {
    fn failed(why: impl Into<String>, contact: Contact, leader: Option<String>) -> Answer {
        Answer { outcome: ReadOutcome::Failed { why: why.into() }, contact, leader }
    }

    /// The events, if there are any.
    pub fn events(&self) -> &[Seen] {
        match &self.outcome {
            ReadOutcome::Ok { events, .. } => events,
            ReadOutcome::NoStream { .. } | ReadOutcome::Tombstoned { .. } | ReadOutcome::Failed { .. } => &[],
        }
    }

    /// Up to where the log was looked at.
    pub fn as_of(&self) -> Option<u64> {
        match &self.outcome {
            ReadOutcome::Ok { as_of, .. } | ReadOutcome::NoStream { as_of } | ReadOutcome::Tombstoned { as_of } => {
                *as_of
            }
            ReadOutcome::Failed { .. } => None,
        }
    }
}

impl Query {
    /// Reads, and records it.
    pub async fn read(&self, wire: &Wire, recorder: &Recorder, terms: &Terms) -> Answer {
        let invoke = recorder.now();
        let answer = query(wire, self, terms).await;
        recorder.record(self.record(wire, recorder, terms, invoke, &answer));
        answer
    }

    /// The record of a read.
    pub(crate) fn record(
        &self,
        wire: &Wire,
        recorder: &Recorder,
        terms: &Terms,
        invoke: u64,
        answer: &Answer,
    ) -> Record {
        Record::Read(Read {
            process: terms.process,
            node: wire.node,
            invoke,
            complete: Some(recorder.now()),
            target: self.target.clone(),
            direction: self.direction,
            from: self.from,
            limit: self.limit,
            mode: self.mode,
            outcome: answer.outcome.clone(),
        })
    }
}

/// Reads without recording it.
pub async fn query(wire: &Wire, query: &Query, terms: &Terms) -> Answer {
    match tokio::time::timeout(terms.timeout, call(wire, query, terms)).await {
        Ok(answer) => answer,
        Err(_) => Answer::failed("no answer in time", Contact::Silent, None),
    }
}

async fn call(wire: &Wire, query: &Query, terms: &Terms) -> Answer {
    let message = request(&query.target, query.direction, query.from, CountOption::Count(query.limit));
    let mut request = terms.request(message);
    match query.mode {
        // Its terms say which of the two ways is taken.
        Mode::Linearizable if terms.requires_leader => {}
        Mode::Linearizable => {
            request.metadata_mut().insert("annals-consistency", MetadataValue::from_static("linearizable"));
        }
        Mode::AtLeast(position) => {
            request.metadata_mut().insert("annals-min-position", MetadataValue::from(position));
        }
        Mode::Local => {}
    }
    let response = match wire.streams().read(request).await {
        Ok(response) => response,
        Err(status) => return refused(&status),
    };
    let as_of = outcome::as_of(response.metadata());
    let mut messages = response.into_inner();
    let mut events = Vec::new();
    let mut missing = false;
    loop {
        match messages.message().await {
            Ok(Some(message)) => match message.content {
                Some(read_resp::Content::Event(event)) => match seen(event) {
                    Ok(seen) => events.push(seen),
                    Err(what) => return Answer::failed(what, Contact::Answered, None),
                },
                Some(read_resp::Content::StreamNotFound(_)) => missing = true,
                Some(_) => {}
                None => return Answer::failed("a message has no content", Contact::Answered, None),
            },
            Ok(None) => break,
            Err(status) => return refused(&status),
        }
    }
    let outcome = if missing { ReadOutcome::NoStream { as_of } } else { ReadOutcome::Ok { events, as_of } };
    Answer { outcome, contact: Contact::Answered, leader: None }
}

fn refused(status: &Status) -> Answer {
    let contact = outcome::contact(status);
    let exception = status.metadata().get("exception").and_then(|value| value.to_str().ok());
    if contact == Contact::Answered && status.code() == Code::FailedPrecondition && exception == Some("stream-deleted")
    {
        let as_of = outcome::as_of(status.metadata());
        return Answer { outcome: ReadOutcome::Tombstoned { as_of }, contact, leader: None };
    }
    Answer::failed(outcome::described(status), contact, outcome::leader(status.metadata()))
}

/// The message that asks for a read or a subscription. `from` is inclusive in
/// a read; in a subscription it is the last event that is not wanted.
pub fn request(target: &Target, direction: Direction, from: Option<u64>, count: CountOption) -> ReadReq {
    let counted = matches!(count, CountOption::Count(_));
    let (stream_option, filter_option) = match target {
        Target::Stream(stream) => {
            let revision = match (from, direction) {
                (Some(revision), _) => stream_options::RevisionOption::Revision(revision),
                (None, Direction::Forwards) => stream_options::RevisionOption::Start(Empty {}),
                (None, Direction::Backwards) => stream_options::RevisionOption::End(Empty {}),
            };
            let options = StreamOptions { stream_identifier: identifier(stream), revision_option: Some(revision) };
            (StreamOption::Stream(options), FilterOption::NoFilter(Empty {}))
        }
        Target::All { prefixes } => {
            let at = |position| {
                all_options::AllOption::Position(Position { commit_position: position, prepare_position: position })
            };
            let position = match (from, direction) {
                // Backwards the protocol means what is before a position.
                (Some(position), Direction::Backwards) if counted => at(position + 1),
                (Some(position), _) => at(position),
                (None, Direction::Forwards) => all_options::AllOption::Start(Empty {}),
                (None, Direction::Backwards) => all_options::AllOption::End(Empty {}),
            };
            let filter = if prefixes.is_empty() {
                FilterOption::NoFilter(Empty {})
            } else {
                FilterOption::Filter(FilterOptions {
                    filter: Some(Filter::StreamIdentifier(Expression {
                        regex: String::new(),
                        prefix: prefixes.clone(),
                    })),
                    window: Some(Window::Max(WINDOW)),
                    checkpoint_interval_multiplier: 1,
                })
            };
            (StreamOption::All(AllOptions { all_option: Some(position) }), filter)
        }
    };
    let direction = match direction {
        Direction::Forwards => ReadDirection::Forwards,
        Direction::Backwards => ReadDirection::Backwards,
    };
    ReadReq {
        options: Some(Options {
            read_direction: direction.into(),
            resolve_links: false,
            uuid_option: Some(UuidOption { content: Some(uuid_option::Content::Structured(Empty {})) }),
            control_option: Some(ControlOption { compatibility: 1 }),
            stream_option: Some(stream_option),
            count_option: Some(count),
            filter_option: Some(filter_option),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn position(from: Option<u64>, direction: Direction, count: CountOption) -> Option<all_options::AllOption> {
        let message = request(&Target::All { prefixes: Vec::new() }, direction, from, count);
        match message.options.and_then(|options| options.stream_option) {
            Some(StreamOption::All(all)) => all.all_option,
            other => panic!("not of all events: {other:?}"),
        }
    }

    #[test]
    fn where_a_read_begins_is_inclusive_whatever_the_protocol_means() {
        use annals_proto::event_store::client::streams::read_req::options::SubscriptionOptions;
        let at = |place| {
            Some(all_options::AllOption::Position(Position { commit_position: place, prepare_position: place }))
        };
        assert_eq!(position(Some(7), Direction::Forwards, CountOption::Count(1)), at(7));
        assert_eq!(position(Some(7), Direction::Backwards, CountOption::Count(1)), at(8));
        let subscription = CountOption::Subscription(SubscriptionOptions {});
        assert_eq!(position(Some(7), Direction::Forwards, subscription), at(7), "exclusive, as is what was seen last");
        let start = Some(all_options::AllOption::Start(Empty {}));
        assert_eq!(position(None, Direction::Forwards, CountOption::Count(1)), start);
    }
}
