//! How long a measurement takes, as it is asked for on the command line.

use std::time::Duration;

use crate::load::{Pace, Plan};

/// Flags of every measurement that is bounded by time.
#[derive(Clone, Copy, Debug, clap::Args)]
pub struct Length {
    /// Seconds that count.
    #[arg(long, default_value_t = 10, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub seconds: u64,

    /// Seconds before them, which do not.
    #[arg(long, default_value_t = 2, value_name = "N")]
    pub warm_up: u64,
}

impl Length {
    /// From the first request to the last.
    pub fn total(&self) -> Duration {
        Duration::from_secs(self.warm_up.saturating_add(self.seconds))
    }

    /// At this many requests a second; closed without a rate.
    pub fn plan(&self, rate: Option<f64>) -> Plan {
        Plan {
            warm_up: Duration::from_secs(self.warm_up),
            measure: Duration::from_secs(self.seconds),
            pace: rate.map_or(Pace::Closed, |rate| Pace::Open { rate }),
        }
    }
}

/// A number of requests a second.
pub(crate) fn rate(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(rate) if rate.is_finite() && rate > 0.0 => Ok(rate),
        Ok(_) | Err(_) => Err("write a number above 0".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::rate;

    #[test]
    fn a_rate_is_a_number_above_nothing() {
        assert_eq!(rate("0.5"), Ok(0.5));
        for text in ["0", "-1", "NaN", "inf", "many"] {
            assert!(rate(text).is_err(), "{text}");
        }
    }
}
