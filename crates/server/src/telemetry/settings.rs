//! Where to and how much: options of the node, and the variables that OpenTelemetry's
//! specification names.
//!
//! What could never work keeps the node from starting, because it was told to send. What
//! is merely not understood is said in the log, and the default holds instead.

use std::str::FromStr as _;
use std::time::Duration;

use opentelemetry::KeyValue;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::Sampler;
use tonic::metadata::{Ascii, MetadataKey, MetadataMap, MetadataValue};

use crate::config::{Config, Signal};
use crate::version;

/// Spans that may be configured to wait: each has some KiB at most.
const QUEUE_MAX: usize = 65_536;

/// A collector to which nothing could ever be sent. The texts tell no value: it may hold
/// credentials.
#[derive(Debug, thiserror::Error)]
pub enum Unusable {
    /// Not a URL that can be called.
    #[error(
        "`{0}` is no address of an OTLP collector: write http://HOST:4317, or https:// with TLS, and no credentials"
    )]
    Endpoint(String),
    /// Not key=value.
    #[error("`{0}` holds a header that cannot be sent: write key=value,key=value, the values percent-encoded")]
    Headers(String),
    /// Not to be read, or no PEM.
    #[error("`{variable}` names no file with a certificate in PEM: {why}")]
    Certificate {
        /// The variable.
        variable: String,
        /// What is wrong.
        why: String,
    },
}

/// Where one kind of data goes.
#[derive(Clone)]
pub(super) struct Destination {
    /// `http://…` or `https://…`.
    pub(super) endpoint: String,
    /// What named it, for errors.
    pub(super) named_by: String,
    pub(super) headers: MetadataMap,
    /// One call, and each try of it.
    pub(super) timeout: Duration,
    pub(super) gzip: bool,
    /// A CA in PEM, instead of those that the system trusts.
    pub(super) certificate: Option<Vec<u8>>,
}

/// What is sent, and how.
#[derive(Clone)]
pub(super) struct Settings {
    traces: Option<Destination>,
    metrics: Option<Destination>,
    pub(super) resource: Resource,
    pub(super) sampler: Sampler,
    /// Spans that may wait.
    pub(super) queue: usize,
    /// Spans that are sent together.
    pub(super) batch: usize,
    /// How long a span waits for others at most.
    pub(super) delay: Duration,
    /// How often metrics are sent.
    pub(super) interval: Duration,
}

type Environment<'a> = dyn Fn(&str) -> Option<String> + 'a;

impl Settings {
    /// None where nothing is to be sent.
    pub(super) fn read(config: &Config, environment: &Environment<'_>) -> Result<Option<Settings>, Unusable> {
        // As specified, an empty variable is none.
        let environment = |name: &str| environment(name).filter(|value| !value.trim().is_empty());
        let disabled = environment("OTEL_SDK_DISABLED").is_some_and(|value| value.eq_ignore_ascii_case("true"));
        if config.otlp.is_empty() || disabled {
            return Ok(None);
        }
        let destination = |signal: Signal| {
            config.otlp.contains(&signal).then(|| Destination::read(signal, config, &environment)).transpose()
        };
        let queue = number(&environment, "OTEL_BSP_MAX_QUEUE_SIZE", 2_048).clamp(1, QUEUE_MAX as u64) as usize;
        let batch = number(&environment, "OTEL_BSP_MAX_EXPORT_BATCH_SIZE", 512).clamp(1, queue as u64) as usize;
        Ok(Some(Settings {
            traces: destination(Signal::Traces)?,
            metrics: destination(Signal::Metrics)?,
            resource: resource(config, &environment),
            sampler: sampler(&environment),
            queue,
            batch,
            delay: milliseconds(&environment, "OTEL_BSP_SCHEDULE_DELAY", 5_000),
            interval: milliseconds(&environment, "OTEL_METRIC_EXPORT_INTERVAL", 60_000),
        }))
    }

    pub(super) fn destination(&self, signal: Signal) -> Option<&Destination> {
        match signal {
            Signal::Traces => self.traces.as_ref(),
            Signal::Metrics => self.metrics.as_ref(),
        }
    }
}

impl Destination {
    fn read(signal: Signal, config: &Config, environment: &Environment<'_>) -> Result<Destination, Unusable> {
        // What is said of one kind of data goes before what is said of all.
        let find = |what: &str| {
            let own = format!("OTEL_EXPORTER_OTLP_{}_{what}", signal.as_str().to_ascii_uppercase());
            let all = format!("OTEL_EXPORTER_OTLP_{what}");
            environment(&own).map(|value| (own, value)).or_else(|| environment(&all).map(|value| (all, value)))
        };
        if let Some((variable, protocol)) = find("PROTOCOL").filter(|(_, protocol)| protocol.trim() != "grpc") {
            tracing::warn!(variable, protocol, "only grpc is spoken to a collector: that is used");
        }
        let (named_by, endpoint) = match &config.otlp_endpoint {
            Some(endpoint) => ("otlp_endpoint".to_owned(), endpoint.clone()),
            None => find("ENDPOINT")
                .unwrap_or_else(|| ("OTEL_EXPORTER_OTLP_ENDPOINT".to_owned(), "http://localhost:4317".to_owned())),
        };
        let endpoint = endpoint.trim().trim_end_matches('/').to_owned();
        let sound = http::Uri::from_str(&endpoint).is_ok_and(|uri| {
            let called = matches!(uri.scheme_str(), Some("http" | "https"));
            called && uri.authority().is_some_and(|authority| !authority.as_str().contains('@'))
        });
        if !sound {
            return Err(Unusable::Endpoint(named_by));
        }
        let mut headers = MetadataMap::new();
        if let Some((variable, list)) = find("HEADERS") {
            for (name, value) in pairs(&list).ok_or_else(|| Unusable::Headers(variable.clone()))? {
                let key = name.to_ascii_lowercase().parse::<MetadataKey<Ascii>>();
                let value = MetadataValue::try_from(value);
                let (Ok(key), Ok(mut value)) = (key, value) else { return Err(Unusable::Headers(variable)) };
                value.set_sensitive(true);
                headers.insert(key, value);
            }
        }
        let milliseconds = find("TIMEOUT").and_then(|(_, value)| value.trim().parse().ok()).unwrap_or(10_000);
        let certificate = match find("CERTIFICATE") {
            Some((variable, file)) => Some(
                std::fs::read(file.trim())
                    .map_err(|error| Unusable::Certificate { variable, why: error.to_string() })?,
            ),
            None => None,
        };
        Ok(Destination {
            endpoint,
            named_by,
            headers,
            timeout: Duration::from_millis(milliseconds).clamp(Duration::from_millis(1), Duration::from_secs(60)),
            gzip: find("COMPRESSION").is_some_and(|(_, value)| value.trim().eq_ignore_ascii_case("gzip")),
            certificate,
        })
    }
}

/// `key=value,key=value`, the values percent-encoded. None where it is not that.
fn pairs(list: &str) -> Option<Vec<(String, String)>> {
    let pair = |pair: &str| {
        let (name, value) = pair.split_once('=')?;
        let name = name.trim();
        (!name.is_empty()).then_some(())?;
        Some((name.to_owned(), decoded(value.trim())?))
    };
    list.split(',').map(str::trim).filter(|part| !part.is_empty()).map(pair).collect()
}

/// Without percent-encoding.
fn decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let digit = |byte: Option<u8>| char::from(byte?).to_digit(16);
        let (high, low) = (digit(rest.next())?, digit(rest.next())?);
        bytes.push(u8::try_from(high * 16 + low).ok()?);
    }
    String::from_utf8(bytes).ok()
}

/// Who sends: what is configured of it goes before what the node knows itself.
fn resource(config: &Config, environment: &Environment<'_>) -> Resource {
    let mut attributes = vec![
        KeyValue::new("service.name", "annals"),
        KeyValue::new("service.version", version::VERSION),
        KeyValue::new("service.instance.id", config.own_address()),
    ];
    let told = environment("OTEL_RESOURCE_ATTRIBUTES").map(|list| pairs(&list));
    match told {
        Some(Some(told)) => attributes.extend(told.into_iter().map(|(name, value)| KeyValue::new(name, value))),
        // As specified: all of it is left out.
        Some(None) => tracing::warn!("OTEL_RESOURCE_ATTRIBUTES is not key=value,key=value: it is left out"),
        None => {}
    }
    if let Some(name) = environment("OTEL_SERVICE_NAME") {
        attributes.push(KeyValue::new("service.name", name));
    }
    // The last of a name holds.
    Resource::builder_empty().with_attributes(attributes).build()
}

fn sampler(environment: &Environment<'_>) -> Sampler {
    let ratio = || {
        let told = environment("OTEL_TRACES_SAMPLER_ARG");
        let ratio = told.as_deref().map_or(Some(1.0), |text| text.trim().parse::<f64>().ok());
        match ratio.filter(|ratio| (0.0..=1.0).contains(ratio)) {
            Some(ratio) => Sampler::TraceIdRatioBased(ratio),
            None => {
                tracing::warn!("OTEL_TRACES_SAMPLER_ARG is no number from 0 to 1: all traces are sampled");
                Sampler::AlwaysOn
            }
        }
    };
    let by_parent = |root| Sampler::ParentBased(Box::new(root));
    match environment("OTEL_TRACES_SAMPLER").as_deref().map(str::trim) {
        Some("always_on") => Sampler::AlwaysOn,
        Some("always_off") => Sampler::AlwaysOff,
        Some("traceidratio") => ratio(),
        Some("parentbased_always_off") => by_parent(Sampler::AlwaysOff),
        Some("parentbased_traceidratio") => by_parent(ratio()),
        Some("parentbased_always_on") | None => by_parent(Sampler::AlwaysOn),
        Some(sampler) => {
            tracing::warn!(
                sampler,
                "OTEL_TRACES_SAMPLER names no sampler that is known: parentbased_always_on is used"
            );
            by_parent(Sampler::AlwaysOn)
        }
    }
}

fn number(environment: &Environment<'_>, variable: &'static str, default: u64) -> u64 {
    match environment(variable).map(|text| text.trim().parse::<u64>()) {
        Some(Ok(number)) if number > 0 => number,
        Some(_) => {
            tracing::warn!(variable, default, "not a number above 0: the default is used");
            default
        }
        None => default,
    }
}

fn milliseconds(environment: &Environment<'_>, variable: &'static str, default: u64) -> Duration {
    // A day is as good as never, and nothing overflows.
    Duration::from_millis(number(environment, variable, default).min(24 * 3_600_000))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(otlp: &[Signal], variables: &[(&str, &str)]) -> Result<Option<Settings>, Unusable> {
        let config = Config { otlp: otlp.to_vec(), ..Config::default() };
        let find =
            |name: &str| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned());
        Settings::read(&config, &find)
    }

    fn traces(variables: &[(&str, &str)]) -> Settings {
        read(&[Signal::Traces], variables).expect("usable").expect("to be sent")
    }

    #[test]
    fn nothing_is_sent_unless_it_is_configured() {
        let variables = [("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4317")];
        assert!(read(&[], &variables).expect("usable").is_none());
        assert!(read(&[Signal::Traces], &[("OTEL_SDK_DISABLED", "true")]).expect("usable").is_none());
        let only = traces(&variables);
        assert!(only.destination(Signal::Metrics).is_none());
        assert_eq!(only.destination(Signal::Traces).expect("configured").endpoint, "http://collector:4317");
    }

    #[test]
    fn what_is_said_of_one_kind_goes_before_what_is_said_of_all() {
        let settings = traces(&[
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://all:1"),
            ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "https://traces:2/"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "Authorization=Bearer%20abc, x-team = a"),
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "250"),
        ]);
        let traces = settings.destination(Signal::Traces).expect("configured");
        assert_eq!(traces.endpoint, "https://traces:2");
        assert_eq!(traces.headers.get("authorization").expect("sent"), "Bearer abc");
        assert_eq!(traces.headers.get("x-team").expect("sent"), "a");
        assert_eq!(traces.timeout, Duration::from_millis(250));
    }

    #[test]
    fn what_could_never_work_is_refused_without_telling_it() {
        for (variable, value) in [
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "collector:4317"),
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://user:hush@collector:4317"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "hush"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "a b=hush"),
            ("OTEL_EXPORTER_OTLP_CERTIFICATE", "/nowhere/hush.pem"),
        ] {
            let Err(refused) = read(&[Signal::Traces], &[(variable, value)]) else { panic!("{variable} {value}") };
            let text = refused.to_string();
            assert!(text.contains(variable) && !text.contains("hush"), "{text}");
        }
    }

    #[test]
    fn who_sends_is_told_by_the_environment_first() {
        let named = |variables: &[(&str, &str)]| {
            let resource = traces(variables).resource;
            resource.get(&opentelemetry::Key::new("service.name")).expect("a name").to_string()
        };
        assert_eq!(named(&[]), "annals");
        assert_eq!(named(&[("OTEL_RESOURCE_ATTRIBUTES", "service.name=events,zone=a%2Cb")]), "events");
        let both = [("OTEL_RESOURCE_ATTRIBUTES", "service.name=events"), ("OTEL_SERVICE_NAME", "orders")];
        assert_eq!(named(&both), "orders");
    }

    #[test]
    fn samplers_are_the_specified_ones() {
        let debug = |variables: &[(&str, &str)]| format!("{:?}", traces(variables).sampler);
        assert_eq!(debug(&[("OTEL_TRACES_SAMPLER", "always_off")]), "AlwaysOff");
        let ratio = [("OTEL_TRACES_SAMPLER", "traceidratio"), ("OTEL_TRACES_SAMPLER_ARG", "0.25")];
        assert_eq!(debug(&ratio), "TraceIdRatioBased(0.25)");
        assert_eq!(debug(&[("OTEL_TRACES_SAMPLER", "xray")]), debug(&[]));
    }

    #[test]
    fn numbers_have_bounds() {
        let settings = traces(&[("OTEL_BSP_MAX_QUEUE_SIZE", "999999999"), ("OTEL_BSP_SCHEDULE_DELAY", "0")]);
        assert_eq!((settings.queue, settings.delay), (QUEUE_MAX, Duration::from_secs(5)));
    }
}
