//! Listing streams by name.

use annals_core::{Head, StreamName};
use bytes::Bytes;

use crate::database::reading;
use crate::error::Error;
use crate::heads::StreamHead;
use crate::keys::{self, Column, Key, Kind};
use crate::record::Corruption;
use crate::state::State;

impl State {
    /// See [`crate::Store::list_streams`].
    pub(crate) fn list_streams(
        &self,
        prefix: &str,
        after: &str,
        limit: usize,
        system: bool,
    ) -> Result<Vec<(StreamName, Head)>, Error> {
        let mut from = Vec::new();
        let mut to = Vec::new();
        keys::head(Kind::Stream, prefix.max(after).as_bytes(), &mut from);
        if !after.is_empty() && after >= prefix {
            // The first name that follows `after` itself.
            from.push(0);
        }
        // Names hold no byte above 0xF4, so that this follows all of them.
        keys::head(Kind::Stream, prefix.as_bytes(), &mut to);
        to.push(0xff);
        let mut found = Vec::new();
        let mut heads = self.database.scan(Column::Heads, &from, &to, 0);
        heads.seek_to_first();
        while found.len() < limit {
            let Some((key, value)) = heads.item() else {
                heads.status().map_err(reading)?;
                break;
            };
            let name = &key[1..];
            if !system && name.first() == Some(&b'$') {
                // Past all of them at once: `%` is the byte after `$`.
                keys::head(Kind::Stream, b"%", &mut from);
                heads.seek(&from);
                continue;
            }
            let corrupt = |source| Error::corrupt(Key::Head(Kind::Stream, Bytes::copy_from_slice(name)), source);
            let stream = StreamName::from_utf8(Bytes::copy_from_slice(name))
                .map_err(|_| corrupt(Corruption::Invalid("it is no stream's name")))?;
            let head = StreamHead::decode(value).map_err(corrupt)?;
            found.push((stream, head.head));
            heads.next();
        }
        Ok(found)
    }
}
