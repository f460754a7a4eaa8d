//! Who calls, and what they may do.
//!
//! A call comes with credentials or without ([`credentials`]); what they prove is a
//! [`Caller`]. What a caller may do is decided by what is in the log, as of now: the
//! account ([`account`]), the list of rights of a stream, the defaults in `$settings`
//! (`annals_core::access`). Reads are judged here, on the node that serves them;
//! appends are judged when they are applied, so that it does not matter what this node
//! has seen.
//!
//! - Without `insecure` every call has a caller, who has no rights but those that an
//!   account gives. With `insecure` everybody is [`Caller::Trusted`], credentials are
//!   not looked at, and none of this costs anything.
//! - A caller is somebody at the time of a call. Calls that last, such as
//!   subscriptions, ask again: an account that was disabled or got another password
//!   is nobody's from then on.
//! - Whoever shows the node's own token over loopback operates this node
//!   ([`local_token`]).
//! - What was denied, and what was administered, is told in the stream `$audit`
//!   ([`audit`]), never with payload or secrets.

pub(crate) mod account;
pub(crate) mod audit;
mod credentials;
mod first_admin;
pub(crate) mod local_token;
#[cfg(feature = "seeded-bugs")]
mod mistakes;
pub(crate) mod passwords;
mod proofs;
pub(crate) mod register;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use annals_core::access::{self, ADMINS, Defaults, Denied, OPS, SETTINGS, asked};
use annals_core::{Command, Outcome, Principal, Revision, Right, State, StreamName};
use annals_raft::{AppendError, Route};
use annals_store::Store;
use http::Extensions;
use tonic::Request;
use tonic::metadata::MetadataMap;

use self::account::Accounts;
use self::audit::{Audit, Decision};
use self::local_token::LocalToken;
use self::passwords::Passwords;
use self::proofs::Proofs;
use crate::context::Context;
use crate::grpc::streams::page::broken;
use crate::limits::Peer;
use crate::status::Failure;
use crate::tls::ClientIdentity;

pub(crate) use self::first_admin::{FirstAdmin, mint};

/// What is known of callers, for as long as the process runs.
pub(crate) struct Access {
    required: bool,
    accounts: Accounts,
    pub(crate) passwords: Passwords,
    proofs: Proofs,
    pub(crate) audit: Audit,
    pub(crate) local_token: LocalToken,
}

/// On whose behalf something is done.
#[derive(Clone, Debug)]
pub(crate) enum Caller {
    /// This node itself, or whoever calls one that asks nobody who they are.
    Trusted,
    /// Somebody.
    Known(Arc<Identity>),
}

/// Somebody who called.
#[derive(Debug)]
pub(crate) struct Identity {
    /// The login name; empty for who gave none.
    pub(crate) name: String,
    /// Where the call came from.
    pub(crate) address: Option<SocketAddr>,
    /// The hash of the password that was proved: with another one, the proof is void.
    proved: Option<Arc<str>>,
    /// Whether it showed the node's own token: then it has no account.
    local: bool,
}

/// Which streams somebody may read, while a page is made for them.
#[derive(Clone, Debug)]
pub(crate) struct Eyes(Option<Arc<Principal>>);

impl Access {
    pub(crate) fn new(required: bool, local_token: LocalToken) -> Self {
        Access {
            required,
            accounts: Accounts::default(),
            passwords: Passwords::new(),
            proofs: Proofs::new(),
            audit: Audit::default(),
            local_token,
        }
    }

    /// Whether callers must say who they are.
    pub(crate) fn is_required(&self) -> bool {
        self.required
    }
}

impl Caller {
    /// What tells this caller from others, in words.
    pub(crate) fn name(&self) -> &str {
        match self {
            Caller::Trusted => "",
            Caller::Known(identity) => &identity.name,
        }
    }

    /// Whether it showed the node's own token.
    fn is_local(&self) -> bool {
        matches!(self, Caller::Known(identity) if identity.local)
    }

    /// Where the call came from.
    pub(crate) fn address(&self) -> Option<SocketAddr> {
        match self {
            Caller::Trusted => None,
            Caller::Known(identity) => identity.address,
        }
    }
}

impl Eyes {
    /// Those that see everything.
    pub(crate) const ALL: Eyes = Eyes(None);

    /// Whether they may see a stream's events, as of now. Blocking.
    pub(crate) fn see(&self, store: &Store, stream: &StreamName) -> Result<bool, Failure> {
        match &self.0 {
            None => Ok(true),
            Some(principal) => has(store, principal, Right::Read, stream),
        }
    }
}

impl Context {
    /// Who makes a request.
    ///
    /// # Errors
    /// [`Failure::Unauthenticated`]: the credentials prove nothing;
    /// [`Failure::Overloaded`]: too many passwords are being checked; or
    /// [`Failure::TooManyCalls`]: this user makes too many.
    pub(crate) async fn caller<T>(&self, request: &Request<T>) -> Result<Caller, Failure> {
        self.caller_of(request.metadata(), request.extensions()).await
    }

    /// The same of a request's parts.
    pub(crate) async fn caller_of(&self, headers: &MetadataMap, extensions: &Extensions) -> Result<Caller, Failure> {
        if !self.access.required {
            return Ok(Caller::Trusted);
        }
        let caller = self.prove(headers, extensions).await?;
        // What a node hands on was counted where it came in, by address; and so was who
        // says nothing.
        let is_handed_on = matches!(extensions.get(), Some(ClientIdentity::Node { .. }));
        if !caller.name().is_empty()
            && !is_handed_on
            && self.standing(&caller, extensions).is_some_and(|standing| !standing.may_call())
        {
            return Err(Failure::TooManyCalls { per_second: self.config.calls_per_second_max });
        }
        Ok(caller)
    }

    /// Who a request's credentials prove that it comes from.
    async fn prove(&self, headers: &MetadataMap, extensions: &Extensions) -> Result<Caller, Failure> {
        let address = Peer::of(extensions).map(Peer::address);
        let known = |name: String, proved| Caller::Known(Arc::new(Identity { name, address, proved, local: false }));
        if let Some(shown) = local_token::shown(headers) {
            if self.access.local_token.proves(shown, address.map(|address| address.ip())) {
                let name = local_token::NAME.to_owned();
                return Ok(Caller::Known(Arc::new(Identity { name, address, proved: None, local: true })));
            }
            let nobody = known(String::new(), None);
            self.access.audit.denied(&nobody, "authenticate", "", "the token for local use is not the node's own");
            return Err(Failure::Unauthenticated);
        }
        let Some(header) = credentials::header(headers)? else {
            return Ok(known(proved_by_certificate(headers, extensions).unwrap_or_default().to_owned(), None));
        };
        if let Some((login, hash)) = self.access.proofs.find(header) {
            let caller = known(login, Some(hash));
            // What was proved may be void by now; then it is to be proved anew.
            if self.principal(&caller).is_ok() {
                return Ok(caller);
            }
        }
        let given = credentials::parse(header)?;
        let account = self.access.accounts.find(self.node.store(), &given.login)?;
        let hash = account.as_ref().filter(|known| !known.account.disabled).map(|known| known.account.hash.clone());
        let whence = address.map(|address| address.ip());
        match self.access.passwords.check(&given, hash, whence).await {
            Ok(hash) => {
                self.access.proofs.keep(header, &given.login, hash.clone());
                Ok(known(given.login, Some(hash)))
            }
            Err(failure) => {
                if failure == Failure::Unauthenticated {
                    let nobody = known(given.login, None);
                    self.access.audit.denied(
                        &nobody,
                        "authenticate",
                        "",
                        "the password is wrong, or there is no such account",
                    );
                }
                Err(failure)
            }
        }
    }

    /// The principal of a caller, as its account says now; none for who is trusted.
    ///
    /// # Errors
    /// [`Failure::Unauthenticated`]: the account is gone or disabled, or has another
    /// password now.
    pub(crate) fn principal(&self, caller: &Caller) -> Result<Option<Arc<Principal>>, Failure> {
        let Caller::Known(identity) = caller else { return Ok(None) };
        if identity.name.is_empty() {
            return Ok(Some(Arc::new(Principal::anonymous())));
        }
        if identity.local {
            let (name, groups) = (identity.name.clone(), vec![OPS.to_owned()]);
            return Ok(Some(Arc::new(Principal { name, groups, account: Some(Revision::FIRST) })));
        }
        let known = self.access.accounts.find(self.node.store(), &identity.name)?;
        let known = known.filter(|known| !known.account.disabled).ok_or(Failure::Unauthenticated)?;
        if identity.proved.as_ref().is_some_and(|proved| *proved != known.account.hash) {
            return Err(Failure::Unauthenticated);
        }
        Ok(Some(known.principal))
    }

    /// What a caller may see.
    pub(crate) fn eyes(&self, caller: &Caller) -> Result<Eyes, Failure> {
        self.principal(caller).map(Eyes)
    }

    /// Whether a caller has a right on a stream, as of what is applied here now.
    ///
    /// # Errors
    /// [`Failure::AccessDenied`], or as [`Context::principal`].
    pub(crate) fn permit(&self, caller: &Caller, right: Right, stream: &StreamName) -> Result<(), Failure> {
        let Some(principal) = self.principal(caller)? else { return Ok(()) };
        #[cfg(feature = "seeded-bugs")]
        if mistakes::once_had(&principal, right, stream) {
            return Ok(());
        }
        if has(self.node.store(), &principal, right, stream)? {
            #[cfg(feature = "seeded-bugs")]
            mistakes::remember(&principal, right, stream);
            return Ok(());
        }
        let (stream, right) = asked(stream, right);
        self.access.audit.denied(caller, right.operation(), stream.as_str(), "no right on the stream");
        Err(Failure::AccessDenied { operation: right.operation(), stream: stream.to_string() })
    }

    /// Whether a caller is an administrator.
    ///
    /// # Errors
    /// As [`Context::permit`].
    pub(crate) fn permit_admin(&self, caller: &Caller, act: &'static str) -> Result<(), Failure> {
        self.permit_any(caller, act, &[ADMINS])
    }

    /// Whether a caller operates this node, or is an administrator.
    ///
    /// # Errors
    /// As [`Context::permit`].
    pub(crate) fn permit_operator(&self, caller: &Caller, act: &'static str) -> Result<(), Failure> {
        self.permit_any(caller, act, &[ADMINS, OPS])
    }

    /// Whether a caller has an account.
    ///
    /// # Errors
    /// As [`Context::permit`].
    pub(crate) fn permit_known(&self, caller: &Caller, act: &'static str) -> Result<(), Failure> {
        match self.principal(caller)? {
            Some(principal) if !principal.is_known() => Err(self.deny(caller, act, "no credentials")),
            Some(_) | None => Ok(()),
        }
    }

    /// Who makes a request that anybody with an account may make.
    ///
    /// # Errors
    /// As [`Context::caller`] and [`Context::permit_known`].
    pub(crate) async fn known<T>(&self, request: &Request<T>, act: &'static str) -> Result<Caller, Failure> {
        let caller = self.caller(request).await?;
        self.permit_known(&caller, act).map(|()| caller)
    }

    /// Who makes a request that only who operates the cluster may make.
    ///
    /// # Errors
    /// As [`Context::caller`] and [`Context::permit_operator`].
    pub(crate) async fn operator<T>(&self, request: &Request<T>, act: &'static str) -> Result<Caller, Failure> {
        let caller = self.caller(request).await?;
        self.permit_operator(&caller, act).map(|()| caller)
    }

    fn permit_any(&self, caller: &Caller, act: &'static str, groups: &[&str]) -> Result<(), Failure> {
        match self.principal(caller)? {
            Some(principal) if !groups.iter().any(|group| principal.is_in(group)) => {
                Err(self.deny(caller, act, "not in a group that may"))
            }
            Some(_) | None => Ok(()),
        }
    }

    /// Refuses what a caller attempts, and tells of it.
    pub(crate) fn deny(&self, caller: &Caller, act: &'static str, why: &str) -> Failure {
        self.access.audit.denied(caller, act, "", why);
        Failure::AccessDenied { operation: act, stream: String::new() }
    }

    /// Has a command carried out on behalf of a caller. The deadline is the append's.
    ///
    /// # Errors
    /// [`Failure::AccessDenied`] and [`Failure::Unauthenticated`]: certainly not
    /// carried out; otherwise as `annals_raft::Node::append`.
    pub(crate) async fn append(
        &self,
        caller: &Caller,
        command: Command,
        route: Route,
        deadline: Instant,
    ) -> Result<Outcome, Failure> {
        if let Caller::Trusted = caller {
            return Ok(self.propose(command, route, deadline).await?);
        }
        if caller.is_local() {
            // There is no account by which it could be judged where it is applied.
            return Err(self.deny(caller, "streams:write", "the token for local use is for operating the node"));
        }
        #[cfg(feature = "seeded-bugs")]
        if annals_core::seeded::is(annals_core::seeded::Bug::S26) {
            return self.append_by_own_lights(caller, command, route, deadline).await;
        }
        loop {
            let principal = self.principal(caller)?.map_or_else(Principal::anonymous, |known| (*known).clone());
            let wanted = Command::For { principal, command: Box::new(command.clone()) };
            match self.propose(wanted, route, deadline).await? {
                // The account has changed, of which this node may not know yet.
                // Nothing was carried out, so that it is asked again.
                Outcome::Denied(Denied::Account { as_of }) => {
                    self.node.wait_for(as_of, deadline).await?;
                }
                Outcome::Denied(Denied::Right { as_of, stream, right }) => {
                    self.access.audit.denied(caller, right.operation(), stream.as_str(), "no right on the stream");
                    let denied = Failure::AccessDenied { operation: right.operation(), stream: stream.to_string() };
                    return Err(denied.decided(as_of));
                }
                outcome => {
                    self.note_rights(caller, &command);
                    return Ok(outcome);
                }
            }
        }
    }

    /// [`annals_raft::Node::append`], as a step in the trace of the call that asks for it.
    async fn propose(&self, command: Command, route: Route, deadline: Instant) -> Result<Outcome, AppendError> {
        let Some(tracing) = &self.tracing else { return self.node.append(command, route, deadline).await };
        let step = tracing.inner("raft.propose");
        let outcome = self.node.append(command, route, deadline).await;
        if let Some(step) = step {
            step.proposed(&outcome);
        }
        outcome
    }

    /// Tells of changed rights: of streams, or of all that do not say.
    fn note_rights(&self, caller: &Caller, command: &Command) {
        let Command::Append(append) = command else { return };
        for target in &append.targets {
            if target.stream.as_str() == SETTINGS || target.stream.is_metastream() {
                self.access.audit.administered(
                    caller,
                    "streams:metadataWrite",
                    target.stream.as_str(),
                    Decision::Allowed,
                );
            }
        }
    }
}

/// The header by which a node says for whom it hands a call on.
pub(crate) const FOR_USER: &str = "annals-for-user";

/// The user whom the certificate of a connection names; a node is believed for whom it
/// hands a call on.
pub(crate) fn proved_by_certificate<'a>(headers: &'a MetadataMap, extensions: &'a Extensions) -> Option<&'a str> {
    match extensions.get::<ClientIdentity>()? {
        ClientIdentity::User(name) => Some(name),
        ClientIdentity::Node { .. } => headers.get(FOR_USER)?.to_str().ok(),
    }
}

/// Whether a principal has a right on a stream, by what is applied now. Reads a
/// record where the defaults matter.
fn has(store: &Store, principal: &Principal, right: Right, stream: &StreamName) -> Result<bool, Failure> {
    if principal.is_admin() {
        return Ok(true);
    }
    let (stream, right) = asked(stream, right);
    let head = store.head(&stream).map_err(|error| broken(&error))?;
    access::permits(principal, &stream, right, head.metadata.acl.as_deref(), || defaults(store))
}

/// What `$settings` says now.
fn defaults(store: &Store) -> Result<Defaults, Failure> {
    let settings = StreamName::new(SETTINGS).expect("our own names are valid");
    let head = store.head(&settings).map_err(|error| broken(&error))?;
    let State::Live(last) = head.state() else { return Ok(Defaults::default()) };
    let record = store.record_at(&settings, last).map_err(|error| broken(&error))?;
    Ok(record.map_or_else(Defaults::default, |record| Defaults::parse(&record.data())))
}
