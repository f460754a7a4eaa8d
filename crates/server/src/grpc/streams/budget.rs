//! Memory for requests that are still being received, bounded over all calls.
//!
//! The permit for a message's bytes is taken before the message is kept, and
//! held until the append it belongs to is answered. Without it, a few hundred
//! clients that send half an append each could fill the memory.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::status::Failure;

/// Bytes that all appends of one service may hold at a time.
#[derive(Clone)]
pub(crate) struct Budget {
    free: Arc<Semaphore>,
    patience: Duration,
}

/// Bytes that one append holds; given back when dropped.
#[derive(Default)]
pub(crate) struct Held(Option<OwnedSemaphorePermit>);

impl Budget {
    /// A budget of this many bytes, at most 4 GiB. A call waits so long for
    /// others to give memory back.
    pub(crate) fn new(bytes: usize, patience: Duration) -> Self {
        let free = Arc::new(Semaphore::new(bytes.min(u32::MAX as usize).min(Semaphore::MAX_PERMITS)));
        Budget { free, patience }
    }

    /// Takes more bytes for what `held` belongs to.
    ///
    /// # Errors
    /// [`Failure::Overloaded`] when they do not come free in time.
    pub(crate) async fn take(&self, held: &mut Held, bytes: usize) -> Result<(), Failure> {
        let count = u32::try_from(bytes).map_err(|_| Failure::Overloaded)?;
        let permit = match self.free.clone().try_acquire_many_owned(count) {
            Ok(permit) => permit,
            Err(_) => match tokio::time::timeout(self.patience, self.free.clone().acquire_many_owned(count)).await {
                Ok(Ok(permit)) => permit,
                Ok(Err(_)) | Err(_) => return Err(Failure::Overloaded),
            },
        };
        match &mut held.0 {
            Some(all) => all.merge(permit),
            none @ None => *none = Some(permit),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_does_not_come_free_in_time_is_refused() {
        let budget = Budget::new(10, Duration::from_millis(10));
        let (mut one, mut two) = (Held::default(), Held::default());
        budget.take(&mut one, 4).await.expect("free");
        budget.take(&mut one, 4).await.expect("free");
        assert_eq!(budget.take(&mut two, 3).await, Err(Failure::Overloaded));
        drop(one);
        budget.take(&mut two, 10).await.expect("given back");
    }
}
