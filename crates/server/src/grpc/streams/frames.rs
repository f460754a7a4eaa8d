//! Answers of a read as they travel: gRPC frames, one behind the other.
//!
//! An event goes from its record straight into the bytes of its answer. The
//! generated types would cost a map of strings and some ten allocations for
//! each, and would be copied twice more before they are bytes. What is said
//! rarely goes through them.
//!
//! ```text
//! 0 u8 · length u32, big-endian · ReadResp
//! ```
//!
//! What is written is to the byte what the generated code writes: fields in the
//! order of their numbers, and none that has its default value. One thing only
//! is free there: the order of the entries of a map. Here it is fixed.

use std::borrow::Cow;

use annals_core::{Content, Timestamp};
use annals_proto::event_store::client::streams::ReadResp;
use annals_store::Record;
use bytes::Bytes;
use prost::Message as _;
use uuid::Uuid;

use super::ANSWER_BYTES_MAX;
use super::convert::{self, CONTENT_TYPE, CREATED, Ids, TYPE};
use crate::status::Failure;

/// What is written before each message: that it is not compressed, its length.
const PREFIX: usize = 5;

/// Answers in the order in which they are sent.
#[derive(Default)]
pub(crate) struct Frames(Vec<u8>);

/// An event as it is answered: a record, or an entry of an index.
pub(super) struct Recorded<'a> {
    pub(super) id: Uuid,
    pub(super) stream: &'a [u8],
    pub(super) revision: u64,
    pub(super) position: u64,
    pub(super) event_type: &'a [u8],
    pub(super) created: Timestamp,
    pub(super) content: Content,
    pub(super) custom_metadata: Cow<'a, [u8]>,
    pub(super) data: &'a [u8],
}

impl<'a> From<&'a Record> for Recorded<'a> {
    fn from(record: &'a Record) -> Self {
        Recorded {
            id: record.id().uuid(),
            stream: record.stream_slice(),
            revision: record.revision().get(),
            position: record.position().get(),
            event_type: record.event_type_slice(),
            created: record.created(),
            content: record.content(),
            custom_metadata: convert::custom_metadata(record),
            data: record.data_slice(),
        }
    }
}

impl Frames {
    /// Makes room for so many bytes more.
    pub(super) fn reserve(&mut self, bytes: usize) {
        self.0.reserve(bytes);
    }

    /// Whether there is no answer.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Bytes of all answers.
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// An answer that is no event.
    pub(super) fn say(&mut self, answer: &ReadResp) {
        self.prefix(answer.encoded_len());
        answer.encode(&mut self.0).expect("a vector takes every byte");
    }

    /// An event, or a link and its target.
    ///
    /// # Errors
    /// [`Failure::AnswerTooLarge`]: two events that are each within the limit
    /// can be beyond it together.
    pub(super) fn event(
        &mut self,
        event: Option<&Recorded<'_>>,
        link: Option<&Recorded<'_>>,
        position: u64,
        ids: Ids,
    ) -> Result<(), Failure> {
        let sized = |part: &Recorded<'_>| Sizes::of(part, ids);
        let (event, link) = (event.map(|part| (part, sized(part))), link.map(|part| (part, sized(part))));
        let of = |part: &Option<(&Recorded<'_>, Sizes)>| part.as_ref().map_or(0, |(_, sizes)| field_len(sizes.all));
        // The position is one of several that could be there, so it is written whatever it is.
        let read_event = of(&event) + of(&link) + 1 + varint_len(position);
        let length = field_len(read_event);
        if length > ANSWER_BYTES_MAX {
            return Err(Failure::AnswerTooLarge { size: length, max: ANSWER_BYTES_MAX });
        }
        self.0.reserve(PREFIX + length);
        let begin = self.0.len();
        self.prefix(length);
        let mut out = Out(&mut self.0);
        out.head(tag::READ_RESP_EVENT, read_event);
        for (number, part) in [(tag::READ_EVENT_EVENT, &event), (tag::READ_EVENT_LINK, &link)] {
            if let Some((part, sizes)) = part {
                out.head(number, sizes.all);
                out.recorded(part, sizes, ids);
            }
        }
        out.number(tag::READ_EVENT_COMMIT_POSITION, position);
        debug_assert_eq!(self.0.len() - begin, PREFIX + length, "the length was told before");
        Ok(())
    }

    /// The bytes, as the connection takes them.
    pub(crate) fn into_bytes(self) -> Bytes {
        Bytes::from(self.0)
    }

    fn prefix(&mut self, length: usize) {
        let length = u32::try_from(length).expect("an answer is far below 4 GiB");
        self.0.push(0);
        self.0.extend_from_slice(&length.to_be_bytes());
    }
}

/// Numbers of fields, from `proto/event_store/client`.
mod tag {
    pub(super) const READ_RESP_EVENT: u8 = 1;
    pub(super) const READ_EVENT_EVENT: u8 = 1;
    pub(super) const READ_EVENT_LINK: u8 = 2;
    pub(super) const READ_EVENT_COMMIT_POSITION: u8 = 3;
    pub(super) const RECORDED_ID: u8 = 1;
    pub(super) const RECORDED_STREAM_IDENTIFIER: u8 = 2;
    pub(super) const RECORDED_STREAM_REVISION: u8 = 3;
    pub(super) const RECORDED_PREPARE_POSITION: u8 = 4;
    pub(super) const RECORDED_COMMIT_POSITION: u8 = 5;
    pub(super) const RECORDED_METADATA: u8 = 6;
    pub(super) const RECORDED_CUSTOM_METADATA: u8 = 7;
    pub(super) const RECORDED_DATA: u8 = 8;
    pub(super) const UUID_STRUCTURED: u8 = 1;
    pub(super) const UUID_STRING: u8 = 2;
    pub(super) const STRUCTURED_MOST: u8 = 1;
    pub(super) const STRUCTURED_LEAST: u8 = 2;
    pub(super) const STREAM_NAME: u8 = 3;
    pub(super) const KEY: u8 = 1;
    pub(super) const VALUE: u8 = 2;
}

/// Lengths of the parts of an event that stand before them.
struct Sizes {
    all: usize,
    id: usize,
    stream: usize,
    created: Decimal,
}

impl Sizes {
    fn of(recorded: &Recorded<'_>, ids: Ids) -> Self {
        let id = match ids {
            Ids::Text => field_len(uuid::fmt::Hyphenated::LENGTH),
            Ids::Structured => {
                let (most, least) = recorded.id.as_u64_pair();
                field_len(number_len(most) + number_len(least))
            }
        };
        let stream = bytes_len(recorded.stream.len());
        let created = Decimal::of(recorded.created.ticks());
        let numbers = number_len(recorded.revision) + 2 * number_len(recorded.position);
        let metadata = entry_field_len(TYPE, recorded.event_type.len())
            + entry_field_len(CREATED, created.digits().len())
            + entry_field_len(CONTENT_TYPE, convert::content_type(recorded.content).len());
        let payload = bytes_len(recorded.custom_metadata.len()) + bytes_len(recorded.data.len());
        Sizes { all: field_len(id) + field_len(stream) + numbers + metadata + payload, id, stream, created }
    }
}

/// Writes fields. What has its default value is left out by whoever calls,
/// where the protocol leaves it out.
struct Out<'a>(&'a mut Vec<u8>);

impl Out<'_> {
    fn recorded(&mut self, recorded: &Recorded<'_>, sizes: &Sizes, ids: Ids) {
        self.head(tag::RECORDED_ID, sizes.id);
        self.id(recorded.id, sizes.id, ids);
        self.head(tag::RECORDED_STREAM_IDENTIFIER, sizes.stream);
        self.bytes(tag::STREAM_NAME, recorded.stream);
        self.number_unless_0(tag::RECORDED_STREAM_REVISION, recorded.revision);
        self.number_unless_0(tag::RECORDED_PREPARE_POSITION, recorded.position);
        self.number_unless_0(tag::RECORDED_COMMIT_POSITION, recorded.position);
        self.entry(TYPE, recorded.event_type);
        self.entry(CREATED, sizes.created.digits());
        self.entry(CONTENT_TYPE, convert::content_type(recorded.content).as_bytes());
        self.bytes(tag::RECORDED_CUSTOM_METADATA, &recorded.custom_metadata);
        self.bytes(tag::RECORDED_DATA, recorded.data);
    }

    fn id(&mut self, id: Uuid, size: usize, ids: Ids) {
        match ids {
            Ids::Text => {
                let mut text = [0; uuid::fmt::Hyphenated::LENGTH];
                id.hyphenated().encode_lower(&mut text);
                self.bytes(tag::UUID_STRING, &text);
            }
            Ids::Structured => {
                let (most, least) = id.as_u64_pair();
                self.head(tag::UUID_STRUCTURED, size - 2);
                self.number_unless_0(tag::STRUCTURED_MOST, most);
                self.number_unless_0(tag::STRUCTURED_LEAST, least);
            }
        }
    }

    /// An entry of the event's own metadata.
    fn entry(&mut self, key: &str, value: &[u8]) {
        self.head(tag::RECORDED_METADATA, entry_len(key, value.len()));
        self.bytes(tag::KEY, key.as_bytes());
        self.bytes(tag::VALUE, value);
    }

    /// Begins a field of so many bytes.
    fn head(&mut self, number: u8, len: usize) {
        const LENGTH_DELIMITED: u8 = 2;
        self.0.push(number << 3 | LENGTH_DELIMITED);
        self.varint(len as u64);
    }

    fn bytes(&mut self, number: u8, bytes: &[u8]) {
        if !bytes.is_empty() {
            self.head(number, bytes.len());
            self.0.extend_from_slice(bytes);
        }
    }

    fn number_unless_0(&mut self, number: u8, value: u64) {
        if value != 0 {
            self.number(number, value);
        }
    }

    fn number(&mut self, number: u8, value: u64) {
        const VARINT: u8 = 0;
        self.0.push(number << 3 | VARINT);
        self.varint(value);
    }

    #[allow(clippy::cast_possible_truncation, reason = "seven bits at a time")]
    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }
}

/// Bytes of a field whose content has so many: its number is one of the first
/// 15, which take a byte.
fn field_len(content: usize) -> usize {
    1 + varint_len(content as u64) + content
}

/// The same, where an empty one is left out.
fn bytes_len(content: usize) -> usize {
    if content == 0 { 0 } else { field_len(content) }
}

fn number_len(value: u64) -> usize {
    if value == 0 { 0 } else { 1 + varint_len(value) }
}

fn entry_len(key: &str, value: usize) -> usize {
    bytes_len(key.len()) + bytes_len(value)
}

fn entry_field_len(key: &str, value: usize) -> usize {
    field_len(entry_len(key, value))
}

fn varint_len(value: u64) -> usize {
    // Seven bits a byte, and one byte for 0.
    (70 - (value | 1).leading_zeros() as usize) / 7
}

/// A number as people write it.
struct Decimal {
    text: [u8; Self::DIGITS_MAX],
    begin: usize,
}

impl Decimal {
    const DIGITS_MAX: usize = 20;

    fn of(mut number: u64) -> Self {
        let mut text = [b'0'; Self::DIGITS_MAX];
        let mut begin = Self::DIGITS_MAX;
        loop {
            begin -= 1;
            text[begin] += u8::try_from(number % 10).expect("a digit");
            number /= 10;
            if number == 0 {
                return Decimal { text, begin };
            }
        }
    }

    fn digits(&self) -> &[u8] {
        &self.text[self.begin..]
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use annals_core::decide::Placed;
    use annals_core::{Event, EventId, EventType, Position, Properties, Revision, StreamName};
    use annals_proto::event_store::client::StreamIdentifier;
    use annals_proto::event_store::client::streams::read_resp::read_event::{Position as At, RecordedEvent};
    use annals_proto::event_store::client::streams::read_resp::{Content as Answer, ReadEvent, StreamNotFound};
    use bytes::{Buf as _, BytesMut};
    use proptest::prelude::*;

    use super::*;

    /// The message that the protocol wants for a record, made of generated types.
    fn reference(record: &Record, ids: Ids) -> RecordedEvent {
        let content_type = if record.is_json() { "application/json" } else { "application/octet-stream" };
        let metadata: [(&str, String); 3] = [
            ("type", record.event_type().to_owned()),
            ("created", record.created().ticks().to_string()),
            ("content-type", content_type.to_owned()),
        ];
        RecordedEvent {
            id: Some(convert::wire_uuid(record.id().uuid(), ids)),
            stream_identifier: Some(StreamIdentifier { stream_name: record.stream_name().as_bytes().clone() }),
            stream_revision: record.revision().get(),
            prepare_position: record.position().get(),
            commit_position: record.position().get(),
            metadata: metadata.map(|(key, value)| (key.to_owned(), value)).into_iter().collect::<HashMap<_, _>>(),
            custom_metadata: Bytes::copy_from_slice(&convert::custom_metadata(record)),
            data: record.data(),
        }
    }

    fn event(event: Option<RecordedEvent>, link: Option<RecordedEvent>, position: u64) -> ReadResp {
        let position = Some(At::CommitPosition(position));
        ReadResp { content: Some(Answer::Event(ReadEvent { event, link, position })) }
    }

    /// The messages in these bytes, as any gRPC client takes them apart.
    fn messages(mut bytes: Bytes) -> Vec<(usize, ReadResp)> {
        let mut messages = Vec::new();
        while bytes.has_remaining() {
            assert_eq!(bytes.get_u8(), 0, "not compressed");
            let length = bytes.get_u32() as usize;
            messages.push((length, ReadResp::decode(bytes.split_to(length)).expect("a message")));
        }
        messages
    }

    fn record() -> impl Strategy<Value = Record> {
        let names = ("[a-zäß/@-]{1,200}", "[A-ZÖa-z$]{1,200}");
        let numbers = (0..=Revision::TOMBSTONE.get(), 0..=u64::MAX, any::<u64>(), 1..=u128::MAX);
        // Some lengths take one byte, some two.
        let payload = (proptest::collection::vec(any::<u8>(), 0..300), proptest::collection::vec(any::<u8>(), 0..300));
        (names, numbers, payload, any::<(bool, bool)>()).prop_map(
            |((stream, event_type), (revision, position, created, id), (metadata, data), (json, properties))| {
                let event = Event::new(
                    EventId::new(Uuid::from_u128(id)).expect("not nil"),
                    EventType::new(event_type).expect("a type"),
                    if json { Content::Json } else { Content::Binary },
                    if properties { Properties::Struct } else { Properties::Opaque },
                    metadata.into(),
                    data.into(),
                );
                let placed = Placed {
                    stream: StreamName::new(stream).expect("a name"),
                    revision: Revision::saturating(revision),
                    position: Position::new(position),
                    event,
                };
                Record::encode(&placed, Timestamp::from_ticks(created), &mut BytesMut::new())
            },
        )
    }

    proptest! {
        #[test]
        fn an_event_is_written_as_the_generated_code_writes_it(
            one in record(),
            other in record(),
            has_event: bool,
            has_link: bool,
            position: u64,
            text: bool,
        ) {
            let ids = if text { Ids::Text } else { Ids::Structured };
            let (target, link) = (has_event.then_some(&one), has_link.then_some(&other));
            let mut frames = Frames::default();
            let (written, written_link) = (target.map(Recorded::from), link.map(Recorded::from));
            frames.event(written.as_ref(), written_link.as_ref(), position, ids).expect("small enough");
            let expected = event(target.map(|record| reference(record, ids)), link.map(|record| reference(record, ids)), position);
            // Equal length and equal meaning: what one of them leaves out, so does the other.
            prop_assert_eq!(messages(frames.into_bytes()), [(expected.encoded_len(), expected)]);
        }

        #[test]
        fn a_number_is_written_as_people_write_it(number: u64) {
            prop_assert_eq!(Decimal::of(number).digits().to_vec(), number.to_string().into_bytes());
            prop_assert_eq!(varint_len(number), prost::encoding::encoded_len_varint(number));
        }
    }

    #[test]
    fn numbers_at_the_edges_have_their_length() {
        for bits in 0..64 {
            for number in [(1 << bits) - 1, 1 << bits, u64::MAX] {
                assert_eq!(varint_len(number), prost::encoding::encoded_len_varint(number), "{number}");
                assert_eq!(Decimal::of(number).digits(), number.to_string().as_bytes());
            }
        }
    }

    #[test]
    fn answers_follow_each_other() {
        let stream_identifier = Some(StreamIdentifier { stream_name: Bytes::from_static(b"s") });
        let not_found = ReadResp { content: Some(Answer::StreamNotFound(StreamNotFound { stream_identifier })) };
        let last = ReadResp { content: Some(Answer::LastStreamPosition(7)) };
        let mut frames = Frames::default();
        frames.say(&not_found);
        frames.event(None, None, 3, Ids::Text).expect("small enough");
        frames.say(&last);
        let answers: Vec<ReadResp> = messages(frames.into_bytes()).into_iter().map(|(_, answer)| answer).collect();
        assert_eq!(answers, [not_found, event(None, None, 3), last]);
    }

    #[test]
    fn an_answer_beyond_the_limit_is_refused_and_leaves_nothing_behind() {
        let data = vec![0; ANSWER_BYTES_MAX / 2];
        let half = Recorded {
            id: Uuid::nil(),
            stream: b"s",
            revision: 0,
            position: 1,
            event_type: b"T",
            created: Timestamp::default(),
            content: Content::Binary,
            custom_metadata: Cow::Borrowed(&[]),
            data: &data,
        };
        let mut frames = Frames::default();
        frames.event(Some(&half), None, 1, Ids::Text).expect("within the limit");
        let len = frames.len();
        let refused = frames.event(Some(&half), Some(&half), 1, Ids::Text);
        assert!(matches!(refused, Err(Failure::AnswerTooLarge { max: ANSWER_BYTES_MAX, .. })), "{refused:?}");
        assert_eq!(frames.len(), len);
    }
}
