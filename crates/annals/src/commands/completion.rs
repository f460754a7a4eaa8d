//! `annals completion`: what a shell needs to complete our commands.

use clap_complete::Shell;
use clap_complete::env::Shells;

use crate::complete::VARIABLE;
use crate::failure::Failure;

/// Flags of `annals completion`.
#[derive(clap::Args)]
#[command(after_help = "\
The shell asks this program for what may come next: commands and flags, and of the
server that the line names also streams, groups, nodes and accounts. A server that does
not answer within a second is left alone. The script belongs to this release; let the
shell read it anew when it starts.

Examples:
  source <(annals completion bash)                   # in ~/.bashrc
  source <(annals completion zsh)                    # in ~/.zshrc, behind compinit
  annals completion fish | source                    # in ~/.config/fish/config.fish")]
pub(crate) struct Arguments {
    /// Which shell.
    shell: Shell,
}

pub(crate) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let shell = arguments.shell.to_string();
    let shells = Shells::builtins();
    let completer = shells
        .completer(&shell)
        .ok_or_else(|| Failure::usage(format!("{shell} cannot ask a program what may come next")))?;
    let mut script = Vec::new();
    completer.write_registration(VARIABLE, "annals", "annals", "annals", &mut script)?;
    crate::output::bytes(&script)?;
    Ok(())
}
