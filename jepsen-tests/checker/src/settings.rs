//! What a run was supposed to be, and how strictly claims are taken.

use serde::{Deserialize, Serialize};

use crate::history::{Nanos, NodeNumber};

/// What the claim of an answer, "as of position p", means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Claim {
    /// Nothing; it is not looked at.
    Ignored,
    /// The answer shows the log at p or at some later position.
    AtLeast,
    /// The answer shows the log at p.
    Exact,
}

/// What a run was supposed to be, and how strictly claims are taken. Reads of
/// all events are always as of exactly the position they claim.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Settings {
    /// The classes of faults that must have happened: `F1`, `F2` … `F0` stands
    /// for a run without faults and needs no fault.
    pub required: Vec<String>,
    /// Appends that must have been acknowledged while faults of each required
    /// class were in force.
    pub minimum: u64,
    /// A fault that happens in an instant counts as in force for so long
    /// after its end.
    pub instant_grace: Nanos,
    /// How long nothing may be acknowledged after a kill of the leader, 99
    /// times of 100.
    pub unavailability_p99_max: Option<Nanos>,
    /// Nodes whose complete local final state must have been recorded.
    pub final_nodes: Vec<NodeNumber>,
    /// What reads of a stream claim.
    pub stream_claim: Claim,
    /// What refusals by the rules of the log claim: where they were decided.
    pub refusal_claim: Claim,
    /// Whether local reads of one process on one node must never go back
    /// while that node's process goes on.
    pub local_reads_never_go_back: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            required: Vec::new(),
            minimum: 50,
            instant_grace: 3_000_000_000,
            unavailability_p99_max: None,
            final_nodes: Vec::new(),
            stream_claim: Claim::Exact,
            refusal_claim: Claim::Exact,
            local_reads_never_go_back: true,
        }
    }
}
