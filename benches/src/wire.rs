//! The calls of the protocol that are measured, with what they cost cut down.
//!
//! What is sent is written into the connection's buffer from templates. Of what
//! is read only the fields that are looked at are decoded: a client library
//! builds a map of strings for every event, and on a machine that it shares
//! with the servers that would be measured too.

use annals_client::Error;
use annals_proto::event_store::client::streams::{AppendReq, AppendResp, BatchAppendReq, BatchAppendResp, ReadReq};
use bytes::Bytes;
use futures::Stream;
use http::uri::PathAndQuery;
use prost::Message;
use tonic::client::Grpc;
use tonic::codec::{Codec, EncodeBuf, Encoder};
use tonic::metadata::MetadataMap;
use tonic::transport::Channel;
use tonic::{Request, Status, Streaming};
use tonic_prost::{ProstCodec, ProstDecoder};

use crate::event::{Event, Events};

/// Bytes of one message that is accepted, as the official clients have it.
const MESSAGE_BYTES_MAX: usize = 17 << 20;

/// A connection as one client uses it. Cloning shares it.
#[derive(Clone)]
pub struct Connection {
    grpc: Grpc<Channel>,
    headers: MetadataMap,
}

impl Connection {
    pub(crate) fn new(channel: Channel, headers: MetadataMap) -> Self {
        let grpc = Grpc::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX);
        Connection { grpc, headers }
    }

    pub(crate) fn headers_mut(&mut self) -> &mut MetadataMap {
        &mut self.headers
    }

    /// Appends to one stream: options, then events.
    pub(crate) async fn append(
        &mut self,
        frames: impl Stream<Item = Frame> + Send + 'static,
    ) -> Result<AppendResp, Error> {
        self.ready().await?;
        let path = PathAndQuery::from_static("/event_store.client.streams.Streams/Append");
        let codec = FrameCodec::<AppendResp>::default();
        Ok(self.grpc.client_streaming(self.request(frames), path, codec).await?.into_inner())
    }

    /// Many appends over one call.
    pub(crate) async fn batch_append(
        &mut self,
        frames: impl Stream<Item = Frame> + Send + 'static,
    ) -> Result<Streaming<BatchAppendResp>, Error> {
        self.ready().await?;
        let path = PathAndQuery::from_static("/event_store.client.streams.Streams/BatchAppend");
        let codec = FrameCodec::<BatchAppendResp>::default();
        Ok(self.grpc.streaming(self.request(frames), path, codec).await?.into_inner())
    }

    /// Reads or subscribes.
    pub(crate) async fn read(&mut self, request: ReadReq) -> Result<Streaming<Answer>, Error> {
        self.ready().await?;
        let path = PathAndQuery::from_static("/event_store.client.streams.Streams/Read");
        let codec = ProstCodec::<ReadReq, Answer>::default();
        Ok(self.grpc.server_streaming(self.request(request), path, codec).await?.into_inner())
    }

    async fn ready(&mut self) -> Result<(), Error> {
        self.grpc.ready().await.map_err(|error| Error::from(Status::from_error(error.into())))
    }

    fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        if !self.headers.is_empty() {
            *request.metadata_mut() = self.headers.clone();
        }
        request
    }
}

/// A message that is sent.
pub(crate) enum Frame {
    /// The first of a unary append.
    Options(AppendReq),
    /// Any other of it.
    Event(Event),
    /// A whole append of a batch: everything but the events, and the events.
    Batch(BatchAppendReq, Events),
}

impl Frame {
    fn encode(self, buffer: &mut impl bytes::BufMut) {
        const ROOM: &str = "the buffer grows";
        match self {
            Frame::Options(options) => options.encode(buffer).expect(ROOM),
            Frame::Event(event) => event.encode(buffer),
            // A message may be written in pieces: fields that are repeated add up.
            Frame::Batch(head, events) => {
                head.encode(buffer).expect(ROOM);
                events.for_each(|event| event.encode(buffer));
            }
        }
    }
}

struct FrameCodec<T>(std::marker::PhantomData<T>);

impl<T> Default for FrameCodec<T> {
    fn default() -> Self {
        FrameCodec(std::marker::PhantomData)
    }
}

impl<T: Message + Default + Send + 'static> Codec for FrameCodec<T> {
    type Encode = Frame;
    type Decode = T;
    type Encoder = FrameEncoder;
    type Decoder = ProstDecoder<T>;

    fn encoder(&mut self) -> FrameEncoder {
        FrameEncoder
    }

    fn decoder(&mut self) -> ProstDecoder<T> {
        ProstDecoder::default()
    }
}

struct FrameEncoder;

impl Encoder for FrameEncoder {
    type Item = Frame;
    type Error = Status;

    fn encode(&mut self, frame: Frame, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        frame.encode(buffer);
        Ok(())
    }
}

/// `ReadResp` as far as it is looked at.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Answer {
    #[prost(message, optional, tag = "1")]
    pub(crate) event: Option<Resolved>,
    #[prost(message, optional, tag = "2")]
    pub(crate) confirmation: Option<Anything>,
    #[prost(message, optional, tag = "4")]
    pub(crate) stream_not_found: Option<Anything>,
}

/// `ReadEvent` without its link: links are never followed here.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Resolved {
    #[prost(message, optional, tag = "1")]
    pub(crate) event: Option<Recorded>,
}

/// `RecordedEvent` without id and metadata.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Recorded {
    #[prost(message, optional, tag = "2")]
    stream: Option<Name>,
    #[prost(uint64, tag = "3")]
    pub(crate) revision: u64,
    #[prost(uint64, tag = "5")]
    pub(crate) position: u64,
    #[prost(bytes = "bytes", tag = "8")]
    pub(crate) data: Bytes,
}

impl Recorded {
    #[cfg(test)]
    pub(crate) fn new(stream: &str, revision: u64, position: u64, data: Vec<u8>) -> Self {
        let stream = Some(Name { name: Bytes::copy_from_slice(stream.as_bytes()) });
        Recorded { stream, revision, position, data: data.into() }
    }

    pub(crate) fn stream(&self) -> &[u8] {
        self.stream.as_ref().map_or(&[], |name| &name.name)
    }
}

#[derive(Clone, PartialEq, prost::Message)]
struct Name {
    #[prost(bytes = "bytes", tag = "3")]
    name: Bytes,
}

/// That it is there is all that counts.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Anything {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Template;
    use annals_proto::event_store::client::streams::read_resp::{self, Content};
    use annals_proto::event_store::client::streams::{ReadResp, batch_append_req};
    use annals_proto::event_store::client::{StreamIdentifier, Uuid, uuid};
    use rand::SeedableRng as _;

    fn reread(content: Content) -> Answer {
        let encoded = ReadResp { content: Some(content) }.encode_to_vec();
        Answer::decode(encoded.as_slice()).expect("fields that are not known are passed over")
    }

    #[test]
    fn of_an_event_is_read_what_the_contract_says() {
        let recorded = read_resp::read_event::RecordedEvent {
            id: Some(Uuid { value: Some(uuid::Value::String("x".to_owned())) }),
            stream_identifier: Some(StreamIdentifier { stream_name: Bytes::from_static(b"s-1") }),
            stream_revision: 3,
            prepare_position: 8,
            commit_position: 9,
            metadata: [("type".to_owned(), "T".to_owned())].into(),
            custom_metadata: Bytes::from_static(b"m"),
            data: Bytes::from_static(b"d"),
        };
        let event = read_resp::ReadEvent {
            event: Some(recorded),
            link: None,
            position: Some(read_resp::read_event::Position::CommitPosition(9)),
        };
        let answer = reread(Content::Event(event));
        assert_eq!((&answer.confirmation, &answer.stream_not_found), (&None, &None));
        let event = answer.event.and_then(|event| event.event).expect("an event");
        assert_eq!((event.stream(), event.revision, event.position, &event.data[..]), (&b"s-1"[..], 3, 9, &b"d"[..]));
    }

    #[test]
    fn other_answers_are_told_apart() {
        let confirmation = read_resp::SubscriptionConfirmation { subscription_id: "x".to_owned() };
        assert!(reread(Content::Confirmation(confirmation)).confirmation.is_some());
        assert!(reread(Content::StreamNotFound(read_resp::StreamNotFound::default())).stream_not_found.is_some());
        assert_eq!(reread(Content::CaughtUp(read_resp::CaughtUp::default())), Answer::default());
        assert_eq!(reread(Content::LastStreamPosition(7)), Answer::default());
    }

    #[test]
    fn a_batch_is_one_message() {
        let options = batch_append_req::Options::default();
        let head = BatchAppendReq { options: Some(options), is_final: true, ..BatchAppendReq::default() };
        let mut random = rand::rngs::SmallRng::seed_from_u64(1);
        let events = Events::new(Template::batch(10), &mut random, 3, None);
        let mut encoded = Vec::new();
        Frame::Batch(head, events).encode(&mut encoded);
        let message = BatchAppendReq::decode(encoded.as_slice()).expect("as in the contract");
        assert_eq!((message.is_final, message.proposed_messages.len()), (true, 3));
        assert!(message.options.is_some());
    }
}
