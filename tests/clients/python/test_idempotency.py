"""The same event ids again: answered as the first time, never written twice.

Two regimes (2.2). Under an exact expectation the ids are compared with what stands
at those revisions, for ever. Under "any" or "exists" the server remembers recent ids.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
from kurrentdbclient import KurrentDBClient, NewEvents
from kurrentdbclient.events import NewRecord, StreamStateCheck
from kurrentdbclient.exceptions import ConsistencyChecksFailedError, WrongCurrentVersionError
from support import ANY, EXISTS, NO_STREAM, event, events, fresh, ids, make_live

# --- weak: any, exists ------------------------------------------------------------


@pytest.mark.parametrize("expected", [ANY, EXISTS], ids=["any state", "an existing stream"])
@pytest.mark.parametrize("count", [1, 4])
def test_a_retry_is_answered_as_the_first_time(client, expected, count):
    stream = make_live(client, 2)
    batch = events(count)
    first = client.append_events(stream, events=batch, current_version=expected)
    client.append_events(stream, events=events(3), current_version=ANY)  # the world moves on
    assert client.append_events(stream, events=batch, current_version=expected) == first
    assert ids(client.get_stream(stream)).count(batch[0].id) == 1
    assert len(client.get_stream(stream)) == 2 + count + 3


def test_a_retry_over_the_other_rpc_is_recognised(client):
    stream, new = fresh(), event()
    first = client.append_event(stream, event=new, current_version=ANY)  # Append
    assert client.append_events(stream, events=[new], current_version=ANY) == first  # BatchAppend
    assert client.multi_append_to_stream(NewEvents(stream, [new], ANY)) == first  # AppendSession
    assert len(client.get_stream(stream)) == 1


def test_a_retry_from_another_connection_is_recognised(client, url):
    stream, new = fresh(), event()
    first = client.append_event(stream, event=new, current_version=ANY)
    with KurrentDBClient(url) as other:
        assert other.append_event(stream, event=new, current_version=ANY) == first
    assert len(client.get_stream(stream)) == 1


def test_known_ids_followed_by_unknown_ones_are_refused_as_partly_written(client):
    stream, batch = fresh(), events(2)
    client.append_events(stream, events=batch, current_version=ANY)
    with pytest.raises(WrongCurrentVersionError):
        client.append_events(stream, events=[*batch, event()], current_version=ANY)
    assert ids(client.get_stream(stream)) == [e.id for e in batch]


def test_an_unknown_id_in_front_makes_it_a_new_append(client):
    stream, known, new = fresh(), event(), event()
    client.append_event(stream, event=known, current_version=ANY)
    client.append_events(stream, events=[new, known], current_version=ANY)
    assert ids(client.get_stream(stream)) == [known.id, new.id, known.id]


def test_the_same_id_on_another_stream_is_another_event(client):
    new, one, two = event(), fresh(), fresh()
    client.append_event(one, event=new, current_version=ANY)
    client.append_event(two, event=new, current_version=ANY)
    assert ids(client.get_stream(one)) == ids(client.get_stream(two)) == [new.id]


def test_the_id_decides_and_not_the_content(client):
    stream, new = fresh(), event("First", {"said": "first"})
    client.append_event(stream, event=new, current_version=ANY)
    client.append_event(stream, event=event("Second", {"said": "second"}, id=new.id), current_version=ANY)
    (stored,) = client.get_stream(stream)
    assert (stored.type, stored.data) == (new.type, new.data)


def test_many_retries_at_once_write_one_event(client):
    stream, new = fresh(), event()
    with ThreadPoolExecutor(16) as pool:
        answers = list(
            pool.map(lambda _: client.append_event(stream, event=new, current_version=ANY), range(48))
        )
    assert len(set(answers)) == 1
    assert ids(client.get_stream(stream)) == [new.id]


# --- strong: exact revision, no stream --------------------------------------------------


@pytest.mark.parametrize("count", [1, 4])
def test_a_retry_expecting_no_stream_is_answered_as_the_first_time(client, count):
    stream, batch = fresh(), events(count)
    first = client.append_events(stream, events=batch, current_version=NO_STREAM)
    client.append_events(stream, events=events(3), current_version=ANY)
    assert client.append_events(stream, events=batch, current_version=NO_STREAM) == first
    assert len(client.get_stream(stream)) == count + 3


@pytest.mark.parametrize("count", [1, 4])
def test_a_retry_expecting_a_revision_is_answered_as_the_first_time(client, count):
    stream, batch = make_live(client, 3), events(count)
    first = client.append_events(stream, events=batch, current_version=2)
    assert client.append_events(stream, events=batch, current_version=2) == first
    client.append_events(stream, events=events(2), current_version=ANY)
    assert client.append_events(stream, events=batch, current_version=2) == first
    assert len(client.get_stream(stream)) == 3 + count + 2


def test_a_retry_of_the_beginning_of_an_append_finds_its_own_last_event(client):
    stream, batch = fresh(), events(5)
    client.append_events(stream, events=batch, current_version=NO_STREAM)
    stored = client.get_stream(stream)
    answered = client.append_events(stream, events=batch[:2], current_version=NO_STREAM)
    assert answered == stored[1].commit_position
    answered = client.append_events(stream, events=batch[2:4], current_version=1)
    assert answered == stored[3].commit_position
    assert len(client.get_stream(stream)) == 5


@pytest.mark.parametrize(
    "first_known, rest",
    [(2, "new"), (5, "new"), (0, "known")],
    ids=["known ids then new ones", "more ids than were written", "new ids then known ones"],
)
def test_a_partial_overlap_is_refused(client, first_known, rest):
    stream, batch = fresh(), events(5)
    client.append_events(stream, events=batch, current_version=NO_STREAM)
    request = [*batch[:first_known], event()] + (batch[1:] if rest == "known" else [])
    with pytest.raises(WrongCurrentVersionError) as refused:
        client.append_events(stream, events=request, current_version=NO_STREAM)
    assert refused.value.actual_version == 4
    assert ids(client.get_stream(stream)) == [e.id for e in batch]


def test_known_ids_at_another_place_are_refused(client):
    stream, batch = fresh(), events(4)
    client.append_events(stream, events=batch, current_version=NO_STREAM)
    with pytest.raises(WrongCurrentVersionError):
        client.append_events(stream, events=batch[1:2], current_version=1)
    assert len(client.get_stream(stream)) == 4


def test_known_ids_at_the_end_of_the_stream_are_a_new_append(client):
    # Expected equals the last revision: nothing stands behind it to compare with.
    stream, batch = fresh(), events(2)
    client.append_events(stream, events=batch, current_version=NO_STREAM)
    client.append_events(stream, events=batch, current_version=1)
    assert len(client.get_stream(stream)) == 4


# --- several streams ------------------------------------------------------------------


def record(stream, new=None):
    new = new or event()
    return NewRecord(stream_name=stream, type=new.type, data=new.data, id=new.id)


def test_a_session_written_before_is_answered_as_the_first_time(client):
    one, two = fresh(), fresh()
    request = [NewEvents(one, events(2), NO_STREAM), NewEvents(two, events(3), ANY)]
    first = client.multi_append_to_stream(request)
    client.append_event(one, event=event(), current_version=ANY)
    assert client.multi_append_to_stream(request) == first
    assert (len(client.get_stream(one)), len(client.get_stream(two))) == (3, 3)


def test_a_session_half_of_which_was_written_is_refused(client):
    one, two = fresh(), fresh()
    known = events(2)
    client.append_events(one, events=known, current_version=NO_STREAM)
    with pytest.raises(WrongCurrentVersionError):
        client.multi_append_to_stream([NewEvents(one, known, NO_STREAM), NewEvents(two, events(1), NO_STREAM)])
    assert client.get_current_version(two) is NO_STREAM
    assert len(client.get_stream(one)) == 2


def test_records_written_before_are_answered_as_the_first_time(client):
    one, two = fresh(), fresh()
    request = [record(one), record(two), record(one)]
    checks = [StreamStateCheck(one, NO_STREAM), StreamStateCheck(two, NO_STREAM)]
    first = client.append_records(request, checks)
    again = client.append_records(request, checks)
    assert again == first
    assert [(s.stream_name, s.stream_position) for s in first.stream_positions] == [(one, 1), (two, 0)]
    assert (len(client.get_stream(one)), len(client.get_stream(two))) == (2, 1)


def test_records_written_before_succeed_even_if_a_checked_stream_has_moved_on(client):
    written, checked = fresh(), make_live(client, 1)
    request, checks = [record(written)], [StreamStateCheck(written, NO_STREAM), StreamStateCheck(checked, 0)]
    first = client.append_records(request, checks)
    client.append_event(checked, event=event(), current_version=ANY)
    assert client.append_records(request, checks) == first
    assert len(client.get_stream(written)) == 1


def test_new_and_known_records_together_are_refused(client):
    one, two = fresh(), fresh()
    known = record(one)
    client.append_records([known], [StreamStateCheck(one, NO_STREAM)])
    with pytest.raises(ConsistencyChecksFailedError) as refused:
        client.append_records(
            [known, record(two)], [StreamStateCheck(one, NO_STREAM), StreamStateCheck(two, NO_STREAM)]
        )
    states = [f.stream_state_failure for f in refused.value.failures]
    assert (one, 0) in [(s.stream_name, s.actual_state) for s in states]
    assert client.get_current_version(two) is NO_STREAM
