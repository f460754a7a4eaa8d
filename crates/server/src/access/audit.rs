//! What was administered and what was denied, as events of the stream `$audit`: who,
//! what, on what, from where, and how it was decided. Never payload, never secrets.
//!
//! Acts are gathered and appended by one task, in their order, by this node; an append
//! that fails is repeated with the same ids. Denials are bounded per second, so that
//! nobody fills the log by being refused; how many were left out is told. Acts that
//! are still in memory are lost with the process. Changes of accounts do not come
//! through here: they are in the same append as the account ([`super::account`]).

use std::collections::VecDeque;
use std::time::{Duration, Instant, SystemTime};

use annals_core::{Append, Command, Content, Event, EventId, EventType, Expected, Properties, StreamName};
use annals_raft::Route;
use bytes::Bytes;
use parking_lot::Mutex;
use serde_json::json;
use tokio::sync::Notify;

use super::Caller;
use crate::context::{Context, Shared};
use crate::time::rfc3339;

/// The stream.
pub(crate) const AUDIT: &str = "$audit";
const AUDIT_TYPE: &str = "$audited";

/// Acts in memory, at most.
const WAITING_MAX: usize = 10_000;
/// Of those denials, per second.
const DENIALS_PER_SECOND: u32 = 20;
/// Events of one append.
const APPENDED_AT_ONCE: usize = 100;
/// Characters of a name or a stream that are told.
const TEXT_MAX: usize = 600;
const APPEND_TIMEOUT: Duration = Duration::from_secs(5);
const AGAIN: Duration = Duration::from_secs(1);

/// How something was decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Decision {
    /// It was done.
    Allowed,
    /// It was not.
    Denied,
}

impl Decision {
    fn word(self) -> &'static str {
        match self {
            Decision::Allowed => "allowed",
            Decision::Denied => "denied",
        }
    }
}

/// What waits to be written.
#[derive(Default)]
pub(crate) struct Audit {
    waiting: Mutex<Waiting>,
    wake: Notify,
}

#[derive(Default)]
struct Waiting {
    events: VecDeque<Event>,
    left_out: u64,
    second: Option<Instant>,
    denials: u32,
}

impl Audit {
    /// Something was denied. `on` is what it was about, `why` a reason for a person.
    pub(crate) fn denied(&self, caller: &Caller, act: &str, on: &str, why: &str) {
        let Caller::Known(_) = caller else { return };
        let mut waiting = self.waiting.lock();
        let now = Instant::now();
        if waiting.second.is_none_or(|second| now.duration_since(second) >= Duration::from_secs(1)) {
            waiting.second = Some(now);
            waiting.denials = 0;
        }
        waiting.denials += 1;
        if waiting.denials > DENIALS_PER_SECOND {
            waiting.left_out += 1;
        } else {
            waiting.push(event(caller, act, on, Decision::Denied, why));
        }
        drop(waiting);
        self.wake.notify_one();
    }

    /// Something was administered.
    pub(crate) fn administered(&self, caller: &Caller, act: &str, on: &str, decision: Decision) {
        let Caller::Known(_) = caller else { return };
        self.waiting.lock().push(event(caller, act, on, decision, ""));
        self.wake.notify_one();
    }
}

impl Waiting {
    fn push(&mut self, event: Event) {
        if self.events.len() < WAITING_MAX {
            self.events.push_back(event);
        } else {
            self.left_out += 1;
        }
    }

    fn take(&mut self) -> Vec<Event> {
        if self.left_out > 0 && self.events.len() < APPENDED_AT_ONCE {
            let left_out = std::mem::take(&mut self.left_out);
            self.events.push_back(written(&json!({ "at": now(), "decision": "denied", "leftOut": left_out })));
        }
        let count = self.events.len().min(APPENDED_AT_ONCE);
        self.events.drain(..count).collect()
    }
}

/// The event that tells of an act.
pub(crate) fn event(caller: &Caller, act: &str, on: &str, decision: Decision, why: &str) -> Event {
    let short = |text: &str| text.chars().take(TEXT_MAX).collect::<String>();
    let mut told = json!({
        "at": now(),
        "who": short(caller.name()),
        "act": act,
        "decision": decision.word(),
    });
    if let Some(address) = caller.address() {
        told["from"] = json!(address.ip().to_string());
    }
    for (key, text) in [("on", on), ("why", why)] {
        if !text.is_empty() {
            told[key] = json!(short(text));
        }
    }
    written(&told)
}

fn now() -> String {
    rfc3339(SystemTime::now())
}

fn written(told: &serde_json::Value) -> Event {
    let id = EventId::new(uuid::Uuid::new_v4()).expect("a random id is not nil");
    let event_type = EventType::new(AUDIT_TYPE).expect("our own types are valid");
    Event::new(id, event_type, Content::Json, Properties::Opaque, Bytes::new(), Bytes::from(told.to_string()))
}

/// The stream's name.
pub(crate) fn stream() -> StreamName {
    StreamName::new(AUDIT).expect("our own names are valid")
}

/// Writes what waits, until the process stops.
pub(crate) async fn run(context: Shared) {
    loop {
        tokio::select! {
            () = context.access.audit.wake.notified() => {}
            () = context.stopping.cancelled() => return write_all(&context).await,
        }
        write_all(&context).await;
    }
}

async fn write_all(context: &Context) {
    loop {
        let events = context.access.audit.waiting.lock().take();
        if events.is_empty() {
            return;
        }
        loop {
            let command = Command::Append(Append::single(stream(), Expected::Any, events.clone()));
            match context.node.append(command, Route::Forward, Instant::now() + APPEND_TIMEOUT).await {
                Ok(_) => break,
                Err(error) if context.stopping.is_cancelled() => {
                    tracing::warn!(%error, acts = events.len(), "acts are not in the audit stream");
                    return;
                }
                Err(error) => {
                    tracing::debug!(%error, "the audit stream cannot be written yet");
                    tokio::time::sleep(AGAIN).await;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::Identity;
    use super::*;

    #[test]
    fn denials_are_bounded_and_what_is_left_out_is_told() {
        let audit = Audit::default();
        let address = Some(([192, 0, 2, 7], 1234).into());
        let caller = Caller::Known(Arc::new(Identity { name: "ann".to_owned(), address, proved: None, local: false }));
        for _ in 0..DENIALS_PER_SECOND + 5 {
            audit.denied(&caller, "streams:read", "order-1", "no right on the stream");
        }
        let events = audit.waiting.lock().take();
        assert_eq!(events.len(), DENIALS_PER_SECOND as usize + 1);
        let told = |event: &Event| serde_json::from_slice::<serde_json::Value>(event.data()).expect("JSON");
        let first = told(&events[0]);
        let mut expected = json!({
            "who": "ann", "act": "streams:read", "on": "order-1", "from": "192.0.2.7",
            "decision": "denied", "why": "no right on the stream",
        });
        expected["at"] = first["at"].clone();
        assert_eq!(first, expected);
        assert_eq!(told(&events[events.len() - 1])["leftOut"], 5);
        assert!(audit.waiting.lock().take().is_empty());
    }

    #[test]
    fn what_a_node_does_itself_is_not_audited() {
        let audit = Audit::default();
        audit.denied(&Caller::Trusted, "streams:read", "", "");
        audit.administered(&Caller::Trusted, "users:create", "", Decision::Allowed);
        assert!(audit.waiting.lock().take().is_empty());
    }
}
