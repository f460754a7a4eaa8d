//! `annals node`: operating one node, the one that answers.

use crate::Connection;
use crate::commands::logs;
use crate::failure::Failure;

/// Flags of `annals node`.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    connection: Connection,

    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand)]
enum Command {
    #[command(flatten)]
    Logs(logs::Command),
}

pub(crate) async fn run(arguments: Arguments) -> Result<(), Failure> {
    match arguments.command {
        Command::Logs(command) => {
            logs::run(command, &arguments.connection.client()?.logs(), arguments.connection.format()).await
        }
    }
}
