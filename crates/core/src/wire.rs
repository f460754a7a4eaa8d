//! Reading our own encodings: little-endian numbers, lengths before bytes.
//!
//! The bytes come from a disk or a network, so nothing in them is believed:
//! every length is compared with what is left before anything is allocated.

use bytes::{Buf, Bytes};
use bytestring::ByteString;
use uuid::Uuid;

use crate::EventId;

/// Why bytes could not be read as what they were said to be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// They end too early.
    #[error("the bytes end {missing} too early")]
    Truncated {
        /// How many more were needed.
        missing: usize,
    },
    /// They go on after the end.
    #[error("{extra} bytes follow the end")]
    Trailing {
        /// How many.
        extra: usize,
    },
    /// Written by a version that this one does not know.
    #[error("format version {found} is not known, this release reads version {known}")]
    Version {
        /// What the bytes say.
        found: u8,
        /// What can be read.
        known: u8,
    },
    /// A number that stands for one of several things stands for none.
    #[error("{tag} is no {what}")]
    Tag {
        /// What was looked for.
        what: &'static str,
        /// What was found.
        tag: u8,
    },
    /// A value that no writer produces.
    #[error("invalid bytes: {0}")]
    Invalid(&'static str),
    /// An event is not what its checksum says.
    #[error("the content of event {id} does not match its checksum")]
    Checksum {
        /// The event, as far as its id can be believed.
        id: EventId,
    },
}

impl DecodeError {
    pub(crate) fn tag(what: &'static str, tag: u8) -> Self {
        DecodeError::Tag { what, tag }
    }
}

pub(crate) struct Input(Bytes);

impl Input {
    pub(crate) fn new(bytes: Bytes) -> Self {
        Input(bytes)
    }

    fn need(&self, bytes: usize) -> Result<(), DecodeError> {
        match bytes.checked_sub(self.0.len()) {
            None | Some(0) => Ok(()),
            Some(missing) => Err(DecodeError::Truncated { missing }),
        }
    }

    pub(crate) fn version(&mut self, known: u8) -> Result<(), DecodeError> {
        let found = self.u8()?;
        if found == known { Ok(()) } else { Err(DecodeError::Version { found, known }) }
    }

    pub(crate) fn u8(&mut self) -> Result<u8, DecodeError> {
        self.need(1)?;
        Ok(self.0.get_u8())
    }

    pub(crate) fn u32(&mut self) -> Result<u32, DecodeError> {
        self.need(4)?;
        Ok(self.0.get_u32_le())
    }

    pub(crate) fn u64(&mut self) -> Result<u64, DecodeError> {
        self.need(8)?;
        Ok(self.0.get_u64_le())
    }

    pub(crate) fn uuid(&mut self) -> Result<Uuid, DecodeError> {
        self.need(16)?;
        let mut bytes = [0; 16];
        self.0.copy_to_slice(&mut bytes);
        Ok(Uuid::from_bytes(bytes))
    }

    /// A number of things that take at least `each` bytes, so that it can be
    /// believed before memory is taken for them.
    pub(crate) fn count(&mut self, each: usize) -> Result<usize, DecodeError> {
        let count = self.u32()? as usize;
        self.need(count.saturating_mul(each))?;
        Ok(count)
    }

    pub(crate) fn bytes(&mut self) -> Result<Bytes, DecodeError> {
        let len = self.u32()? as usize;
        self.need(len)?;
        Ok(self.0.split_to(len))
    }

    pub(crate) fn text(&mut self) -> Result<ByteString, DecodeError> {
        ByteString::try_from(self.bytes()?).map_err(|_| DecodeError::Invalid("text that is not UTF-8"))
    }

    pub(crate) fn end(self) -> Result<(), DecodeError> {
        match self.0.len() {
            0 => Ok(()),
            extra => Err(DecodeError::Trailing { extra }),
        }
    }
}
