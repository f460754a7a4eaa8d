//! P14: who may do what, as a model that is replayed over the log.
//!
//! Accounts and lists of rights are events, so that the log itself says who had which
//! right at every position. Judged are
//!
//! - every event that a user wrote: its user had the right to, right before it;
//! - every acknowledged append: it is in the log where it was said to be;
//! - every append that was denied as of a position: its user had no right there;
//! - every read that showed something as of a position: its user had the right there.
//!
//! The rules are those of `docs/security.md`, written down a second time: nothing of
//! the product is used.

use std::collections::{BTreeMap, HashMap};

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// An event of the log, as far as it matters here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Logged {
    /// Its position, from 1 on, dense.
    pub position: u64,
    /// Its stream.
    pub stream: String,
    /// Its data.
    pub data: Value,
}

/// What a user did to a stream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Call {
    /// Whose credentials.
    pub user: String,
    /// Which stream.
    pub stream: String,
    /// What came of it.
    pub outcome: Outcome,
}

/// What came of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// An append that was acknowledged with this position.
    Written(u64),
    /// An append that was denied as of this position.
    Denied(u64),
    /// A read that showed the stream as of this position.
    Shown(u64),
    /// A read that was denied.
    Hidden,
    /// An account that was nobody's.
    Nobody,
    /// Anything else: nothing follows from it.
    Unknown,
}

/// The key by which an event names the user who wrote it.
pub const BY: &str = "by";

/// Everything that is wrong, in words.
pub fn judge(log: &[Logged], calls: &[Call]) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut told: BTreeMap<u64, Vec<&Call>> = BTreeMap::new();
    for call in calls {
        match call.outcome {
            Outcome::Written(at) | Outcome::Denied(at) | Outcome::Shown(at) => told.entry(at).or_default().push(call),
            Outcome::Hidden | Outcome::Nobody | Outcome::Unknown => {}
        }
    }
    let mut model = Model::default();
    for (expected, event) in (1..).zip(log) {
        if event.position != expected {
            wrong.push(format!("P14: the log has position {} where {expected} follows", event.position));
            return wrong;
        }
        if let Some(user) = event.data.get(BY).and_then(Value::as_str)
            && !model.may(user, &event.stream, Right::Write)
        {
            wrong.push(format!("P14: {user} wrote position {expected} of {} without the right to", event.stream));
        }
        model.apply(event);
        for call in told.remove(&expected).unwrap_or_default() {
            let Call { user, stream, outcome } = call;
            match outcome {
                Outcome::Written(_) => {
                    let by = event.data.get(BY).and_then(Value::as_str);
                    if event.stream != *stream || by != Some(user) {
                        wrong.push(format!("P14: what {user} wrote to {stream} at {expected} is not there"));
                    }
                }
                Outcome::Denied(_) if model.may(user, stream, Right::Write) => {
                    wrong
                        .push(format!("P14: {user} was denied a write to {stream} as of {expected} with the right to"));
                }
                Outcome::Shown(_) if !model.may(user, stream, Right::Read) => {
                    wrong.push(format!("P14: {user} was shown {stream} as of {expected} without the right to"));
                }
                Outcome::Denied(_) | Outcome::Shown(_) | Outcome::Hidden | Outcome::Nobody | Outcome::Unknown => {}
            }
        }
    }
    wrong.extend(told.keys().map(|at| format!("P14: position {at} was told and is not in the log")));
    wrong
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Right {
    Read,
    Write,
}

/// Who may do what after some of the log.
#[derive(Default)]
struct Model {
    accounts: HashMap<String, Vec<String>>,
    lists: HashMap<(String, Right), Vec<String>>,
}

impl Model {
    fn apply(&mut self, event: &Logged) {
        if let Some(login) = event.stream.strip_prefix("$user-") {
            let groups = names(&event.data["groups"]).unwrap_or_default();
            match event.data["disabled"].as_bool() {
                Some(false) => self.accounts.insert(login.to_owned(), groups),
                Some(true) | None => self.accounts.remove(login),
            };
        } else if let Some(stream) = event.stream.strip_prefix("$$") {
            for (right, key) in [(Right::Read, "$r"), (Right::Write, "$w")] {
                let place = (stream.to_owned(), right);
                match names(&event.data["$acl"][key]) {
                    Some(list) => self.lists.insert(place, list),
                    None => self.lists.remove(&place),
                };
            }
        }
    }

    fn may(&self, user: &str, stream: &str, right: Right) -> bool {
        let Some(groups) = self.accounts.get(user) else { return false };
        let is = |name: &String| name == "$all" || name == user || groups.contains(name);
        match self.lists.get(&(stream.to_owned(), right)) {
            Some(list) => list.iter().any(is),
            None => !stream.starts_with('$'),
        }
    }
}

fn names(value: &Value) -> Option<Vec<String>> {
    match value {
        Value::String(one) => Some(vec![one.clone()]),
        Value::Array(many) => Some(many.iter().filter_map(Value::as_str).map(str::to_owned).collect()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn log() -> Vec<Logged> {
        let events = [
            ("$user-ann", json!({ "groups": ["sales"], "disabled": false })),
            ("s", json!({ "by": "ann" })),
            ("$$s", json!({ "$acl": { "$r": "sales", "$w": [] } })),
            ("t", json!({ "by": "ann" })),
            ("$$s", json!({})),
            ("s", json!({ "by": "ann" })),
            ("$user-ann", json!({ "groups": [], "disabled": true })),
        ];
        let event = |(position, (stream, data)): (u64, (&str, Value))| Logged { position, stream: stream.into(), data };
        (1..).zip(events).map(event).collect()
    }

    fn call(stream: &str, outcome: Outcome) -> Call {
        Call { user: "ann".to_owned(), stream: stream.to_owned(), outcome }
    }

    #[test]
    fn what_the_rights_allow_is_right() {
        let calls = [
            call("s", Outcome::Written(2)),
            call("s", Outcome::Denied(3)),
            call("s", Outcome::Denied(4)),
            call("s", Outcome::Shown(4)),
            call("s", Outcome::Written(6)),
            call("s", Outcome::Denied(7)),
            call("s", Outcome::Hidden),
            call("s", Outcome::Nobody),
        ];
        assert_eq!(judge(&log(), &calls), Vec::<String>::new());
    }

    #[test]
    fn what_they_do_not_allow_is_wrong() {
        for outcome in
            [Outcome::Denied(2), Outcome::Denied(6), Outcome::Shown(7), Outcome::Written(4), Outcome::Shown(8)]
        {
            assert_eq!(judge(&log(), &[call("s", outcome)]).len(), 1, "{outcome:?}");
        }
        let mut late = log();
        late.push(Logged { position: 8, stream: "s".into(), data: json!({ "by": "ann" }) });
        assert_eq!(judge(&late, &[]).len(), 1, "a disabled account");
        let mut early = log();
        early.swap(3, 5);
        early[3].position = 4;
        early[5].position = 6;
        assert_eq!(judge(&early, &[]).len(), 1, "a right that was taken away");
        early.remove(0);
        assert_eq!(judge(&early, &[]).len(), 1, "a gap");
    }

    #[test]
    fn nobody_may_do_what_no_account_may() {
        let stranger = Call { user: "eve".to_owned(), stream: "t".to_owned(), outcome: Outcome::Shown(5) };
        assert_eq!(judge(&log(), &[stranger]).len(), 1);
    }
}
