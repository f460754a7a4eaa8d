//! `annals all`: the whole log.

use annals_client::{Cursor, Direction, Filter, ReadOptions, Source};

use crate::commands::{At, cursor, follow, print};
use crate::events::{Events, Numbering};
use crate::failure::Failure;

/// Flags of `annals all`.
pub(crate) type Arguments = At<Command>;

#[derive(clap::Subcommand)]
pub(crate) enum Command {
    /// Print events that exist.
    #[command(after_help = "\
Examples:
  annals all read --backwards --limit 10
  annals all read --filter-stream orders- -o json")]
    Read {
        #[command(flatten)]
        which: Which,
        /// Where to begin: start, end, or a position (inclusive).
        #[arg(long, value_parser = cursor)]
        from: Option<Cursor>,
        /// Newest first.
        #[arg(long)]
        backwards: bool,
        /// At most this many events.
        #[arg(long, value_name = "N")]
        limit: Option<u64>,
    },
    /// Print events as they come.
    #[command(after_help = "\
Examples:
  annals all tail
  annals all tail --from start --filter-type '^Order' -o json")]
    Tail {
        #[command(flatten)]
        which: Which,
        /// Where to begin: start, end, or after a position.
        #[arg(long, value_parser = cursor, default_value = "end")]
        from: Cursor,
        /// Stop after this many events.
        #[arg(long, value_name = "N")]
        limit: Option<u64>,
    },
}

#[derive(clap::Args)]
pub(crate) struct Which {
    /// Only events whose type matches this regular expression.
    #[arg(long, value_name = "REGEX", conflicts_with = "filter_stream")]
    filter_type: Option<String>,

    /// Only events of streams whose name begins like this. May be repeated.
    #[arg(long, value_name = "PREFIX")]
    filter_stream: Vec<String>,

    /// Follow links to the events they point to.
    #[arg(long)]
    resolve_links: bool,
}

impl Which {
    fn source(self, from: Cursor) -> Source {
        let filter = match self.filter_type {
            Some(regex) => Some(Filter::TypeRegex(regex)),
            None if self.filter_stream.is_empty() => None,
            None => Some(Filter::StreamPrefix(self.filter_stream)),
        };
        Source::All { from, filter, resolve_links: self.resolve_links }
    }
}

pub(crate) async fn run(arguments: Arguments) -> Result<(), Failure> {
    let client = arguments.connection.client()?;
    let events = Events::new(arguments.connection.format(), Numbering::Position);
    match arguments.command {
        Command::Read { which, from, backwards, limit } => {
            let (direction, default) =
                if backwards { (Direction::Backwards, Cursor::End) } else { (Direction::Forwards, Cursor::Start) };
            let source = which.source(from.unwrap_or(default));
            let options = ReadOptions { source, direction, count: limit.unwrap_or(u64::MAX) };
            print(client.read(options).await?, events).await
        }
        Command::Tail { which, from, limit } => follow(&client, which.source(from), events, limit).await,
    }
}
