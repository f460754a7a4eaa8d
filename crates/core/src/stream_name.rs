//! The name of a stream.

use std::fmt;

use bytestring::ByteString;

use crate::limits::STREAM_NAME_BYTES_MAX;

/// A stream's name: 1 to 512 bytes of UTF-8 without control characters.
/// Everything else is allowed, also `/`, `@`, spaces and a leading `$`.
///
/// `$$x` names the *metastream* of `x`: its last event is x's metadata. Its
/// name may be two bytes longer, so that each stream can have one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamName(ByteString);

/// Why a text cannot be a stream's name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Invalid {
    /// Empty, or `$$` alone, which would be the metastream of the empty name.
    #[error("a stream name must not be empty")]
    Empty,
    /// Longer than 512 bytes.
    #[error("a stream name has at most {STREAM_NAME_BYTES_MAX} bytes, this one has {bytes}")]
    TooLong {
        /// Its length.
        bytes: usize,
    },
    /// Holds a control character (U+0000 to U+001F, U+007F to U+009F).
    #[error("a stream name must not hold control characters")]
    Control,
    /// Not UTF-8.
    #[error("a stream name must be UTF-8")]
    NotUtf8,
}

const META: &str = "$$";

impl StreamName {
    /// The name, if it is one.
    ///
    /// # Errors
    /// [`Invalid`] says what is wrong with it; the text is for the client.
    pub fn new(name: impl Into<ByteString>) -> Result<Self, Invalid> {
        let name: ByteString = name.into();
        let plain = name.strip_prefix(META).unwrap_or(&name);
        if plain.is_empty() {
            return Err(Invalid::Empty);
        }
        if plain.len() > STREAM_NAME_BYTES_MAX {
            return Err(Invalid::TooLong { bytes: plain.len() });
        }
        if name.chars().any(char::is_control) {
            return Err(Invalid::Control);
        }
        Ok(StreamName(name))
    }

    /// The name in these bytes, without copying them.
    ///
    /// # Errors
    /// As [`StreamName::new`], and for bytes that are not UTF-8.
    pub fn from_utf8(bytes: bytes::Bytes) -> Result<Self, Invalid> {
        // Measured before it is validated: a long name costs nothing.
        if bytes.len() > STREAM_NAME_BYTES_MAX + META.len() {
            return Err(Invalid::TooLong { bytes: bytes.len() });
        }
        Self::new(ByteString::try_from(bytes).map_err(|_| Invalid::NotUtf8)?)
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name's bytes, shared.
    pub fn as_bytes(&self) -> &bytes::Bytes {
        self.0.as_bytes()
    }

    /// Whether the name begins with `$` (metastreams included).
    pub fn is_system(&self) -> bool {
        self.0.starts_with('$')
    }

    /// Whether this is some stream's metastream.
    pub fn is_metastream(&self) -> bool {
        self.0.starts_with(META)
    }

    /// The stream whose metadata this stream holds, if it is a metastream.
    pub fn described(&self) -> Option<StreamName> {
        self.0.starts_with(META).then(|| StreamName(self.0.slice_ref(&self.0[META.len()..])))
    }

    /// The stream that holds this stream's metadata.
    pub fn metastream(&self) -> StreamName {
        StreamName(ByteString::from(format!("{META}{}", self.0)))
    }

    /// The category: the text before the first `-`. None without a `-`, with
    /// nothing before it, and for system streams.
    pub fn category(&self) -> Option<&str> {
        if self.is_system() {
            return None;
        }
        self.0.split_once('-').map(|(category, _)| category).filter(|category| !category.is_empty())
    }
}

impl fmt::Display for StreamName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> StreamName {
        StreamName::new(text).expect("a valid name")
    }

    #[test]
    fn unusual_names_are_names() {
        for text in ["a/b", "a@b", "a b", "größe-ü", "$settings", "$$a", "日本語-1", "..", "-"] {
            assert_eq!(name(text).as_str(), text);
        }
    }

    #[test]
    fn what_is_not_a_name_says_why() {
        assert_eq!(StreamName::new(""), Err(Invalid::Empty));
        assert_eq!(StreamName::new("$$"), Err(Invalid::Empty));
        assert_eq!(StreamName::new("a\nb"), Err(Invalid::Control));
        assert_eq!(StreamName::new("x".repeat(513)), Err(Invalid::TooLong { bytes: 513 }));
        assert_eq!(StreamName::from_utf8(bytes::Bytes::from_static(b"\xff")), Err(Invalid::NotUtf8));
        assert!(StreamName::new(format!("$${}", "x".repeat(512))).is_ok());
    }

    #[test]
    fn a_metastream_knows_its_stream() {
        assert_eq!(name("$$order-1").described(), Some(name("order-1")));
        assert_eq!(name("order-1").metastream(), name("$$order-1"));
        assert_eq!(name("order-1").described(), None);
        assert_eq!(name("$$$settings").described(), Some(name("$settings")));
    }

    #[test]
    fn a_category_ends_at_the_first_hyphen() {
        assert_eq!(name("order-1-2").category(), Some("order"));
        assert_eq!(name("order").category(), None);
        assert_eq!(name("-order").category(), None);
        assert_eq!(name("$ce-order").category(), None);
    }
}
