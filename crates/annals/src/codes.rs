//! Error codes: which error has which, and the page that explains it.
//!
//! A code is for people who search, and for runbooks. It says what to do, so errors
//! with the same way out share one. The pages are those of the documentation.

use annals_client::Error as ClientError;
use annals_server::RunError;
use annals_server::config::Invalid;

macro_rules! pages {
    ($($code:literal),+ $(,)?) => {
        /// Every code with its page, in order.
        pub(crate) const PAGES: &[(&str, &str)] =
            &[$(($code, include_str!(concat!("../../../docs/errors/", $code, ".md")))),+];
    };
}

pages!(
    "ANN-1001", "ANN-1002", "ANN-1003", "ANN-1004", "ANN-1005", "ANN-1006", "ANN-1007", "ANN-1008", "ANN-1009",
    "ANN-1010", "ANN-1011", "ANN-1012", "ANN-2001", "ANN-2002", "ANN-2003", "ANN-2004", "ANN-2005", "ANN-2006",
    "ANN-2007", "ANN-2008", "ANN-2009", "ANN-3001", "ANN-3002", "ANN-3003", "ANN-3004", "ANN-3005", "ANN-3006",
    "ANN-3007", "ANN-3008", "ANN-3009", "ANN-3010", "ANN-3011", "ANN-3012", "ANN-3013", "ANN-3014", "ANN-3015",
    "ANN-3016", "ANN-3017",
);

/// The code of an error, if it has one.
pub(crate) fn of(error: &anyhow::Error) -> Option<&'static str> {
    error.chain().find_map(|cause| {
        if let Some(error) = cause.downcast_ref::<RunError>() {
            return Some(error.code());
        }
        if let Some(error) = cause.downcast_ref::<Invalid>() {
            return Some(error.code());
        }
        cause.downcast_ref::<ClientError>().and_then(ClientError::code)
    })
}

/// The first line of a page without its code.
pub(crate) fn title(page: &str) -> &str {
    let heading = page.lines().next().unwrap_or_default();
    heading.split_once(": ").map_or(heading, |(_, title)| title)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_page_begins_with_its_code_and_says_what_to_do() {
        for (code, page) in PAGES {
            assert!(page.starts_with(&format!("# {code}: ")), "{code}");
            assert!(page.contains("\n## What to do\n"), "{code}");
            assert!(!title(page).is_empty(), "{code}");
        }
        assert!(PAGES.is_sorted());
    }

    #[test]
    fn every_code_that_is_given_has_a_page() {
        let sources = [
            include_str!("codes.rs"),
            include_str!("../../server/src/error_code.rs"),
            include_str!("../../client/src/error_code.rs"),
            include_str!("commands/doctor/certificates.rs"),
            include_str!("commands/doctor/clocks.rs"),
            include_str!("commands/doctor/cluster.rs"),
            include_str!("commands/doctor/machine.rs"),
            include_str!("commands/doctor/names.rs"),
        ];
        let given = sources.iter().flat_map(|source| source.split('"')).filter(|text| {
            text.len() == 8 && text.starts_with("ANN-") && text.bytes().skip(4).all(|byte| byte.is_ascii_digit())
        });
        for code in given {
            assert!(PAGES.iter().any(|(known, _)| *known == code), "{code} has no page");
        }
    }
}
