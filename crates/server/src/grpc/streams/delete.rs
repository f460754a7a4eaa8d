//! `Delete` and `Tombstone`: the soft and the hard way to end a stream.

use std::time::Instant;

use annals_core::{Command, Expected, Outcome, Position, StreamName};
use annals_proto::event_store::client::streams::{DeleteReq, DeleteResp, TombstoneReq, TombstoneResp};
use annals_proto::event_store::client::streams::{delete_req, delete_resp, tombstone_req, tombstone_resp};
use annals_raft::Route;
use tonic::Request;

use super::append::{WRITE_TIMEOUT, Writing, refused, unexpected};
use super::{Service, convert};
use crate::access::Caller;
use crate::consistency;
use crate::status::Failure;

pub(super) async fn delete(service: &Service, request: Request<DeleteReq>) -> Result<DeleteResp, Failure> {
    let route = consistency::route(request.metadata());
    let caller = service.context.caller(&request).await?;
    let options = request.into_inner().options.ok_or_else(no_options)?;
    let expected = convert::expected!(delete_req::options::ExpectedStreamRevision, options.expected_stream_revision)?;
    let stream = convert::deletable(convert::stream(options.stream_identifier)?)?;
    let position = carry_out(service, &caller, "delete", Command::Delete { stream, expected }, route).await?.get();
    let position = delete_resp::Position { commit_position: position, prepare_position: position };
    Ok(DeleteResp { position_option: Some(delete_resp::PositionOption::Position(position)) })
}

pub(super) async fn tombstone(service: &Service, request: Request<TombstoneReq>) -> Result<TombstoneResp, Failure> {
    let route = consistency::route(request.metadata());
    let caller = service.context.caller(&request).await?;
    let options = request.into_inner().options.ok_or_else(no_options)?;
    let (stream, expected) = parse_tombstone(options)?;
    let position =
        carry_out(service, &caller, "tombstone", Command::Tombstone { stream, expected }, route).await?.get();
    let position = tombstone_resp::Position { commit_position: position, prepare_position: position };
    Ok(TombstoneResp { position_option: Some(tombstone_resp::PositionOption::Position(position)) })
}

pub(super) fn parse_tombstone(options: tombstone_req::Options) -> Result<(StreamName, Expected), Failure> {
    let expected =
        convert::expected!(tombstone_req::options::ExpectedStreamRevision, options.expected_stream_revision)?;
    Ok((convert::deletable(convert::stream(options.stream_identifier)?)?, expected))
}

fn no_options() -> Failure {
    Failure::invalid("options", "the options are missing")
}

async fn carry_out(
    service: &Service,
    caller: &Caller,
    api: &'static str,
    command: Command,
    route: Route,
) -> Result<Position, Failure> {
    let context = &service.context;
    let writing = Writing::new(api, context.metrics.clone());
    let outcome = context.append(caller, command, route, Instant::now() + WRITE_TIMEOUT).await;
    let result = match outcome {
        Ok(Outcome::Appended(appended)) => Ok(appended.position),
        Ok(Outcome::Refused(refusal)) => Err(refused(refusal)),
        Ok(outcome @ (Outcome::Node(_) | Outcome::Denied(_) | Outcome::Scavenge(_) | Outcome::Lease(_))) => {
            Err(unexpected(&outcome))
        }
        Err(failure) => Err(failure),
    };
    writing.finish(match &result {
        Ok(_) => "ok",
        Err(failure) => failure.label(),
    });
    result
}
