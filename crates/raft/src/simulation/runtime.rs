//! What the consensus library runs on when it can be simulated.
//!
//! Tokio, but for three things. Tasks belong to a [`Process`], which can stand
//! still (`SIGSTOP`) or end in the middle of anything (`SIGKILL`): its tasks
//! are then not polled, or dropped. Randomness comes from the process's own
//! generator. And a watch wakes its receivers in a fixed order, which tokio's
//! does not.
//!
//! Outside a simulation there is no process, and all of it is tokio's.

use std::cell::RefCell;
use std::future::Future;
use std::hash::{BuildHasher, RandomState};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use openraft::AsyncRuntime;
use openraft_rt_tokio::{TokioInstant, TokioMpsc, TokioMutex, TokioOneshot, TokioRuntime};
use parking_lot::Mutex;
use tokio::task::{AbortHandle, JoinHandle};

use super::random::Random;
use super::watch::OrderedWatch;

/// Ended tasks are forgotten when so many have been begun.
const FORGET_EVERY: usize = 256;

thread_local! {
    static CURRENT: RefCell<Option<Arc<Process>>> = const { RefCell::new(None) };
}

/// The tasks of one run of one simulated node.
pub(crate) struct Process {
    state: Mutex<State>,
    /// What the wall clock of its machine is wrong by.
    clock_skew: Mutex<i64>,
    /// How long a piece of blocking work takes at most.
    pub(crate) work: Duration,
}

struct State {
    running: Running,
    random: Random,
    tasks: Vec<AbortHandle>,
    /// Of tasks that were to be polled while the process stood still.
    waiting: Vec<Waker>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Running {
    Yes,
    Paused,
    Ended,
}

impl Process {
    pub(crate) fn new(random: Random, work: Duration) -> Arc<Process> {
        let state = State { running: Running::Yes, random, tasks: Vec::new(), waiting: Vec::new() };
        Arc::new(Process { state: Mutex::new(state), clock_skew: Mutex::new(0), work })
    }

    /// The process whose task is being polled.
    pub(crate) fn current() -> Option<Arc<Process>> {
        CURRENT.with_borrow(Clone::clone)
    }

    pub(crate) fn random<T>(&self, ask: impl FnOnce(&mut Random) -> T) -> T {
        ask(&mut self.state.lock().random)
    }

    pub(crate) fn is_over(&self) -> bool {
        self.state.lock().running == Running::Ended
    }

    pub(crate) fn pause(&self) {
        let mut state = self.state.lock();
        if state.running == Running::Yes {
            state.running = Running::Paused;
        }
    }

    pub(crate) fn resume(&self) {
        let mut state = self.state.lock();
        if state.running == Running::Paused {
            state.running = Running::Yes;
            let waiting = std::mem::take(&mut state.waiting);
            drop(state);
            waiting.into_iter().for_each(Waker::wake);
        }
    }

    /// Ends it: nothing of it is polled any more, its tasks are dropped.
    pub(crate) fn kill(&self) {
        let mut state = self.state.lock();
        state.running = Running::Ended;
        let tasks = std::mem::take(&mut state.tasks);
        state.waiting.clear();
        drop(state);
        tasks.iter().for_each(AbortHandle::abort);
    }

    pub(crate) fn set_clock_skew(&self, ticks: i64) {
        *self.clock_skew.lock() = ticks;
    }

    pub(crate) fn clock_skew(&self) -> i64 {
        *self.clock_skew.lock()
    }

    /// Begins a task of this process.
    pub(crate) fn spawn<T>(self: &Arc<Self>, task: T) -> JoinHandle<T::Output>
    where
        T: Future + Send + 'static,
        T::Output: Send + 'static,
    {
        let handle = tokio::spawn(Task { process: self.clone(), task: Box::pin(task) });
        let mut state = self.state.lock();
        if state.running == Running::Ended {
            handle.abort();
        } else {
            if state.tasks.len() % FORGET_EVERY == FORGET_EVERY - 1 {
                state.tasks.retain(|task| !task.is_finished());
            }
            state.tasks.push(handle.abort_handle());
        }
        handle
    }
}

/// A task that is polled only while its process runs.
struct Task<T> {
    process: Arc<Process>,
    task: Pin<Box<T>>,
}

impl<T: Future> Future for Task<T> {
    type Output = T::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<T::Output> {
        {
            let mut state = self.process.state.lock();
            match state.running {
                Running::Yes => {}
                Running::Paused => {
                    state.waiting.push(context.waker().clone());
                    return Poll::Pending;
                }
                Running::Ended => return Poll::Pending,
            }
        }
        let before = CURRENT.replace(Some(self.process.clone()));
        let result = self.task.as_mut().poll(context);
        CURRENT.set(before);
        result
    }
}

/// See the module.
#[derive(Debug)]
pub(crate) struct SimulatedRuntime(TokioRuntime);

impl AsyncRuntime for SimulatedRuntime {
    type JoinError = <TokioRuntime as AsyncRuntime>::JoinError;
    type JoinHandle<T: Send + 'static> = JoinHandle<T>;
    type Sleep = <TokioRuntime as AsyncRuntime>::Sleep;
    type Instant = TokioInstant;
    type TimeoutError = <TokioRuntime as AsyncRuntime>::TimeoutError;
    type Timeout<R, T: Future<Output = R> + Send> = <TokioRuntime as AsyncRuntime>::Timeout<R, T>;
    type ThreadLocalRng = Random;
    type Mpsc = TokioMpsc;
    type Watch = OrderedWatch;
    type Oneshot = TokioOneshot;
    type Mutex<T: Send + 'static> = TokioMutex<T>;

    fn spawn<T>(task: T) -> JoinHandle<T::Output>
    where
        T: Future + Send + 'static,
        T::Output: Send + 'static,
    {
        match Process::current() {
            Some(process) => process.spawn(task),
            None => tokio::spawn(task),
        }
    }

    fn sleep(duration: Duration) -> Self::Sleep {
        TokioRuntime::sleep(duration)
    }

    fn sleep_until(deadline: TokioInstant) -> Self::Sleep {
        TokioRuntime::sleep_until(deadline)
    }

    fn timeout<R, F: Future<Output = R> + Send>(duration: Duration, future: F) -> Self::Timeout<R, F> {
        TokioRuntime::timeout(duration, future)
    }

    fn timeout_at<R, F: Future<Output = R> + Send>(deadline: TokioInstant, future: F) -> Self::Timeout<R, F> {
        TokioRuntime::timeout_at(deadline, future)
    }

    fn is_panic(error: &Self::JoinError) -> bool {
        TokioRuntime::is_panic(error)
    }

    fn thread_rng() -> Random {
        match Process::current() {
            Some(process) => Random::new(process.random(Random::next)),
            None => Random::new(RandomState::new().hash_one(0)),
        }
    }

    fn new(threads: usize) -> Self {
        SimulatedRuntime(TokioRuntime::new(threads))
    }

    fn block_on<F: Future<Output = T>, T>(&mut self, future: F) -> T {
        self.0.block_on(future)
    }
}
