//! Users whose rights change while they use them (P14).
//!
//! An administrator gives and takes rights on a few streams, and now and then an
//! account itself; users append and read all the while, through every node. What they
//! were told is kept, and in the end the whole log is read, which says who had which
//! right when. `annals_checker::access` judges.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use annals_checker::access::{BY, Call, Logged, Outcome};
use annals_checker::history::NodeNumber;
use annals_proto::event_store::client::Empty;
use annals_proto::event_store::client::streams::append_req::options::ExpectedStreamRevision;
use annals_proto::event_store::client::streams::append_req::proposed_message::MetadataEntry;
use annals_proto::event_store::client::streams::append_req::{Content, Options, ProposedMessage};
use annals_proto::event_store::client::streams::append_resp::{self, success::PositionOption};
use annals_proto::event_store::client::streams::read_req::options::{
    AllOptions, CountOption, FilterOption, ReadDirection, StreamOption, StreamOptions, UuidOption, all_options,
    stream_options, uuid_option,
};
use annals_proto::event_store::client::streams::{AppendReq, ReadReq, read_req, read_resp};
use annals_proto::event_store::client::users::{CreateReq, DisableReq, EnableReq, UpdateReq};
use annals_proto::event_store::client::users::{create_req, disable_req, enable_req, update_req};
use anyhow::{Context as _, Result, bail};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{Rng as _, SeedableRng as _};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tonic::metadata::{MetadataMap, MetadataValue};
use tonic::{Code, Request, Status};

use crate::Endpoints;
use crate::calls::{as_of, identifier};
use crate::wire::Wire;

/// Who administers, and with which password the nodes were given.
pub const ADMIN: (&str, &str) = ("admin", "an-administrator");

const USERS: [(&str, &str); 2] = [("ann", "anns"), ("bob", "bobs")];
const STREAMS: usize = 6;
/// How many do what a user may do, for each user.
const HANDS: usize = 2;
const CONNECT: Duration = Duration::from_secs(1);
const CALL: Duration = Duration::from_secs(4);
const PATIENCE: Duration = Duration::from_secs(30);

/// Users at work, until they are stopped.
pub struct AccessLoad {
    endpoints: Endpoints,
    calls: Arc<Mutex<Vec<Call>>>,
    stop: watch::Sender<bool>,
    tasks: JoinSet<()>,
}

/// What became of it.
pub struct AccessSeen {
    /// The whole log.
    pub log: Vec<Logged>,
    /// What the users were told.
    pub calls: Vec<Call>,
}

fn stream(number: usize) -> String {
    format!("rights-{number}")
}

fn request<T>(message: T, (login, password): (&str, &str)) -> Request<T> {
    let mut request = Request::new(message);
    let basic = format!("Basic {}", STANDARD.encode(format!("{login}:{password}")));
    request.metadata_mut().insert("authorization", basic.parse().expect("base64 is ASCII"));
    request.set_timeout(CALL);
    request
}

/// A connection to each node, made anew when it broke.
struct Wires {
    endpoints: Endpoints,
    open: HashMap<NodeNumber, Wire>,
    rng: StdRng,
}

impl Wires {
    async fn any(&mut self) -> Option<Wire> {
        let node = *self.endpoints.nodes().choose(&mut self.rng)?;
        if let Some(wire) = self.open.get(&node) {
            return Some(wire.clone());
        }
        let wire = Wire::connect(&self.endpoints, node, CONNECT, None).await.ok()?;
        self.open.insert(node, wire.clone());
        Some(wire)
    }

    fn lost(&mut self, node: NodeNumber) {
        self.open.remove(&node);
    }
}

/// Makes the accounts and begins.
///
/// # Errors
/// The accounts could not be made in time.
pub async fn start_access(endpoints: Endpoints, seed: u64) -> Result<AccessLoad> {
    let (stop, stopped) = watch::channel(false);
    let calls = Arc::new(Mutex::new(Vec::new()));
    let mut tasks = JoinSet::new();
    let wires = |salt: u64| Wires {
        endpoints: endpoints.clone(),
        open: HashMap::new(),
        rng: StdRng::seed_from_u64(seed.wrapping_mul(31).wrapping_add(salt)),
    };
    let mut first = wires(0);
    for user in USERS {
        make(&mut first, user).await?;
    }
    tasks.spawn(administer(wires(1), stopped.clone()));
    for (number, user) in (2..).zip(USERS.into_iter().flat_map(|user| [user; HANDS])) {
        tasks.spawn(work(wires(number), user, calls.clone(), stopped.clone()));
    }
    Ok(AccessLoad { endpoints, calls, stop, tasks })
}

async fn make(wires: &mut Wires, (login, password): (&str, &str)) -> Result<()> {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        let said = match wires.any().await {
            None => "no node can be reached".to_owned(),
            Some(wire) => {
                let options = create_req::Options {
                    login_name: login.to_owned(),
                    password: password.to_owned(),
                    full_name: String::new(),
                    groups: vec!["sales".to_owned()],
                };
                match wire.users().create(request(CreateReq { options: Some(options) }, ADMIN)).await {
                    Ok(_) => return Ok(()),
                    // An attempt before, of which nothing was heard.
                    Err(status) if status.code() == Code::FailedPrecondition => return Ok(()),
                    Err(status) => status.to_string(),
                }
            }
        };
        if tokio::time::Instant::now() > deadline {
            bail!("the account {login} cannot be made: {said}");
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Gives and takes.
async fn administer(mut wires: Wires, stopped: watch::Receiver<bool>) {
    while !*stopped.borrow() {
        let pause = Duration::from_millis(wires.rng.random_range(10..60));
        let Some(wire) = wires.any().await else {
            tokio::time::sleep(pause).await;
            continue;
        };
        let login = USERS[wires.rng.random_range(0..USERS.len())].0.to_owned();
        let done = match wires.rng.random_range(0..12) {
            0 => {
                let options = Some(disable_req::Options { login_name: login });
                wire.users().disable(request(DisableReq { options }, ADMIN)).await.map(|_| ())
            }
            1 | 2 => {
                let options = Some(enable_req::Options { login_name: login });
                wire.users().enable(request(EnableReq { options }, ADMIN)).await.map(|_| ())
            }
            3 => {
                let groups = if wires.rng.random_bool(0.5) { vec!["sales".to_owned()] } else { Vec::new() };
                let options = update_req::Options { login_name: login, groups, ..Default::default() };
                wire.users().update(request(UpdateReq { options: Some(options) }, ADMIN)).await.map(|_| ())
            }
            _ => {
                let stream = stream(wires.rng.random_range(0..STREAMS));
                let mut acl = serde_json::Map::new();
                for right in ["$r", "$w"] {
                    let list = [json!([]), json!("sales"), json!(["ann"]), json!("bob"), json!("$all"), Value::Null];
                    let list = &list[wires.rng.random_range(0..list.len())];
                    if !list.is_null() {
                        acl.insert(right.to_owned(), list.clone());
                    }
                }
                append(&wire, ADMIN, &format!("$${stream}"), "$metadata", &json!({ "$acl": acl })).await.map(|_| ())
            }
        };
        if done.is_err_and(|status| is_broken(&status)) {
            wires.lost(wire.node);
        }
        tokio::time::sleep(pause).await;
    }
}

/// Does what a user may do, and what not.
async fn work(
    mut wires: Wires,
    user: (&'static str, &'static str),
    calls: Arc<Mutex<Vec<Call>>>,
    stopped: watch::Receiver<bool>,
) {
    while !*stopped.borrow() {
        let Some(wire) = wires.any().await else {
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        let stream = stream(wires.rng.random_range(0..STREAMS));
        let writes = wires.rng.random_bool(0.6);
        let linearizable = wires.rng.random_bool(0.5);
        let done = if writes {
            append(&wire, user, &stream, "T", &json!({ BY: user.0 })).await.map(Outcome::Written)
        } else {
            shown(&wire, user, &stream, linearizable).await.map(Outcome::Shown)
        };
        let outcome = done.unwrap_or_else(|status| {
            if is_broken(&status) {
                wires.lost(wire.node);
            }
            match (status.code(), as_of(status.metadata())) {
                (Code::PermissionDenied, Some(at)) if writes => Outcome::Denied(at),
                (Code::PermissionDenied, _) => Outcome::Hidden,
                (Code::Unauthenticated, _) => Outcome::Nobody,
                _ => Outcome::Unknown,
            }
        });
        calls.lock().push(Call { user: user.0.to_owned(), stream, outcome });
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// Whether the connection is of no use any more.
fn is_broken(status: &Status) -> bool {
    std::error::Error::source(status).is_some() || status.code() == Code::Cancelled
}

async fn append(wire: &Wire, who: (&str, &str), stream: &str, kind: &str, data: &Value) -> Result<u64, Status> {
    let options = Options {
        stream_identifier: identifier(stream),
        expected_stream_revision: Some(ExpectedStreamRevision::Any(Empty {})),
    };
    let id = annals_proto::event_store::client::Uuid {
        value: Some(annals_proto::event_store::client::uuid::Value::String(uuid::Uuid::new_v4().to_string())),
    };
    let event = ProposedMessage {
        id: Some(id),
        metadata: vec![
            MetadataEntry::new("type", kind.to_owned()),
            MetadataEntry::new("content-type", "application/json"),
        ],
        custom_metadata: bytes::Bytes::new(),
        data: data.to_string().into(),
    };
    let messages = [Content::Options(options), Content::ProposedMessage(event)];
    let messages = messages.map(|content| AppendReq { content: Some(content) });
    let answer = wire.streams().append(request(tokio_stream::iter(messages), who)).await?.into_inner();
    match answer.result {
        Some(append_resp::Result::Success(success)) => match success.position_option {
            Some(PositionOption::Position(position)) => Ok(position.commit_position),
            Some(PositionOption::NoPosition(_)) | None => Err(Status::unknown("no position")),
        },
        Some(append_resp::Result::WrongExpectedVersion(_)) | None => Err(Status::unknown("refused")),
    }
}

/// Reads a stream to its end; as of when it was shown.
async fn shown(wire: &Wire, who: (&str, &str), stream: &str, linearizable: bool) -> Result<u64, Status> {
    let from = stream_options::RevisionOption::End(Empty {});
    let option = StreamOptions { stream_identifier: identifier(stream), revision_option: Some(from) };
    let mut request = request(query(StreamOption::Stream(option), ReadDirection::Backwards, 5), who);
    if linearizable {
        request.metadata_mut().insert("annals-consistency", MetadataValue::from_static("linearizable"));
    }
    let answer = wire.streams().read(request).await?;
    let at = position(answer.metadata())?;
    let mut messages = answer.into_inner();
    while messages.message().await?.is_some() {}
    Ok(at)
}

fn position(metadata: &MetadataMap) -> Result<u64, Status> {
    as_of(metadata).ok_or_else(|| Status::unknown("an answer does not say as of when"))
}

fn query(stream_option: StreamOption, direction: ReadDirection, count: u64) -> ReadReq {
    ReadReq {
        options: Some(read_req::Options {
            read_direction: direction.into(),
            resolve_links: false,
            uuid_option: Some(UuidOption { content: Some(uuid_option::Content::String(Empty {})) }),
            control_option: None,
            stream_option: Some(stream_option),
            count_option: Some(CountOption::Count(count)),
            filter_option: Some(FilterOption::NoFilter(Empty {})),
        }),
    }
}

impl AccessLoad {
    /// Ends the work and reads the whole log.
    ///
    /// # Errors
    /// It could not be read in time.
    pub async fn stop(mut self) -> Result<AccessSeen> {
        self.stop.send_replace(true);
        while self.tasks.join_next().await.is_some() {}
        let deadline = tokio::time::Instant::now() + PATIENCE;
        let log = loop {
            match self.read_log().await {
                Ok(log) => break log,
                Err(error) if tokio::time::Instant::now() > deadline => return Err(error),
                Err(_) => tokio::time::sleep(Duration::from_millis(200)).await,
            }
        };
        let calls = std::mem::take(&mut *self.calls.lock());
        Ok(AccessSeen { log, calls })
    }

    async fn read_log(&self) -> Result<Vec<Logged>> {
        let node = *self.endpoints.nodes().first().context("there is no node")?;
        let wire = Wire::connect(&self.endpoints, node, CONNECT, None).await?;
        let option = AllOptions { all_option: Some(all_options::AllOption::Start(Empty {})) };
        let message = query(StreamOption::All(option), ReadDirection::Forwards, u64::MAX >> 1);
        let mut request = request(message, ADMIN);
        request.set_timeout(PATIENCE);
        request.metadata_mut().insert("annals-consistency", MetadataValue::from_static("linearizable"));
        let mut messages = wire.streams().read(request).await?.into_inner();
        let mut log = Vec::new();
        while let Some(message) = messages.message().await? {
            let Some(read_resp::Content::Event(event)) = message.content else { continue };
            let event = event.event.context("an event without an event")?;
            let stream = event.stream_identifier.context("an event without a stream")?.stream_name;
            log.push(Logged {
                position: event.commit_position,
                stream: String::from_utf8(stream.to_vec())?,
                data: serde_json::from_slice(&event.data).unwrap_or(Value::Null),
            });
        }
        Ok(log)
    }
}
