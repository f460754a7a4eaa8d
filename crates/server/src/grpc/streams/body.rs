//! The body of a read: frames that were made elsewhere, then the status.
//!
//! The generated service would take each message through an encoder, one at a
//! time. A read has them as bytes already ([`super::frames`]), a page at a time,
//! so its handler answers with no messages at all and *hands over* its pages
//! beside the answer. [`HandsOver`] stands around the service, sees them, and
//! makes them the answer's body. Requests, refusals and headers take the same
//! way as those of every other call.

use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Instant;

use axum::body::HttpBody;
use bytes::Bytes;
use futures::TryFutureExt as _;
use futures::future::MapOk;
use futures::stream::BoxStream;
use http::{HeaderMap, Request, Response};
use hyper::body::Frame;
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::Service;
use tonic::server::NamedService;

use super::feed::Reached;
use super::stalls::{Line, Sending};

/// Pages of frames, in order. Whoever takes the next one has room for it.
pub(super) type Pages = BoxStream<'static, Result<Leaf, Status>>;

/// A page, and up to where it takes a subscriber who has it all.
pub(super) struct Leaf {
    pub(super) bytes: Bytes,
    pub(super) reached: Option<Reached>,
}

impl From<Bytes> for Leaf {
    fn from(bytes: Bytes) -> Self {
        Leaf { bytes, reached: None }
    }
}

/// Bytes that the connection is given at a time: small enough that calls which
/// share a connection take turns.
const CHUNK_BYTES_MAX: usize = 64 * 1024;

/// Pages beside an answer. What travels there has to be cloneable.
#[derive(Clone)]
pub(super) struct Handed(Arc<Mutex<Option<Arc<Line>>>>);

impl Handed {
    pub(super) fn new(line: Arc<Line>) -> Self {
        Handed(Arc::new(Mutex::new(Some(line))))
    }

    fn take(self) -> Option<Arc<Line>> {
        self.0.lock().expect("nothing panics while it is held").take()
    }
}

/// A service whose answers may have their bodies handed over.
#[derive(Clone)]
pub(crate) struct HandsOver<S>(pub(super) S);

impl<S: NamedService> NamedService for HandsOver<S> {
    const NAME: &'static str = S::NAME;
}

impl<S, B> Service<Request<B>> for HandsOver<S>
where
    S: Service<Request<B>, Response = Response<Body>>,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = MapOk<S::Future, fn(Response<Body>) -> Response<Body>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        self.0.call(request).map_ok(take_over as fn(_) -> _)
    }
}

fn take_over(mut response: Response<Body>) -> Response<Body> {
    let handed: Option<Handed> = response.extensions_mut().remove();
    match handed.and_then(Handed::take) {
        Some(line) => response.map(|_| Body::new(Framed { line, ended: false })),
        None => response,
    }
}

/// See the module.
struct Framed {
    line: Arc<Line>,
    ended: bool,
}

impl HttpBody for Framed {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = self.get_mut();
        if this.ended {
            return Poll::Ready(None);
        }
        let mut sending = this.line.state.lock();
        sending.note_task();
        let status = loop {
            if sending.at < sending.page.len() {
                sending.since = Some(Instant::now());
                return Poll::Ready(Some(Ok(Frame::data(sending.next_chunk()))));
            }
            if let Some(reached) = sending.reached_with_page.take() {
                sending.reached = Some(reached);
            }
            let Some(pages) = &mut sending.pages else { break this.line.farewell(sending.reached.take()).v1() };
            match pages.as_mut().poll_next(cx) {
                Poll::Ready(Some(Ok(Leaf { bytes, reached }))) => {
                    (sending.page, sending.at, sending.reached_with_page) = (bytes, 0, reached);
                }
                Poll::Ready(Some(Err(status))) => break status,
                Poll::Ready(None) => break Status::ok(""),
                Poll::Pending => {
                    // It has everything that there is.
                    sending.since = None;
                    return Poll::Pending;
                }
            }
        };
        sending.since = None;
        drop(sending);
        this.ended = true;
        let mut trailers = HeaderMap::with_capacity(1 + status.metadata().len());
        Poll::Ready(Some(status.add_header(&mut trailers).map(|()| Frame::trailers(trailers))))
    }

    fn is_end_stream(&self) -> bool {
        self.ended
    }
}

impl Sending {
    /// What the connection is given next of the page. A copy where that is not all: the
    /// connection keeps it for as long as the peer likes, and a slice would keep the
    /// whole page with it, long after the reader was given up.
    pub(super) fn next_chunk(&mut self) -> Bytes {
        let end = self.page.len().min(self.at + CHUNK_BYTES_MAX);
        if self.at == 0 && end == self.page.len() {
            return std::mem::take(&mut self.page);
        }
        let chunk = Bytes::copy_from_slice(&self.page.slice(self.at..end));
        self.at = end;
        if end == self.page.len() {
            (self.page, self.at) = (Bytes::new(), 0);
        }
        chunk
    }
}
