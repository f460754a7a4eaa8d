//! What is running.

/// The version of Annals.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The commit it was built from, or `unknown`.
pub const COMMIT: &str = env!("ANNALS_COMMIT");

/// The compiler that built it.
pub const RUSTC: &str = env!("ANNALS_RUSTC");

/// The version of the server whose protocol this is, as clients are told:
/// they switch features on by it.
pub const PROTOCOL: &str = "26.1.0";
