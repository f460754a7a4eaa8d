//! Consumer groups: persistent subscriptions, as the protocol calls them.
//!
//! A group is served by the node that leads, as one task ([`runner`]); every other
//! node hands calls on to it. What must outlive a leader are events ([`journal`]):
//! the definitions, each group's checkpoints and the messages it has given up. So
//! they are replicated, ordered and durable like all that is in the log, and a new
//! leader goes on where the last checkpoint says: what was delivered above it is
//! delivered again, what is below it is done.
//!
//! A node begins to serve when it leads, after a read barrier: everything that an
//! earlier leader wrote is applied then. It ends when it does not lead any more. A
//! task that has not noticed yet can write nothing: its appends need the leader, and
//! a checkpoint expects the one before it.

mod consumers;
mod definition;
mod handle;
mod journal;
mod measured;
mod replay;
mod runner;
mod source;
mod stalls;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use annals_core::{Revision, StreamName};
use annals_raft::{Phase, Role, Status};
use annals_store::{IndexName, Store};
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

pub(crate) use self::definition::{Definition, Definitions, GroupName, Selection};
pub(crate) use self::handle::{ConsumerInfo, Deliveries, Handle, Info, Who};
pub(crate) use self::journal::written;
pub(crate) use self::source::selected;
pub(crate) use self::stalls::Stalls;
use crate::blocking::blocking;
use crate::context::{Context, Shared};
use crate::status::Failure;

/// Groups that a cluster may have: each has a task and a buffer.
const GROUPS_MAX: usize = 1_000;

/// How long a new leader tries to find out what there is, until it tries again.
const BARRIER: Duration = Duration::from_secs(5);

/// How long the last checkpoints may take when a node is drained.
const SETTLE: Duration = Duration::from_secs(5);

/// The groups of a node, if it leads.
#[derive(Default)]
pub(crate) struct Groups {
    leading: Mutex<Option<Arc<Leading>>>,
    /// What is served is to be found out anew.
    again: Notify,
}

/// What a node that leads serves.
pub(crate) struct Leading {
    term: u64,
    stop: CancellationToken,
    /// Held while definitions change.
    definitions: tokio::sync::Mutex<(Option<Revision>, Definitions)>,
    handles: Mutex<BTreeMap<GroupName, Handle>>,
}

/// Serves the groups whenever this node leads and is not drained. Runs until the process
/// stops.
pub(crate) async fn run(context: Shared) {
    let mut status = context.node.watch_status();
    let mut drained = context.leaving.watch();
    loop {
        let is_drained = *drained.borrow_and_update();
        let term = leads(&status.borrow_and_update()).filter(|_| !is_drained);
        let served = context.groups.leading.lock().as_ref().map(|leading| leading.term);
        if served.is_some() && served != term {
            if is_drained {
                // While it still leads, so that the last checkpoints can be written.
                context.groups.close_all(|_| Failure::ShuttingDown).await;
            }
            context.groups.end();
        }
        if let Some(term) = term.filter(|_| served != term) {
            let begun = tokio::select! {
                biased;
                // It would wait for a quorum, in vain where all nodes stop, and the stop for it.
                () = context.stopping.cancelled() => return,
                begun = Leading::begin(&context, term) => begun,
            };
            match begun {
                Ok(leading) => *context.groups.leading.lock() = Some(leading),
                Err(failure) => {
                    tracing::warn!(failure = failure.message(), "consumer groups are not served yet");
                    tokio::time::sleep(Duration::from_millis(200)).await;
                    continue;
                }
            }
        }
        tokio::select! {
            () = context.stopping.cancelled() => {
                context.groups.close_all(|_| Failure::ShuttingDown).await;
                context.groups.end();
                return;
            }
            () = context.groups.again.notified() => context.groups.end(),
            changed = drained.changed() => if changed.is_err() { return },
            changed = status.changed() => if changed.is_err() { return },
        }
    }
}

/// The term in which a node leads.
fn leads(status: &Status) -> Option<u64> {
    (status.phase == Phase::Ready && status.role == Role::Leader).then_some(status.term)
}

impl Groups {
    /// What this node serves, if it leads.
    pub(crate) fn leading(&self) -> Option<Arc<Leading>> {
        self.leading.lock().clone()
    }

    /// Whether each group gets on, if this node serves them.
    pub(crate) fn stalls(&self) -> Vec<(GroupName, Stalls)> {
        let Some(leading) = self.leading() else { return Vec::new() };
        leading.all().into_iter().map(|(name, handle)| (name, handle.stalls())).collect()
    }

    /// Waits until a node that is drained serves none, for a while.
    pub(crate) async fn settled(&self) {
        let patience = Instant::now() + SETTLE;
        while self.leading().is_some() && Instant::now() < patience {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    fn end(&self) {
        if let Some(leading) = self.leading.lock().take() {
            leading.stop.cancel();
        }
    }

    async fn close_all(&self, why: impl Fn(&GroupName) -> Failure) {
        if let Some(leading) = self.leading() {
            leading.close_all(why).await;
        }
    }
}

impl Leading {
    async fn begin(context: &Shared, term: u64) -> Result<Arc<Leading>, Failure> {
        context.node.read_barrier(Instant::now() + BARRIER).await?;
        let store = context.node.store().clone();
        let (revision, definitions) = blocking(move || journal::load_definitions(&store)).await?;
        let stop = CancellationToken::new();
        let start = |definition: &Definition| Handle::start(context.clone(), definition.clone(), stop.clone());
        let handles = definitions.0.iter().map(|(name, definition)| (name.clone(), start(definition))).collect();
        let definitions = tokio::sync::Mutex::new((revision, definitions));
        Ok(Arc::new(Leading { term, stop, definitions, handles: Mutex::new(handles) }))
    }

    /// The term in which this node leads and serves.
    pub(crate) fn term(&self) -> u64 {
        self.term
    }

    /// The group of this name.
    ///
    /// # Errors
    /// [`Failure::GroupNotFound`].
    pub(crate) fn group(&self, name: &GroupName) -> Result<Handle, Failure> {
        self.handles.lock().get(name).cloned().ok_or_else(|| Failure::GroupNotFound(name.clone()))
    }

    /// All groups, by source and name.
    pub(crate) fn all(&self) -> Vec<(GroupName, Handle)> {
        self.handles.lock().iter().map(|(name, handle)| (name.clone(), handle.clone())).collect()
    }

    /// Defines a group and begins to serve it. Durable on return.
    ///
    /// # Errors
    /// [`Failure::GroupExists`], or what kept it from being written.
    pub(crate) async fn create(&self, context: &Shared, definition: Definition) -> Result<(), Failure> {
        let name = definition.name.clone();
        let mut held = self.definitions.lock().await;
        if held.1.0.contains_key(&name) {
            return Err(Failure::GroupExists(name));
        }
        if held.1.0.len() >= GROUPS_MAX {
            return Err(Failure::GroupFailed { name, why: format!("there are {GROUPS_MAX} groups already") });
        }
        let mut next = held.1.clone();
        next.0.insert(name.clone(), definition.clone());
        self.save(context, &mut held, next).await?;
        // Without it the stream of checkpoints keeps all of them, and nothing is wrong.
        if let Err(failure) = journal::keep_few_checkpoints(context, &name).await {
            tracing::warn!(group = %name, failure = failure.message(), "old checkpoints are not dropped");
        }
        self.handles.lock().insert(name, Handle::start(context.clone(), definition, self.stop.clone()));
        Ok(())
    }

    /// Changes how a group is served; `change` makes the new definition of the old.
    /// Its consumers are sent away.
    ///
    /// # Errors
    /// [`Failure::GroupNotFound`], or what kept it from being written.
    pub(crate) async fn update(
        &self,
        context: &Shared,
        name: &GroupName,
        change: impl FnOnce(&Definition) -> Result<Definition, Failure>,
    ) -> Result<(), Failure> {
        let mut held = self.definitions.lock().await;
        let before = held.1.0.get(name).ok_or_else(|| Failure::GroupNotFound(name.clone()))?;
        let definition = change(before)?;
        let mut next = held.1.clone();
        next.0.insert(name.clone(), definition.clone());
        self.save(context, &mut held, next).await?;
        let before = self.handles.lock().remove(name);
        if let Some(handle) = before {
            handle.close(Failure::GroupDropped(name.clone())).await;
        }
        self.handles.lock().insert(name.clone(), Handle::start(context.clone(), definition, self.stop.clone()));
        Ok(())
    }

    /// Removes a group with all that it has written. Its consumers are sent away.
    ///
    /// # Errors
    /// [`Failure::GroupNotFound`], or what kept it from being written.
    pub(crate) async fn delete(&self, context: &Shared, name: &GroupName) -> Result<(), Failure> {
        let mut held = self.definitions.lock().await;
        if !held.1.0.contains_key(name) {
            return Err(Failure::GroupNotFound(name.clone()));
        }
        let mut next = held.1.clone();
        next.0.remove(name);
        self.save(context, &mut held, next).await?;
        let before = self.handles.lock().remove(name);
        if let Some(handle) = before {
            handle.close(Failure::GroupDropped(name.clone())).await;
        }
        journal::remove(context, name).await
    }

    /// Begins all groups anew. Consumers are sent away.
    pub(crate) async fn restart(&self, context: &Shared) {
        let held = self.definitions.lock().await;
        self.close_all(|name| Failure::GroupDropped(name.clone())).await;
        let start = |definition: &Definition| Handle::start(context.clone(), definition.clone(), self.stop.clone());
        *self.handles.lock() = held.1.0.iter().map(|(name, definition)| (name.clone(), start(definition))).collect();
    }

    async fn close_all(&self, why: impl Fn(&GroupName) -> Failure) {
        let all = self.all();
        futures::future::join_all(all.iter().map(|(name, handle)| handle.close(why(name)))).await;
    }

    async fn save(
        &self,
        context: &Context,
        held: &mut (Option<Revision>, Definitions),
        next: Definitions,
    ) -> Result<(), Failure> {
        match journal::save_definitions(context, held.0, &next).await {
            Ok(revision) => {
                *held = (Some(revision), next);
                Ok(())
            }
            Err(failure) => {
                // Perhaps it was written: what counts is in the log.
                context.groups.again.notify_one();
                Err(failure)
            }
        }
    }
}

/// The last place of a source now: what "from the end" means. Blocking.
pub(crate) fn end(store: &Store, name: &GroupName) -> Result<Option<u64>, Failure> {
    if name.is_all() {
        return Ok(Some(store.tail().get()).filter(|tail| *tail > 0));
    }
    let stream = StreamName::new(name.source.clone())?;
    let broken = |error| crate::grpc::streams::page::broken(&error);
    Ok(match IndexName::parse(&stream) {
        Some(index) => store.index_len(&index).map_err(broken)?.checked_sub(1),
        None => store.head(&stream).map_err(broken)?.last.map(Revision::get),
    })
}
