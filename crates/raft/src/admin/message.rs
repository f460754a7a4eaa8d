//! Requests for changes of the membership and their answers, as nodes pass them on.

use std::time::Duration;

use annals_core::lease::{Acquire, SECONDS_MAX};
use annals_proto::annals::internal::v1 as pb;
use annals_proto::annals::internal::v1::admin_reply::Result as Code;
use annals_proto::annals::internal::v1::admin_request::Request as Kinds;
use uuid::Uuid;

use super::AdminRequest;
use crate::error::AdminError;

/// A request that came over the wire, `None` if it asks for nothing.
pub(crate) fn read_request(request: pb::AdminRequest) -> Option<AdminRequest> {
    Some(match request.request? {
        Kinds::Add(add) => {
            AdminRequest::AddNode { address: add.address, replaces: Some(add.replaces).filter(|old| *old != 0) }
        }
        Kinds::Promote(node) => AdminRequest::Promote { node },
        Kinds::Remove(node) => AdminRequest::Remove { node, force: request.force },
        Kinds::TransferTo(to) => AdminRequest::TransferLeadership { to: (to != 0).then_some(to) },
        Kinds::Lease(lease) => AdminRequest::AcquireLease(Acquire {
            node: lease.node,
            boot: Uuid::from_slice(&lease.boot).ok()?,
            seconds: lease.seconds.clamp(1, SECONDS_MAX),
        }),
    })
}

pub(crate) fn write_request(request: &AdminRequest, left: Duration) -> pb::AdminRequest {
    let mut asks_force = false;
    let kind = match request {
        AdminRequest::AddNode { address, replaces } => {
            Kinds::Add(pb::admin_request::AddNode { address: address.clone(), replaces: replaces.unwrap_or(0) })
        }
        AdminRequest::Promote { node } => Kinds::Promote(*node),
        AdminRequest::Remove { node, force } => {
            asks_force = *force;
            Kinds::Remove(*node)
        }
        AdminRequest::TransferLeadership { to } => Kinds::TransferTo(to.unwrap_or(0)),
        AdminRequest::AcquireLease(Acquire { node, boot, seconds }) => Kinds::Lease(pb::admin_request::Lease {
            node: *node,
            boot: boot.as_bytes().to_vec().into(),
            seconds: *seconds,
        }),
    };
    pb::AdminRequest {
        request: Some(kind),
        timeout_ms: u32::try_from(left.as_millis()).unwrap_or(u32::MAX),
        force: asks_force,
    }
}

pub(crate) fn write_reply(result: Result<u64, AdminError>) -> pb::AdminReply {
    let (code, node, message) = match result {
        Ok(node) => (Code::Done, node, String::new()),
        Err(AdminError::NoLeader) => (Code::NoLeader, 0, String::new()),
        Err(AdminError::NotFound(why)) => (Code::NotFound, 0, why),
        Err(AdminError::Refused(why)) => (Code::Refused, 0, why),
        Err(AdminError::Unreachable(why)) => (Code::Unreachable, 0, why),
        Err(AdminError::Unknown(why)) => (Code::Unknown, 0, why),
        Err(AdminError::ShuttingDown) => (Code::ShuttingDown, 0, String::new()),
    };
    pb::AdminReply { result: code.into(), node, message }
}

pub(crate) fn read_reply(reply: pb::AdminReply) -> Result<u64, AdminError> {
    match reply.result() {
        Code::Done => Ok(reply.node),
        Code::NoLeader => Err(AdminError::NoLeader),
        Code::NotFound => Err(AdminError::NotFound(reply.message)),
        Code::Refused => Err(AdminError::Refused(reply.message)),
        Code::Unreachable => Err(AdminError::Unreachable(reply.message)),
        Code::Unknown => Err(AdminError::Unknown(reply.message)),
        // The leader goes down, not this node.
        Code::ShuttingDown => Err(AdminError::NoLeader),
    }
}
