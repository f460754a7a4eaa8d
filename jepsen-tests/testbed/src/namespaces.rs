//! Network namespaces: made, entered, and removed whatever happens.
//!
//! Names carry the id of the process that owns them, `an<pid>-…`, so that runs
//! do not meet and the next start can tell what a dead one left behind.
//!
//! Invariants
//! - A process owns namespaces from before it enters its load namespace until
//!   it ends. "The process lives and sits in its load namespace" therefore
//!   means *in use*; everything else is a leftover. Making, entering and
//!   looking for leftovers happen under one lock.
//! - A janitor, a shell in a process group of its own, waits for the end of a
//!   pipe that only this process holds, and removes the namespaces then: it
//!   also works when the run is killed.

use std::fs::{self, File};
use std::io::Write as _;
use std::os::fd::AsFd as _;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, Command, Stdio};
use std::sync::OnceLock;

use annals_checker::history::NodeNumber;
use anyhow::{Context as _, Result, bail, ensure};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// Where clients call from.
pub const LOAD_ADDRESS: &str = "198.18.0.2";

/// Where the test bed calls from. Faults of the network leave it alone.
pub const CONTROL_ADDRESS: &str = "198.18.0.3";

/// The port on which every node listens.
pub const PORT: u16 = 2113;

/// The largest number a node can have: the subnet has no more addresses.
pub const NODE_MAX: NodeNumber = 240;

/// Tells a re-executed program that it is inside already.
const MARKER: &str = "TESTBED_NAMESPACES";

const FOLDER: &str = "/run/netns";
const LOCK: &str = "/run/annals-testbed.lock";

/// Runs when the pipe to it ends. Nodes are killed first: a namespace lives as
/// long as a process in it.
const JANITOR: &str = r#"
read -r _
for ns in $(ls /run/netns | grep "^$0-"); do
  case $ns in *-br|*-load) ;; *) kill -9 $(ip netns pids "$ns") 2>/dev/null ;; esac
done
for ns in $(ls /run/netns | grep "^$0-"); do ip netns del "$ns" 2>/dev/null; done
"#;

/// The IP address of a node.
pub fn ip(node: NodeNumber) -> String {
    format!("198.18.0.{}", 10 + node)
}

/// The namespace of a node.
pub fn node(node: NodeNumber) -> String {
    format!("{}-n{node}", prefix())
}

/// The namespace of the bridge.
pub fn bridge() -> String {
    format!("{}-br", prefix())
}

/// The file that stands for a namespace.
pub fn path(namespace: &str) -> PathBuf {
    Path::new(FOLDER).join(namespace)
}

/// The device of a node's cable at the bridge: what leaves here goes to the
/// node.
pub fn bridge_port(node: NodeNumber) -> String {
    format!("p{node}")
}

/// Makes the namespaces of the bridge and of the load, and runs this program
/// again inside the latter. Returns only there, at once when called again.
/// Call it first thing in `main`: what was done before is done twice.
///
/// # Errors
/// Not allowed (namespaces need root), or a tool is missing.
pub fn enter_load_namespace() -> Result<()> {
    if is_inside() {
        return start_janitor();
    }
    let lock = File::create(LOCK).with_context(|| format!("could not make {LOCK}"))?;
    lock.lock().context("could not wait for the lock on namespaces")?;
    remove_leftovers()?;
    let (bridge, load) = (bridge(), load());
    run("ip", &["netns", "add", &bridge])?;
    run("ip", &["netns", "add", &load])?;
    ip_batch(&bridge, &format!("link set lo up\nlink add br0 type bridge\nlink set br0 up\n{}", cable("load", &load)))?;
    ip_batch(
        &load,
        &format!(
            "link set lo up\naddr add {LOAD_ADDRESS}/24 dev eth0\naddr add {CONTROL_ADDRESS}/24 dev eth0\nlink set eth0 up\n"
        ),
    )?;
    move_into(&load)?;
    // The id of the process stays, and with it the names. The lock goes when
    // the new program begins; by then this process sits in its namespace.
    let program = std::env::current_exe().context("could not find this program")?;
    let error = Command::new(program).args(std::env::args_os().skip(1)).env(MARKER, prefix()).exec();
    Err(error).context("could not run this program again in the load namespace")
}

/// Whether this process sits in its load namespace.
pub fn is_inside() -> bool {
    std::env::var(MARKER).is_ok_and(|marker| marker == prefix())
}

/// Makes the namespace of a node, connected to the bridge.
///
/// # Errors
/// A tool fails, or the node's number is beyond [`NODE_MAX`].
pub fn add_node(number: NodeNumber) -> Result<()> {
    ensure!(is_inside(), "nodes need the load namespace: call enter_load_namespace first");
    ensure!((1..=NODE_MAX).contains(&number), "there is no address for node {number}");
    let name = node(number);
    run("ip", &["netns", "add", &name])?;
    ip_batch(&bridge(), &cable(&bridge_port(number), &name))?;
    // A node of an earlier cluster may have had this address: with the same
    // hardware address as well, what others remember of it is still right.
    let hardware = format!("02:00:c6:12:00:{:02x}", number % 256);
    let lines = format!(
        "link set lo up\nlink set eth0 address {hardware}\naddr add {}/24 dev eth0\nlink set eth0 up\n",
        ip(number)
    );
    ip_batch(&name, &lines)
}

/// Removes the namespace of a node, with the rules in it.
///
/// # Errors
/// There is none.
pub fn remove_node(number: NodeNumber) -> Result<()> {
    // The device goes with the last process; until then it would keep the name.
    let _ = ip_batch(&bridge(), &format!("link del {}\n", bridge_port(number)));
    run("ip", &["netns", "del", &node(number)])
}

/// Runs `ip` in a namespace, once for all these lines.
///
/// # Errors
/// The first line that fails, as `ip` says it.
pub fn ip_batch(namespace: &str, lines: &str) -> Result<()> {
    feed(Command::new("ip").args(["-n", namespace, "-batch", "-"]), lines)
}

/// Runs `tc` in a namespace, once for all these lines.
///
/// # Errors
/// The first line that fails, as `tc` says it.
pub fn tc_batch(namespace: &str, lines: &str) -> Result<()> {
    feed(inside(namespace, "tc").args(["-batch", "-"]), lines)
}

/// Replaces all rules of a namespace's packet filter at once.
///
/// # Errors
/// As `iptables-restore` says.
pub fn replace_rules(namespace: &str, rules: &str) -> Result<()> {
    feed(&mut inside(namespace, "iptables-restore"), rules)
}

/// A program, to be run in a namespace.
pub fn inside(namespace: &str, program: &str) -> Command {
    let mut command = Command::new("nsenter");
    command.arg(format!("--net={}", path(namespace).display())).arg("--").arg(program);
    command
}

/// Moves the calling thread, and only it, into a namespace.
///
/// # Errors
/// There is none of that name.
pub fn move_into(namespace: &str) -> Result<()> {
    let file = File::open(path(namespace)).with_context(|| format!("there is no namespace {namespace}"))?;
    move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))
        .with_context(|| format!("could not enter the namespace {namespace}"))
}

fn prefix() -> String {
    format!("an{}", std::process::id())
}

fn load() -> String {
    format!("{}-load", prefix())
}

/// Lines that lay a cable from the bridge to a namespace. The far end has to
/// have a name before it is moved, so it is made there.
fn cable(port: &str, namespace: &str) -> String {
    format!(
        "link add {port} type veth peer name eth0 netns {namespace}\nlink set {port} master br0\nlink set {port} up\n"
    )
}

fn start_janitor() -> Result<()> {
    static PIPE: OnceLock<ChildStdin> = OnceLock::new();
    if PIPE.get().is_some() {
        return Ok(());
    }
    let mut janitor = Command::new("sh")
        .args(["-c", JANITOR, &prefix()])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .current_dir("/")
        .process_group(0)
        .spawn()
        .context("could not start the janitor")?;
    let pipe = janitor.stdin.take().context("the janitor has no pipe")?;
    // A second janitor would only have come from a race of two callers; its
    // pipe would close here and end everything.
    PIPE.set(pipe).map_err(|_| anyhow::anyhow!("enter_load_namespace was called by two threads at once"))
}

fn remove_leftovers() -> Result<()> {
    let names: Vec<String> = match fs::read_dir(FOLDER) {
        Ok(entries) => entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect(),
        Err(_) => return Ok(()),
    };
    let left: Vec<&String> =
        names.iter().filter(|name| owner(name).is_some_and(|pid| pid == std::process::id() || !in_use(pid))).collect();
    for name in &left {
        for pid in output("ip", &["netns", "pids", name]).unwrap_or_default().split_whitespace() {
            let _ = run("kill", &["-9", pid]);
        }
    }
    for name in left {
        if let Err(error) = run("ip", &["netns", "del", name])
            // Another test bed that starts at the same time clears up as well.
            && path(name).exists()
        {
            return Err(error);
        }
    }
    Ok(())
}

/// The process that owns a namespace, by the namespace's name.
fn owner(name: &str) -> Option<u32> {
    let (pid, rest) = name.strip_prefix("an")?.split_once('-')?;
    let ours = rest == "br" || rest == "load" || rest.strip_prefix('n').is_some_and(|n| n.parse::<u32>().is_ok());
    pid.parse().ok().filter(|_| ours)
}

fn in_use(pid: u32) -> bool {
    let sits = fs::metadata(format!("/proc/{pid}/ns/net"));
    let load = fs::metadata(path(&format!("an{pid}-load")));
    matches!((sits, load), (Ok(sits), Ok(load)) if sits.ino() == load.ino() && sits.dev() == load.dev())
}

fn feed(command: &mut Command, input: &str) -> Result<()> {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("could not run {command:?}"))?;
    // A tool that stops reading says why on its standard error.
    let _ = child.stdin.take().context("no pipe")?.write_all(input.as_bytes());
    let output = child.wait_with_output().with_context(|| format!("could not wait for {command:?}"))?;
    if !output.status.success() {
        bail!("{command:?} failed: {}; it was told:\n{input}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

fn run(program: &str, arguments: &[&str]) -> Result<()> {
    output(program, arguments).map(drop)
}

fn output(program: &str, arguments: &[&str]) -> Result<String> {
    let output = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("could not run {program} {arguments:?}"))?;
    if !output.status.success() {
        bail!("{program} {arguments:?} failed: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_namespaces_of_a_test_bed_are_ever_removed() {
        assert_eq!(owner("an17-br"), Some(17));
        assert_eq!(owner("an17-load"), Some(17));
        assert_eq!(owner("an17-n3"), Some(17));
        for other in ["annals", "an-br", "anx-br", "an17-x", "an17-n", "an17", "x17-br", "an17-nx"] {
            assert_eq!(owner(other), None, "{other}");
        }
    }

    #[test]
    fn a_process_outside_its_load_namespace_uses_none() {
        assert!(!in_use(std::process::id()));
    }
}
