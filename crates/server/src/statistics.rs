//! Numbers about the running node under the protocol's flat names, parts joined by
//! `-`: what `/stats` and the Monitoring service tell.

use serde_json::{Map, Value, json};

use crate::context::Context;
use crate::{members, version};

/// What there is to tell now.
pub(crate) fn statistics(context: &Context) -> Map<String, Value> {
    let status = context.node.status();
    let mut flat = Map::new();
    let mut put = |name: &str, value: Value| flat.insert(name.to_owned(), value);
    put("proc-id", json!(std::process::id()));
    if let Some(memory) = proc_bytes("/proc/self/status", "VmRSS:") {
        put("proc-mem", json!(memory));
    }
    if let Some(free) = proc_bytes("/proc/meminfo", "MemAvailable:") {
        put("sys-freeMem", json!(free));
    }
    put("es-version", json!(version::PROTOCOL));
    put("es-checkpoint", json!(context.node.store().tail().get()));
    put("es-node-state", json!(members::own_state(context).as_str_name()));
    put("es-node-priority", json!(context.node.priority()));
    put("es-subscriptions-open", json!(context.metrics.subscriptions_open()));
    put("es-raft-term", json!(status.term));
    put("es-raft-lastLog", json!(status.last_log));
    put("es-raft-committed", json!(status.committed));
    put("es-raft-applied", json!(status.applied));
    put("es-raft-durable", json!(status.durable));
    if let Some(last) = context.node.store().scavenge() {
        put("es-scavenge-id", json!(last.id));
        put("es-scavenge-phase", json!(last.phase.as_str()));
        put("es-scavenge-point", json!(last.point.get()));
        put("es-scavenge-position", json!(last.cursor.get()));
        put("es-scavenge-events", json!(last.events));
        put("es-scavenge-bytes", json!(last.bytes));
    }
    flat
}

/// A line such as `VmRSS:  1234 kB` of a file of the kernel's.
fn proc_bytes(path: &str, key: &str) -> Option<u64> {
    let text = std::fs::read_to_string(path).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(key))?;
    line.split_whitespace().next()?.parse::<u64>().ok().map(|kib| kib * 1024)
}
