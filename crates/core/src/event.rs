//! An event as a client proposes it.

use std::fmt;

use bytes::Bytes;
use bytestring::ByteString;
use uuid::Uuid;

/// The id that a client gives to an event, never nil. Appending the same id
/// to the same stream again is answered as the first time (protocol 2.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EventId(Uuid);

impl EventId {
    /// The id, unless it is the nil UUID.
    pub fn new(id: Uuid) -> Option<Self> {
        (!id.is_nil()).then_some(EventId(id))
    }

    /// The UUID.
    pub fn uuid(self) -> Uuid {
        self.0
    }
}

impl fmt::Display for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What an event is called, such as `OrderPlaced`. Not empty, at most
/// [`crate::limits::EVENT_TYPE_BYTES_MAX`] bytes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EventType(ByteString);

/// Why a text cannot be an event's type.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an event type has 1 to {} bytes, this one has {bytes}", crate::limits::EVENT_TYPE_BYTES_MAX)]
pub struct InvalidType {
    /// Its length.
    pub bytes: usize,
}

impl EventType {
    /// The type of a link: its data is `revision@stream` (protocol 3.4).
    pub const LINK: &str = "$>";
    /// The type of an event that holds a stream's metadata.
    pub const METADATA: &str = "$metadata";
    /// The type of the event that ends a stream for ever.
    pub const TOMBSTONE: &str = "$streamDeleted";

    /// The type, if it is one.
    ///
    /// # Errors
    /// [`InvalidType`] when it is empty or too long.
    pub fn new(name: impl Into<ByteString>) -> Result<Self, InvalidType> {
        let name: ByteString = name.into();
        if name.is_empty() || name.len() > crate::limits::EVENT_TYPE_BYTES_MAX {
            return Err(InvalidType { bytes: name.len() });
        }
        Ok(EventType(name))
    }

    /// As text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Its bytes, shared.
    pub fn as_bytes(&self) -> &Bytes {
        self.0.as_bytes()
    }
}

impl fmt::Display for EventType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Whether the data is JSON. Only a label: nothing checks the data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Content {
    /// `application/json`
    Json,
    /// `application/octet-stream`
    Binary,
}

/// What the metadata bytes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Properties {
    /// Bytes of the client's own making (v1).
    Opaque,
    /// A serialised `google.protobuf.Struct` (v2, protocol 2.9).
    Struct,
}

/// An event that has been accepted but not yet placed in the log.
///
/// Carries the CRC32C of its content from the moment it was made, so that a
/// bit that flips on any later hop or disk is noticed when the event is
/// applied or read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    pub(crate) id: EventId,
    pub(crate) event_type: EventType,
    pub(crate) content: Content,
    pub(crate) properties: Properties,
    pub(crate) metadata: Bytes,
    pub(crate) data: Bytes,
    pub(crate) checksum: u32,
}

impl Event {
    /// An event with its checksum taken now.
    pub fn new(
        id: EventId,
        event_type: EventType,
        content: Content,
        properties: Properties,
        metadata: Bytes,
        data: Bytes,
    ) -> Self {
        let checksum = checksum(id, event_type.as_str(), content, properties, &metadata, &data);
        Event { id, event_type, content, properties, metadata, data, checksum }
    }

    /// The event with these parts, if the checksum that came with them is theirs.
    pub fn verified(
        id: EventId,
        event_type: EventType,
        content: Content,
        properties: Properties,
        metadata: Bytes,
        data: Bytes,
        claimed: u32,
    ) -> Option<Self> {
        let event = Self::new(id, event_type, content, properties, metadata, data);
        (event.checksum == claimed).then_some(event)
    }

    /// The client's id.
    pub fn id(&self) -> EventId {
        self.id
    }
    /// What it is called.
    pub fn event_type(&self) -> &EventType {
        &self.event_type
    }
    /// Whether the data is said to be JSON.
    pub fn content(&self) -> Content {
        self.content
    }
    /// What the metadata bytes are.
    pub fn properties(&self) -> Properties {
        self.properties
    }
    /// The client's metadata.
    pub fn metadata(&self) -> &Bytes {
        &self.metadata
    }
    /// The client's data.
    pub fn data(&self) -> &Bytes {
        &self.data
    }
    /// CRC32C over everything above.
    pub fn checksum(&self) -> u32 {
        self.checksum
    }
    /// Bytes of type, metadata and data.
    pub fn size(&self) -> usize {
        self.event_type.as_str().len() + self.metadata.len() + self.data.len()
    }
}

/// The checksum of an event with these parts, as [`Event::checksum`]: for
/// those who hold an event's bytes without an [`Event`].
pub fn checksum(
    id: EventId,
    event_type: &str,
    content: Content,
    properties: Properties,
    metadata: &[u8],
    data: &[u8],
) -> u32 {
    // Lengths and labels are part of it: moving a byte from one field to the
    // next must not go unnoticed.
    let mut fixed = [0u8; 26];
    fixed[..16].copy_from_slice(id.uuid().as_bytes());
    fixed[16] = flags(content, properties);
    fixed[17..21].copy_from_slice(&(event_type.len() as u32).to_le_bytes());
    fixed[21..25].copy_from_slice(&(metadata.len() as u32).to_le_bytes());
    let sum = crc32c::crc32c(&fixed);
    let sum = crc32c::crc32c_append(sum, event_type.as_bytes());
    let sum = crc32c::crc32c_append(sum, metadata);
    crc32c::crc32c_append(sum, data)
}

/// Both labels in one byte, as commands and records store them.
pub fn flags(content: Content, properties: Properties) -> u8 {
    u8::from(content == Content::Json) | u8::from(properties == Properties::Struct) << 1
}

/// The labels in such a byte, or none where other bits are set.
pub fn labels(flags: u8) -> Option<(Content, Properties)> {
    if flags & !3 != 0 {
        return None;
    }
    let content = if flags & 1 != 0 { Content::Json } else { Content::Binary };
    let properties = if flags & 2 != 0 { Properties::Struct } else { Properties::Opaque };
    Some((content, properties))
}
