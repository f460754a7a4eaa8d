//! What this process has logged lately, and how much it logs.
//!
//! Lines are written by whoever subscribes to `tracing`, which is the binary's
//! affair. It gives each line to [`Logs::record`] as well, so that an operator can
//! read the last of them from afar, and tells with [`Logs::control`] how the level
//! is changed.
//!
//! - What is kept is bounded in lines and in bytes; the oldest go first.
//! - Recording never waits for a reader and logs nothing itself. A reader that is
//!   too slow is told how many lines it missed.
//! - A level that was set for a time ends by itself. The one that is configured
//!   takes its place, also when the configuration has changed meanwhile.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;
use tokio::sync::watch;

/// Lines that are kept.
const LINES_MAX: usize = 5_000;

/// Bytes of text of all lines that are kept.
const BYTES_MAX: usize = 4 * 1024 * 1024;

/// Bytes of one line; what is longer is cut.
const LINE_BYTES_MAX: usize = 8 * 1024;

/// Bytes of directives.
pub const DIRECTIVES_BYTES_MAX: usize = 1_024;

/// How long a level that was set for a time may hold.
pub const TEMPORARY_MAX: Duration = Duration::from_secs(24 * 3600);

/// How grave a line is, the gravest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Gravity {
    /// Somebody must act.
    Error,
    /// Somebody should look.
    Warn,
    /// A change of state.
    Info,
    /// For who looks for a cause.
    Debug,
    /// Every step.
    Trace,
}

impl Gravity {
    /// All of them.
    pub const ALL: [Gravity; 5] = [Gravity::Error, Gravity::Warn, Gravity::Info, Gravity::Debug, Gravity::Trace];

    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Gravity::Error => "error",
            Gravity::Warn => "warn",
            Gravity::Info => "info",
            Gravity::Debug => "debug",
            Gravity::Trace => "trace",
        }
    }

    /// What this word means.
    pub fn named(word: &str) -> Option<Gravity> {
        Gravity::ALL.into_iter().find(|gravity| gravity.as_str().eq_ignore_ascii_case(word))
    }
}

/// A line of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// Counts from 1 at the start of the process; given by [`Logs::record`].
    pub number: u64,
    /// When it was logged.
    pub at: SystemTime,
    /// How grave it is.
    pub gravity: Gravity,
    /// The module that says it.
    pub target: String,
    /// The sentence.
    pub message: String,
    /// Names and values, in the order in which they are logged.
    pub fields: Vec<(String, String)>,
}

impl Line {
    fn bytes(&self) -> usize {
        let fields: usize = self.fields.iter().map(|(name, value)| name.len() + value.len()).sum();
        self.target.len() + self.message.len() + fields
    }

    /// Cuts what is too long, at the boundary of a character.
    fn cut(mut self) -> Line {
        let mut left = LINE_BYTES_MAX;
        let texts = [&mut self.target, &mut self.message].into_iter();
        for text in texts.chain(self.fields.iter_mut().flat_map(|(name, value)| [name, value])) {
            text.truncate(text.floor_char_boundary(left));
            left -= text.len();
        }
        self
    }
}

/// How much is logged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Level {
    /// The directives that hold.
    pub directives: String,
    /// Those that are configured.
    pub configured: String,
    /// When the former make place for the latter, if that is certain.
    pub until: Option<SystemTime>,
}

/// Why a level cannot be set.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LevelError {
    /// Nobody has said how.
    #[error("the log of this process cannot be changed")]
    Fixed,
    /// They are not understood.
    #[error("\"{directives}\" cannot be used: {why}. Write a level or directives, such as info,raft=debug")]
    Directives {
        /// What was asked for.
        directives: String,
        /// What is wrong about it.
        why: String,
    },
    /// They would be kept and told again.
    #[error("directives have at most {DIRECTIVES_BYTES_MAX} bytes")]
    TooLong,
    /// It would be forgotten.
    #[error("a level holds for a day at most")]
    TooLasting,
}

/// Makes directives hold, or says what is wrong about them. Is given those that
/// are configured and those that were set at run time, if any.
type Apply = Box<dyn Fn(&str, Option<&str>) -> Result<(), String> + Send + Sync>;

/// The log of this process. Cloning shares it.
#[derive(Clone)]
pub struct Logs(Arc<Inner>);

struct Inner {
    kept: Mutex<Kept>,
    /// The number of the newest line.
    newest: watch::Sender<u64>,
    counted: [AtomicU64; 5],
    left_out: AtomicU64,
    control: Mutex<Option<Control>>,
}

#[derive(Default)]
struct Kept {
    lines: VecDeque<Arc<Line>>,
    bytes: usize,
}

struct Control {
    apply: Apply,
    configured: String,
    /// What was set at run time, and until when.
    set: Option<(String, Option<SystemTime>)>,
    /// Counts the changes: the end of one must not end another.
    changes: u64,
}

impl Default for Logs {
    /// A log of which nothing is known and that nobody can change.
    fn default() -> Self {
        Logs(Arc::new(Inner {
            kept: Mutex::default(),
            newest: watch::Sender::new(0),
            counted: Default::default(),
            left_out: AtomicU64::new(0),
            control: Mutex::new(None),
        }))
    }
}

impl Logs {
    /// From now on the level can be changed. `configured` holds already.
    pub fn control(
        &self,
        configured: &str,
        apply: impl Fn(&str, Option<&str>) -> Result<(), String> + Send + Sync + 'static,
    ) {
        let configured = configured.to_owned();
        *self.0.control.lock() = Some(Control { apply: Box::new(apply), configured, set: None, changes: 0 });
    }

    /// Keeps a line, whose number is given here.
    pub fn record(&self, line: Line) {
        let inner = &self.0;
        if let Some(counter) = inner.counted.get(line.gravity as usize) {
            counter.fetch_add(1, Ordering::Relaxed);
        }
        let mut line = line.cut();
        let mut kept = inner.kept.lock();
        line.number = kept.lines.back().map_or(0, |last| last.number) + 1;
        let number = line.number;
        kept.bytes += line.bytes();
        kept.lines.push_back(Arc::new(line));
        while kept.lines.len() > LINES_MAX || (kept.bytes > BYTES_MAX && kept.lines.len() > 1) {
            let Some(oldest) = kept.lines.pop_front() else { break };
            kept.bytes -= oldest.bytes();
        }
        // Under the lock, so that the number never goes back.
        inner.newest.send_replace(number);
    }

    /// A line was not logged, because there are too many like it.
    pub fn leave_out(&self) {
        self.0.left_out.fetch_add(1, Ordering::Relaxed);
    }

    /// Lines that were not logged.
    pub(crate) fn left_out(&self) -> u64 {
        self.0.left_out.load(Ordering::Relaxed)
    }

    /// Lines that were logged, by level.
    pub(crate) fn counted(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        let counts = self.0.counted.iter().map(|counter| counter.load(Ordering::Relaxed));
        Gravity::ALL.into_iter().map(Gravity::as_str).zip(counts)
    }

    /// At most `limit` of the lines that are kept and come after a number.
    pub(crate) fn after(&self, number: u64, limit: usize) -> Vec<Arc<Line>> {
        let kept = self.0.kept.lock();
        let first = kept.lines.partition_point(|line| line.number <= number);
        kept.lines.iter().skip(first).take(limit).cloned().collect()
    }

    /// All lines that are kept, the oldest first.
    pub fn kept(&self) -> Vec<Arc<Line>> {
        self.after(0, usize::MAX)
    }

    /// The number of the newest line, and when it changes.
    pub(crate) fn newest(&self) -> watch::Receiver<u64> {
        self.0.newest.subscribe()
    }

    /// How much is logged now.
    pub fn level(&self) -> Level {
        match &*self.0.control.lock() {
            Some(control) => control.level(),
            None => Level { directives: String::new(), configured: String::new(), until: None },
        }
    }

    /// Changes how much is logged, for some time or until the next restart or
    /// reload. To be called on a runtime, which ends it.
    ///
    /// # Errors
    /// Nothing has changed.
    pub fn set(&self, directives: &str, time: Option<Duration>) -> Result<Level, LevelError> {
        if directives.len() > DIRECTIVES_BYTES_MAX {
            return Err(LevelError::TooLong);
        }
        if time.is_some_and(|time| time > TEMPORARY_MAX) {
            return Err(LevelError::TooLasting);
        }
        let mut control = self.0.control.lock();
        let control = control.as_mut().ok_or(LevelError::Fixed)?;
        control.change(&control.configured.clone(), Some(directives))?;
        let until = time.map(|time| SystemTime::now() + time);
        control.set = Some((directives.to_owned(), until));
        if let Some(time) = time {
            let (logs, change) = (self.clone(), control.changes);
            tokio::spawn(async move {
                tokio::time::sleep(time).await;
                logs.end(change);
            });
        }
        Ok(control.level())
    }

    /// Logs as configured again.
    ///
    /// # Errors
    /// Nothing has changed.
    pub fn reset(&self) -> Result<Level, LevelError> {
        let mut control = self.0.control.lock();
        let control = control.as_mut().ok_or(LevelError::Fixed)?;
        control.configure(&control.configured.clone())
    }

    /// Logs as configured, which is this from now on.
    ///
    /// # Errors
    /// Nothing has changed.
    pub fn configure(&self, configured: &str) -> Result<Level, LevelError> {
        self.0.control.lock().as_mut().ok_or(LevelError::Fixed)?.configure(configured)
    }

    /// Ends a change, unless another one came after it.
    fn end(&self, change: u64) {
        let ended = {
            let mut control = self.0.control.lock();
            let current = control.as_mut().filter(|control| control.changes == change);
            current.map(|control| control.configure(&control.configured.clone()))
        };
        // Not while the lock is held: whoever logs may ask for the level.
        if let Some(Ok(level)) = ended {
            tracing::info!(level = level.directives, "the log level that was set for a time has ended");
        }
    }
}

impl Control {
    fn change(&mut self, configured: &str, set: Option<&str>) -> Result<(), LevelError> {
        (self.apply)(configured, set)
            .map_err(|why| LevelError::Directives { directives: set.unwrap_or(configured).to_owned(), why })?;
        self.changes += 1;
        Ok(())
    }

    fn configure(&mut self, configured: &str) -> Result<Level, LevelError> {
        self.change(configured, None)?;
        self.configured = configured.to_owned();
        self.set = None;
        Ok(self.level())
    }

    fn level(&self) -> Level {
        let set = self.set.as_ref();
        Level {
            directives: set.map_or(&self.configured, |(directives, _)| directives).clone(),
            configured: self.configured.clone(),
            until: set.and_then(|(_, until)| *until),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(message: &str) -> Line {
        Line {
            number: 0,
            at: SystemTime::UNIX_EPOCH,
            gravity: Gravity::Info,
            target: "annals".to_owned(),
            message: message.to_owned(),
            fields: Vec::new(),
        }
    }

    fn messages(lines: &[Arc<Line>]) -> Vec<&str> {
        lines.iter().map(|line| line.message.as_str()).collect()
    }

    #[test]
    fn the_last_lines_are_kept_and_numbered() {
        let logs = Logs::default();
        for number in 1..=LINES_MAX + 2 {
            logs.record(line(&number.to_string()));
        }
        let kept = logs.after(0, usize::MAX);
        assert_eq!((kept.len(), kept[0].number, kept[0].message.as_str()), (LINES_MAX, 3, "3"));
        assert_eq!(messages(&logs.after(LINES_MAX as u64, 1)), [(LINES_MAX + 1).to_string()]);
        assert_eq!(*logs.newest().borrow(), LINES_MAX as u64 + 2);
        assert_eq!(logs.counted().find(|(level, _)| *level == "info"), Some(("info", LINES_MAX as u64 + 2)));
    }

    #[test]
    fn bytes_are_bounded_too() {
        let logs = Logs::default();
        let long = "ä".repeat(LINE_BYTES_MAX);
        for _ in 0..2 * BYTES_MAX / LINE_BYTES_MAX {
            logs.record(line(&long));
        }
        let kept = logs.after(0, usize::MAX);
        assert!(kept.iter().all(|line| line.bytes() <= LINE_BYTES_MAX));
        let bytes: usize = kept.iter().map(|line| line.bytes()).sum();
        assert!((BYTES_MAX - LINE_BYTES_MAX..=BYTES_MAX).contains(&bytes), "{bytes}");
    }

    fn controlled() -> (Logs, Arc<Mutex<Vec<String>>>) {
        let (logs, applied) = (Logs::default(), Arc::new(Mutex::new(Vec::new())));
        let told = applied.clone();
        logs.control("info", move |configured, set| {
            if set == Some("nonsense") {
                return Err("it is nonsense".to_owned());
            }
            told.lock().push(format!("{configured} {}", set.unwrap_or("-")));
            Ok(())
        });
        (logs, applied)
    }

    #[tokio::test(start_paused = true)]
    async fn a_level_for_a_time_ends_and_one_that_came_later_does_not() {
        let (logs, applied) = controlled();
        logs.set("raft=debug", Some(Duration::from_secs(60))).expect("sound");
        assert!(logs.level().until.is_some());
        tokio::time::sleep(Duration::from_secs(61)).await;
        assert_eq!(logs.level(), Level { directives: "info".into(), configured: "info".into(), until: None });

        logs.set("raft=debug", Some(Duration::from_secs(60))).expect("sound");
        logs.set("trace", None).expect("sound");
        tokio::time::sleep(Duration::from_secs(61)).await;
        assert_eq!(logs.level().directives, "trace");
        let expected = ["info raft=debug", "info -", "info raft=debug", "info trace"];
        assert_eq!(*applied.lock(), expected);
    }

    #[tokio::test]
    async fn what_cannot_be_used_changes_nothing() {
        let (logs, applied) = controlled();
        assert!(matches!(logs.set("nonsense", None), Err(LevelError::Directives { .. })));
        assert_eq!(logs.set(&"x".repeat(DIRECTIVES_BYTES_MAX + 1), None), Err(LevelError::TooLong));
        assert_eq!(logs.set("debug", Some(TEMPORARY_MAX * 2)), Err(LevelError::TooLasting));
        assert_eq!(Logs::default().set("debug", None), Err(LevelError::Fixed));
        assert_eq!(logs.level().directives, "info");
        assert!(applied.lock().is_empty());
    }

    #[tokio::test]
    async fn a_new_configuration_takes_the_place_of_what_was_set() {
        let (logs, _) = controlled();
        logs.set("debug", None).expect("sound");
        let level = logs.configure("warn").expect("sound");
        assert_eq!(level, Level { directives: "warn".into(), configured: "warn".into(), until: None });
    }
}
