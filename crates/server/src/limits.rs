//! How much of this node one caller, one connection, one call may take.
//!
//! Every limit exists so that what a stranger sends is bounded before memory or
//! time is given to it. All of them are listed in one place, [`table`], from
//! which docs/limits.md is made; this module holds those that are counted per
//! *caller*: connections, subscriptions, calls per second.
//!
//! A caller is the address at the other end of a connection and, once a call has
//! proved whose it is, that user: as an address it has its connections and calls,
//! as a user its calls and subscriptions, from however many addresses. The machine
//! itself is not limited in this way: whoever runs there can do worse, and a proxy
//! beside the node, an operator's tools and a load on one machine are many
//! clients at one address. What is limited per node holds for it as well.

mod bucket;
pub mod table;

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use http::Extensions;
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use self::bucket::Bucket;
use crate::access;
use crate::config::Config;
use crate::context::Context;
use crate::status::Failure;

/// Callers that are remembered before those of no account are forgotten.
const REMEMBERED: usize = 1_024;

/// Who calls.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Caller {
    /// Somebody on this machine.
    Local,
    /// An address; of IPv6 the network of 64 bits, all of which one host has.
    Address(IpAddr),
    /// A user, by login name, wherever the calls come from but this machine.
    User(Arc<str>),
}

impl Caller {
    /// The caller behind the address of a connection's other end.
    pub(crate) fn at(address: IpAddr) -> Self {
        match address.to_canonical() {
            address if address.is_loopback() => Caller::Local,
            IpAddr::V6(address) => {
                let network = u128::from(address) & !u128::from(u64::MAX);
                Caller::Address(IpAddr::V6(Ipv6Addr::from(network)))
            }
            address @ IpAddr::V4(_) => Caller::Address(address),
        }
    }
}

/// What one caller has taken, and may take.
#[derive(Debug)]
pub(crate) struct Standing {
    caller: Caller,
    connections: Arc<Semaphore>,
    subscriptions: Arc<Semaphore>,
    subscriptions_max: usize,
    calls: Bucket,
}

impl Standing {
    fn new(caller: Caller, config: &Config) -> Self {
        let unlimited = caller == Caller::Local;
        let places = |max: usize| {
            let max = if unlimited { Semaphore::MAX_PERMITS } else { max.min(Semaphore::MAX_PERMITS) };
            Arc::new(Semaphore::new(max))
        };
        Standing {
            caller,
            connections: places(config.connections_per_address_max),
            subscriptions: places(config.subscriptions_per_caller_max),
            subscriptions_max: config.subscriptions_per_caller_max,
            calls: Bucket::new(if unlimited { 0 } else { config.calls_per_second_max }),
        }
    }

    /// Whose it is.
    pub(crate) fn caller(&self) -> &Caller {
        &self.caller
    }

    /// A place for one more connection, if this caller has one left.
    pub(crate) fn connection(&self) -> Option<OwnedSemaphorePermit> {
        self.connections.clone().try_acquire_owned().ok()
    }

    /// Whether this caller may make one more call now. Counts it.
    pub(crate) fn may_call(&self) -> bool {
        self.calls.take()
    }

    /// Whether forgetting it would change anything.
    fn is_of_no_account(self: &Arc<Self>) -> bool {
        // Who has a connection or a subscription holds this too.
        Arc::strong_count(self) == 1 && self.calls.is_full()
    }
}

/// All callers that have taken something lately.
#[derive(Debug)]
pub(crate) struct Callers {
    config: Config,
    known: Mutex<Known>,
}

#[derive(Debug)]
struct Known {
    standings: HashMap<Caller, Arc<Standing>>,
    /// How many there may be before some are forgotten.
    tidy_at: usize,
}

impl Callers {
    pub(crate) fn new(config: &Config) -> Self {
        let known = Known { standings: HashMap::new(), tidy_at: REMEMBERED };
        Callers { config: config.clone(), known: Mutex::new(known) }
    }

    /// What this caller has taken. The same for everything that it does.
    pub(crate) fn of(&self, caller: Caller) -> Arc<Standing> {
        let mut known = self.known.lock();
        if known.standings.len() >= known.tidy_at && !known.standings.contains_key(&caller) {
            known.standings.retain(|_, standing| !standing.is_of_no_account());
            known.tidy_at = (2 * known.standings.len()).max(REMEMBERED);
        }
        let new = || Arc::new(Standing::new(caller.clone(), &self.config));
        known.standings.entry(caller.clone()).or_insert_with(new).clone()
    }
}

impl Context {
    /// Whose limits hold for a call beside those of its connection: the user's who
    /// makes it; the address's where nobody says who they are. None where the other
    /// end is not known.
    pub(crate) fn standing(&self, caller: &access::Caller, extensions: &Extensions) -> Option<Arc<Standing>> {
        let at_address = Peer::of(extensions)?.standing();
        match caller.name() {
            "" => Some(at_address.clone()),
            _ if at_address.caller == Caller::Local => Some(at_address.clone()),
            name => Some(self.callers.of(Caller::User(name.into()))),
        }
    }
}

/// The other end of a connection, as every request over it knows it
/// ([`http::Extensions`]).
///
/// Whoever holds a clone keeps the connection from being idle.
#[derive(Clone, Debug)]
pub(crate) struct Peer {
    address: SocketAddr,
    standing: Arc<Standing>,
    traffic: Arc<Traffic>,
}

#[derive(Debug, Default)]
struct Traffic {
    begun: AtomicU64,
}

impl Peer {
    pub(crate) fn new(address: SocketAddr, standing: Arc<Standing>) -> Self {
        Peer { address, standing, traffic: Arc::default() }
    }

    /// Who made a request.
    pub(crate) fn of(extensions: &Extensions) -> Option<&Peer> {
        extensions.get()
    }

    /// Where it is.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// What it has taken.
    pub(crate) fn standing(&self) -> &Arc<Standing> {
        &self.standing
    }

    /// A request begins; the clone goes with it.
    pub(crate) fn begin(&self) -> Peer {
        self.traffic.begun.fetch_add(1, Ordering::Relaxed);
        self.clone()
    }

    /// Requests that have begun on this connection so far.
    pub(crate) fn begun(&self) -> u64 {
        self.traffic.begun.load(Ordering::Relaxed)
    }

    /// Requests that are under way, `holders` being those who hold a clone
    /// without one.
    pub(crate) fn is_in_use(&self, holders: usize) -> bool {
        Arc::strong_count(&self.traffic) > holders
    }
}

/// The places of a subscription, given back when dropped.
#[derive(Debug)]
pub(crate) struct Seat {
    #[expect(dead_code, reason = "held for its drop")]
    of_node: OwnedSemaphorePermit,
    #[expect(dead_code, reason = "held for its drop")]
    of_caller: Option<OwnedSemaphorePermit>,
}

impl Seat {
    /// Takes a subscription's place on this node and, where the caller is
    /// known, one of its own.
    ///
    /// # Errors
    /// [`Failure::TooManySubscriptions`] where one of them is not free;
    /// [`Failure::ShuttingDown`] where nobody who stays is taken.
    pub(crate) fn take(context: &Context, caller: Option<&Arc<Standing>>) -> Result<Seat, Failure> {
        if context.leaving.has_begun() {
            return Err(Failure::ShuttingDown);
        }
        let full = |max, of_caller| move |_| Failure::TooManySubscriptions { max, of_caller };
        let of_caller = caller.map(|standing| {
            let free = standing.subscriptions.clone().try_acquire_owned();
            free.map_err(full(standing.subscriptions_max, true))
        });
        let of_caller = of_caller.transpose()?;
        let of_node = context.subscriptions.clone().try_acquire_owned();
        let of_node = of_node.map_err(full(context.config.subscriptions_max, false))?;
        Ok(Seat { of_node, of_caller })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn caller(address: &str) -> Caller {
        Caller::at(address.parse().expect("an address"))
    }

    #[test]
    fn one_host_is_one_caller_however_many_addresses_it_has() {
        assert_eq!(caller("2001:db8:1:2::1"), caller("2001:db8:1:2:ffff::9"));
        assert_ne!(caller("2001:db8:1:2::1"), caller("2001:db8:1:3::1"));
        assert_eq!(caller("::ffff:192.0.2.1"), caller("192.0.2.1"));
        for local in ["127.0.0.1", "127.8.0.1", "::1", "::ffff:127.0.0.1"] {
            assert_eq!(caller(local), Caller::Local);
        }
    }

    #[test]
    fn an_address_has_so_many_connections_and_the_machine_itself_any_number() {
        let config = Config { connections_per_address_max: 2, ..Config::default() };
        let callers = Callers::new(&config);
        let one = callers.of(caller("192.0.2.1"));
        let held = (one.connection(), one.connection());
        assert!(held.0.is_some() && held.1.is_some());
        assert!(callers.of(caller("192.0.2.1")).connection().is_none());
        assert!(callers.of(caller("192.0.2.2")).connection().is_some(), "another one is not concerned");
        drop(held);
        assert!(one.connection().is_some(), "given back");
        let local = callers.of(Caller::Local);
        let many: Vec<_> = (0..1_000).map(|_| local.connection()).collect();
        assert!(many.iter().all(Option::is_some));
    }

    #[test]
    fn calls_beyond_the_rate_are_refused_except_from_the_machine_itself() {
        let config = Config { calls_per_second_max: 10, ..Config::default() };
        let callers = Callers::new(&config);
        let stranger = callers.of(caller("192.0.2.1"));
        let allowed = (0..1_000).filter(|_| stranger.may_call()).count();
        assert!((10..100).contains(&allowed), "{allowed}");
        let local = callers.of(Caller::Local);
        assert!((0..1_000).all(|_| local.may_call()));
    }

    #[test]
    fn a_user_is_one_caller_at_however_many_addresses() {
        let config = Config { calls_per_second_max: 10, ..Config::default() };
        let callers = Callers::new(&config);
        let user = |name: &str| callers.of(Caller::User(name.into()));
        let allowed = (0..1_000).filter(|_| user("ada").may_call()).count();
        assert!((10..100).contains(&allowed), "{allowed}");
        assert!(user("grace").may_call(), "another one is not concerned");
        assert!(callers.of(caller("192.0.2.1")).may_call(), "nor is the address");
    }

    #[test]
    fn who_is_gone_and_owes_nothing_is_forgotten() {
        let callers = Callers::new(&Config::default());
        let held = callers.of(caller("198.51.100.1"));
        for number in 0..3 * REMEMBERED as u32 {
            callers.of(Caller::Address(IpAddr::V4((0x0a00_0000 + number).into())));
        }
        let known = callers.known.lock();
        assert!(known.standings.len() <= REMEMBERED + 1, "{}", known.standings.len());
        assert!(known.standings.contains_key(held.caller()));
    }

    #[test]
    fn a_connection_is_in_use_while_a_request_is_under_way() {
        let callers = Callers::new(&Config::default());
        let peer = Peer::new(([127, 0, 0, 1], 1).into(), callers.of(Caller::Local));
        assert!(!peer.is_in_use(1));
        let request = peer.begin();
        assert!(peer.is_in_use(1));
        assert_eq!(peer.begun(), 1);
        drop(request);
        assert!(!peer.is_in_use(1));
    }
}
