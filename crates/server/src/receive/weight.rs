//! What a message will take in memory once it is decoded, known while it comes in.
//!
//! Two bytes can be an empty message in a list, for which the decoder makes a
//! value of a hundred bytes and more: 16 MiB of them are gigabytes. So the fields
//! of large messages are counted as their bytes arrive, by the shapes that our
//! contracts give them, and one that would weigh too much is refused before it
//! is decoded. Nothing is kept of what has passed but a stack of lengths.
//!
//! Bytes that are no message are left to the decoder, which says so.

use std::collections::HashMap;
use std::sync::OnceLock;

use prost::Message as _;
use prost_types::field_descriptor_proto::Type;
use prost_types::{DescriptorProto, FileDescriptorSet};

/// What a decoded message may weigh. As many small events as one append may have
/// weigh half of it.
pub(crate) const WEIGHT_MAX: usize = 128 * 1024 * 1024;

/// About what values take: a message, an entry of a map; a text or bytes, whose
/// content is counted as received; a number.
const MESSAGE: usize = 128;
const TEXT: usize = 48;
const NUMBER: usize = 8;

/// Depth at which the decoder gives up.
const DEPTH_MAX: usize = 100;

/// A field that is of the message.
#[derive(Clone, Copy, Debug)]
enum Field {
    /// A message; where its shape is.
    Nested(usize),
    Text,
    /// A number, or many packed ones.
    Number,
}

type Shape = HashMap<u64, Field>;

/// The shapes of all requests.
struct Shapes {
    of_path: HashMap<String, usize>,
    shapes: Vec<Shape>,
}

/// A message that is coming in.
pub(crate) struct Weigher {
    shapes: &'static [Shape],
    /// Shapes that we are in, with the byte at which each ends.
    within: Vec<(usize, u64)>,
    at: u64,
    next: Next,
    weight: usize,
}

/// What the next byte belongs to.
enum Next {
    Key(Varint),
    Number(Varint),
    Length(Varint, Option<Field>),
    /// So many bytes of content.
    Content(u64),
    /// Nothing that we understand.
    Anything,
}

#[derive(Clone, Copy, Default)]
struct Varint {
    value: u64,
    bits: u32,
}

/// A message weighs too much.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TooHeavy;

impl Weigher {
    /// A request of this length to this path. None where there is no such method.
    pub(crate) fn new(path: &str, length: usize) -> Option<Self> {
        let Shapes { of_path, shapes } = shapes();
        let within = vec![(*of_path.get(path)?, length as u64)];
        Some(Weigher { shapes, within, at: 0, next: Next::Key(Varint::default()), weight: 0 })
    }

    /// The weight of what has come so far.
    pub(crate) fn weight(&self) -> usize {
        self.weight
    }

    /// Looks at the next bytes of the message.
    pub(crate) fn weigh(&mut self, mut bytes: &[u8]) -> Result<(), TooHeavy> {
        while !bytes.is_empty() {
            let taken = match &mut self.next {
                Next::Anything => return Ok(()),
                Next::Content(left) => {
                    let taken = usize::try_from(*left).unwrap_or(usize::MAX).min(bytes.len());
                    *left -= taken as u64;
                    taken
                }
                Next::Key(varint) | Next::Number(varint) | Next::Length(varint, _) => {
                    if varint.push(bytes[0]) {
                        1
                    } else {
                        self.next = Next::Anything;
                        return Ok(());
                    }
                }
            };
            let last = bytes[taken - 1];
            bytes = &bytes[taken..];
            self.at += taken as u64;
            self.go_on(last);
            if self.weight > WEIGHT_MAX {
                return Err(TooHeavy);
            }
        }
        Ok(())
    }

    /// Decides what comes next, after a byte.
    fn go_on(&mut self, last: u8) {
        let continues = last & 0x80 != 0;
        self.next = match self.next {
            Next::Content(0) => Next::Key(Varint::default()),
            Next::Number(_) if !continues => {
                self.weight += NUMBER;
                Next::Key(Varint::default())
            }
            Next::Key(key) if !continues => self.begin(key.value >> 3, key.value & 7),
            Next::Length(length, field) if !continues => self.enter(length.value, field),
            _ => return,
        };
        // What has ended, ends for all that end here.
        if matches!(self.next, Next::Key(_)) {
            while self.within.last().is_some_and(|(_, end)| *end <= self.at) {
                self.within.pop();
            }
            if self.within.is_empty() {
                self.next = Next::Anything;
            }
        }
    }

    /// A field begins.
    fn begin(&self, number: u64, wire_type: u64) -> Next {
        let shape = self.within.last().and_then(|(shape, _)| self.shapes.get(*shape));
        match wire_type {
            0 => Next::Number(Varint::default()),
            1 => Next::Content(8),
            5 => Next::Content(4),
            2 => Next::Length(Varint::default(), shape.and_then(|shape| shape.get(&number)).copied()),
            // Of a group, which no message of ours has.
            3 | 4 => Next::Key(Varint::default()),
            _ => Next::Anything,
        }
    }

    /// The content of a field of this length begins.
    fn enter(&mut self, length: u64, field: Option<Field>) -> Next {
        match field {
            Some(Field::Nested(shape)) => {
                self.weight += MESSAGE;
                if self.within.len() >= DEPTH_MAX {
                    return Next::Anything;
                }
                self.within.push((shape, self.at.saturating_add(length)));
                return Next::Key(Varint::default());
            }
            Some(Field::Text) => self.weight += TEXT,
            Some(Field::Number) => {
                let packed = usize::try_from(length).unwrap_or(usize::MAX).saturating_mul(NUMBER);
                self.weight = self.weight.saturating_add(packed);
            }
            // Not known, not kept.
            None => {}
        }
        if length == 0 { Next::Key(Varint::default()) } else { Next::Content(length) }
    }
}

impl Varint {
    /// Whether it can still be a number.
    fn push(&mut self, byte: u8) -> bool {
        if self.bits > 63 {
            return false;
        }
        self.value |= u64::from(byte & 0x7f) << self.bits;
        self.bits += 7;
        true
    }
}

fn shapes() -> &'static Shapes {
    static SHAPES: OnceLock<Shapes> = OnceLock::new();
    SHAPES.get_or_init(|| {
        let files = FileDescriptorSet::decode(annals_proto::FILE_DESCRIPTOR_SET)
            .expect("the descriptors were made by our own build");
        let mut messages = Vec::new();
        for file in &files.file {
            for message in &file.message_type {
                collect(&format!(".{}", file.package()), message, &mut messages);
            }
        }
        let index: HashMap<&str, usize> =
            messages.iter().enumerate().map(|(at, (name, _))| (name.as_str(), at)).collect();
        let shapes = messages.iter().map(|(_, message)| shape(message, &index)).collect();
        let mut of_path = HashMap::new();
        for file in &files.file {
            for service in &file.service {
                for method in &service.method {
                    let path = format!("/{}.{}/{}", file.package(), service.name(), method.name());
                    if let Some(shape) = index.get(method.input_type()) {
                        of_path.insert(path, *shape);
                    }
                }
            }
        }
        Shapes { of_path, shapes }
    })
}

/// A message and those that are defined in it, by their full names.
fn collect<'a>(scope: &str, message: &'a DescriptorProto, into: &mut Vec<(String, &'a DescriptorProto)>) {
    let name = format!("{scope}.{}", message.name());
    for nested in &message.nested_type {
        collect(&name, nested, into);
    }
    into.push((name, message));
}

fn shape(message: &DescriptorProto, index: &HashMap<&str, usize>) -> Shape {
    let fields = message.field.iter().filter_map(|field| {
        let kind = match field.r#type() {
            Type::Message | Type::Group => Field::Nested(*index.get(field.type_name())?),
            Type::String | Type::Bytes => Field::Text,
            _ => Field::Number,
        };
        Some((u64::try_from(field.number()).ok()?, kind))
    });
    fields.collect()
}

#[cfg(test)]
mod tests {
    use annals_proto::event_store::client::streams::append_req::proposed_message::MetadataEntry;
    use annals_proto::event_store::client::streams::{BatchAppendReq, batch_append_req};
    use annals_proto::event_store::client::{Uuid, uuid};

    use super::*;

    const BATCH: &str = "/event_store.client.streams.Streams/BatchAppend";

    fn weigh(path: &str, message: &[u8], cut: usize) -> Result<usize, TooHeavy> {
        let mut weigher = Weigher::new(path, message.len()).expect("a method");
        message.chunks(cut).try_for_each(|chunk| weigher.weigh(chunk))?;
        Ok(weigher.weight())
    }

    fn batch(events: usize) -> Vec<u8> {
        let message = batch_append_req::ProposedMessage {
            id: Some(Uuid { value: Some(uuid::Value::String("00112233-4455-6677-8899-aabbccddeeff".to_owned())) }),
            metadata: vec![MetadataEntry::new("type", "T"), MetadataEntry::new("content-type", "x")],
            custom_metadata: bytes::Bytes::new(),
            data: bytes::Bytes::from_static(b"{}"),
        };
        BatchAppendReq { proposed_messages: vec![message; events], ..BatchAppendReq::default() }.encode_to_vec()
    }

    #[test]
    fn a_message_weighs_the_same_however_it_is_cut() {
        let message = batch(50);
        let whole = weigh(BATCH, &message, message.len()).expect("light");
        // An event, its id and two entries of metadata, each of a few texts.
        assert_eq!(whole, 50 * (MESSAGE + MESSAGE + TEXT + 2 * (MESSAGE + 2 * TEXT) + TEXT));
        for cut in [1, 2, 3, 7, 100] {
            assert_eq!(weigh(BATCH, &message, cut), Ok(whole), "{cut}");
        }
    }

    #[test]
    fn as_many_events_as_an_append_may_have_are_not_too_heavy() {
        weigh(BATCH, &batch(annals_core::limits::APPEND_EVENTS_MAX), 16 * 1024).expect("light enough");
    }

    #[test]
    fn millions_of_empty_values_are() {
        let records = "/kurrentdb.protocol.v2.streams.StreamsService/AppendRecords";
        for (path, part) in [(BATCH, [0x1a, 0]), (records, [0x0a, 0]), (records, [0x12, 0])] {
            assert_eq!(weigh(path, &part.repeat(2_000_000), 16 * 1024), Err(TooHeavy), "{path}");
        }
    }

    #[test]
    fn what_is_no_message_is_left_to_the_decoder() {
        for bytes in [&[0xff; 100][..], &[0x0a, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01], &[0x07; 10], &[0x0b; 1_000]] {
            assert!(weigh(BATCH, bytes, 3).is_ok(), "{bytes:x?}");
        }
        assert!(Weigher::new("/nobody.Knows/This", 5).is_none());
    }

    #[test]
    fn nesting_without_end_ends() {
        // `properties` of a record: a struct of a struct of a struct.
        let mut nested = vec![0x20, 1];
        for _ in 0..3_000 {
            for key in [0x12, 0x0a, 0x2a] {
                let mut outer = vec![key];
                prost::encoding::encode_varint(nested.len() as u64, &mut outer);
                outer.extend(nested);
                nested = outer;
            }
        }
        let records = "/kurrentdb.protocol.v2.streams.StreamsService/AppendRecords";
        assert!(weigh(records, &nested, 1_000).is_ok());
    }
}
