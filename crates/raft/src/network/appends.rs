//! One stream of appends to one peer: requests go out while earlier ones are unanswered,
//! and no answer reaches the consensus library that would say more than the peer meant.

use std::collections::VecDeque;
use std::time::Duration;

use annals_core::seeded;
use annals_proto::annals::internal::v1 as pb;
use futures::stream::{self, Stream, StreamExt};
use openraft::base::BoxStream;
use openraft::raft::{AppendEntriesRequest, StreamAppendError, StreamAppendResult};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::{Calls, RpcError, unreadable};
use crate::codec;
use crate::types::{LogId, TypeConfig, Vote};

/// How long a follower may take to make an append durable. Disks stall for
/// seconds now and then; a stream that is given up has to find its place again.
const ANSWER: Duration = Duration::from_secs(10);

/// Appends that are encoded and not yet sent.
const PIPELINE: usize = 16;

/// Sends the requests of `input` over a stream that `open` opens, and hands
/// out the answers.
pub(crate) async fn append_stream<'s, S, A>(
    calls: &'s impl Calls,
    mut input: S,
    open: impl AsyncFnOnce(ReceiverStream<pb::AppendRequest>) -> Result<A, RpcError>,
) -> Result<BoxStream<'s, Result<StreamAppendResult<TypeConfig>, RpcError>>, RpcError>
where
    S: Stream<Item = AppendEntriesRequest<TypeConfig>> + Send + Unpin + 'static,
    A: Stream<Item = Result<pb::AppendResponse, Status>> + Send + Unpin + 's,
{
    // The library's pause after a failure is in this stream: a session that
    // fails before it asks for a request would begin again at once, thousands
    // of times in a second.
    let Some(first) = input.next().await else { return Ok(stream::empty().boxed()) };
    let asked = VecDeque::from([Asked::from(&first)]);
    let (header, entries) = codec::encode_append(&first);
    let (requests, outgoing) = mpsc::channel(PIPELINE);
    let answers = open(ReceiverStream::new(outgoing)).await?;
    let session = Session {
        calls,
        input: Some(input),
        requests: Some(requests),
        next: Some(pb::AppendRequest { header, entries }),
        answers,
        leadership: first.vote,
        asked,
        unanswered: VecDeque::new(),
        waiting_since: tokio::time::Instant::now(),
    };
    let answers = stream::unfold(Some(session), |session| async move {
        let mut session = session?;
        let answer = session.next_answer().await?;
        // After anything but a plain success the stream is over.
        let session = matches!(answer, Ok(Ok(_))).then_some(session);
        Some((answer, session))
    });
    Ok(answers.boxed())
}

/// What a request is about.
struct Asked {
    previous: Option<LogId>,
    last: Option<LogId>,
}

impl From<&AppendEntriesRequest<TypeConfig>> for Asked {
    fn from(request: &AppendEntriesRequest<TypeConfig>) -> Self {
        let last = request.entries.last().map(|entry| entry.log_id).or(request.prev_log_id);
        Asked { previous: request.prev_log_id, last }
    }
}

/// One stream of appends to one peer.
///
/// The consensus library takes an answer for one to every request that it covers,
/// also to those that were made after the answer was on its way: a request without
/// entries right behind one with some. To such a request the answer says nothing,
/// but the library would believe that the peer followed it when the request was
/// made, and let a leader that was replaced meanwhile read what is no longer true
/// (its time of the last confirmation is that of the request). So an answer is held
/// back, and left out, where a later request is under way that it would seem to
/// answer too: what the peer says to that one covers both.
///
/// The input is polled from here rather than from a task of its own, so that
/// it is gone as soon as the session is: the next session waits for a lock
/// that the input holds.
struct Session<'s, C, S, A> {
    calls: &'s C,
    input: Option<S>,
    requests: Option<mpsc::Sender<pb::AppendRequest>>,
    next: Option<pb::AppendRequest>,
    answers: A,
    leadership: Vote,
    /// The requests that the library made and that have no answer.
    asked: VecDeque<Asked>,
    /// For each of these that was sent, what had been acknowledged then.
    unanswered: VecDeque<Option<u64>>,
    waiting_since: tokio::time::Instant,
}

impl<C, S, A> Session<'_, C, S, A>
where
    C: Calls,
    S: Stream<Item = AppendEntriesRequest<TypeConfig>> + Unpin,
    A: Stream<Item = Result<pb::AppendResponse, Status>> + Unpin,
{
    async fn next_answer(&mut self) -> Option<Result<StreamAppendResult<TypeConfig>, RpcError>> {
        loop {
            let late = self.waiting_since + ANSWER;
            tokio::select! {
                // Answers first: they commit what clients wait for.
                biased;
                answer = self.answers.next() => match self.answered(answer) {
                    Some(Ok(Ok(matched))) if self.seems_to_answer_more(matched.as_ref()) => {}
                    answer => return answer,
                },
                permit = reserve(self.requests.clone()), if self.next.is_some() => {
                    match (permit, self.next.take()) {
                        (Some(permit), Some(request)) => {
                            if self.unanswered.is_empty() {
                                self.waiting_since = tokio::time::Instant::now();
                            }
                            let (ledger, peer) = self.calls.ledger();
                            self.unanswered.push_back(ledger.acknowledged(peer, &self.leadership));
                            drop(permit.send(request));
                        }
                        // The transport let go of its end; its error follows
                        // as an answer.
                        _ => { self.input = None; self.requests = None; }
                    }
                }
                request = next_of(&mut self.input), if self.next.is_none() && self.input.is_some() => {
                    match request {
                        Some(request) => {
                            self.asked.push_back(Asked::from(&request));
                            let (header, entries) = codec::encode_append(&request);
                            self.next = Some(pb::AppendRequest { header, entries });
                        }
                        None => { self.input = None; self.requests = None; }
                    }
                }
                () = tokio::time::sleep_until(late), if !self.unanswered.is_empty() => {
                    let status = Status::deadline_exceeded(format!("an append was not answered within {ANSWER:?}"));
                    return Some(Err(self.calls.failed(status)));
                }
            }
        }
    }

    fn answered(
        &mut self,
        answer: Option<Result<pb::AppendResponse, Status>>,
    ) -> Option<Result<StreamAppendResult<TypeConfig>, RpcError>> {
        match answer {
            Some(Ok(answer)) => {
                self.calls.answered(self.waiting_since.elapsed());
                let acknowledged = self.unanswered.pop_front().flatten();
                self.asked.pop_front();
                self.waiting_since = tokio::time::Instant::now();
                Some(match codec::decode_append_answer(&answer.body) {
                    Ok(answer) => self.weighed(answer, acknowledged),
                    Err(error) => Err(unreadable(&error)),
                })
            }
            None if self.unanswered.is_empty() => None,
            None => Some(Err(self.calls.failed(Status::unavailable("the stream ended with appends unanswered")))),
            Some(Err(status)) => Some(Err(self.calls.failed(status))),
        }
    }
}

impl<C: Calls, S, A> Session<'_, C, S, A> {
    /// Whether the library would take this answer for one to a later request too.
    fn seems_to_answer_more(&self, matched: Option<&LogId>) -> bool {
        self.asked.front().is_some_and(|next| next.last.as_ref() <= matched || next.previous.as_ref() < matched)
    }

    /// The answer, unless it takes back what was acknowledged before its
    /// request was sent.
    fn weighed(
        &self,
        answer: StreamAppendResult<TypeConfig>,
        acknowledged: Option<u64>,
    ) -> Result<StreamAppendResult<TypeConfig>, RpcError> {
        match &answer {
            Ok(Some(matched)) => {
                let (ledger, peer) = self.calls.ledger();
                ledger.note(peer, &self.leadership, matched.index());
            }
            Err(StreamAppendError::Conflict(missing)) => {
                if let Some(acknowledged) = acknowledged.filter(|acknowledged| missing.index() <= *acknowledged)
                    && !seeded::breaks_promises()
                {
                    return Err(self.calls.lost(missing.index(), acknowledged));
                }
            }
            Ok(None) | Err(StreamAppendError::HigherVote(_)) => {}
        }
        Ok(answer)
    }
}

async fn reserve(requests: Option<mpsc::Sender<pb::AppendRequest>>) -> Option<mpsc::OwnedPermit<pb::AppendRequest>> {
    requests?.reserve_owned().await.ok()
}

async fn next_of<S: Stream + Unpin>(input: &mut Option<S>) -> Option<S::Item> {
    input.as_mut()?.next().await
}

#[cfg(test)]
mod tests {
    use parking_lot::Mutex;

    use openraft::errors::Unreachable;

    use super::*;
    use crate::ledger::Ledger;
    use crate::types::Entry;

    const FOLLOWER: u64 = 2;

    /// A follower of whom one thing is to be known: whether it lost something.
    #[derive(Default)]
    struct Follower {
        ledger: Ledger,
        lost: Mutex<Option<(u64, u64)>>,
    }

    impl Calls for Follower {
        fn failed(&self, status: Status) -> RpcError {
            RpcError::Unreachable(Unreachable::from_string(status.to_string()))
        }

        fn answered(&self, _: Duration) {}

        fn ledger(&self) -> (&Ledger, u64) {
            (&self.ledger, FOLLOWER)
        }

        fn lost(&self, missing: u64, acknowledged: u64) -> RpcError {
            *self.lost.lock() = Some((missing, acknowledged));
            self.failed(Status::data_loss("lost"))
        }
    }

    fn leadership() -> Vote {
        Vote::new_committed(1, 1)
    }

    fn entry(index: u64) -> LogId {
        LogId::new(crate::types::LeaderId { term: 1, node_id: 1 }, index)
    }

    fn after(index: u64) -> AppendEntriesRequest<TypeConfig> {
        AppendEntriesRequest {
            vote: leadership(),
            prev_log_id: Some(entry(index)),
            entries: Vec::new(),
            leader_commit: None,
        }
    }

    fn answer(answer: &StreamAppendResult<TypeConfig>) -> Result<pb::AppendResponse, Status> {
        Ok(pb::AppendResponse { body: codec::encode_append_answer(answer) })
    }

    /// Sends one request; `before` happens when it was sent, then it is
    /// answered.
    async fn answered(
        follower: &Follower,
        given: StreamAppendResult<TypeConfig>,
        before: impl FnOnce(),
    ) -> Result<StreamAppendResult<TypeConfig>, RpcError> {
        let (answers, coming) = mpsc::channel(1);
        let (sent, mut arrived) = mpsc::channel(1);
        let input = stream::iter([after(5)]).chain(stream::pending());
        let mut session = append_stream(follower, input, async move |mut requests: ReceiverStream<_>| {
            tokio::spawn(async move {
                while let Some(request) = requests.next().await {
                    sent.send(request).await.expect("somebody waits for it");
                }
            });
            Ok(ReceiverStream::new(coming))
        })
        .await
        .expect("opened");
        let mut next = session.next();
        tokio::select! {
            biased;
            _ = &mut next => panic!("there is no answer yet"),
            request = arrived.recv() => assert!(request.is_some()),
        }
        before();
        answers.send(answer(&given)).await.expect("somebody waits for it");
        next.await.expect("an answer")
    }

    #[tokio::test]
    async fn a_follower_that_takes_back_what_it_acknowledged_never_reaches_the_library() {
        let follower = Follower::default();
        let matched = answered(&follower, Ok(Some(entry(7))), || {}).await;
        assert_eq!(matched.expect("a plain answer"), Ok(Some(entry(7))));
        let conflict = answered(&follower, Err(StreamAppendError::Conflict(entry(5))), || {}).await;
        assert!(conflict.is_err(), "{conflict:?}");
        assert_eq!(*follower.lost.lock(), Some((5, 7)));
    }

    fn with_entries(from: u64, to: u64) -> AppendEntriesRequest<TypeConfig> {
        let entry = |index| Entry { log_id: entry(index), payload: openraft::EntryPayload::Blank };
        AppendEntriesRequest { entries: (from..=to).map(entry).collect(), ..after(from - 1) }
    }

    /// What reaches the library when the peer answers these requests in order, all
    /// of which were made before the first answer was taken.
    async fn told(requests: Vec<AppendEntriesRequest<TypeConfig>>, given: &[u64]) -> Vec<u64> {
        let follower = Follower::default();
        let (answers, coming) = mpsc::channel(8);
        let (sent, mut arrived) = mpsc::channel(8);
        let count = requests.len();
        let input = stream::iter(requests).chain(stream::pending());
        let mut session = append_stream(&follower, input, async move |mut requests: ReceiverStream<_>| {
            tokio::spawn(async move {
                while let Some(request) = requests.next().await {
                    sent.send(request).await.expect("somebody waits for it");
                }
            });
            Ok(ReceiverStream::new(coming))
        })
        .await
        .expect("opened");
        let mut next = session.next();
        for _ in 0..count {
            tokio::select! {
                biased;
                _ = &mut next => panic!("there is no answer yet"),
                request = arrived.recv() => assert!(request.is_some()),
            }
        }
        for index in given {
            answers.send(answer(&Ok(Some(entry(*index))))).await.expect("somebody waits for it");
        }
        drop(answers);
        let mut told = Vec::new();
        while let Some(Ok(Ok(Some(matched)))) = next.await {
            told.push(matched.index());
            next = session.next();
        }
        told
    }

    #[tokio::test]
    async fn an_answer_is_never_taken_for_one_to_a_request_without_entries_behind_it() {
        let requests = vec![with_entries(6, 7), after(7), after(7), with_entries(8, 9)];
        assert_eq!(told(requests, &[7]).await, [0; 0], "two requests are open that end where it matched");
        let requests = vec![with_entries(6, 7), after(7), after(7), with_entries(8, 9)];
        assert_eq!(told(requests, &[7, 7, 7, 9]).await, [7, 9]);
    }

    #[tokio::test]
    async fn every_answer_to_requests_with_entries_is_told() {
        let requests = vec![with_entries(6, 7), with_entries(8, 8), with_entries(9, 12)];
        assert_eq!(told(requests, &[7, 8, 12]).await, [7, 8, 12]);
    }

    #[tokio::test]
    async fn a_conflict_that_was_overtaken_by_an_acknowledgement_is_no_loss() {
        let follower = Follower::default();
        let meanwhile = || follower.ledger.note(FOLLOWER, &leadership(), 9);
        let conflict = answered(&follower, Err(StreamAppendError::Conflict(entry(5))), meanwhile).await;
        assert_eq!(conflict.expect("a plain answer"), Err(StreamAppendError::Conflict(entry(5))));
        assert_eq!(*follower.lost.lock(), None);
    }
}
