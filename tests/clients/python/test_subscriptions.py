"""Catch-up subscriptions: nothing missed, nothing repeated, in order (3.2, 3.5, 3.6)."""

from __future__ import annotations

import threading
import time

import pytest
from kurrentdbclient.exceptions import StreamIsDeletedError
from support import (
    ANY,
    MAX_REVISION,
    NO_STREAM,
    event,
    events,
    fresh,
    fresh_word,
    ids,
    make_live,
    make_soft_deleted,
    make_tombstoned,
    positions,
    subscribed,
)

QUIET_S = 0.7  # how long nothing must come, where nothing may


def append(client, stream, count=1):
    new = events(count)
    client.append_events(stream, events=new, current_version=ANY)
    return [e.id for e in new]


# --- to a stream --------------------------------------------------------------------------


def test_from_the_start_everything_comes_then_caught_up_then_what_is_new(client):
    stream = make_live(client, 100)
    with subscribed(client.subscribe_to_stream(stream, include_caught_up=True)) as subscriber:
        caught_up = subscriber.wait_caught_up()
        assert caught_up.stream_position == 99
        assert caught_up.recorded_at is not None
        assert positions(subscriber.events) == list(range(100))
        assert subscriber.seen[-1] is caught_up
        append(client, stream, 3)
        assert positions(subscriber.wait_events(103)) == list(range(103))


def test_from_the_middle_what_is_behind_the_revision_comes(client):
    stream = make_live(client, 10)
    with subscribed(client.subscribe_to_stream(stream, stream_position=6, include_caught_up=True)) as subscriber:
        subscriber.wait_caught_up()
        assert positions(subscriber.events) == [7, 8, 9]
        append(client, stream)
        assert positions(subscriber.wait_events(4)) == [7, 8, 9, 10]


def test_from_revision_zero_the_first_event_is_left_out(client):
    stream = make_live(client, 3)
    with subscribed(client.subscribe_to_stream(stream, stream_position=0, include_caught_up=True)) as subscriber:
        subscriber.wait_caught_up()
        assert positions(subscriber.events) == [1, 2]


def test_from_the_end_only_what_is_new_comes(client):
    stream = make_live(client, 10)
    with subscribed(client.subscribe_to_stream(stream, from_end=True, include_caught_up=True)) as subscriber:
        assert subscriber.wait_caught_up().stream_position == 9
        append(client, stream, 2)
        assert positions(subscriber.wait_events(2)) == [10, 11]


def test_from_the_future_events_up_to_there_are_passed_over(client):
    stream = make_live(client, 2)
    with subscribed(client.subscribe_to_stream(stream, stream_position=4, include_caught_up=True)) as subscriber:
        subscriber.wait_caught_up()
        append(client, stream, 6)  # revisions 2 to 7
        assert positions(subscriber.wait_events(3)) == [5, 6, 7]
        time.sleep(QUIET_S)
        assert positions(subscriber.events) == [5, 6, 7]


@pytest.mark.parametrize("from_end", [False, True], ids=["from the start", "from the end"])
def test_a_missing_stream_is_waited_for(client, from_end):
    stream = fresh()
    with subscribed(client.subscribe_to_stream(stream, from_end=from_end, include_caught_up=True)) as subscriber:
        subscriber.wait_caught_up()
        time.sleep(QUIET_S)
        assert not subscriber.ended
        wanted = append(client, stream, 3)
        assert ids(subscriber.wait_events(3)) == wanted


def test_a_subscription_lives_through_a_soft_delete(client):
    stream = make_live(client, 2)
    with subscribed(client.subscribe_to_stream(stream, include_caught_up=True)) as subscriber:
        subscriber.wait_events(2)
        client.delete_stream(stream, current_version=ANY)
        time.sleep(QUIET_S)
        assert not subscriber.ended and len(subscriber.events) == 2
        append(client, stream, 2)
        assert positions(subscriber.wait_events(4)) == [0, 1, 2, 3]


def test_a_soft_deleted_stream_looks_empty_to_a_subscription(client):
    stream = make_soft_deleted(client, 3)
    with subscribed(client.subscribe_to_stream(stream, include_caught_up=True)) as subscriber:
        subscriber.wait_caught_up()
        assert subscriber.events == []
        append(client, stream)
        assert positions(subscriber.wait_events(1)) == [3]


def test_a_tombstone_is_delivered_and_ends_the_subscription(client):
    stream = make_live(client, 2)
    with subscribed(client.subscribe_to_stream(stream, include_caught_up=True)) as subscriber:
        subscriber.wait_caught_up()
        client.tombstone_stream(stream, current_version=ANY)
        error = subscriber.wait_ended()
        assert isinstance(error, StreamIsDeletedError)
        last = subscriber.events[-1]
        assert (last.type, last.stream_position) == ("$streamDeleted", MAX_REVISION)
        assert positions(subscriber.events[:-1]) == [0, 1]


def test_subscribing_to_a_tombstoned_stream_fails(client):
    stream = make_tombstoned(client)
    with pytest.raises(StreamIsDeletedError):
        with client.subscribe_to_stream(stream) as subscription:
            next(subscription)


def test_each_subscription_has_its_own_id(client):
    stream = make_live(client)
    with client.subscribe_to_stream(stream) as one, client.subscribe_to_stream(stream) as two:
        assert one.subscription_id and one.subscription_id != two.subscription_id


def test_nothing_is_lost_or_repeated_where_catching_up_turns_into_live(client):
    stream, stop, wanted = fresh(), threading.Event(), []

    def write():
        while not stop.is_set() and len(wanted) < 3000:
            wanted.extend(append(client, stream, 10))

    writer = threading.Thread(target=write)
    writer.start()
    try:
        time.sleep(0.05)
        subscriptions = []
        for _ in range(5):
            subscriptions.append(client.subscribe_to_stream(stream))
            time.sleep(0.05)
        with (
            subscribed(subscriptions[0]) as a,
            subscribed(subscriptions[1]) as b,
            subscribed(subscriptions[2]) as c,
            subscribed(subscriptions[3]) as d,
            subscribed(subscriptions[4]) as e,
        ):
            time.sleep(0.3)
            stop.set()
            writer.join()
            for subscriber in (a, b, c, d, e):
                assert ids(subscriber.wait_events(len(wanted))) == wanted
    finally:
        stop.set()
        writer.join()


# --- to $all ----------------------------------------------------------------------------------


def test_all_from_the_start_begins_with_the_first_event_there_is(client):
    make_live(client)
    first = next(iter(client.read_all(limit=1, filter_exclude=())))
    with client.subscribe_to_all(filter_exclude=()) as subscription:
        assert next(subscription).id == first.id


def test_all_from_a_position_delivers_what_is_behind_it(client, here):
    stream = make_live(client, 4)
    stored = client.get_stream(stream)
    with subscribed(
        client.subscribe_to_all(commit_position=stored[1].commit_position, include_caught_up=True)
    ) as subscriber:
        caught_up = subscriber.wait_caught_up()
        assert caught_up.commit_position >= stored[3].commit_position
        assert ids(subscriber.events)[:2] == ids(stored)[2:]
        wanted = append(client, stream, 2)
        subscriber.wait(lambda: wanted[-1] in ids(subscriber.events), "the new events")
        assert [e for e in ids(subscriber.events) if e in wanted] == wanted


def test_all_from_the_end_delivers_only_what_is_new(client):
    old = ids(client.get_stream(make_live(client, 3)))
    with subscribed(client.subscribe_to_all(from_end=True, include_caught_up=True)) as subscriber:
        subscriber.wait_caught_up()
        wanted = append(client, fresh(), 3)
        subscriber.wait(lambda: wanted[-1] in ids(subscriber.events), "the new events")
        assert [e for e in ids(subscriber.events) if e in wanted] == wanted
        assert not set(old) & set(ids(subscriber.events))


def test_all_from_beyond_the_end_is_silent_until_the_log_gets_there(client):
    end = client.get_commit_position(filter_exclude=())
    with subscribed(client.subscribe_to_all(commit_position=end + 1_000_000, include_caught_up=True)) as subscriber:
        subscriber.wait_caught_up()
        append(client, fresh(), 3)
        time.sleep(QUIET_S)
        assert not subscriber.ended and subscriber.events == []


def test_all_shows_a_tombstone_and_goes_on(client, here):
    stream = make_tombstoned(client, 1)
    with subscribed(client.subscribe_to_all(commit_position=here, filter_exclude=())) as subscriber:
        subscriber.wait(
            lambda: any(e.type == "$streamDeleted" and e.stream_name == stream for e in subscriber.events),
            "the tombstone",
        )
        wanted = append(client, fresh())
        subscriber.wait(lambda: wanted[0] in ids(subscriber.events), "an event behind the tombstone")


def test_a_filtered_subscription_delivers_matches_from_history_and_live(client, here):
    type, stream = fresh_word(), fresh()

    def mixed(start):
        batch = []
        for n in range(start, start + 50):
            batch += [event("Noise"), event(type, {"n": n})]
        client.append_events(stream, events=batch, current_version=ANY)
        return [e.id for e in batch if e.type == type]

    wanted = mixed(0)
    with subscribed(
        client.subscribe_to_all(commit_position=here, filter_include=[type], include_caught_up=True)
    ) as subscriber:
        subscriber.wait_caught_up()
        assert ids(subscriber.events) == wanted
        wanted += mixed(50)
        assert ids(subscriber.wait_events(100)) == wanted


@pytest.mark.parametrize("by_prefix", [False, True], ids=["regex", "prefix"])
def test_a_filter_on_stream_names_holds_for_subscriptions(client, here, by_prefix):
    category = fresh_word()
    wanted = append(client, f"{category}-1", 2) + append(client, f"{category}-2", 2)
    make_live(client)
    with subscribed(
        client.subscribe_to_all(
            commit_position=here,
            filter_include=[f"{category}-" if by_prefix else rf"{category}-\d"],
            filter_by_stream_name=True,
            filter_by_prefix=by_prefix,
            include_caught_up=True,
        )
    ) as subscriber:
        subscriber.wait_caught_up()
        assert ids(subscriber.events) == wanted


def test_checkpoints_come_while_nothing_matches(client, here):
    append(client, fresh(), 200)
    with subscribed(
        client.subscribe_to_all(
            commit_position=here,
            filter_include=[fresh_word()],
            include_checkpoints=True,
            include_caught_up=True,
            window_size=10,
            checkpoint_interval_multiplier=2,
        )
    ) as subscriber:
        subscriber.wait_caught_up()
        caught_up = len(subscriber.checkpoints)
        assert caught_up >= 200 // 20, "one every 20 examined events while catching up"
        append(client, fresh(), 200)
        subscriber.wait(lambda: len(subscriber.checkpoints) >= caught_up + 5, "checkpoints while live")
        places = [c.commit_position for c in subscriber.checkpoints]
        assert places == sorted(set(places)), "checkpoints advance and are not repeated"
        assert places[0] > here
        assert subscriber.events == []
        assert all(c.recorded_at is not None for c in subscriber.checkpoints)


def test_resuming_at_a_checkpoint_misses_and_repeats_nothing(client, here):
    type, wanted = fresh_word(), []
    for n in range(30):
        append(client, fresh(), 7)
        new = event(type, {"n": n})
        client.append_event(fresh(), event=new, current_version=ANY)
        wanted.append(new.id)

    def subscription(after):
        return client.subscribe_to_all(
            commit_position=after,
            filter_include=[type],
            include_checkpoints=True,
            window_size=5,
            checkpoint_interval_multiplier=1,
        )

    got, after = [], here
    for _ in range(200):  # resume at the first checkpoint, over and over
        if len(got) == len(wanted):
            break
        with subscription(after) as reading:
            for item in reading:
                if item.is_checkpoint:
                    if item.commit_position > after:
                        after = item.commit_position
                        break
                else:
                    got.append(item.id)
                    after = item.commit_position
                    if len(got) == len(wanted):
                        break
    assert got == wanted


def test_links_are_resolved_in_a_subscription(client):
    target, links = make_live(client, 2), fresh()
    with subscribed(client.subscribe_to_stream(links, resolve_links=True)) as subscriber:
        client.append_event(
            links,
            event=event("$>", f"1@{target}".encode(), content_type="application/octet-stream"),
            current_version=NO_STREAM,
        )
        (got,) = subscriber.wait_events(1)
        assert (got.stream_name, got.stream_position, got.link.stream_name) == (target, 1, links)


def test_many_subscribers_see_the_same(client):
    stream = make_live(client, 20)
    subscribers = [client.subscribe_to_stream(stream) for _ in range(40)]
    try:
        append(client, stream, 20)
        for subscription in subscribers:
            assert [next(subscription).stream_position for _ in range(40)] == list(range(40))
    finally:
        for subscription in subscribers:
            subscription.stop()
