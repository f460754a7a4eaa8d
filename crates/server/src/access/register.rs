//! How accounts come to be and change: one append each, with the account, its name in
//! the list of all, and who did it, in the audit stream. All of it or nothing.

use std::time::Instant;

use annals_core::access::{account_stream, check_login};
use annals_core::{
    Actual, Append, Command, Content, Event, EventId, EventType, Expected, Outcome, Properties, Role, StreamName,
    Target,
};
use annals_raft::Route;
use annals_store::{Direction, PageLimit, Store};
use bytes::Bytes;

use super::account::{self, ACCOUNT_TYPE, Account, Known};
use super::audit::{self, Decision};
use super::{Caller, account::load};
use crate::context::Context;
use crate::grpc::streams::page::broken;
use crate::grpc::streams::{WRITE_TIMEOUT, unexpected};
use crate::status::Failure;

/// The stream with the name of every account that was ever made.
const USERS: &str = "$users";

/// Groups of one account, and bytes of all their names.
const GROUPS_MAX: usize = 100;
const GROUPS_BYTES_MAX: usize = 4 * 1024;
/// Bytes of a person's name.
const FULL_NAME_BYTES_MAX: usize = 512;

/// Checks what does not depend on what is there.
///
/// # Errors
/// [`Failure::Invalid`].
pub(crate) fn check(account: &Account) -> Result<(), Failure> {
    check_login(&account.login_name).map_err(|error| Failure::invalid("login_name", error.to_string()))?;
    if account.full_name.len() > FULL_NAME_BYTES_MAX {
        return Err(Failure::invalid("full_name", format!("a full name has at most {FULL_NAME_BYTES_MAX} bytes")));
    }
    let bytes: usize = account.groups.iter().map(String::len).sum();
    if account.groups.len() > GROUPS_MAX || bytes > GROUPS_BYTES_MAX {
        let why = format!("a user is in at most {GROUPS_MAX} groups, with {GROUPS_BYTES_MAX} bytes of names");
        return Err(Failure::invalid("groups", why));
    }
    let reserved = account.groups.iter().any(|group| group.is_empty() || group == annals_core::access::EVERYBODY);
    if reserved || account.groups.iter().any(|group| group.chars().any(char::is_control)) {
        return Err(Failure::invalid("groups", "a group has a name, without control characters, other than $all"));
    }
    Ok(())
}

/// Makes an account. Durable on return.
///
/// # Errors
/// [`Failure::UserConflict`]: there is one of this name; or what kept it from being
/// written.
pub(crate) async fn create(context: &Context, caller: &Caller, account: &Account) -> Result<(), Failure> {
    check(account)?;
    write(context, caller, "users:create", Expected::NoStream, account, true).await
}

/// Puts an account in place of one as it was found. Durable on return.
///
/// # Errors
/// [`Failure::UserConflict`]: it has changed meanwhile; or what kept it from being
/// written.
pub(crate) async fn replace(
    context: &Context,
    caller: &Caller,
    act: &'static str,
    known: &Known,
    account: &Account,
) -> Result<(), Failure> {
    check(account)?;
    write(context, caller, act, Expected::Exactly(known.revision), account, false).await
}

/// Removes an account. Durable on return.
///
/// # Errors
/// As [`replace`].
pub(crate) async fn remove(context: &Context, caller: &Caller, known: &Known) -> Result<(), Failure> {
    let login = &known.account.login_name;
    let command = Command::Delete { stream: stream_of(login)?, expected: Expected::Exactly(known.revision) };
    carry_out(context, caller, login, command).await?;
    context.access.audit.administered(caller, "users:delete", login, Decision::Allowed);
    Ok(())
}

async fn write(
    context: &Context,
    caller: &Caller,
    act: &'static str,
    expected: Expected,
    account: &Account,
    is_new: bool,
) -> Result<(), Failure> {
    let login = &account.login_name;
    let data = serde_json::to_vec(account).map_err(|error| Failure::broken("writing an account", &error))?;
    let target = |stream, expected| Target { stream, expected, role: Role::Write };
    let mut targets = vec![target(stream_of(login)?, expected)];
    let mut events = vec![(0, event(ACCOUNT_TYPE, Content::Json, Bytes::from(data)))];
    if is_new {
        targets.push(target(users(), Expected::Any));
        events.push((1, event(ACCOUNT_TYPE, Content::Binary, Bytes::from(login.clone()))));
    }
    if let Caller::Known(_) = caller {
        let index = u32::try_from(targets.len()).expect("a few");
        targets.push(target(audit::stream(), Expected::Any));
        events.push((index, audit::event(caller, act, login, Decision::Allowed, "")));
    }
    carry_out(context, caller, login, Command::Append(Append { targets, events })).await
}

/// The caller's rights were looked at: what is written lies in streams of the system,
/// also where somebody changes what is their own.
async fn carry_out(context: &Context, _: &Caller, login: &str, command: Command) -> Result<(), Failure> {
    match context.node.append(command, Route::Forward, Instant::now() + WRITE_TIMEOUT).await? {
        Outcome::Appended(_) => Ok(()),
        Outcome::Refused(refusal) => {
            let gone = refusal.violations.iter().any(|violation| violation.actual == Actual::NoStream);
            let login = login.to_owned();
            Err(if gone { Failure::UserNotFound(login) } else { Failure::UserConflict(login) })
        }
        outcome @ (Outcome::Node(_) | Outcome::Denied(_) | Outcome::Scavenge(_) | Outcome::Lease(_)) => {
            Err(unexpected(&outcome))
        }
    }
}

fn stream_of(login: &str) -> Result<StreamName, Failure> {
    account_stream(login).ok_or_else(|| Failure::UserNotFound(login.to_owned()))
}

fn users() -> StreamName {
    StreamName::new(USERS).expect("our own names are valid")
}

fn event(event_type: &'static str, content: Content, data: Bytes) -> Event {
    let id = EventId::new(uuid::Uuid::new_v4()).expect("a random id is not nil");
    let event_type = EventType::new(event_type).expect("our own types are valid");
    Event::new(id, event_type, content, Properties::Opaque, Bytes::new(), data)
}

/// The names of all accounts after one, in the order in which they were first made;
/// at most so many, with the revision to go on after. Blocking.
pub(crate) fn list(store: &Store) -> Result<Vec<Known>, Failure> {
    let mut names = Vec::new();
    let view = crate::grpc::streams::page::view(store, &users(), annals_core::Timestamp::default())?;
    let mut next = Some(view.first_visible);
    while let Some(from) = next {
        let limit = PageLimit { records: 1_000, bytes: 1 << 20 };
        let page = store.read_stream(&view, from, Direction::Forward, limit).map_err(|error| broken(&error))?;
        names.extend(page.records.iter().map(|record| String::from_utf8_lossy(&record.data()).into_owned()));
        next = page.next;
    }
    names.sort();
    names.dedup();
    let mut known = Vec::new();
    for name in &names {
        known.extend(load(store, name)?);
    }
    Ok(known)
}

/// The account of this name, as of what is applied now. Blocking.
///
/// # Errors
/// [`Failure::UserNotFound`].
pub(crate) fn find(store: &Store, login: &str) -> Result<Known, Failure> {
    account::load(store, login)?.ok_or_else(|| Failure::UserNotFound(login.to_owned()))
}
