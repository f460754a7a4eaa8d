//! Which events of the log a reader wants.
//!
//! The protocol's filters are prefixes or a regular expression in .NET's
//! dialect, applied to the stream's name or the event's type (protocol 3.6).
//! Negative look-ahead is in everyday use, so expressions that the linear-time
//! engine cannot run go to one with backtracking under a step limit; the
//! shape that Python's client sends by default is recognised and needs
//! neither.

use crate::limits::{
    FILTER_COMPILED_BYTES_MAX, FILTER_PREFIX_BYTES_MAX, FILTER_PREFIXES_MAX, FILTER_REGEX_BYTES_MAX, FILTER_STEPS_MAX,
};

/// What a filter looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subject {
    /// The name of the event's stream; for a link the link's own stream.
    Stream,
    /// The event's type.
    EventType,
}

/// A compiled filter. Cloning is cheap.
#[derive(Clone, Debug)]
pub struct Filter {
    subject: Subject,
    matcher: Matcher,
}

#[derive(Clone, Debug)]
enum Matcher {
    Prefixes(std::sync::Arc<[String]>),
    Linear(regex::Regex),
    Backtracking(std::sync::Arc<fancy_regex::Regex>),
    /// `^(?!(a|b|…)$)` and the like: everything that the inner one, anchored,
    /// does not match.
    Not(regex::Regex),
}

/// Why a filter cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Invalid {
    /// The expression cannot be compiled.
    #[error("the filter's regular expression cannot be used: {0}")]
    Regex(String),
    /// The expression is too long.
    #[error("a filter's regular expression has at most {FILTER_REGEX_BYTES_MAX} bytes, this one has {bytes}")]
    TooLong {
        /// Its length.
        bytes: usize,
    },
    /// Too many prefixes.
    #[error("a filter has at most {FILTER_PREFIXES_MAX} prefixes, this one has {count}")]
    TooManyPrefixes {
        /// How many.
        count: usize,
    },
    /// The prefixes are too long together.
    #[error("the prefixes of a filter have at most {FILTER_PREFIX_BYTES_MAX} bytes together, these have {bytes}")]
    PrefixesTooLong {
        /// Their bytes.
        bytes: usize,
    },
    /// Neither an expression nor a prefix.
    #[error("a filter needs a regular expression or at least one prefix")]
    Empty,
}

/// The backtracking engine gave up on an event.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the filter's regular expression takes too many steps on {subject:?}; use prefixes or a simpler expression")]
pub struct TooCostly {
    /// The text on which it gave up.
    pub subject: String,
}

impl Filter {
    /// A filter that passes what begins with any of these, byte for byte.
    ///
    /// # Errors
    /// [`Invalid`] without any prefix, with too many or too long ones.
    pub fn prefixes(subject: Subject, prefixes: Vec<String>) -> Result<Self, Invalid> {
        let bytes = prefixes.iter().map(String::len).sum();
        if bytes > FILTER_PREFIX_BYTES_MAX {
            return Err(Invalid::PrefixesTooLong { bytes });
        }
        match prefixes.len() {
            0 => Err(Invalid::Empty),
            count if count > FILTER_PREFIXES_MAX => Err(Invalid::TooManyPrefixes { count }),
            _ => Ok(Filter { subject, matcher: Matcher::Prefixes(prefixes.into()) }),
        }
    }

    /// A filter that passes what the expression matches anywhere.
    ///
    /// # Errors
    /// [`Invalid`] when it is too long or cannot be compiled.
    pub fn regex(subject: Subject, expression: &str) -> Result<Self, Invalid> {
        if expression.len() > FILTER_REGEX_BYTES_MAX {
            return Err(Invalid::TooLong { bytes: expression.len() });
        }
        let matcher = match compile(expression) {
            Ok(linear) => Matcher::Linear(linear),
            Err(reason) => match negated(expression).map(|inner| compile(&inner)) {
                Some(Ok(inner)) => Matcher::Not(inner),
                Some(Err(_)) | None => {
                    let mut builder = fancy_regex::RegexBuilder::new(expression);
                    builder
                        .backtrack_limit(FILTER_STEPS_MAX)
                        .delegate_size_limit(FILTER_COMPILED_BYTES_MAX)
                        .delegate_dfa_size_limit(FILTER_COMPILED_BYTES_MAX);
                    let compiled = builder.build().map_err(|_| Invalid::Regex(reason.to_string()))?;
                    Matcher::Backtracking(std::sync::Arc::new(compiled))
                }
            },
        };
        Ok(Filter { subject, matcher })
    }

    /// Whether an event of this stream with this type passes.
    ///
    /// # Errors
    /// [`TooCostly`]: the expression needs too many steps. Ends the read.
    pub fn passes(&self, stream: &str, event_type: &str) -> Result<bool, TooCostly> {
        let text = match self.subject {
            Subject::Stream => stream,
            Subject::EventType => event_type,
        };
        match &self.matcher {
            Matcher::Prefixes(prefixes) => Ok(prefixes.iter().any(|prefix| text.starts_with(prefix.as_str()))),
            Matcher::Linear(regex) => Ok(regex.is_match(text)),
            Matcher::Not(regex) => Ok(!regex.is_match(text)),
            Matcher::Backtracking(regex) => regex.is_match(text).map_err(|_| TooCostly { subject: text.to_owned() }),
        }
    }
}

fn compile(expression: &str) -> Result<regex::Regex, regex::Error> {
    let mut builder = regex::RegexBuilder::new(expression);
    builder.size_limit(FILTER_COMPILED_BYTES_MAX).dfa_size_limit(FILTER_COMPILED_BYTES_MAX).build()
}

/// The `inner` of `^(?!inner)`, which says "does not begin with inner".
/// Only when that one group is the whole expression.
fn negated(expression: &str) -> Option<String> {
    let inner = expression.strip_prefix("^(?!")?.strip_suffix(')')?;
    let mut depth = 0usize;
    let mut escaped = false;
    let mut class = false;
    for c in inner.chars() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '[' => class = true,
            ']' => class = false,
            '(' if !class => depth += 1,
            // Closed what was not opened: the suffix belonged to another group.
            ')' if !class => depth = depth.checked_sub(1)?,
            _ => {}
        }
    }
    (depth == 0 && !class && !escaped).then(|| format!("^(?:{inner})"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn passes(expression: &str, text: &str) -> bool {
        Filter::regex(Subject::EventType, expression).expect("compiles").passes("", text).expect("cheap")
    }

    #[test]
    fn the_default_of_the_python_client_excludes_system_events() {
        let default = r"^(?!(\$.+$|PersistentConfig\d+$|Result$))";
        let filter = Filter::regex(Subject::EventType, default).expect("compiles");
        assert!(matches!(filter.matcher, Matcher::Not(_)), "it needs no backtracking");
        for (event_type, expected) in [
            ("OrderPlaced", true),
            ("$metadata", false),
            ("PersistentConfig1", false),
            ("Result", false),
            ("Results", true),
            ("$", true),
        ] {
            assert_eq!(passes(default, event_type), expected, "{event_type}");
        }
    }

    #[test]
    fn the_common_default_excludes_what_begins_with_a_dollar() {
        assert!(passes(r"^[^\$].*", "a"));
        assert!(!passes(r"^[^\$].*", "$a"));
    }

    #[test]
    fn look_ahead_elsewhere_backtracks() {
        assert!(passes(r"Order(?!Placed)", "OrderPaid"));
        assert!(!passes(r"Order(?!Placed)", "OrderPlaced"));
        assert!(passes(r"^(?!(a))(?!(b))", "c"));
        assert!(!passes(r"^(?!(a))(?!(b))", "b"));
    }

    #[test]
    fn an_expression_that_explodes_is_stopped() {
        let filter = Filter::regex(Subject::EventType, r"^(?=((a+)+)+$)\1b(?!c)").expect("compiles");
        assert!(filter.passes("", &"a".repeat(64)).is_err() || !filter.passes("", &"a".repeat(64)).expect("cheap"));
        let filter = Filter::regex(Subject::EventType, r"(?!x)(a|a)*(?<!b)c\z(?!d)").expect("compiles");
        let _ = filter.passes("", &"a".repeat(2000));
    }

    #[test]
    fn what_cannot_be_compiled_says_why() {
        assert!(matches!(Filter::regex(Subject::Stream, "("), Err(Invalid::Regex(_))));
        assert!(matches!(Filter::regex(Subject::Stream, &"a".repeat(2000)), Err(Invalid::TooLong { bytes: 2000 })));
        assert!(matches!(Filter::prefixes(Subject::Stream, vec![]), Err(Invalid::Empty)));
        let long = Filter::prefixes(Subject::Stream, vec!["a".repeat(40_000), "b".repeat(40_000)]);
        assert!(matches!(long, Err(Invalid::PrefixesTooLong { bytes: 80_000 })));
    }

    #[test]
    fn prefixes_are_compared_byte_for_byte() {
        let filter = Filter::prefixes(Subject::Stream, vec!["order-".into(), "Ö".into()]).expect("valid");
        assert_eq!(filter.passes("order-1", ""), Ok(true));
        assert_eq!(filter.passes("Order-1", ""), Ok(false));
        assert_eq!(filter.passes("Öl", ""), Ok(true));
    }
}
