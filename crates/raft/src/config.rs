//! What a node needs to know before it opens.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::join::Seeds;
use crate::observer::Observer;
use crate::transport::{ClearText, Connect};

/// How one node runs. Plain data: the process that reads its configuration
/// validates it, [`Config::validate`] only refuses what would not work at all.
#[derive(Clone)]
pub struct Config {
    /// The directory that this node owns. Created when missing.
    pub data: PathBuf,
    /// `host:port` under which peers and clients reach this node. It is part
    /// of the replicated membership.
    pub address: String,
    /// The addresses of all first members, this node's own among them. Empty:
    /// a node without identity waits until a cluster adopts it.
    pub bootstrap: Vec<String>,
    /// Where a node that is empty, or that never got further than an identity, looks
    /// for its cluster. None: it waits to be added by somebody else.
    pub seeds: Option<Arc<dyn Seeds>>,
    /// With so many other empty nodes, itself included, that are found through
    /// `seeds` and expect as many, a node starts a cluster. 0: never.
    pub expect: usize,
    /// What people call the node. Empty: as the host of `address`.
    pub name: String,
    /// The node follows for good and never votes.
    pub replica: bool,
    /// A replica that stops in order leaves the cluster.
    pub leave_on_shutdown: bool,
    /// A leader gives votes to learners that have caught up while the cluster has
    /// fewer voters than this. 0: only when somebody asks for it.
    pub voters_max: usize,
    /// The release that runs, told to other nodes.
    pub version: String,
    /// How the event store is tuned.
    pub store: annals_store::Options,
    /// How often a leader says that it is there.
    pub heartbeat: Duration,
    /// A follower that hears nothing for a random time between this and
    /// `election_max` asks for votes; for at least half of `election_max` it
    /// votes for nobody else, and a leader that cannot reach a quorum for as
    /// long takes no appends.
    pub election_min: Duration,
    /// See `election_min`.
    pub election_max: Duration,
    /// Bytes of commands that may wait in the leader, proposed ones included.
    /// Above it appends wait, and are refused at their deadline.
    pub append_queue_bytes: usize,
    /// Bytes of the applied log that are kept for followers that were away
    /// for a while. Whoever is further behind pulls records instead.
    pub log_keep_bytes: u64,
    /// Entries of the applied log that are kept, as `log_keep_bytes`; the
    /// smaller of both counts.
    pub log_keep_entries: u64,
    /// Bytes of records that are sent per second, at most, to each node that pulls them;
    /// at least 1 MiB.
    pub catch_up_bytes_per_second: u64,
    /// Entries that may be applied but not flushed before the state is
    /// flushed, which is what lets the log be purged.
    pub flush_entries: u64,
    /// Bytes of such entries.
    pub flush_bytes: u64,
    /// Appends are refused while the disk has fewer bytes free.
    pub disk_reserve_bytes: u64,
    /// How peers are connected to: without TLS by default.
    pub connect: Arc<dyn Connect>,
    /// A leader hands over to a voter that has caught up and whose priority is
    /// higher. [`crate::Node::set_priority`] changes it.
    pub priority: i32,
    /// Who wants to know what happens, typically metrics.
    pub observer: Arc<dyn Observer>,
}

impl Config {
    /// A node with the default of everything else.
    pub fn new(data: impl Into<PathBuf>, address: impl Into<String>) -> Self {
        Config {
            data: data.into(),
            address: address.into(),
            bootstrap: Vec::new(),
            seeds: None,
            expect: 0,
            name: String::new(),
            replica: false,
            leave_on_shutdown: false,
            voters_max: 0,
            version: String::new(),
            store: annals_store::Options::default(),
            heartbeat: Duration::from_millis(250),
            election_min: Duration::from_millis(1_000),
            election_max: Duration::from_millis(2_000),
            append_queue_bytes: 64 * 1024 * 1024,
            log_keep_bytes: 256 * 1024 * 1024,
            log_keep_entries: 100_000,
            catch_up_bytes_per_second: 64 * 1024 * 1024,
            flush_entries: 50_000,
            flush_bytes: 64 * 1024 * 1024,
            disk_reserve_bytes: 1024 * 1024 * 1024,
            connect: Arc::new(ClearText),
            priority: 0,
            observer: Arc::new(()),
        }
    }

    /// Refuses what could not work.
    ///
    /// # Errors
    /// [`InvalidConfig`] says what to change.
    pub fn validate(&self) -> Result<(), InvalidConfig> {
        let invalid = |why: String| Err(InvalidConfig(why));
        if !is_address(&self.address) {
            return invalid(format!("the node's address {:?} is not host:port", self.address));
        }
        if let Some(address) = self.bootstrap.iter().find(|address| !is_address(address)) {
            return invalid(format!("the bootstrap address {address:?} is not host:port"));
        }
        if !self.bootstrap.is_empty() && !self.bootstrap.contains(&self.address) {
            return invalid(format!("the node's own address {} is not among the bootstrap addresses", self.address));
        }
        let mut sorted = self.bootstrap.clone();
        sorted.sort();
        if let Some(pair) = sorted.windows(2).find(|pair| pair[0] == pair[1]) {
            return invalid(format!("the bootstrap address {} is listed twice", pair[0]));
        }
        if !self.bootstrap.is_empty() && self.seeds.is_some() {
            return invalid("a node is given the list of all first members, or seeds to find them by, not both".into());
        }
        if self.heartbeat.is_zero() || self.election_min <= self.heartbeat * 2 || self.election_max <= self.election_min
        {
            return invalid(format!(
                "heartbeat {:?}, election_min {:?} and election_max {:?}: election_min must be more than twice the heartbeat and below election_max",
                self.heartbeat, self.election_min, self.election_max
            ));
        }
        if self.catch_up_bytes_per_second < 1024 * 1024 {
            return invalid(format!(
                "catch_up_bytes_per_second is {}: with less than 1048576 (1 MiB) a node that pulls would take the \
                 silence for a broken connection",
                self.catch_up_bytes_per_second
            ));
        }
        if self.append_queue_bytes == 0 {
            return invalid("append_queue_bytes is 0: no append could ever be accepted".into());
        }
        Ok(())
    }
}

pub(crate) fn is_address(text: &str) -> bool {
    text.rsplit_once(':')
        .is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok_and(|port| port != 0))
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config")
            .field("data", &self.data)
            .field("address", &self.address)
            .field("bootstrap", &self.bootstrap)
            .finish_non_exhaustive()
    }
}

/// Why a configuration cannot work.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidConfig(String);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_without_a_port_is_refused() {
        let error = Config::new("/tmp/x", "somewhere").validate().expect_err("no port");
        assert_eq!(error.to_string(), "the node's address \"somewhere\" is not host:port");
    }

    #[test]
    fn a_bootstrap_list_without_the_node_itself_is_refused() {
        let mut config = Config::new("/tmp/x", "a:1");
        config.bootstrap = vec!["b:1".into()];
        assert!(config.validate().is_err());
        config.bootstrap.push("a:1".into());
        assert_eq!(config.validate(), Ok(()));
        config.bootstrap.push("a:1".into());
        assert!(config.validate().is_err());
    }
}
