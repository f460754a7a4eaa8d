"""Stream metadata and what it hides (5.1, 3.7)."""

from __future__ import annotations

import json
import time

import pytest
from kurrentdbclient.exceptions import NotFoundError, WrongCurrentVersionError
from support import (
    ANY,
    MAX_REVISION,
    NO_STREAM,
    event,
    events,
    fresh,
    make_live,
    make_soft_deleted,
    positions,
    subscribed,
)


def metastream(client, stream):
    """The current metadata event: a metastream shows its last event only."""
    (only,) = client.get_stream(f"$${stream}")
    return only


def test_a_stream_without_metadata_has_none(client):
    for stream in (fresh(), make_live(client)):
        assert client.get_stream_metadata(stream) == ({}, NO_STREAM)


def test_metadata_is_kept_with_acl_and_custom_keys(client):
    stream = fresh()
    metadata = {
        "$maxCount": 10,
        "$maxAge": 3600,
        "$tb": 1,
        "$cacheControl": 15,
        "$acl": {"$r": "$all", "$w": ["ops", "admin"], "$d": [], "$mr": "$all", "$mw": "$all"},
        "größe": {"nested": [1, 2.5, None, "drei"]},
    }
    client.set_stream_metadata(stream, metadata=metadata, current_version=NO_STREAM)
    assert client.get_stream_metadata(stream) == (metadata, 0)


def test_metadata_is_replaced_and_never_merged(client):
    stream = make_live(client)
    client.set_stream_metadata(stream, metadata={"$acl": {"$r": "$all"}, "a": 1})
    client.set_stream_metadata(stream, metadata={"$maxCount": 2})
    assert client.get_stream_metadata(stream) == ({"$maxCount": 2}, 1)
    assert positions(client.get_stream(stream)) == [1, 2]
    client.set_stream_metadata(stream, metadata={})
    assert client.get_stream_metadata(stream) == ({}, 2)
    assert positions(client.get_stream(stream)) == [0, 1, 2]


def test_the_expected_revision_of_metadata_is_that_of_the_metadata(client):
    stream = make_live(client, 5)
    client.set_stream_metadata(stream, metadata={"v": 0}, current_version=NO_STREAM)
    client.set_stream_metadata(stream, metadata={"v": 1}, current_version=0)
    for wrong in (NO_STREAM, 0, 4):
        with pytest.raises(WrongCurrentVersionError) as refused:
            client.set_stream_metadata(stream, metadata={"v": 2}, current_version=wrong)
        assert refused.value.actual_version == 1
    assert client.get_stream_metadata(stream) == ({"v": 1}, 1)


def test_a_metadata_stream_shows_only_its_newest_event(client):
    stream = make_live(client)
    for v in range(3):
        client.set_stream_metadata(stream, metadata={"v": v})
    for backwards in (False, True):
        (only,) = client.get_stream(f"$${stream}", backwards=backwards)
        assert (only.type, only.stream_position, json.loads(only.data)) == ("$metadata", 2, {"v": 2})


# --- truncation -------------------------------------------------------------------------


def test_max_count_shows_the_newest_events(client):
    stream = make_live(client, 50)
    client.set_stream_metadata(stream, metadata={"$maxCount": 5})
    assert positions(client.get_stream(stream)) == [45, 46, 47, 48, 49]
    assert positions(client.get_stream(stream, backwards=True)) == [49, 48, 47, 46, 45]
    assert positions(client.get_stream(stream, stream_position=10, limit=2)) == [45, 46]
    client.append_events(stream, events=events(2), current_version=49)
    assert positions(client.get_stream(stream)) == [47, 48, 49, 50, 51]


def test_truncate_before_hides_revisions_below_it(client):
    stream = make_live(client, 50)
    client.set_stream_metadata(stream, metadata={"$tb": 40})
    assert positions(client.get_stream(stream)) == list(range(40, 50))
    assert positions(client.get_stream(stream, backwards=True)) == list(range(49, 39, -1))
    assert positions(client.get_stream(stream, stream_position=45)) == list(range(45, 50))
    assert client.get_stream(stream, stream_position=39, backwards=True) == ()


def test_the_stricter_of_count_and_truncation_holds(client):
    stream = make_live(client, 10)
    client.set_stream_metadata(stream, metadata={"$tb": 3, "$maxCount": 4})
    assert positions(client.get_stream(stream)) == [6, 7, 8, 9]
    client.set_stream_metadata(stream, metadata={"$tb": 8, "$maxCount": 4})
    assert positions(client.get_stream(stream)) == [8, 9]


def test_a_stream_truncated_beyond_its_end_is_empty_but_exists(client):
    stream = make_live(client, 3)
    client.set_stream_metadata(stream, metadata={"$tb": 10})
    for backwards in (False, True):
        assert client.get_stream(stream, backwards=backwards) == ()
    client.append_event(stream, event=event(), current_version=2)  # revisions go on regardless
    assert client.get_stream(stream) == ()
    client.append_events(stream, events=events(8), current_version=3)
    assert positions(client.get_stream(stream)) == [10, 11]


def test_max_age_hides_older_events(client):
    stream = make_live(client, 3)
    client.set_stream_metadata(stream, metadata={"$maxAge": 1})
    time.sleep(2.1)
    for backwards in (False, True):
        assert client.get_stream(stream, backwards=backwards) == ()
    client.append_event(stream, event=event(), current_version=2)
    assert positions(client.get_stream(stream)) == [3]
    client.set_stream_metadata(stream, metadata={})  # it hides, it does not delete
    assert positions(client.get_stream(stream)) == [0, 1, 2, 3]


@pytest.mark.parametrize(
    "nonsense",
    [b"not json", b"[1]", b'{"$maxCount": 0}', b'{"$maxCount": -3}', b'{"$maxCount": "two"}', b'{"$tb": 0}'],
)
def test_nonsense_in_metadata_hides_nothing(client, nonsense):
    stream = make_live(client, 4)
    client.append_event(f"$${stream}", event=event("$metadata", nonsense), current_version=ANY)
    assert len(client.get_stream(stream)) == 4


def test_all_shows_what_is_truncated(client, here):
    stream = make_live(client, 6)
    client.set_stream_metadata(stream, metadata={"$maxCount": 1})
    seen = client.read_all(commit_position=here, filter_include=[stream], filter_by_stream_name=True)
    assert positions(seen) == [0, 1, 2, 3, 4, 5]


def test_a_subscription_does_not_see_what_is_truncated(client):
    stream = make_live(client, 10)
    client.set_stream_metadata(stream, metadata={"$tb": 4, "$maxCount": 3})
    with subscribed(client.subscribe_to_stream(stream, include_caught_up=True)) as subscriber:
        subscriber.wait_caught_up()
        assert positions(subscriber.events) == [7, 8, 9]


# --- metadata and deletion ----------------------------------------------------------------


def test_a_soft_delete_is_one_metadata_event_of_exact_bytes(client):
    stream = make_live(client)
    client.set_stream_metadata(stream, metadata={"$maxCount": 9, "$acl": {"$r": "$all"}})
    client.delete_stream(stream, current_version=ANY)
    written = metastream(client, stream)
    assert (written.type, written.stream_position) == ("$metadata", 1)
    assert written.data == b'{"$tb":%d}' % MAX_REVISION


def test_coming_back_moves_the_truncation_to_the_first_new_revision(client):
    stream = make_soft_deleted(client, 3)
    client.append_events(stream, events=events(2), current_version=ANY)
    metadata, version = client.get_stream_metadata(stream)
    assert (metadata, version) == ({"$tb": 3}, 1)


def test_metadata_on_a_soft_deleted_stream_undeletes_it_and_keeps_its_keys(client):
    stream = make_soft_deleted(client, 3)  # metadata at revision 0
    client.set_stream_metadata(stream, metadata={"$maxCount": 7, "owner": "me"})
    metadata, version = client.get_stream_metadata(stream)
    assert metadata == {"$maxCount": 7, "owner": "me", "$tb": 3}
    assert version == 2, "the client's event and the server's"
    assert client.get_stream(stream) == ()  # exists, nothing visible
    client.append_event(stream, event=event(), current_version=2)
    assert positions(client.get_stream(stream)) == [3]


def test_metadata_alone_makes_no_stream(client):
    stream = fresh()
    client.set_stream_metadata(stream, metadata={"$maxCount": 1}, current_version=NO_STREAM)
    with pytest.raises(NotFoundError):
        client.get_stream(stream)
    client.append_events(stream, events=events(3), current_version=NO_STREAM)
    assert positions(client.get_stream(stream)) == [2]
