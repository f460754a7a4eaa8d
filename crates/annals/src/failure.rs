//! How a command fails: what is said, and the exit code.

use std::process::ExitCode;

use annals_client::error::Kind;

use crate::codes;

/// Why a command failed, and with which exit code.
#[derive(Debug)]
pub(crate) struct Failure {
    code: Code,
    error: anyhow::Error,
}

/// The exit codes, the same for every command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Code {
    /// Anything without a code of its own.
    Failed = 1,
    /// The command or the configuration makes no sense.
    Usage = 2,
    /// What was asked for is not there.
    NotFound = 3,
    /// Not in the expected state.
    Conflict = 4,
    /// Nobody answers.
    Unavailable = 5,
    /// It answers, and is not well.
    Unhealthy = 6,
}

impl Failure {
    /// A failure with this code.
    pub(crate) fn new(code: Code, error: impl Into<anyhow::Error>) -> Self {
        Failure { code, error: error.into() }
    }

    /// A command or configuration that makes no sense.
    pub(crate) fn usage(text: impl std::fmt::Display) -> Self {
        Failure::new(Code::Usage, anyhow::anyhow!("{text}"))
    }

    /// What it is, with all causes.
    pub(crate) fn text(&self) -> String {
        format!("{:#}", self.error)
    }

    /// Says it, with all causes.
    pub(crate) fn report(&self) -> ExitCode {
        // A reader that went away, as in `annals all read | head`, is no error.
        if self.error.chain().any(is_broken_pipe) {
            return ExitCode::SUCCESS;
        }
        match codes::of(&self.error) {
            Some(code) => eprintln!("error[{code}]: {:#}\n  what to do: annals explain {code}", self.error),
            None => eprintln!("error: {:#}", self.error),
        }
        ExitCode::from(self.code as u8)
    }
}

fn is_broken_pipe(error: &(dyn std::error::Error + 'static)) -> bool {
    error.downcast_ref::<std::io::Error>().is_some_and(|error| error.kind() == std::io::ErrorKind::BrokenPipe)
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Failure { code: Code::Failed, error }
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Failure::new(Code::Failed, error)
    }
}

impl From<annals_client::Error> for Failure {
    fn from(error: annals_client::Error) -> Self {
        Failure::new(Code::of(&error), error)
    }
}

impl Code {
    /// What an error of the client means.
    pub(crate) fn of(error: &annals_client::Error) -> Self {
        match error.kind() {
            Kind::NotFound => Code::NotFound,
            Kind::Conflict => Code::Conflict,
            Kind::Unavailable => Code::Unavailable,
            Kind::Failed => Code::Failed,
        }
    }
}
