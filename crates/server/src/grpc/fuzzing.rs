//! For the fuzz targets alone: requests of the other services.

/// Every call of consumer groups. The first byte chooses which.
pub fn groups(bytes: &[u8]) -> String {
    super::persistent_subscriptions::fuzzed(bytes)
}

/// Appends over many streams: `AppendRecords`, or a request of `AppendSession`.
pub fn records(bytes: &[u8]) -> String {
    super::streams_v2::fuzzed(bytes)
}
