//! `BatchAppend`: a call that stays open, with several appends under way.

use std::collections::HashMap;

use annals_checker::history::{Append, Expected, Nanos, Outcome, Record, Write};
use annals_proto::event_store::client::streams::batch_append_req::options::ExpectedStreamPosition;
use annals_proto::event_store::client::streams::batch_append_req::{Options, ProposedMessage};
use annals_proto::event_store::client::streams::batch_append_resp::Result as Answered;
use annals_proto::event_store::client::streams::batch_append_resp::success::{CurrentRevisionOption, PositionOption};
use annals_proto::event_store::client::streams::{BatchAppendReq, BatchAppendResp};
use annals_proto::event_store::client::{Uuid as WireUuid, uuid as wire_uuid};
use anyhow::{Context as _, Result};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use uuid::Uuid;

use super::append::{identifier, v1_custom, v1_metadata, wire_id};
use super::{Done, Draft, Terms, outcome};
use crate::Recorder;
use crate::wire::{Contact, Wire};

/// Pieces that may wait to be sent.
const QUEUE: usize = 64;

/// Events in one piece of an append.
const PIECE: usize = 8;

/// An open call.
pub struct Batches {
    wire: Wire,
    pieces: mpsc::Sender<BatchAppendReq>,
    answers: Streaming<BatchAppendResp>,
    next: u128,
}

/// An append that was sent.
struct Sent {
    at: usize,
    process: u32,
    invoke: Nanos,
    write: Write,
}

impl Batches {
    /// Opens a call. Nothing is appended yet.
    ///
    /// # Errors
    /// When it cannot be opened in time.
    pub async fn open(wire: &Wire, terms: &Terms) -> Result<Batches> {
        let (pieces, receiver) = mpsc::channel(QUEUE);
        let mut request = tonic::Request::new(ReceiverStream::new(receiver));
        if terms.requires_leader {
            request = terms.request(request.into_inner());
        }
        let mut client = wire.streams();
        let opened = tokio::time::timeout(terms.timeout, client.batch_append(request)).await;
        let answers = opened.context("no answer to the opening of a batch append")??.into_inner();
        Ok(Batches { wire: wire.clone(), pieces, answers, next: 1 })
    }

    /// Sends all appends, one after the other without waiting, each under the
    /// process number that stands beside it; then waits for their answers and
    /// records each. After anything but an answer to each the call is of no
    /// use any more, which the second value tells.
    pub async fn append(
        mut self,
        recorder: &Recorder,
        terms: &Terms,
        drafts: &[(u32, Draft)],
    ) -> (Vec<Done>, Option<Batches>) {
        let deadline = Instant::now() + terms.timeout;
        let mut waiting: HashMap<u128, Sent> = HashMap::new();
        let mut done: Vec<Option<Done>> = vec![None; drafts.len()];
        for (at, (process, draft)) in drafts.iter().enumerate() {
            let correlation = self.next;
            self.next += 1;
            waiting.insert(correlation, Sent { at, process: *process, invoke: recorder.now(), write: draft.write() });
            for piece in pieces(correlation, draft) {
                // A call that ended takes no more; the answers tell why.
                let _ = timeout_at(deadline, self.pieces.send(piece)).await;
            }
        }
        let mut end = None;
        while end.is_none() && !waiting.is_empty() {
            end = match timeout_at(deadline, self.answers.message()).await {
                Err(_) => Some(Done::silent()),
                Ok(Err(status)) => Some(outcome::batch_end(&status)),
                Ok(Ok(None)) => Some(Done {
                    outcome: Outcome::Unknown { why: "the batch append ended".to_owned() },
                    contact: Contact::Answered,
                    leader: None,
                }),
                Ok(Ok(Some(answer))) => {
                    if let Some(sent) = correlation(&answer).and_then(|id| waiting.remove(&id)) {
                        let outcome = answered(answer, &sent.write);
                        let at = sent.at;
                        record(recorder, &self.wire, sent, outcome.clone());
                        done[at] = Some(Done { outcome, contact: Contact::Answered, leader: None });
                    }
                    None
                }
            };
        }
        if let Some(end) = &end {
            for (_, sent) in waiting {
                done[sent.at] = Some(end.clone());
                record(recorder, &self.wire, sent, end.outcome.clone());
            }
        }
        let done = done.into_iter().map(|done| done.expect("every append was answered or given up")).collect();
        (done, end.is_none().then_some(self))
    }
}

fn record(recorder: &Recorder, wire: &Wire, sent: Sent, outcome: Outcome) {
    let known = !matches!(outcome, Outcome::Unknown { .. });
    recorder.record(Record::Append(Append {
        process: sent.process,
        node: wire.node,
        invoke: sent.invoke,
        complete: known.then(|| recorder.now()),
        call: "batch_append".to_owned(),
        writes: vec![sent.write],
        outcome,
    }));
}

fn pieces(correlation: u128, draft: &Draft) -> Vec<BatchAppendReq> {
    let expected = match draft.expected {
        Expected::Any => ExpectedStreamPosition::Any(()),
        Expected::NoStream => ExpectedStreamPosition::NoStream(()),
        Expected::Exists => ExpectedStreamPosition::StreamExists(()),
        Expected::Revision(revision) => ExpectedStreamPosition::StreamPosition(revision),
    };
    let options = Options {
        stream_identifier: identifier(&draft.stream),
        expected_stream_position: Some(expected),
        deadline_option: None,
    };
    let id = WireUuid { value: Some(wire_uuid::Value::String(Uuid::from_u128(correlation).to_string())) };
    let chunks: Vec<_> = draft.events.chunks(PIECE).collect();
    let last = chunks.len().saturating_sub(1);
    chunks
        .into_iter()
        .enumerate()
        .map(|(at, events)| BatchAppendReq {
            correlation_id: Some(id.clone()),
            options: (at == 0).then(|| options.clone()),
            proposed_messages: events
                .iter()
                .map(|event| ProposedMessage {
                    id: wire_id(event),
                    metadata: v1_metadata(event),
                    custom_metadata: v1_custom(event),
                    data: event.data.clone(),
                })
                .collect(),
            is_final: at == last,
        })
        .collect()
}

fn correlation(answer: &BatchAppendResp) -> Option<u128> {
    match answer.correlation_id.as_ref()?.value.as_ref()? {
        wire_uuid::Value::String(text) => Uuid::parse_str(text).ok().map(|id| id.as_u128()),
        wire_uuid::Value::Structured(_) => None,
    }
}

fn answered(answer: BatchAppendResp, write: &Write) -> Outcome {
    match answer.result {
        Some(Answered::Error(error)) => outcome::entry(&error, &write.stream),
        Some(Answered::Success(success)) => match (success.position_option, success.current_revision_option) {
            (Some(PositionOption::Position(position)), Some(CurrentRevisionOption::CurrentRevision(revision))) => {
                Outcome::Acked { position: position.commit_position, revisions: vec![revision] }
            }
            (position, revision) => Outcome::Unknown {
                why: format!("the answer makes no sense: a success with {position:?} and {revision:?}"),
            },
        },
        None => Outcome::Unknown { why: "the answer makes no sense: no result".to_owned() },
    }
}
