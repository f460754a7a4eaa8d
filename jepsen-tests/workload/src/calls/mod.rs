//! Single calls: each speaks the wire once, and records what it saw.

mod append;
mod batch;
mod delete;
mod outcome;
mod read;
mod seen;

use std::sync::Arc;
use std::time::Duration;

use annals_checker::history::{Expected, Outcome, Write};
use tonic::metadata::MetadataValue;

pub(crate) use append::identifier;
pub use append::{How, append};
pub use batch::Batches;
pub use delete::delete;
pub(crate) use outcome::{as_of, described};
pub use read::{Answer, Query, query, request};
pub(crate) use seen::seen;

use crate::payload::Event;
use crate::wire::Contact;

/// Under which terms a call is made.
#[derive(Clone, Copy, Debug)]
pub struct Terms {
    /// Who calls.
    pub process: u32,
    /// How long it waits.
    pub timeout: Duration,
    /// Whether the server is told of that.
    pub tell_deadline: bool,
    /// Whether only the leader may do it; otherwise a follower passes it on.
    pub requires_leader: bool,
}

impl Terms {
    fn request<T>(&self, message: T) -> tonic::Request<T> {
        let mut request = tonic::Request::new(message);
        if self.tell_deadline {
            request.set_timeout(self.timeout);
        }
        if self.requires_leader {
            request.metadata_mut().insert("requires-leader", MetadataValue::from_static("true"));
        }
        request
    }
}

/// Events for one stream, to be sent.
#[derive(Clone, Debug)]
pub struct Draft {
    /// The stream.
    pub stream: Arc<str>,
    /// What it must be like.
    pub expected: Expected,
    /// In this order.
    pub events: Vec<Event>,
}

impl Draft {
    fn write(&self) -> Write {
        Write {
            stream: self.stream.clone(),
            expected: self.expected,
            events: self.events.iter().map(|event| event.proposed.clone()).collect(),
        }
    }
}

/// What a caller learns from a write besides what is recorded.
#[derive(Clone, Debug)]
pub struct Done {
    /// How it went.
    pub outcome: Outcome,
    /// How well the node was reached.
    pub contact: Contact,
    /// The `host:port` of the leader, where a refusal names it.
    pub leader: Option<String>,
}

impl Done {
    fn silent() -> Done {
        Done {
            outcome: Outcome::Unknown { why: "no answer in time".to_owned() },
            contact: Contact::Silent,
            leader: None,
        }
    }
}
