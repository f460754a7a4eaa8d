//! `annals bench`: load for a server or a cluster, and what it makes of it.
//!
//! What is measured is in the crate `annals-bench`; here it is asked for, looked
//! on at, and printed. The first Ctrl-C ends a measurement early and prints what
//! there is, the second one ends the process.

pub(crate) mod figures;

use std::io::IsTerminal as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use annals_bench::report::Report;
use annals_bench::target::Target;
use annals_bench::watch::Watch;
use annals_bench::{append, mixed, read, subscribe};
use indicatif::{ProgressBar, ProgressStyle};
use tokio_util::sync::CancellationToken;

use crate::Connection;
use crate::failure::{Code, Failure};
use crate::output::{self, Format};

/// How often the bar moves.
const BAR_EVERY: Duration = Duration::from_millis(200);

/// What a shell says of a process that was interrupted.
const INTERRUPTED: i32 = 130;

/// Flags of `annals bench`.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    connection: Connection,

    /// Spread connections over all hosts of the connection string, whoever leads.
    /// Default: all go where the connection string leads to, mostly the leader.
    #[arg(long, global = true)]
    spread: bool,

    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand)]
enum Command {
    /// Append events: how many a second, and how long each append takes.
    #[command(after_help = "\
Fails when an append is answered with another revision than it must have.

Examples:
  annals bench append --clients 256 --seconds 30
  annals bench append --mode batch --clients 4 --in-flight 64 -o json
  annals bench append --rate 5000 --server 'kurrentdb://127.0.0.1:2113,127.0.0.1:2114?tls=false' --spread")]
    Append(append::Arguments),
    /// Read the whole log, whole streams, or single events.
    #[command(after_help = "\
Fails when an event is missing, comes twice or comes out of order.

Examples:
  annals bench read --clients 4 --events 1000000
  annals bench read --what stream --prepare --streams 500 --events 100 --clients 16
  annals bench read --what single --prefix bench0a1b2c3d --clients 64 --consistency linearizable")]
    Read(read::Arguments),
    /// Subscribe, and append beside it: how soon an event is seen.
    #[command(after_help = "\
Fails when a subscription misses an event or sees one twice.

Examples:
  annals bench subscribe --subscriptions 100 --to filtered --rate 2000
  annals bench subscribe --slow 20 --idle 1000 -o json")]
    Subscribe(subscribe::Arguments),
    /// Append, read and subscribe at once, and say from time to time how it goes.
    #[command(after_help = "\
Fails when any answer is not what it must be.

Examples:
  annals bench mixed --seconds 1200 --append-rate 2000 --read-rate 500
  annals bench mixed --appenders 32 --readers 0 --subscriptions 100 --report 1")]
    Mixed(mixed::Arguments),
}

impl Command {
    /// How long it takes; none where something else bounds it.
    fn total(&self) -> Option<Duration> {
        match self {
            Command::Append(arguments) => Some(arguments.length().total()),
            Command::Read(arguments) => arguments.length().map(|length| length.total()),
            Command::Subscribe(arguments) => Some(arguments.length().total()),
            Command::Mixed(arguments) => Some(arguments.length().total()),
        }
    }
}

pub(crate) async fn run(arguments: Arguments) -> Result<(), Failure> {
    let target = Target::new(arguments.connection.settings()?, arguments.spread);
    let bar = bar(arguments.command.total());
    let watch = watch(&bar);
    let moving = tokio::spawn(show(bar.clone(), watch.counted.clone()));
    let interrupts = tokio::spawn(interrupts(watch.stop.clone()));
    let result = measure(&target, &arguments.command, &watch).await;
    interrupts.abort();
    moving.abort();
    bar.finish_and_clear();
    let report = result.map_err(failure)?;
    match arguments.connection.format() {
        Format::Json => output::json(&report.json())?,
        Format::Table => output::table(&["FIGURE", "VALUE"], report.rows())?,
    }
    Ok(())
}

async fn measure(target: &Target, command: &Command, watch: &Watch) -> anyhow::Result<Report> {
    match command {
        Command::Append(arguments) => append::run(target, arguments, watch).await,
        Command::Read(arguments) => read::run(target, arguments, watch).await,
        Command::Subscribe(arguments) => subscribe::run(target, arguments, watch).await,
        Command::Mixed(arguments) => mixed::run(target, arguments, watch).await,
    }
}

/// With the exit code of what the client could not do, if it was that.
fn failure(error: anyhow::Error) -> Failure {
    let code = error.downcast_ref().map_or(Code::Failed, Code::of);
    Failure::new(code, error)
}

fn watch(bar: &ProgressBar) -> Watch {
    let bar = bar.clone();
    Watch {
        counted: Arc::new(AtomicU64::new(0)),
        stop: CancellationToken::new(),
        // The line goes above the bar, and is said also where there is none.
        say: Arc::new(move |line| bar.suspend(|| eprintln!("{line}"))),
    }
}

async fn interrupts(stop: CancellationToken) {
    // Where signals cannot be caught, they end the process as ever.
    if tokio::signal::ctrl_c().await.is_ok() {
        stop.cancel();
        if tokio::signal::ctrl_c().await.is_ok() {
            std::process::exit(INTERRUPTED);
        }
    }
}

/// A bar on a terminal, as long as the measurement takes, if that is known.
fn bar(total: Option<Duration>) -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let (bar, template) = match total {
        Some(total) => (ProgressBar::new(milliseconds(total)), "{elapsed_precise} {wide_bar} {percent:>3}% {msg}"),
        None => (ProgressBar::new_spinner(), "{elapsed_precise} {spinner} {msg}"),
    };
    bar.with_style(ProgressStyle::with_template(template).expect("the template is valid"))
}

async fn show(bar: ProgressBar, counted: Arc<AtomicU64>) {
    let begin = Instant::now();
    let mut before = 0;
    loop {
        tokio::time::sleep(BAR_EVERY).await;
        let now = counted.load(Ordering::Relaxed);
        let rate = (now - before) as f64 / BAR_EVERY.as_secs_f64();
        before = now;
        bar.set_message(format!("{now} done, {rate:.0}/s"));
        bar.set_position(milliseconds(begin.elapsed()));
    }
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
