//! What server processes have used, from `/proc`.
//!
//! PostgreSQL is a tree of processes, so every figure is that of a process with
//! all its descendants. The kernel adds what an ended child has used to its
//! parent, so that nothing is lost and nothing counts twice.

use std::collections::HashMap;
use std::fs;

use anyhow::Context;

use crate::process::Process;

/// Since the processes started.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Usage {
    pub(crate) cpu_seconds: f64,
    /// Bytes whose pages the processes made dirty, on their way to the disk.
    pub(crate) written_bytes: u64,
}

impl Usage {
    /// Of all these servers together.
    pub(crate) fn of(processes: &[Process]) -> anyhow::Result<Self> {
        let children = children()?;
        let mut all = Self::default();
        let mut next: Vec<u32> = processes.iter().map(Process::id).collect();
        while let Some(pid) = next.pop() {
            next.extend(children.get(&pid).into_iter().flatten());
            // A backend may end between the listing and the look at it.
            let Some(one) = Self::of_one(pid) else { continue };
            all.cpu_seconds += one.cpu_seconds;
            all.written_bytes += one.written_bytes;
        }
        Ok(all)
    }

    /// What was used between an earlier look and this one.
    pub(crate) fn since(self, earlier: Self) -> Self {
        Self {
            cpu_seconds: self.cpu_seconds - earlier.cpu_seconds,
            written_bytes: self.written_bytes.saturating_sub(earlier.written_bytes),
        }
    }

    fn of_one(pid: u32) -> Option<Self> {
        let stat = Stat::read(pid)?;
        let io = fs::read_to_string(format!("/proc/{pid}/io")).ok()?;
        let written = io.lines().find_map(|line| line.strip_prefix("write_bytes: "))?;
        Some(Self {
            cpu_seconds: stat.ticks as f64 / rustix::param::clock_ticks_per_second() as f64,
            written_bytes: written.parse().ok()?,
        })
    }
}

/// The most memory any one of these servers had resident so far, in megabytes.
/// None for a server of many processes: they share pages, and a sum would count
/// those many times.
pub(crate) fn peak_memory_mb(processes: &[Process]) -> anyhow::Result<Option<f64>> {
    let children = children()?;
    let mut peak = 0.0f64;
    for process in processes {
        if children.contains_key(&process.id()) {
            return Ok(None);
        }
        let status = fs::read_to_string(format!("/proc/{}/status", process.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("no VmHWM in its status")?;
        let kib: f64 = line.trim().trim_end_matches(" kB").parse()?;
        peak = peak.max(kib * 1_024.0 / 1e6);
    }
    Ok(Some(peak))
}

fn children() -> anyhow::Result<HashMap<u32, Vec<u32>>> {
    let mut children: HashMap<u32, Vec<u32>> = HashMap::new();
    for entry in fs::read_dir("/proc")? {
        let Some(pid) = entry?.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        if let Some(stat) = Stat::read(pid) {
            children.entry(stat.parent).or_default().push(pid);
        }
    }
    Ok(children)
}

struct Stat {
    parent: u32,
    /// User and system time, its own and that of children it has waited for.
    ticks: u64,
}

impl Stat {
    fn read(pid: u32) -> Option<Self> {
        let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The second field is a name in parentheses, which may hold anything.
        let fields: Vec<&str> = text[text.rfind(')')? + 1..].split_whitespace().collect();
        let ticks = fields.get(11..15)?.iter().map(|field| field.parse::<u64>()).sum::<Result<u64, _>>().ok()?;
        Some(Self { parent: fields.get(1)?.parse().ok()?, ticks })
    }
}
