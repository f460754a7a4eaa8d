"""`$all`: one order of everything, in both directions, and filters over it (3.2, 3.6)."""

from __future__ import annotations

import pytest
from kurrentdbclient.exceptions import KurrentDBClientError
from support import ANY, NO_STREAM, event, events, fresh, fresh_word, ids, make_live


@pytest.fixture(scope="module")
def written(client):
    """Ninety events of three types over three streams, interleaved, and where they begin."""
    before = client.get_commit_position(filter_exclude=())
    word = fresh_word()
    streams = [f"{word}a-1", f"{word}b-1", f"{word}b-2"]
    all_events = []
    for n in range(30):
        for stream in streams:
            new = event(f"{word}Type{n % 3}", {"n": n})
            client.append_event(stream, event=new, current_version=ANY)
            all_events.append((stream, new))
    return before, word, streams, all_events


def ours(read, word):
    return [e for e in read if e.stream_name.startswith(word)]


def test_all_reads_forwards_in_the_order_of_positions(client, written):
    before, word, _, all_events = written
    seen = list(client.read_all(commit_position=before))
    found = [e.commit_position for e in seen]
    assert found == sorted(set(found))
    assert ids(ours(seen, word)) == [new.id for _, new in all_events]


def test_all_reads_backwards_from_the_end(client, written):
    before, word, _, all_events = written
    backwards = []
    for e in client.read_all(backwards=True):
        if e.commit_position <= before:
            break
        backwards.append(e)
    assert ids(ours(backwards, word)) == [new.id for _, new in all_events][::-1]


def test_all_forwards_includes_the_position_and_backwards_excludes_it(client, written):
    before, word, _, _ = written
    mine = ours(client.read_all(commit_position=before), word)
    middle = mine[45].commit_position
    assert next(iter(client.read_all(commit_position=middle, limit=1))).id == mine[45].id
    backwards = next(iter(client.read_all(commit_position=middle, backwards=True, limit=1)))
    assert backwards.commit_position < middle


@pytest.mark.parametrize("limit", [0, 1, 33, 200])
def test_a_limit_of_all_is_kept(client, written, limit):
    before, _, _, _ = written
    whole = ids(client.read_all(commit_position=before, filter_exclude=()))
    assert ids(client.read_all(commit_position=before, limit=limit, filter_exclude=())) == whole[:limit]


def test_all_beyond_the_end_is_empty(client):
    end = client.get_commit_position(filter_exclude=())
    assert list(client.read_all(commit_position=end + 1_000_000)) == []


def test_the_commit_position_is_that_of_the_last_event(client):
    position = client.append_events(fresh(), events=events(2), current_version=NO_STREAM)
    assert client.get_commit_position() >= position


# --- filters -------------------------------------------------------------------------------


def test_a_filter_on_types_by_regex(client, written):
    before, word, _, all_events = written
    seen = client.read_all(commit_position=before, filter_include=[rf"{word}Type[02]"])
    assert ids(seen) == [new.id for _, new in all_events if not new.type.endswith("1")]


def test_a_filter_on_types_by_prefix(client, written):
    before, word, _, all_events = written
    seen = client.read_all(
        commit_position=before, filter_include=[f"{word}Type1", "NoSuchType"], filter_by_prefix=True
    )
    assert ids(seen) == [new.id for _, new in all_events if new.type.endswith("1")]


def test_a_filter_on_stream_names_by_regex(client, written):
    before, word, _, all_events = written
    seen = client.read_all(
        commit_position=before, filter_include=[rf"{word}b-\d"], filter_by_stream_name=True
    )
    assert ids(seen) == [new.id for stream, new in all_events if stream.startswith(f"{word}b")]


def test_a_filter_on_stream_names_by_several_prefixes(client, written):
    before, word, streams, all_events = written
    seen = client.read_all(
        commit_position=before,
        filter_include=[streams[0], streams[2]],
        filter_by_stream_name=True,
        filter_by_prefix=True,
    )
    assert ids(seen) == [new.id for stream, new in all_events if stream in (streams[0], streams[2])]


def test_prefixes_respect_case(client, written):
    before, word, _, _ = written
    seen = client.read_all(commit_position=before, filter_include=[word.upper()], filter_by_prefix=True)
    assert list(seen) == []


def test_a_filtered_read_stops_after_its_limit_of_matches_in_both_directions(client, written):
    before, word, _, all_events = written
    wanted = [new.id for _, new in all_events if new.type == f"{word}Type2"]
    for limit in (1, 7, len(wanted)):
        seen = client.read_all(commit_position=before, filter_include=[f"{word}Type2"], limit=limit)
        assert ids(seen) == wanted[:limit]
        seen = client.read_all(backwards=True, filter_include=[f"{word}Type2"], limit=limit)
        assert ids(seen) == wanted[::-1][:limit]


def test_a_filter_finds_a_rare_event_behind_many_others(client, here):
    rare = fresh_word()
    client.append_events(fresh(), events=events(700), current_version=NO_STREAM)
    client.append_event(fresh(), event=event(rare), current_version=ANY)
    client.append_events(fresh(), events=events(700), current_version=NO_STREAM)
    (found,) = client.read_all(commit_position=here, filter_include=[rare])
    assert found.type == rare
    (found,) = client.read_all(backwards=True, filter_include=[rare], limit=1)
    assert found.type == rare


def test_a_filter_that_matches_nothing_reads_nothing(client, here):
    make_live(client, 5)
    assert list(client.read_all(commit_position=here, filter_include=[fresh_word()])) == []


def test_the_default_exclusion_is_a_negative_look_ahead_and_hides_system_events(client, here):
    stream = make_live(client, 2)
    client.set_stream_metadata(stream, metadata={"a": 1})
    client.append_event(stream, event=event("Resulting"), current_version=ANY)
    client.append_event(stream, event=event("Result"), current_version=ANY)
    client.append_event(stream, event=event("PersistentConfig1"), current_version=ANY)

    def types(**kwargs):
        found = client.read_all(commit_position=here, **kwargs)
        return [e.type for e in found if e.stream_name in (stream, f"$${stream}")]

    assert types() == ["Happened", "Happened", "Resulting"]
    assert types(filter_exclude=()) == [
        "Happened",
        "Happened",
        "$metadata",
        "Resulting",
        "Result",
        "PersistentConfig1",
    ]


def test_an_exclusion_on_stream_names(client, written):
    before, word, _, all_events = written
    seen = client.read_all(
        commit_position=before, filter_exclude=[rf"{word}a-.*", r"\$.*"], filter_by_stream_name=True
    )
    assert ids(ours(seen, word)) == [new.id for stream, new in all_events if not stream.startswith(f"{word}a")]


def test_a_regex_that_is_none_is_refused_and_harms_nothing(client, here):
    with pytest.raises(KurrentDBClientError):
        list(client.read_all(commit_position=here, filter_include=["(unclosed"]))
    assert list(client.read_all(commit_position=here, filter_include=[fresh_word()])) == []
