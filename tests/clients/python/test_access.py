"""Who may do what (5.1), where the server asks who calls.

Over TLS: this client sends no credentials over clear text. The accounts are made with
the command line, because this client has no calls for them.
"""

from __future__ import annotations

import json
import os
import subprocess
import time
import uuid

import pytest
from kurrentdbclient import KurrentDBClient, NewEvent, StreamState
from kurrentdbclient.exceptions import AccessDeniedError, GrpcError, KurrentDBClientError

pytestmark = pytest.mark.skipif(not os.environ.get("ANNALS_USERS"), reason="this server asks nobody who they are")


def user(url: str, *arguments: str, stdin: str = "") -> None:
    command = [os.environ["ANNALS_BINARY"], "user", *arguments, "--server", url]
    subprocess.run(command, input=stdin, text=True, check=True, capture_output=True)


class Account:
    def __init__(self, url: str, *groups: str) -> None:
        self.admin, self.login, self.password = url, f"py-{uuid.uuid4().hex}", uuid.uuid4().hex
        options = [option for group in groups for option in ("--group", group)]
        user(url, "create", self.login, "--password-stdin", *options, stdin=self.password)

    def connect(self) -> KurrentDBClient:
        scheme, rest = self.admin.split("://")
        return KurrentDBClient(f"{scheme}://{self.login}:{self.password}@{rest.split('@')[-1]}")


def events(count: int, kind: str = "T", data: bytes = b"{}") -> list[NewEvent]:
    return [NewEvent(type=kind, data=data) for _ in range(count)]


def fresh() -> str:
    return f"py{uuid.uuid4().hex}-1"


@pytest.fixture
def ann(url):
    account = Account(url, "sales")
    with account.connect() as client:
        client.account = account
        yield client


@pytest.fixture
def bob(url):
    account = Account(url)
    with account.connect() as client:
        client.account = account
        yield client


def test_streams_of_applications_are_everybodys_and_everything_is_for_administrators(client, ann, bob):
    stream = fresh()
    ann.append_to_stream(stream, current_version=StreamState.NO_STREAM, events=events(2))
    assert len(bob.get_stream(stream)) == 2
    for refused in (
        lambda: list(bob.read_all(limit=1)),
        lambda: next(bob.subscribe_to_all()),
        lambda: bob.get_stream("$ce-" + stream.split("-")[0]),
        lambda: bob.append_to_stream("$mine", current_version=StreamState.ANY, events=events(1)),
        lambda: bob.create_subscription_to_stream("group", stream),
    ):
        with pytest.raises(AccessDeniedError):
            refused()
    assert len(list(client.read_all(limit=1))) == 1


def test_a_list_of_rights_holds_for_reads_writes_deletions_and_subscriptions(client, ann, bob):
    stream = fresh()
    ann.append_to_stream(stream, current_version=StreamState.NO_STREAM, events=events(2))
    acl = {"$acl": {"$r": "sales", "$w": [ann.account.login], "$d": [], "$mw": []}}
    client.set_stream_metadata(stream, metadata=acl, current_version=StreamState.ANY)
    assert len(ann.get_stream(stream)) == 2
    ann.append_to_stream(stream, current_version=1, events=events(1))
    for refused in (
        lambda: bob.get_stream(stream),
        lambda: next(bob.subscribe_to_stream(stream)),
        lambda: bob.append_to_stream(stream, current_version=StreamState.ANY, events=events(1)),
        lambda: bob.append_to_stream(stream, current_version=77, events=events(1)),
        lambda: ann.delete_stream(stream, current_version=StreamState.ANY),
        lambda: ann.tombstone_stream(stream, current_version=StreamState.ANY),
        lambda: ann.set_stream_metadata(stream, metadata={}, current_version=StreamState.ANY),
    ):
        with pytest.raises(AccessDeniedError):
            refused()
    assert len(client.get_stream(stream)) == 3


def test_an_append_to_several_streams_needs_a_right_on_each(client, ann):
    mine, closed = fresh(), fresh()
    client.set_stream_metadata(closed, metadata={"$acl": {"$w": []}}, current_version=StreamState.ANY)
    with pytest.raises(KurrentDBClientError):
        ann.append_to_stream(closed, current_version=StreamState.ANY, events=events(1))
    ann.append_to_stream(mine, current_version=StreamState.NO_STREAM, events=events(1))
    assert len(client.get_stream(mine)) == 1


def test_a_link_to_what_one_may_not_read_leads_nowhere(client, ann, bob):
    secret, links = fresh(), fresh()
    ann.append_to_stream(secret, current_version=StreamState.NO_STREAM, events=events(1))
    client.set_stream_metadata(secret, metadata={"$acl": {"$r": "sales"}}, current_version=StreamState.ANY)
    link = events(1, "$>", f"0@{secret}".encode())
    bob.append_to_stream(links, current_version=StreamState.NO_STREAM, events=link)
    assert ann.get_stream(links, resolve_links=True)[0].stream_name == secret
    assert all(event.stream_name != secret for event in bob.get_stream(links, resolve_links=True))


def test_a_subscription_ends_when_the_right_is_taken_away(client, ann):
    stream = fresh()
    ann.append_to_stream(stream, current_version=StreamState.NO_STREAM, events=events(1))
    with ann.subscribe_to_stream(stream) as subscription:
        assert next(subscription).stream_position == 0
        client.set_stream_metadata(stream, metadata={"$acl": {"$r": []}}, current_version=StreamState.ANY)
        client.append_to_stream(stream, current_version=0, events=events(1))
        with pytest.raises(KurrentDBClientError):
            next(subscription)


def test_operators_manage_groups_and_have_no_rights_on_streams(url, client):
    stream, group = fresh(), uuid.uuid4().hex
    client.append_to_stream(stream, current_version=StreamState.NO_STREAM, events=events(1))
    client.set_stream_metadata(stream, metadata={"$acl": {"$r": []}}, current_version=StreamState.ANY)
    with Account(url, "$ops").connect() as operator:
        operator.create_subscription_to_stream(group, stream)
        assert operator.get_subscription_info(group, stream).group_name == group
        with pytest.raises(AccessDeniedError):
            operator.get_stream(stream)
        operator.delete_subscription(group, stream)


def test_a_consumer_group_delivers_to_who_may_read(client, ann, bob):
    stream, group = fresh(), uuid.uuid4().hex
    ann.append_to_stream(stream, current_version=StreamState.NO_STREAM, events=events(1))
    client.create_subscription_to_stream(group, stream, from_end=False)
    client.set_stream_metadata(stream, metadata={"$acl": {"$r": "sales"}}, current_version=StreamState.ANY)
    with pytest.raises(AccessDeniedError):
        next(bob.read_subscription_to_stream(group, stream))
    with ann.read_subscription_to_stream(group, stream) as consumer:
        event = next(consumer)
        consumer.ack(event)


def test_a_disabled_account_and_a_changed_password_prove_nothing(url, ann):
    stream = fresh()
    ann.append_to_stream(stream, current_version=StreamState.NO_STREAM, events=events(1))
    user(url, "disable", ann.account.login)
    with pytest.raises((GrpcError, KurrentDBClientError)):
        ann.append_to_stream(stream, current_version=0, events=events(1))
    user(url, "enable", ann.account.login)
    ann.append_to_stream(stream, current_version=0, events=events(1))
    user(url, "password", ann.account.login, "--password-stdin", stdin="another")
    with pytest.raises((GrpcError, KurrentDBClientError)):
        ann.append_to_stream(stream, current_version=1, events=events(1))


def test_denials_are_audited_without_secrets(client, bob):
    stream = fresh()
    client.set_stream_metadata(stream, metadata={"$acl": {"$w": []}}, current_version=StreamState.ANY)
    with pytest.raises(AccessDeniedError):
        bob.append_to_stream(stream, current_version=StreamState.ANY, events=events(1, data=b'"payload"'))
    deadline = time.monotonic() + 20
    while True:
        audited = [event.data for event in client.get_stream("$audit", backwards=True, limit=500)]
        mine = [told for told in map(json.loads, audited) if told.get("on") == stream]
        if any(told["decision"] == "denied" for told in mine):
            break
        assert time.monotonic() < deadline, mine
        time.sleep(0.1)
    denied = next(told for told in mine if told["decision"] == "denied")
    assert (denied["who"], denied["act"]) == (bob.account.login, "streams:write")
    text = b"\n".join(audited)
    assert b"payload" not in text and bob.account.password.encode() not in text
