//! The node that the tests call.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Duration;

use annals_server::Config;
use tokio_util::sync::CancellationToken;
use tonic::Status;
use tonic::transport::{Channel, Endpoint};

use crate::requests::*;

pub(crate) const APPEND_BYTES_MAX: u64 = 20 * 1024 * 1024;
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// A node on its own thread, because each test has its own runtime.
pub(crate) struct Node {
    pub(crate) address: String,
    pub(crate) stop: CancellationToken,
}

pub(crate) fn start(name: &str) -> Node {
    let data: PathBuf = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("streams-{name}"));
    let _ = std::fs::remove_dir_all(&data);
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.set_nonblocking(true).expect("a socket");
    let address = listener.local_addr().expect("bound").to_string();
    let config = Config {
        insecure: true,
        node_address: Some(address.clone()),
        bootstrap: vec![address.clone()],
        data,
        append_bytes_max: APPEND_BYTES_MAX,
        disk_reserve_bytes: 1,
        // What a read waits for the position it wants.
        request_timeout_ms: 2_000,
        ..Config::default()
    };
    let stop = CancellationToken::new();
    let token = stop.clone();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        runtime.block_on(async move {
            let listener = tokio::net::TcpListener::from_std(listener).expect("a socket");
            annals_server::run(config, Some(listener), token).await.expect("the node runs");
        });
    });
    Node { address, stop }
}

pub(crate) async fn shared() -> Channel {
    static NODE: OnceLock<Node> = OnceLock::new();
    connect(&NODE.get_or_init(|| start("shared")).address).await
}

/// A connection to a node that takes appends.
pub(crate) async fn connect(address: &str) -> Channel {
    let endpoint: Endpoint = format!("http://{address}").parse().expect("an address");
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        let attempt = async {
            let channel = endpoint.connect().await.map_err(|error| Status::unavailable(error.to_string()))?;
            append(&channel, &fresh("warm-up"), Any, &[event("Ready")]).await?;
            Ok::<_, Status>(channel)
        };
        match attempt.await {
            Ok(channel) => return channel,
            Err(status) if tokio::time::Instant::now() > deadline => panic!("the node does not serve: {status}"),
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}

pub(crate) async fn assert_serving(channel: &Channel) {
    let stream = fresh("canary");
    append(channel, &stream, NoStream, &[event("Canary")]).await.expect("the node takes appends");
    assert_eq!(revisions(&read(channel, forwards(&stream)).await.expect("the node reads")), [0]);
}
