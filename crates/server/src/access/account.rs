//! Accounts: the newest event of a stream `$user-<login>` each.
//!
//! So they are replicated, durable and linearizable as every event is, a change
//! expects the revision it was made of, and `apply` tells by the revision of the
//! stream whether a principal is still what its account says.

use std::collections::HashMap;
use std::sync::Arc;

use annals_core::access::{Principal, account_stream};
use annals_core::{Revision, State, StreamName, Timestamp};
use annals_store::Store;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::grpc::streams::page::broken;
use crate::status::Failure;

/// The type of an account's events.
pub(crate) const ACCOUNT_TYPE: &str = "$User";

/// Accounts that are remembered. Others are read from the log at each call.
const REMEMBERED_MAX: usize = 10_000;

/// An account, as it is written.
#[derive(Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Account {
    pub(crate) login_name: String,
    pub(crate) full_name: String,
    pub(crate) groups: Vec<String>,
    pub(crate) disabled: bool,
    /// The password's argon2id hash with its parameters and salt, in the PHC format.
    pub(crate) hash: Arc<str>,
}

impl std::fmt::Debug for Account {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Account").field("login_name", &self.login_name).finish_non_exhaustive()
    }
}

/// An account, with where it was found.
#[derive(Clone, Debug)]
pub(crate) struct Known {
    pub(crate) revision: Revision,
    pub(crate) changed: Timestamp,
    pub(crate) account: Arc<Account>,
    pub(crate) principal: Arc<Principal>,
}

/// Accounts as they were last found.
#[derive(Default)]
pub(super) struct Accounts(Mutex<HashMap<String, Known>>);

impl Accounts {
    /// The account of this name, as of what is applied now.
    pub(super) fn find(&self, store: &Store, login: &str) -> Result<Option<Known>, Failure> {
        let Some(stream) = account_stream(login) else { return Ok(None) };
        let head = store.head(&stream).map_err(|error| broken(&error))?;
        let State::Live(revision) = head.state() else { return Ok(None) };
        if let Some(known) = self.0.lock().get(login).filter(|known| known.revision == revision) {
            return Ok(Some(known.clone()));
        }
        let found = read(store, &stream, revision)?;
        if let Some(found) = &found {
            let mut remembered = self.0.lock();
            if remembered.len() >= REMEMBERED_MAX {
                remembered.clear();
            }
            remembered.insert(login.to_owned(), found.clone());
        }
        Ok(found)
    }
}

/// The account of this name, read from the log. Blocking.
pub(crate) fn load(store: &Store, login: &str) -> Result<Option<Known>, Failure> {
    let Some(stream) = account_stream(login) else { return Ok(None) };
    let head = store.head(&stream).map_err(|error| broken(&error))?;
    match head.state() {
        State::Live(revision) => read(store, &stream, revision),
        State::Empty | State::SoftDeleted(_) | State::Tombstoned => Ok(None),
    }
}

fn read(store: &Store, stream: &StreamName, revision: Revision) -> Result<Option<Known>, Failure> {
    let Some(record) = store.record_at(stream, revision).map_err(|error| broken(&error))? else { return Ok(None) };
    // An administrator may append anything to such a stream; then there is no account.
    let Ok(account) = serde_json::from_slice::<Account>(&record.data()) else {
        tracing::warn!(%stream, %revision, "that is no account");
        return Ok(None);
    };
    let principal =
        Principal { name: account.login_name.clone(), groups: account.groups.clone(), account: Some(revision) };
    if account_stream(&account.login_name).as_ref() != Some(stream) {
        tracing::warn!(%stream, %revision, "the account is another's");
        return Ok(None);
    }
    Ok(Some(Known { revision, changed: record.created(), account: Arc::new(account), principal: Arc::new(principal) }))
}
