//! Packets that arrive late.
//!
//! The kernels that tests run on often lack `tc netem`, so the packet filter
//! hands packets to a queue in user space instead, and a thread of ours gives
//! them back when their time has come. One thread per node that is delayed,
//! moved into the node's namespace; only headers are looked at.
//!
//! Invariants
//! - Without `reorder`, packets of one sender keep their order whatever the
//!   jitter.
//! - A thread that ends gives back all it holds first. Packets that reach a
//!   queue without a reader pass (`--queue-bypass`).

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::io::ErrorKind;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use annals_checker::history::NodeNumber;
use anyhow::{Context as _, Result};
use nfq::{Message, Queue, Verdict};
use parking_lot::Mutex;

use crate::namespaces;
use crate::network::{Extent, Layer, covers};

/// How often the queue is looked at, and so how exact a delay is.
const TICK: Duration = Duration::from_micros(500);

/// Bytes of a packet that are looked at: the header up to the addresses.
const HEADER: u16 = 20;

/// Packets that may wait in the kernel; more are lost, as at any full queue.
const QUEUE: u32 = 16_384;

/// The queue's number in each namespace.
const NUMBER: u16 = 0;

/// The threads that delay.
#[derive(Default)]
pub(crate) struct Delays {
    readers: Mutex<BTreeMap<NodeNumber, Reader>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Delay {
    extent: Extent,
    by: Duration,
    jitter: Duration,
    reorder: bool,
}

struct Reader {
    delays: Arc<Mutex<Vec<Delay>>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Delays {
    /// From now on these layers count at a node.
    pub(crate) fn set(&self, node: NodeNumber, layers: &[&Layer]) -> Result<()> {
        let delays: Vec<Delay> = layers
            .iter()
            .filter_map(|layer| match layer {
                Layer::Delay { extent, by, jitter, reorder } => {
                    Some(Delay { extent: *extent, by: *by, jitter: *jitter, reorder: *reorder })
                }
                Layer::Partition(_) | Layer::Loss { .. } | Layer::Bandwidth { .. } => None,
            })
            .filter(|delay| match delay.extent {
                Extent::Link(one, other) => one == node || other == node,
                Extent::Node(one) => one == node,
                Extent::All => true,
            })
            .collect();
        if delays.is_empty() {
            self.stop(node);
            return Ok(());
        }
        let mut readers = self.readers.lock();
        match readers.get(&node) {
            Some(reader) => *reader.delays.lock() = delays,
            None => {
                readers.insert(node, Reader::start(node, delays)?);
            }
        }
        Ok(())
    }

    /// Nothing is late at this node any more.
    pub(crate) fn stop(&self, node: NodeNumber) {
        let reader = self.readers.lock().remove(&node);
        drop(reader);
    }
}

impl Reader {
    fn start(node: NodeNumber, delays: Vec<Delay>) -> Result<Reader> {
        let delays = Arc::new(Mutex::new(delays));
        let stop = Arc::new(AtomicBool::new(false));
        let (opened, open) = mpsc::channel();
        let work = {
            let (delays, stop) = (delays.clone(), stop.clone());
            move || {
                let queue = open_queue(node);
                let queue = match queue {
                    Ok(queue) => {
                        let _ = opened.send(Ok(()));
                        queue
                    }
                    Err(error) => {
                        let _ = opened.send(Err(error));
                        return;
                    }
                };
                run(queue, node, &delays, &stop);
            }
        };
        let thread = std::thread::Builder::new().name(format!("delay-{node}")).spawn(work)?;
        open.recv().context("the thread that delays ended at once")??;
        Ok(Reader { delays, stop, thread: Some(thread) })
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn open_queue(node: NodeNumber) -> Result<Queue> {
    namespaces::move_into(&namespaces::node(node))?;
    let mut queue = Queue::open().context("could not open a packet queue")?;
    // The kernel may still be taking down the queue that was bound before.
    let mut tries = 0;
    while let Err(error) = queue.bind(NUMBER) {
        tries += 1;
        if tries > 40 {
            return Err(error).context("could not bind the packet queue");
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    queue.set_copy_range(NUMBER, HEADER)?;
    queue.set_queue_max_len(NUMBER, QUEUE)?;
    // Else the kernel cuts large sends into packets one by one, for nothing.
    queue.set_recv_gso(NUMBER, true)?;
    queue.set_nonblocking(true);
    Ok(queue)
}

/// A packet and when it is due; the number keeps packets of one time in order.
struct Held {
    due: Instant,
    number: u64,
    message: Message,
}

impl PartialEq for Held {
    fn eq(&self, other: &Held) -> bool {
        self.number == other.number
    }
}

impl Eq for Held {}

impl PartialOrd for Held {
    fn partial_cmp(&self, other: &Held) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Held {
    fn cmp(&self, other: &Held) -> std::cmp::Ordering {
        (self.due, self.number).cmp(&(other.due, other.number))
    }
}

fn run(mut queue: Queue, node: NodeNumber, delays: &Mutex<Vec<Delay>>, stop: &AtomicBool) {
    let mut held: BinaryHeap<Reverse<Held>> = BinaryHeap::new();
    let mut last: BTreeMap<Ipv4Addr, Instant> = BTreeMap::new();
    let mut number = 0;
    let mut random = rand::rng();
    loop {
        let stopping = stop.load(Ordering::Relaxed);
        loop {
            match queue.recv() {
                Ok(message) => {
                    number += 1;
                    let from = source(message.get_payload());
                    let (wait, reorder) = wait(&delays.lock(), node, from, &mut random);
                    let mut due = Instant::now() + wait;
                    if !reorder {
                        due = last.get(&from).copied().map_or(due, |before| before.max(due));
                        last.insert(from, due);
                    }
                    held.push(Reverse(Held { due, number, message }));
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                // The kernel lost some: they are lost packets.
                Err(error) if error.raw_os_error() == Some(105) => {}
                Err(_) => return,
            }
        }
        let now = Instant::now();
        while let Some(Reverse(first)) = held.peek()
            && (stopping || first.due <= now)
        {
            let Some(Reverse(mut first)) = held.pop() else { break };
            first.message.set_verdict(Verdict::Accept);
            if queue.verdict(first.message).is_err() {
                return;
            }
        }
        if stopping {
            let _ = queue.unbind(NUMBER);
            return;
        }
        std::thread::sleep(TICK);
    }
}

/// How long a packet waits, and whether it may be overtaken.
fn wait(delays: &[Delay], node: NodeNumber, from: Ipv4Addr, random: &mut impl rand::Rng) -> (Duration, bool) {
    let from = from.to_string();
    let (mut sum, mut overtaken) = (Duration::ZERO, false);
    for delay in delays.iter().filter(|delay| covers(delay.extent, node, &from)) {
        let jitter = delay.jitter.min(delay.by);
        sum += delay.by - jitter + jitter.mul_f64(random.random_range(0.0..=2.0));
        overtaken |= delay.reorder;
    }
    (sum, overtaken)
}

/// The sender of an IPv4 packet.
fn source(packet: &[u8]) -> Ipv4Addr {
    match packet.get(12..16) {
        Some(&[a, b, c, d]) => Ipv4Addr::new(a, b, c, d),
        _ => Ipv4Addr::UNSPECIFIED,
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng as _;

    use super::*;

    #[test]
    fn a_packet_waits_for_the_sum_of_the_delays_that_cover_it() {
        let ms = Duration::from_millis;
        let delays = [
            Delay { extent: Extent::Link(1, 2), by: ms(50), jitter: ms(0), reorder: false },
            Delay { extent: Extent::Node(1), by: ms(200), jitter: ms(20), reorder: true },
        ];
        let mut random = rand::rngs::StdRng::seed_from_u64(1);
        for _ in 0..100 {
            let (from_2, overtaken) = wait(&delays, 1, Ipv4Addr::new(198, 18, 0, 12), &mut random);
            assert!(overtaken && from_2 >= ms(230) && from_2 <= ms(270), "{from_2:?}");
            let (from_3, _) = wait(&delays, 1, Ipv4Addr::new(198, 18, 0, 13), &mut random);
            assert!(from_3 >= ms(180) && from_3 <= ms(220), "{from_3:?}");
            assert_eq!(wait(&delays, 2, Ipv4Addr::new(198, 18, 0, 11), &mut random), (ms(50), false));
        }
    }

    #[test]
    fn the_sender_is_read_from_the_header() {
        let mut packet = [0; 20];
        packet[12..16].copy_from_slice(&[198, 18, 0, 12]);
        assert_eq!(source(&packet), Ipv4Addr::new(198, 18, 0, 12));
        assert_eq!(source(&[]), Ipv4Addr::UNSPECIFIED);
    }
}
