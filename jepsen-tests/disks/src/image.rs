//! What a node makes of a disk: it opens it, or refuses and says why.
//!
//! The node is started in a network of its own, so that it can neither reach
//! nor be reached by the cluster that its data belongs to: a copy of a node
//! that talks to the others would be a fault of another kind.

use std::fs::{self, File};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use crate::node::last_lines;
use crate::tools;

/// The programs that this needs.
pub const TOOLS: [&str; 3] = ["unshare", "nsenter", "ip"];

const TIMEOUT: Duration = Duration::from_secs(20);

/// How a node of one is started on an image.
#[derive(Clone, Debug)]
pub struct Check<'a> {
    /// The binary `annals`.
    pub binary: &'a Path,
    /// The data directory on the mounted image.
    pub data: &'a Path,
    /// A directory for the node's log.
    pub scratch: &'a Path,
    /// Under which address its cluster knows the node, `host:port`.
    pub address: &'a str,
    /// Whether it is a cluster of its own: then it must also become ready.
    pub alone: bool,
}

/// What a node made of an image.
#[derive(Clone, Debug, Default, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct ImageVerdict {
    /// It opened the data: the log was read, its end compared with the
    /// witness, the state opened.
    pub opens: bool,
    /// It led its cluster of one and served.
    pub ready: bool,
    /// It ended instead, with this message.
    pub refusal: Option<String>,
    /// Neither within 20 s, or something else that must never happen.
    pub hangs: Option<String>,
    /// The position of the last event, when it was ready.
    pub tail: Option<u64>,
    /// The chain hash of all events, when it was ready.
    pub hash: Option<String>,
    /// How long it took.
    pub millis: u64,
}

impl ImageVerdict {
    /// Whether it is one of the two allowed outcomes.
    pub fn is_clear(&self) -> bool {
        self.hangs.is_none() && (self.opens || self.refusal.as_ref().is_some_and(|why| !why.trim().is_empty()))
    }
}

/// Starts a node on an image and says what it made of it. The image is
/// changed by that.
///
/// # Errors
/// The node could not be started at all.
pub fn check_image(check: &Check<'_>) -> Result<ImageVerdict> {
    tools::require(&TOOLS)?;
    let path = check.scratch.join(format!("image-{}.log", std::process::id()));
    let log = File::create(&path).with_context(|| format!("cannot make {}", path.display()))?;
    let port = check.address.rsplit_once(':').context("an address is host:port")?.1;
    let mut command = Command::new("unshare");
    command.args(["-n", "--", "sh", "-c", "ip link set lo up; exec \"$@\"", "sh"]);
    command.arg(check.binary).args(["serve", "--insecure", "--data"]).arg(check.data);
    command.args(["--listen", &format!("127.0.0.1:{port}"), "--node-address", check.address]);
    command.args(["--set", "disk_reserve_bytes=1048576"]);
    command.process_group(0).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
    let since = Instant::now();
    let mut child = command.spawn().context("cannot run unshare")?;
    let mut verdict = watch(check, &mut child, &path, since);
    let _ = tools::run("kill", &["-9", "--", &format!("-{}", child.id())]);
    let _ = child.kill();
    child.wait()?;
    verdict.millis = since.elapsed().as_millis().try_into().unwrap_or(u64::MAX);
    Ok(verdict)
}

fn watch(check: &Check<'_>, child: &mut Child, log: &Path, since: Instant) -> ImageVerdict {
    let mut verdict = ImageVerdict::default();
    loop {
        let ended = matches!(child.try_wait(), Ok(Some(_)) | Err(_));
        let text = String::from_utf8_lossy(&fs::read(log).unwrap_or_default()).into_owned();
        verdict.opens = text.contains(" listening ");
        verdict.ready = text.contains(" ready node=");
        if ended {
            verdict.refusal = Some(last_lines(&text));
            // It opened and then gave up: an operator sees a crash loop.
            if verdict.opens {
                verdict.hangs = Some(format!("ended after it had opened the data: {}", last_lines(&text)));
            }
            return verdict;
        }
        if verdict.ready || (verdict.opens && !check.alone) {
            if verdict.ready {
                ask(check, child.id(), &mut verdict);
            }
            return verdict;
        }
        if since.elapsed() > TIMEOUT {
            verdict.hangs = Some(format!("neither ready nor ended: {}", last_lines(&text)));
            return verdict;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Asks the node, from within its network.
fn ask(check: &Check<'_>, pid: u32, verdict: &mut ImageVerdict) {
    let port = check.address.rsplit_once(':').map_or("2113", |(_, port)| port);
    let url = format!("kurrentdb://127.0.0.1:{port}?tls=false");
    let pid = pid.to_string();
    let binary = check.binary.display().to_string();
    let ask = |what: &str| -> Result<serde_json::Value> {
        let out = tools::run(
            "nsenter",
            &["-t", &pid, "-n", "timeout", "10", &binary, "cluster", what, "--server", &url, "-o", "json"],
        )?;
        let line = out.lines().next().context("no answer")?;
        Ok(serde_json::from_str(line).or_else(|_| serde_json::from_str(&out))?)
    };
    match ask("status") {
        Ok(status) => verdict.tail = status["tail"].as_u64(),
        Err(error) => verdict.hangs = Some(format!("ready, but without an answer: {error:#}")),
    }
    if let Ok(hash) = ask("hash") {
        let first = hash.get("nodes").and_then(|nodes| nodes.get(0)).unwrap_or(&hash);
        verdict.hash = first.get("hash").and_then(|hash| hash.as_str()).map(str::to_owned);
    }
}
