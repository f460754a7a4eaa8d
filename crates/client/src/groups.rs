//! Operating consumer groups. Consuming is for the official clients.

use annals_proto::event_store::client::Empty;
use annals_proto::event_store::client::persistent_subscriptions::persistent_subscriptions_client::PersistentSubscriptionsClient;
use annals_proto::event_store::client::persistent_subscriptions::{
    CreateReq, DeleteReq, GetInfoReq, ListReq, ReplayParkedReq, SubscriptionInfo, TruncateParkedReq, create_req,
    delete_req, get_info_req, list_req, replay_parked_req, truncate_parked_req,
};
use tonic::transport::Channel;

use crate::client::{Deadline, identifier};
use crate::{Client, Cursor, Error};

const ALL: &str = "$all";

/// What operates consumer groups. Any node answers.
#[derive(Clone)]
pub struct Groups {
    client: Client,
}

/// Which group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// The stream or index that it is fed with, `$all` for everything.
    pub source: String,
    /// Its name.
    pub name: String,
}

/// How a new group is to be served. The defaults are those of the official clients.
#[derive(Clone, Debug, PartialEq)]
pub struct NewGroup {
    /// With which event it begins: a revision or a position, inclusive.
    pub from: Cursor,
    /// `RoundRobin`, `DispatchToSingle`, `Pinned` or `PinnedByCorrelation`.
    pub strategy: String,
    /// Deliver what links lead to.
    pub resolve_links: bool,
    /// A message that failed and was retried so often is parked.
    pub max_retries: u32,
    /// After this time without an answer a message is retried.
    pub message_timeout: std::time::Duration,
    /// Consumers at a time; any number if 0.
    pub max_consumers: u32,
    /// Only events of streams that begin like one of these; of `$all` only.
    pub stream_prefixes: Vec<String>,
}

impl Default for NewGroup {
    fn default() -> Self {
        NewGroup {
            from: Cursor::Start,
            strategy: "RoundRobin".to_owned(),
            resolve_links: false,
            max_retries: 10,
            message_timeout: std::time::Duration::from_secs(30),
            max_consumers: 0,
            stream_prefixes: Vec::new(),
        }
    }
}

impl Groups {
    pub(crate) fn new(client: Client) -> Self {
        Groups { client }
    }

    /// Defines a group. Durable on return.
    ///
    /// # Errors
    /// It exists, or its settings make no sense: the message says which.
    pub async fn create(&self, group: &Group, new: &NewGroup) -> Result<(), Error> {
        let message = CreateReq { options: Some(definition(group, new)) };
        let request = || self.client.request(message.clone(), Deadline::Default);
        self.client.call(|channel| async move { service(channel).create(request()).await }).await.map(|_| ())
    }

    /// How a group does.
    ///
    /// # Errors
    /// There is no such group.
    pub async fn info(&self, group: &Group) -> Result<SubscriptionInfo, Error> {
        use get_info_req::options::StreamOption;
        let stream_option = Some(match group.source.as_str() {
            ALL => StreamOption::All(Empty {}),
            stream => StreamOption::StreamIdentifier(identifier(stream)),
        });
        let options = get_info_req::Options { stream_option, group_name: group.name.clone() };
        let message = GetInfoReq { options: Some(options) };
        let request = || self.client.request(message.clone(), Deadline::Default);
        let reply = self.client.call(|channel| async move { service(channel).get_info(request()).await }).await?;
        reply.subscription_info.ok_or(Error::Protocol("an answer about a group without the group"))
    }

    /// All groups, or those of one source.
    ///
    /// # Errors
    /// The source has none.
    pub async fn list(&self, source: Option<&str>) -> Result<Vec<SubscriptionInfo>, Error> {
        use list_req::options::ListOption;
        use list_req::stream_option::StreamOption;
        let list_option = Some(match source {
            None => ListOption::ListAllSubscriptions(Empty {}),
            Some(ALL) => {
                ListOption::ListForStream(list_req::StreamOption { stream_option: Some(StreamOption::All(Empty {})) })
            }
            Some(stream) => ListOption::ListForStream(list_req::StreamOption {
                stream_option: Some(StreamOption::Stream(identifier(stream))),
            }),
        });
        let message = ListReq { options: Some(list_req::Options { list_option }) };
        let request = || self.client.request(message.clone(), Deadline::Default);
        let reply = self.client.call(|channel| async move { service(channel).list(request()).await }).await?;
        Ok(reply.subscriptions)
    }

    /// Removes a group with its checkpoint and its parked messages.
    ///
    /// # Errors
    /// There is no such group.
    pub async fn delete(&self, group: &Group) -> Result<(), Error> {
        use delete_req::options::StreamOption;
        let stream_option = Some(match group.source.as_str() {
            ALL => StreamOption::All(Empty {}),
            stream => StreamOption::StreamIdentifier(identifier(stream)),
        });
        let message =
            DeleteReq { options: Some(delete_req::Options { stream_option, group_name: group.name.clone() }) };
        let request = || self.client.request(message.clone(), Deadline::Default);
        self.client.call(|channel| async move { service(channel).delete(request()).await }).await.map(|_| ())
    }

    /// Delivers parked messages again: those before a revision of the parked stream,
    /// or all.
    ///
    /// # Errors
    /// There is no such group, or it is replaying already.
    pub async fn replay(&self, group: &Group, before: Option<u64>) -> Result<(), Error> {
        use replay_parked_req::options::{StopAtOption, StreamOption};
        let options = replay_parked_req::Options {
            group_name: group.name.clone(),
            stream_option: Some(match group.source.as_str() {
                ALL => StreamOption::All(Empty {}),
                stream => StreamOption::StreamIdentifier(identifier(stream)),
            }),
            stop_at_option: Some(match before {
                Some(before) => StopAtOption::StopAt(i64::try_from(before).unwrap_or(i64::MAX)),
                None => StopAtOption::NoLimit(Empty {}),
            }),
        };
        let message = ReplayParkedReq { options: Some(options) };
        let request = || self.client.request(message.clone(), Deadline::Default);
        self.client.call(|channel| async move { service(channel).replay_parked(request()).await }).await.map(|_| ())
    }

    /// Drops parked messages, as [`Groups::replay`].
    ///
    /// # Errors
    /// As [`Groups::replay`].
    pub async fn drop_parked(&self, group: &Group, before: Option<u64>) -> Result<(), Error> {
        use truncate_parked_req::options::{StopAtOption, StreamOption};
        let options = truncate_parked_req::Options {
            group_name: group.name.clone(),
            stream_option: Some(match group.source.as_str() {
                ALL => StreamOption::All(Empty {}),
                stream => StreamOption::StreamIdentifier(identifier(stream)),
            }),
            stop_at_option: Some(match before {
                Some(before) => StopAtOption::StopAt(i64::try_from(before).unwrap_or(i64::MAX)),
                None => StopAtOption::NoLimit(Empty {}),
            }),
        };
        let message = TruncateParkedReq { options: Some(options) };
        let request = || self.client.request(message.clone(), Deadline::Default);
        self.client.call(|channel| async move { service(channel).truncate_parked(request()).await }).await.map(|_| ())
    }
}

impl Group {
    /// The stream that holds its parked messages: links, with the reasons in their
    /// metadata.
    pub fn parked(&self) -> String {
        format!("$persistentsubscription-{}::{}-parked", self.source, self.name)
    }
}

fn definition(group: &Group, new: &NewGroup) -> create_req::Options {
    use create_req::all_options::{AllOption, FilterOption};
    use create_req::options::StreamOption;
    use create_req::settings::{CheckpointAfter, MessageTimeout};
    use create_req::stream_options::RevisionOption;
    let narrow = |number: u32| i32::try_from(number).unwrap_or(i32::MAX);
    let settings = create_req::Settings {
        resolve_links: new.resolve_links,
        max_retry_count: narrow(new.max_retries),
        min_checkpoint_count: 10,
        max_checkpoint_count: 1_000,
        max_subscriber_count: narrow(new.max_consumers),
        live_buffer_size: 500,
        read_batch_size: 200,
        history_buffer_size: 500,
        message_timeout: Some(MessageTimeout::MessageTimeoutMs(
            i32::try_from(new.message_timeout.as_millis()).unwrap_or(i32::MAX),
        )),
        checkpoint_after: Some(CheckpointAfter::CheckpointAfterMs(2_000)),
        consumer_strategy: new.strategy.clone(),
        ..create_req::Settings::default()
    };
    let stream_option = if group.source == ALL {
        let all_option = match new.from {
            Cursor::Start => AllOption::Start(Empty {}),
            Cursor::End => AllOption::End(Empty {}),
            Cursor::At(at) => AllOption::Position(create_req::Position { commit_position: at, prepare_position: at }),
        };
        let filter_option = if new.stream_prefixes.is_empty() {
            FilterOption::NoFilter(Empty {})
        } else {
            let expression = create_req::all_options::filter_options::Expression {
                regex: String::new(),
                prefix: new.stream_prefixes.clone(),
            };
            FilterOption::Filter(create_req::all_options::FilterOptions {
                filter: Some(create_req::all_options::filter_options::Filter::StreamIdentifier(expression)),
                window: Some(create_req::all_options::filter_options::Window::Count(Empty {})),
                checkpoint_interval_multiplier: 1,
            })
        };
        StreamOption::All(create_req::AllOptions { all_option: Some(all_option), filter_option: Some(filter_option) })
    } else {
        let revision_option = match new.from {
            Cursor::Start => RevisionOption::Start(Empty {}),
            Cursor::End => RevisionOption::End(Empty {}),
            Cursor::At(revision) => RevisionOption::Revision(revision),
        };
        StreamOption::Stream(create_req::StreamOptions {
            stream_identifier: Some(identifier(&group.source)),
            revision_option: Some(revision_option),
        })
    };
    create_req::Options {
        stream_option: Some(stream_option),
        stream_identifier: None,
        group_name: group.name.clone(),
        settings: Some(settings),
    }
}

fn service(channel: Channel) -> PersistentSubscriptionsClient<Channel> {
    PersistentSubscriptionsClient::new(channel)
}
