//! The shape of what measurements print as JSON.
//!
//! A report is a list of named figures (annals-bench, `report`), so its schema is made
//! here and not derived; the test that validates real output keeps the two together.

use schemars::{Schema, json_schema};
use serde_json::{Map, Value, json};

/// Percentiles of a latency, as a report names them.
const LATENCIES: [(&str, &str); 5] = [
    ("p50_ms", "Half of them took at most so many milliseconds"),
    ("p90_ms", "90 % of them took at most so many milliseconds"),
    ("p99_ms", "99 % of them took at most so many milliseconds"),
    ("p999_ms", "99.9 % of them took at most so many milliseconds"),
    ("max_ms", "The slowest took so many milliseconds"),
];

pub(crate) fn append() -> Schema {
    Figures::new("append")
        .one_of("mode", &["unary", "batch"], "How appends are sent.")
        .one_of("expect", &["exact", "any"], "What an append expects of its stream.")
        .count("clients", "Clients, each with a connection of its own.")
        .count("in_flight_per_client", "Appends of a client that wait for their answer at a time.")
        .count("events_per_request", "Events of an append.")
        .count("event_bytes", "Bytes of data of an event.")
        .count("streams", "Streams that are appended to.")
        .text("prefix", "How the names of these streams begin.")
        .wanted("wanted_requests_per_second")
        .length()
        .measured("", "requests", "events")
        .schema()
}

pub(crate) fn read() -> Schema {
    let read = |of| {
        Figures::new("read")
            .one_of("of", &[of], "What was read: the whole log, whole streams or single events.")
            .one_of("consistency", &["linearizable", "local", "leader"], "What a read promises.")
            .count("clients", "Clients, each with a connection of its own.")
    };
    let of_streams = |of| {
        read(of)
            .count("streams_in_all", "Streams that are read from.")
            .text("prefix", "How the names of these streams begin.")
            .wanted("wanted_reads_per_second")
            .length()
    };
    let all = read("all").length().rate("events", "Events read").rate("data_bytes", "Bytes of data read");
    let stream = of_streams("stream").measured("", "streams", "events");
    let single = of_streams("single").rate("reads", "Events read, one by one").latency("");
    json_schema!({ "oneOf": [all.schema(), stream.schema(), single.schema()] })
}

pub(crate) fn subscribe() -> Schema {
    Figures::new("subscribe")
        .to()
        .count("subscriptions", "Subscriptions that are measured.")
        .count("slow_subscriptions", "Subscriptions besides that read slowly.")
        .count("idle_subscriptions", "Subscriptions besides to what nobody appends to.")
        .count("clients", "Clients that append.")
        .count("events_per_request", "Events of an append.")
        .count("event_bytes", "Bytes of data of an event.")
        .count("streams", "Streams that are appended to.")
        .number("wanted_requests_per_second", "Appends that were to be sent a second.")
        .length()
        .measured("append_", "requests", "events")
        .rate("seen_events", "Events that subscriptions saw, each counted")
        .latency("seen_")
        .count("slow_seen_events", "Events that slow subscriptions saw, each counted.")
        .schema()
}

pub(crate) fn mixed() -> Schema {
    Figures::new("mixed")
        .count("appenders", "Clients that append.")
        .count("readers", "Clients that read.")
        .count("subscriptions", "Subscriptions.")
        .to()
        .one_of("consistency", &["linearizable", "local", "leader"], "What a read promises.")
        .count("events_per_request", "Events of an append.")
        .count("event_bytes", "Bytes of data of an event.")
        .count("streams", "Streams that are appended to and read.")
        .wanted("wanted_appends_per_second")
        .wanted("wanted_reads_per_second")
        .length()
        .measured("append_", "requests", "events")
        .measured("read_", "requests", "events")
        .rate("seen_events", "Events that subscriptions saw, each counted")
        .latency("seen_")
        .schema()
}

/// Figures of one measurement.
struct Figures {
    properties: Map<String, Value>,
    required: Vec<String>,
}

impl Figures {
    fn new(what: &str) -> Self {
        Figures { properties: Map::new(), required: Vec::new() }.one_of("what", &[what], "The measurement.")
    }

    fn with(mut self, name: &str, schema: Value) -> Self {
        self.required.push(name.to_owned());
        self.properties.insert(name.to_owned(), schema);
        self
    }

    fn text(self, name: &str, description: &str) -> Self {
        self.with(name, json!({ "type": "string", "description": description }))
    }

    fn one_of(self, name: &str, values: &[&str], description: &str) -> Self {
        self.with(name, json!({ "type": "string", "enum": values, "description": description }))
    }

    fn count(self, name: &str, description: &str) -> Self {
        self.with(name, json!({ "type": "integer", "minimum": 0, "description": description }))
    }

    fn number(self, name: &str, description: &str) -> Self {
        self.with(name, json!({ "type": "number", "minimum": 0, "description": description }))
    }

    /// A rate that was asked for, or none.
    fn wanted(self, name: &str) -> Self {
        let description = "So many were to be sent a second; null: as many as there are answers.";
        self.with(name, json!({ "type": ["number", "null"], "minimum": 0, "description": description }))
    }

    fn to(self) -> Self {
        self.one_of("to", &["stream", "all", "filtered"], "What subscriptions are to.")
    }

    fn length(self) -> Self {
        self.number("elapsed_seconds", "How long was measured, in seconds.").with(
            "interrupted",
            json!({ "type": "boolean", "description": "Whether that is less than was asked for." }),
        )
    }

    fn rate(self, name: &str, description: &str) -> Self {
        self.count(name, &format!("{description}."))
            .number(&format!("{name}_per_second"), &format!("{description}, a second."))
    }

    /// Nothing has no percentiles: they are there where something was measured.
    fn latency(mut self, prefix: &str) -> Self {
        for (name, description) in LATENCIES {
            let schema = json!({ "type": "number", "minimum": 0, "description": format!("{description}.") });
            self.properties.insert(format!("{prefix}{name}"), schema);
        }
        self
    }

    fn measured(self, prefix: &str, requests: &str, units: &str) -> Self {
        self.rate(&format!("{prefix}{requests}"), &format!("{} answered", capital(requests)))
            .rate(&format!("{prefix}{units}"), &format!("{} in them", capital(units)))
            .latency(prefix)
    }

    fn schema(self) -> Schema {
        json_schema!({ "type": "object", "properties": self.properties, "required": self.required })
    }
}

fn capital(word: &str) -> String {
    let mut letters = word.chars();
    letters.next().map(|first| first.to_uppercase().chain(letters).collect()).unwrap_or_default()
}
