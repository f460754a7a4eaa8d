"""Links, resolved and not, and the built-in indexes that read as streams of links (3.4, 5.2)."""

from __future__ import annotations

import json

import pytest
from kurrentdbclient.exceptions import KurrentDBClientError, NotFoundError
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
    positions,
    subscribed,
)


def link(revision: int, stream: str):
    return event("$>", f"{revision}@{stream}".encode(), content_type="application/octet-stream")


# --- links written by a client ----------------------------------------------------------


def test_a_link_is_delivered_resolved_or_as_it_is(client):
    target, links = make_live(client, 3), fresh()
    written = [link(2, target), link(0, target)]
    client.append_events(links, events=written, current_version=NO_STREAM)
    targets = client.get_stream(target)

    plain = client.get_stream(links)
    assert [e.type for e in plain] == ["$>", "$>"]
    assert [e.data.decode() for e in plain] == [f"2@{target}", f"0@{target}"]
    assert [e.content_type for e in plain] == ["application/octet-stream"] * 2
    assert all(e.link is None for e in plain)

    resolved = client.get_stream(links, resolve_links=True)
    assert ids(resolved) == [targets[2].id, targets[0].id]
    for got, target_event, link_event in zip(resolved, [targets[2], targets[0]], plain, strict=True):
        # The target keeps its own place, and the link keeps its own.
        assert (got.stream_name, got.stream_position) == (target, target_event.stream_position)
        assert got.commit_position == target_event.commit_position
        assert (got.link.id, got.link.stream_name) == (link_event.id, links)
        assert got.link.stream_position == link_event.stream_position
        assert got.link.commit_position == link_event.commit_position
    assert ids(client.get_stream(links, resolve_links=True, backwards=True)) == [targets[0].id, targets[2].id]


def test_a_link_to_a_stream_whose_name_holds_an_at_sign_resolves(client):
    target, links = make_live(client, 1, f"a@b@{fresh()}"), fresh()
    client.append_event(links, event=link(0, target), current_version=ANY)
    (resolved,) = client.get_stream(links, resolve_links=True)
    assert (resolved.stream_name, resolved.stream_position) == (target, 0)


def test_links_to_what_is_gone_are_not_resolved_and_break_nothing(client):
    # This client drops an event without a target; the Node and Rust suites look closer.
    live, deleted, dead, cut = (make_live(client, 3) for _ in range(4))
    client.delete_stream(deleted, current_version=ANY)
    client.tombstone_stream(dead, current_version=ANY)
    client.set_stream_metadata(cut, metadata={"$tb": 2})
    links = fresh()
    client.append_events(
        links,
        events=[
            link(0, deleted),
            link(0, dead),
            link(1, cut),
            link(7, live),
            link(0, fresh()),
            event("$>", b"nonsense", content_type="application/octet-stream"),
            link(1, live),
        ],
        current_version=NO_STREAM,
    )
    (resolved,) = client.get_stream(links, resolve_links=True)
    assert (resolved.stream_name, resolved.stream_position) == (live, 1)
    assert len(client.get_stream(links)) == 7


def test_a_link_in_all_is_resolved_in_the_place_of_the_link(client, here):
    target, links = make_live(client, 1), fresh()
    between = event("Between")
    client.append_event(fresh(), event=between, current_version=ANY)
    client.append_event(links, event=link(0, target), current_version=ANY)
    target_id = client.get_stream(target)[0].id
    seen = [e for e in client.read_all(commit_position=here, filter_exclude=(), resolve_links=True)]
    mine = [e.id for e in seen if e.id in (target_id, between.id)]
    assert mine == [target_id, between.id, target_id]
    linked = [e for e in seen if e.link is not None and e.link.stream_name == links]
    assert ids(linked) == [target_id]


# --- $ce-, $et-, $bc-, $streams -----------------------------------------------------------


@pytest.fixture(scope="module")
def indexed(client):
    """Three streams of one category, two types, one correlation; appended in turns."""
    category, type, correlation = fresh_word(), fresh_word(), fresh_word()
    streams = [f"{category}-{n}" for n in range(3)]
    other = fresh()
    order = []
    for n in range(40):
        for stream in streams:
            new = event(type if n % 2 else f"{type}Other", {"n": n})
            client.append_event(stream, event=new, current_version=ANY)
            order.append((stream, n, new))
    correlated = []
    for stream in (streams[0], other, streams[2]):
        new = event("Correlated", metadata=json.dumps({"$correlationId": correlation}).encode())
        client.append_event(stream, event=new, current_version=ANY)
        correlated.append((stream, new))
        if stream != other:
            order.append((stream, 40, new))
    return category, type, correlation, streams, order, correlated


def assert_is_a_stream_of_links(client, name, wanted):
    """`wanted` lists (stream, revision, id) in order."""
    plain = client.get_stream(name)
    assert [e.data.decode() for e in plain] == [f"{revision}@{stream}" for stream, revision, _ in wanted]
    assert all(e.type == "$>" and e.stream_name == name and e.link is None for e in plain)
    assert positions(plain) == list(range(len(wanted))), "revisions of an index are dense"

    resolved = client.get_stream(name, resolve_links=True)
    assert [(e.stream_name, e.stream_position, e.id) for e in resolved] == wanted
    assert [e.link.stream_name for e in resolved] == [name] * len(wanted)
    assert [e.link.stream_position for e in resolved] == list(range(len(wanted)))
    assert [e.link.data.decode() for e in resolved] == [e.data.decode() for e in plain]

    assert ids(client.get_stream(name, resolve_links=True, backwards=True)) == [id for *_, id in wanted][::-1]
    middle = len(wanted) // 2
    assert ids(client.get_stream(name, resolve_links=True, stream_position=middle, limit=2)) == [
        id for *_, id in wanted[middle : middle + 2]
    ]
    assert client.get_current_version(name) == len(wanted) - 1


def test_a_category_is_a_stream_of_links_to_its_events(client, indexed):
    category, _, _, _, order, _ = indexed
    assert_is_a_stream_of_links(client, f"$ce-{category}", [(s, n, new.id) for s, n, new in order])


def test_a_type_is_a_stream_of_links_to_its_events(client, indexed):
    _, type, _, _, order, _ = indexed
    assert_is_a_stream_of_links(client, f"$et-{type}", [(s, n, new.id) for s, n, new in order if new.type == type])


def test_a_correlation_is_a_stream_of_links_to_its_events(client, indexed):
    _, _, correlation, streams, _, correlated = indexed
    (s0, e0), (s1, e1), (s2, e2) = correlated
    wanted = [(s0, 40, e0.id), (s1, 0, e1.id), (s2, 40, e2.id)]
    assert_is_a_stream_of_links(client, f"$bc-{correlation}", wanted)


def test_streams_links_to_the_first_event_of_each_stream(client):
    made = [make_live(client, 2) for _ in range(3)]
    client.append_event(made[0], event=event(), current_version=EXISTS)  # no second link
    newest = client.get_stream("$streams", backwards=True, limit=3)
    assert [e.data.decode() for e in newest] == [f"0@{stream}" for stream in reversed(made)]
    resolved = client.get_stream("$streams", backwards=True, limit=3, resolve_links=True)
    assert [(e.stream_name, e.stream_position) for e in resolved] == [(s, 0) for s in reversed(made)]
    first = newest[-1].stream_position
    assert positions(newest) == [first + 2, first + 1, first]
    assert len(client.get_stream("$streams", stream_position=first)) >= 3


def test_an_index_of_nothing_is_a_missing_stream(client):
    for name in (f"$ce-{fresh_word()}", f"$et-{fresh_word()}", f"$bc-{fresh_word()}"):
        with pytest.raises(NotFoundError):
            client.get_stream(name)


def test_indexes_cannot_be_written_or_deleted(client, indexed):
    category, type, correlation, *_ = indexed
    for name in (f"$ce-{category}", f"$et-{type}", f"$bc-{correlation}", "$streams"):
        before = client.get_current_version(name)
        with pytest.raises(KurrentDBClientError):
            client.append_event(name, event=event(), current_version=ANY)
        with pytest.raises(KurrentDBClientError):
            client.append_events(name, events=events(2), current_version=ANY)
        with pytest.raises(KurrentDBClientError):
            client.delete_stream(name, current_version=ANY)
        with pytest.raises(KurrentDBClientError):
            client.tombstone_stream(name, current_version=ANY)
        assert client.get_current_version(name) == before or name == "$streams"


def test_a_category_goes_on_over_deleted_streams(client):
    category = fresh_word()
    kept, deleted = f"{category}-kept", f"{category}-deleted"
    client.append_events(deleted, events=events(2), current_version=NO_STREAM)
    client.append_events(kept, events=events(2), current_version=NO_STREAM)
    client.delete_stream(deleted, current_version=ANY)
    resolved = client.get_stream(f"$ce-{category}", resolve_links=True)
    assert [(e.stream_name, e.stream_position) for e in resolved] == [(kept, 0), (kept, 1)]
    assert positions(client.get_stream(f"$ce-{category}")) == [0, 1, 2, 3]  # the links stay


def test_a_category_ends_at_the_first_dash(client):
    word = fresh_word()
    client.append_event(f"{word}-a-b", event=event(), current_version=ANY)
    client.append_event(word, event=event(), current_version=ANY)  # has no category
    (only,) = client.get_stream(f"$ce-{word}")
    assert only.data.decode() == f"0@{word}-a-b"


@pytest.mark.parametrize("index", ["$ce-", "$et-", "$bc-"])
def test_an_index_can_be_subscribed_to(client, index):
    word = fresh_word()
    streams = [f"{word}-{n}" for n in range(2)]

    def new():
        return event(word, metadata=json.dumps({"$correlationId": word}).encode())

    first = [new() for _ in range(4)]
    for n, e in enumerate(first):
        client.append_event(streams[n % 2], event=e, current_version=ANY)
    name = index + word
    live = [new() for _ in range(3)]
    with (
        subscribed(client.subscribe_to_stream(name, resolve_links=True, include_caught_up=True)) as resolving,
        subscribed(client.subscribe_to_stream(name, stream_position=1, include_caught_up=True)) as plain,
        subscribed(client.subscribe_to_stream(name, from_end=True, resolve_links=True, include_caught_up=True)) as end,
    ):
        for subscriber in (resolving, plain, end):
            subscriber.wait_caught_up()
        for n, e in enumerate(live):
            client.append_event(streams[n % 2], event=e, current_version=ANY)
        assert ids(resolving.wait_events(7)) == [e.id for e in first + live]
        assert [e.link.stream_position for e in resolving.events] == list(range(7))
        got = plain.wait_events(5)
        assert positions(got) == [2, 3, 4, 5, 6]
        assert all(e.type == "$>" and e.stream_name == name for e in got)
        assert ids(end.wait_events(3)) == [e.id for e in live]


def test_streams_can_be_subscribed_to(client):
    with subscribed(
        client.subscribe_to_stream("$streams", from_end=True, resolve_links=True, include_caught_up=True)
    ) as subscriber:
        subscriber.wait_caught_up()
        made = [make_live(client, 2) for _ in range(3)]
        subscriber.wait(lambda: {e.stream_name for e in subscriber.events} >= set(made), "links to new streams")
        mine = [e for e in subscriber.events if e.stream_name in made]
        assert [(e.stream_name, e.stream_position) for e in mine] == [(s, 0) for s in made]
