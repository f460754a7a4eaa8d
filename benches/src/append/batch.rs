//! Many appends on one call.
//!
//! A client has one call and on it as many lanes as appends may be under way. A
//! lane is a worker: it sends an append and waits for the answer with its
//! number. Answers come in any order; one task for each call hands them out.

use std::sync::{Arc, OnceLock};

use annals_proto::event_store::client::streams::batch_append_req::Options;
use annals_proto::event_store::client::streams::batch_append_req::options::{DeadlineOption, ExpectedStreamPosition};
use annals_proto::event_store::client::streams::batch_append_resp::success::CurrentRevisionOption;
use annals_proto::event_store::client::streams::{BatchAppendReq, BatchAppendResp, batch_append_resp};
use annals_proto::event_store::client::{StreamIdentifier, Uuid, uuid};
use anyhow::{Context as _, anyhow, bail};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::writer::{Expected, Turn, Writer};
use crate::load::Worker;
use crate::wire::{Connection, Frame};

/// The upper half of correlation ids: anything, so that no id is nil.
const CORRELATION: i64 = 0x6265_6e63_6800_4000;

/// As the official clients have it. A server may give up earlier.
const DEADLINE: prost_types::Duration = prost_types::Duration { seconds: 10, nanos: 0 };

/// Room for one append on a call.
pub(crate) struct Lane {
    number: usize,
    frames: mpsc::Sender<Frame>,
    answers: mpsc::Receiver<BatchAppendResp>,
    /// Why the call ended.
    ended: Arc<OnceLock<anyhow::Error>>,
}

/// Makes a call with so many lanes.
pub(crate) fn open(connection: Connection, lanes: usize) -> Vec<Lane> {
    let (frames, outgoing) = mpsc::channel(lanes);
    let ended = Arc::new(OnceLock::new());
    let mut hand_out = Vec::with_capacity(lanes);
    let lanes = (0..lanes).map(|number| {
        let (answer, answers) = mpsc::channel(1);
        hand_out.push(answer);
        Lane { number, frames: frames.clone(), answers, ended: ended.clone() }
    });
    let lanes = lanes.collect();
    tokio::spawn(async move {
        if let Err(error) = call(connection, outgoing, &hand_out).await {
            // Nobody else sets it.
            let _ = ended.set(error);
        }
        // Lanes that wait learn of the end by this.
        drop(hand_out);
    });
    lanes
}

/// Hands out the answers of a call until it ends.
async fn call(
    mut connection: Connection,
    outgoing: mpsc::Receiver<Frame>,
    lanes: &[mpsc::Sender<BatchAppendResp>],
) -> anyhow::Result<()> {
    let mut answers = connection.batch_append(ReceiverStream::new(outgoing)).await?;
    while let Some(answer) = answers.message().await.map_err(annals_client::Error::from)? {
        let lane = number(answer.correlation_id.as_ref()).and_then(|number| lanes.get(number));
        let lane = lane.ok_or_else(|| anyhow!("an answer to nobody: {:?}", answer.correlation_id))?;
        // A lane has one append under way, so there is room, unless an answer
        // came twice; and a lane that is gone waits for nothing.
        if let Err(mpsc::error::TrySendError::Full(answer)) = lane.try_send(answer) {
            bail!("an append was answered twice: {:?}", answer.correlation_id);
        }
    }
    Ok(())
}

fn correlation(lane: usize) -> Uuid {
    let structured = uuid::Structured { most_significant_bits: CORRELATION, least_significant_bits: lane as i64 };
    Uuid { value: Some(uuid::Value::Structured(structured)) }
}

/// The lane that an answer is for.
fn number(correlation: Option<&Uuid>) -> Option<usize> {
    match correlation?.value.as_ref()? {
        uuid::Value::Structured(id) if id.most_significant_bits == CORRELATION => {
            usize::try_from(id.least_significant_bits).ok()
        }
        uuid::Value::Structured(_) | uuid::Value::String(_) => None,
    }
}

impl Lane {
    pub(crate) fn worker(self, writer: Writer) -> Batched {
        Batched { lane: self, writer }
    }

    async fn exchange(&mut self, frame: Frame) -> anyhow::Result<BatchAppendResp> {
        if self.frames.send(frame).await.is_ok()
            && let Some(answer) = self.answers.recv().await
        {
            return Ok(answer);
        }
        match self.ended.get() {
            Some(error) => bail!("the call of batch appends ended: {error:#}"),
            None => bail!("the call of batch appends ended without an error"),
        }
    }
}

/// A lane with what it appends.
pub(crate) struct Batched {
    lane: Lane,
    writer: Writer,
}

impl Batched {
    fn head(&self, turn: Turn) -> BatchAppendReq {
        let options = Options {
            stream_identifier: Some(StreamIdentifier { stream_name: self.writer.streams().name(turn.stream).clone() }),
            expected_stream_position: Some(match self.writer.expected(turn) {
                Expected::Any => ExpectedStreamPosition::Any(()),
                Expected::NoStream => ExpectedStreamPosition::NoStream(()),
                Expected::Revision(revision) => ExpectedStreamPosition::StreamPosition(revision),
            }),
            deadline_option: Some(DeadlineOption::Deadline(DEADLINE)),
        };
        BatchAppendReq {
            correlation_id: Some(correlation(self.lane.number)),
            options: Some(options),
            proposed_messages: Vec::new(),
            is_final: true,
        }
    }

    fn revision(answer: BatchAppendResp) -> anyhow::Result<Option<u64>> {
        match answer.result {
            Some(batch_append_resp::Result::Success(success)) => Ok(match success.current_revision_option {
                Some(CurrentRevisionOption::CurrentRevision(revision)) => Some(revision),
                Some(CurrentRevisionOption::NoStream(())) | None => None,
            }),
            Some(batch_append_resp::Result::Error(error)) => {
                bail!("refused: {} (code {})", error.message, error.code)
            }
            None => bail!("there is no result"),
        }
    }
}

impl Worker for Batched {
    async fn request(&mut self) -> anyhow::Result<u64> {
        let turn = self.writer.turn();
        let frame = Frame::Batch(self.head(turn), self.writer.events(turn));
        let answer = self.lane.exchange(frame).await?;
        let events = Self::revision(answer).and_then(|revision| self.writer.answered(turn, revision));
        events.with_context(|| format!("an append to {}", self.writer.name(turn)))
    }
}
