//! Times on the command line.

use std::time::Duration;

/// `80s`, `10m`, `1h`, or a number of seconds.
pub(crate) fn time(text: &str) -> Result<Duration, String> {
    let (number, unit) = match text.char_indices().find(|(_, letter)| !letter.is_ascii_digit()) {
        Some((at, _)) => text.split_at(at),
        None => (text, "s"),
    };
    let factor = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3_600,
        _ => return Err("write a time as 80s, 10m or 1h".to_owned()),
    };
    let seconds = number.parse::<u64>().ok().and_then(|number| number.checked_mul(factor)).filter(|number| *number > 0);
    seconds.map(Duration::from_secs).ok_or_else(|| "write a time as 80s, 10m or 1h".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_with_their_unit() {
        assert_eq!(time("80s"), Ok(Duration::from_secs(80)));
        assert_eq!(time("80"), Ok(Duration::from_secs(80)));
        assert_eq!(time("10m"), Ok(Duration::from_secs(600)));
        assert_eq!(time("1h"), Ok(Duration::from_secs(3_600)));
        for text in ["", "s", "0s", "1d", "-1s", "1.5m", "99999999999999999999h"] {
            assert!(time(text).is_err(), "{text}");
        }
    }
}
