//! Streams that are deleted, truncated and restored while scavenges run.
//!
//! Each stream has one writer. It sends everything under an exact expectation, again and
//! again until it is acknowledged, so that in the end nothing is of unknown fate and
//! each event of the log is known. One process starts scavenges and now and then stops
//! one; another one looks at the log and at an index, linearizably and without end.
//! `annals_checker::scavenge` judges.

use std::sync::Arc;
use std::time::Duration;

use annals_checker::history::{Direction, Expected, Outcome, Reason, Retention, Seen, Target};
use annals_checker::scavenge::{Record, Shown};
use annals_proto::annals::v1::scavenge_reply::Phase;
use annals_proto::annals::v1::{ScavengeReply, ScavengeStatusRequest};
use annals_proto::event_store::client::operations::scavenge_resp::ScavengeResult;
use annals_proto::event_store::client::operations::{
    StartScavengeReq, StopScavengeReq, start_scavenge_req, stop_scavenge_req,
};
use annals_proto::event_store::client::streams::read_req::options::CountOption;
use annals_proto::event_store::client::streams::read_resp;
use anyhow::{Context as _, Result, bail, ensure};
use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::Instant;
use tonic::metadata::MetadataValue;

use crate::calls::{Draft, How, Terms, append, as_of, delete, request, seen};
use crate::payload::{Event, Generation, fresh_id, metastream};
use crate::wire::{Connections, Contact, Wire};
use crate::{Endpoints, Recorder, hashes};

/// Streams of each kind.
const STREAMS: usize = 2;
/// What their names begin with: their category, and so their index.
const PREFIX: &str = "scavenged-";
const INDEX: &str = "$ce-scavenged";
const EVENT_BYTES: usize = 200;

const CONNECT: Duration = Duration::from_secs(1);
const CALL: Duration = Duration::from_secs(3);
const READ: Duration = Duration::from_secs(20);
const PAUSE: Duration = Duration::from_millis(50);
/// Until a call has been acknowledged, or a scavenge has come to its end.
const PATIENCE: Duration = Duration::from_secs(90);

/// What becomes of the events of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// They stay.
    Kept,
    /// They are deleted softly, and others follow.
    Deleted,
    /// They are truncated away, and sometimes restored.
    Truncated,
    /// Only the newest count, except sometimes.
    Counted,
}

/// Writers, scavenges and views, until they are stopped.
pub struct ScavengeLoad {
    shared: Shared,
    seed: u64,
    stop: watch::Sender<bool>,
    writers: JoinSet<Result<()>>,
    scavenges: JoinHandle<Result<()>>,
    views: JoinHandle<()>,
}

#[derive(Clone)]
struct Shared {
    endpoints: Endpoints,
    recorder: Recorder,
    records: Arc<Mutex<Vec<Record>>>,
}

impl Shared {
    fn note(&self, record: Record) {
        self.records.lock().push(record);
    }

    fn caller(&self, seed: u64, number: u32) -> Caller {
        Caller {
            shared: self.clone(),
            connections: Connections::new(self.endpoints.clone(), CONNECT),
            rng: StdRng::seed_from_u64(seed.wrapping_mul(31).wrapping_add(u64::from(number))),
            terms: Terms { process: number, timeout: CALL, tell_deadline: true, requires_leader: false },
        }
    }
}

/// Begins.
pub fn start_scavenges(endpoints: Endpoints, recorder: Recorder, seed: u64) -> ScavengeLoad {
    let shared = Shared { endpoints, recorder, records: Arc::default() };
    let (stop, stopped) = watch::channel(false);
    let mut writers = JoinSet::new();
    let kinds = [Kind::Kept, Kind::Deleted, Kind::Truncated, Kind::Counted];
    for (number, kind) in (2..).zip(kinds.into_iter().flat_map(|kind| [kind; STREAMS])) {
        let stream: Arc<str> = format!("{PREFIX}{number}").into();
        let caller = shared.caller(seed, number);
        let writer = Writer { caller, stream, next: 0, metadata: None, below: 0, is_deleted: false };
        writers.spawn(writer.run(kind, stopped.clone()));
    }
    let scavenges = tokio::spawn(shared.caller(seed, 0).scavenge_on_and_on(stopped.clone()));
    let views = tokio::spawn(shared.caller(seed, 1).view_on_and_on(stopped));
    ScavengeLoad { shared, seed, stop, writers, scavenges, views }
}

impl ScavengeLoad {
    /// Ends the work, scavenges once more, looks at every node, and tells everything.
    /// All faults must be over.
    ///
    /// # Errors
    /// Something was refused that must not be, or did not come to its end in time.
    pub async fn stop(mut self) -> Result<Vec<Record>> {
        self.stop.send_replace(true);
        while let Some(writer) = self.writers.join_next().await {
            writer.context("a writer panicked")??;
        }
        self.scavenges.await.context("the scavenges panicked")??;
        self.views.await.context("the views panicked")?;
        let mut last = self.shared.caller(self.seed, u32::MAX);
        last.scavenge(false).await?;
        last.look_at_all().await?;
        Ok(std::mem::take(&mut *self.shared.records.lock()))
    }
}

/// Who makes calls, one after the other.
struct Caller {
    shared: Shared,
    connections: Connections,
    rng: StdRng,
    terms: Terms,
}

/// What is read.
#[derive(Clone, Copy, Debug)]
enum View {
    All,
    Index,
}

impl View {
    fn name(self) -> &'static str {
        match self {
            View::All => "$all",
            View::Index => INDEX,
        }
    }

    fn target(self) -> Target {
        match self {
            View::All => Target::All { prefixes: vec![PREFIX.to_owned()] },
            View::Index => Target::Stream(INDEX.into()),
        }
    }
}

impl Caller {
    fn now(&self) -> u64 {
        self.shared.recorder.now()
    }

    /// A connection to some node; none if there is none now.
    async fn any(&mut self) -> Option<Wire> {
        let node = self.shared.endpoints.choose(&mut self.rng)?;
        self.connections.to(node).await.ok()
    }

    async fn view_on_and_on(mut self, stopped: watch::Receiver<bool>) {
        while !*stopped.borrow() {
            let view = if self.rng.random_bool(0.5) { View::All } else { View::Index };
            if let Some(wire) = self.any().await
                && let Err(error) = self.look(&wire, view, None).await
            {
                // A node that was killed, or no quorum: the next one will tell.
                let broken =
                    error.downcast_ref::<tonic::Status>().is_none_or(|s| std::error::Error::source(s).is_some());
                self.connections.note(wire.node, if broken { Contact::Broken } else { Contact::Answered });
            }
            tokio::time::sleep(Duration::from_millis(self.rng.random_range(50..300))).await;
        }
    }

    /// Every node, linearizably and by itself.
    async fn look_at_all(&mut self) -> Result<()> {
        let mut tail = 0;
        for node in self.shared.endpoints.nodes() {
            let wire = self.connections.to(node).await?;
            tail = tail.max(hashes::status(&wire).await?.tail);
        }
        for node in self.shared.endpoints.nodes() {
            let wire = self.connections.to(node).await?;
            for local in [None, Some(tail)] {
                for view in [View::All, View::Index] {
                    self.look(&wire, view, local).await.with_context(|| format!("{view:?} of node {node}"))?;
                }
            }
        }
        Ok(())
    }

    /// Reads everything from a node: linearizably, or what it has itself once it is
    /// this far. Records it.
    async fn look(&mut self, wire: &Wire, view: View, local: Option<u64>) -> Result<()> {
        let deadline = Instant::now() + READ;
        loop {
            let invoke = self.now();
            let read = tokio::time::timeout(READ, read(wire, view, local.is_none())).await;
            let (events, at) = read.context("no answer in time")??;
            if local.is_some_and(|tail| at < tail) {
                ensure!(Instant::now() < deadline, "node {} stays at {at}", wire.node);
                tokio::time::sleep(PAUSE).await;
                continue;
            }
            let what = match local {
                None => view.name().to_owned(),
                Some(_) => format!("{} by itself", view.name()),
            };
            self.shared.note(Record::View { node: wire.node, what, invoke, complete: self.now(), events });
            return Ok(());
        }
    }

    async fn scavenge_on_and_on(mut self, stopped: watch::Receiver<bool>) -> Result<()> {
        while !*stopped.borrow() {
            tokio::time::sleep(Duration::from_millis(self.rng.random_range(200..1_000))).await;
            let stops = self.rng.random_bool(0.2);
            self.scavenge(stops).await?;
        }
        Ok(())
    }

    /// Starts one, by whatever node, and waits for its end; now and then stops it.
    async fn scavenge(&mut self, stops: bool) -> Result<()> {
        let invoke = self.now();
        let deadline = Instant::now() + PATIENCE;
        // Nobody else starts any: one that is under way was started by an answer of
        // which nothing was heard.
        let id = loop {
            if let Some(id) = self.start().await {
                break id;
            }
            ensure!(Instant::now() < deadline, "no scavenge could be started");
            tokio::time::sleep(PAUSE).await;
        };
        if stops {
            tokio::time::sleep(Duration::from_millis(self.rng.random_range(0..500))).await;
            if let Some(wire) = self.any().await {
                let options = Some(stop_scavenge_req::Options { scavenge_id: id.clone() });
                // What came of it the status says.
                let _ = tokio::time::timeout(CALL, wire.operations().stop_scavenge(StopScavengeReq { options })).await;
            }
        }
        loop {
            let told = self.status().await;
            let of_it = told.filter(|told| told.scavenge == id);
            match of_it.map(|told| told.phase()) {
                Some(Phase::Completed) => {
                    self.shared.note(Record::Scavenge { invoke, complete: Some(self.now()) });
                    return Ok(());
                }
                Some(Phase::Stopped) => {
                    self.shared.note(Record::Scavenge { invoke, complete: None });
                    return Ok(());
                }
                Some(Phase::Running | Phase::Unspecified) | None => {}
            }
            ensure!(Instant::now() < deadline, "the scavenge {id} did not come to its end");
            tokio::time::sleep(PAUSE).await;
        }
    }

    async fn start(&mut self) -> Option<String> {
        let wire = self.any().await?;
        let options = Some(start_scavenge_req::Options { thread_count: 1, start_from_chunk: 0 });
        let mut operations = wire.operations();
        let answer = tokio::time::timeout(CALL, operations.start_scavenge(StartScavengeReq { options })).await;
        match answer {
            Ok(Ok(answer)) => {
                let answer = answer.into_inner();
                let runs = matches!(answer.scavenge_result(), ScavengeResult::Started | ScavengeResult::InProgress);
                runs.then_some(answer.scavenge_id)
            }
            Ok(Err(status)) => {
                let broken = std::error::Error::source(&status).is_some();
                self.connections.note(wire.node, if broken { Contact::Broken } else { Contact::Answered });
                None
            }
            Err(_) => {
                self.connections.note(wire.node, Contact::Silent);
                None
            }
        }
    }

    async fn status(&mut self) -> Option<ScavengeReply> {
        let wire = self.any().await?;
        let mut cluster = wire.cluster();
        let answer = tokio::time::timeout(CALL, cluster.scavenge_status(ScavengeStatusRequest {})).await;
        match answer {
            Ok(Ok(answer)) => Some(answer.into_inner()),
            Ok(Err(_)) | Err(_) => {
                self.connections.note(wire.node, Contact::Broken);
                None
            }
        }
    }
}

/// The only one that writes to its stream.
struct Writer {
    caller: Caller,
    stream: Arc<str>,
    /// The revision of its next event.
    next: u64,
    /// The revision of its newest metadata, where this writer sets any.
    metadata: Option<u64>,
    /// What is hidden.
    below: u64,
    is_deleted: bool,
}

impl Writer {
    async fn run(mut self, kind: Kind, stopped: watch::Receiver<bool>) -> Result<()> {
        let mut count = None;
        while !*stopped.borrow() {
            let changes = self.next > 0 && !self.is_deleted && self.caller.rng.random_bool(0.25);
            match kind {
                Kind::Deleted if changes => self.delete().await?,
                Kind::Truncated if changes => {
                    let restores = self.below > 0 && self.caller.rng.random_bool(0.3);
                    let below = if restores { 0 } else { self.caller.rng.random_range(self.below..=self.next) };
                    let truncate_before = (below > 0).then_some(below);
                    self.set(Retention { truncate_before, max_count: None }, below).await?;
                }
                Kind::Counted if changes => {
                    let restores = count.is_some() && self.caller.rng.random_bool(0.3);
                    count = (!restores).then(|| self.caller.rng.random_range(1..40));
                    let below = count.map_or(0, |count| self.next.saturating_sub(count));
                    self.set(Retention { truncate_before: None, max_count: count }, below).await?;
                }
                Kind::Kept | Kind::Deleted | Kind::Truncated | Kind::Counted => self.append(count).await?,
            }
            tokio::time::sleep(Duration::from_millis(self.caller.rng.random_range(80..300))).await;
        }
        Ok(())
    }

    async fn append(&mut self, count: Option<u64>) -> Result<()> {
        let expected = match self.next.checked_sub(1) {
            Some(last) if !self.is_deleted => Expected::Revision(last),
            Some(_) | None => Expected::NoStream,
        };
        let few = self.caller.rng.random_range(1..=6_u64);
        let ids: Vec<_> = (0..few).map(|_| fresh_id(&mut self.caller.rng)).collect();
        let events: Vec<Event> = ids.into_iter().map(|id| Event::new(id, Generation::V1, EVENT_BYTES)).collect();
        let shown: Vec<_> = events.iter().map(|event| (event.proposed.id, event.proposed.digest)).collect();
        let invoke = self.caller.now();
        let (last, revision) = self.persist(Draft { stream: self.stream.clone(), expected, events }).await?;
        let complete = self.caller.now();
        let first = self.next;
        self.next = first + few;
        ensure!(revision + 1 == self.next, "{} went to {revision} where {} was next", self.stream, first);
        self.is_deleted = false;
        // An append is one piece of the log.
        let begin = (last + 1).checked_sub(few).filter(|begin| *begin > 0).context("an acknowledgement of no place")?;
        for ((position, revision), (id, digest)) in (begin..).zip(first..).zip(shown) {
            let event = Shown { position, stream: self.stream.clone(), revision, content: Some((id, digest)) };
            self.caller.shared.note(Record::Written { event, complete });
        }
        if let Some(count) = count {
            self.hide(self.next.saturating_sub(count), invoke, complete);
        }
        Ok(())
    }

    async fn set(&mut self, retention: Retention, below: u64) -> Result<()> {
        let expected = self.metadata.map_or(Expected::NoStream, Expected::Revision);
        let events = vec![Event::sets(fresh_id(&mut self.caller.rng), retention)];
        let invoke = self.caller.now();
        let (_, revision) = self.persist(Draft { stream: metastream(&self.stream), expected, events }).await?;
        self.metadata = Some(revision);
        let complete = self.caller.now();
        self.hide(below, invoke, complete);
        Ok(())
    }

    async fn delete(&mut self) -> Result<()> {
        let expected = Expected::Revision(self.next.saturating_sub(1));
        let invoke = self.caller.now();
        let deadline = Instant::now() + PATIENCE;
        let mut is_again = false;
        loop {
            if let Some(wire) = self.caller.any().await {
                let Caller { shared, terms, connections, .. } = &mut self.caller;
                let done = delete(&wire, &shared.recorder, terms, &self.stream, expected, false).await;
                connections.note(wire.node, done.contact);
                match done.outcome {
                    Outcome::Acked { .. } => break,
                    // Nobody else writes here: an attempt before was carried out.
                    Outcome::Refused {
                        reason: Reason::WrongExpectation { .. } | Reason::Tombstoned { .. }, ..
                    } if is_again => {
                        break;
                    }
                    Outcome::Refused { reason: Reason::NotTaken { .. }, .. } => {}
                    Outcome::Unknown { .. } => is_again = true,
                    Outcome::Refused { reason, .. } => bail!("the deletion of {} was refused: {reason:?}", self.stream),
                }
            }
            ensure!(Instant::now() < deadline, "{} could not be deleted", self.stream);
            tokio::time::sleep(PAUSE).await;
        }
        self.is_deleted = true;
        let complete = self.caller.now();
        self.hide(self.next, invoke, complete);
        Ok(())
    }

    fn hide(&mut self, below: u64, invoke: u64, complete: u64) {
        self.below = below;
        self.caller.shared.note(Record::Hidden { stream: self.stream.clone(), below, invoke, complete });
    }

    /// Sends it until it is acknowledged: the position and revision of its last event.
    async fn persist(&mut self, draft: Draft) -> Result<(u64, u64)> {
        let drafts = [draft];
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(wire) = self.caller.any().await {
                let Caller { shared, terms, connections, .. } = &mut self.caller;
                let done = append(&wire, &shared.recorder, terms, How::Append, &drafts).await;
                connections.note(wire.node, done.contact);
                match done.outcome {
                    Outcome::Acked { position, revisions } => {
                        return Ok((position, *revisions.last().context("no revision")?));
                    }
                    Outcome::Refused { reason: Reason::NotTaken { .. }, .. } | Outcome::Unknown { .. } => {}
                    Outcome::Refused { reason, .. } => bail!("an append to {} was refused: {reason:?}", self.stream),
                }
            }
            ensure!(Instant::now() < deadline, "nothing could be appended to {}", self.stream);
            tokio::time::sleep(PAUSE).await;
        }
    }
}

/// All events of the streams in question, and as of when. Of the index its entries, which
/// say where an event is: their links are not followed, since what is only hidden cannot
/// be followed either.
async fn read(wire: &Wire, view: View, linearizable: bool) -> Result<(Vec<Shown>, u64)> {
    let message = request(&view.target(), Direction::Forwards, None, CountOption::Count(u64::MAX >> 1));
    let mut request = tonic::Request::new(message);
    if linearizable {
        request.metadata_mut().insert("annals-consistency", MetadataValue::from_static("linearizable"));
    }
    let answer = wire.streams().read(request).await?;
    let at = as_of(answer.metadata()).context("an answer does not say as of when")?;
    let mut messages = answer.into_inner();
    let mut events = Vec::new();
    while let Some(message) = messages.message().await? {
        let Some(read_resp::Content::Event(event)) = message.content else { continue };
        events.push(match view {
            View::All => {
                let event = seen(event).map_err(anyhow::Error::msg)?;
                let Seen { position, stream, revision, id, digest, .. } = event;
                Shown { position, stream, revision, content: Some((id, digest)) }
            }
            View::Index => {
                let entry = event.event.context("an entry of the index is none")?;
                let text = std::str::from_utf8(&entry.data).context("an entry of the index is no text")?;
                let (revision, stream) = text.split_once('@').context("an entry of the index names no place")?;
                Shown {
                    position: entry.commit_position,
                    stream: stream.into(),
                    revision: revision.parse()?,
                    content: None,
                }
            }
        });
    }
    Ok((events, at))
}
