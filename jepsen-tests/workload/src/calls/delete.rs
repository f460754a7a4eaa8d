//! `Delete` and `Tombstone`.

use std::sync::Arc;

use annals_checker::history::{Delete, Expected, Outcome, Record};
use annals_proto::event_store::client::Empty;
use annals_proto::event_store::client::streams::{DeleteReq, TombstoneReq, delete_req, delete_resp};
use annals_proto::event_store::client::streams::{tombstone_req, tombstone_resp};

use super::append::identifier;
use super::{Done, Terms, outcome};
use crate::Recorder;
use crate::wire::{Contact, Wire};

/// Deletes, softly or for ever, waits for the answer, and records it.
pub async fn delete(
    wire: &Wire,
    recorder: &Recorder,
    terms: &Terms,
    stream: &Arc<str>,
    expected: Expected,
    hard: bool,
) -> Done {
    let invoke = recorder.now();
    let call = async {
        let position = if hard {
            hardly(wire, terms, stream, expected).await
        } else {
            softly(wire, terms, stream, expected).await
        };
        match position {
            Ok(Some(position)) => {
                let outcome = Outcome::Acked { position, revisions: Vec::new() };
                Done { outcome, contact: Contact::Answered, leader: None }
            }
            Ok(None) => Done {
                outcome: Outcome::Unknown { why: "the answer makes no sense: no position".to_owned() },
                contact: Contact::Answered,
                leader: None,
            },
            Err(status) => outcome::v1_write(&status, stream),
        }
    };
    let done = tokio::time::timeout(terms.timeout, call).await.unwrap_or_else(|_| Done::silent());
    let known = !matches!(done.outcome, Outcome::Unknown { .. });
    recorder.record(Record::Delete(Delete {
        process: terms.process,
        node: wire.node,
        invoke,
        complete: known.then(|| recorder.now()),
        stream: stream.clone(),
        expected,
        hard,
        outcome: done.outcome.clone(),
    }));
    done
}

async fn softly(wire: &Wire, terms: &Terms, stream: &str, expected: Expected) -> Result<Option<u64>, tonic::Status> {
    use delete_req::options::ExpectedStreamRevision as Wanted;
    let wanted = match expected {
        Expected::Any => Wanted::Any(Empty {}),
        Expected::NoStream => Wanted::NoStream(Empty {}),
        Expected::Exists => Wanted::StreamExists(Empty {}),
        Expected::Revision(revision) => Wanted::Revision(revision),
    };
    let options = delete_req::Options { stream_identifier: identifier(stream), expected_stream_revision: Some(wanted) };
    let answer = wire.streams().delete(terms.request(DeleteReq { options: Some(options) })).await?.into_inner();
    Ok(answer.position_option.and_then(|position| match position {
        delete_resp::PositionOption::Position(position) => Some(position.commit_position),
        delete_resp::PositionOption::NoPosition(_) => None,
    }))
}

async fn hardly(wire: &Wire, terms: &Terms, stream: &str, expected: Expected) -> Result<Option<u64>, tonic::Status> {
    use tombstone_req::options::ExpectedStreamRevision as Wanted;
    let wanted = match expected {
        Expected::Any => Wanted::Any(Empty {}),
        Expected::NoStream => Wanted::NoStream(Empty {}),
        Expected::Exists => Wanted::StreamExists(Empty {}),
        Expected::Revision(revision) => Wanted::Revision(revision),
    };
    let options =
        tombstone_req::Options { stream_identifier: identifier(stream), expected_stream_revision: Some(wanted) };
    let answer = wire.streams().tombstone(terms.request(TombstoneReq { options: Some(options) })).await?.into_inner();
    Ok(answer.position_option.and_then(|position| match position {
        tombstone_resp::PositionOption::Position(position) => Some(position.commit_position),
        tombstone_resp::PositionOption::NoPosition(_) => None,
    }))
}
