//! A node of one whose files rot while it is stopped (F9), one file at a time,
//! and what it makes of each.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use serde::{Deserialize, Serialize};

use crate::corruption::{Damage, Part, corrupt};
use crate::ledger::Ledger;
use crate::node::{Node, Options, Started};
use crate::tools;

const PATIENCE: Duration = Duration::from_secs(20);
const EVENTS: usize = 600;
const EVENT_BYTES: usize = 400;

/// What a node made of a damaged file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Made {
    /// It refused to start, saying this.
    Refused(String),
    /// It served all that it had acknowledged.
    Served,
    /// It started, but a read was answered with this error, or it ended.
    Noticed(String),
    /// It served something else: never allowed.
    Wrong(Vec<String>),
    /// It neither served nor ended, or ended without a message: never allowed.
    Unclear(String),
}

/// One damage and its consequence.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Case {
    /// What was damaged.
    pub part: Part,
    /// How.
    pub damage: Damage,
    /// Where it was chosen from.
    pub seed: u64,
    /// For people.
    pub detail: String,
    /// What the node made of it.
    pub made: Made,
}

impl Case {
    /// Whether that must never happen.
    pub fn is_failure(&self) -> bool {
        match &self.made {
            Made::Refused(why) => why.trim().is_empty(),
            Made::Served | Made::Noticed(_) => false,
            Made::Wrong(_) | Made::Unclear(_) => true,
        }
    }
}

/// How the node of a specimen ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// It was stopped: the witness says all that was acknowledged.
    Orderly,
    /// It was killed when nothing had been written for so long. The witness
    /// lags by up to a second: with less, the end of the log can be cut off
    /// without a trace, as `docs/storage-format.md` says.
    KilledAfter(Duration),
}

/// A node's data, with a log and with tables of the state, to be damaged again and
/// again.
pub struct Specimen {
    directory: PathBuf,
    options: Options,
    ledger: Ledger,
}

impl Specimen {
    /// Makes it in a directory.
    ///
    /// # Errors
    /// The node does not do what it must even without a fault.
    pub fn make(binary: &Path, directory: &Path, ending: Ending) -> Result<Specimen> {
        std::fs::create_dir_all(directory)?;
        let mut options = Options::new(binary, directory)?;
        options.data = directory.join("specimen");
        let mut ledger = Ledger::default();
        // Twice, so that what is damaged was read back and gone on with before.
        for round in 0..2 {
            let mut node = Node::start(&options)?;
            let started = node.wait_ready(PATIENCE)?;
            let Started::Ready(_) = started else { bail!("the node does not start: {started:?}") };
            for _ in 0..EVENTS / 2 {
                let sent = ledger.next(EVENT_BYTES);
                ledger.acked(node.append(&sent.stream, sent.id, sent.data, PATIENCE)?);
            }
            match ending {
                Ending::KilledAfter(quiet) if round == 1 => {
                    std::thread::sleep(quiet);
                    node.kill();
                }
                Ending::KilledAfter(_) | Ending::Orderly => {
                    node.terminate(PATIENCE)?.context("the node does not stop")?;
                }
            }
        }
        Ok(Specimen { directory: directory.to_owned(), options, ledger })
    }

    /// Damages a copy and starts a node on it; none when there is nothing to
    /// damage. The copy is removed.
    ///
    /// # Errors
    /// The case could not be carried out.
    pub fn try_damage(&self, part: Part, damage: Damage, seed: u64) -> Result<Option<Case>> {
        let data = self.directory.join("copy");
        if data.exists() {
            std::fs::remove_dir_all(&data)?;
        }
        tools::run("cp", &["-r".as_ref(), self.options.data.as_os_str(), data.as_os_str()])?;
        let Some(done) = corrupt(&data, part, damage, seed)? else { return Ok(None) };
        let options = Options { data: data.clone(), ..self.options.clone() };
        let made = self.watch(&options)?;
        std::fs::remove_dir_all(&data)?;
        Ok(Some(Case { part, damage, seed, detail: done.to_string(), made }))
    }

    /// Damages the files of a node that runs, then reads through it.
    ///
    /// # Errors
    /// The case could not be carried out.
    pub fn try_damage_running(&self, part: Part, damage: Damage, seed: u64) -> Result<Option<Case>> {
        let data = self.directory.join("copy");
        if data.exists() {
            std::fs::remove_dir_all(&data)?;
        }
        tools::run("cp", &["-r".as_ref(), self.options.data.as_os_str(), data.as_os_str()])?;
        let options = Options { data: data.clone(), ..self.options.clone() };
        let mut node = Node::start(&options)?;
        let started = node.wait_ready(PATIENCE)?;
        let Started::Ready(_) = started else { bail!("the node does not start: {started:?}") };
        let Some(done) = corrupt(&data, part, damage, seed)? else { return Ok(None) };
        let running = self.read(&mut node)?;
        node.kill();
        // What it did not notice it meets at the next start.
        let made = if running == Made::Served { self.watch(&options)? } else { running };
        std::fs::remove_dir_all(&data)?;
        Ok(Some(Case { part, damage, seed, detail: format!("while running: {done}"), made }))
    }

    fn watch(&self, options: &Options) -> Result<Made> {
        let mut node = Node::start(options)?;
        Ok(match node.wait_ready(PATIENCE)? {
            Started::Exited { message, .. } => Made::Refused(message),
            Started::NotReady { message } => Made::Unclear(format!("not ready: {message}")),
            Started::Ready(_) => self.read(&mut node)?,
        })
    }

    fn read(&self, node: &mut Node) -> Result<Made> {
        let made = match node.read_all(PATIENCE) {
            Err(error) => {
                // If it ends, it says more than the broken connection.
                match node.wait_exit(Duration::from_millis(300))? {
                    Some(_) => Made::Noticed(format!("it ended: {}", node.message())),
                    None => Made::Noticed(format!("{error:#}")),
                }
            }
            Ok(events) => match self.ledger.verify(&events) {
                wrong if wrong.is_empty() => Made::Served,
                wrong => Made::Wrong(wrong),
            },
        };
        Ok(made)
    }
}
