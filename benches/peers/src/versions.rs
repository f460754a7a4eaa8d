//! What exactly was measured, and on what.

use std::process::Command;

use anyhow::Context;

use crate::contestant::Contestant;
use crate::process::output;
use crate::system::Programs;

/// What the system's server says about itself, in one line.
pub(crate) fn of(contestant: Contestant, programs: &Programs) -> anyhow::Result<String> {
    let program = match contestant {
        Contestant::Annals | Contestant::AnnalsUnary => programs.annals.clone(),
        Contestant::Etcd => programs.etcd.clone(),
        Contestant::Nats => programs.nats.clone(),
        Contestant::Postgres | Contestant::PostgresStandby => programs.postgres.join("postgres"),
        Contestant::UmaDb => programs.umadb.clone(),
    };
    let said = output(Command::new(program).arg("--version"))?;
    let line = said.lines().next().context("a server that says nothing about its version")?;
    Ok(line.trim().to_owned())
}

/// Processors, memory and kernel of this machine.
pub(crate) fn machine() -> anyhow::Result<String> {
    let processors = std::fs::read_to_string("/proc/cpuinfo")?;
    let model = processors
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(": "))
        .map_or("unknown processor", |(_, model)| model);
    let memory = std::fs::read_to_string("/proc/meminfo")?;
    let kib: f64 = memory
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:")?.trim().strip_suffix(" kB"))
        .context("no MemTotal in /proc/meminfo")?
        .parse()?;
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease")?;
    let cores = std::thread::available_parallelism()?;
    Ok(format!("{cores} cores ({model}), {:.0} GiB, Linux {}", kib / 1_048_576.0, kernel.trim()))
}
