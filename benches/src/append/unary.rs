//! A call for each append.

use std::sync::Arc;

use annals_proto::event_store::client::streams::{AppendReq, append_req, append_resp};
use annals_proto::event_store::client::{Empty, StreamIdentifier};
use anyhow::{Context as _, bail};
use futures::stream;

use super::Expect;
use super::writer::{Expected, Load, Turn, Writer};
use crate::event::{Template, Timeline};
use crate::load::Worker;
use crate::streams::Streams;
use crate::target::Connections;
use crate::watch::Watch;
use crate::wire::{Connection, Frame};

/// A client that appends.
pub(crate) struct Unary {
    connection: Connection,
    writer: Writer,
}

impl Unary {
    pub(crate) fn new(connection: Connection, writer: Writer) -> Self {
        Unary { connection, writer }
    }

    async fn append(&mut self, turn: Turn) -> anyhow::Result<u64> {
        let first = std::iter::once(Frame::Options(self.options(turn)));
        let frames = first.chain(self.writer.events(turn).map(Frame::Event));
        let answer = self.connection.append(stream::iter(frames)).await;
        let answer = answer.with_context(|| format!("cannot append to {}", self.writer.name(turn)))?;
        let revision = match answer.result {
            Some(append_resp::Result::Success(success)) => match success.current_revision_option {
                Some(append_resp::success::CurrentRevisionOption::CurrentRevision(revision)) => Some(revision),
                Some(append_resp::success::CurrentRevisionOption::NoStream(_)) | None => None,
            },
            Some(append_resp::Result::WrongExpectedVersion(wrong)) => {
                bail!(
                    "an append to {} was refused: expected {:?}, found {:?}",
                    self.writer.name(turn),
                    self.writer.expected(turn),
                    wrong.current_revision_option
                )
            }
            None => bail!("an append to {} has no result", self.writer.name(turn)),
        };
        self.writer.answered(turn, revision).with_context(|| format!("an append to {}", self.writer.name(turn)))
    }

    fn options(&self, turn: Turn) -> AppendReq {
        use append_req::options::ExpectedStreamRevision as Wire;
        let options = append_req::Options {
            stream_identifier: Some(StreamIdentifier { stream_name: self.writer.streams().name(turn.stream).clone() }),
            expected_stream_revision: Some(match self.writer.expected(turn) {
                Expected::Any => Wire::Any(Empty {}),
                Expected::NoStream => Wire::NoStream(Empty {}),
                Expected::Revision(revision) => Wire::Revision(revision),
            }),
        };
        AppendReq { content: Some(append_req::Content::Options(options)) }
    }
}

impl Worker for Unary {
    async fn request(&mut self) -> anyhow::Result<u64> {
        let turn = self.writer.turn();
        self.append(turn).await
    }
}

/// Events of one append while a run is prepared.
const FILL_EVENTS: u64 = 500;
/// Bytes of the same, about: well below what a server accepts.
const FILL_BYTES: u64 = 512 * 1024;
/// Clients that prepare a run.
pub(crate) const FILL_CLIENTS: usize = 16;

/// Writes so many events to each stream, for who reads them later.
///
/// # Errors
/// An append was not answered as it must be.
pub(crate) async fn fill(
    connections: &Connections,
    streams: &Arc<Streams>,
    events: u64,
    bytes: usize,
    timeline: Option<Timeline>,
    watch: &Watch,
) -> anyhow::Result<()> {
    let load = Load {
        streams: streams.clone(),
        template: Template::unary(bytes),
        events: FILL_EVENTS.min(FILL_BYTES / (bytes as u64 + 1)).clamp(1, events.max(1)),
        expect: Expect::Exact,
        timeline,
    };
    let mut tasks = tokio::task::JoinSet::new();
    for client in 0..FILL_CLIENTS {
        let mut unary = Unary::new(connections.of(client), load.writer(client, FILL_CLIENTS));
        let (load, watch) = (load.clone(), watch.clone());
        tasks.spawn(async move {
            for stream in (client..load.streams.count()).step_by(FILL_CLIENTS) {
                while load.streams.acknowledged(stream) < events && !watch.stop.is_cancelled() {
                    let left = events - load.streams.acknowledged(stream);
                    watch.count(unary.append(unary.writer.turn_to(stream, left.min(load.events))).await?);
                }
            }
            anyhow::Ok(())
        });
    }
    while let Some(done) = tasks.join_next().await {
        done.context("a client panicked")??;
    }
    if watch.stop.is_cancelled() {
        bail!("interrupted while events were written to be read");
    }
    Ok(())
}
