//! Passwords: hashed with argon2id, and checked so that guessing them or flooding the
//! node with them does not pay.
//!
//! - A check takes some tens of milliseconds and 19 MiB on purpose (OWASP's first
//!   choice of parameters), so few run at a time and few wait.
//! - Whoever is wrong often, for one account from one address, waits longer and longer,
//!   without anything being hashed.
//! - An account that is not there takes as long as a wrong password.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use argon2::password_hash::{PasswordHash, PasswordHasher, PasswordVerifier, SaltString};
use argon2::{Algorithm, Argon2, Params, Version};
use parking_lot::Mutex;
use tokio::sync::Semaphore;

use super::credentials::Given;
use crate::status::Failure;

/// Bytes of a password, at most.
pub(crate) const PASSWORD_BYTES_MAX: usize = 1024;

/// Passwords that are checked at the same time.
pub(crate) const IN_FLIGHT_MAX: usize = 4;

/// Calls that wait for that; one more is refused.
pub(crate) const WAITING_MAX: usize = 256;

/// Wrong ones in a row that cost nothing.
pub(crate) const FREE_FAILURES: u32 = 5;

/// The longest that a wrong one makes the next one wait.
pub(crate) const PAUSE_MAX: Duration = Duration::from_secs(60);

/// Pairs of account and address that are remembered as wrong.
const REMEMBERED_MAX: usize = 10_000;

/// Memory in KiB, passes, lanes.
const COST: (u32, u32, u32) = (19 * 1024, 2, 1);

pub(crate) struct Passwords {
    in_flight: Arc<Semaphore>,
    waiting: Arc<Semaphore>,
    failures: Mutex<HashMap<(String, Option<IpAddr>), Failures>>,
}

#[derive(Clone, Copy)]
struct Failures {
    count: u32,
    last: Instant,
}

impl Failures {
    /// When the next try is looked at.
    fn until(&self) -> Instant {
        match self.count.checked_sub(FREE_FAILURES) {
            None | Some(0) => self.last,
            Some(more) => self.last + Duration::from_secs(1 << more.min(6)).min(PAUSE_MAX),
        }
    }
}

impl Passwords {
    pub(super) fn new() -> Self {
        Passwords {
            in_flight: Arc::new(Semaphore::new(IN_FLIGHT_MAX)),
            waiting: Arc::new(Semaphore::new(IN_FLIGHT_MAX + WAITING_MAX)),
            failures: Mutex::new(HashMap::new()),
        }
    }

    /// Does what takes the time and the memory of one hash, when it is its turn.
    ///
    /// # Errors
    /// [`Failure::Overloaded`]: too many wait.
    pub(crate) async fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Result<T, Failure> {
        let Ok(_waiting) = self.waiting.clone().try_acquire_owned() else { return Err(Failure::Overloaded) };
        let permit = self.in_flight.clone().acquire_owned().await.map_err(|_| Failure::ShuttingDown)?;
        let done = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            work()
        });
        done.await.map_err(|_| Failure::ShuttingDown)
    }

    /// Whether the password is the one with this hash, which is then the answer. None:
    /// there is no account, or none that may be used.
    ///
    /// # Errors
    /// [`Failure::Unauthenticated`], or [`Failure::Overloaded`]: too many are being checked.
    pub(super) async fn check(
        &self,
        given: &Given,
        hash: Option<Arc<str>>,
        from: Option<IpAddr>,
    ) -> Result<Arc<str>, Failure> {
        let whose = (given.login.clone(), from);
        if self.failures.lock().get(&whose).is_some_and(|failures| Instant::now() < failures.until()) {
            return Err(Failure::Unauthenticated);
        }
        let password = given.password.clone();
        let known = hash.clone();
        let right = self.run(move || verify(&password, known.as_ref().unwrap_or(&*NOBODYS))).await?;
        let mut failures = self.failures.lock();
        match hash.filter(|_| right) {
            Some(hash) => {
                failures.remove(&whose);
                Ok(hash)
            }
            None => {
                let now = Instant::now();
                if failures.len() >= REMEMBERED_MAX {
                    failures.retain(|_, failures| now < failures.until());
                }
                // Still full: of more than that no more is remembered.
                if failures.len() < REMEMBERED_MAX {
                    let failures = failures.entry(whose).or_insert(Failures { count: 0, last: now });
                    *failures = Failures { count: failures.count.saturating_add(1), last: now };
                }
                Err(Failure::Unauthenticated)
            }
        }
    }
}

/// What a password that nobody has is checked against.
static NOBODYS: LazyLock<Arc<str>> = LazyLock::new(|| Arc::from(hash("nobody's").unwrap_or_default()));

fn argon2() -> Argon2<'static> {
    let (memory, passes, lanes) = COST;
    let params = Params::new(memory, passes, lanes, None).expect("parameters within their bounds");
    Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
}

/// The hash of a password with a new salt, in the PHC format. Blocking, and takes 19 MiB.
///
/// # Errors
/// [`Failure::Invalid`]: it is empty or too long.
pub(crate) fn hash(password: &str) -> Result<String, Failure> {
    if password.is_empty() || password.len() > PASSWORD_BYTES_MAX {
        return Err(Failure::invalid("password", format!("a password has 1 to {PASSWORD_BYTES_MAX} bytes")));
    }
    let mut salt = [0; 16];
    super::proofs::random(&mut salt);
    let salt = SaltString::encode_b64(&salt).expect("16 bytes are a salt");
    let hash = argon2().hash_password(password.as_bytes(), &salt);
    hash.map(|hash| hash.to_string())
        .map_err(|error| Failure::broken("hashing a password", &Hashing(error.to_string())))
}

#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Hashing(String);

/// Whether a password is the one with this hash. Blocking.
pub(crate) fn verify(password: &str, hash: &str) -> bool {
    // The hash names its own parameters, so that they can change.
    PasswordHash::new(hash).is_ok_and(|hash| argon2().verify_password(password.as_bytes(), &hash).is_ok())
}

#[cfg(test)]
mod tests {
    use zeroize::Zeroizing;

    use super::*;

    fn given(password: &str) -> Given {
        Given { login: "ann".to_owned(), password: Zeroizing::new(password.to_owned()) }
    }

    #[test]
    fn a_hash_is_argon2id_salted_and_true_of_its_password_alone() {
        let (one, other) = (hash("secret").expect("hashes"), hash("secret").expect("hashes"));
        assert!(one.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"));
        assert_ne!(one, other, "each has a salt of its own");
        assert!(verify("secret", &one) && verify("secret", &other));
        assert!(!verify("Secret", &one) && !verify("", &one) && !verify("secret", "no hash"));
        assert!(hash("").is_err() && hash(&"x".repeat(PASSWORD_BYTES_MAX + 1)).is_err());
    }

    #[tokio::test]
    async fn whoever_is_wrong_too_often_is_not_even_checked() {
        let passwords = Passwords::new();
        let hash: Arc<str> = hash("secret").expect("hashes").into();
        for _ in 0..=FREE_FAILURES {
            assert_eq!(passwords.check(&given("wrong"), Some(hash.clone()), None).await, Err(Failure::Unauthenticated));
        }
        assert_eq!(passwords.check(&given("secret"), Some(hash.clone()), None).await, Err(Failure::Unauthenticated));
        let elsewhere = Some(IpAddr::from([192, 0, 2, 1]));
        assert_eq!(passwords.check(&given("secret"), Some(hash.clone()), elsewhere).await, Ok(hash));
    }

    #[tokio::test]
    async fn without_an_account_no_password_is_right() {
        assert_eq!(Passwords::new().check(&given("nobody's"), None, None).await, Err(Failure::Unauthenticated));
    }
}
