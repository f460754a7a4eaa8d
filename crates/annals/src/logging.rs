//! Logs of a node: on standard error, and the last lines in memory ([`Logs`]), where
//! they can be read from afar. How much is logged can be changed while it runs.
//!
//! Two things hold whatever the operator asks for:
//!
//! - **No secrets.** Below `info` the libraries that carry requests print what they
//!   carry: HTTP/2 frames, header fields, TLS messages, and with them passwords and
//!   tokens. They are cut off there ([`CARRIERS`]); there is no way to
//!   turn them on, because a log is read by more people than a password file. What
//!   is sent can be seen on the network, by who may.
//! - **No flood.** Each kind of line is written so many times a second
//!   (`log_lines_per_second_max`), and what is left out is counted: who can cause a
//!   line must not be able to fill the disk.

use std::collections::HashMap;
use std::fmt;
use std::io::IsTerminal as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Once, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use annals_server::config::LogFormat;
use annals_server::logs::{Gravity, Line};
use annals_server::{Config, Logs, telemetry};
use tracing::callsite::Identifier;
use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::{Context, Layer, SubscriberExt as _};
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, reload};

use crate::failure::Failure;

/// What carries requests, and would print them below `info`.
const CARRIERS: [&str; 12] = [
    "axum",
    "h2",
    "hyper",
    "hyper_util",
    "mio",
    "reqwest",
    "rustls",
    "tokio_rustls",
    "tonic",
    "tower",
    "tower_http",
    "want",
];

/// Parts of the program that may be named without what all of them begin with.
const PARTS: [&str; 4] = ["core", "raft", "server", "store"];

/// Sends logs to standard error from now on.
pub(crate) fn start(config: &Config) -> Result<Logs, Failure> {
    let wanted = filters(&config.log, None)
        .map_err(|why| Failure::usage(format!("`log` holds \"{}\", which cannot be used: {why}", config.log)))?;
    let (wanted, handle) = reload::Layer::new(wanted);
    let logs = Logs::default();
    logs.control(&config.log, move |configured, set| {
        handle.reload(filters(configured, set)?).map_err(|error| error.to_string())
    });
    let lines =
        tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_ansi(std::io::stderr().is_terminal());
    let throttle = Throttle::new(config.log_lines_per_second_max, logs.clone());
    // Each is asked for every line; a filter of a single layer could not refuse
    // one that is being written.
    let registry = tracing_subscriber::registry().with(wanted).with(throttle).with(Keeper(logs.clone()));
    match config.log_format {
        LogFormat::Text => registry.with(lines.with_target(false)).init(),
        LogFormat::Json => registry.with(lines.json().flatten_event(true)).init(),
    }
    // A panic ends the process; it should be found where one looks first.
    std::panic::set_hook(Box::new(|panic| {
        let location = panic.location().map(ToString::to_string).unwrap_or_default();
        let backtrace = std::backtrace::Backtrace::capture();
        tracing::error!(%location, %backtrace, "panic: {}", message(panic));
    }));
    Ok(logs)
}

/// What lets lines pass: as configured, with what was set at run time in its place
/// where that says something, and never what would tell secrets.
fn filters<S: Subscriber>(configured: &str, set: Option<&str>) -> Result<impl Layer<S> + use<S>, String> {
    if let Some(set) = set {
        check(set)?;
    }
    let directives = [Some(configured), set].into_iter().flatten().map(expand).collect::<Vec<_>>().join(",");
    // Consensus tells of each of its steps, and of each call to a peer that
    // is down; our own lines say what an operator needs. Whoever wants the
    // rest names it.
    let quiet = if directives.contains("openraft") { "" } else { ",openraft=error" };
    let wanted = EnvFilter::try_new(format!("{directives}{quiet}")).map_err(|error| error.to_string())?;
    let level = wanted.max_level_hint().unwrap_or(LevelFilter::TRACE);
    let carriers = CARRIERS.map(|target| (target, level.min(LevelFilter::INFO)));
    let without_secrets = Targets::new().with_default(level).with_targets(carriers);
    Ok(wanted.and_then(without_secrets))
}

/// A word alone would be taken for the name of a part, all of which is logged then:
/// who mistypes a level is told.
fn check(set: &str) -> Result<(), String> {
    for directive in set.split(',').map(str::trim) {
        if !directive.contains(['=', '[']) && directive.parse::<LevelFilter>().is_err() {
            return Err(format!("\"{directive}\" is no level: error, warn, info, debug, trace or off"));
        }
    }
    Ok(())
}

/// `raft=debug` as `annals_raft=debug`.
fn expand(directives: &str) -> String {
    let expand = |directive: &str| {
        let directive = directive.trim();
        let part = directive.split(['=', ':', '[']).next().unwrap_or_default();
        let prefix = if PARTS.contains(&part) && part.len() < directive.len() { "annals_" } else { "" };
        format!("{prefix}{directive}")
    };
    directives.split(',').map(expand).collect::<Vec<_>>().join(",")
}

/// Hands each line that is logged to those who read from afar.
struct Keeper(Logs);

impl<S: Subscriber> Layer<S> for Keeper {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let metadata = event.metadata();
        let mut told = Told::default();
        event.record(&mut told);
        told.fields.extend(telemetry::trace_id().map(|id| ("trace_id".to_owned(), id)));
        self.0.record(Line {
            number: 0,
            at: SystemTime::now(),
            gravity: gravity(*metadata.level()),
            target: metadata.target().to_owned(),
            message: told.message,
            fields: told.fields,
        });
    }
}

fn gravity(level: Level) -> Gravity {
    match level {
        Level::ERROR => Gravity::Error,
        Level::WARN => Gravity::Warn,
        Level::INFO => Gravity::Info,
        Level::DEBUG => Gravity::Debug,
        Level::TRACE => Gravity::Trace,
    }
}

/// What an event says.
#[derive(Default)]
struct Told {
    message: String,
    fields: Vec<(String, String)>,
}

impl Told {
    fn note(&mut self, field: &Field, value: String) {
        match field.name() {
            "message" => self.message = value,
            name => self.fields.push((name.to_owned(), value)),
        }
    }
}

impl Visit for Told {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.note(field, value.to_owned());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.note(field, format!("{value:?}"));
    }
}

fn message<'a>(panic: &'a std::panic::PanicHookInfo<'_>) -> &'a str {
    let payload = panic.payload();
    payload
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| payload.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("without a message")
}

/// Lets so many lines of one place in the code pass in a second. Below `info`
/// all pass: those are on for as long as somebody watches.
struct Throttle {
    per_second: u64,
    begun: Instant,
    /// For each place the second of its last line, and how many it had in it.
    places: Mutex<HashMap<Identifier, (u64, u64)>>,
    left_out: Arc<AtomicU64>,
    telling: Once,
    logs: Logs,
}

impl Throttle {
    fn new(per_second: u64, logs: Logs) -> Self {
        let (left_out, telling) = (Arc::default(), Once::new());
        Throttle { per_second, begun: Instant::now(), places: Mutex::default(), left_out, telling, logs }
    }

    fn passes(&self, place: Identifier, second: u64) -> bool {
        // There are as many places as the program has lines that log.
        let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        let (last, lines) = places.entry(place).or_insert((second, 0));
        if *last != second {
            (*last, *lines) = (second, 0);
        }
        *lines += 1;
        *lines <= self.per_second
    }

    /// From now on it is said how many lines were left out: not here, where a
    /// line is being written.
    fn tell(&self) {
        self.telling.call_once(|| {
            let left_out = self.left_out.clone();
            std::thread::spawn(move || {
                loop {
                    std::thread::sleep(Duration::from_secs(1));
                    let lines = left_out.swap(0, Ordering::Relaxed);
                    if lines > 0 {
                        tracing::warn!(lines, "too many lines of one kind in a second: so many were left out");
                    }
                }
            });
        });
    }
}

impl<S: Subscriber> Layer<S> for Throttle {
    fn event_enabled(&self, event: &Event<'_>, _: Context<'_, S>) -> bool {
        let metadata = event.metadata();
        if self.per_second == 0 || *metadata.level() > Level::INFO {
            return true;
        }
        let passes = self.passes(metadata.callsite(), self.begun.elapsed().as_secs());
        if !passes {
            self.left_out.fetch_add(1, Ordering::Relaxed);
            self.logs.leave_out();
            self.tell();
        }
        passes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone, Default)]
    struct Written(Arc<Mutex<Vec<u8>>>);

    impl std::io::Write for Written {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().expect("nobody panics").extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn lines_of_one_kind_are_limited_and_others_are_not() {
        let written = Written::default();
        let writer = written.clone();
        let lines = tracing_subscriber::fmt::layer().with_writer(move || writer.clone());
        let subscriber = tracing_subscriber::registry().with(Throttle::new(3, Logs::default())).with(lines);
        tracing::subscriber::with_default(subscriber, || {
            for _ in 0..50 {
                tracing::warn!("often");
                tracing::debug!("watched");
            }
            tracing::error!("rarely");
        });
        let text = String::from_utf8(written.0.lock().expect("nobody panics").clone()).expect("text");
        let count = |word: &str| text.matches(word).count();
        // Fifty lines may fall into two seconds.
        assert!((3..=6).contains(&count("often")), "{text}");
        assert_eq!((count("watched"), count("rarely")), (50, 1), "{text}");
    }

    /// What is logged by a subscriber with these filters, which may change.
    fn kept(configured: &str, work: impl FnOnce(&Logs)) -> Vec<String> {
        let (wanted, handle) = reload::Layer::new(filters(configured, None).expect("sound"));
        let logs = Logs::default();
        logs.control(configured, move |configured, set| {
            handle.reload(filters(configured, set)?).map_err(|error| error.to_string())
        });
        let subscriber = tracing_subscriber::registry().with(wanted).with(Keeper(logs.clone()));
        tracing::subscriber::with_default(subscriber, || work(&logs));
        logs.kept().iter().map(|line| format!("{} {} {:?}", line.target, line.message, line.fields)).collect()
    }

    #[test]
    fn the_level_changes_for_what_was_named_and_comes_back() {
        let say = || {
            tracing::debug!(target: "annals_raft::node", term = 7, name = "a", "raft");
            tracing::debug!(target: "annals_store", "store");
        };
        let lines = kept("info", |logs| {
            say();
            logs.set("raft=debug", None).expect("sound");
            say();
            logs.reset().expect("sound");
            say();
        });
        assert_eq!(lines, [r#"annals_raft::node raft [("term", "7"), ("name", "a")]"#]);
    }

    #[test]
    fn what_carries_requests_stays_silent_whatever_is_set() {
        let lines = kept("info", |logs| {
            for wanted in ["trace", "h2=trace", "info,h2=debug,rustls=trace"] {
                logs.set(wanted, None).expect("sound");
                tracing::debug!(target: "h2::codec", "a header with a password");
                tracing::trace!(target: "rustls", "a message with a key");
            }
            tracing::info!(target: "h2", "a line for everybody");
        });
        assert_eq!(lines, ["h2 a line for everybody []"]);
    }

    #[test]
    fn a_mistyped_level_is_refused() {
        for (wrong, named) in [("debgu", "debgu"), ("info,raft", "raft"), ("raft=loud", "raft=loud")] {
            let Err(why) = filters::<tracing_subscriber::Registry>("info", Some(wrong)) else { panic!("{wrong}") };
            assert!(why.contains("level") || why.contains(named), "{why}");
        }
    }
}
