//! The client: writing, and the way every call goes.

use std::future::Future;
use std::sync::Arc;

use annals_proto::event_store::client::streams::append_req::proposed_message::MetadataEntry;
use annals_proto::event_store::client::streams::streams_client::StreamsClient;
use annals_proto::event_store::client::streams::{
    AppendReq, DeleteReq, TombstoneReq, append_req, append_resp, delete_req, delete_resp, tombstone_req, tombstone_resp,
};
use annals_proto::event_store::client::{Empty, StreamIdentifier, Uuid as WireUuid, uuid as wire_uuid};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use tonic::metadata::{MetadataMap, MetadataValue};
use tonic::transport::Channel;
use tonic::{Code, Request, Response, Status};

use crate::channel::Connector;
use crate::event::{BINARY, JSON};
use crate::read::{Cursor, Direction, Item, ReadOptions, Source};
use crate::{
    Backups, Cluster, Error, Expected, Groups, Logs, Maintenance, NewEvent, NodePreference, Reading, Settings,
    Subscription, Users, error,
};

/// How often a call follows a not-leader answer before it is given up: an
/// election may move the leader once while we look for it.
const REDIRECTS_MAX: usize = 3;

/// Bytes of one message that is accepted, as the official clients have it.
const MESSAGE_BYTES_MAX: usize = 17 * 1024 * 1024;

/// A connection to a node or a cluster. Cloning shares it.
#[derive(Clone)]
pub struct Client {
    connector: Arc<Connector>,
    headers: Arc<MetadataMap>,
}

/// What an append did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Appended {
    /// The revision of the last event; none when the stream has no event.
    pub revision: Option<u64>,
    /// The position of the last event.
    pub position: Option<u64>,
}

/// What a deletion did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deleted {
    /// The position of the event that deletes.
    pub position: Option<u64>,
}

impl Client {
    /// A client. Connects when first used.
    pub fn new(settings: Settings) -> Self {
        let headers = Arc::new(headers(&settings));
        Client { connector: Arc::new(Connector::new(settings)), headers }
    }

    /// A client for this connection string.
    ///
    /// # Errors
    /// [`crate::InvalidConnectionString`] says what is wrong with it.
    pub fn from_connection_string(text: &str) -> Result<Self, crate::InvalidConnectionString> {
        Ok(Self::new(text.parse()?))
    }

    /// Appends events to a stream, all or none.
    ///
    /// # Errors
    /// [`Error::WrongExpectedVersion`] and [`Error::StreamDeleted`]: nothing
    /// was written. Anything of [`crate::error::Kind::Unavailable`]: it is not
    /// known; append the same events again, with the same ids.
    pub async fn append(&self, stream: &str, expected: Expected, events: Vec<NewEvent>) -> Result<Appended, Error> {
        let messages = append_messages(stream, expected, &events);
        let response = self
            .call(|channel| {
                let request = self.request(futures::stream::iter(messages.clone()), Deadline::Default);
                async move { streams(channel).append(request).await }
            })
            .await?;
        match response.result.ok_or(Error::Protocol("an append has no result"))? {
            append_resp::Result::Success(success) => Ok(appended(&success)),
            append_resp::Result::WrongExpectedVersion(wrong) => {
                use append_resp::wrong_expected_version::CurrentRevisionOption as Current;
                let actual = match wrong.current_revision_option {
                    Some(Current::CurrentRevision(revision)) => format!("revision {revision}"),
                    Some(Current::CurrentNoStream(_)) | None => "no stream".to_owned(),
                };
                Err(Error::WrongExpectedVersion { stream: stream.to_owned(), expected: expected.to_string(), actual })
            }
        }
    }

    /// Hides all events of a stream. It can be written again.
    ///
    /// # Errors
    /// As [`Client::append`].
    pub async fn delete(&self, stream: &str, expected: Expected) -> Result<Deleted, Error> {
        use delete_req::options::ExpectedStreamRevision as Wire;
        let options = delete_req::Options {
            stream_identifier: Some(identifier(stream)),
            expected_stream_revision: Some(match expected {
                Expected::Any => Wire::Any(Empty {}),
                Expected::NoStream => Wire::NoStream(Empty {}),
                Expected::Exists => Wire::StreamExists(Empty {}),
                Expected::Exactly(revision) => Wire::Revision(revision),
            }),
        };
        let response = self
            .call(|channel| {
                let request = self.request(DeleteReq { options: Some(options.clone()) }, Deadline::Default);
                async move { streams(channel).delete(request).await }
            })
            .await?;
        let position = match response.position_option {
            Some(delete_resp::PositionOption::Position(position)) => Some(position.commit_position),
            Some(delete_resp::PositionOption::NoPosition(_)) | None => None,
        };
        Ok(Deleted { position })
    }

    /// Ends a stream for ever.
    ///
    /// # Errors
    /// As [`Client::append`].
    pub async fn tombstone(&self, stream: &str, expected: Expected) -> Result<Deleted, Error> {
        use tombstone_req::options::ExpectedStreamRevision as Wire;
        let options = tombstone_req::Options {
            stream_identifier: Some(identifier(stream)),
            expected_stream_revision: Some(match expected {
                Expected::Any => Wire::Any(Empty {}),
                Expected::NoStream => Wire::NoStream(Empty {}),
                Expected::Exists => Wire::StreamExists(Empty {}),
                Expected::Exactly(revision) => Wire::Revision(revision),
            }),
        };
        let response = self
            .call(|channel| {
                let request = self.request(TombstoneReq { options: Some(options.clone()) }, Deadline::Default);
                async move { streams(channel).tombstone(request).await }
            })
            .await?;
        let position = match response.position_option {
            Some(tombstone_resp::PositionOption::Position(position)) => Some(position.commit_position),
            Some(tombstone_resp::PositionOption::NoPosition(_)) | None => None,
        };
        Ok(Deleted { position })
    }

    /// The metadata of a stream as JSON, and the revision of its metastream;
    /// none where none was ever set.
    ///
    /// # Errors
    /// [`Error::StreamDeleted`], or the node cannot be reached.
    pub async fn metadata(&self, stream: &str) -> Result<Option<(u64, Bytes)>, Error> {
        let options = ReadOptions {
            source: Source::Stream { name: format!("$${stream}"), from: Cursor::End, resolve_links: false },
            direction: Direction::Backwards,
            count: 1,
        };
        let mut reading = match self.read(options).await {
            Ok(reading) => reading,
            Err(Error::StreamNotFound(_)) => return Ok(None),
            Err(error) => return Err(error),
        };
        loop {
            match reading.next().await {
                Ok(Some(Item::Event(resolved))) => {
                    return Ok(resolved.event.map(|event| (event.revision, event.data)));
                }
                Ok(Some(_)) => {}
                Ok(None) | Err(Error::StreamNotFound(_)) => return Ok(None),
                Err(error) => return Err(error),
            }
        }
    }

    /// Sets the metadata of a stream, whole: nothing is merged.
    ///
    /// # Errors
    /// As [`Client::append`].
    pub async fn set_metadata(
        &self,
        stream: &str,
        expected: Expected,
        json: impl Into<Bytes>,
    ) -> Result<Appended, Error> {
        let event = NewEvent::new("$metadata", true, json);
        self.append(&format!("$${stream}"), expected, vec![event]).await
    }

    /// Begins to read events that exist.
    ///
    /// # Errors
    /// The node cannot be reached, or refuses the read.
    pub async fn read(&self, options: ReadOptions) -> Result<Reading, Error> {
        let stream = options.source.stream().map(str::to_owned);
        let request = options.request();
        let messages = self
            .call(|channel| {
                let request = self.request(request.clone(), Deadline::None);
                async move { streams(channel).read(request).await }
            })
            .await?;
        Ok(Reading::new(messages, stream))
    }

    /// Subscribes: all events from there on, and then those to come. Goes on
    /// after what was delivered when a node fails.
    ///
    /// # Errors
    /// The node cannot be reached, or refuses the subscription.
    pub async fn subscribe(&self, source: Source) -> Result<Subscription, Error> {
        Subscription::open(self.clone(), source).await
    }

    pub(crate) async fn subscribe_once(&self, source: &Source) -> Result<Reading, Error> {
        let request = source.subscription();
        let messages = self
            .call(|channel| {
                let request = self.request(request.clone(), Deadline::None);
                async move { streams(channel).read(request).await }
            })
            .await?;
        Ok(Reading::new(messages, source.stream().map(str::to_owned)))
    }

    /// The connection that calls take, made if there is none: for who speaks
    /// the protocol on it without this client, as a load generator does.
    ///
    /// # Errors
    /// No node can be reached.
    pub async fn channel(&self) -> Result<Channel, Error> {
        self.connector.channel().await
    }

    /// What every call says of itself: who calls, and whether only the leader
    /// may answer.
    pub fn headers(&self) -> &MetadataMap {
        &self.headers
    }

    /// What the node logs. Annals only.
    pub fn logs(&self) -> Logs {
        Logs::new(self.clone())
    }

    /// What operates a cluster. Annals only.
    pub fn cluster(&self) -> Cluster {
        Cluster::new(self.clone())
    }

    /// What backs a cluster up, and fills one. Annals only.
    pub fn backups(&self) -> Backups {
        Backups::new(self.clone())
    }

    /// What administers accounts.
    pub fn users(&self) -> Users {
        Users::new(self.clone())
    }

    /// What maintains the node that we are connected to.
    pub fn maintenance(&self) -> Maintenance {
        Maintenance::new(self.clone())
    }

    /// What operates consumer groups.
    pub fn groups(&self) -> Groups {
        Groups::new(self.clone())
    }

    /// Makes a call, following the leader.
    pub(crate) async fn call<T, F, Answer>(&self, call: F) -> Result<T, Error>
    where
        F: Fn(Channel) -> Answer,
        Answer: Future<Output = Result<Response<T>, Status>>,
    {
        let mut redirects = 0;
        loop {
            let channel = self.connector.channel().await?;
            let status = match call(channel).await {
                Ok(response) => return Ok(response.into_inner()),
                Err(status) => status,
            };
            match error::leader(&status) {
                // Refused because it is not the leader: certainly not done,
                // so that it can be asked again.
                Some((host, port)) if redirects < REDIRECTS_MAX => {
                    redirects += 1;
                    self.connector.move_to(host, port).await?;
                }
                _ => {
                    self.lost(&status).await;
                    return Err(status.into());
                }
            }
        }
    }

    /// Forgets the node when this status says that it is of no use.
    pub(crate) async fn lost(&self, status: &Status) {
        if matches!(status.code(), Code::Unavailable | Code::Unknown | Code::Internal) {
            self.connector.forget().await;
        }
    }

    pub(crate) async fn forget(&self) {
        self.connector.forget().await;
    }

    pub(crate) fn settings(&self) -> &Settings {
        self.connector.settings()
    }

    pub(crate) fn request<T>(&self, message: T, deadline: Deadline) -> Request<T> {
        let mut request = Request::new(message);
        *request.metadata_mut() = MetadataMap::clone(&self.headers);
        match deadline {
            Deadline::Default => request.set_timeout(self.settings().default_deadline),
            Deadline::Long => request.set_timeout(self.settings().default_deadline.max(LONG_DEADLINE)),
            Deadline::None => {}
        }
        request
    }
}

fn headers(settings: &Settings) -> MetadataMap {
    let mut headers = MetadataMap::new();
    if let Some(credentials) = &settings.credentials {
        let plain = format!("{}:{}", credentials.user, credentials.password);
        let mut value = MetadataValue::try_from(format!("Basic {}", BASE64.encode(plain)))
            .expect("base64 is made of characters that a header may hold");
        value.set_sensitive(true);
        headers.insert("authorization", value);
    }
    if let Some(mut token) = settings.local_token.as_ref().and_then(|token| MetadataValue::try_from(token).ok()) {
        token.set_sensitive(true);
        headers.insert("annals-local-token", token);
    }
    if let Some(name) = settings.connection_name.as_ref().and_then(|name| MetadataValue::try_from(name).ok()) {
        headers.insert("connection-name", name);
    }
    let requires_leader = if settings.node_preference == NodePreference::Leader { "true" } else { "false" };
    headers.insert("requires-leader", MetadataValue::from_static(requires_leader));
    headers
}

/// For changes of the membership, which wait for elections.
const LONG_DEADLINE: std::time::Duration = std::time::Duration::from_secs(40);

/// How long a call may take.
#[derive(Clone, Copy)]
pub(crate) enum Deadline {
    /// `defaultDeadline`.
    Default,
    /// At least [`LONG_DEADLINE`].
    Long,
    /// As long as it streams.
    None,
}

pub(crate) fn streams(channel: Channel) -> StreamsClient<Channel> {
    StreamsClient::new(channel)
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX)
}

pub(crate) fn identifier(stream: &str) -> StreamIdentifier {
    StreamIdentifier { stream_name: Bytes::copy_from_slice(stream.as_bytes()) }
}

fn append_messages(stream: &str, expected: Expected, events: &[NewEvent]) -> Vec<AppendReq> {
    use append_req::options::ExpectedStreamRevision as Wire;
    let options = append_req::Options {
        stream_identifier: Some(identifier(stream)),
        expected_stream_revision: Some(match expected {
            Expected::Any => Wire::Any(Empty {}),
            Expected::NoStream => Wire::NoStream(Empty {}),
            Expected::Exists => Wire::StreamExists(Empty {}),
            Expected::Exactly(revision) => Wire::Revision(revision),
        }),
    };
    let proposed = |event: &NewEvent| append_req::ProposedMessage {
        id: Some(WireUuid { value: Some(wire_uuid::Value::String(event.id.to_string())) }),
        metadata: vec![
            MetadataEntry::new("type", event.event_type.clone()),
            MetadataEntry::new("content-type", if event.json { JSON } else { BINARY }),
        ],
        custom_metadata: event.metadata.clone(),
        data: event.data.clone(),
    };
    let first = append_req::Content::Options(options);
    let rest = events.iter().map(|event| append_req::Content::ProposedMessage(proposed(event)));
    std::iter::once(first).chain(rest).map(|content| AppendReq { content: Some(content) }).collect()
}

fn appended(success: &append_resp::Success) -> Appended {
    use append_resp::success::{CurrentRevisionOption, PositionOption};
    Appended {
        revision: match success.current_revision_option {
            Some(CurrentRevisionOption::CurrentRevision(revision)) => Some(revision),
            Some(CurrentRevisionOption::NoStream(_)) | None => None,
        },
        position: match &success.position_option {
            Some(PositionOption::Position(position)) => Some(position.commit_position),
            Some(PositionOption::NoPosition(_)) | None => None,
        },
    }
}
