//! Mistakes on purpose about rights, for the fault suite (`annals_core::seeded`).

use std::collections::HashSet;
use std::sync::LazyLock;
use std::time::Instant;

use annals_core::seeded::{self, Bug};
use annals_core::{Command, Outcome, Principal, Right, Role, StreamName};
use annals_raft::Route;
use parking_lot::Mutex;

use super::Caller;
use crate::context::Context;
use crate::status::Failure;

static HAD: LazyLock<Mutex<HashSet<(String, String)>>> = LazyLock::new(Mutex::default);

/// S27: whether this was allowed at any time.
pub(super) fn once_had(principal: &Principal, right: Right, stream: &StreamName) -> bool {
    seeded::is(Bug::S27) && right == Right::Read && HAD.lock().contains(&place(principal, stream))
}

/// S27: it is allowed now.
pub(super) fn remember(principal: &Principal, right: Right, stream: &StreamName) {
    if seeded::is(Bug::S27) && right == Right::Read {
        HAD.lock().insert(place(principal, stream));
    }
}

fn place(principal: &Principal, stream: &StreamName) -> (String, String) {
    (principal.name.clone(), stream.to_string())
}

impl Context {
    /// S26: what this node knows is all that counts.
    pub(super) async fn append_by_own_lights(
        &self,
        caller: &Caller,
        command: Command,
        route: Route,
        deadline: Instant,
    ) -> Result<Outcome, Failure> {
        match &command {
            Command::Append(append) => {
                for target in &append.targets {
                    let right = if target.role == Role::Write { Right::Write } else { Right::Read };
                    self.permit(caller, right, &target.stream)?;
                }
            }
            Command::Delete { stream, .. } | Command::Tombstone { stream, .. } => {
                self.permit(caller, Right::Delete, stream)?;
            }
            Command::AllocateNode { .. }
            | Command::For { .. }
            | Command::StartScavenge { .. }
            | Command::Reclaim(_)
            | Command::StopScavenge { .. }
            | Command::AcquireLease(_)
            | Command::ReleaseLease { .. }
            | Command::Import(_) => {}
        }
        Ok(self.node.append(command, route, deadline).await?)
    }
}
