//! What the benchmarks print: one line of JSON for each.

use std::collections::BTreeMap;

use anyhow::{Context as _, ensure};
use serde_json::Value;

/// Where a line holds the instructions that its run took. Beside `new` is what
/// an earlier run on the same machine took, which is nobody's baseline.
const INSTRUCTIONS: &str = "/profiles/0/data/total/metrics/Ir/values/new";

/// Instructions by benchmark, named `file::function::case`.
///
/// # Errors
/// When a line is not understood, a benchmark comes twice, or there is none.
pub(crate) fn parse(printed: &str) -> anyhow::Result<BTreeMap<String, u64>> {
    let mut counts = BTreeMap::new();
    for line in printed.lines() {
        let (name, count) = count(line).with_context(|| format!("read {line:?}"))?;
        ensure!(counts.insert(name.clone(), count).is_none(), "{name} comes twice");
    }
    ensure!(!counts.is_empty(), "no benchmark was run");
    Ok(counts)
}

fn count(line: &str) -> anyhow::Result<(String, u64)> {
    let line: Value = serde_json::from_str(line)?;
    let text = |field: &str| line[field].as_str().with_context(|| format!("it has no {field}"));
    let name = format!("{}::{}::{}", text("group")?, text("function_name")?, text("id")?);
    let count = line.pointer(INSTRUCTIONS).and_then(Value::as_u64).context("it has no instructions")?;
    // Nothing was counted: the function was not found, or became part of another.
    ensure!(count > 0, "{name} took no instruction");
    Ok((name, count))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(case: &str, count: u64) -> String {
        let total = serde_json::json!({"metrics": {"Ir": {"values": {"new": count, "old": 7}}}});
        let profiles = serde_json::json!([{"data": {"total": total}}]);
        serde_json::json!({"group": "rules", "function_name": "decides", "id": case, "profiles": profiles}).to_string()
    }

    #[test]
    fn each_line_is_a_benchmark() {
        let counts = parse(&[line("a", 1), line("b", 2)].join("\n")).expect("understood");
        assert_eq!(counts, BTreeMap::from([("rules::decides::a".into(), 1), ("rules::decides::b".into(), 2)]));
    }

    #[test]
    fn what_counts_nothing_is_refused() {
        for printed in ["", "{}", "text", &line("a", 0), &[line("a", 1), line("a", 1)].join("\n")] {
            assert!(parse(printed).is_err(), "{printed}");
        }
    }
}
