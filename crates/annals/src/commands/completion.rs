//! `annals completion`: what a shell needs to complete our commands.

use clap_complete::Shell;

use crate::failure::Failure;

/// Flags of `annals completion`.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  annals completion bash > /etc/bash_completion.d/annals
  source <(annals completion zsh)")]
pub(crate) struct Arguments {
    /// Which shell.
    shell: Shell,
}

pub(crate) fn run(arguments: &Arguments, mut command: clap::Command) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(arguments.shell, &mut command, "annals", &mut script);
    crate::output::bytes(&script)?;
    Ok(())
}
