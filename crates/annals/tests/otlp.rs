//! Traces and metrics of a running node, as a collector gets them; and appends beside a
//! collector that is not there, or that never answers.

mod support;

use std::collections::HashSet;
use std::net::TcpListener;
use std::process::{Child, Stdio};
use std::sync::{Arc, Mutex};

use annals_proto::event_store::client::streams::append_req::options::ExpectedStreamRevision;
use annals_proto::event_store::client::streams::append_req::proposed_message::MetadataEntry;
use annals_proto::event_store::client::streams::append_req::{Content, Options, ProposedMessage};
use annals_proto::event_store::client::streams::append_resp;
use annals_proto::event_store::client::streams::streams_client::StreamsClient;
use annals_proto::event_store::client::streams::{AppendReq, AppendResp};
use annals_proto::event_store::client::{Empty, StreamIdentifier, Uuid, uuid};
use opentelemetry_proto::tonic::collector::metrics::v1::metrics_service_server::{
    MetricsService, MetricsServiceServer,
};
use opentelemetry_proto::tonic::collector::metrics::v1::{ExportMetricsServiceRequest, ExportMetricsServiceResponse};
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{TraceService, TraceServiceServer};
use opentelemetry_proto::tonic::collector::trace::v1::{ExportTraceServiceRequest, ExportTraceServiceResponse};
use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::Span;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use support::{annals, eventually, free_ports, get, run, url, wait_ready};
use tokio::runtime::Runtime;
use tonic::{Request, Response, Status};

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const PARENT: &str = "b7ad6b7169203331";
const SECRET: &str = "hush-hush";

/// What a collector was sent.
#[derive(Clone, Default)]
struct Collector(Arc<Mutex<Received>>);

#[derive(Default)]
struct Received {
    traces: Vec<ExportTraceServiceRequest>,
    metrics: Vec<ExportMetricsServiceRequest>,
    keys: Vec<Option<String>>,
    /// Calls are taken and never answered.
    hangs: bool,
}

impl Collector {
    /// Serves on a port until the runtime ends.
    fn start(&self, runtime: &Runtime) -> String {
        let port = free_ports(1);
        let server = tonic::transport::Server::builder()
            .add_service(TraceServiceServer::new(self.clone()))
            .add_service(MetricsServiceServer::new(self.clone()));
        runtime.spawn(server.serve(([127, 0, 0, 1], port).into()));
        format!("http://127.0.0.1:{port}")
    }

    fn note(&self, key: Option<String>, take: impl FnOnce(&mut Received)) -> bool {
        let mut received = self.0.lock().expect("nobody panics");
        received.keys.push(key);
        take(&mut received);
        received.hangs
    }

    fn spans(&self) -> Vec<Span> {
        let received = self.0.lock().expect("nobody panics");
        let scopes = received.traces.iter().flat_map(|request| &request.resource_spans);
        scopes.flat_map(|resource| &resource.scope_spans).flat_map(|scope| scope.spans.clone()).collect()
    }

    fn calls(&self) -> usize {
        self.0.lock().expect("nobody panics").keys.len()
    }
}

fn key<T>(request: &Request<T>) -> Option<String> {
    request.metadata().get("x-key").and_then(|key| key.to_str().ok()).map(str::to_owned)
}

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        if self.note(key(&request), |received| received.traces.push(request.into_inner())) {
            std::future::pending::<()>().await;
        }
        Ok(Response::new(Default::default()))
    }
}

#[tonic::async_trait]
impl MetricsService for Collector {
    async fn export(
        &self,
        request: Request<ExportMetricsServiceRequest>,
    ) -> Result<Response<ExportMetricsServiceResponse>, Status> {
        if self.note(key(&request), |received| received.metrics.push(request.into_inner())) {
            std::future::pending::<()>().await;
        }
        Ok(Response::new(Default::default()))
    }
}

/// A node that runs until it is dropped.
struct Served {
    child: Child,
    port: u16,
    _data: tempfile::TempDir,
}

impl Served {
    fn start(arguments: &[&str], environment: &[(&str, &str)]) -> Served {
        let (port, data) = (free_ports(1), tempfile::tempdir().expect("a directory"));
        let address = format!("127.0.0.1:{port}");
        let child = annals()
            .args(["serve", "--insecure", "--listen", &address, "--bootstrap", &address, "--data"])
            .arg(data.path())
            .args(arguments)
            .envs(environment.iter().copied())
            .stderr(Stdio::null())
            .spawn()
            .expect("runs");
        wait_ready(port);
        Served { child, port, _data: data }
    }

    /// Appends an event, as a part of [`TRACE`].
    fn append(&self, runtime: &Runtime, stream: &str, expected: ExpectedStreamRevision) -> AppendResp {
        let options = Options {
            stream_identifier: Some(StreamIdentifier { stream_name: stream.as_bytes().to_vec().into() }),
            expected_stream_revision: Some(expected),
        };
        let message = ProposedMessage {
            id: Some(Uuid { value: Some(uuid::Value::String(uuid_text())) }),
            metadata: vec![MetadataEntry::new("type", SECRET), MetadataEntry::new("content-type", "application/json")],
            custom_metadata: Default::default(),
            data: SECRET.as_bytes().to_vec().into(),
        };
        let frames = [Content::Options(options), Content::ProposedMessage(message)];
        let frames = frames.map(|content| AppendReq { content: Some(content) });
        let mut request = Request::new(futures::stream::iter(frames));
        let parent = format!("00-{TRACE}-{PARENT}-01").parse().expect("a header");
        request.metadata_mut().insert("traceparent", parent);
        request.metadata_mut().insert("x-secret", SECRET.parse().expect("a header"));
        runtime.block_on(async {
            let mut client = StreamsClient::connect(format!("http://127.0.0.1:{}", self.port)).await.expect("connects");
            client.append(request).await.expect("answered").into_inner()
        })
    }

    fn append_any(&self, runtime: &Runtime) {
        let answer = self.append(runtime, "orders-secret-1", ExpectedStreamRevision::Any(Empty {}));
        assert!(matches!(answer.result, Some(append_resp::Result::Success(_))), "{answer:?}");
    }

    fn metric(&self, series: &str) -> u64 {
        let text = get(self.port, "/metrics").body;
        let line = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        line.map_or(0, |number| number.parse().expect("a number"))
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn uuid_text() -> String {
    static COUNT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
    let count = COUNT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    format!("6f0d8f3a-1111-4222-8333-{count:012}")
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn attribute<'a>(attributes: &'a [KeyValue], key: &str) -> &'a Value {
    let found = attributes.iter().find(|attribute| attribute.key == key);
    found.and_then(|found| found.value.as_ref()?.value.as_ref()).unwrap_or_else(|| panic!("no {key}: {attributes:?}"))
}

fn text(value: &str) -> Value {
    Value::StringValue(value.to_owned())
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime")
}

const SOON: [(&str, &str); 2] = [("OTEL_BSP_SCHEDULE_DELAY", "50"), ("OTEL_METRIC_EXPORT_INTERVAL", "200")];

#[test]
fn an_append_is_a_child_of_its_traceparent_and_metrics_are_those_of_the_catalogue() {
    let (runtime, collector) = (runtime(), Collector::default());
    let endpoint = collector.start(&runtime);
    let mut environment = vec![
        ("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint.as_str()),
        ("OTEL_EXPORTER_OTLP_HEADERS", "x-key=a%20key"),
        ("OTEL_SERVICE_NAME", "orders"),
        ("OTEL_RESOURCE_ATTRIBUTES", "zone=a"),
        ("OTEL_TRACES_SAMPLER", "parentbased_always_off"),
    ];
    environment.extend(SOON);
    let node = Served::start(&["--set", "otlp=traces,metrics"], &environment);
    node.append_any(&runtime);
    let refused = node.append(&runtime, "orders-secret-1", ExpectedStreamRevision::NoStream(Empty {}));
    assert!(matches!(refused.result, Some(append_resp::Result::WrongExpectedVersion(_))), "{refused:?}");

    let spans = eventually("two calls and their steps", || {
        let spans = collector.spans();
        (spans.len() >= 4).then_some(spans)
    });
    assert!(spans.iter().all(|span| hex(&span.trace_id) == TRACE), "nothing else is sampled: {spans:#?}");
    let of_kind = |kind: SpanKind| spans.iter().filter(move |span| span.kind == kind as i32).collect::<Vec<_>>();
    let (calls, steps) = (of_kind(SpanKind::Server), of_kind(SpanKind::Internal));
    assert_eq!((calls.len(), steps.len()), (2, 2), "{spans:#?}");
    for call in &calls {
        assert_eq!(call.name, "event_store.client.streams.Streams/Append");
        assert_eq!(hex(&call.parent_span_id), PARENT);
        assert_eq!(*attribute(&call.attributes, "rpc.system"), text("grpc"));
        assert_eq!(*attribute(&call.attributes, "rpc.service"), text("event_store.client.streams.Streams"));
        assert_eq!(*attribute(&call.attributes, "rpc.method"), text("Append"));
        assert_eq!(*attribute(&call.attributes, "rpc.grpc.status_code"), Value::IntValue(0));
        assert_eq!(*attribute(&call.attributes, "server.address"), text("127.0.0.1"));
        assert_eq!(*attribute(&call.attributes, "server.port"), Value::IntValue(i64::from(node.port)));
        let step = steps.iter().find(|step| step.parent_span_id == call.span_id).expect("a step of this call");
        assert_eq!(step.name, "raft.propose");
        assert!(call.start_time_unix_nano <= step.start_time_unix_nano);
        assert!(step.end_time_unix_nano <= call.end_time_unix_nano);
    }
    let results: HashSet<_> =
        steps.iter().map(|step| format!("{:?}", attribute(&step.attributes, "annals.result"))).collect();
    assert_eq!(results.len(), 2, "one was applied, one refused: {results:?}");

    let metrics = eventually("metrics", || {
        let received = collector.0.lock().expect("nobody panics");
        received.metrics.last().cloned()
    });
    let resource = metrics.resource_metrics.first().expect("one");
    let attributes = &resource.resource.as_ref().expect("said").attributes;
    assert_eq!(*attribute(attributes, "service.name"), text("orders"));
    assert_eq!(*attribute(attributes, "zone"), text("a"));
    assert_eq!(*attribute(attributes, "service.instance.id"), text(&format!("127.0.0.1:{}", node.port)));
    let told: HashSet<_> =
        resource.scope_metrics.iter().flat_map(|scope| &scope.metrics).map(|metric| metric.name.clone()).collect();
    let catalogue = run(&["metrics", "list", "-o", "json"]).exits(0);
    let catalogue: HashSet<_> = names(&catalogue.out);
    assert!(told.len() > 50 && told.is_subset(&catalogue), "{:?}", told.difference(&catalogue));
    assert!(told.contains("annals_append_duration_seconds"));
    assert!(node.metric("annals_otlp_sent_total{signal=\"traces\"}") >= 4);

    let received = collector.0.lock().expect("nobody panics");
    assert!(received.keys.iter().all(|key| key.as_deref() == Some("a key")), "{:?}", received.keys);
    let all = format!("{:?} {:?}", received.traces, received.metrics);
    assert!(!all.contains(SECRET) && !all.contains("orders-secret"), "neither payloads nor names of streams");
}

/// Names of the catalogue.
fn names(page: &str) -> HashSet<String> {
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    page.split(|c| !is_name(c)).filter(|word| word.contains('_')).map(str::to_owned).collect()
}

#[test]
fn what_waits_at_a_stop_is_sent() {
    let (runtime, collector) = (runtime(), Collector::default());
    let endpoint = collector.start(&runtime);
    let environment = [("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint.as_str()), ("OTEL_BSP_SCHEDULE_DELAY", "3600000")];
    let mut node = Served::start(&["--set", "otlp=traces"], &environment);
    node.append_any(&runtime);
    assert_eq!(collector.calls(), 0, "it waits for others");
    support::signal(node.child.id(), "TERM");
    assert!(node.child.wait().expect("waited for").success());
    assert!(collector.spans().iter().any(|span| hex(&span.trace_id) == TRACE));
}

#[test]
fn nothing_is_sent_unless_configured() {
    let (runtime, collector) = (runtime(), Collector::default());
    let endpoint = collector.start(&runtime);
    let mut environment = vec![("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint.as_str())];
    environment.extend(SOON);
    let mut node = Served::start(&[], &environment);
    node.append_any(&runtime);
    support::signal(node.child.id(), "TERM");
    // At its end at the latest it would have sent what it had.
    assert!(node.child.wait().expect("waited for").success());
    assert_eq!(collector.calls(), 0);
}

#[test]
fn a_collector_that_is_not_there_or_hangs_disturbs_no_append() {
    let runtime = runtime();
    let hanging = Collector::default();
    hanging.0.lock().expect("nobody panics").hangs = true;
    let silent = TcpListener::bind("127.0.0.1:0").expect("a port");
    let silent = format!("http://{}", silent.local_addr().expect("bound"));
    for endpoint in [hanging.start(&runtime), silent, format!("http://127.0.0.1:{}", free_ports(1))] {
        let mut environment = vec![
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "100"),
            ("OTEL_BSP_MAX_QUEUE_SIZE", "4"),
            ("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "2"),
        ];
        environment.extend(SOON);
        let endpoint = format!("otlp_endpoint={endpoint}");
        let mut node = Served::start(&["--set", "otlp=traces,metrics", "--set", &endpoint], &environment);
        for _ in 0..20 {
            node.append_any(&runtime);
        }
        let dropped =
            |reason: &str| node.metric(&format!("annals_otlp_dropped_total{{reason=\"{reason}\",signal=\"traces\"}}"));
        assert!(dropped("no_room") > 0, "{endpoint}: more than fits into the queue");
        eventually("what cannot be sent is counted", || (dropped("failed") > 0).then_some(()));
        assert_eq!(node.metric("annals_otlp_sent_total{signal=\"traces\"}"), 0);
        support::signal(node.child.id(), "TERM");
        assert!(node.child.wait().expect("waited for").success(), "{endpoint}");
    }
}

#[test]
fn a_collector_that_could_never_be_called_is_refused_at_the_start() {
    let data = tempfile::tempdir().expect("a directory");
    let node = annals()
        .args(["serve", "--insecure", "--listen", "127.0.0.1:0", "--set", "otlp=traces", "--data"])
        .arg(data.path())
        .args(["--set", "otlp_endpoint=http://ada:hush@collector:4317"])
        .output()
        .expect("runs");
    let said = String::from_utf8_lossy(&node.stderr);
    assert_eq!(node.status.code(), Some(2), "{said}");
    assert!(said.contains("otlp_endpoint") && !said.contains("hush"), "{said}");
}

#[test]
fn log_lines_of_a_traced_call_name_their_trace() {
    let runtime = runtime();
    let endpoint = format!("otlp_endpoint=http://127.0.0.1:{}", free_ports(1));
    let node = Served::start(&["--set", "otlp=traces", "--set", &endpoint], &[]);
    node.append_any(&runtime);
    // A change of the level is logged inside its call.
    run(&["node", "log-level", "store=debug", "--server", &url(node.port)]).exits(0);
    let lines = run(&["node", "logs", "--last", "0", "-o", "json", "--server", &url(node.port)]).exits(0).lines();
    let line = lines.iter().find(|line| line["message"] == "the log level was changed").expect("logged");
    let trace = line["fields"]["trace_id"].as_str().unwrap_or_else(|| panic!("{line}"));
    assert!(trace.len() == 32 && trace.chars().all(|c| c.is_ascii_hexdigit()), "{trace}");
    assert!(lines.iter().any(|line| line["fields"]["trace_id"].is_null()), "lines of no call have none");
}
