"""Every expected state against every state of a stream, through all four ways to append.

The table is the contract's own (2.1). Each cell says what must come back and, when
the append is accepted, at which revision the event must stand afterwards: a refusal
that wrote something would be worse than a wrong message.
"""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from kurrentdbclient import NewEvents
from kurrentdbclient.events import NewRecord, StreamStateCheck
from kurrentdbclient.exceptions import (
    ConsistencyChecksFailedError,
    FailedPreconditionError,
    KurrentDBClientError,
    StreamIsDeletedError,
    StreamTombstonedError,
    WrongCurrentVersionError,
)
from support import (
    ANY,
    EXISTS,
    NO_STREAM,
    append_raw_records,
    event,
    fresh,
    ids,
    make_live,
    make_metadata_only,
    make_soft_deleted,
    make_tombstoned,
)

LAST = 2  # the last revision of every stream that has or had events

STATES = {
    "a stream that never existed": lambda c: fresh(),
    "a stream with metadata only": make_metadata_only,
    "a live stream": lambda c: make_live(c, LAST + 1),
    "a soft-deleted stream": lambda c: make_soft_deleted(c, LAST + 1),
    "a tombstoned stream": lambda c: make_tombstoned(c, LAST + 1),
}

EXPECTED = {
    "its last revision": LAST,
    "an earlier revision": LAST - 1,
    "a later revision": LAST + 7,
    "no stream": NO_STREAM,
    "any state": ANY,
    "an existing stream": EXISTS,
}


@dataclass(frozen=True)
class Written:
    revision: int


@dataclass(frozen=True)
class Conflict:
    actual: object


@dataclass(frozen=True)
class Deleted:
    """Refused because the stream is deleted; v2 records say so with this actual state."""

    actual: int


TABLE = {
    "a stream that never existed": {
        "its last revision": Conflict(NO_STREAM),
        "an earlier revision": Conflict(NO_STREAM),
        "a later revision": Conflict(NO_STREAM),
        "no stream": Written(0),
        "any state": Written(0),
        "an existing stream": Conflict(NO_STREAM),
    },
    "a stream with metadata only": {
        "its last revision": Conflict(NO_STREAM),
        "an earlier revision": Conflict(NO_STREAM),
        "a later revision": Conflict(NO_STREAM),
        "no stream": Written(0),
        "any state": Written(0),
        "an existing stream": Written(0),
    },
    "a live stream": {
        "its last revision": Written(LAST + 1),
        "an earlier revision": Conflict(LAST),
        "a later revision": Conflict(LAST),
        "no stream": Conflict(LAST),
        "any state": Written(LAST + 1),
        "an existing stream": Written(LAST + 1),
    },
    "a soft-deleted stream": {
        "its last revision": Written(LAST + 1),
        "an earlier revision": Conflict(LAST),
        "a later revision": Conflict(LAST),
        "no stream": Written(LAST + 1),
        "any state": Written(LAST + 1),
        "an existing stream": Deleted(-5),
    },
    "a tombstoned stream": {name: Deleted(-6) for name in EXPECTED},
}


def append_one(client, stream, new, expected):
    client.append_event(stream, event=new, current_version=expected)


def append_batch(client, stream, new, expected):
    client.append_events(stream, events=[new], current_version=expected)


def append_session(client, stream, new, expected):
    client.multi_append_to_stream(NewEvents(stream, [new], expected))


def append_records(client, stream, new, expected):
    # "Any" is not a check in AppendRecords: it is the absence of one.
    checks = None if expected is ANY else [StreamStateCheck(stream, expected)]
    record = NewRecord(stream_name=stream, type=new.type, data=new.data, id=new.id)
    client.append_records([record], checks)


WAYS = {
    "Append": append_one,
    "BatchAppend": append_batch,
    "AppendSession": append_session,
    "AppendRecords": append_records,
}

CELLS = [
    pytest.param(way, state, expected, id=f"{way} to {state} expecting {expected}")
    for way in WAYS
    for state in STATES
    for expected in EXPECTED
]


@pytest.mark.parametrize("way, state, expected", CELLS)
def test_the_outcome_is_what_the_table_says(client, way, state, expected):
    stream = STATES[state](client)
    new = event("Decided", {"way": way})
    wanted = TABLE[state][expected]

    def append():
        WAYS[way](client, stream, new, EXPECTED[expected])

    match wanted:
        case Written(revision):
            append()
            last = client.get_stream(stream, backwards=True, limit=1)[0]
            assert (last.id, last.stream_position) == (new.id, revision)
        case Conflict(actual) if way == "AppendRecords":
            with pytest.raises(ConsistencyChecksFailedError) as refused:
                append()
            (failure,) = refused.value.failures
            assert failure.check_index == 0
            assert failure.stream_state_failure.stream_name == stream
            assert failure.stream_state_failure.actual_state == (-1 if actual is NO_STREAM else actual)
            assert failure.stream_state_failure.expected_state == wire(EXPECTED[expected])
            assert_untouched(client, stream, state, new)
        case Conflict(actual):
            with pytest.raises(WrongCurrentVersionError) as refused:
                append()
            assert refused.value.stream_name == stream
            assert refused.value.actual_version == actual
            assert refused.value.expected_version == EXPECTED[expected]
            assert_untouched(client, stream, state, new)
        case Deleted(actual):
            assert_refused_as_deleted(append, way, state, stream, actual)
            assert_untouched(client, stream, state, new)


def wire(expected) -> int:
    return {NO_STREAM: -1, ANY: -2, EXISTS: -4}.get(expected, expected)


def assert_refused_as_deleted(append, way, state, stream, actual):
    if way == "Append":
        # The client maps this status by its text only in reads and deletes.
        with pytest.raises(FailedPreconditionError, match="is deleted"):
            append()
    elif way == "BatchAppend":
        with pytest.raises(StreamIsDeletedError):
            append()
    elif way == "AppendSession" and state == "a tombstoned stream":
        with pytest.raises(StreamTombstonedError) as refused:
            append()
        assert refused.value.stream_name == stream
    elif way == "AppendSession":
        # "Deleted" and "tombstoned" are both honest for a soft-deleted stream (2.9).
        with pytest.raises(KurrentDBClientError) as refused:
            append()
        assert not isinstance(refused.value, WrongCurrentVersionError)
    else:
        with pytest.raises(ConsistencyChecksFailedError) as refused:
            append()
        (failure,) = refused.value.failures
        assert failure.stream_state_failure.stream_name == stream
        assert failure.stream_state_failure.actual_state == actual


def assert_untouched(client, stream, state, new):
    """A refusal means: not applied."""
    match state:
        case "a live stream":
            stored = client.get_stream(stream)
            assert len(stored) == LAST + 1 and new.id not in ids(stored)
        case "a tombstoned stream":
            with pytest.raises(StreamIsDeletedError):
                client.get_stream(stream)
        case _:
            assert client.get_current_version(stream) is NO_STREAM


# --- states only v2 can expect ---------------------------------------------------

SOFT_DELETED, TOMBSTONED = -5, -6

V2_TABLE = {
    # state: (when -5 is expected, when -6 is expected); None means accepted
    "a stream that never existed": (-1, -1),
    "a live stream": (LAST, LAST),
    "a soft-deleted stream": (None, LAST),
    "a tombstoned stream": (-6, -6),
}


@pytest.mark.parametrize("expected", [SOFT_DELETED, TOMBSTONED], ids=["soft-deleted", "tombstoned"])
@pytest.mark.parametrize("state", V2_TABLE)
def test_records_may_expect_a_deleted_stream(client, state, expected):
    stream = STATES[state](client)
    new = event("Revived")
    actual = V2_TABLE[state][0 if expected == SOFT_DELETED else 1]
    if actual is None:
        answer = append_raw_records(client, [(stream, new)], [(stream, expected)])
        assert [(r.stream, r.revision) for r in answer.revisions] == [(stream, LAST + 1)]
        assert ids(client.get_stream(stream)) == [new.id]
    else:
        with pytest.raises(ConsistencyChecksFailedError) as refused:
            append_raw_records(client, [(stream, new)], [(stream, expected)])
        (failure,) = refused.value.failures
        assert failure.stream_state_failure.actual_state == actual
        assert_untouched(client, stream, state, new)


# What a check says about a stream that the request does not write to:
# True where it must hold, otherwise the actual state that must be reported.
CHECK_ONLY = {
    "a stream that never existed": {LAST: -1, -1: True, -4: -1, -5: -1, -6: -1},
    "a live stream": {LAST: True, LAST - 1: LAST, -1: LAST, -4: True, -5: LAST, -6: LAST},
    "a soft-deleted stream": {LAST: True, LAST - 1: LAST, -1: True, -4: -5, -5: True, -6: LAST},
    "a tombstoned stream": {LAST: -6, -1: True, -4: -6, -5: -6, -6: True},
}


@pytest.mark.parametrize(
    "state, expected",
    [
        pytest.param(state, expected, id=f"{state} checked for {expected}")
        for state, row in CHECK_ONLY.items()
        for expected in row
    ],
)
def test_a_stream_that_is_only_checked_decides_over_the_written_one(client, state, expected):
    checked, written = STATES[state](client), fresh()
    new = event("Guarded")
    actual = CHECK_ONLY[state][expected]
    if actual is True:
        answer = append_raw_records(client, [(written, new)], [(checked, expected)])
        assert [(r.stream, r.revision) for r in answer.revisions] == [(written, 0)]
        assert ids(client.get_stream(written)) == [new.id]
    else:
        with pytest.raises(ConsistencyChecksFailedError) as refused:
            append_raw_records(client, [(written, new)], [(checked, expected)])
        (failure,) = refused.value.failures
        assert failure.check_index == 0
        assert failure.stream_state_failure.stream_name == checked
        assert failure.stream_state_failure.actual_state == actual
        assert client.get_current_version(written) is NO_STREAM


# --- appends of no events ----------------------------------------------------------


def test_an_append_of_no_events_is_accepted_and_writes_nothing(client):
    missing, live = fresh(), make_live(client, 2)
    client.append_events(missing, events=[], current_version=ANY)
    client.append_events(missing, events=[], current_version=NO_STREAM)
    client.append_events(live, events=[], current_version=1)
    client.append_events(live, events=[], current_version=EXISTS)
    assert client.get_current_version(missing) is NO_STREAM
    assert len(client.get_stream(live)) == 2


def test_an_append_of_no_events_still_checks_the_expectation(client):
    missing, live = fresh(), make_live(client, 2)
    for stream, expected, actual in [(missing, EXISTS, NO_STREAM), (missing, 0, NO_STREAM), (live, 5, 1)]:
        with pytest.raises(WrongCurrentVersionError) as refused:
            client.append_events(stream, events=[], current_version=expected)
        assert refused.value.actual_version == actual


def test_an_append_of_no_events_undeletes_a_soft_deleted_stream(client):
    stream = make_soft_deleted(client, 3)
    client.append_events(stream, events=[], current_version=ANY)
    assert client.get_stream(stream) == ()  # it exists again, and is empty


def test_a_multi_event_append_is_all_or_nothing(client):
    stream = make_live(client, 1)
    batch = [event("Part", {"n": n}) for n in range(20)]
    with pytest.raises(WrongCurrentVersionError):
        client.append_events(stream, events=batch, current_version=4)
    assert len(client.get_stream(stream)) == 1
    client.append_events(stream, events=batch, current_version=0)
    stored = client.get_stream(stream)
    assert ids(stored)[1:] == [e.id for e in batch]
    assert [e.stream_position for e in stored] == list(range(21))
    written = [e.commit_position for e in stored[1:]]
    assert written == sorted(set(written)), "positions inside one append are distinct and increasing"


def test_the_answer_is_the_position_of_the_last_event(client):
    stream = fresh()
    batch = [event(), event(), event()]
    answered = client.append_events(stream, events=batch, current_version=NO_STREAM)
    last = client.get_stream(stream, backwards=True, limit=1)[0]
    assert answered == last.commit_position == last.prepare_position
