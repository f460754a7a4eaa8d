"""Stream names with `/`, `@`, spaces and letters beyond ASCII: in success and in every error.

Trailers are ASCII, so an error about such a stream is where a server gives itself away.
"""

from __future__ import annotations

import json
from uuid import uuid4

import pytest
from kurrentdbclient import NewEvents
from kurrentdbclient.events import NewRecord, StreamStateCheck
from kurrentdbclient.exceptions import (
    ConsistencyChecksFailedError,
    FailedPreconditionError,
    KurrentDBClientError,
    NotFoundError,
    StreamIsDeletedError,
    StreamTombstonedError,
    WrongCurrentVersionError,
)
from support import (
    ANY,
    EXISTS,
    MAX_REVISION,
    NO_STREAM,
    event,
    events,
    ids,
    make_live,
    make_soft_deleted,
    make_tombstoned,
    positions,
    subscribed,
)

NAMES = {
    "slashes": "orders/2026/07/{}",
    "at signs": "a@b@{}",
    "spaces": " two  spaces and a tail {} ",
    "umlauts": "größe-{}",
    "other alphabets": "заказ-注文-{}",
    "emoji": "🚀-{}",
    "percent and plus": "100%25+{}&x=y",
    "quotes and braces": "'\"`{{}}{}",
    "a dot": "a.b:c;d,{}",
    "a long name": "x" * 400 + "{}",
}


@pytest.fixture(params=NAMES.values(), ids=NAMES.keys())
def name(request) -> str:
    return request.param.format(uuid4().hex)


def test_the_name_works_for_appends_and_reads(client, name):
    batch = events(3)
    client.append_event(name, event=batch[0], current_version=NO_STREAM)
    client.append_events(name, events=batch[1:2], current_version=0)
    client.multi_append_to_stream(NewEvents(name, batch[2:], 1))
    for backwards in (False, True):
        stored = client.get_stream(name, backwards=backwards)
        assert {e.stream_name for e in stored} == {name}
        assert sorted(positions(stored)) == [0, 1, 2]
    new = event()
    answer = client.append_records(
        [NewRecord(name, new.type, new.data, id=new.id)], [StreamStateCheck(name, 2)]
    )
    assert [(s.stream_name, s.stream_position) for s in answer.stream_positions] == [(name, 3)]


def test_the_name_works_for_metadata_deletion_and_coming_back(client, name):
    make_live(client, 2, name)
    client.set_stream_metadata(name, metadata={"$maxCount": 1})
    assert client.get_stream_metadata(name) == ({"$maxCount": 1}, 0)
    assert positions(client.get_stream(name)) == [1]
    client.delete_stream(name, current_version=1)
    assert client.get_current_version(name) is NO_STREAM
    client.append_event(name, event=event(), current_version=ANY)
    assert positions(client.get_stream(name)) == [2]


def test_the_name_works_in_subscriptions_filters_links_and_categories(client, name, here):
    with subscribed(client.subscribe_to_stream(name)) as subscriber:
        make_live(client, 2, name)
        assert {e.stream_name for e in subscriber.wait_events(2)} == {name}
    seen = client.read_all(
        commit_position=here, filter_include=[name], filter_by_stream_name=True, filter_by_prefix=True
    )
    assert positions(seen) == [0, 1]
    client.append_event(
        f"{name}-links",
        event=event("$>", f"1@{name}".encode(), content_type="application/octet-stream"),
        current_version=ANY,
    )
    (resolved,) = client.get_stream(f"{name}-links", resolve_links=True)
    assert (resolved.stream_name, resolved.stream_position) == (name, 1)
    category = f"cat {name.replace('-', '_')}"  # one that nothing else is in
    new = event()
    client.append_event(f"{category}-1", event=new, current_version=ANY)
    assert ids(client.get_stream(f"$ce-{category}", resolve_links=True)) == [new.id]


def test_the_name_works_in_conflicts(client, name):
    make_live(client, 2, name)
    for append in (
        lambda: client.append_event(name, event=event(), current_version=7),
        lambda: client.append_events(name, events=events(1), current_version=7),
        lambda: client.multi_append_to_stream(NewEvents(name, events(1), 7)),
        lambda: client.delete_stream(name, current_version=7),
        lambda: client.tombstone_stream(name, current_version=7),
    ):
        with pytest.raises(WrongCurrentVersionError) as refused:
            append()
        assert refused.value.stream_name == name
        assert (refused.value.expected_version, refused.value.actual_version) == (7, 1)
    with pytest.raises(ConsistencyChecksFailedError) as violated:
        client.append_records([NewRecord(name, "T", b"{}")], [StreamStateCheck(name, 7)])
    assert violated.value.failures[0].stream_state_failure.stream_name == name


def test_the_name_works_in_errors_about_missing_streams(client, name):
    with pytest.raises(NotFoundError):
        client.get_stream(name)
    with pytest.raises(NotFoundError):
        client.delete_stream(name, current_version=ANY)
    with pytest.raises(NotFoundError):
        client.tombstone_stream(name, current_version=3)


def test_the_name_works_in_errors_about_soft_deleted_streams(client, name):
    make_soft_deleted(client, 2, name)
    with pytest.raises(NotFoundError):
        client.get_stream(name)
    with pytest.raises(FailedPreconditionError, match="is deleted"):
        client.append_event(name, event=event(), current_version=EXISTS)
    with pytest.raises(StreamIsDeletedError):
        client.append_events(name, events=events(1), current_version=EXISTS)
    with pytest.raises(KurrentDBClientError):
        client.multi_append_to_stream(NewEvents(name, events(1), EXISTS))
    with pytest.raises(StreamIsDeletedError):
        client.delete_stream(name, current_version=EXISTS)
    assert json.loads(client.get_stream(f"$${name}")[0].data) == {"$tb": MAX_REVISION}


def test_the_name_works_in_errors_about_tombstoned_streams(client, name):
    make_tombstoned(client, 2, name)
    with pytest.raises(StreamIsDeletedError, match="is deleted"):
        client.get_stream(name)
    with pytest.raises(FailedPreconditionError, match="is deleted"):
        client.append_event(name, event=event(), current_version=ANY)
    with pytest.raises(StreamIsDeletedError):
        client.append_events(name, events=events(1), current_version=ANY)
    with pytest.raises(StreamTombstonedError) as refused:
        client.multi_append_to_stream(NewEvents(name, events(1), ANY))
    assert refused.value.stream_name == name
    with pytest.raises(ConsistencyChecksFailedError) as violated:
        client.append_records([NewRecord(name, "T", b"{}")])
    assert violated.value.failures[0].stream_state_failure.stream_name == name
    for operation in (client.delete_stream, client.tombstone_stream):
        with pytest.raises(StreamIsDeletedError):
            operation(name, current_version=ANY)
    with pytest.raises(StreamIsDeletedError):
        client.get_stream_metadata(name)
    with pytest.raises(StreamIsDeletedError):
        with client.subscribe_to_stream(name) as subscription:
            next(subscription)


def test_names_that_differ_in_case_are_different_streams(client):
    word = uuid4().hex
    make_live(client, 1, f"Case-{word}")
    make_live(client, 2, f"case-{word}")
    assert len(client.get_stream(f"Case-{word}")) == 1
    assert len(client.get_stream(f"case-{word}")) == 2


@pytest.mark.parametrize("reserved", ["", "$$"])
def test_a_name_that_names_nothing_is_refused(client, reserved):
    with pytest.raises(KurrentDBClientError):
        client.append_event(reserved, event=event(), current_version=ANY)
    with pytest.raises(KurrentDBClientError):
        client.append_events(reserved, events=events(1), current_version=ANY)
