//! Requests while they come in: memory for messages that are not there yet.
//!
//! A message is decoded when all of it has arrived, and until then the
//! framework holds what has come. The limit of one message bounds one call; a
//! client that begins a large message in each of thousands of calls and ends
//! none would fill the memory long before an append is counted by its budget
//! (`grpc/streams/budget.rs`). So the bytes of unfinished large messages
//! are counted here, over all calls, as they arrive. Not as they are announced:
//! four bytes that promise 16 MiB cost nobody anything.
//!
//! Small messages are not counted: HTTP/2's windows bound those. Large ones are
//! also weighed: what they become when they are decoded is bounded too, and is
//! held until the call asks for more.

pub(crate) mod weight;

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use axum::body::HttpBody;
use bytes::Bytes;
use http::Uri;
use hyper::body::{Frame, Incoming, SizeHint};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::Status;

use self::weight::{TooHeavy, WEIGHT_MAX, Weigher};
use crate::status::Failure;

/// Messages up to this size are not counted.
const SMALL_BYTES_MAX: usize = 64 * 1024;

/// Calls whose messages are not counted, because they are not received before
/// it is known that a member of the cluster calls. One message is a piece of
/// the log, larger than what all clients may have under way.
const BETWEEN_NODES: [&str; 2] = ["/annals.internal.v1.Replication/Append", "/annals.internal.v1.Coordination/Forward"];

/// Bytes of unfinished messages that all calls together may hold.
#[derive(Clone, Debug)]
pub(crate) struct Reception(Arc<Semaphore>);

impl Reception {
    /// At most 4 GiB.
    pub(crate) fn new(bytes: u64) -> Self {
        let bytes = usize::try_from(bytes).unwrap_or(usize::MAX).min(u32::MAX as usize).min(Semaphore::MAX_PERMITS);
        Reception(Arc::new(Semaphore::new(bytes)))
    }

    /// The body of a request to this path, counted.
    pub(crate) fn of(&self, uri: &Uri, body: Incoming) -> Receiving {
        let counting = (!BETWEEN_NODES.contains(&uri.path())).then(|| Counting::new(self.0.clone(), uri.clone()));
        Receiving { body, counting }
    }
}

/// The body of a request.
pub(crate) struct Receiving {
    body: Incoming,
    counting: Option<Counting>,
}

impl HttpBody for Receiving {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = self.get_mut();
        if let Some(counting) = &mut this.counting {
            counting.forget_what_is_complete();
        }
        let frame = match ready!(Pin::new(&mut this.body).poll_frame(cx)) {
            Some(Ok(frame)) => frame,
            Some(Err(error)) => return Poll::Ready(Some(Err(Status::from_error(Box::new(error))))),
            None => return Poll::Ready(None),
        };
        let counted = match (frame.data_ref(), &mut this.counting) {
            (Some(data), Some(counting)) => counting.count(data),
            (Some(_) | None, _) => Ok(()),
        };
        Poll::Ready(Some(counted.map(|()| frame).map_err(|failure| failure.v1())))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// The message of one call that is coming in, and the memory it was given.
struct Counting {
    free: Arc<Semaphore>,
    uri: Uri,
    framing: Framing,
    /// Of a large message.
    weigher: Option<Weigher>,
    held: Option<OwnedSemaphorePermit>,
}

impl Counting {
    fn new(free: Arc<Semaphore>, uri: Uri) -> Self {
        Counting { free, uri, framing: Framing::default(), weigher: None, held: None }
    }

    /// Whoever asks for more is done with the message that it has.
    fn forget_what_is_complete(&mut self) {
        if self.held.is_some() && self.framing.is_between() {
            self.held = None;
        }
    }

    fn count(&mut self, mut data: &[u8]) -> Result<(), Failure> {
        let mut held = 0;
        while let Some(piece) = self.framing.next(&mut data) {
            if self.framing.length <= SMALL_BYTES_MAX {
                continue;
            }
            if self.framing.received == piece.len() {
                self.weigher = Weigher::new(self.uri.path(), self.framing.length);
            }
            let weight = match &mut self.weigher {
                Some(weigher) => {
                    weigher.weigh(piece).map_err(|TooHeavy| {
                        Failure::MessageTooLarge(format!(
                            "The message has too many parts: they would take more than {WEIGHT_MAX} bytes."
                        ))
                    })?;
                    weigher.weight()
                }
                None => 0,
            };
            held = self.framing.received.max(weight);
        }
        let before = self.held.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
        self.hold(held.saturating_sub(before))
    }

    fn hold(&mut self, bytes: usize) -> Result<(), Failure> {
        if bytes == 0 {
            return Ok(());
        }
        let bytes = u32::try_from(bytes).map_err(|_| Failure::Overloaded)?;
        let permit = self.free.clone().try_acquire_many_owned(bytes).map_err(|_| Failure::Overloaded)?;
        match &mut self.held {
            Some(held) => held.merge(permit),
            none @ None => *none = Some(permit),
        }
        Ok(())
    }
}

/// Where the bytes of a call are in its messages: a flag, a length of four
/// bytes, so many bytes; again.
#[derive(Default)]
struct Framing {
    header: [u8; 5],
    /// Bytes of the header that are there.
    begun: usize,
    length: usize,
    /// Bytes of the message that are there.
    received: usize,
}

impl Framing {
    /// The next bytes that are of one message, taken out of `data`.
    fn next<'d>(&mut self, data: &mut &'d [u8]) -> Option<&'d [u8]> {
        while !data.is_empty() {
            if self.is_between() {
                (self.begun, self.length, self.received) = (0, 0, 0);
            }
            if self.begun < self.header.len() {
                let (taken, rest) = data.split_at(data.len().min(self.header.len() - self.begun));
                self.header[self.begun..self.begun + taken.len()].copy_from_slice(taken);
                self.begun += taken.len();
                *data = rest;
                if self.begun == self.header.len() {
                    let [_, length @ ..] = self.header;
                    self.length = u32::from_be_bytes(length) as usize;
                }
            } else {
                let (piece, rest) = data.split_at(data.len().min(self.length - self.received));
                self.received += piece.len();
                *data = rest;
                return Some(piece);
            }
        }
        None
    }

    /// Whether a message has ended and none has begun.
    fn is_between(&self) -> bool {
        self.begun == self.header.len() && self.received == self.length
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(length: usize) -> Vec<u8> {
        let mut bytes = vec![0];
        bytes.extend_from_slice(&u32::try_from(length).expect("short").to_be_bytes());
        bytes.resize(5 + length, 0xff);
        bytes
    }

    fn append() -> Uri {
        Uri::from_static("http://a/event_store.client.streams.Streams/Append")
    }

    #[test]
    fn messages_are_found_wherever_their_bytes_are_cut() {
        let sizes = [0, 1, SMALL_BYTES_MAX, SMALL_BYTES_MAX + 1, 0, 200_000, 3];
        let bytes: Vec<u8> = sizes.iter().flat_map(|size| message(*size)).collect();
        for cut in [1, 2, 5, 7, 1_000, 65_536, bytes.len()] {
            let mut framing = Framing::default();
            let mut ended = Vec::new();
            for mut chunk in bytes.chunks(cut) {
                while framing.next(&mut chunk).is_some() {
                    if framing.is_between() {
                        ended.push(framing.length);
                    }
                }
            }
            let with_content: Vec<_> = sizes.iter().copied().filter(|size| *size > 0).collect();
            assert_eq!(ended, with_content, "cut at {cut}");
        }
    }

    #[test]
    fn a_promise_costs_nothing_and_bytes_that_came_are_given_back_after_their_message() {
        let reception = Reception::new(100_000);
        let mut counting = Counting::new(reception.0.clone(), append());
        let large = message(90_000);
        counting.count(&large[..5]).expect("nothing has come yet");
        assert_eq!(reception.0.available_permits(), 100_000);
        counting.count(&large[5..80_005]).expect("there is room");
        counting.forget_what_is_complete();
        assert_eq!(reception.0.available_permits(), 20_000);
        let mut other = Counting::new(reception.0.clone(), append());
        assert_eq!(other.count(&message(90_000)[..50_000]), Err(Failure::Overloaded));
        counting.count(&large[80_005..]).expect("the end");
        assert_eq!(reception.0.available_permits(), 10_000, "it is being decoded");
        counting.forget_what_is_complete();
        assert_eq!(reception.0.available_permits(), 100_000);
        drop(other);
        counting.count(&large[..50_000]).expect("again");
        drop(counting);
        assert_eq!(reception.0.available_permits(), 100_000, "given back by who goes away");
    }

    #[test]
    fn a_message_that_would_unfold_is_refused_while_it_comes_in() {
        let batch = Uri::from_static("http://a/event_store.client.streams.Streams/BatchAppend");
        let mut counting = Counting::new(Reception::new(1 << 30).0, batch);
        let mut bytes = message(16_000_000);
        bytes.truncate(5);
        bytes.extend([0x1a, 0].repeat(8_000_000));
        let refused = bytes.chunks(16 * 1024).position(|chunk| counting.count(chunk).is_err());
        assert!(refused.is_some_and(|at| at < 200), "after some 2 MB: {refused:?}");
    }
}
