//! Times as people write them.

use std::fmt::{self, Display, Formatter};

use crate::history::{Nanos, Record};

/// How long the run lasted: until the last thing that has a time.
pub(super) fn run_length(records: &[Record]) -> Nanos {
    let time = |record: &Record| match record {
        Record::Append(call) => call.complete.unwrap_or(call.invoke),
        Record::Delete(call) => call.complete.unwrap_or(call.invoke),
        Record::Read(call) => call.complete.unwrap_or(call.invoke),
        Record::Opened(opened) => opened.time,
        Record::Delivered(delivered) => delivered.time,
        Record::CaughtUp(caught_up) => caught_up.time,
        Record::Dropped(dropped) => dropped.time,
        Record::Closed(closed) => closed.time,
        Record::Fault(fault) => fault.end,
        Record::Hash(hash) => hash.time,
        Record::Group(group) => group.step.time().unwrap_or(0),
        Record::Run(_) | Record::Subscription(_) | Record::Final(_) => 0,
    };
    records.iter().map(time).max().unwrap_or(0)
}

/// A length of time in the unit that suits it.
pub(super) struct Span(pub(super) Nanos);

impl Display for Span {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let nanos = self.0;
        let (unit, name) = match nanos {
            0 => return f.write_str("0"),
            1..1_000 => return write!(f, "{nanos} ns"),
            1_000..1_000_000 => (1e3, "µs"),
            1_000_000..1_000_000_000 => (1e6, "ms"),
            1_000_000_000..120_000_000_000 => (1e9, "s"),
            _ => {
                let seconds = nanos / 1_000_000_000;
                return match seconds / 3600 {
                    0 => write!(f, "{} min {:02} s", seconds / 60, seconds % 60),
                    hours => write!(f, "{hours} h {:02} min", seconds / 60 % 60),
                };
            }
        };
        // Three digits that count, and no zeros behind them.
        let value = nanos as f64 / unit;
        let digits = if value < 10.0 { 2 } else { usize::from(value < 100.0) };
        let text = format!("{value:.digits$}");
        let text = if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { &text };
        write!(f, "{text} {name}")
    }
}

/// Seconds since 1970 as a date.
pub(super) struct Date(pub(super) u64);

impl Display for Date {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let (days, second) = (self.0 / 86_400, self.0 % 86_400);
        // Years begin in March here, so that the leap day is a year's last,
        // and are counted in cycles of 400, which have 146 097 days.
        let days = days + 719_468;
        let (cycle, day) = (days / 146_097, days % 146_097);
        let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
        let day = day - (365 * year + year / 4 - year / 100);
        let month = (5 * day + 2) / 153;
        let day = day - (153 * month + 2) / 5 + 1;
        let (month, next) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
        let year = cycle * 400 + year + next;
        let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
        write!(f, "{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02} UTC")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_span_is_given_in_the_unit_that_suits_it() {
        for (nanos, text) in [
            (0, "0"),
            (17, "17 ns"),
            (1_500, "1.5 µs"),
            (23_040_000, "23 ms"),
            (999_000_000, "999 ms"),
            (61_250_000_000, "61.2 s"),
            (125_000_000_000, "2 min 05 s"),
            (7_320_000_000_000, "2 h 02 min"),
        ] {
            assert_eq!(Span(nanos).to_string(), text);
        }
    }

    #[test]
    fn a_date_knows_leap_years() {
        assert_eq!(Date(0).to_string(), "1970-01-01 00:00:00 UTC");
        assert_eq!(Date(951_782_400).to_string(), "2000-02-29 00:00:00 UTC");
        assert_eq!(Date(1_767_225_599).to_string(), "2025-12-31 23:59:59 UTC");
    }
}
