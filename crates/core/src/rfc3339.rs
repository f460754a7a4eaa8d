//! Times as people and programs read and write them: RFC 3339.

use crate::Timestamp;

const DAY: i64 = 86_400;

/// In UTC with all of its digits, 100 ns the last: what is read back is the same time.
pub fn exact(time: Timestamp) -> String {
    format!("{}.{:07}Z", seconds(time), time.ticks() % Timestamp::TICKS_PER_SECOND)
}

/// In UTC with microseconds; what is finer is cut off.
pub fn micros(time: Timestamp) -> String {
    format!("{}.{:06}Z", seconds(time), time.ticks() % Timestamp::TICKS_PER_SECOND / 10)
}

/// In UTC without punctuation and fractions, for names: `20240229T123456Z`.
pub fn compact(time: Timestamp) -> String {
    format!("{}Z", seconds(time).replace(['-', ':'], ""))
}

/// As `2024-02-29T12:34:56`, without what follows.
fn seconds(time: Timestamp) -> String {
    let seconds = time.ticks() / Timestamp::TICKS_PER_SECOND;
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = civil(days);
    let (hour, minute, second) = (second / 3_600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}")
}

/// The time in a text as `2024-02-29T12:34:56.5Z` or `2024-02-29T12:34:56+01:00`; of
/// finer fractions than 100 ns the rest is cut off.
pub fn parse(text: &str) -> Option<Timestamp> {
    let text = text.trim();
    let (date, rest) = text.split_once(['T', 't', ' '])?;
    let zone_at = rest.find(['Z', 'z', '+', '-'])?;
    let (clock, zone) = rest.split_at(zone_at);
    let offset = match zone {
        "Z" | "z" => 0,
        zone => {
            let (hours, minutes) = zone.get(1..)?.split_once(':')?;
            let seconds = number(hours, 2)? * 3_600 + number(minutes, 2)? * 60;
            if zone.starts_with('-') { -seconds } else { seconds }
        }
    };
    let mut date = date.splitn(3, '-');
    let (year, month, day) = (number(date.next()?, 4)?, number(date.next()?, 2)?, number(date.next()?, 2)?);
    let (clock, fraction) = clock.split_once('.').unwrap_or((clock, "0"));
    let mut clock = clock.splitn(3, ':');
    let (hour, minute, second) = (number(clock.next()?, 2)?, number(clock.next()?, 2)?, number(clock.next()?, 2)?);
    let is_date = (1970..=9999).contains(&year) && (1..=12).contains(&month) && (1..=31).contains(&day);
    if !is_date || hour > 23 || minute > 59 || second > 60 || !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let digits: String = fraction.chars().chain(std::iter::repeat('0')).take(7).collect();
    let seconds = days(year, month, day) * DAY + hour * 3_600 + minute * 60 + second - offset;
    let ticks = u64::try_from(seconds).ok()?.checked_mul(Timestamp::TICKS_PER_SECOND)?;
    Some(Timestamp::from_ticks(ticks + digits.parse::<u64>().ok()?))
}

fn number(text: &str, digits: usize) -> Option<i64> {
    let is_number = text.len() == digits && text.bytes().all(|byte| byte.is_ascii_digit());
    if is_number { text.parse().ok() } else { None }
}

/// Days from 1970-01-01 to a date of the Gregorian calendar: years begin in March, so
/// that the odd day is the last one, and 400 of them are one era.
fn days(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let (era, of_era) = (year / 400, year % 400);
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
}

/// The date this many days after 1970-01-01: the other way round.
fn civil(days: u64) -> (u64, u64, u64) {
    let shifted = days + 719_468;
    let era = shifted / 146_097;
    let day_of_era = shifted % 146_097;
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    (year_of_era + era * 400 + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_time_is_read_as_it_was_written(ticks in 0..2_500_000_000_000_000_000_u64) {
            let ticks = ticks % (8_000 * 366 * 86_400 * Timestamp::TICKS_PER_SECOND);
            let time = Timestamp::from_ticks(ticks);
            prop_assert_eq!(parse(&exact(time)), Some(time));
        }
    }

    #[test]
    fn times_are_read_with_their_zone() {
        let noon = Timestamp::from_ticks(1_709_210_096 * Timestamp::TICKS_PER_SECOND + 5_000_000);
        for text in ["2024-02-29T12:34:56.5Z", "2024-02-29 14:34:56.50+02:00", "2024-02-29t04:04:56.50000009-08:30"] {
            assert_eq!(parse(text), Some(noon), "{text}");
        }
        assert_eq!(compact(noon), "20240229T123456Z");
        for text in ["", "yesterday", "2024-02-29", "2024-02-29T12:34Z", "2024-02-29T12:34:56", "2024-13-01T00:00:00Z"]
        {
            assert_eq!(parse(text), None, "{text}");
        }
    }

    #[test]
    fn times_are_written_in_utc() {
        let seconds = |seconds: u64| Timestamp::from_ticks(seconds * Timestamp::TICKS_PER_SECOND);
        assert_eq!(micros(seconds(0)), "1970-01-01T00:00:00.000000Z");
        assert_eq!(micros(seconds(951_782_400)), "2000-02-29T00:00:00.000000Z");
        let fine = Timestamp::from_ticks(1_709_210_096 * Timestamp::TICKS_PER_SECOND + 79);
        assert_eq!(micros(fine), "2024-02-29T12:34:56.000007Z");
        assert_eq!(exact(fine), "2024-02-29T12:34:56.0000079Z");
    }
}
