//! Who a node is, and who it listens to.
//!
//! Consensus rests on a node never forgetting what it promised. A wiped disk,
//! two directories swapped between machines, a restored backup or a request
//! for a former owner of an address all break that silently. So every data
//! directory has an identity, written once, and every call between nodes
//! carries who sends it and whom it is for:
//!
//! | header | content |
//! |---|---|
//! | `annals-cluster` | the cluster's uuid |
//! | `annals-from` | the sender's node id |
//! | `annals-from-incarnation` | the sender's data directory |
//! | `annals-to` | the receiver's node id |
//! | `annals-to-incarnation` | the receiver's data directory, as the membership knows it |
//! | `annals-boots` | the sender's starts ([`crate::lineage`]); answers carry it too |
//!
//! A receiver drops what is not for it, comes from another cluster, comes
//! from another data directory than the membership says, or from an outdated
//! copy of it ([`crate::peer_memory`]).

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;
use std::str::FromStr;

use annals_core::seeded::{self, Bug};
use tonic::metadata::{MetadataMap, MetadataValue};
use tonic::{Request, Response, Status};
use uuid::Uuid;

use crate::error::OpenError;
use crate::lineage::{Boot, Lineage};
use crate::types::{Membership, NodeInfo};

const FILE: &str = "identity";
const REMOVED: &str = "removed";
const OUTDATED: &str = "outdated";
const FIRST_LINE: &str = "annals identity 2";
/// As written before starts were counted.
const FIRST_LINE_1: &str = "annals identity 1";
const BOOTS: &str = "annals-boots";

/// Set on a refusal whose reason is that the sender was removed from the
/// cluster: it will never be listened to again.
pub(crate) const REMOVED_HEADER: &str = "annals-removed";

/// Set on a refusal whose reason is that the sender runs on an outdated copy of
/// its disk: the boot that it lacks.
pub(crate) const OUTDATED_HEADER: &str = "annals-outdated";

/// Who a node is. Never changed, but for the start that each process adds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    /// The cluster it belongs to.
    pub(crate) cluster: Uuid,
    /// Its id, never used by another node of this cluster.
    pub(crate) node: u64,
    /// Names this data directory.
    pub(crate) incarnation: Uuid,
    /// Its starts.
    pub(crate) lineage: Lineage,
}

impl Identity {
    /// Reads the identity of a data directory, `None` where it has none.
    pub(crate) fn load(data: &Path) -> Result<Option<Identity>, OpenError> {
        let path = data.join(FILE);
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(OpenError::Io { action: "read", path, source }),
        };
        parse(&text).map(Some).ok_or_else(|| OpenError::Damaged {
            path: data.to_owned(),
            why: format!("the file {FILE} is not what was written"),
        })
    }

    /// Writes it. Durable on return, and never half there.
    pub(crate) fn store(&self, data: &Path) -> io::Result<()> {
        write_durably(data, FILE, print(self).as_bytes())
    }

    /// As of a new start, to be stored before anything is sent.
    #[must_use]
    pub(crate) fn started(self) -> Identity {
        Identity { lineage: self.lineage.started(Uuid::new_v4()), ..self }
    }

    /// The headers of a call to a peer.
    pub(crate) fn sign<T>(&self, to: u64, node: &NodeInfo, message: T) -> Request<T> {
        let mut request = Request::new(message);
        let headers = request.metadata_mut();
        let mut set = |name: &'static str, value: String| {
            headers.insert(name, value.parse().expect("numbers and uuids are plain text"));
        };
        set("annals-cluster", self.cluster.to_string());
        set("annals-from", self.node.to_string());
        set("annals-from-incarnation", self.incarnation.to_string());
        set("annals-to", to.to_string());
        if node.incarnation != [0; 16] {
            set("annals-to-incarnation", Uuid::from_bytes(node.incarnation).to_string());
        }
        set(BOOTS, self.lineage.to_string());
        request
    }

    /// An answer to a peer, which says whose it is.
    pub(crate) fn answer<T>(&self, message: T) -> Response<T> {
        let mut response = Response::new(message);
        let boots = MetadataValue::try_from(self.lineage.to_string()).expect("numbers and uuids are plain text");
        response.metadata_mut().insert(BOOTS, boots);
        response
    }

    /// Who calls, if it may. `membership` is what this node knows of others.
    ///
    /// # Errors
    /// The status to answer: the call is not for this node, or not from whom
    /// it says.
    #[allow(clippy::result_large_err)]
    pub(crate) fn admit(&self, headers: &MetadataMap, membership: &Membership) -> Result<u64, Status> {
        let cluster: Uuid = header(headers, "annals-cluster")?;
        if cluster != self.cluster {
            return Err(Status::failed_precondition(format!(
                "this node belongs to cluster {}, the call comes from cluster {cluster}",
                self.cluster
            )));
        }
        let to: u64 = header(headers, "annals-to")?;
        if to != self.node {
            return Err(Status::failed_precondition(format!("this is node {}, the call is for node {to}", self.node)));
        }
        if headers.contains_key("annals-to-incarnation") && !seeded::is(Bug::S22) {
            let incarnation: Uuid = header(headers, "annals-to-incarnation")?;
            if incarnation != self.incarnation {
                return Err(Status::failed_precondition(format!(
                    "node {to} has data directory {}, the call is for {incarnation}: was its disk wiped or swapped?",
                    self.incarnation
                )));
            }
        }
        let from: u64 = header(headers, "annals-from")?;
        let incarnation: Uuid = header(headers, "annals-from-incarnation")?;
        if let Some(known) = membership.get_node(&from)
            && known.incarnation != [0; 16]
            && known.incarnation != *incarnation.as_bytes()
            && !seeded::is(Bug::S22)
        {
            return Err(Status::failed_precondition(format!(
                "node {from} is known with data directory {}, the call comes from {incarnation}: was its disk wiped or swapped?",
                Uuid::from_bytes(known.incarnation)
            )));
        }
        Ok(from)
    }
}

/// The starts of whoever sent these headers. None at all where it says nothing
/// of them, or nothing that can be read.
pub(crate) fn lineage(headers: &MetadataMap) -> Lineage {
    headers.get(BOOTS).and_then(|value| value.to_str().ok()).and_then(|value| value.parse().ok()).unwrap_or_default()
}

/// Whom a call is for.
pub(crate) fn addressee(headers: &MetadataMap) -> Option<u64> {
    headers.get("annals-to")?.to_str().ok()?.parse().ok()
}

/// The boot that a peer misses in this node's lineage, if it refused for that.
pub(crate) fn missed_boot(headers: &MetadataMap) -> Option<Boot> {
    headers.get(OUTDATED_HEADER)?.to_str().ok()?.parse().ok()
}

/// Why this data directory must not be used any more, if it was found to be an
/// outdated copy.
pub(crate) fn was_outdated(data: &Path) -> Option<String> {
    fs::read_to_string(data.join(OUTDATED)).ok().map(|why| why.trim_end().to_owned())
}

/// Remembers that it was.
pub(crate) fn mark_outdated(data: &Path, why: &str) -> io::Result<()> {
    write_durably(data, OUTDATED, format!("{why}\n").as_bytes())
}

/// Whether this data directory's node was removed from its cluster.
pub(crate) fn was_removed(data: &Path) -> bool {
    data.join(REMOVED).exists()
}

/// Remembers that it was.
pub(crate) fn mark_removed(data: &Path) -> io::Result<()> {
    write_durably(
        data,
        REMOVED,
        b"this node was removed from its cluster; join it again with an empty data directory\n",
    )
}

#[allow(clippy::result_large_err)]
fn header<T: FromStr>(headers: &MetadataMap, name: &'static str) -> Result<T, Status> {
    headers
        .get(name)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.parse().ok())
        .ok_or_else(|| Status::invalid_argument(format!("the call lacks a readable {name} header")))
}

fn print(identity: &Identity) -> String {
    sealed(format!(
        "{FIRST_LINE}\ncluster {}\nnode {}\nincarnation {}\nboots {}\n",
        identity.cluster, identity.node, identity.incarnation, identity.lineage
    ))
}

fn print_1(identity: &Identity) -> String {
    sealed(format!(
        "{FIRST_LINE_1}\ncluster {}\nnode {}\nincarnation {}\n",
        identity.cluster, identity.node, identity.incarnation
    ))
}

fn sealed(body: String) -> String {
    let checksum = crc32c::crc32c(body.as_bytes());
    format!("{body}checksum {checksum:08x}\n")
}

fn parse(text: &str) -> Option<Identity> {
    let mut lines = text.lines();
    let print: fn(&Identity) -> String = match lines.next()? {
        FIRST_LINE => print,
        FIRST_LINE_1 => print_1,
        _ => return None,
    };
    let mut field = |name: &str| lines.next()?.strip_prefix(name)?.strip_prefix(' ').map(str::to_owned);
    let mut identity = Identity {
        cluster: field("cluster")?.parse().ok()?,
        node: field("node")?.parse().ok()?,
        incarnation: field("incarnation")?.parse().ok()?,
        lineage: Lineage::default(),
    };
    if let Some(boots) = field("boots") {
        identity.lineage = boots.parse().ok()?;
    }
    // Printing is exact, so comparing the whole covers the checksum too.
    (print(&identity) == text).then_some(identity)
}

/// Writes a small file. Durable on return, and never half there.
pub(crate) fn write_durably(data: &Path, name: &str, bytes: &[u8]) -> io::Result<()> {
    let temporary = data.join(format!("{name}.tmp"));
    let mut file = File::create(&temporary)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&temporary, data.join(name))?;
    File::open(data)?.sync_all()
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;

    fn identity(node: u64) -> Identity {
        Identity {
            cluster: Uuid::from_u128(1),
            node,
            incarnation: Uuid::from_u128(u128::from(node) + 100),
            lineage: Lineage::default(),
        }
    }

    fn membership() -> Membership {
        let node = |id: u64| NodeInfo {
            address: "a:1".into(),
            incarnation: *identity(id).incarnation.as_bytes(),
            ..NodeInfo::default()
        };
        Membership::new(vec![BTreeSet::from([1, 2])], BTreeMap::from([(1, node(1)), (2, node(2))])).expect("valid")
    }

    fn info(id: u64) -> NodeInfo {
        membership().get_node(&id).expect("a member").clone()
    }

    #[test]
    fn an_identity_is_read_back() {
        let dir = tempfile::tempdir().expect("a directory");
        assert_eq!(Identity::load(dir.path()).expect("nothing there is fine"), None);
        identity(7).store(dir.path()).expect("written");
        assert_eq!(Identity::load(dir.path()).expect("readable"), Some(identity(7)));
    }

    #[test]
    fn every_start_is_added_to_the_identity_and_travels_with_calls_and_answers() {
        let dir = tempfile::tempdir().expect("a directory");
        let first = identity(7).started();
        first.store(dir.path()).expect("written");
        let second = Identity::load(dir.path()).expect("readable").expect("there").started();
        second.store(dir.path()).expect("written");
        assert_eq!(Identity::load(dir.path()).expect("readable"), Some(second));
        assert!(second.lineage.holds(&first.lineage.newest().expect("started")));
        assert_eq!(lineage(second.sign(1, &info(1), ()).metadata()), second.lineage);
        assert_eq!(lineage(second.answer(()).metadata()), second.lineage);
        assert_eq!(lineage(&MetadataMap::new()), Lineage::default());
    }

    #[test]
    fn an_identity_from_before_starts_were_counted_is_read() {
        let dir = tempfile::tempdir().expect("a directory");
        let old = "annals identity 1\ncluster 00000000-0000-0000-0000-000000000001\nnode 7\n\
                   incarnation 00000000-0000-0000-0000-00000000006b\nchecksum 5d62ab80\n";
        fs::write(dir.path().join(FILE), old).expect("written");
        assert_eq!(Identity::load(dir.path()).expect("readable"), Some(identity(7)));
    }

    #[test]
    fn a_changed_identity_file_is_refused() {
        let dir = tempfile::tempdir().expect("a directory");
        identity(7).store(dir.path()).expect("written");
        let text = fs::read_to_string(dir.path().join(FILE)).expect("readable");
        fs::write(dir.path().join(FILE), text.replace("node 7", "node 8")).expect("written");
        assert!(matches!(Identity::load(dir.path()), Err(OpenError::Damaged { .. })));
    }

    #[test]
    fn a_call_from_a_member_for_this_node_is_admitted() {
        let request = identity(1).sign(2, &info(2), ());
        assert_eq!(identity(2).admit(request.metadata(), &membership()).expect("admitted"), 1);
    }

    #[test]
    fn a_call_for_another_node_is_dropped() {
        let request = identity(1).sign(2, &info(2), ());
        let status = identity(3).admit(request.metadata(), &membership()).expect_err("not for node 3");
        assert_eq!(status.message(), "this is node 3, the call is for node 2");
    }

    #[test]
    fn a_call_from_another_cluster_is_dropped() {
        let other = Identity { cluster: Uuid::from_u128(9), ..identity(1) };
        assert!(identity(2).admit(other.sign(2, &info(2), ()).metadata(), &membership()).is_err());
    }

    #[test]
    fn a_call_from_another_data_directory_under_a_known_id_is_dropped() {
        let wiped = Identity { incarnation: Uuid::from_u128(5), ..identity(1) };
        assert!(identity(2).admit(wiped.sign(2, &info(2), ()).metadata(), &membership()).is_err());
    }

    #[test]
    fn a_call_for_the_data_directory_that_this_node_had_before_is_dropped() {
        let wiped = Identity { incarnation: Uuid::from_u128(5), ..identity(2) };
        let request = identity(1).sign(2, &info(2), ());
        assert!(wiped.admit(request.metadata(), &membership()).is_err());
    }

    #[test]
    fn a_node_that_knows_no_members_yet_listens_to_its_cluster() {
        let request = identity(1).sign(2, &NodeInfo::default(), ());
        assert_eq!(identity(2).admit(request.metadata(), &Membership::default()).expect("admitted"), 1);
    }
}
