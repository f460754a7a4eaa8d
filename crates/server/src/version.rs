//! What is running.

/// The version of Annals.
#[cfg(not(feature = "seeded-bugs"))]
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The version of Annals, with a mark that nobody can overlook.
#[cfg(feature = "seeded-bugs")]
pub const VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), "+seeded-bugs");

/// The commit it was built from, or `unknown`.
pub const COMMIT: &str = env!("ANNALS_COMMIT");

/// The compiler that built it.
pub const RUSTC: &str = env!("ANNALS_RUSTC");

/// The version of the server whose protocol this is, as clients are told:
/// they switch features on by it.
pub const PROTOCOL: &str = "26.1.0";
