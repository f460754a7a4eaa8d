//! Which records a read of the log delivers.

use annals_store::Record;

use super::query::SelectedBy;
use crate::status::Failure;

/// Whether a read of the log delivers this record.
pub(super) fn selects(by: Option<&SelectedBy>, record: &Record) -> Result<bool, Failure> {
    if record.is_reclaimed() {
        return Ok(false);
    }
    let Some(by) = by else { return Ok(true) };
    if is_bookkeeping(record.stream()) {
        return Ok(false);
    }
    match by {
        SelectedBy::Filter(filter) => Ok(filter.passes(record.stream(), record.event_type())?),
        SelectedBy::Everything => Ok(true),
        SelectedBy::NotSystem => Ok(!record.stream().starts_with('$')),
        // Read from the index, which holds nothing else.
        SelectedBy::Index(_) => Ok(true),
    }
}

/// Streams that no filtered read shows: a consumer group on everything would
/// otherwise feed on its own checkpoints (protocol 3.6).
fn is_bookkeeping(stream: &str) -> bool {
    const GROUPS_ON_ALL: &str = "$persistentsubscription-$all::";
    // What describes such a stream is of its kind.
    let stream = stream.strip_prefix("$$").unwrap_or(stream);
    stream == "$epoch-information"
        || (stream.starts_with(GROUPS_ON_ALL) && (stream.ends_with("-checkpoint") || stream.ends_with("-parked")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bookkeeping_is_hidden_and_nothing_else() {
        assert!(is_bookkeeping("$persistentsubscription-$all::group-checkpoint"));
        assert!(is_bookkeeping("$persistentsubscription-$all::group-parked"));
        assert!(!is_bookkeeping("$persistentsubscription-stream::group-parked"));
        assert!(!is_bookkeeping("$settings"));
    }
}
