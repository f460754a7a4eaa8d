"""Soft delete, coming back, and the tombstone that nothing comes back from (2.7, 5.3)."""

from __future__ import annotations

import pytest
from kurrentdbclient.exceptions import (
    FailedPreconditionError,
    KurrentDBClientError,
    NotFoundError,
    StreamIsDeletedError,
    WrongCurrentVersionError,
)
from support import (
    ANY,
    EXISTS,
    MAX_REVISION,
    NO_STREAM,
    event,
    events,
    fresh,
    ids,
    make_live,
    make_soft_deleted,
    make_tombstoned,
    positions,
)

# --- soft delete ---------------------------------------------------------------------


@pytest.mark.parametrize("expected", [2, ANY, EXISTS], ids=["its last revision", "any state", "an existing stream"])
def test_a_live_stream_is_soft_deleted_expecting(client, expected):
    stream = make_live(client, 3)
    client.delete_stream(stream, current_version=expected)
    for backwards in (False, True):
        with pytest.raises(NotFoundError):
            client.get_stream(stream, backwards=backwards)
    assert client.get_current_version(stream) is NO_STREAM


@pytest.mark.parametrize("expected", [1, 5, NO_STREAM], ids=["an earlier revision", "a later revision", "no stream"])
@pytest.mark.parametrize("operation", ["delete_stream", "tombstone_stream"])
def test_a_wrong_expectation_deletes_nothing(client, operation, expected):
    stream = make_live(client, 3)
    with pytest.raises(WrongCurrentVersionError) as refused:
        getattr(client, operation)(stream, current_version=expected)
    assert refused.value.stream_name == stream
    assert (refused.value.expected_version, refused.value.actual_version) == (expected, 2)
    assert len(client.get_stream(stream)) == 3


@pytest.mark.parametrize("expected", [0, ANY, NO_STREAM, EXISTS])
def test_a_stream_that_never_existed_cannot_be_soft_deleted(client, expected):
    stream = fresh()
    with pytest.raises(NotFoundError):
        client.delete_stream(stream, current_version=expected)


def test_soft_deleting_twice_is_accepted_unless_the_stream_must_exist(client):
    stream = make_soft_deleted(client)
    client.delete_stream(stream, current_version=ANY)
    with pytest.raises(StreamIsDeletedError):
        client.delete_stream(stream, current_version=EXISTS)


@pytest.mark.parametrize("expected", [2, ANY, NO_STREAM], ids=["its last revision", "any state", "no stream"])
def test_a_soft_deleted_stream_comes_back_behind_its_old_end_expecting(client, expected):
    stream = make_soft_deleted(client, 3)
    new = events(2)
    client.append_events(stream, events=new, current_version=expected)
    stored = client.get_stream(stream)
    assert ids(stored) == [e.id for e in new]
    assert positions(stored) == [3, 4]
    assert positions(client.get_stream(stream, backwards=True)) == [4, 3]
    assert positions(client.get_stream(stream, stream_position=0, limit=1)) == [3]


def test_a_stream_is_deleted_and_comes_back_again_and_again(client):
    stream, first = fresh(), 0
    for _ in range(4):
        client.append_events(stream, events=events(2), current_version=ANY)
        assert positions(client.get_stream(stream)) == [first, first + 1]
        client.delete_stream(stream, current_version=first + 1)
        assert client.get_current_version(stream) is NO_STREAM
        first += 2


def test_all_still_shows_what_was_soft_deleted(client, here):
    stream = make_soft_deleted(client, 3)
    seen = client.read_all(commit_position=here, filter_include=[stream], filter_by_stream_name=True)
    assert positions(seen) == [0, 1, 2]


# --- tombstone ------------------------------------------------------------------------


@pytest.mark.parametrize("expected", [2, ANY, EXISTS], ids=["its last revision", "any state", "an existing stream"])
def test_a_live_stream_is_tombstoned_expecting(client, expected):
    stream = make_live(client, 3)
    client.tombstone_stream(stream, current_version=expected)
    for backwards in (False, True):
        with pytest.raises(StreamIsDeletedError):
            client.get_stream(stream, backwards=backwards)


@pytest.mark.parametrize("expected", [ANY, NO_STREAM], ids=["any state", "no stream"])
def test_a_stream_that_never_existed_can_be_tombstoned_expecting(client, expected):
    stream = fresh()
    client.tombstone_stream(stream, current_version=expected)
    with pytest.raises(StreamIsDeletedError):
        client.get_stream(stream)


@pytest.mark.parametrize("expected", [0, EXISTS], ids=["a revision", "an existing stream"])
def test_a_stream_that_never_existed_cannot_be_tombstoned_expecting(client, expected):
    with pytest.raises(NotFoundError):
        client.tombstone_stream(fresh(), current_version=expected)


def test_a_soft_deleted_stream_can_be_tombstoned(client):
    stream = make_soft_deleted(client)
    client.tombstone_stream(stream, current_version=ANY)
    with pytest.raises(StreamIsDeletedError):
        client.get_stream(stream)


@pytest.mark.parametrize("expected", [2, ANY, NO_STREAM, EXISTS])
def test_a_tombstone_refuses_every_further_deletion(client, expected):
    stream = make_tombstoned(client)
    with pytest.raises(StreamIsDeletedError):
        client.delete_stream(stream, current_version=expected)
    with pytest.raises(StreamIsDeletedError):
        client.tombstone_stream(stream, current_version=expected)


def test_a_tombstone_closes_the_metadata_too(client):
    stream = make_tombstoned(client)
    with pytest.raises(StreamIsDeletedError):
        client.get_stream_metadata(stream)
    with pytest.raises(FailedPreconditionError, match="is deleted"):
        client.set_stream_metadata(stream, metadata={"too": "late"})


def test_the_tombstone_is_an_event_in_all(client, here):
    stream = make_tombstoned(client, 2)
    seen = list(
        client.read_all(
            commit_position=here, filter_exclude=(), filter_include=[stream], filter_by_stream_name=True
        )
    )
    assert [e.type for e in seen] == ["Happened", "Happened", "$streamDeleted"]
    assert seen[-1].stream_position == MAX_REVISION
    assert seen[-1].data == b""


def test_a_metadata_stream_cannot_be_deleted(client):
    stream = make_live(client)
    client.set_stream_metadata(stream, metadata={"kept": True})
    for operation in (client.delete_stream, client.tombstone_stream):
        with pytest.raises(KurrentDBClientError):
            operation(f"$${stream}", current_version=ANY)
    assert client.get_stream_metadata(stream)[0] == {"kept": True}


def test_all_cannot_be_written(client):
    with pytest.raises(KurrentDBClientError):
        client.append_event("$all", event=event(), current_version=ANY)
