//! Credentials that were proved a short while ago, so that not every call costs the
//! tens of milliseconds that a password takes to check.
//!
//! What is kept is a keyed hash of them under a key of this process, never themselves,
//! with the hash of the password that they matched: with another password the proof is
//! void at once, whenever it was made.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use ring::hmac;
use ring::rand::{SecureRandom as _, SystemRandom};

/// How long a proof holds.
const HOLDS: Duration = Duration::from_secs(5 * 60);

/// Proofs that are kept.
const KEPT_MAX: usize = 10_000;

pub(super) struct Proofs {
    key: hmac::Key,
    kept: Mutex<HashMap<[u8; 32], Proof>>,
}

struct Proof {
    login: String,
    hash: Arc<str>,
    until: Instant,
}

/// Fills this with what nobody can guess.
///
/// # Panics
/// When the system has no randomness: nothing could be kept secret then.
pub(super) fn random(bytes: &mut [u8]) {
    SystemRandom::new().fill(bytes).expect("the system has randomness");
}

impl Proofs {
    pub(super) fn new() -> Self {
        let mut key = [0; 32];
        random(&mut key);
        Proofs { key: hmac::Key::new(hmac::HMAC_SHA256, &key), kept: Mutex::new(HashMap::new()) }
    }

    fn digest(&self, header: &[u8]) -> [u8; 32] {
        let tag = hmac::sign(&self.key, header);
        tag.as_ref().try_into().expect("SHA-256 has 32 bytes")
    }

    /// Whom this header proved, and the hash that it matched.
    pub(super) fn find(&self, header: &[u8]) -> Option<(String, Arc<str>)> {
        let digest = self.digest(header);
        let kept = self.kept.lock();
        let proof = kept.get(&digest).filter(|proof| Instant::now() < proof.until)?;
        Some((proof.login.clone(), proof.hash.clone()))
    }

    /// Keeps what a header proved.
    pub(super) fn keep(&self, header: &[u8], login: &str, hash: Arc<str>) {
        let digest = self.digest(header);
        let now = Instant::now();
        let mut kept = self.kept.lock();
        if kept.len() >= KEPT_MAX {
            kept.retain(|_, proof| now < proof.until);
        }
        if kept.len() >= KEPT_MAX {
            kept.clear();
        }
        kept.insert(digest, Proof { login: login.to_owned(), hash, until: now + HOLDS });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proof_is_of_its_very_header() {
        let proofs = Proofs::new();
        proofs.keep(b"Basic one", "ann", "hash".into());
        assert_eq!(proofs.find(b"Basic one"), Some(("ann".to_owned(), "hash".into())));
        assert_eq!(proofs.find(b"Basic two"), None);
        assert_eq!(Proofs::new().find(b"Basic one"), None);
    }
}
