//! What a call says of who makes it (protocol 4.1): the header `authorization`, with
//! `Basic` and a name and password, or `Bearer` and a token that decodes as these.
//!
//! Secrets are wiped when they are dropped, and no type here prints them.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use tonic::metadata::MetadataMap;
use zeroize::Zeroizing;

use super::passwords::PASSWORD_BYTES_MAX;
use crate::status::Failure;

const AUTHORIZATION: &str = "authorization";

/// A name and a password.
pub(crate) struct Given {
    pub(crate) login: String,
    pub(crate) password: Zeroizing<String>,
}

/// The header as it is, if there is one.
///
/// # Errors
/// [`Failure::Unauthenticated`]: there are several, of which none can be the right one.
pub(super) fn header(headers: &MetadataMap) -> Result<Option<&[u8]>, Failure> {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    match (values.next(), values.next()) {
        (None, _) => Ok(None),
        (Some(only), None) => Ok(Some(only.as_bytes())),
        (Some(_), Some(_)) => Err(Failure::Unauthenticated),
    }
}

/// What the header says.
///
/// # Errors
/// [`Failure::Unauthenticated`]: nothing that could be a name and a password.
pub(super) fn parse(header: &[u8]) -> Result<Given, Failure> {
    let header = std::str::from_utf8(header).map_err(|_| Failure::Unauthenticated)?;
    let (scheme, encoded) = header.split_once(' ').ok_or(Failure::Unauthenticated)?;
    if !scheme.eq_ignore_ascii_case("basic") && !scheme.eq_ignore_ascii_case("bearer") {
        return Err(Failure::Unauthenticated);
    }
    let decoded = Zeroizing::new(STANDARD.decode(encoded.trim()).map_err(|_| Failure::Unauthenticated)?);
    let text = std::str::from_utf8(&decoded).map_err(|_| Failure::Unauthenticated)?;
    let (login, password) = text.split_once(':').ok_or(Failure::Unauthenticated)?;
    if password.len() > PASSWORD_BYTES_MAX || annals_core::access::check_login(login).is_err() {
        return Err(Failure::Unauthenticated);
    }
    Ok(Given { login: login.to_owned(), password: Zeroizing::new(password.to_owned()) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encoded(scheme: &str, text: &str) -> String {
        format!("{scheme} {}", STANDARD.encode(text))
    }

    #[test]
    fn both_schemes_name_a_user_and_a_password() {
        for scheme in ["Basic", "basic", "Bearer", "BEARER"] {
            let given = parse(encoded(scheme, "ann:se:cret").as_bytes()).expect("credentials");
            assert_eq!((given.login.as_str(), given.password.as_str()), ("ann", "se:cret"), "{scheme}");
        }
    }

    #[test]
    fn what_is_no_name_and_password_proves_nothing() {
        let long = "x".repeat(PASSWORD_BYTES_MAX + 1);
        for header in [
            String::new(),
            "Basic".to_owned(),
            "Basic ".to_owned(),
            "Basic !!!".to_owned(),
            encoded("Digest", "ann:secret"),
            encoded("Basic", "ann"),
            encoded("Basic", ":secret"),
            encoded("Basic", "$admins:secret"),
            encoded("Basic", "a\u{0}b:secret"),
            encoded("Basic", &format!("ann:{long}")),
            "Bearer eyJhbGciOiJub25lIn0.e30.".to_owned(),
        ] {
            assert!(matches!(parse(header.as_bytes()), Err(Failure::Unauthenticated)), "{header}");
        }
        assert!(parse(b"Basic \xff").is_err());
    }

    #[test]
    fn of_two_headers_none_is_believed() {
        let mut headers = MetadataMap::new();
        assert_eq!(header(&headers), Ok(None));
        headers.append(AUTHORIZATION, "Basic eDp5".parse().expect("ASCII"));
        assert!(matches!(header(&headers), Ok(Some(_))));
        headers.append(AUTHORIZATION, "Basic eDp6".parse().expect("ASCII"));
        assert_eq!(header(&headers), Err(Failure::Unauthenticated));
    }
}
