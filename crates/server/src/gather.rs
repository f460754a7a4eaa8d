//! What one turn of a connection writes goes to its socket at once.
//!
//! HTTP/2 writes each answer of more than a few bytes by itself and flushes after
//! each: with many calls on one connection that is a system call, and a waking of the
//! peer, for every answer. Here writes gather for as long as the connection's task has
//! something to do and go out together when it is about to wait ([`Turns`]), or when
//! they are [`GATHERED_MAX`].
//!
//! Invariants
//! - Nothing that was written stays here while the connection's task waits for
//!   anything but the socket.
//! - No more is taken while the socket takes nothing: what a peer that does not read
//!   can make us hold grows by [`GATHERED_MAX`] bytes and no further.
//! - Between turns an idle connection holds no memory for this.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Bytes that are gathered. More at once go to the socket as they are.
const GATHERED_MAX: usize = 32 * 1024;

/// A socket whose writes are gathered. Reads go through.
pub(crate) struct Gathering<S>(Arc<Mutex<Gathered<S>>>);

struct Gathered<S> {
    socket: S,
    bytes: Vec<u8>,
    /// Of them the socket took so many.
    taken: usize,
}

/// The socket to be written to, and the work that writes to it, to be done by one task.
pub(crate) fn gathering<S, F>(socket: S, work: impl FnOnce(Gathering<S>) -> F) -> Turns<S, F> {
    let gathered = Arc::new(Mutex::new(Gathered { socket, bytes: Vec::new(), taken: 0 }));
    Turns { work: Box::pin(work(Gathering(gathered.clone()))), gathered }
}

/// Does the work, and sends what it has written after each turn. Fails as the work
/// does, or where what it wrote cannot be sent.
pub(crate) struct Turns<S, F> {
    work: Pin<Box<F>>,
    gathered: Arc<Mutex<Gathered<S>>>,
}

impl<S, F> Turns<S, F> {
    /// The work itself.
    pub(crate) fn work(&mut self) -> Pin<&mut F> {
        self.work.as_mut()
    }
}

impl<S, F, E> Future for Turns<S, F>
where
    S: AsyncWrite + Unpin,
    F: Future<Output = Result<(), E>>,
    E: From<io::Error>,
{
    type Output = Result<(), E>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), E>> {
        let done = self.work().poll(cx);
        let sent = self.gathered.lock().poll_send(cx);
        match (done, sent) {
            (Poll::Pending, Poll::Ready(Err(error))) => Poll::Ready(Err(error.into())),
            (done, _) => done,
        }
    }
}

impl<S: AsyncWrite + Unpin> Gathered<S> {
    /// Gives everything to the socket.
    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.taken < self.bytes.len() {
            let written = ready!(Pin::new(&mut self.socket).poll_write(cx, &self.bytes[self.taken..]))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.taken += written;
        }
        (self.bytes, self.taken) = (Vec::new(), 0);
        Poll::Ready(Ok(()))
    }

    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_drain(cx))?;
        // What is on the way through a TLS session is written out by its flush.
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_write(&mut self, cx: &mut Context<'_>, slices: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let len = slices.iter().map(|slice| slice.len()).sum();
        if self.taken > 0 || self.bytes.len() + len > GATHERED_MAX {
            ready!(self.poll_drain(cx))?;
        }
        if len > GATHERED_MAX {
            return Pin::new(&mut self.socket).poll_write_vectored(cx, slices);
        }
        if self.bytes.capacity() == 0 {
            self.bytes.reserve_exact(GATHERED_MAX);
        }
        slices.iter().for_each(|slice| self.bytes.extend_from_slice(slice));
        Poll::Ready(Ok(len))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Gathering<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &[u8]) -> Poll<io::Result<usize>> {
        self.0.lock().poll_write(cx, &[IoSlice::new(buffer)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.0.lock().poll_write(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    /// Done by the end of the turn.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut gathered = self.0.lock();
        ready!(gathered.poll_send(cx))?;
        Pin::new(&mut gathered.socket).poll_shutdown(cx)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Gathering<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0.lock().socket).poll_read(cx, buffer)
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    /// A socket that takes so many bytes, and remembers how it was given them.
    struct Socket {
        room: usize,
        writes: Arc<Mutex<Vec<Vec<u8>>>>,
    }

    impl Socket {
        fn new(room: usize) -> (Socket, Arc<Mutex<Vec<Vec<u8>>>>) {
            let writes = Arc::default();
            (Socket { room, writes: Arc::clone(&writes) }, writes)
        }
    }

    impl AsyncWrite for Socket {
        fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, buffer: &[u8]) -> Poll<io::Result<usize>> {
            let taken = buffer.len().min(self.room);
            if taken == 0 {
                return Poll::Pending;
            }
            self.room -= taken;
            self.writes.lock().push(buffer[..taken].to_vec());
            Poll::Ready(Ok(taken))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    #[tokio::test]
    async fn what_a_turn_writes_is_one_write_and_nothing_stays_while_the_work_waits() {
        let (socket, writes) = Socket::new(usize::MAX);
        let mut turns = gathering(socket, async |mut out: Gathering<Socket>| -> io::Result<()> {
            for part in ["one ", "two ", "three"] {
                out.write_all(part.as_bytes()).await?;
                out.flush().await?;
            }
            std::future::pending().await
        });
        assert!((&mut turns).now_or_never().is_none(), "the work waits");
        assert_eq!(*writes.lock(), [b"one two three"]);
        assert_eq!(turns.gathered.lock().bytes.capacity(), 0);
    }

    #[tokio::test]
    async fn what_is_large_goes_out_as_it_is_and_in_order() {
        let (socket, writes) = Socket::new(usize::MAX);
        let large = vec![7; GATHERED_MAX + 1];
        let written = large.clone();
        let turns = gathering(socket, async move |mut out: Gathering<Socket>| -> io::Result<()> {
            out.write_all(b"head").await?;
            out.write_all(&written).await?;
            out.write_all(b"tail").await?;
            out.shutdown().await
        });
        turns.await.expect("all was sent");
        assert_eq!(*writes.lock(), [b"head".to_vec(), large, b"tail".to_vec()]);
    }

    #[tokio::test]
    async fn no_more_is_taken_while_the_socket_takes_nothing() {
        let (socket, writes) = Socket::new(10);
        let taken = Arc::new(Mutex::new(0));
        let counted = taken.clone();
        let mut turns = gathering(socket, async move |mut out: Gathering<Socket>| -> io::Result<()> {
            loop {
                out.write_all(&[1; 1000]).await?;
                *counted.lock() += 1000;
            }
        });
        for _ in 0..3 {
            assert!((&mut turns).now_or_never().is_none(), "the socket is full");
        }
        assert!(*taken.lock() <= GATHERED_MAX, "{}", taken.lock());
        assert_eq!(writes.lock().concat().len(), 10);
    }

    #[tokio::test]
    async fn a_socket_that_fails_ends_the_work_that_waits() {
        let (ours, theirs) = tokio::io::duplex(1024);
        drop(theirs);
        let turns = gathering(ours, async |mut out: Gathering<_>| -> io::Result<()> {
            out.write_all(b"to nobody").await?;
            std::future::pending().await
        });
        assert_eq!(turns.await.expect_err("nobody is there").kind(), io::ErrorKind::BrokenPipe);
    }

    #[tokio::test]
    async fn a_slow_peer_gets_everything() {
        let (ours, mut theirs) = tokio::io::duplex(100);
        let sent: Vec<u8> = (0..100_000_u32).map(|byte| byte as u8).collect();
        let written = sent.clone();
        let turns = gathering(ours, async move |mut out: Gathering<_>| -> io::Result<()> {
            for part in written.chunks(777) {
                out.write_all(part).await?;
            }
            out.shutdown().await
        });
        let mut received = Vec::new();
        let (turns, read) = tokio::join!(turns, theirs.read_to_end(&mut received));
        turns.expect("sent");
        read.expect("received");
        assert!(received == sent);
    }
}
