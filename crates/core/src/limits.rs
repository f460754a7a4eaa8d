//! Every limit with its reason. Each is enforced before memory is taken for
//! what it limits.

/// Bytes of a stream's name. Names are keys in many places; half a KiB is far
/// above what applications use and keeps keys small.
pub const STREAM_NAME_BYTES_MAX: usize = 512;

/// Bytes of an event's type: it is the key of an index.
pub const EVENT_TYPE_BYTES_MAX: usize = 1024;

/// Bytes of one event as the protocol counts them (data, metadata, type).
/// The protocol's own ceiling (2.4), on which clients rely.
pub const EVENT_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Bytes of a gRPC message that `Streams` accepts (protocol 1.0).
pub const MESSAGE_BYTES_MAX: usize = 16 * 1024 * 1024 - 10_000;

/// Bytes of all events of one append by default. The protocol allows 256 MiB;
/// one append is one Raft entry held in memory on every node, so the default
/// is lower.
pub const APPEND_BYTES_MAX_DEFAULT: usize = 64 * 1024 * 1024;

/// The most that configuration may set for one append (protocol 2.4).
pub const APPEND_BYTES_MAX_CEILING: usize = 256 * 1024 * 1024;

/// Events of one append: with the byte limit it bounds the work of one entry.
pub const APPEND_EVENTS_MAX: usize = 100_000;

/// Streams one append may write or check.
pub const APPEND_STREAMS_MAX: usize = 1_000;

/// Event ids remembered for appends without an exact expectation, counted in
/// events of the whole log. Part of the replicated rules: a change of this
/// number is a change of the state's format version.
pub const REMEMBERED_IDS: u64 = 1_000_000;

/// Bytes of one regular expression in a filter.
pub const FILTER_REGEX_BYTES_MAX: usize = 1024;

/// Bytes of a regular expression as it is compiled, and of what it remembers
/// while it runs: a short one can stand for a large one.
pub const FILTER_COMPILED_BYTES_MAX: usize = 1024 * 1024;

/// Steps of backtracking for one text. Python's default filter takes a few
/// dozen; a nested quantifier that explodes passes this within a millisecond.
pub const FILTER_STEPS_MAX: usize = 10_000;

/// Prefixes in one filter.
pub const FILTER_PREFIXES_MAX: usize = 1_000;

/// Bytes of all prefixes of one filter: it is kept as long as its subscription.
pub const FILTER_PREFIX_BYTES_MAX: usize = 64 * 1024;

const _: () = assert!(APPEND_BYTES_MAX_DEFAULT <= APPEND_BYTES_MAX_CEILING);
const _: () = assert!(MESSAGE_BYTES_MAX < EVENT_BYTES_MAX);
