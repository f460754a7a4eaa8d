//! Many single appends in flight over one `BatchAppend` call.
//!
//! Each append is a worker of its own with one request under way, so that its
//! latency is that of an append; the workers of one stream share a call. Every
//! append expects exactly the revision that the one sent before it will leave.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use annals_bench::load::{Pace, Worker};
use annals_proto::event_store::client::streams::batch_append_req::options::ExpectedStreamPosition;
use annals_proto::event_store::client::streams::batch_append_req::{Options, ProposedMessage};
use annals_proto::event_store::client::streams::batch_append_resp::success::CurrentRevisionOption;
use annals_proto::event_store::client::streams::{BatchAppendReq, BatchAppendResp, batch_append_resp};
use annals_proto::event_store::client::{Uuid as WireUuid, uuid};
use anyhow::{Context, bail};
use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::Streaming;

use super::append::{Events, name};
use super::{Figures, Setup, leaders};
use crate::system::annals::{Annals, AnnalsClient, id, identifier, metadata};
use crate::system::{Event, System};

impl Setup<'_> {
    pub(super) async fn batches(&self, nodes: usize, streams: usize, in_flight: usize) -> anyhow::Result<Figures> {
        let mut system = Annals::start(self.programs, self.place, nodes).await?;
        let mut workers = Vec::new();
        for (stream, client) in leaders(&mut system, streams).await?.into_iter().enumerate() {
            let call = Arc::new(Call::open(client, stream).await?);
            workers.extend((0..in_flight).map(|_| Single { call: call.clone(), events: Events::new() }));
        }
        self.appends(&mut system, workers, Pace::Closed).await
    }
}

/// One call, for one stream.
struct Call {
    stream: String,
    state: Mutex<State>,
}

struct State {
    /// Requests go out in the order of their revisions, which is why the sender
    /// is used under the same lock. Bounded by the number of workers.
    requests: mpsc::UnboundedSender<BatchAppendReq>,
    next_revision: u64,
    waiting: Waiting,
}

/// Who waits for the answer to which correlation id.
type Waiting = Arc<Mutex<HashMap<String, oneshot::Sender<BatchAppendResp>>>>;

impl Call {
    async fn open(client: AnnalsClient, stream: usize) -> anyhow::Result<Self> {
        let (requests, receiver) = mpsc::unbounded_channel();
        let answers = client.into_inner().batch_append(UnboundedReceiverStream::new(receiver)).await?.into_inner();
        let waiting = Waiting::default();
        tokio::spawn(hand_out(answers, waiting.clone()));
        Ok(Self { stream: name(stream), state: Mutex::new(State { requests, next_revision: 0, waiting }) })
    }

    /// Sends the next append; its revision, and where the answer will come.
    fn send(&self, event: &Event) -> anyhow::Result<(u64, oneshot::Receiver<BatchAppendResp>)> {
        let (sender, receiver) = oneshot::channel();
        let mut state = self.state.lock().expect("nothing panics under this lock");
        let revision = state.next_revision;
        state.next_revision += 1;
        state.waiting.lock().expect("nothing panics under this lock").insert(event.id.to_string(), sender);
        let expected = match revision {
            0 => ExpectedStreamPosition::NoStream(()),
            next => ExpectedStreamPosition::StreamPosition(next - 1),
        };
        let request = BatchAppendReq {
            correlation_id: Some(id(event)),
            options: Some(Options {
                stream_identifier: Some(identifier(&self.stream)),
                expected_stream_position: Some(expected),
                deadline_option: None,
            }),
            proposed_messages: vec![ProposedMessage {
                id: Some(id(event)),
                metadata: metadata(),
                custom_metadata: Bytes::new(),
                data: event.data.clone(),
            }],
            is_final: true,
        };
        state.requests.send(request).map_err(|_| anyhow::anyhow!("the call has ended"))?;
        Ok((revision, receiver))
    }
}

/// Gives every answer to who waits for it. When the call ends, so do they.
async fn hand_out(mut answers: Streaming<BatchAppendResp>, waiting: Waiting) {
    while let Ok(Some(answer)) = answers.message().await {
        if let Some(WireUuid { value: Some(uuid::Value::String(id)) }) = &answer.correlation_id {
            let waits = waiting.lock().expect("nothing panics under this lock").remove(id);
            if let Some(waits) = waits {
                // The worker may have been stopped by another one's error.
                let _ = waits.send(answer);
            }
        }
    }
    waiting.lock().expect("nothing panics under this lock").clear();
}

/// One append at a time.
struct Single {
    call: Arc<Call>,
    events: Events,
}

impl Worker for Single {
    async fn request(&mut self) -> anyhow::Result<u64> {
        let (due, answer) = self.call.send(&self.events.next())?;
        let answer = answer.await.context("the call ended without an answer")?;
        match answer.result {
            Some(batch_append_resp::Result::Success(success)) => {
                let revision = success.current_revision_option;
                if revision != Some(CurrentRevisionOption::CurrentRevision(due)) {
                    bail!("{revision:?} was answered where revision {due} was due");
                }
                Ok(1)
            }
            other => bail!("an append to {} at revision {due} was refused: {other:?}", self.call.stream),
        }
    }
}
