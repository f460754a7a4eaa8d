//! How far something long is, on standard error: often for who sits there, seldom for
//! a log.

use std::io::IsTerminal as _;
use std::time::{Duration, Instant};

/// See the module.
pub(crate) struct Progress {
    every: Duration,
    said: Instant,
    begun: Instant,
}

impl Progress {
    pub(crate) fn new() -> Self {
        let every = Duration::from_secs(if std::io::stderr().is_terminal() { 1 } else { 10 });
        Progress { every, said: Instant::now(), begun: Instant::now() }
    }

    /// Says what `text` makes of the seconds since the beginning, if it is time.
    pub(crate) fn say(&mut self, text: impl FnOnce(f64) -> String) {
        if self.said.elapsed() >= self.every {
            self.said = Instant::now();
            eprintln!("{}", text(self.begun.elapsed().as_secs_f64()));
        }
    }
}
