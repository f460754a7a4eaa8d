//! What the files of a stopped node hold, as the program itself verifies and
//! dumps them, put into the history.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use annals_checker::history::{EventId, Final, NodeNumber, Record, Seen, Source};
use annals_workload::Recorder;
use anyhow::{Context as _, Result, ensure};
use serde::Deserialize;

/// Events of one record of a history.
const PART: usize = 5_000;

#[derive(Deserialize)]
struct Line {
    position: u64,
    stream: Arc<str>,
    revision: u64,
    id: uuid::Uuid,
    r#type: String,
    created: i64,
    data: String,
    metadata: String,
}

/// Verifies the files and records every event in them.
///
/// # Errors
/// They are damaged, or cannot be read.
pub(crate) fn read(binary: &Path, data: &Path, node: NodeNumber, recorder: &Recorder) -> Result<()> {
    let mut child = Command::new(binary)
        .args(["verify", "--dump", "-", "--data"])
        .arg(data)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("annals verify cannot be started")?;
    let output = child.stdout.take().expect("piped");
    let mut events = Vec::new();
    for line in BufReader::new(output).lines() {
        let line: Line = serde_json::from_str(&line?).context("annals verify does not print what it should")?;
        events.push(seen(line)?);
        if events.len() == PART {
            recorder.record(part(node, std::mem::take(&mut events), false));
        }
    }
    let ended = child.wait_with_output()?;
    ensure!(
        ended.status.success(),
        "annals verify: {}: {}",
        ended.status,
        String::from_utf8_lossy(&ended.stderr).trim()
    );
    recorder.record(part(node, events, true));
    Ok(())
}

fn part(node: NodeNumber, events: Vec<Seen>, complete: bool) -> Record {
    Record::Final(Final { node, source: Source::Offline, events, complete })
}

fn seen(line: Line) -> Result<Seen> {
    let bytes = |text: &str| base64::Engine::decode(&base64::engine::general_purpose::STANDARD, text);
    let (data, metadata) = (bytes(&line.data)?, bytes(&line.metadata)?);
    Ok(Seen {
        position: line.position,
        stream: line.stream,
        revision: line.revision,
        id: EventId(line.id.as_u128()),
        digest: annals_workload::seen_digest(&line.r#type, &data, &metadata),
        created: line.created,
        system: line.r#type.starts_with('$'),
    })
}
