//! What is fuzzed.

use annals_client::Settings;
use annals_core::filter::{Filter, Subject};
use annals_core::{Batch, Command, Metadata, Outcome, StreamName, metadata};
use annals_server::Config;
use bytes::Bytes;
use figment::Figment;
use figment::providers::{Format as _, Serialized, Toml};

/// A decoder.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Its name, and that of its corpus.
    pub name: &'static str,
    /// Tries an input; what became of it.
    pub run: fn(&[u8]) -> String,
}

/// All of them.
pub const TARGETS: &[Target] = &[
    // What the log and the state hold.
    Target { name: "command", run: command },
    Target { name: "batch-of-commands", run: batch },
    Target { name: "outcome", run: outcome },
    Target { name: "metadata", run: metadata_json },
    Target { name: "stream-name", run: stream_name },
    Target { name: "record", run: annals_store::fuzzing::record },
    Target { name: "key", run: annals_store::fuzzing::key },
    Target { name: "value", run: annals_store::fuzzing::value },
    Target { name: "entry", run: annals_raft::fuzzing::entry },
    Target { name: "segment", run: annals_raft::fuzzing::segment },
    // What nodes say to each other, snapshots among it.
    Target { name: "raft-message", run: annals_raft::fuzzing::message },
    // What clients send.
    Target { name: "filter", run: filter },
    Target { name: "read", run: annals_server::fuzzing::read },
    Target { name: "append", run: annals_server::fuzzing::append },
    Target { name: "batch-append", run: annals_server::fuzzing::batch },
    Target { name: "delete", run: annals_server::fuzzing::delete },
    Target { name: "records", run: annals_server::fuzzing::records },
    Target { name: "groups", run: annals_server::fuzzing::groups },
    Target { name: "definitions", run: annals_server::fuzzing::definitions },
    Target { name: "weight", run: annals_server::fuzzing::weight },
    Target { name: "timeout", run: annals_server::fuzzing::timeout },
    // What operators and applications write.
    Target { name: "configuration", run: configuration },
    Target { name: "connection-string", run: connection_string },
];

fn command(bytes: &[u8]) -> String {
    match Command::decode(Bytes::copy_from_slice(bytes)) {
        Ok(command) => {
            assert_eq!(Command::decode(command.encode()), Ok(command.clone()));
            match command {
                Command::Append(append) => format!("{} {}", append.targets.len().min(3), append.events.len().min(3)),
                other => format!("{:?}", std::mem::discriminant(&other)),
            }
        }
        Err(error) => error.to_string(),
    }
}

fn batch(bytes: &[u8]) -> String {
    match Batch::decode(Bytes::copy_from_slice(bytes)) {
        Ok(batch) => {
            let commands: Vec<_> = batch.commands.iter().map(Command::encode).collect();
            assert_eq!(Batch::decode(Batch::encode(batch.stamped, &commands)), Ok(batch));
            commands.len().min(3).to_string()
        }
        Err(error) => error.to_string(),
    }
}

fn outcome(bytes: &[u8]) -> String {
    match Outcome::decode(Bytes::copy_from_slice(bytes)) {
        Ok(outcome) => {
            assert_eq!(Outcome::decode(outcome.encode()), Ok(outcome.clone()));
            format!("{:?}", std::mem::discriminant(&outcome))
        }
        Err(error) => error.to_string(),
    }
}

fn metadata_json(bytes: &[u8]) -> String {
    let Metadata { present, max_count, max_age_seconds, truncate_before, acl } = Metadata::parse(bytes);
    let before = annals_core::Revision::saturating(7);
    let changed = Metadata::parse(&metadata::with_truncate_before(bytes, before));
    assert!(changed.truncate_before.is_some(), "what was set is set");
    let correlation = metadata::correlation_id(bytes).is_some();
    format!(
        "{present} {} {} {} {} {correlation}",
        max_count.is_some(),
        max_age_seconds.is_some(),
        truncate_before.is_some(),
        acl.is_some()
    )
}

fn stream_name(bytes: &[u8]) -> String {
    match StreamName::from_utf8(Bytes::copy_from_slice(bytes)) {
        Ok(name) => {
            assert_eq!(StreamName::new(name.as_str().to_owned()), Ok(name.clone()));
            assert_eq!(name.as_bytes().as_ref(), bytes);
            format!("{} {:?}", name.is_system(), name.described().map(|name| name.is_metastream()))
        }
        Err(invalid) => invalid.to_string(),
    }
}

/// The first byte chooses: an expression on a text, or prefixes. Both end at a
/// line's end.
fn filter(bytes: &[u8]) -> String {
    let Some((kind, text)) = bytes.split_first() else { return "nothing".to_owned() };
    let text = String::from_utf8_lossy(text);
    let (expression, subject) = text.split_once('\n').unwrap_or((&text, "canary-1"));
    let filter = match kind % 2 {
        0 => Filter::regex(Subject::Stream, expression),
        _ => Filter::prefixes(Subject::Stream, expression.split(',').map(str::to_owned).collect()),
    };
    match filter {
        Ok(filter) => format!("{:?}", filter.passes(subject, "T").map_err(|_| "too costly")),
        // Only the kind of error: the text repeats the expression.
        Err(invalid) => format!("{:?}", std::mem::discriminant(&invalid)),
    }
}

fn configuration(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let figment = Figment::from(Serialized::defaults(Config::default())).merge(Toml::string(&text));
    match figment.extract::<Config>() {
        Ok(config) => match config.validate() {
            Ok(()) => "valid".to_owned(),
            Err(invalid) => format!("{:?}", std::mem::discriminant(&invalid)),
        },
        Err(error) => format!("{:?}", std::mem::discriminant(&error.kind)),
    }
}

fn connection_string(bytes: &[u8]) -> String {
    match String::from_utf8_lossy(bytes).parse::<Settings>() {
        Ok(settings) => {
            // Shown to people: nobody's password.
            let shown = format!("{settings:?}");
            if let Some(credentials) = settings.credentials.filter(|credentials| credentials.password.len() > 20) {
                assert!(!shown.contains(&credentials.password), "{shown}");
            }
            format!("{} {}", settings.hosts.len().min(3), settings.ignored.len().min(3))
        }
        Err(invalid) => format!("{:?}", std::mem::discriminant(&invalid)),
    }
}
