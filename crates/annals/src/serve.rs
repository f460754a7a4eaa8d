//! `annals serve`: a node, until it is told to stop.

use std::io::IsTerminal as _;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use annals_server::config::LogFormat;
use annals_server::{Config, Context, RunError, Server, version};
use tokio::io::AsyncReadExt as _;
use tokio::signal::unix::{SignalKind, signal};

use crate::failure::{Code, Failure};
use crate::layers::{self, Flags, Sources};
use crate::{logging, reload};

/// How often readiness is looked at until the node is ready.
const READY_POLL: Duration = Duration::from_millis(20);

/// Flags of `annals serve`.
#[derive(clap::Args)]
#[command(after_help = "\
Options come from defaults, then files, then the environment (ANNALS_ and the
name in capitals), then flags. `annals config explain` lists them all.

Examples:
  annals serve --data /var/lib/annals --bootstrap 127.0.0.1:2113
  annals serve --data data --bootstrap 127.0.0.1:2113 --set admin_password_file=password
  annals serve --listen 127.0.0.1:2114 --data data-4 --join 127.0.0.1:2113 --insecure
  annals serve --config node.toml --listen 0.0.0.0:2113 --node-address a.example:2113 \\
    --tls-cert a.crt --tls-key a.key --tls-ca ca.crt")]
pub(crate) struct Arguments {
    #[command(flatten)]
    node: NodeArguments,

    /// A TOML file with options; several are read in their order.
    #[arg(long, value_name = "FILE", env = "ANNALS_CONFIG")]
    config: Vec<PathBuf>,

    /// Where to listen.
    #[arg(long, value_name = "IP:PORT")]
    listen: Option<String>,

    /// The address by which clients and peers reach this node.
    #[arg(long, value_name = "HOST:PORT")]
    node_address: Option<String>,

    /// The directory that holds everything this node must not lose.
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,

    /// The addresses of all first members of a new cluster.
    #[arg(long, value_name = "HOST:PORT,…", value_delimiter = ',')]
    bootstrap: Option<Vec<String>>,

    /// Seeds by which an empty node finds its cluster, and asks to be added to it.
    #[arg(long, value_name = "HOST:PORT,dns://NAME:PORT,…", value_delimiter = ',')]
    join: Option<Vec<String>>,

    /// Start a cluster with so many empty nodes that find each other by --join.
    #[arg(long, value_name = "N")]
    bootstrap_expect: Option<u32>,

    /// What people call this node.
    #[arg(long, value_name = "NAME")]
    node_name: Option<String>,

    /// Join as a read replica, which never votes.
    #[arg(long)]
    replica: bool,

    /// The certificate of this node: the port then speaks TLS.
    #[arg(long, value_name = "FILE")]
    tls_cert: Option<PathBuf>,

    /// Its private key.
    #[arg(long, value_name = "FILE")]
    tls_key: Option<PathBuf>,

    /// The CA from which all nodes have their certificates, and users may.
    #[arg(long, value_name = "FILE")]
    tls_ca: Option<PathBuf>,

    /// What certificates call this cluster.
    #[arg(long, value_name = "NAME")]
    cluster_name: Option<String>,

    /// Ask nobody who they are, and serve beyond loopback without TLS.
    #[arg(long)]
    insecure: bool,

    /// Check the configuration and print it, then stop.
    #[arg(long)]
    dry_run: bool,

    /// Stop when standard input ends. So does a node that `annals dev`
    /// started, whatever becomes of its parent.
    #[arg(long, hide = true)]
    until_stdin_ends: bool,
}

/// Flags of every command that runs nodes.
#[derive(clap::Args, Clone)]
pub(crate) struct NodeArguments {
    /// What to log: a level, or directives such as info,annals_raft=debug.
    #[arg(long, value_name = "LEVEL")]
    pub(crate) log: Option<String>,

    /// How to write logs.
    #[arg(long, value_name = "text|json")]
    pub(crate) log_format: Option<String>,

    /// Any option by its name. May be repeated.
    #[arg(long, value_name = "NAME=VALUE")]
    pub(crate) set: Vec<String>,
}

impl NodeArguments {
    pub(crate) fn flags(&self) -> Result<Flags, Failure> {
        let mut flags = Flags::default();
        flags.set_some("log", self.log.clone());
        flags.set_some("log_format", self.log_format.clone());
        for pair in &self.set {
            flags.set_pair(pair)?;
        }
        Ok(flags)
    }
}

/// Serves until a signal.
pub(crate) async fn run(arguments: Arguments) -> Result<(), Failure> {
    let mut flags = arguments.node.flags()?;
    flags.set_some("listen", arguments.listen);
    flags.set_some("node_address", arguments.node_address);
    flags.set_some("data", arguments.data.map(|data| data.display().to_string()));
    flags.set_some("bootstrap", arguments.bootstrap);
    flags.set_some("join", arguments.join);
    flags.set_some("bootstrap_expect", arguments.bootstrap_expect);
    flags.set_some("node_name", arguments.node_name);
    if arguments.replica {
        flags.set("replica", true);
    }
    for (name, file) in [("tls_cert", arguments.tls_cert), ("tls_key", arguments.tls_key), ("tls_ca", arguments.tls_ca)]
    {
        flags.set_some(name, file.map(|file| file.display().to_string()));
    }
    flags.set_some("cluster_name", arguments.cluster_name);
    if arguments.insecure {
        flags.set("insecure", true);
    }
    let sources = Sources { files: arguments.config, flags };
    let figment = sources.read()?;
    let config = layers::config(&figment)?;
    if arguments.dry_run {
        return crate::commands::config::explain(&figment, None);
    }
    let banner = std::io::stderr().is_terminal() && config.log_format == LogFormat::Text;
    node(config, sources, banner, arguments.until_stdin_ends).await
}

/// Runs one node until a signal, until a client asks it to shut down, or until
/// standard input ends. On SIGHUP it reads its configuration again from `sources`.
pub(crate) async fn node(
    config: Config,
    sources: Sources,
    banner: bool,
    until_stdin_ends: bool,
) -> Result<(), Failure> {
    let started = Instant::now();
    let logs = logging::start(&config)?;
    let stop = Stop::new()?;
    let hangup = signal(SignalKind::hangup())?;
    let server = Server::start_with(config, None, logs).await.map_err(refused)?;
    let context = server.context().clone();
    let reloading = tokio::spawn(reload::run(hangup, sources, context.clone()));
    tracing::info!(
        version = version::VERSION,
        commit = version::COMMIT,
        listen = %server.address(),
        address = context.config.own_address(),
        data = %context.config.data.display(),
        "listening"
    );
    let readiness = tokio::spawn(async move {
        tell_when_ready(&context, started, banner).await;
    });
    let result = tokio::select! {
        () = stop.wait(until_stdin_ends) => Ok(()),
        () = server.shutdown_asked() => Ok(()),
        failure = server.failed() => Err(refused(failure)),
    };
    readiness.abort();
    reloading.abort();
    // A second signal means: now.
    let again = Stop::new()?;
    tokio::select! {
        () = server.stop() => result,
        () = again.wait(false) => {
            Err(Failure::new(Code::Failed, anyhow::anyhow!("stopped at once; the node will recover at the next start")))
        }
    }
}

async fn tell_when_ready(context: &Context, started: Instant, banner: bool) {
    while !context.health.is_ready(&context.node.status()) {
        tokio::time::sleep(READY_POLL).await;
    }
    let status = context.node.status();
    tracing::info!(
        node = status.node,
        role = status.role.as_str(),
        tail = context.node.store().tail().get(),
        ms = started.elapsed().as_millis(),
        "ready"
    );
    if banner {
        let (address, url) = (context.config.own_address(), local_url(&context.config));
        let scheme = if context.config.has_tls() { "https" } else { "http" };
        let cluster = status.cluster.map(|cluster| cluster.to_string()).unwrap_or_default();
        eprintln!(
            "\n  Annals {} is ready\n\
             \n  clients    {url}\
             \n  http       {scheme}://{address}/   (/info /gossip /readyz /metrics)\
             \n  data       {}\
             \n  cluster    {cluster}, node {}\
             \n\n  try        annals stream append orders-1 --type OrderPlaced --data '{{\"total\": 42}}'{}\
             \n             annals stream read orders-1{}\n",
            version::VERSION,
            context.config.data.display(),
            status.node,
            server_flag(&url),
            server_flag(&url),
        );
    }
}

/// How clients on this machine name the node.
fn local_url(config: &Config) -> String {
    let ca = config.tls_ca.as_ref().map(|ca| format!("&tlsCaFile={}", ca.display()));
    config.url() + &ca.unwrap_or_default()
}

/// ` --server …` where the default would not find this node.
pub(crate) fn server_flag(url: &str) -> String {
    if url == crate::DEFAULT_URL { String::new() } else { format!(" --server '{url}'") }
}

fn refused(error: RunError) -> Failure {
    let code = match &error {
        RunError::Config(_) | RunError::Tls(_) | RunError::AdminPassword { .. } => Code::Usage,
        RunError::Listen { .. } | RunError::Open { .. } | RunError::LocalToken { .. } | RunError::Outdated(_) => {
            Code::Failed
        }
    };
    Failure::new(code, error)
}

/// What ends a node.
pub(crate) struct Stop {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
}

impl Stop {
    /// From now on signals are kept rather than end the process.
    pub(crate) fn new() -> Result<Self, Failure> {
        Ok(Stop { interrupt: signal(SignalKind::interrupt())?, terminate: signal(SignalKind::terminate())? })
    }

    /// Returns at the first SIGINT or SIGTERM, or at the end of standard input.
    pub(crate) async fn wait(mut self, until_stdin_ends: bool) {
        tokio::select! {
            _ = self.interrupt.recv() => tracing::info!("interrupted"),
            _ = self.terminate.recv() => tracing::info!("told to terminate"),
            () = stdin_ended(), if until_stdin_ends => tracing::info!("the parent process is gone"),
        }
    }
}

async fn stdin_ended() {
    let mut stdin = tokio::io::stdin();
    let mut buffer = [0u8; 64];
    while matches!(stdin.read(&mut buffer).await, Ok(1..)) {}
}
