"""Consumer groups: everybody gets something, nobody forgets anything (6)."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import Counter, defaultdict

import pytest
from kurrentdbclient.exceptions import (
    AlreadyExistsError,
    CancelledError,
    KurrentDBClientError,
    MaximumSubscriptionsReachedError,
    NotFoundError,
)
from support import (
    ANY,
    event,
    events,
    fresh,
    fresh_word,
    make_live,
    make_tombstoned,
)

PATIENCE_S = 20.0
FAST = {"checkpoint_after": 0.2, "min_checkpoint_count": 1}


class Consumer:
    """A consumer on a thread of its own; `judge` says what becomes of each event."""

    def __init__(self, client, group, stream=None, judge=None, buffer=10):
        read = {"event_buffer_size": buffer, "max_ack_delay": 0.05}
        if stream is None:
            self.subscription = client.read_subscription_to_all(group, **read)
        else:
            self.subscription = client.read_subscription_to_stream(group, stream, **read)
        self.judge = judge or (lambda _: "ack")
        self.seen = []
        self.error = None
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self):
        try:
            for recorded in self.subscription:
                self.seen.append(recorded)
                verdict = self.judge(recorded)
                if verdict == "ack":
                    self.subscription.ack(recorded)
                elif verdict is not None:
                    self.subscription.nack(recorded, verdict)
        except BaseException as e:  # noqa: BLE001 - kept for the scenario to judge
            self.error = e

    def stop(self):
        self.subscription.stop()
        self.thread.join(10)


@contextlib.contextmanager
def consuming(*args, **kwargs):
    consumer = Consumer(*args, **kwargs)
    try:
        yield consumer
    finally:
        consumer.stop()


def until(what, describe, timeout=PATIENCE_S):
    deadline = time.monotonic() + timeout
    while not what():
        assert time.monotonic() < deadline, f"waited for {describe}"
        time.sleep(0.02)


def info(client, group, stream=None):
    return client.get_subscription_info(group, stream)


def parked(group, stream):
    return f"$persistentsubscription-{stream}::{group}-parked"


# --- what is delivered ----------------------------------------------------------


def test_every_event_is_delivered_once_and_what_was_acked_is_done(client):
    stream, group = make_live(client, 50), fresh_word()
    client.create_subscription_to_stream(group, stream, **FAST)
    with consuming(client, group, stream) as consumer:
        until(lambda: len(consumer.seen) >= 50, "50 events")
        assert [e.stream_position for e in consumer.seen] == list(range(50))
        assert {e.retry_count for e in consumer.seen} == {0}
        client.append_events(stream, events=events(3), current_version=ANY)
        until(lambda: len(consumer.seen) >= 53, "what is new")
        until(lambda: info(client, group, stream).last_checkpointed_event_position == "52", "the checkpoint")
    told = info(client, group, stream)
    assert (told.event_source, told.group_name, told.status) == (stream, group, "Live")
    assert (told.last_known_event_position, told.parked_message_count) == ("52", 0)
    with consuming(client, group, stream) as consumer:
        time.sleep(1)
        assert consumer.seen == []


def test_a_group_begins_where_it_was_defined_to(client):
    for where, expected in [({"stream_position": 7}, [7, 8, 9]), ({"from_end": True}, []), ({}, list(range(10)))]:
        stream, group = make_live(client, 10), fresh_word()
        client.create_subscription_to_stream(group, stream, **where)
        client.append_events(stream, events=events(2), current_version=ANY)
        with consuming(client, group, stream) as consumer:
            until(lambda: len(consumer.seen) >= len(expected) + 2, where)
            assert [e.stream_position for e in consumer.seen] == [*expected, 10, 11]


def test_a_group_can_be_defined_before_its_stream(client):
    stream, group = fresh(), fresh_word()
    client.create_subscription_to_stream(group, stream)
    with consuming(client, group, stream) as consumer:
        make_live(client, 3, stream)
        until(lambda: len(consumer.seen) >= 3, "3 events")


def test_consumers_share_the_events_and_none_has_more_than_its_buffer(client):
    stream, group = make_live(client, 60), fresh_word()
    client.create_subscription_to_stream(group, stream, consumer_strategy="RoundRobin")
    with contextlib.ExitStack() as stack:
        consumers = [
            stack.enter_context(consuming(client, group, stream, judge=lambda _: None, buffer=5)) for _ in range(3)
        ]
        until(lambda: all(len(c.seen) == 5 for c in consumers), "five for each")
        time.sleep(0.5)
        assert [len(c.seen) for c in consumers] == [5, 5, 5], "without an answer there is nothing more"
        told = info(client, group, stream)
        assert told.total_in_flight_messages == 15
        assert [c.in_flight_messages for c in told.connections] == [5, 5, 5]


def test_what_a_consumer_leaves_goes_to_another(client):
    stream, group = make_live(client, 5), fresh_word()
    client.create_subscription_to_stream(group, stream)
    with consuming(client, group, stream, judge=lambda _: None) as first:
        until(lambda: len(first.seen) == 5, "5 events")
    with consuming(client, group, stream) as second:
        until(lambda: len(second.seen) == 5, "the same 5 events")
        assert [e.id for e in first.seen] == [e.id for e in second.seen]


def test_links_are_resolved_and_acked_by_their_own_ids(client):
    category = fresh_word()
    make_live(client, 3, f"{category}-1")
    group = fresh_word()
    client.create_subscription_to_stream(group, f"$ce-{category}", resolve_links=True, **FAST)
    with consuming(client, group, f"$ce-{category}") as consumer:
        until(lambda: len(consumer.seen) == 3, "3 events")
        assert [e.stream_name for e in consumer.seen] == [f"{category}-1"] * 3
        assert all(e.link is not None for e in consumer.seen)
        until(lambda: info(client, group, f"$ce-{category}").last_checkpointed_event_position == "2", "a checkpoint")


def test_a_group_on_everything_gets_what_its_filter_passes(client):
    kind, group = fresh_word(), fresh_word()
    client.create_subscription_to_all(group, filter_include=[kind], from_end=True, **FAST)
    wanted = [event(kind), event(kind)]
    client.append_events(fresh(), events=[wanted[0], event("Other"), wanted[1]], current_version=ANY)
    with consuming(client, group) as consumer:
        until(lambda: len(consumer.seen) == 2, "2 events")
        assert [e.id for e in consumer.seen] == [e.id for e in wanted]
        at = consumer.seen[-1].commit_position

        def checkpoint():
            text = info(client, group).last_checkpointed_event_position
            return int(text[2:].split("/")[0]) if text else 0

        until(lambda: checkpoint() >= at, "the checkpoint")
    client.delete_subscription(group)


def test_a_group_on_everything_does_not_feed_on_itself(client):
    group = fresh_word()
    client.create_subscription_to_all(group, filter_exclude=(), from_end=True, **FAST)
    stream = make_live(client, 20)
    with consuming(client, group) as consumer:
        until(lambda: sum(e.stream_name == stream for e in consumer.seen) == 20, "20 events")
        time.sleep(1.5)
        own = [e.stream_name for e in consumer.seen if group in e.stream_name]
        assert own == []
    client.delete_subscription(group)


# --- what is not acked ----------------------------------------------------------


def test_a_message_is_retried_so_often_and_then_parked(client):
    stream, group = make_live(client, 2), fresh_word()
    client.create_subscription_to_stream(group, stream, max_retry_count=3)
    judge = lambda e: "retry" if e.stream_position == 0 else "ack"  # noqa: E731
    with consuming(client, group, stream, judge=judge) as consumer:
        until(lambda: info(client, group, stream).parked_message_count == 1, "one parked message")
        bad = [e for e in consumer.seen if e.stream_position == 0]
        assert [e.retry_count for e in bad] == [0, 1, 2, 3]
    [message] = client.get_stream(parked(group, stream))
    assert (message.type, message.data) == ("$>", f"0@{stream}".encode())
    assert b"Reached retry count of 3" in message.metadata


def test_a_parked_message_is_replayed_and_leaves_the_parked_ones_when_it_is_done(client):
    stream, group = make_live(client, 4), fresh_word()
    client.create_subscription_to_stream(group, stream, **FAST)
    with consuming(client, group, stream, judge=lambda _: "park") as consumer:
        until(lambda: info(client, group, stream).parked_message_count == 4, "four parked messages")
        assert len(consumer.seen) == 4
    client.replay_parked_events(group, stream)
    with consuming(client, group, stream) as consumer:
        until(lambda: len(consumer.seen) == 4, "the four again")
        assert [e.retry_count for e in consumer.seen] == [0] * 4
        until(lambda: info(client, group, stream).parked_message_count == 0, "none parked")


def test_skip_is_done_and_a_late_message_comes_again(client):
    stream, group = make_live(client, 2), fresh_word()
    client.create_subscription_to_stream(group, stream, message_timeout=1, **FAST)
    judge = lambda e: "skip" if e.stream_position == 0 else ("ack" if e.retry_count else None)  # noqa: E731
    with consuming(client, group, stream, judge=judge) as consumer:
        until(lambda: info(client, group, stream).last_checkpointed_event_position == "1", "both done")
        assert [(e.stream_position, e.retry_count) for e in consumer.seen] == [(0, 0), (1, 0), (1, 1)]


# --- order ----------------------------------------------------------------------


@pytest.mark.parametrize("strategy", ["Pinned", "PinnedByCorrelation"])
def test_each_key_is_in_order_while_consumers_come_and_go(client, strategy):
    category, group = fresh_word(), fresh_word()
    keys, each = 12, 40
    for key in range(keys):
        new = [
            event("T", {"n": n}, metadata=f'{{"$correlationId":"{category}-{key % 5}"}}'.encode()) for n in range(each)
        ]
        client.append_events(f"{category}-{key}", events=new, current_version=ANY)
    client.create_subscription_to_stream(
        group, f"$ce-{category}", resolve_links=True, consumer_strategy=strategy, **FAST
    )
    lock, flying, order = threading.Lock(), Counter(), defaultdict(list)

    def key_of(e):
        return e.stream_name if strategy == "Pinned" else e.metadata

    def judge(e):
        with lock:
            flying[key_of(e)] += 1
            assert flying[key_of(e)] == 1, "two events of one key in flight"
            order[key_of(e)].append(e.link.stream_position)
        time.sleep(0.001)
        with lock:
            flying[key_of(e)] -= 1
        return "ack"

    consumers = [Consumer(client, group, f"$ce-{category}", judge=judge, buffer=4) for _ in range(3)]
    until(lambda: sum(map(len, order.values())) > keys * each // 3, "a third")
    consumers.append(Consumer(client, group, f"$ce-{category}", judge=judge, buffer=4))
    until(lambda: sum(map(len, order.values())) > keys * each * 2 // 3, "two thirds")
    consumers.pop(0).stop()
    until(lambda: {at for places in order.values() for at in places} == set(range(keys * each)), "all")
    for consumer in consumers:
        assert consumer.error is None, consumer.error
        consumer.stop()
    for key, places in order.items():
        first = [at for n, at in enumerate(places) if at not in places[:n]]
        assert first == sorted(first), key


# --- what is refused, changed, removed --------------------------------------------


def test_what_is_wrong_with_a_group_is_told(client):
    stream, group = make_live(client, 1), fresh_word()
    with pytest.raises(NotFoundError):
        client.read_subscription_to_stream(group, stream)
    with pytest.raises(NotFoundError):
        info(client, group, stream)
    with pytest.raises(NotFoundError):
        client.delete_subscription(group, stream)
    client.create_subscription_to_stream(group, stream, max_subscriber_count=1)
    with pytest.raises(AlreadyExistsError):
        client.create_subscription_to_stream(group, stream)
    with consuming(client, group, stream), pytest.raises(MaximumSubscriptionsReachedError):
        client.read_subscription_to_stream(group, stream)
    with pytest.raises(KurrentDBClientError, match="read_batch_size"):
        client.create_subscription_to_stream(fresh_word(), stream, read_batch_size=500, history_buffer_size=500)


def test_an_update_sends_consumers_away_and_keeps_the_place(client):
    stream, group = make_live(client, 10), fresh_word()
    client.create_subscription_to_stream(group, stream, **FAST)
    with consuming(client, group, stream) as consumer:
        until(lambda: info(client, group, stream).last_checkpointed_event_position == "9", "the checkpoint")
        client.update_subscription_to_stream(group, stream, max_retry_count=77)
        until(lambda: consumer.error is not None, "the consumer to be sent away")
        assert isinstance(consumer.error, CancelledError), consumer.error
    assert info(client, group, stream).max_retry_count == 77
    client.append_events(stream, events=events(1), current_version=ANY)
    with consuming(client, group, stream) as consumer:
        until(lambda: consumer.seen, "what is new")
        assert [e.stream_position for e in consumer.seen] == [10]


def test_a_group_that_is_deleted_is_gone_with_its_place(client):
    stream, group = make_live(client, 3), fresh_word()
    for _ in range(2):
        client.create_subscription_to_stream(group, stream, **FAST)
        with consuming(client, group, stream) as consumer:
            until(lambda: len(consumer.seen) == 3, "3 events")
            until(lambda: info(client, group, stream).last_checkpointed_event_position == "2", "the checkpoint")
            client.delete_subscription(group, stream)
            until(lambda: consumer.error is not None, "the consumer to be sent away")
    with pytest.raises(NotFoundError):
        info(client, group, stream)


def test_a_group_that_is_made_again_parks_the_same_event_again(client):
    stream, group = make_live(client, 1), fresh_word()
    for _ in range(2):
        client.create_subscription_to_stream(group, stream)
        with consuming(client, group, stream, judge=lambda _: "park"):
            until(lambda: info(client, group, stream).parked_message_count == 1, "the parked message")
        client.delete_subscription(group, stream)


def test_groups_are_listed(client):
    stream = make_live(client, 1)
    assert client.list_subscriptions_to_stream(stream) == []
    names = sorted(fresh_word() for _ in range(3))
    for name in names:
        client.create_subscription_to_stream(name, stream)
    assert sorted(s.group_name for s in client.list_subscriptions_to_stream(stream)) == names
    assert set(names) <= {s.group_name for s in client.list_subscriptions()}


def test_how_long_consumers_take_is_measured_where_it_is_wanted(client):
    for wanted in (True, False):
        stream, group = make_live(client, 20), fresh_word()
        client.create_subscription_to_stream(group, stream, extra_statistics=wanted, **FAST)
        with consuming(client, group, stream) as consumer:
            until(lambda: info(client, group, stream).last_checkpointed_event_position == "19", "the checkpoint")
            [connection] = info(client, group, stream).connections
            assert connection.total_items == len(consumer.seen) == 20
            measured = {m.key: m.value for m in connection.observed_measurements}
            if wanted:
                assert measured["Fastest"] <= measured["Median"] <= measured["99%"] <= measured["Highest"] < 5_000
                assert 0 < measured["Highest"], "acks are gathered for 50 ms"
            else:
                assert measured == {}


def test_a_group_on_a_stream_that_ends_for_good_stays(client):
    stream, group = make_tombstoned(client, 2), fresh_word()
    client.create_subscription_to_stream(group, stream)
    with consuming(client, group, stream) as consumer:
        time.sleep(0.5)
        assert consumer.error is None
    client.delete_subscription(group, stream)
