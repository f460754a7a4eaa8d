//! Seeded bugs of applying that take more than a line, and what seeded bugs
//! elsewhere need to know of the store.

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::mpsc;

use annals_core::decide::decide;
use annals_core::seeded::{self, Bug};
use annals_core::{Batch, Command, Expected, Outcome};

use super::{Known, Writer};
use crate::effects::Effects;
use crate::error::Error;
use crate::store::Store;

/// What of an entry is applied: under S9 without any expectation, under S17
/// grouped by stream in the order of a hash map. With it the place that each
/// command had.
pub(super) fn rearranged(mut batch: Batch) -> (Batch, Vec<usize>) {
    if seeded::is(Bug::S9) {
        batch.commands.iter_mut().for_each(expect_anything);
    }
    if !seeded::is(Bug::S17) {
        return (batch, Vec::new());
    }
    let mut groups: HashMap<Vec<u8>, Vec<(usize, Command)>> = HashMap::new();
    for (place, command) in batch.commands.into_iter().enumerate() {
        groups.entry(first_stream(&command)).or_default().push((place, command));
    }
    let (places, commands) = groups.into_values().flatten().unzip();
    (Batch { stamped: batch.stamped, commands }, places)
}

/// Puts outcomes where their commands were.
pub(super) fn put_back(outcomes: &mut Vec<Outcome>, places: &[usize]) {
    if places.is_empty() {
        return;
    }
    let mut placed: Vec<(usize, Outcome)> = places.iter().copied().zip(outcomes.drain(..)).collect();
    placed.sort_by_key(|(place, _)| *place);
    outcomes.extend(placed.into_iter().map(|(_, outcome)| outcome));
}

fn expect_anything(command: &mut Command) {
    match command {
        Command::Append(append) => append.targets.iter_mut().for_each(|target| target.expected = Expected::Any),
        Command::Delete { expected, .. } | Command::Tombstone { expected, .. } => *expected = Expected::Any,
        Command::For { command, .. } => expect_anything(command),
        Command::AllocateNode { .. }
        | Command::StartScavenge { .. }
        | Command::Reclaim(_)
        | Command::StopScavenge { .. }
        | Command::AcquireLease(_)
        | Command::ReleaseLease { .. }
        | Command::Import(_) => {}
    }
}

fn first_stream(command: &Command) -> Vec<u8> {
    match command {
        Command::Append(append) => append.targets.first().map_or(Vec::new(), |first| first.stream.as_bytes().to_vec()),
        Command::Delete { stream, .. } | Command::Tombstone { stream, .. } => stream.as_bytes().to_vec(),
        Command::For { command, .. } => first_stream(command),
        Command::AllocateNode { .. }
        | Command::StartScavenge { .. }
        | Command::Reclaim(_)
        | Command::StopScavenge { .. }
        | Command::AcquireLease(_)
        | Command::ReleaseLease { .. }
        | Command::Import(_) => Vec::new(),
    }
}

impl Store {
    /// S9: what would become of a command if it were the next one.
    ///
    /// # Errors
    /// [`Error`].
    pub fn predict(&self, command: &Command) -> Result<Outcome, Error> {
        let writer = self.inner.writer.lock();
        let state = self.inner.state.load_full();
        let mut effects = Effects::new(&state);
        let known = Known {
            created: effects.newest_time(),
            effects: RefCell::new(&mut effects),
            remembered: &writer.remembered,
            at_hand: Vec::new(),
            looked_at: RefCell::default(),
        };
        Ok(decide(&known, command)?.outcome)
    }
}

/// S1: a second writer that runs ahead of the log's commit and writes nothing.
/// It must see every batch that is proposed, in order.
pub struct Shadow {
    batches: mpsc::SyncSender<(Batch, mpsc::SyncSender<Vec<Outcome>>)>,
}

impl Shadow {
    /// What will become of the batch that is proposed next.
    pub fn foresee(&self, batch: Batch) -> Option<Vec<Outcome>> {
        let (reply, outcomes) = mpsc::sync_channel(1);
        self.batches.send((batch, reply)).ok()?;
        outcomes.recv().ok()
    }
}

impl Store {
    /// S1: a shadow that begins behind the entry `applied`; none where another
    /// entry was the last one applied.
    pub fn shadow(&self, applied: u64) -> Option<Shadow> {
        // Nothing is applied before the shadow has its own view.
        let _writer = self.inner.writer.lock();
        let state = self.inner.state.load_full();
        if state.mark()?.index != applied {
            return None;
        }
        let mut writer = Writer::new(state.read_remembered().ok()?);
        let (batches, waiting) = mpsc::sync_channel::<(Batch, mpsc::SyncSender<Vec<Outcome>>)>(1);
        let (begun, ready) = mpsc::sync_channel(1);
        std::thread::spawn(move || {
            let mut effects = Effects::new(&state);
            let _ = begun.send(());
            while let Ok((batch, reply)) = waiting.recv() {
                let Ok(outcomes) = writer.decide_all(&state, &mut effects, batch) else { return };
                let _ = reply.send(outcomes);
            }
        });
        ready.recv().ok()?;
        Some(Shadow { batches })
    }
}
