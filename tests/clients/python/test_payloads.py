"""Payloads of every kind: binary, empty, and as large as a message may be (1.0, 2.4)."""

from __future__ import annotations

import hashlib
import random

import pytest
from kurrentdbclient import NewEvents
from kurrentdbclient.exceptions import GrpcError, KurrentDBClientError
from support import ANY, MESSAGE_MAX, NO_STREAM, event, events, fresh, ids, make_live, subscribed

# What a message carries besides the data of one event: ids, type, content type,
# stream name, lengths. Rounded up, so that "just below" is below.
ENVELOPE = 1_000


def noise(size: int, seed: int = 7) -> bytes:
    return random.Random(seed).randbytes(size)


def binary(data: bytes, **kwargs):
    return event("Blob", data, content_type="application/octet-stream", **kwargs)


@pytest.mark.parametrize("way", ["append_event", "append_events", "multi_append_to_stream"])
def test_every_byte_value_survives(client, way):
    stream, new = fresh(), binary(bytes(range(256)) * 5)
    match way:
        case "append_event":
            client.append_event(stream, event=new, current_version=NO_STREAM)
        case "append_events":
            client.append_events(stream, events=[new], current_version=NO_STREAM)
        case _:
            client.multi_append_to_stream(NewEvents(stream, [new], NO_STREAM))
    (stored,) = client.get_stream(stream)
    assert (stored.data, stored.content_type) == (new.data, "application/octet-stream")


def test_json_bytes_are_not_rewritten(client):
    # Spacing, key order, duplicate keys, even invalid JSON: bytes are bytes.
    stream = fresh()
    written = [event("Odd", data) for data in (b'{ "b":1,\n"a" :2, "b":3 }', b"not json at all", b"", b"null")]
    client.append_events(stream, events=written, current_version=NO_STREAM)
    stored = client.get_stream(stream)
    assert [e.data for e in stored] == [e.data for e in written]
    assert {e.content_type for e in stored} == {"application/json"}


def test_empty_data_and_empty_metadata_stay_empty(client):
    stream = fresh()
    client.append_events(
        stream, events=[binary(b""), binary(b"", metadata=b"\x00"), event("E", b"")], current_version=NO_STREAM
    )
    assert [(e.data, e.metadata) for e in client.get_stream(stream)] == [(b"", b""), (b"", b"\x00"), (b"", b"")]


@pytest.mark.parametrize("way", ["append_event", "append_events"])
def test_an_event_just_below_the_message_limit_is_stored_and_read_back(client, way):
    stream, new = fresh(), binary(noise(MESSAGE_MAX - ENVELOPE))
    if way == "append_event":
        client.append_event(stream, event=new, current_version=NO_STREAM)
    else:
        client.append_events(stream, events=[new], current_version=NO_STREAM)
    (stored,) = client.get_stream(stream)
    assert hashlib.sha256(stored.data).digest() == hashlib.sha256(new.data).digest()
    with subscribed(client.subscribe_to_stream(stream)) as subscriber:
        (got,) = subscriber.wait_events(1, timeout=60)
        assert got.data == new.data


@pytest.mark.parametrize("way", ["append_event", "append_events"])
def test_an_event_above_the_message_limit_is_refused_and_the_connection_stays_usable(client, way):
    stream, new = fresh(), binary(noise(MESSAGE_MAX + 1))
    before = client.connection_id
    with pytest.raises(GrpcError, match="RESOURCE_EXHAUSTED"):
        if way == "append_event":
            client.append_event(stream, event=new, current_version=NO_STREAM)
        else:
            client.append_events(stream, events=[new], current_version=NO_STREAM)
    assert client.get_current_version(stream) is NO_STREAM
    small = event()
    client.append_event(stream, event=small, current_version=NO_STREAM)
    assert ids(client.get_stream(stream)) == [small.id]
    assert client.connection_id == before


def test_a_batch_above_the_message_limit_writes_nothing(client):
    stream = fresh()
    with pytest.raises(KurrentDBClientError):
        client.append_events(
            stream, events=[binary(noise(6_000_000, seed)) for seed in range(3)], current_version=NO_STREAM
        )
    assert client.get_current_version(stream) is NO_STREAM


def test_large_events_are_read_in_a_row_in_both_directions(client):
    stream = fresh()
    written = [binary(noise(3_000_000, seed)) for seed in range(6)]
    for new in written:
        client.append_event(stream, event=new, current_version=ANY)
    assert [e.data for e in client.get_stream(stream)] == [e.data for e in written]
    assert [e.data for e in client.get_stream(stream, backwards=True)] == [e.data for e in written][::-1]


def test_large_metadata_counts_and_survives(client):
    stream, metadata = fresh(), noise(1_000_000)
    client.append_event(stream, event=event("Meta", metadata=metadata), current_version=NO_STREAM)
    assert client.get_stream(stream)[0].metadata == metadata


def test_an_append_of_many_small_events_is_one_append(client):
    stream, batch = fresh(), events(10_000)
    client.append_events(stream, events=batch, current_version=NO_STREAM)
    assert ids(client.get_stream(stream)) == [e.id for e in batch]


def test_a_slow_reader_loses_nothing(client):
    # More than flow control lets through unread: the server has to wait, not drop.
    stream = make_live(client, 1)
    written = [binary(noise(1_000_000, seed)) for seed in range(20)]
    with client.subscribe_to_stream(stream, stream_position=0) as subscription:
        for new in written:
            client.append_event(stream, event=new, current_version=ANY)
        assert [next(subscription).id for _ in written] == [e.id for e in written]
