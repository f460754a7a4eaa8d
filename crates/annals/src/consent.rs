//! Consent to what cannot be taken back.
//!
//! Who sits at a terminal types the name of what goes: a `y` is typed before the line is
//! read. Where nobody sits, as in a script, the command says beforehand that it is meant,
//! with `--yes`; without that nothing is done, and the exit code is that of a command
//! that makes no sense. Every command that destroys asks here and nowhere else.

use std::io::{BufRead, IsTerminal as _, Write as _};

use crate::failure::{Code, Failure};

/// The flag of a command that destroys.
#[derive(clap::Args)]
pub(crate) struct Consent {
    /// Do not ask. Where nobody can be asked, as in scripts, it is needed.
    #[arg(short, long)]
    yes: bool,
}

impl Consent {
    /// Asks, unless that was answered with the command. `what` will be, as a clause
    /// that begins with "this"; `name` is what is to be typed.
    ///
    /// # Errors
    /// Nobody is there to answer (exit code 2), or the answer is another (1).
    pub(crate) fn ask(&self, what: &str, name: &str) -> Result<(), Failure> {
        if self.yes { Ok(()) } else { ask(what, name, "--yes") }
    }
}

/// The same where more than `--yes` is needed: `flag` is what would have answered.
pub(crate) fn ask(what: &str, name: &str, flag: &str) -> Result<(), Failure> {
    let stdin = std::io::stdin();
    if !stdin.is_terminal() {
        return Err(Failure::usage(format!(
            "not confirmed: {what}, and there is nobody to ask; nothing was done. Say {flag} if it is meant"
        )));
    }
    let (first, rest) = what.split_at(what.chars().next().map_or(0, char::len_utf8));
    eprint!("{}{rest}. Type {name} to go on: ", first.to_uppercase());
    std::io::stderr().flush()?;
    answered(&mut stdin.lock(), name)
}

/// A name may be as long as it may: whoever types more than that means something else.
const ANSWER_BYTES_MAX: u64 = 4_096;

fn answered(input: &mut impl BufRead, name: &str) -> Result<(), Failure> {
    let mut typed = String::new();
    std::io::Read::take(input, ANSWER_BYTES_MAX).read_line(&mut typed)?;
    if typed.trim() == name.trim() {
        return Ok(());
    }
    Err(Failure::new(Code::Failed, anyhow::anyhow!("not confirmed, nothing was done: that is not {name}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_name_is_consent() {
        let is_consent = |typed: &str| answered(&mut typed.as_bytes(), "order-1").is_ok();
        assert!(is_consent("order-1\n") && is_consent(" order-1\r\n") && is_consent("order-1"));
        for typed in ["", "\n", "y\n", "yes\n", "order-11\n", "order\n", "Order-1\n"] {
            assert!(!is_consent(typed), "{typed:?}");
        }
    }
}
