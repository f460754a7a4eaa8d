"""One append over several streams: entirely or not at all (v2, 2.9)."""

from __future__ import annotations

import json

import pytest
from kurrentdbclient import NewEvents
from kurrentdbclient.events import NewRecord, StreamStateCheck
from kurrentdbclient.exceptions import (
    ConsistencyChecksFailedError,
    KurrentDBClientError,
    MultiAppendToSameStreamError,
    StreamTombstonedError,
    WrongCurrentVersionError,
)
from support import (
    ANY,
    EXISTS,
    NO_STREAM,
    event,
    events,
    fresh,
    fresh_word,
    ids,
    make_live,
    make_tombstoned,
)


def record(stream, **kwargs):
    new = event(**kwargs)
    return NewRecord(
        stream_name=stream,
        type=new.type,
        data=new.data,
        metadata=new.metadata,
        content_type=new.content_type,
        id=new.id,
    )


def test_a_session_writes_every_stream(client):
    one, two, three = fresh(), make_live(client, 2), fresh()
    batches = [NewEvents(one, events(2), NO_STREAM), NewEvents(two, events(1), 1), NewEvents(three, events(3), ANY)]
    position = client.multi_append_to_stream(batches)
    assert ids(client.get_stream(one)) == [e.id for e in batches[0].events]
    assert ids(client.get_stream(two))[2:] == [e.id for e in batches[1].events]
    stored = client.get_stream(three)
    assert ids(stored) == [e.id for e in batches[2].events]
    assert position == stored[-1].commit_position, "the answer is the position of the last record"


def test_a_session_with_one_conflict_writes_nothing(client):
    one, two = fresh(), make_live(client, 2)
    with pytest.raises(WrongCurrentVersionError) as refused:
        client.multi_append_to_stream([NewEvents(one, events(2), NO_STREAM), NewEvents(two, events(1), 0)])
    assert (refused.value.stream_name, refused.value.expected_version, refused.value.actual_version) == (two, 0, 1)
    assert client.get_current_version(one) is NO_STREAM
    assert len(client.get_stream(two)) == 2


def test_a_session_with_a_tombstoned_stream_writes_nothing(client):
    one, dead = fresh(), make_tombstoned(client)
    with pytest.raises(StreamTombstonedError) as refused:
        client.multi_append_to_stream([NewEvents(one, events(1), ANY), NewEvents(dead, events(1), ANY)])
    assert refused.value.stream_name == dead
    assert client.get_current_version(one) is NO_STREAM


def test_a_session_naming_a_stream_twice_is_refused(client):
    stream = fresh()
    with pytest.raises(MultiAppendToSameStreamError) as refused:
        client.multi_append_to_stream([NewEvents(stream, events(1), ANY), NewEvents(stream, events(1), ANY)])
    assert refused.value.stream_name == stream
    assert client.get_current_version(stream) is NO_STREAM


def test_a_session_without_requests_or_without_records_is_refused(client):
    with pytest.raises(KurrentDBClientError):
        client.multi_append_to_stream([])
    stream = fresh()
    with pytest.raises(KurrentDBClientError):
        client.multi_append_to_stream(NewEvents(stream, [], ANY))
    assert client.get_current_version(stream) is NO_STREAM


def test_records_keep_the_order_of_the_request_over_streams(client, here):
    one, two = fresh(), fresh()
    request = [record(one), record(two), record(one), record(two), record(one)]
    answer = client.append_records(request)
    assert [(s.stream_name, s.stream_position) for s in answer.stream_positions] == [(one, 2), (two, 1)]
    written = [
        e
        for e in client.read_all(commit_position=here, filter_include=[f"{one}|{two}"], filter_by_stream_name=True)
        if e.stream_name in (one, two)
    ]
    assert ids(written) == [r.id for r in request]
    assert answer.commit_position == written[-1].commit_position


def test_records_are_refused_when_any_check_fails_and_all_failures_are_told(client):
    written, live, missing = fresh(), make_live(client, 2), fresh()
    checks = [
        StreamStateCheck(written, NO_STREAM),  # holds
        StreamStateCheck(live, 0),  # fails: it is at 1
        StreamStateCheck(missing, EXISTS),  # fails: it is not
    ]
    with pytest.raises(ConsistencyChecksFailedError) as refused:
        client.append_records([record(written)], checks)
    told = {
        (f.check_index, f.stream_state_failure.stream_name, f.stream_state_failure.expected_state,
         f.stream_state_failure.actual_state)
        for f in refused.value.failures
    }
    assert told == {(1, live, 0, 1), (2, missing, -4, -1)}
    assert client.get_current_version(written) is NO_STREAM


def test_records_of_a_tombstoned_stream_without_a_check_point_behind_the_checks(client):
    # The index continues after the checks, over written streams that had none.
    other, dead = fresh(), make_tombstoned(client)
    with pytest.raises(ConsistencyChecksFailedError) as refused:
        client.append_records([record(other), record(dead)], [StreamStateCheck(other, NO_STREAM)])
    (failure,) = refused.value.failures
    assert failure.check_index == 1
    assert failure.stream_state_failure.stream_name == dead
    assert failure.stream_state_failure.actual_state == -6
    assert client.get_current_version(other) is NO_STREAM


def test_records_checking_a_stream_twice_or_for_any_state_are_refused(client):
    stream = fresh()
    for checks in (
        [StreamStateCheck(stream, NO_STREAM), StreamStateCheck(stream, NO_STREAM)],
        [StreamStateCheck(stream, ANY)],
    ):
        with pytest.raises(KurrentDBClientError) as refused:
            client.append_records([record(stream)], checks)
        assert not isinstance(refused.value, ConsistencyChecksFailedError)
    assert client.get_current_version(stream) is NO_STREAM


def test_no_records_at_all_are_refused(client):
    with pytest.raises(KurrentDBClientError):
        client.append_records([], [StreamStateCheck(fresh(), NO_STREAM)])


def test_properties_of_a_record_are_read_back_as_json_metadata(client):
    stream = fresh()
    type = fresh_word()
    client.append_records(
        [
            record(stream, type=type, data={"a": 1}, metadata=json.dumps({"who": "é", "n": "1"}).encode()),
            record(stream, type=type, data=b"\x00\xff", content_type="application/octet-stream"),
        ]
    )
    as_json, as_bytes = client.get_stream(stream)
    assert (as_json.type, as_json.content_type, as_json.data) == (type, "application/json", b'{"a": 1}')
    assert json.loads(as_json.metadata) == {
        "who": "é",
        "n": "1",
        "$schema.name": type,
        "$schema.format": "Json",
    }
    assert (as_bytes.content_type, as_bytes.data) == ("application/octet-stream", b"\x00\xff")
    assert json.loads(as_bytes.metadata) == {"$schema.name": type, "$schema.format": "Bytes"}


def test_a_type_with_a_forbidden_character_is_refused(client):
    stream = fresh()
    with pytest.raises(KurrentDBClientError):
        client.append_records([record(stream, type="has a space")])
    assert client.get_current_version(stream) is NO_STREAM
