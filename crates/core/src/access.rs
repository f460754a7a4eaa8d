//! Who may do what to a stream.
//!
//! A [`Principal`] is whoever a command is proposed for, with the groups that its
//! account had at a revision of the account's stream. A stream's [`Acl`] is part of
//! its metadata; what that leaves open the [`Defaults`] in the stream `$settings`
//! decide, and what those leave open the rules of protocol 5.1: streams of
//! applications are everybody's, streams whose name begins with `$` are for
//! administrators.
//!
//! All of this is in the replicated log, and `apply` asks it for every append, so that
//! an append that comes after a right was taken away is refused on every node, whatever
//! the node that accepted it had seen. In doubt the answer is no: an `$acl` that
//! cannot be read leaves only administrators in.

mod account;
mod acl;

pub use self::account::{ACCOUNT_PREFIX, LOGIN_BYTES_MAX, LoginError, account_stream, check_login};
pub use self::acl::{Acl, Defaults};

use crate::command::{Append, Command, Role};
use crate::decide::Heads;
use crate::head::State;
use crate::{Position, Revision, StreamName};

/// Those who may do everything.
pub const ADMINS: &str = "$admins";
/// Those who operate the node: no special rights on streams.
pub const OPS: &str = "$ops";
/// Everybody who has an account.
pub const EVERYBODY: &str = "$all";
/// The stream with the default rights.
pub const SETTINGS: &str = "$settings";

/// What is done to a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Right {
    /// Read its events.
    Read = 0,
    /// Append to it.
    Write = 1,
    /// Delete it, softly or for ever.
    Delete = 2,
    /// Read its metadata.
    ReadMetadata = 3,
    /// Write its metadata.
    WriteMetadata = 4,
}

impl Right {
    /// All of them, by their numbers.
    pub const ALL: [Right; 5] = [Right::Read, Right::Write, Right::Delete, Right::ReadMetadata, Right::WriteMetadata];

    /// The key in `$acl`.
    pub fn key(self) -> &'static str {
        match self {
            Right::Read => "$r",
            Right::Write => "$w",
            Right::Delete => "$d",
            Right::ReadMetadata => "$mr",
            Right::WriteMetadata => "$mw",
        }
    }

    /// What the protocol calls it in errors.
    pub fn operation(self) -> &'static str {
        match self {
            Right::Read => "streams:read",
            Right::Write => "streams:write",
            Right::Delete => "streams:delete",
            Right::ReadMetadata => "streams:metadataRead",
            Right::WriteMetadata => "streams:metadataWrite",
        }
    }
}

/// Whoever something is done for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Principal {
    /// Its login name. Empty: nobody in particular, who has no account.
    pub name: String,
    /// The groups of its account.
    pub groups: Vec<String>,
    /// The revision of the account's stream that says so. None where there is no
    /// account: then nothing but the name counts.
    pub account: Option<Revision>,
}

impl Principal {
    /// Who said no name.
    pub fn anonymous() -> Self {
        Principal { name: String::new(), groups: Vec::new(), account: None }
    }

    /// Whether it has an account.
    pub fn is_known(&self) -> bool {
        self.account.is_some()
    }

    /// Whether it is in a group.
    pub fn is_in(&self, group: &str) -> bool {
        self.is_known() && self.groups.iter().any(|own| own == group)
    }

    /// Whether it may do everything.
    pub fn is_admin(&self) -> bool {
        self.is_in(ADMINS)
    }

    /// Whether a list of names and groups has it.
    fn is_among(&self, names: &[String]) -> bool {
        self.is_known()
            && names.iter().any(|name| name == EVERYBODY || *name == self.name || self.groups.contains(name))
    }
}

/// The stream whose `$acl` decides, and the right that is asked of it: of a
/// metastream those about metadata of the stream that it describes.
pub fn asked(stream: &StreamName, right: Right) -> (StreamName, Right) {
    match stream.described() {
        None => (stream.clone(), right),
        Some(described) => {
            let right = match right {
                Right::Read | Right::ReadMetadata => Right::ReadMetadata,
                Right::Write | Right::Delete | Right::WriteMetadata => Right::WriteMetadata,
            };
            (described, right)
        }
    }
}

/// Whether a principal has a right that is asked of a stream, as [`asked`] says. Of
/// an administrator nothing is looked at; `defaults` is asked for only where the
/// stream's own list leaves the right open.
///
/// # Errors
/// Whatever `defaults` could not answer.
pub fn permits<E>(
    principal: &Principal,
    stream: &StreamName,
    right: Right,
    own: Option<&Acl>,
    defaults: impl FnOnce() -> Result<Defaults, E>,
) -> Result<bool, E> {
    if principal.is_admin() {
        return Ok(true);
    }
    if let Some(names) = own.and_then(|acl| acl.names(right)) {
        return Ok(principal.is_among(names));
    }
    let defaults = defaults()?;
    let of_kind = if stream.is_system() { &defaults.system } else { &defaults.user };
    Ok(match of_kind.names(right) {
        Some(names) => principal.is_among(names),
        None => principal.is_known() && !stream.is_system(),
    })
}

/// Why a command is not carried out for a principal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Denied {
    /// The principal lacks a right.
    Right {
        /// As of which position.
        as_of: Position,
        /// Of which stream.
        stream: StreamName,
        /// Which one.
        right: Right,
    },
    /// The account has changed since whoever proposed the command looked at it. What
    /// it may do now is to be found out anew; nothing was carried out.
    Account {
        /// As of which position.
        as_of: Position,
    },
}

/// What keeps a command from being carried out for a principal, if anything does.
pub(crate) fn denies<H: Heads>(
    heads: &H,
    principal: &Principal,
    command: &Command,
) -> Result<Option<Denied>, H::Error> {
    let as_of = heads.tail();
    if !is_current(heads, principal)? {
        return Ok(Some(Denied::Account { as_of }));
    }
    let lacks = |stream: &StreamName, right: Right| -> Result<Option<Denied>, H::Error> {
        let (stream, right) = asked(stream, right);
        // Nobody's rights are looked at who may do everything.
        let own = if principal.is_admin() { None } else { heads.head(&stream)?.metadata.acl };
        let permitted = permits(principal, &stream, right, own.as_deref(), || default_rights(heads))?;
        Ok((!permitted).then_some(Denied::Right { as_of, stream, right }))
    };
    match command {
        Command::Append(Append { targets, .. }) => {
            for target in targets {
                let right = match target.role {
                    Role::Write => Right::Write,
                    // A check that fails tells the state of the stream.
                    Role::Check => Right::Read,
                };
                if let Some(denied) = lacks(&target.stream, right)? {
                    return Ok(Some(denied));
                }
            }
            Ok(None)
        }
        Command::Delete { stream, .. } | Command::Tombstone { stream, .. } => lacks(stream, Right::Delete),
        // Nobody but the cluster itself: who may ask for them is decided before.
        Command::AllocateNode { .. }
        | Command::For { .. }
        | Command::StartScavenge { .. }
        | Command::Reclaim(_)
        | Command::StopScavenge { .. }
        | Command::AcquireLease(_)
        | Command::ReleaseLease { .. }
        | Command::Import(_) => Ok(None),
    }
}

/// What the newest event of `$settings` says, unless that is deleted.
fn default_rights<H: Heads>(heads: &H) -> Result<Defaults, H::Error> {
    let settings = StreamName::new(SETTINGS).expect("our own names are valid");
    match heads.head(&settings)?.state() {
        State::Live(_) => Ok(Defaults::parse(&heads.newest_data(&settings)?)),
        State::Empty | State::SoftDeleted(_) | State::Tombstoned => Ok(Defaults::default()),
    }
}

/// Whether the account is as it was when the principal was found out.
fn is_current<H: Heads>(heads: &H, principal: &Principal) -> Result<bool, H::Error> {
    let Some(revision) = principal.account else { return Ok(true) };
    let Some(stream) = account_stream(&principal.name) else { return Ok(false) };
    let head = heads.head(&stream)?;
    Ok(head.state() == State::Live(revision))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stream(name: &str) -> StreamName {
        StreamName::new(name.to_owned()).expect("a valid name")
    }

    fn principal(name: &str, groups: &[&str]) -> Principal {
        let groups = groups.iter().map(|group| (*group).to_owned()).collect();
        Principal { name: name.to_owned(), groups, account: Some(Revision::FIRST) }
    }

    fn may(who: &Principal, name: &str, right: Right, acl: &str, settings: &str) -> bool {
        let (asked, right) = asked(&stream(name), right);
        let own = Acl::in_metadata(acl.as_bytes());
        let defaults = || Ok::<_, std::convert::Infallible>(Defaults::parse(settings.as_bytes()));
        let Ok(permitted) = permits(who, &asked, right, own.as_ref(), defaults);
        permitted
    }

    #[test]
    fn unless_told_otherwise_applications_streams_are_everybodys_and_system_streams_for_administrators() {
        let (ann, admin, nobody) = (principal("ann", &[]), principal("root", &[ADMINS]), Principal::anonymous());
        for right in Right::ALL {
            assert!(may(&ann, "order-1", right, "", ""));
            assert!(!may(&nobody, "order-1", right, "", ""), "{right:?} of nobody");
            for system in ["$all", "$ce-order", "$user-ann", "$settings"] {
                assert!(!may(&ann, system, right, "", ""), "{system}");
                assert!(may(&admin, system, right, "", ""), "{system}");
            }
        }
    }

    #[test]
    fn a_streams_own_list_comes_first_and_says_nothing_of_the_rights_it_leaves_out() {
        let (ann, bob) = (principal("ann", &["sales"]), principal("bob", &[]));
        let acl = r#"{"$acl":{"$r":["ann","bob"],"$w":"sales","$d":[]}}"#;
        assert!(may(&ann, "s", Right::Read, acl, "") && may(&bob, "s", Right::Read, acl, ""));
        assert!(may(&ann, "s", Right::Write, acl, "") && !may(&bob, "s", Right::Write, acl, ""));
        assert!(!may(&ann, "s", Right::Delete, acl, ""), "an empty list has nobody");
        assert!(may(&bob, "s", Right::WriteMetadata, acl, ""), "left to the defaults");
        assert!(may(&principal("root", &[ADMINS]), "s", Right::Delete, acl, ""));
        assert!(may(&ann, "$all", Right::Read, r#"{"$acl":{"$r":"$all"}}"#, ""));
        assert!(!may(&Principal::anonymous(), "s", Right::Read, r#"{"$acl":{"$r":"$all"}}"#, ""));
    }

    #[test]
    fn a_metastream_asks_for_the_metadata_rights_of_what_it_describes() {
        let ann = principal("ann", &[]);
        let acl = r#"{"$acl":{"$mr":"ann","$mw":"bob"}}"#;
        assert!(may(&ann, "$$s", Right::Read, acl, "") && !may(&ann, "$$s", Right::Write, acl, ""));
        assert!(may(&ann, "$$s", Right::Write, "", ""), "as of the stream, which is an application's");
        assert!(!may(&ann, "$$$settings", Right::Write, "", ""));
    }

    #[test]
    fn settings_replace_the_defaults_right_by_right() {
        let (ann, bob) = (principal("ann", &[]), principal("bob", &["readers"]));
        let settings = r#"{"$userStreamAcl":{"$r":"readers"},"$systemStreamAcl":{"$r":["readers"]}}"#;
        assert!(!may(&ann, "s", Right::Read, "", settings) && may(&bob, "s", Right::Read, "", settings));
        assert!(may(&ann, "s", Right::Write, "", settings), "left to the rules");
        assert!(may(&bob, "$all", Right::Read, "", settings) && !may(&bob, "$all", Right::Write, "", settings));
    }

    #[test]
    fn a_list_that_cannot_be_read_lets_only_administrators_in() {
        let ann = principal("ann", &[]);
        for acl in [r#"{"$acl":5}"#, r#"{"$acl":{"$r":5}}"#, r#"{"$acl":{"$r":["ann",7]}}"#, r#"{"$acl":[]}"#] {
            assert!(!may(&ann, "s", Right::Read, acl, ""), "{acl}");
            assert!(may(&principal("root", &[ADMINS]), "s", Right::Read, acl, ""), "{acl}");
        }
        let long = format!(r#"{{"$acl":{{"$r":["ann","{}"]}}}}"#, "x".repeat(Acl::BYTES_MAX));
        assert!(!may(&ann, "s", Right::Read, &long, ""));
    }

    #[test]
    fn a_name_without_an_account_is_nobodys() {
        let claimed = Principal { account: None, ..principal("ann", &[ADMINS]) };
        assert!(!claimed.is_admin());
        assert!(!may(&claimed, "s", Right::Read, r#"{"$acl":{"$r":"ann"}}"#, ""));
    }
}
