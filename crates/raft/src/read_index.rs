//! Finding out how far a linearizable read must see.
//!
//! A leader asks a quorum whether it still is the leader; everybody else asks
//! the leader. Either costs a round trip, so one round serves all reads that
//! were waiting when it began. Reads that come later wait for the next round:
//! an answer from before a read began says nothing about what was acknowledged
//! meanwhile. Clocks play no part.

use futures::future::BoxFuture;
use tokio::sync::{mpsc, oneshot};

use crate::error::BarrierError;

/// Reads that may wait for a round.
const QUEUE: usize = 65_536;

type Answer = Result<u64, BarrierError>;

/// A handle on a task that asks, one round at a time.
#[derive(Clone)]
pub(crate) struct ReadIndex {
    readers: mpsc::Sender<oneshot::Sender<Answer>>,
}

impl ReadIndex {
    /// The handle, and the task to be run. `ask` is one round: it answers how
    /// many entries must be applied.
    pub(crate) fn new<F>(ask: F) -> (ReadIndex, impl Future<Output = ()>)
    where
        F: Fn() -> BoxFuture<'static, Answer> + Send + 'static,
    {
        let (readers, waiting) = mpsc::channel(QUEUE);
        (ReadIndex { readers }, run(waiting, ask))
    }

    /// How many entries must be applied to see everything that was
    /// acknowledged before this call.
    pub(crate) async fn get(&self) -> Answer {
        let (reply, answer) = oneshot::channel();
        self.readers.send(reply).await.map_err(|_| BarrierError::ShuttingDown)?;
        answer.await.map_err(|_| BarrierError::ShuttingDown)?
    }
}

async fn run<F>(mut waiting: mpsc::Receiver<oneshot::Sender<Answer>>, ask: F)
where
    F: Fn() -> BoxFuture<'static, Answer>,
{
    while let Some(first) = waiting.recv().await {
        let mut round = vec![first];
        while let Ok(reader) = waiting.try_recv() {
            round.push(reader);
        }
        let answer = ask().await;
        for reader in round {
            // A reader that gave up needs no answer.
            let _ = reader.send(answer.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};

    use futures::FutureExt;
    use tokio::sync::Semaphore;

    use super::*;

    #[tokio::test]
    async fn readers_that_come_during_a_round_share_the_next_one() {
        let rounds = Arc::new(AtomicU64::new(0));
        let gate = Arc::new(Semaphore::new(0));
        let (counter, opened) = (rounds.clone(), gate.clone());
        let (index, task) = ReadIndex::new(move || {
            let (counter, opened) = (counter.clone(), opened.clone());
            async move {
                opened.acquire().await.expect("open").forget();
                Ok(counter.fetch_add(1, Ordering::SeqCst) + 1)
            }
            .boxed()
        });
        tokio::spawn(task);
        let first = tokio::spawn({
            let index = index.clone();
            async move { index.get().await }
        });
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        let later: Vec<_> = (0..10)
            .map(|_| {
                let index = index.clone();
                tokio::spawn(async move { index.get().await })
            })
            .collect();
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        gate.add_permits(10);
        assert_eq!(first.await.expect("answered"), Ok(1));
        for reader in later {
            assert_eq!(reader.await.expect("answered"), Ok(2));
        }
        assert_eq!(rounds.load(Ordering::SeqCst), 2);
    }
}
