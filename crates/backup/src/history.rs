//! The events of a server, in the order of its log, read through the public protocol:
//! from Annals as from any server that speaks it.

use std::time::Duration;

use annals_client::{Client, Cursor, Direction, Filter, Item, ReadOptions, Reading, Recorded, Source};
use annals_core::Timestamp;

use crate::error::Error;

/// Attempts in a row without an event before it is given up.
const ATTEMPTS: u32 = 8;
const PAUSE: Duration = Duration::from_millis(250);

/// The revision of the event that ends a stream.
pub const TOMBSTONE: u64 = i64::MAX as u64;
/// Its type.
pub const TOMBSTONE_TYPE: &str = "$streamDeleted";
/// The type of a stream's metadata.
pub const METADATA_TYPE: &str = "$metadata";

/// Which events are wanted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selection {
    /// Only this stream.
    pub stream: Option<String>,
    /// Only streams whose names begin with one of these; all where there is none.
    pub prefixes: Vec<String>,
    /// Also what belongs to the server itself: streams that begin with `$`.
    pub system: bool,
}

impl Selection {
    /// Whether events of a stream are wanted. The metadata of a stream goes with it.
    pub fn includes(&self, stream: &str) -> bool {
        let described = stream.strip_prefix("$$").unwrap_or(stream);
        if described.starts_with('$') && !self.system {
            return false;
        }
        if let Some(only) = &self.stream {
            return described == only || stream == only;
        }
        self.prefixes.is_empty() || self.prefixes.iter().any(|prefix| described.starts_with(prefix.as_str()))
    }

    /// What the server need not send at all.
    fn filter(&self) -> Option<Filter> {
        let wanted: Vec<&str> = self.stream.iter().chain(&self.prefixes).map(String::as_str).collect();
        if wanted.is_empty() {
            return None;
        }
        Some(Filter::StreamPrefix(wanted.iter().flat_map(|name| [(*name).to_owned(), format!("$${name}")]).collect()))
    }
}

/// Reads on from where it was when the server fails.
pub struct Reader {
    client: Client,
    selection: Selection,
    after: Option<u64>,
    reading: Option<Reading>,
    failures: u32,
}

impl Reader {
    /// What is wanted of what comes after this position.
    pub fn new(client: Client, selection: Selection, after: Option<u64>) -> Reader {
        Reader { client, selection, after, reading: None, failures: 0 }
    }

    /// The next event; none at the end of the log.
    ///
    /// # Errors
    /// The server refuses, or cannot be reached for some seconds.
    pub async fn next(&mut self) -> Result<Option<Recorded>, Error> {
        loop {
            let error = match self.step().await {
                Ok(Some(event)) if self.after.is_some_and(|after| event.position <= after) => continue,
                Ok(Some(event)) => {
                    self.after = Some(event.position);
                    self.failures = 0;
                    if self.selection.includes(&event.stream) {
                        return Ok(Some(event));
                    }
                    continue;
                }
                Ok(None) => return Ok(None),
                Err(error) => error,
            };
            self.reading = None;
            self.failures += 1;
            if !error.may_pass() || self.failures >= ATTEMPTS {
                return Err(error.into());
            }
            tokio::time::sleep(PAUSE * self.failures).await;
        }
    }

    async fn step(&mut self) -> Result<Option<Recorded>, annals_client::Error> {
        let reading = match &mut self.reading {
            Some(reading) => reading,
            none @ None => {
                let from = self.after.map_or(Cursor::Start, Cursor::At);
                let source = Source::All { from, filter: self.selection.filter(), resolve_links: false };
                let options = ReadOptions { source, direction: Direction::Forwards, count: u64::MAX };
                none.insert(self.client.read(options).await?)
            }
        };
        loop {
            match reading.next().await? {
                Some(Item::Event(resolved)) => {
                    let resolved = *resolved;
                    if let Some(event) = resolved.link.or(resolved.event) {
                        return Ok(Some(event));
                    }
                }
                Some(Item::Confirmed | Item::CaughtUp | Item::Checkpoint(_)) => {}
                None => return Ok(None),
            }
        }
    }
}

/// When an event was recorded, in ticks.
pub fn created(event: &Recorded) -> Timestamp {
    Timestamp::from(event.created)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_metadata_of_a_stream_goes_with_it_and_what_is_the_servers_own_stays_there() {
        let all = Selection::default();
        for (stream, wanted) in
            [("a", true), ("$$a", true), ("$a", false), ("$$$a", false), ("$ce-a", false), ("$settings", false)]
        {
            assert_eq!(all.includes(stream), wanted, "{stream}");
            assert!(Selection { system: true, ..Selection::default() }.includes(stream), "{stream}");
        }
        let some = Selection { prefixes: vec!["order-".into(), "x".into()], ..Selection::default() };
        for (stream, wanted) in [("order-1", true), ("$$order-1", true), ("xy", true), ("orders", false)] {
            assert_eq!(some.includes(stream), wanted, "{stream}");
        }
        let one = Selection { stream: Some("a".into()), ..Selection::default() };
        assert!(one.includes("a") && one.includes("$$a") && !one.includes("ab"));
    }
}
