"""Counted reads of one stream: both directions, limits, every place to start."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

import pytest
from kurrentdbclient.exceptions import NotFoundError
from support import ANY, NO_STREAM, event, events, fresh, ids, make_live, positions

COUNT = 100  # several pages of 32


@pytest.fixture(scope="module")
def stream(client):
    return make_live(client, COUNT)


def test_a_stream_reads_forwards_from_the_start(client, stream):
    assert positions(client.get_stream(stream)) == list(range(COUNT))


def test_a_stream_reads_backwards_from_the_end(client, stream):
    assert positions(client.get_stream(stream, backwards=True)) == list(range(COUNT - 1, -1, -1))


@pytest.mark.parametrize("limit", [0, 1, 31, 32, 33, COUNT - 1, COUNT, COUNT + 1])
def test_a_limit_is_kept_in_both_directions(client, stream, limit):
    wanted = list(range(COUNT))
    assert positions(client.get_stream(stream, limit=limit)) == wanted[:limit]
    assert positions(client.get_stream(stream, limit=limit, backwards=True)) == wanted[::-1][:limit]


@pytest.mark.parametrize("start", [0, 1, 50, COUNT - 1])
def test_a_read_from_the_middle_includes_where_it_starts(client, stream, start):
    assert positions(client.get_stream(stream, stream_position=start)) == list(range(start, COUNT))
    assert positions(client.get_stream(stream, stream_position=start, backwards=True)) == list(range(start, -1, -1))
    assert positions(client.get_stream(stream, stream_position=start, limit=1)) == [start]


@pytest.mark.parametrize("start", [COUNT, COUNT + 1, COUNT + 1000])
def test_a_read_beyond_the_end_finds_nothing_forwards_and_everything_backwards(client, stream, start):
    assert client.get_stream(stream, stream_position=start) == ()
    assert positions(client.get_stream(stream, stream_position=start, backwards=True)) == list(
        range(COUNT - 1, -1, -1)
    )


@pytest.mark.parametrize("backwards", [False, True])
@pytest.mark.parametrize("start", [None, 0, 7])
def test_a_stream_that_never_existed_is_not_found(client, start, backwards):
    with pytest.raises(NotFoundError):
        client.get_stream(fresh(), stream_position=start, backwards=backwards)


def test_the_current_version_is_the_last_revision(client, stream):
    assert client.get_current_version(stream) == COUNT - 1
    assert client.get_current_version(fresh()) is NO_STREAM


def test_a_read_can_be_abandoned_midway(client, stream):
    with client.read_stream(stream) as reading:
        assert next(reading).stream_position == 0
    assert client.get_current_version(stream) == COUNT - 1  # the connection is none the worse


def test_an_event_comes_back_as_it_was_written(client):
    stream = fresh()
    before = datetime.now(timezone.utc) - timedelta(minutes=5)
    written = [
        event("Ordered", {"ä": "ö"}, metadata=b'{"by": "test"}'),
        event("Imaged", bytes(range(256)), metadata=b"\x00\x01", content_type="application/octet-stream"),
        event("Größe geändert", b"{}"),
        event("Empty", b"", metadata=b"", content_type="application/octet-stream"),
    ]
    client.append_events(stream, events=written, current_version=NO_STREAM)
    for got, sent in zip(client.get_stream(stream), written, strict=True):
        assert (got.id, got.type, got.data, got.metadata, got.content_type) == (
            sent.id,
            sent.type,
            sent.data,
            sent.metadata,
            sent.content_type,
        )
        assert got.stream_name == stream
        assert got.commit_position == got.prepare_position > 0
        assert before < got.recorded_at < datetime.now(timezone.utc) + timedelta(minutes=5)
        assert got.link is None


def test_time_and_position_never_go_back(client):
    stream = fresh()
    for _ in range(20):
        client.append_event(stream, event=event(), current_version=ANY)
    stored = client.get_stream(stream)
    assert [e.recorded_at for e in stored] == sorted(e.recorded_at for e in stored)
    found = [e.commit_position for e in stored]
    assert found == sorted(set(found))


def test_what_was_appended_is_read_at_once(client):
    # Reads of a leader are linearizable: no waiting, no retrying.
    stream = fresh()
    for revision in range(50):
        new = event()
        client.append_event(stream, event=new, current_version=ANY)
        last = client.get_stream(stream, backwards=True, limit=1)[0]
        assert (last.id, last.stream_position) == (new.id, revision)


def test_a_long_stream_reads_back_whole(client):
    stream, batches = fresh(), [events(500, start=n) for n in range(0, 5000, 500)]
    for batch in batches:
        client.append_events(stream, events=batch, current_version=ANY)
    wanted = [e.id for batch in batches for e in batch]
    assert ids(client.get_stream(stream)) == wanted
    assert ids(client.get_stream(stream, backwards=True)) == wanted[::-1]
