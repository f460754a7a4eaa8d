//! Where a read begins.

use annals_core::{Position, Revision};
use annals_store::{Direction, IndexName, PageLimit, Store};

use super::page::broken;
use super::query::Start;
use crate::status::Failure;

pub(super) fn start_number(start: Start<Revision>) -> Start<u64> {
    match start {
        Start::Beginning => Start::Beginning,
        Start::At(revision) => Start::At(revision.get()),
        Start::End => Start::End,
    }
}

/// Where a counted read of a stream begins, inclusive; none where it finds
/// nothing (protocol 3.2).
pub(super) fn first_number(start: Start<u64>, last: Option<u64>, direction: Direction) -> Option<u64> {
    let last = last?;
    match (start, direction) {
        (Start::Beginning, Direction::Forward | Direction::Backward) => Some(0),
        (Start::At(number), Direction::Forward) => (number <= last).then_some(number),
        (Start::At(number), Direction::Backward) => Some(number.min(last)),
        (Start::End, Direction::Forward) => None,
        (Start::End, Direction::Backward) => Some(last),
    }
}

/// Where a counted read of the log begins, inclusive. Backwards the protocol
/// excludes the position it is given (3.2).
pub(super) fn first_position(start: Start<Position>, end: Position, direction: Direction) -> Option<Position> {
    let first = match (start, direction) {
        (Start::Beginning, Direction::Forward) => Position::START.next(),
        (Start::At(position), Direction::Forward) => position.max(Position::START.next()),
        (Start::At(position), Direction::Backward) => Position::new(position.get().saturating_sub(1)).min(end),
        (Start::End, Direction::Backward) => end,
        (Start::Beginning, Direction::Backward) | (Start::End, Direction::Forward) => return None,
    };
    (first > Position::START && first <= end).then_some(first)
}

/// The number of the first entry of an index at or after a position; its
/// length where there is none. Entries are in the order of positions.
pub(super) fn number_from(store: &Store, index: &IndexName, len: u64, position: Position) -> Result<u64, Failure> {
    let one = PageLimit { records: 1, bytes: 1 };
    let (mut low, mut high) = (0, len);
    while low < high {
        let middle = low + (high - low) / 2;
        let entry = store.read_index(index, middle, Direction::Forward, one).map_err(|error| broken(&error))?;
        match entry.first() {
            Some(entry) if entry.record.position() < position => low = middle + 1,
            Some(_) | None => high = middle,
        }
    }
    Ok(low)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FORWARD: Direction = Direction::Forward;
    const BACKWARD: Direction = Direction::Backward;

    #[test]
    fn a_read_of_a_stream_begins_where_the_protocol_says() {
        for (start, direction, expected) in [
            (Start::Beginning, FORWARD, Some(0)),
            (Start::Beginning, BACKWARD, Some(0)),
            (Start::End, FORWARD, None),
            (Start::End, BACKWARD, Some(9)),
            (Start::At(4), FORWARD, Some(4)),
            (Start::At(4), BACKWARD, Some(4)),
            (Start::At(9), FORWARD, Some(9)),
            (Start::At(10), FORWARD, None),
            (Start::At(10), BACKWARD, Some(9)),
        ] {
            assert_eq!(first_number(start, Some(9), direction), expected, "{start:?} {direction:?}");
            assert_eq!(first_number(start, None, direction), None);
        }
    }

    #[test]
    fn a_read_of_the_log_includes_its_position_forwards_and_excludes_it_backwards() {
        let at = |number| Start::At(Position::new(number));
        for (start, direction, expected) in [
            (Start::Beginning, FORWARD, Some(1)),
            (Start::Beginning, BACKWARD, None),
            (Start::End, FORWARD, None),
            (Start::End, BACKWARD, Some(9)),
            (at(0), FORWARD, Some(1)),
            (at(0), BACKWARD, None),
            (at(1), BACKWARD, None),
            (at(4), FORWARD, Some(4)),
            (at(4), BACKWARD, Some(3)),
            (at(10), FORWARD, None),
            (at(100), BACKWARD, Some(9)),
        ] {
            let first = first_position(start, Position::new(9), direction);
            assert_eq!(first, expected.map(Position::new), "{start:?} {direction:?}");
        }
        for direction in [FORWARD, BACKWARD] {
            assert_eq!(first_position(Start::Beginning, Position::START, direction), None);
            assert_eq!(first_position(Start::End, Position::START, direction), None);
        }
    }
}
