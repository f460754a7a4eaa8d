//! Memory for pages that wait to be taken, bounded over all readers.
//!
//! A reader that is quick gets large pages, which cost less for each event. One
//! that does not take what it asked for keeps its page in memory, and a thousand
//! such readers a thousand pages. So whatever a page has above the least is
//! taken from a common store; when that is used up, pages are small, and reading
//! goes on.

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Memory for the pages of all readers.
#[derive(Clone, Debug)]
pub(crate) struct Room(Arc<Semaphore>);

/// Room for one page.
#[derive(Debug)]
pub(crate) struct Space {
    bytes: usize,
    /// None for the least, which is not counted.
    permit: Option<OwnedSemaphorePermit>,
}

impl Room {
    /// Bytes that any page may have.
    pub(crate) const LEAST: usize = 64 * 1024;

    /// Room for so many bytes, at most 4 GiB.
    pub(crate) fn new(bytes: u64) -> Self {
        let bytes = usize::try_from(bytes).unwrap_or(usize::MAX).min(u32::MAX as usize).min(Semaphore::MAX_PERMITS);
        Room(Arc::new(Semaphore::new(bytes)))
    }

    /// Room for a page of so many bytes; for the least, where that is not there.
    pub(crate) fn take(&self, wanted: usize) -> Space {
        if wanted <= Self::LEAST {
            return Space { bytes: wanted, permit: None };
        }
        let count = u32::try_from(wanted).unwrap_or(u32::MAX);
        match self.0.clone().try_acquire_many_owned(count) {
            Ok(permit) => Space { bytes: wanted, permit: Some(permit) },
            Err(_) => Space { bytes: Self::LEAST, permit: None },
        }
    }
}

impl Space {
    /// Bytes that the page may have.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// The page, which gives its room back when the last of it is gone, from the
    /// connection too.
    pub(crate) fn hold(self, page: Bytes) -> Bytes {
        let Some(mut permit) = self.permit.filter(|_| page.len() > Room::LEAST) else { return page };
        drop(permit.split(self.bytes.saturating_sub(page.len())));
        Bytes::from_owner(Held { page, permit })
    }
}

struct Held {
    page: Bytes,
    #[expect(dead_code, reason = "held for its drop")]
    permit: OwnedSemaphorePermit,
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.page
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_comes_back_with_the_last_piece_of_a_page() {
        let room = Room::new(1_000_000);
        let space = room.take(800_000);
        assert_eq!(space.bytes(), 800_000);
        assert_eq!(room.take(800_000).bytes(), Room::LEAST, "used up: a small one");
        let mut page = space.hold(Bytes::from(vec![7; 500_000]));
        assert_eq!(room.0.available_permits(), 500_000, "what the page does not need is given back");
        let piece = page.split_to(10);
        drop(page);
        assert_eq!(room.0.available_permits(), 500_000);
        drop(piece);
        assert_eq!(room.0.available_permits(), 1_000_000);
    }

    #[test]
    fn a_small_page_holds_nothing() {
        let room = Room::new(1_000_000);
        let _page = room.take(800_000).hold(Bytes::from_static(b"small"));
        assert_eq!(room.0.available_permits(), 1_000_000);
        assert_eq!(room.take(10).bytes(), 10);
    }
}
