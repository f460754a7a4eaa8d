//! The counts that others are compared with, and what they were made with.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde::{Deserialize, Serialize};

/// What is in `baseline.json`. Sorted by name, so that a change of one count
/// is a change of one line.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Baseline {
    /// The tools that a count depends on: another compiler makes other code.
    pub(crate) built_with: BTreeMap<String, String>,
    /// Instructions by benchmark.
    pub(crate) instructions: BTreeMap<String, u64>,
}

impl Baseline {
    pub(crate) fn load(path: &Path) -> anyhow::Result<Self> {
        Ok(serde_json::from_str(&std::fs::read_to_string(path)?)?)
    }

    pub(crate) fn save(&self, path: &Path) -> anyhow::Result<()> {
        Ok(std::fs::write(path, serde_json::to_string_pretty(self)? + "\n")?)
    }

    /// Each tool that differs, as a sentence.
    pub(crate) fn other_tools(&self, now: &Baseline) -> Vec<String> {
        let version = |of: &Baseline, tool| of.built_with.get(tool).map_or("none", String::as_str).to_owned();
        let tools: BTreeSet<&String> = self.built_with.keys().chain(now.built_with.keys()).collect();
        let differ = tools.into_iter().filter(|tool| self.built_with.get(*tool) != now.built_with.get(*tool));
        differ
            .map(|tool| format!("{tool}: the baseline has {}, this run {}", version(self, tool), version(now, tool)))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tool_that_differs_or_is_not_named_is_told() {
        let with = |tools: &[(&str, &str)]| Baseline {
            built_with: tools.iter().map(|(tool, version)| ((*tool).to_owned(), (*version).to_owned())).collect(),
            instructions: BTreeMap::new(),
        };
        let before = with(&[("libc", "2.36"), ("rustc", "1.95")]);
        assert_eq!(before.other_tools(&with(&[("libc", "2.36"), ("rustc", "1.95")])), Vec::<String>::new());
        assert_eq!(
            before.other_tools(&with(&[("rustc", "1.96")])),
            ["libc: the baseline has 2.36, this run none", "rustc: the baseline has 1.95, this run 1.96"]
        );
    }
}
