//! What nodes say to each other about the log: appends, votes, handing over leadership.

use bytes::Bytes;
use openraft::raft::{
    AppendEntriesRequest, StreamAppendError, StreamAppendResult, TransferLeaderError, TransferLeaderRequest,
    TransferLeaderResponse, VoteRequest, VoteResponse,
};
use serde::{Deserialize, Serialize};

use super::{CodecError, LogIdForm, VoteForm, decode, decode_entry, encode, encode_entry};
use crate::types::{LogId, TypeConfig};

#[derive(Serialize, Deserialize)]
struct AppendHeader {
    vote: VoteForm,
    previous: Option<LogIdForm>,
    committed: Option<LogIdForm>,
}

/// The header and the entries of a request.
pub(crate) fn encode_append(request: &AppendEntriesRequest<TypeConfig>) -> (Bytes, Vec<Bytes>) {
    let header = encode(&AppendHeader {
        vote: (&request.vote).into(),
        previous: request.prev_log_id.as_ref().map(LogIdForm::from),
        committed: request.leader_commit.as_ref().map(LogIdForm::from),
    });
    (header, request.entries.iter().map(encode_entry).collect())
}

pub(crate) fn decode_append(
    header: &[u8],
    entries: Vec<Bytes>,
) -> Result<AppendEntriesRequest<TypeConfig>, CodecError> {
    let header: AppendHeader = decode(header)?;
    Ok(AppendEntriesRequest {
        vote: header.vote.into(),
        prev_log_id: header.previous.map(LogId::from),
        entries: entries.into_iter().map(decode_entry).collect::<Result<_, _>>()?,
        leader_commit: header.committed.map(LogId::from),
    })
}

#[derive(Serialize, Deserialize)]
enum AppendAnswer {
    Matched(Option<LogIdForm>),
    Conflict(LogIdForm),
    HigherVote(VoteForm),
}

pub(crate) fn encode_append_answer(answer: &StreamAppendResult<TypeConfig>) -> Bytes {
    encode(&match answer {
        Ok(matched) => AppendAnswer::Matched(matched.as_ref().map(LogIdForm::from)),
        Err(StreamAppendError::Conflict(at)) => AppendAnswer::Conflict(at.into()),
        Err(StreamAppendError::HigherVote(vote)) => AppendAnswer::HigherVote(vote.into()),
    })
}

pub(crate) fn decode_append_answer(bytes: &[u8]) -> Result<StreamAppendResult<TypeConfig>, CodecError> {
    Ok(match decode(bytes)? {
        AppendAnswer::Matched(matched) => Ok(matched.map(LogId::from)),
        AppendAnswer::Conflict(at) => Err(StreamAppendError::Conflict(at.into())),
        AppendAnswer::HigherVote(vote) => Err(StreamAppendError::HigherVote(vote.into())),
    })
}

#[derive(Serialize, Deserialize)]
struct VoteRequestForm {
    vote: VoteForm,
    last: Option<LogIdForm>,
    transfer: bool,
}

pub(crate) fn encode_vote_request(request: &VoteRequest<TypeConfig>) -> Bytes {
    encode(&VoteRequestForm {
        vote: (&request.vote).into(),
        last: request.last_log_id.as_ref().map(LogIdForm::from),
        transfer: request.leadership_transfer,
    })
}

pub(crate) fn decode_vote_request(bytes: &[u8]) -> Result<VoteRequest<TypeConfig>, CodecError> {
    let form: VoteRequestForm = decode(bytes)?;
    let mut request = VoteRequest::new(form.vote.into(), form.last.map(LogId::from));
    request.leadership_transfer = form.transfer;
    Ok(request)
}

#[derive(Serialize, Deserialize)]
struct VoteResponseForm {
    vote: VoteForm,
    granted: bool,
    last: Option<LogIdForm>,
}

pub(crate) fn encode_vote_response(response: &VoteResponse<TypeConfig>) -> Bytes {
    encode(&VoteResponseForm {
        vote: (&response.vote).into(),
        granted: response.vote_granted,
        last: response.last_log_id.as_ref().map(LogIdForm::from),
    })
}

pub(crate) fn decode_vote_response(bytes: &[u8]) -> Result<VoteResponse<TypeConfig>, CodecError> {
    let form: VoteResponseForm = decode(bytes)?;
    Ok(VoteResponse { vote: form.vote.into(), vote_granted: form.granted, last_log_id: form.last.map(LogId::from) })
}

#[derive(Serialize, Deserialize)]
struct TransferRequestForm {
    from: VoteForm,
    to: u64,
    last: Option<LogIdForm>,
}

pub(crate) fn encode_transfer_request(request: &TransferLeaderRequest<TypeConfig>) -> Bytes {
    encode(&TransferRequestForm {
        from: request.from_leader().into(),
        to: *request.to_node_id(),
        last: request.last_log_id().map(LogIdForm::from),
    })
}

pub(crate) fn decode_transfer_request(bytes: &[u8]) -> Result<TransferLeaderRequest<TypeConfig>, CodecError> {
    let form: TransferRequestForm = decode(bytes)?;
    Ok(TransferLeaderRequest::new(form.from.into(), form.to, form.last.map(LogId::from)))
}

#[derive(Serialize, Deserialize)]
enum TransferAnswer {
    Accepted,
    VoteChanged { expected: VoteForm, actual: VoteForm },
    LogNotFlushed { expected: Option<LogIdForm>, actual: Option<LogIdForm> },
}

pub(crate) fn encode_transfer_answer(answer: &TransferLeaderResponse<TypeConfig>) -> Bytes {
    encode(&match answer {
        Ok(()) => TransferAnswer::Accepted,
        Err(TransferLeaderError::VoteChanged { expected, actual }) => {
            TransferAnswer::VoteChanged { expected: expected.into(), actual: actual.into() }
        }
        Err(TransferLeaderError::LogNotFlushed { expected, actual }) => TransferAnswer::LogNotFlushed {
            expected: expected.as_ref().map(LogIdForm::from),
            actual: actual.as_ref().map(LogIdForm::from),
        },
    })
}

pub(crate) fn decode_transfer_answer(bytes: &[u8]) -> Result<TransferLeaderResponse<TypeConfig>, CodecError> {
    Ok(match decode(bytes)? {
        TransferAnswer::Accepted => Ok(()),
        TransferAnswer::VoteChanged { expected, actual } => {
            Err(TransferLeaderError::VoteChanged { expected: expected.into(), actual: actual.into() })
        }
        TransferAnswer::LogNotFlushed { expected, actual } => Err(TransferLeaderError::LogNotFlushed {
            expected: expected.map(LogId::from),
            actual: actual.map(LogId::from),
        }),
    })
}

#[cfg(test)]
mod tests {
    use super::super::decode_vote;
    use super::*;
    use crate::types::{LeaderId, Vote};

    fn log_id(term: u64, node: u64, index: u64) -> LogId {
        LogId::new(LeaderId { term, node_id: node }, index)
    }

    #[test]
    fn messages_come_back_as_they_were() {
        let vote = Vote::new_committed(4, 2);
        let request = VoteRequest { vote, last_log_id: Some(log_id(3, 1, 5)), leadership_transfer: true };
        assert_eq!(decode_vote_request(&encode_vote_request(&request)), Ok(request));
        for answer in [
            Ok(None),
            Ok(Some(log_id(1, 2, 3))),
            Err(StreamAppendError::Conflict(log_id(1, 2, 3))),
            Err(StreamAppendError::HigherVote(vote)),
        ] {
            assert_eq!(decode_append_answer(&encode_append_answer(&answer)), Ok(answer));
        }
        assert_eq!(decode_vote(&[9]), Err(CodecError::Version(9)));
        assert_eq!(decode_vote(&[]), Err(CodecError::Truncated));
    }
}
