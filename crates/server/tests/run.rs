//! A node in this process: started on a listener of the caller's, stopped by
//! its token.

use std::time::Duration;

use annals_server::{Config, run};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

async fn get(address: std::net::SocketAddr, path: &str) -> anyhow::Result<String> {
    let mut stream = TcpStream::connect(address).await?;
    let request = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    Ok(answer)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_serves_until_its_token_is_cancelled() -> anyhow::Result<()> {
    let data = tempfile::tempdir()?;
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let config = Config {
        data: data.path().to_owned(),
        bootstrap: vec![address.to_string()],
        insecure: true,
        ..Config::default()
    };
    let stop = CancellationToken::new();
    let node = tokio::spawn(run(config, Some(listener), stop.clone()));

    let ready = async {
        while !get(address, "/readyz").await.is_ok_and(|answer| answer.starts_with("HTTP/1.1 200")) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), ready).await?;
    assert!(get(address, "/gossip").await?.contains(&format!("\"serverPort\":{}", address.port())));

    stop.cancel();
    tokio::time::timeout(Duration::from_secs(15), node).await???;
    assert!(TcpStream::connect(address).await.is_err(), "nobody listens any more");
    Ok(())
}

#[tokio::test]
async fn a_directory_that_cannot_be_used_is_named() -> anyhow::Result<()> {
    let file = tempfile::NamedTempFile::new()?;
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let config = Config { data: file.path().join("below"), ..Config::default() };
    let error = run(config, Some(listener), CancellationToken::new()).await.expect_err("a file is no directory");
    assert!(error.to_string().contains(&file.path().display().to_string()), "{error}");
    Ok(())
}
