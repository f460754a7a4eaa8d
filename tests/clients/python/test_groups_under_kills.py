"""A consumer group whose leader is killed again and again (6): 8 consumers in processes
of their own, a key per stream, until every event is acked or parked.

ANNALS_GROUP_EVENTS says how many events (10,000 without it). The leader is killed with
-9 every 10 seconds and started again, with few events half-way. A consumer takes some
milliseconds for an event: without that it would be over before the second kill.
"""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
from collections import Counter, defaultdict
from queue import Empty

import pytest
from kurrentdbclient import KurrentDBClient
from kurrentdbclient.exceptions import KurrentDBClientError
from support import ANY, cluster_url, event, fresh_word, leader_and_followers, retrying, run_harness

pytestmark = pytest.mark.skipif(
    not (cluster_url() and os.environ.get("ANNALS_KILL_LEADER_CMD") and os.environ.get("ANNALS_RESTART_CMD")),
    reason="ANNALS_CLUSTER_URL, ANNALS_KILL_LEADER_CMD and ANNALS_RESTART_CMD are not set",
)

EVENTS = int(os.environ.get("ANNALS_GROUP_EVENTS", "10000"))
KEYS = 500
CONSUMERS = 8
KILL_EVERY_S = 10.0
WORK_S = 0.004
# Events that wait in the group at most, and that a consumer has at hand at most.
WAITING, AT_HAND = 2_000, 100
# One of so many is parked.
PARKED_ONE_OF = 1_000
# At least so many events a second, kills included.
SLOWEST = 200


def is_parked(key: int, n: int) -> bool:
    return (key * 31 + n) % PARKED_ONE_OF == 0


def stop_when(done, subscription) -> None:
    # Looked at, not waited for: `set` of an event of processes waits for each of its
    # waiters, and hung where these are threads of processes that were interrupted.
    while not done.value:
        time.sleep(0.1)
    subscription.stop()


def consume(url: str, group: str, source: str, told, done) -> None:
    """A consumer process. Tells (key, n, received, answered) of every delivery."""

    def flush(batch):
        if batch:
            told.put(list(batch))
            batch.clear()

    batch: list[tuple[int, int, float, float]] = []
    while not done.value:
        try:
            with KurrentDBClient(url) as client:
                subscription = client.read_subscription_to_stream(
                    group, source, event_buffer_size=AT_HAND, max_ack_batch_size=50, max_ack_delay=0.01
                )
                # The client's iterator waits for ever; this ends it.
                threading.Thread(target=stop_when, args=(done, subscription), daemon=True).start()
                for recorded in subscription:
                    received = time.monotonic()
                    key, n = int(recorded.stream_name.rsplit("-", 1)[1]), recorded.stream_position
                    time.sleep(WORK_S)
                    answered = time.monotonic()
                    if is_parked(key, n):
                        subscription.nack(recorded, "park")
                    else:
                        subscription.ack(recorded)
                    batch.append((key, n, received, answered))
                    if len(batch) >= 100 or n % 20 == 19:
                        flush(batch)
        except KurrentDBClientError:
            time.sleep(0.05)
        flush(batch)
    told.close()


def append_all(category: str, keys: int, each: int) -> float:
    """Ten events of every stream, then the next ten: keys come mixed, as they do in life."""
    began = time.monotonic()

    def append(first: int):
        with KurrentDBClient(cluster_url()) as client:
            for n in range(0, each, 10):
                for key in range(first, keys, 4):
                    new = [event("T", {"n": at}) for at in range(n, min(n + 10, each))]
                    client.append_events(f"{category}-{key}", events=new, current_version=ANY)

    threads = [threading.Thread(target=append, args=(first,)) for first in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return time.monotonic() - began


@pytest.mark.parametrize("strategy", ["Pinned", "RoundRobin"])
def test_every_event_is_acked_or_parked_while_leaders_die(strategy):
    leader_and_followers()
    category, group, each = fresh_word(), fresh_word(), EVENTS // KEYS
    source, total = f"$ce-{category}", KEYS * each
    appending = append_all(category, KEYS, each)
    with KurrentDBClient(cluster_url()) as client:
        client.create_subscription_to_stream(
            group,
            source,
            resolve_links=True,
            consumer_strategy=strategy,
            history_buffer_size=WAITING,
            read_batch_size=500,
            max_checkpoint_count=1_000,
            min_checkpoint_count=1,
            checkpoint_after=0.5,
        )

    spawning = multiprocessing.get_context("spawn")
    told, done = spawning.Queue(), spawning.Value("b", 0)
    consumers = [
        spawning.Process(target=consume, args=(cluster_url(), group, source, told, done), daemon=True)
        for _ in range(CONSUMERS)
    ]
    for consumer in consumers:
        consumer.start()

    deliveries: list[tuple[int, int, float, float]] = []
    seen: set[tuple[int, int]] = set()
    kills, killing = 0, None

    def kill():
        run_harness("ANNALS_KILL_LEADER_CMD")
        run_harness("ANNALS_RESTART_CMD")

    def take(timeout: float):
        try:
            batch = told.get(timeout=timeout)
        except Empty:
            return
        deliveries.extend(batch)
        seen.update((key, n) for key, n, _, _ in batch)

    try:
        while not seen:
            take(60)
        began = min(received for _, _, received, _ in deliveries)
        deadline, kill_at = began + 30 + total / SLOWEST, began + min(KILL_EVERY_S, total * WORK_S / CONSUMERS / 2)
        while len(seen) < total:
            assert time.monotonic() < deadline, f"{len(seen)} of {total} after {time.monotonic() - began:.0f} s"
            take(0.2)
            if time.monotonic() >= kill_at and (killing is None or not killing.is_alive()):
                kills, kill_at = kills + 1, kill_at + KILL_EVERY_S
                killing = threading.Thread(target=kill)
                killing.start()
        took = max(answered for _, _, _, answered in deliveries) - began
        if killing:
            killing.join()
        with KurrentDBClient(cluster_url()) as client:
            expected = (str(total - 1), sum(is_parked(key, n) for key in range(KEYS) for n in range(each)))

            def settled():
                told = retrying(lambda: client.get_subscription_info(group, source))
                return (told.last_checkpointed_event_position, told.parked_message_count)

            while settled() != expected:
                assert time.monotonic() < deadline, f"{settled()} instead of {expected}"
                take(0.1)
            parked = Counter(e.data for e in client.get_stream(f"$persistentsubscription-{source}::{group}-parked"))
    finally:
        done.value = 1
        # Who has something to tell cannot end before it is taken.
        patience = time.monotonic() + 15
        while any(consumer.is_alive() for consumer in consumers) and time.monotonic() < patience:
            take(0.2)
        for consumer in consumers:
            consumer.terminate()

    assert kills > 0
    assert set(parked.values()) == {1}, "a message is parked once"
    assert len(parked) == expected[1]
    again = len(deliveries) - len(seen)
    times = sorted(received for _, _, received, _ in deliveries)
    pause = max(later - earlier for earlier, later in zip(times, times[1:]))
    print(
        f"\n{strategy}: {total} events to {CONSUMERS} consumers in {took:.1f} s with {kills} kills of the leader: "
        f"{total / took:.0f}/s, {len(parked)} parked, {again} delivered again, longest pause {pause:.1f} s; "
        f"appended at {total / appending:.0f}/s"
    )
    # A checkpoint is below all that is not done, so no more than this is above it.
    assert again < kills * (WAITING + CONSUMERS * AT_HAND), f"{again} of {total} came again"
    if strategy == "Pinned":
        order_is_kept(deliveries)


def order_is_kept(deliveries):
    """The first delivery of an event comes after somebody answered for the one before."""
    first, answered = {}, {}
    by_key = defaultdict(list)
    for key, n, received, at in sorted(deliveries, key=lambda delivery: delivery[2]):
        if (key, n) not in first:
            first[key, n] = received
            by_key[key].append(n)
        answered[key, n] = min(at, answered.get((key, n), at))
    for key, order in by_key.items():
        assert order == sorted(order), f"stream {key}: {order}"
    early = [(key, n) for (key, n), at in first.items() if n > 0 and answered[key, n - 1] > at]
    assert not early, f"delivered before the one before was answered for: {early[:10]}"
