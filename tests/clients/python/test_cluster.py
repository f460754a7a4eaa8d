"""Three nodes: any node answers, and the death of the leader loses and repeats nothing.

Runs only when ANNALS_CLUSTER_URL names the nodes. The scenarios that kill need the
harness's ANNALS_KILL_LEADER_CMD and ANNALS_RESTART_CMD.
"""

from __future__ import annotations

import os
import threading
import time

import pytest
from kurrentdbclient import KurrentDBClient
from kurrentdbclient.exceptions import KurrentDBClientError, NodeIsNotLeaderError
from support import (
    ANY,
    NO_STREAM,
    cluster_hosts,
    cluster_url,
    direct_url,
    event,
    events,
    fresh,
    fresh_word,
    ids,
    leader_and_followers,
    make_live,
    positions,
    retrying,
    run_harness,
)

pytestmark = pytest.mark.skipif(not cluster_url(), reason="ANNALS_CLUSTER_URL is not set")

can_kill = pytest.mark.skipif(
    not (os.environ.get("ANNALS_KILL_LEADER_CMD") and os.environ.get("ANNALS_RESTART_CMD")),
    reason="ANNALS_KILL_LEADER_CMD and ANNALS_RESTART_CMD are not set",
)


@pytest.fixture
def cluster():
    leader_and_followers()  # healthy before we begin
    with KurrentDBClient(cluster_url()) as client:
        yield client


def eventually(check, timeout=15.0):
    deadline = time.monotonic() + timeout
    while True:
        try:
            return check()
        except (AssertionError, KurrentDBClientError):
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


def at_least(position: int) -> tuple[tuple[str, str], ...]:
    return (("annals-min-position", str(position)),)


LINEARIZABLE = (("annals-consistency", "linearizable"),)


def test_gossip_names_one_leader_and_the_rest_followers(cluster):
    leader, followers = leader_and_followers()
    assert sorted([leader, *followers]) == sorted(cluster_hosts())
    members = cluster.read_gossip()
    assert sorted(m.state for m in members) == ["NODE_STATE_FOLLOWER"] * 2 + ["NODE_STATE_LEADER"]
    assert sorted(f"{m.address}:{m.port}" for m in members) == sorted(cluster_hosts())


def test_a_client_that_discovers_reaches_the_leader(cluster):
    leader, _ = leader_and_followers()
    assert cluster.connection_target == leader
    stream = make_live(cluster, 3)
    assert positions(cluster.get_stream(stream)) == [0, 1, 2]


def test_a_follower_tells_a_client_that_wants_the_leader_where_it_is(cluster):
    # This client always wants the leader for writes, whatever its preference.
    leader, followers = leader_and_followers()
    for follower in followers:
        with KurrentDBClient(direct_url(follower)) as direct:
            for write in (
                lambda: direct.append_event(fresh(), event=event(), current_version=ANY),
                lambda: direct.append_events(fresh(), events=events(2), current_version=ANY),
                lambda: direct.delete_stream(fresh(), current_version=ANY),
                lambda: direct.tombstone_stream(fresh(), current_version=ANY),
            ):
                with pytest.raises(NodeIsNotLeaderError) as refused:
                    write()
                assert f"{refused.value.host}:{refused.value.port}" == leader


def test_a_follower_refuses_v2_writes_with_the_leader_in_the_rich_status(cluster):
    from kurrentdbclient import NewEvents
    from kurrentdbclient.events import NewRecord

    leader, followers = leader_and_followers()
    with KurrentDBClient(direct_url(followers[0])) as direct:
        for write in (
            lambda: direct.multi_append_to_stream(NewEvents(fresh(), events(1), ANY)),
            lambda: direct.append_records([NewRecord(fresh(), "T", b"{}")]),
        ):
            with pytest.raises(NodeIsNotLeaderError) as refused:
                write()
            assert f"{refused.value.host}:{refused.value.port}" == leader


def test_a_follower_refuses_reads_that_demand_the_leader(cluster):
    leader, followers = leader_and_followers()
    stream = make_live(cluster)
    with KurrentDBClient(direct_url(followers[0], "leader")) as direct:
        for read in (
            lambda: direct.get_stream(stream),
            lambda: list(direct.read_all(limit=1)),
            lambda: direct.subscribe_to_stream(stream),
        ):
            with pytest.raises(NodeIsNotLeaderError) as refused:
                read()
            assert f"{refused.value.host}:{refused.value.port}" == leader


def test_a_follower_forwards_writes_that_do_not_demand_the_leader(cluster):
    # The header is this client's own; without it any node takes the write.
    _, followers = leader_and_followers()
    for follower in followers:
        with KurrentDBClient(direct_url(follower)) as direct:
            services = (direct.streams, direct.v2streams)
            for service in services:
                service._metadata = lambda metadata, requires_leader=False: tuple(metadata or ())
            stream, batch = fresh(), events(3)
            first = direct.append_event(stream, event=batch[0], current_version=NO_STREAM)
            assert direct.append_event(stream, event=batch[0], current_version=NO_STREAM) == first
            direct.append_events(stream, events=batch[1:], current_version=0)
            assert ids(cluster.get_stream(stream)) == [e.id for e in batch]
            direct.delete_stream(stream, current_version=2)
            assert cluster.get_current_version(stream) is NO_STREAM
            direct.tombstone_stream(stream, current_version=ANY)


def test_every_node_serves_reads_indexes_and_subscriptions(cluster):
    category = fresh_word()
    stream, batch = f"{category}-1", events(50)
    position = cluster.append_events(stream, events=batch, current_version=NO_STREAM)
    for host in cluster_hosts():
        with KurrentDBClient(direct_url(host)) as direct:
            direct._call_metadata += at_least(position)
            assert ids(direct.get_stream(stream)) == [e.id for e in batch]
            assert ids(direct.get_stream(f"$ce-{category}", resolve_links=True)) == [e.id for e in batch]
            with direct.subscribe_to_stream(stream) as subscription:
                assert [next(subscription).id for _ in batch] == [e.id for e in batch]
                new = event()
                cluster.append_event(stream, event=new, current_version=ANY)
                batch.append(new)
                assert next(subscription).id == new.id
            position = cluster.get_commit_position()


@pytest.mark.parametrize("headers", ["at least the position written", "linearizable"])
def test_writes_are_read_at_once_on_every_node_by_who_asks_for_it(cluster, headers):
    readers = [KurrentDBClient(direct_url(host)) for host in cluster_hosts()]
    plain = [reader._call_metadata for reader in readers]
    try:
        stream = fresh()
        for revision in range(25):
            new = event()
            position = cluster.append_event(stream, event=new, current_version=ANY)
            for reader, base in zip(readers, plain, strict=True):
                reader._call_metadata = base + (LINEARIZABLE if headers == "linearizable" else at_least(position))
                last = reader.get_stream(stream, backwards=True, limit=1)[0]
                assert (last.id, last.stream_position) == (new.id, revision)
    finally:
        for reader in readers:
            reader.close()


def test_every_node_agrees_on_the_order_of_everything(cluster):
    before = cluster.get_commit_position(filter_exclude=())
    for _ in range(20):
        cluster.append_events(fresh(), events=events(5), current_version=ANY)
    position = cluster.get_commit_position(filter_exclude=())
    seen = []
    for host in cluster_hosts():
        with KurrentDBClient(direct_url(host)) as direct:
            direct._call_metadata += at_least(position)
            read = direct.read_all(commit_position=before, filter_exclude=())
            seen.append(
                [
                    (e.commit_position, e.stream_name, e.stream_position, e.id, e.type, e.data, e.metadata, e.recorded_at)
                    for e in read
                    if e.commit_position <= position
                ]
            )
    assert len(seen[0]) >= 100
    assert seen[0] == seen[1] == seen[2]


# --- the death of the leader ------------------------------------------------------------


@pytest.fixture
def restarted_afterwards():
    yield
    if os.environ.get("ANNALS_RESTART_CMD"):
        run_harness("ANNALS_RESTART_CMD")
        leader_and_followers(timeout=60)


class Writer(threading.Thread):
    """Appends one event after another under an exact revision, retrying the same ids."""

    def __init__(self, stream):
        super().__init__(daemon=True)
        self.stream, self.written, self.retries = stream, [], 0
        self.stopping, self.error = threading.Event(), None

    def run(self):
        try:
            with KurrentDBClient(cluster_url()) as client:
                while not self.stopping.is_set():
                    batch = events(3)
                    expected = len(self.written) - 1 if self.written else NO_STREAM

                    def append():
                        try:
                            client.append_events(self.stream, events=batch, current_version=expected, timeout=5)
                        except KurrentDBClientError:
                            self.retries += 1
                            raise

                    retrying(append)
                    self.written += [e.id for e in batch]
        except BaseException as e:  # noqa: BLE001 - shown by the scenario
            self.error = e

    def wait_written(self, count, timeout=60.0):
        deadline = time.monotonic() + timeout
        while len(self.written) < count:
            assert self.error is None, f"the writer failed: {self.error!r}"
            assert time.monotonic() < deadline, f"only {len(self.written)} of {count} written in {timeout} s"
            time.sleep(0.02)


class Follower(threading.Thread):
    """A subscriber that resumes behind the last event it saw, as an application would."""

    def __init__(self, stream, url):
        super().__init__(daemon=True)
        self.stream, self.url = stream, url
        self.seen, self.resumed, self.stopping, self.current = [], 0, threading.Event(), None

    def run(self):
        client = None
        while not self.stopping.is_set():
            try:
                client = client or KurrentDBClient(self.url)
                after = self.seen[-1].stream_position if self.seen else None
                with client.subscribe_to_stream(self.stream, stream_position=after) as self.current:
                    for got in self.current:
                        self.seen.append(got)
            except KurrentDBClientError:
                self.resumed += 1
                if client is not None:
                    client.close()
                    client = None
                time.sleep(0.1)

    def stop(self):
        self.stopping.set()
        if self.current is not None:
            self.current.stop()


@can_kill
@pytest.mark.parametrize("round", [1, 2])
def test_the_death_of_the_leader_loses_nothing_and_repeats_nothing(cluster, restarted_afterwards, round):
    stream = fresh()
    leader, followers = leader_and_followers()
    writer = Writer(stream)
    readers = [Follower(stream, cluster_url()), Follower(stream, direct_url(followers[0]))]
    for thread in (writer, *readers):
        thread.start()
    try:
        writer.wait_written(60)
        before = len(writer.written)
        run_harness("ANNALS_KILL_LEADER_CMD")
        writer.wait_written(before + 60)  # goes on with two nodes
        run_harness("ANNALS_RESTART_CMD")
        writer.wait_written(before + 150)  # and with the third coming back
    finally:
        writer.stopping.set()
        writer.join(70)
    assert writer.error is None, f"the writer failed: {writer.error!r}"
    wanted = list(writer.written)

    def check(reader):
        assert [e.id for e in reader.seen] == wanted
        assert positions(reader.seen) == list(range(len(wanted)))

    try:
        for reader in readers:
            eventually(lambda: check(reader), timeout=30)
    finally:
        for reader in readers:
            reader.stop()

    leader_and_followers(timeout=60)
    with KurrentDBClient(cluster_url()) as after:
        stored = after.get_stream(stream)
        assert ids(stored) == wanted
        position = stored[-1].commit_position
    for host in cluster_hosts():  # the restarted node too
        with KurrentDBClient(direct_url(host)) as direct:
            direct._call_metadata += at_least(position)
            eventually(lambda: assert_same(direct, stream, wanted))


def assert_same(client, stream, wanted):
    assert ids(client.get_stream(stream)) == wanted


@can_kill
def test_what_was_acknowledged_before_the_death_is_there_after_it(cluster, restarted_afterwards):
    acknowledged = {}
    for n in range(50):
        stream = fresh()
        batch = events(2)
        cluster.append_events(stream, events=batch, current_version=NO_STREAM)
        acknowledged[stream] = [e.id for e in batch]
    run_harness("ANNALS_KILL_LEADER_CMD")
    with retrying(lambda: KurrentDBClient(cluster_url())) as survivor:
        for stream, wanted in acknowledged.items():
            assert ids(retrying(lambda: survivor.get_stream(stream))) == wanted
        # Known ids are still known to the new leader, in both regimes.
        stream, wanted = next(iter(acknowledged.items()))
        stored = survivor.get_stream(stream)
        again = [event(e.type, e.data, id=e.id) for e in stored]
        for expected in (NO_STREAM, ANY):
            answered = retrying(
                lambda: survivor.append_events(stream, events=again, current_version=expected)
            )
            assert answered == stored[-1].commit_position
        assert ids(survivor.get_stream(stream)) == wanted
