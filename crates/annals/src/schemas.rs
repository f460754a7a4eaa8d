//! Which command prints what as JSON: a schema for each.
//!
//! The types that are printed are what the schemas are made from, so that neither can be
//! changed without the other. The schemas lie in `docs/schemas` as well, where a change
//! of them is seen by whoever reviews it; tests compare the two, and run every command
//! here against a real cluster.

use schemars::generate::SchemaSettings;
use schemars::transform::{RecursiveTransform, Transform as _};
use schemars::{JsonSchema, Schema};
use serde_json::Value;

use crate::commands::{
    backup, bench, cluster, context, doctor, explain, export, import, logs, metrics, node, psub, scavenge, stream,
    user, verify, version,
};
use crate::events;

/// How a command prints.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum How {
    /// One object.
    Once,
    /// An object for each of what there is, a line each.
    Lines,
    /// One object, on standard error.
    StandardError,
}

impl How {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            How::Once => "one object",
            How::Lines => "one object a line",
            How::StandardError => "one object, on standard error",
        }
    }
}

/// What a command prints with `-o json`.
pub(crate) struct Printed {
    /// The command without `annals`.
    pub(crate) command: &'static str,
    pub(crate) how: How,
    /// Of the file with the schema.
    pub(crate) name: &'static str,
    make: fn() -> Schema,
}

/// Every command that has `-o json`, by noun as in the help.
pub(crate) const PRINTED: &[Printed] = &[
    of::<stream::Written>("stream append", How::Once, "stream-written"),
    of::<events::Line>("stream read", How::Lines, "event"),
    of::<events::Line>("stream tail", How::Lines, "event"),
    of::<stream::Listed>("stream ls", How::Lines, "stream-listed"),
    of::<stream::Described>("stream info", How::Once, "stream"),
    of::<stream::Written>("stream delete", How::Once, "stream-written"),
    of::<stream::Written>("stream tombstone", How::Once, "stream-written"),
    of::<stream::Metadata>("stream meta get", How::Once, "stream-metadata"),
    of::<stream::Written>("stream meta set", How::Once, "stream-written"),
    of::<events::Line>("all read", How::Lines, "event"),
    of::<events::Line>("all tail", How::Lines, "event"),
    of::<psub::Changed>("psub create", How::Once, "group-changed"),
    of::<psub::Described>("psub ls", How::Lines, "group"),
    of::<psub::Described>("psub info", How::Once, "group"),
    of::<psub::Changed>("psub delete", How::Once, "group-changed"),
    of::<psub::Parked>("psub parked", How::Lines, "parked-event"),
    of::<psub::Changed>("psub replay", How::Once, "group-changed"),
    of::<psub::Changed>("psub drop-parked", How::Once, "group-changed"),
    of::<user::Account>("user ls", How::Lines, "account"),
    of::<user::Account>("user show", How::Once, "account"),
    of::<user::Changed>("user create", How::Once, "account-changed"),
    of::<user::Changed>("user update", How::Once, "account-changed"),
    of::<user::Changed>("user password", How::Once, "account-changed"),
    of::<user::Changed>("user disable", How::Once, "account-changed"),
    of::<user::Changed>("user enable", How::Once, "account-changed"),
    of::<user::Changed>("user delete", How::Once, "account-changed"),
    of::<cluster::status::Status>("cluster status", How::Once, "cluster-status"),
    of::<cluster::Changed>("cluster add", How::Once, "member-changed"),
    of::<cluster::Changed>("cluster promote", How::Once, "member-changed"),
    of::<cluster::Changed>("cluster remove", How::Once, "member-changed"),
    of::<cluster::replace::Replaced>("cluster replace", How::Once, "member-replaced"),
    of::<cluster::scale::Scaled>("cluster scale", How::Once, "cluster-scaled"),
    of::<cluster::Changed>("cluster transfer-leader", How::Once, "member-changed"),
    of::<cluster::hash::Hashes>("cluster hash", How::Once, "cluster-hash"),
    of::<node::Drained>("node drain", How::Lines, "node-drained"),
    of::<node::Resumed>("node resume", How::Once, "node-resumed"),
    of::<node::Readiness>("node check", How::Once, "node-check"),
    of::<node::Info>("node info", How::Once, "node-info"),
    of::<logs::Level>("node log-level", How::Once, "log-level"),
    of::<logs::Logged>("node logs", How::Lines, "log-line"),
    of::<node::recover::Outcome>("node recover", How::Once, "node-recovered"),
    of::<scavenge::Scavenge>("scavenge start", How::Once, "scavenge"),
    of::<scavenge::Scavenge>("scavenge status", How::Once, "scavenge"),
    of::<scavenge::Scavenge>("scavenge stop", How::Once, "scavenge"),
    of::<backup::Told>("backup create", How::Once, "backup"),
    of::<backup::Listed>("backup ls", How::Lines, "backup-listed"),
    of::<backup::Verified>("backup verify", How::Once, "backup-verified"),
    of::<backup::Restored>("backup restore", How::Once, "backup-restored"),
    of::<export::Exported>("export", How::StandardError, "export"),
    of::<import::Imported>("import", How::Once, "import"),
    Printed { command: "bench append", how: How::Once, name: "bench-append", make: bench::figures::append },
    Printed { command: "bench read", how: How::Once, name: "bench-read", make: bench::figures::read },
    Printed { command: "bench subscribe", how: How::Once, name: "bench-subscribe", make: bench::figures::subscribe },
    Printed { command: "bench mixed", how: How::Once, name: "bench-mixed", make: bench::figures::mixed },
    of::<verify::Verified>("verify", How::Once, "verify"),
    of::<doctor::Found>("doctor", How::Lines, "finding"),
    of::<explain::Explained>("explain", How::Lines, "error-code"),
    of::<context::Listed>("context ls", How::Lines, "context"),
    of::<metrics::Metric>("metrics list", How::Lines, "metric"),
    of::<version::Version>("version", How::Once, "version"),
];

const fn of<T: JsonSchema>(command: &'static str, how: How, name: &'static str) -> Printed {
    Printed { command, how, name, make: derived::<T> }
}

fn derived<T: JsonSchema>() -> Schema {
    SchemaSettings::draft2020_12().for_serialize().into_generator().into_root_schema_for::<T>()
}

impl Printed {
    /// The schema as it is checked in.
    pub(crate) fn schema(&self) -> Value {
        let mut schema = (self.make)();
        RecursiveTransform(strict).transform(&mut schema);
        schema.insert("$schema".to_owned(), "https://json-schema.org/draft/2020-12/schema".into());
        schema.insert("title".to_owned(), self.name.into());
        schema.to_value()
    }

    /// The same as text.
    pub(crate) fn text(&self) -> String {
        format!("{:#}\n", self.schema())
    }
}

/// Nothing is printed that the schema does not name.
fn strict(schema: &mut Schema) {
    let Some(object) = schema.as_object_mut() else { return };
    if let Some(Value::String(description)) = object.get_mut("description") {
        *description = description.replace('\n', " ");
    }
    let required = object.get("required").cloned().unwrap_or_default();
    let is_required = |name: &str| required.as_array().is_some_and(|names| names.iter().any(|known| known == name));
    let Some(Value::Object(properties)) = object.get_mut("properties") else { return };
    properties.iter_mut().filter(|(name, _)| !is_required(name)).for_each(|(_, property)| never_null(property));
    object.entry("additionalProperties").or_insert(Value::Bool(false));
}

/// What may be left out is left out where there is nothing: it is never null.
fn never_null(property: &mut Value) {
    let Some(object) = property.as_object_mut() else { return };
    let is_null = |value: &Value| *value == "null" || value.get("type").is_some_and(|kind| kind == "null");
    let without = |values: &Value| -> Option<Vec<Value>> {
        Some(values.as_array()?.iter().filter(|value| !is_null(value)).cloned().collect())
    };
    if let Some([one]) = object.get("type").and_then(without).as_deref() {
        object.insert("type".to_owned(), one.clone());
    }
    if let Some([Value::Object(one)]) = object.get("anyOf").and_then(without).as_deref() {
        object.remove("anyOf");
        object.extend(one.clone());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;
    use std::collections::{BTreeMap, BTreeSet};
    use std::path::PathBuf;

    fn directory() -> PathBuf {
        PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../docs/schemas")
    }

    /// The commands below this one that can be told how to print.
    fn with_output(command: &clap::Command, name: &str, found: &mut BTreeSet<String>) {
        let subs: Vec<_> = command.get_subcommands().filter(|sub| sub.get_name() != "help").collect();
        if subs.is_empty() && command.get_arguments().any(|argument| argument.get_id() == "output") {
            found.insert(name.trim_start().to_owned());
        }
        for sub in subs {
            with_output(sub, &format!("{name} {}", sub.get_name()), found);
        }
    }

    #[test]
    fn every_command_that_prints_json_has_a_schema() {
        let mut cli = crate::Cli::command();
        cli.build();
        let mut found = BTreeSet::new();
        with_output(&cli, "", &mut found);
        let listed: BTreeSet<String> = PRINTED.iter().map(|printed| printed.command.to_owned()).collect();
        assert_eq!(found, listed);
        assert_eq!(listed.len(), PRINTED.len(), "each is listed once");
    }

    #[test]
    fn the_schemas_are_checked_in_as_they_are() {
        let made: BTreeMap<String, String> =
            PRINTED.iter().map(|printed| (format!("{}.json", printed.name), printed.text())).collect();
        let files = std::fs::read_dir(directory()).expect("docs/schemas").map(|entry| entry.expect("a file").path());
        let found: BTreeMap<String, String> = files
            .map(|path| {
                let name = path.file_name().and_then(|name| name.to_str()).expect("a name").to_owned();
                (name, std::fs::read_to_string(path).expect("text"))
            })
            .collect();
        for (name, text) in &made {
            let same = found.get(name) == Some(text);
            assert!(same, "stale: annals reference schemas --out docs/schemas ({name})");
        }
        assert_eq!(made.len(), found.len(), "a schema that nobody prints: {:?}", found.keys());
    }

    /// What is said about every value, wherever it is.
    fn look(schema: &Value, place: &str) {
        match schema {
            Value::Object(object) => {
                if let Some(Value::Object(properties)) = object.get("properties") {
                    assert_eq!(object.get("additionalProperties"), Some(&Value::Bool(false)), "{place}");
                    assert!(object.contains_key("required"), "{place}");
                    for (name, property) in properties {
                        let described =
                            property.get("description").and_then(Value::as_str).is_some_and(|d| !d.is_empty());
                        assert!(described, "{place}.{name} says nothing of itself");
                    }
                }
                object.iter().for_each(|(name, value)| look(value, &format!("{place}/{name}")));
            }
            Value::Array(values) => values.iter().for_each(|value| look(value, place)),
            _ => {}
        }
    }

    #[test]
    fn schemas_are_strict_and_say_what_each_value_is() {
        for printed in PRINTED {
            look(&printed.schema(), printed.name);
        }
    }

    #[test]
    fn one_name_is_one_schema() {
        let mut schemas = BTreeMap::new();
        for printed in PRINTED {
            let text = printed.text();
            assert_eq!(*schemas.entry(printed.name).or_insert_with(|| text.clone()), text, "{}", printed.name);
        }
    }
}
