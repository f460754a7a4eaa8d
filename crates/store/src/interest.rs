//! Who waits for something to happen to one stream or index.
//!
//! Ten thousand readers that wait for ten thousand quiet streams must cost an
//! append nothing: whoever watches the tail is woken by every entry, whoever is
//! interested in a list only by those that change it.
//!
//! No change is missed: an interest is announced before its owner looks at the
//! list, and a commit looks for interests where it shows the change, under the
//! lock that the owner takes to look ([`crate::state`]). Who is woken may find
//! nothing new.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use hashbrown::HashMap;
use parking_lot::Mutex;
use tokio::sync::watch;

/// All that is waited for, by the bytes of the heads' keys.
#[derive(Default)]
pub(crate) struct Interests {
    waking: Mutex<HashMap<Box<[u8]>, Waking>>,
    /// Of the map. Without any a commit takes no lock.
    lists: AtomicUsize,
}

/// Those who are interested in one list.
#[derive(Default)]
struct Waking {
    sender: watch::Sender<()>,
    interests: usize,
}

/// An interest in a stream or an index, from when it was announced until it is
/// dropped.
pub struct Interest {
    all: Arc<Interests>,
    key: Box<[u8]>,
    changes: watch::Receiver<()>,
}

impl Interests {
    /// Announces an interest. What the key's list holds is to be looked at after
    /// this.
    pub(crate) fn announce(self: &Arc<Self>, key: &[u8]) -> Interest {
        let mut waking = self.waking.lock();
        if !waking.contains_key(key) {
            waking.insert(key.into(), Waking::default());
        }
        let list = waking.get_mut(key).expect("inserted above");
        list.interests += 1;
        let changes = list.sender.subscribe();
        self.lists.store(waking.len(), Ordering::SeqCst);
        Interest { all: Arc::clone(self), key: key.into(), changes }
    }

    /// Wakes whoever is interested in this list.
    pub(crate) fn wake(&self, key: &[u8]) {
        if self.lists.load(Ordering::SeqCst) > 0
            && let Some(list) = self.waking.lock().get(key)
        {
            list.sender.send_replace(());
        }
    }

    /// Wakes everybody: any list may have changed.
    pub(crate) fn wake_all(&self) {
        self.waking.lock().values().for_each(|list| {
            list.sender.send_replace(());
        });
    }

    #[cfg(test)]
    fn len(&self) -> usize {
        self.waking.lock().len()
    }
}

impl Interest {
    /// Takes note of all changes until now: they are about to be looked at.
    pub fn look(&mut self) {
        self.changes.mark_unchanged();
    }

    /// Returns once the list may have changed since [`Interest::look`]. May be
    /// dropped and called again at any time.
    pub async fn changed(&mut self) {
        self.changes.changed().await.expect("the sender is there as long as there is an interest");
    }
}

impl Drop for Interest {
    fn drop(&mut self) {
        let mut waking = self.all.waking.lock();
        let list = waking.get_mut(&self.key).expect("there as long as there is an interest");
        list.interests -= 1;
        if list.interests == 0 {
            waking.remove(&self.key);
            self.all.lists.store(waking.len(), Ordering::SeqCst);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_woken(interest: &mut Interest) -> bool {
        let woken = interest.changes.has_changed().expect("the sender is there");
        interest.look();
        woken
    }

    #[test]
    fn a_change_wakes_those_who_are_interested_and_nobody_else() {
        let interests = Arc::new(Interests::default());
        let (mut a, mut also_a, mut b) = (interests.announce(b"a"), interests.announce(b"a"), interests.announce(b"b"));
        assert!(!is_woken(&mut a), "nothing has changed");
        interests.wake(b"a");
        interests.wake(b"c");
        assert!(is_woken(&mut a) && is_woken(&mut also_a) && !is_woken(&mut b));
        interests.wake_all();
        assert!(is_woken(&mut a) && is_woken(&mut b));
    }

    #[test]
    fn a_change_before_the_look_wakes_nobody_and_one_after_it_does() {
        let interests = Arc::new(Interests::default());
        let mut a = interests.announce(b"a");
        interests.wake(b"a");
        a.look();
        assert!(!is_woken(&mut a));
        interests.wake(b"a");
        assert!(is_woken(&mut a));
    }

    #[test]
    fn what_nobody_is_interested_in_any_more_is_forgotten() {
        let interests = Arc::new(Interests::default());
        let (first, second) = (interests.announce(b"a"), interests.announce(b"a"));
        drop(first);
        assert_eq!(interests.len(), 1);
        drop(second);
        assert_eq!((interests.len(), interests.lists.load(Ordering::SeqCst)), (0, 0));
    }
}
