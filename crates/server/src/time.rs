//! Times as people and programs read them.

use std::time::SystemTime;

/// RFC 3339 in UTC, with microseconds. What is before 1970 is 1970.
pub fn rfc3339(time: SystemTime) -> String {
    annals_core::rfc3339::micros(time.into())
}
