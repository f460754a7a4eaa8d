//! Where accounts are: one stream each, whose newest event is the account.

use crate::StreamName;

/// What the names of accounts' streams begin with.
pub const ACCOUNT_PREFIX: &str = "$user-";

/// Bytes of a login name, at most.
pub const LOGIN_BYTES_MAX: usize = 128;

/// Why a login name cannot be one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LoginError {
    /// It has no characters.
    #[error("a login name must not be empty")]
    Empty,
    /// It is too long.
    #[error("a login name has at most {LOGIN_BYTES_MAX} bytes")]
    TooLong,
    /// It could be taken for a role.
    #[error("a login name must not begin with $, as roles do")]
    Reserved,
    /// It has a colon, which ends the name in Basic credentials (RFC 7617, 2), or a
    /// control character.
    #[error("a login name has neither colons nor control characters")]
    Characters,
}

/// Whether an account can have this name.
///
/// # Errors
/// [`LoginError`].
pub fn check_login(login: &str) -> Result<(), LoginError> {
    if login.is_empty() {
        return Err(LoginError::Empty);
    }
    if login.len() > LOGIN_BYTES_MAX {
        return Err(LoginError::TooLong);
    }
    if login.starts_with('$') {
        return Err(LoginError::Reserved);
    }
    if login.chars().any(|character| character == ':' || character.is_control()) {
        return Err(LoginError::Characters);
    }
    Ok(())
}

/// The stream of an account; none where no account can have this name.
pub fn account_stream(login: &str) -> Option<StreamName> {
    check_login(login).ok()?;
    StreamName::new(format!("{ACCOUNT_PREFIX}{login}")).ok()
}
