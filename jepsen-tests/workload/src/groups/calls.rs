//! The calls about groups, and reads of what they write.

use std::time::Duration;

use annals_checker::history::{Direction, GroupSource, NodeNumber, Target};
use annals_proto::event_store::client::Empty;
use annals_proto::event_store::client::persistent_subscriptions::create_req::all_options::filter_options::{
    Expression, Filter, Window,
};
use annals_proto::event_store::client::persistent_subscriptions::create_req::all_options::{
    AllOption, FilterOption, FilterOptions,
};
use annals_proto::event_store::client::persistent_subscriptions::create_req::settings::{
    CheckpointAfter, MessageTimeout,
};
use annals_proto::event_store::client::persistent_subscriptions::create_req::stream_options::RevisionOption;
use annals_proto::event_store::client::persistent_subscriptions::create_req::{
    self, AllOptions, Settings, StreamOptions,
};
use annals_proto::event_store::client::persistent_subscriptions::replay_parked_req::options::{
    StopAtOption, StreamOption as ReplayOf,
};
use annals_proto::event_store::client::persistent_subscriptions::{CreateReq, ReplayParkedReq, replay_parked_req};
use annals_proto::event_store::client::streams::read_req::options::CountOption;
use annals_proto::event_store::client::streams::read_resp::read_event::RecordedEvent;
use annals_proto::event_store::client::streams::read_resp::{Content, ReadEvent};
use anyhow::{Context as _, Result, ensure};
use tonic::metadata::MetadataValue;
use tonic::{Code, Request, Status};

use super::{Shared, Sharing};
use crate::calls::{identifier, request};
use crate::wire::Wire;

/// After so long without an answer an event is given to somebody again.
pub(super) const MESSAGE_TIMEOUT: Duration = Duration::from_secs(2);

/// Short times and small buffers, so that all of it happens within seconds.
fn settings(group: &Sharing) -> Settings {
    Settings {
        resolve_links: true,
        message_timeout: Some(MessageTimeout::MessageTimeoutMs(2_000)),
        checkpoint_after: Some(CheckpointAfter::CheckpointAfterMs(300)),
        max_retry_count: 4,
        min_checkpoint_count: 1,
        max_checkpoint_count: 20,
        live_buffer_size: 100,
        read_batch_size: 20,
        history_buffer_size: 100,
        consumer_strategy: group.strategy.to_owned(),
        ..Settings::default()
    }
}

/// Makes a group that begins with the first event. One that is there already
/// was made by a call whose answer was lost.
pub(super) async fn make(shared: &Shared, group: &Sharing) -> Result<()> {
    use create_req::options::StreamOption;
    let stream_option = match &group.source {
        GroupSource::All { prefixes } => {
            let expression = Expression { regex: String::new(), prefix: prefixes.clone() };
            let filter = FilterOptions {
                filter: Some(Filter::StreamIdentifier(expression)),
                window: Some(Window::Max(32)),
                checkpoint_interval_multiplier: 1,
            };
            StreamOption::All(AllOptions {
                all_option: Some(AllOption::Start(Empty {})),
                filter_option: Some(FilterOption::Filter(filter)),
            })
        }
        GroupSource::Stream(_) | GroupSource::Category(_) => StreamOption::Stream(StreamOptions {
            stream_identifier: identifier(&group.source_name()),
            revision_option: Some(RevisionOption::Start(Empty {})),
        }),
    };
    let options = create_req::Options {
        stream_option: Some(stream_option),
        stream_identifier: None,
        group_name: group.name.clone(),
        settings: Some(settings(group)),
    };
    let node = shared.endpoints.nodes().first().copied().context("there is no node")?;
    let wire = Wire::connect(&shared.endpoints, node, shared.plan.connect_timeout, None).await?;
    let mut client = wire.groups();
    let answer = tokio::time::timeout(shared.plan.timeout, client.create(CreateReq { options: Some(options) })).await?;
    match answer {
        Ok(_) => Ok(()),
        Err(status) if status.code() == Code::AlreadyExists => Ok(()),
        Err(status) => Err(status.into()),
    }
}

/// Asks a node for all that a group has parked.
pub(super) async fn replay(wire: &Wire, group: &Sharing) -> Result<(), Status> {
    let stream_option = match group.source {
        GroupSource::All { .. } => ReplayOf::All(Empty {}),
        GroupSource::Stream(_) | GroupSource::Category(_) => {
            ReplayOf::StreamIdentifier(identifier(&group.source_name()).unwrap_or_default())
        }
    };
    let options = replay_parked_req::Options {
        group_name: group.name.clone(),
        stream_option: Some(stream_option),
        stop_at_option: Some(StopAtOption::NoLimit(Empty {})),
    };
    wire.groups().replay_parked(ReplayParkedReq { options: Some(options) }).await.map(|_| ())
}

/// Has all groups begin anew.
pub(super) async fn restart(wire: &Wire) -> Result<(), Status> {
    wire.groups().restart_subsystem(Empty {}).await.map(|_| ())
}

/// What a leader answered to a read.
pub(super) struct Page {
    pub(super) events: Vec<RecordedEvent>,
    /// Its term.
    pub(super) term: u64,
}

/// Reads as the leader, which makes sure that it is.
pub(super) async fn read_as_leader(
    shared: &Shared,
    node: NodeNumber,
    target: &Target,
    direction: Direction,
    from: Option<u64>,
    limit: u64,
) -> Result<Page> {
    let read = async {
        let wire = Wire::connect(&shared.endpoints, node, shared.plan.connect_timeout, None).await?;
        let mut request = Request::new(request(target, direction, from, CountOption::Count(limit)));
        request.metadata_mut().insert("requires-leader", MetadataValue::from_static("true"));
        let response = wire.streams().read(request).await?;
        let term = response.metadata().get("annals-term").and_then(|term| term.to_str().ok());
        let term = term.and_then(|term| term.parse().ok()).context("a read does not tell its term")?;
        let mut messages = response.into_inner();
        let mut events = Vec::new();
        while let Some(message) = messages.message().await? {
            if let Some(Content::Event(ReadEvent { event: Some(event), .. })) = message.content {
                events.push(event);
            }
        }
        ensure!(events.len() as u64 <= limit, "more than was asked for");
        Ok(Page { events, term })
    };
    tokio::time::timeout(shared.plan.timeout, read).await.context("no answer in time")?
}
