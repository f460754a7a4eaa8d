//! What a group is: its source, where it begins, which events it gets, how it is
//! served. All definitions are one JSON document, the newest event of
//! `$persistentSubscriptionConfig`, as the stores of this protocol keep them.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use annals_core::StreamName;
use annals_core::group::{Settings, Strategy};
use serde::{Deserialize, Serialize};

/// The stream that holds the definitions.
pub(crate) const CONFIGURATION: &str = "$persistentSubscriptionConfig";

/// The type of its events.
pub(crate) const CONFIGURATION_TYPE: &str = "$PersistentConfig";

/// Which group: its source and its name in it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub(crate) struct GroupName {
    /// The stream, `$all` for the log.
    pub(crate) source: String,
    /// The name.
    pub(crate) group: String,
}

impl GroupName {
    /// Whether it is fed with the whole log.
    pub(crate) fn is_all(&self) -> bool {
        self.source == "$all"
    }

    /// The stream of messages that were given up.
    pub(crate) fn parked(&self) -> Option<StreamName> {
        StreamName::new(format!("$persistentsubscription-{self}-parked")).ok()
    }

    /// The stream of checkpoints.
    pub(crate) fn checkpoints(&self) -> Option<StreamName> {
        StreamName::new(format!("$persistentsubscription-{self}-checkpoint")).ok()
    }
}

impl fmt::Display for GroupName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}::{}", self.source, self.group)
    }
}

/// Which events of the log a group gets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Selection {
    /// Looked at: the stream's name, or the event's type.
    pub(crate) by_stream: bool,
    /// Any of these prefixes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) prefixes: Vec<String>,
    /// Or this regular expression.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) regex: String,
}

/// One group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Definition {
    /// Which.
    #[serde(flatten)]
    pub(crate) name: GroupName,
    /// Which one of this name: a group that is deleted and made again is another one,
    /// and parks its messages under other ids.
    pub(crate) incarnation: uuid::Uuid,
    /// It begins after this revision or position; with the first event if there is
    /// none. What "the end" meant was settled when it was defined.
    pub(crate) after: Option<u64>,
    /// Whether it was defined to begin at the end.
    pub(crate) from_end: bool,
    /// Which events, of the log.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) selection: Option<Selection>,
    /// How it is served.
    #[serde(with = "written")]
    pub(crate) settings: Settings,
}

/// All groups.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Definitions(pub(crate) BTreeMap<GroupName, Definition>);

#[derive(Serialize, Deserialize)]
struct Document {
    version: u32,
    entries: Vec<Definition>,
}

const VERSION: u32 = 1;

/// Why a document cannot be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unreadable {
    /// It is none.
    #[error("the definitions of consumer groups cannot be read")]
    Json(#[from] serde_json::Error),
    /// A later release wrote it.
    #[error("the definitions of consumer groups have version {0}, this release reads version {VERSION}")]
    Version(u32),
}

impl Definitions {
    /// The document.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let document = Document { version: VERSION, entries: self.0.values().cloned().collect() };
        serde_json::to_vec(&document).expect("a definition has text keys only")
    }

    /// The definitions in a document.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Definitions, Unreadable> {
        let document: Document = serde_json::from_slice(bytes)?;
        if document.version != VERSION {
            return Err(Unreadable::Version(document.version));
        }
        Ok(Definitions(document.entries.into_iter().map(|entry| (entry.name.clone(), entry)).collect()))
    }
}

/// Settings as they are written.
mod written {
    use serde::{Deserializer, Serializer};

    use super::*;

    #[derive(Serialize, Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Form {
        resolve_link_tos: bool,
        extra_statistics: bool,
        message_timeout_ms: u64,
        max_retry_count: u32,
        checkpoint_after_ms: u64,
        min_checkpoint_count: u64,
        max_checkpoint_count: u64,
        max_subscriber_count: u64,
        live_buffer_size: usize,
        read_batch_size: usize,
        history_buffer_size: usize,
        consumer_strategy: String,
    }

    pub(super) fn serialize<S: Serializer>(settings: &Settings, serializer: S) -> Result<S::Ok, S::Error> {
        let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        Form {
            resolve_link_tos: settings.resolve_links,
            extra_statistics: settings.extra_statistics,
            message_timeout_ms: millis(settings.message_timeout),
            max_retry_count: settings.max_retries,
            checkpoint_after_ms: settings.checkpoint_after.map_or(0, millis),
            min_checkpoint_count: settings.min_checkpoint,
            max_checkpoint_count: settings.max_checkpoint,
            max_subscriber_count: settings.max_consumers.map_or(0, |max| max as u64),
            live_buffer_size: settings.live_buffer,
            read_batch_size: settings.read_batch,
            history_buffer_size: settings.history_buffer,
            consumer_strategy: settings.strategy.name().to_owned(),
        }
        .serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Settings, D::Error> {
        let form = Form::deserialize(deserializer)?;
        let strategy = Strategy::from_name(&form.consumer_strategy)
            .ok_or_else(|| serde::de::Error::custom(format!("{:?} is no strategy", form.consumer_strategy)))?;
        Ok(Settings {
            resolve_links: form.resolve_link_tos,
            extra_statistics: form.extra_statistics,
            message_timeout: Duration::from_millis(form.message_timeout_ms),
            max_retries: form.max_retry_count,
            checkpoint_after: (form.checkpoint_after_ms > 0).then(|| Duration::from_millis(form.checkpoint_after_ms)),
            min_checkpoint: form.min_checkpoint_count,
            max_checkpoint: form.max_checkpoint_count,
            max_consumers: usize::try_from(form.max_subscriber_count).ok().filter(|max| *max > 0),
            live_buffer: form.live_buffer_size,
            read_batch: form.read_batch_size,
            history_buffer: form.history_buffer_size,
            strategy,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn definition(source: &str, group: &str) -> Definition {
        Definition {
            name: GroupName { source: source.into(), group: group.into() },
            incarnation: uuid::Uuid::from_u128(9),
            after: Some(7),
            from_end: false,
            selection: (source == "$all").then(|| Selection {
                by_stream: true,
                prefixes: vec!["order-".into()],
                regex: String::new(),
            }),
            settings: Settings { strategy: Strategy::PinnedByCorrelation, ..Settings::default() },
        }
    }

    #[test]
    fn definitions_are_read_back() {
        let all = [definition("orders", "a"), definition("$all", "b::c")];
        let definitions = Definitions(all.into_iter().map(|one| (one.name.clone(), one)).collect());
        assert_eq!(Definitions::decode(&definitions.encode()).expect("readable"), definitions);
        assert!(Definitions::decode(b"{}").is_err());
        assert!(matches!(Definitions::decode(br#"{"version":2,"entries":[]}"#), Err(Unreadable::Version(2))));
    }

    #[test]
    fn streams_of_a_group_have_the_names_of_the_protocol() {
        let name = GroupName { source: "$all".into(), group: "g".into() };
        assert_eq!(name.to_string(), "$all::g");
        assert_eq!(name.parked().expect("valid").as_str(), "$persistentsubscription-$all::g-parked");
        assert_eq!(name.checkpoints().expect("valid").as_str(), "$persistentsubscription-$all::g-checkpoint");
        let long = GroupName { source: "x".repeat(500), group: "g".into() };
        assert_eq!(long.parked(), None);
    }
}
