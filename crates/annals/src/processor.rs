//! What the binary needs of the processor.
//!
//! RocksDB is compiled for instructions that compute its checksums
//! (`scripts/rocksdb`). Where they are missing the process would end at the first
//! checksum with a signal and no word.

/// What this processor lacks, if anything.
pub(crate) fn lacks() -> Option<&'static str> {
    #[cfg(target_arch = "x86_64")]
    {
        if !std::arch::is_x86_feature_detected!("sse4.2") {
            return Some("SSE4.2");
        }
        if !std::arch::is_x86_feature_detected!("pclmulqdq") {
            return Some("PCLMULQDQ");
        }
    }
    None
}
