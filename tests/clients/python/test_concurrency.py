"""Many writers at once: dense revisions, nothing lost, nothing twice."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from uuid import UUID

import pytest
from kurrentdbclient import KurrentDBClient, NewEvents
from kurrentdbclient.exceptions import WrongCurrentVersionError
from support import ANY, NO_STREAM, event, events, fresh, ids, positions, subscribed

WRITERS = 16


@pytest.fixture
def clients(url):
    """One connection each: writers must not be serialised by sharing one."""
    opened = [KurrentDBClient(url) for _ in range(WRITERS)]
    yield opened
    for c in opened:
        c.close()


def together(writers):
    """Runs the writers at the same moment and raises what any of them raised."""
    start = threading.Barrier(len(writers))

    def run(writer):
        start.wait()
        return writer()

    with ThreadPoolExecutor(len(writers)) as pool:
        return list(pool.map(run, writers))


def test_sixteen_writers_with_exact_expectations_leave_a_dense_stream(client, clients):
    stream, each = fresh(), 6

    def writer(c) -> list[UUID]:
        written, expected = [], NO_STREAM
        while len(written) < each:
            new = event()
            try:
                c.append_event(stream, event=new, current_version=expected)
            except WrongCurrentVersionError as e:
                expected = e.actual_version  # somebody was faster: try behind them
            else:
                written.append(new.id)
                expected = 0 if expected is NO_STREAM else expected + 1
        return written

    with subscribed(client.subscribe_to_stream(stream)) as subscriber:
        written = together([lambda c=c: writer(c) for c in clients])
        stored = client.get_stream(stream)
        assert positions(stored) == list(range(WRITERS * each))
        assert sorted(ids(stored)) == sorted(id for by_one in written for id in by_one)
        for by_one in written:
            assert [id for id in ids(stored) if id in set(by_one)] == by_one, "each writer's order holds"
        assert ids(subscriber.wait_events(len(stored))) == ids(stored)


def test_of_sixteen_writers_of_one_revision_exactly_one_wins(client, clients):
    stream = fresh()
    client.append_event(stream, event=event(), current_version=NO_STREAM)

    def writer(c):
        try:
            c.append_events(stream, events=events(3), current_version=0)
        except WrongCurrentVersionError as e:
            assert e.actual_version == 3
            return False
        return True

    assert together([lambda c=c: writer(c) for c in clients]).count(True) == 1
    assert positions(client.get_stream(stream)) == [0, 1, 2, 3]


def test_sixteen_writers_without_expectations_lose_nothing(client, clients, here):
    stream, each = fresh(), 20

    def writer(c):
        written = []
        for _ in range(each):
            batch = events(2)
            c.append_events(stream, events=batch, current_version=ANY)
            written.append([e.id for e in batch])
        return written

    batches = [batch for by_one in together([lambda c=c: writer(c) for c in clients]) for batch in by_one]
    stored = client.get_stream(stream)
    assert positions(stored) == list(range(WRITERS * each * 2))
    place = {id: n for n, id in enumerate(ids(stored))}
    assert all(place[second] == place[first] + 1 for first, second in batches), "an append is contiguous"
    in_all = client.read_all(commit_position=here, filter_include=[stream], filter_by_stream_name=True)
    assert ids(in_all) == ids(stored), "$all and the stream agree on the order"


def test_writers_over_two_streams_never_leave_them_uneven(client, clients):
    one, two = fresh(), fresh()

    def writer(c):
        done = 0
        while done < 4:
            have = c.get_current_version(one)
            try:
                c.multi_append_to_stream([NewEvents(one, events(1), have), NewEvents(two, events(1), have)])
                done += 1
            except WrongCurrentVersionError:
                pass

    together([lambda c=c: writer(c) for c in clients])
    assert positions(client.get_stream(one)) == positions(client.get_stream(two)) == list(range(WRITERS * 4))
