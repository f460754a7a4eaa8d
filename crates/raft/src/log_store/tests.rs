//! The consensus library's conformance suite, and what it does not test: what
//! is on disk after the process is gone.

use futures::TryStreamExt;
use openraft::storage::{EntryResponder, RaftSnapshotBuilder, RaftStateMachine, Snapshot};
use openraft::testing::log::{StoreBuilder, Suite};
use openraft::type_config::TypeConfigExt;
use openraft::{EntryPayload, StorageError};
use tempfile::TempDir;

use super::*;
use crate::types::{Applied, LeaderId, Proposal, SnapshotMeta, StoredMembership};

// ------------------------------------------------------------- the suite --

/// A state machine that remembers what it was given. The suite applies entries
/// with gaps, which the real one refuses on purpose.
#[derive(Clone, Default)]
struct Remembered {
    applied: Option<LogId>,
    membership: StoredMembership,
    snapshot: Option<SnapshotMeta>,
}

type TestSnapshot = openraft::alias::SnapshotOf<TypeConfig, (Option<LogId>, StoredMembership)>;

impl RaftSnapshotBuilder<TypeConfig> for Arc<Mutex<Remembered>> {
    type SnapshotData = (Option<LogId>, StoredMembership);

    async fn build_snapshot(&mut self) -> Result<TestSnapshot, io::Error> {
        let mut state = self.lock();
        let meta = SnapshotMeta { last_log_id: state.applied, last_membership: state.membership.clone() };
        state.snapshot = Some(meta.clone());
        Ok(Snapshot { meta, snapshot: (state.applied, state.membership.clone()) })
    }
}

impl RaftStateMachine<TypeConfig> for Arc<Mutex<Remembered>> {
    type SnapshotData = (Option<LogId>, StoredMembership);
    type SnapshotBuilder = Self;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), io::Error> {
        let state = self.lock();
        Ok((state.applied, state.membership.clone()))
    }

    async fn apply<S>(&mut self, mut entries: S) -> Result<(), io::Error>
    where
        S: Stream<Item = Result<EntryResponder<TypeConfig>, io::Error>> + Unpin + OptionalSend,
    {
        while let Some((entry, responder)) = entries.try_next().await? {
            {
                let mut state = self.lock();
                state.applied = Some(entry.log_id);
                if let EntryPayload::Membership(membership) = entry.payload {
                    state.membership = StoredMembership::new(Some(entry.log_id), membership);
                }
            }
            if let Some(responder) = responder {
                responder.send(Applied(Vec::new()));
            }
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> Self {
        self.clone()
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta,
        (applied, membership): (Option<LogId>, StoredMembership),
    ) -> Result<(), io::Error> {
        *self.lock() = Remembered { applied, membership, snapshot: Some(meta.clone()) };
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<TestSnapshot>, io::Error> {
        let state = self.lock();
        Ok(state.snapshot.clone().map(|meta| Snapshot { meta, snapshot: (state.applied, state.membership.clone()) }))
    }
}

struct Builder;

impl StoreBuilder<TypeConfig, LogStore, Arc<Mutex<Remembered>>, TempDir> for Builder {
    async fn build(&self) -> Result<(TempDir, LogStore, Arc<Mutex<Remembered>>), StorageError<TypeConfig>> {
        let dir = tempfile::tempdir().expect("a directory");
        let store = open(dir.path());
        Ok((dir, store, Arc::default()))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_conformance_suite_passes() {
    Suite::test_all(Builder).await.expect("the suite passes");
}

// ------------------------------------------------------------ durability --

fn open(data: &Path) -> LogStore {
    try_open(data).expect("the log opens")
}

fn try_open(data: &Path) -> Result<LogStore, OpenError> {
    let witness = match Witness::open(data).expect("a readable witness") {
        Some(witness) => witness,
        None => Witness::create(data).expect("a new witness"),
    };
    LogStore::open(data, witness, 1, Arc::new(()))
}

fn log_id(term: u64, index: u64) -> LogId {
    LogId::new(LeaderId { term, node_id: 1 }, index)
}

fn entry(term: u64, index: u64) -> Entry {
    let payload = EntryPayload::Normal(Proposal::new(Bytes::from(format!("entry {index} of term {term}"))));
    Entry { log_id: log_id(term, index), payload }
}

async fn append(store: &mut LogStore, entries: impl IntoIterator<Item = Entry>) {
    let (done, answer) = <TypeConfig as TypeConfigExt>::oneshot();
    let entries: Vec<_> = entries.into_iter().collect();
    store.append(entries, IOFlushed::signal(done)).await.expect("accepted");
    answer.await.expect("answered").expect("durable");
}

async fn indexes(store: &mut LogStore) -> Vec<(u64, u64)> {
    let entries = store.try_get_log_entries(..).await.expect("readable");
    entries.iter().map(|entry| (entry.log_id.committed_leader_id().term, entry.log_id.index())).collect()
}

#[tokio::test]
async fn everything_is_there_again_after_reopening() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut store = open(dir.path());
    store.save_vote(&Vote::new_committed(3, 1)).await.expect("saved");
    append(&mut store, (0..10).map(|index| entry(3, index))).await;
    store.save_committed(Some(log_id(3, 4))).await.expect("noted");
    append(&mut store, [entry(3, 10)]).await;
    store.save_snapshot(Bytes::from_static(b"a snapshot")).await.expect("saved");
    store.close().await;

    let mut store = open(dir.path());
    assert_eq!(store.read_vote().await.expect("readable"), Some(Vote::new_committed(3, 1)));
    assert_eq!(store.read_committed().await.expect("readable"), Some(log_id(3, 4)));
    assert_eq!(store.snapshot(), Some(Bytes::from_static(b"a snapshot")));
    assert_eq!(indexes(&mut store).await, (0..=10).map(|index| (3, index)).collect::<Vec<_>>());
    store.close().await;
}

/// A quorum can have replaced the end of this log while the replacement still
/// waits here to be written.
#[tokio::test]
async fn what_is_committed_in_place_of_the_logs_end_is_not_saved_before_it_is_there() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut store = open(dir.path());
    append(&mut store, (0..10).map(|index| entry(1, index))).await;
    store.save_committed(Some(log_id(1, 8))).await.expect("noted");
    append(&mut store, [entry(1, 10)]).await;
    store.save_committed(Some(log_id(2, 10))).await.expect("noted");
    store.close().await;

    let mut store = open(dir.path());
    assert_eq!(store.read_committed().await.expect("readable"), Some(log_id(1, 8)));
    store.close().await;
}

#[tokio::test]
async fn a_truncated_and_rewritten_log_is_the_new_one_after_reopening() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut store = open(dir.path());
    append(&mut store, (0..10).map(|index| entry(1, index))).await;
    store.truncate_after(Some(log_id(1, 4))).await.expect("accepted");
    append(&mut store, (5..8).map(|index| entry(2, index))).await;
    let expected: Vec<_> = (0..5).map(|index| (1, index)).chain((5..8).map(|index| (2, index))).collect();
    assert_eq!(indexes(&mut store).await, expected);
    store.close().await;

    let mut store = open(dir.path());
    assert_eq!(indexes(&mut store).await, expected);
    store.close().await;
}

#[tokio::test]
async fn a_purged_log_begins_after_the_purge_after_reopening() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut store = open(dir.path());
    append(&mut store, (0..10).map(|index| entry(1, index))).await;
    store.purge(log_id(1, 6)).await.expect("accepted");
    assert_eq!(indexes(&mut store).await, vec![(1, 7), (1, 8), (1, 9)]);
    store.close().await;

    let mut store = open(dir.path());
    let state = store.get_log_state().await.expect("readable");
    assert_eq!((state.last_purged_log_id, state.last_log_id), (Some(log_id(1, 6)), Some(log_id(1, 9))));
    assert_eq!(indexes(&mut store).await, vec![(1, 7), (1, 8), (1, 9)]);
    // As after a snapshot was installed: beyond the end.
    store.purge(log_id(4, 20)).await.expect("accepted");
    append(&mut store, [entry(4, 21)]).await;
    store.close().await;

    let mut store = open(dir.path());
    assert_eq!(indexes(&mut store).await, vec![(4, 21)]);
    store.close().await;
}

#[tokio::test]
async fn entries_that_left_memory_are_read_from_disk() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut store = open(dir.path());
    append(&mut store, (0..10).map(|index| entry(1, index))).await;
    store.close().await;

    // After reopening memory holds none of them, and then only the new ones.
    let mut store = open(dir.path());
    append(&mut store, (10..15).map(|index| entry(1, index))).await;
    assert_eq!(indexes(&mut store).await, (0..15).map(|index| (1, index)).collect::<Vec<_>>());
    let some = store.limited_get_log_entries(8, 12).await.expect("readable");
    assert_eq!(some, (8..12).map(|index| entry(1, index)).collect::<Vec<_>>());
    let streamed: Vec<Entry> = store.entries_stream(3..12).await.try_collect().await.expect("readable");
    assert_eq!(streamed, (3..12).map(|index| entry(1, index)).collect::<Vec<_>>());
    store.close().await;
}

#[tokio::test]
async fn a_bounded_read_stops_at_its_bytes_but_gives_at_least_one_entry() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut store = open(dir.path());
    let large = |index| Entry {
        log_id: log_id(1, index),
        payload: EntryPayload::Normal(Proposal::new(Bytes::from(vec![0; 700 * 1024]))),
    };
    append(&mut store, (0..4).map(large)).await;
    for _ in 0..2 {
        assert_eq!(store.limited_get_log_entries(1, 4).await.expect("readable").len(), 1);
        store.close().await;
        store = open(dir.path());
    }
    store.close().await;
}

#[tokio::test]
async fn a_purged_range_is_an_error_where_a_leader_would_be_misled() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut store = open(dir.path());
    append(&mut store, (0..10).map(|index| entry(1, index))).await;
    store.purge(log_id(1, 6)).await.expect("accepted");
    assert!(store.limited_get_log_entries(5, 9).await.is_err());
    store.close().await;
}

// --------------------------------------------------------------- witness --

#[tokio::test]
async fn a_log_that_lost_what_it_acknowledged_is_refused() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut store = open(dir.path());
    append(&mut store, (0..10).map(|index| entry(1, index))).await;
    store.close().await;
    let kept = tempfile::tempdir().expect("a directory");
    copy(&dir.path().join("log"), &kept.path().join("log"));

    let mut store = open(dir.path());
    append(&mut store, (10..20).map(|index| entry(1, index))).await;
    store.close().await;

    // An older copy of the log under the newer witness.
    std::fs::remove_dir_all(dir.path().join("log")).expect("removed");
    copy(&kept.path().join("log"), &dir.path().join("log"));
    let error = try_open(dir.path()).map(|_| ()).expect_err("the log is too short");
    assert_eq!(
        error.to_string(),
        "the log of this node ends at index 9 of term 1 (no vote) but it had acknowledged index 19 of term 1 \
         (no vote): remove node 1 from the cluster and join it again as a new one (empty data directory)"
    );

    std::fs::remove_dir_all(dir.path().join("log")).expect("removed");
    assert!(matches!(try_open(dir.path()), Err(OpenError::LogBehindWitness { .. })), "a vanished log too");
}

#[tokio::test]
async fn a_log_that_was_truncated_for_a_new_leader_is_not_taken_for_a_lost_one() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut store = open(dir.path());
    append(&mut store, (0..2_000).map(|index| entry(1, index))).await;
    store.truncate_after(Some(log_id(1, 4))).await.expect("accepted");
    store.close().await;
    let mut store = open(dir.path());
    assert_eq!(indexes(&mut store).await.len(), 5);
    store.close().await;
}

#[tokio::test]
async fn a_forgotten_vote_is_noticed() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut store = open(dir.path());
    store.save_vote(&Vote::new(7, 1)).await.expect("saved");
    store.close().await;
    std::fs::remove_dir_all(dir.path().join("log")).expect("removed");
    assert!(matches!(try_open(dir.path()), Err(OpenError::LogBehindWitness { .. })));
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("created");
    for item in std::fs::read_dir(from).expect("readable") {
        let item = item.expect("readable");
        std::fs::copy(item.path(), to.join(item.file_name())).expect("copied");
    }
}
