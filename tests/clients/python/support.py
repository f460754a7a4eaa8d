"""What the scenarios share: names, events, bounded waiting, raw access to v2.

Every scenario uses stream names nobody used before, so the suite can run again
and again on one server, beside the other suites, and `$all` may hold anything.
"""

from __future__ import annotations

import contextlib
import json
import os
import ssl
import subprocess
import threading
import time
import urllib.parse
import urllib.request
from uuid import UUID, uuid4

import grpc
from kurrentdbclient import KurrentDBClient, NewEvent, StreamState
from kurrentdbclient.exceptions import KurrentDBClientError, NotFoundError

ANY, NO_STREAM, EXISTS = StreamState.ANY, StreamState.NO_STREAM, StreamState.EXISTS

# "Deleted" as the metadata says it, and the revision a tombstone is written at.
MAX_REVISION = 9223372036854775807

# The server's receive limit for one message of the Streams service.
MESSAGE_MAX = 16_767_216

# How long a subscription may take to deliver what is already due. Generous, since
# it is only ever used up by a failure.
PATIENCE_S = 15.0


def fresh(prefix: str = "py") -> str:
    """A stream name nobody used before. Its category is `prefix`."""
    return f"{prefix}-{uuid4().hex}"


def fresh_word() -> str:
    """A word without dashes: a category, a type or a correlation nobody used before."""
    return f"py{uuid4().hex}"


def event(type: str = "Happened", data: object = None, **kwargs) -> NewEvent:
    body = data if isinstance(data, bytes) else json.dumps(data or {}).encode()
    return NewEvent(type=type, data=body, **kwargs)


def events(count: int, type: str = "Happened", start: int = 0) -> list[NewEvent]:
    return [event(type, {"n": n}) for n in range(start, start + count)]


def ids(recorded) -> list[UUID]:
    return [e.id for e in recorded]


def positions(recorded) -> list[int]:
    return [e.stream_position for e in recorded]


def revision_of(client: KurrentDBClient, stream: str) -> int | None:
    """The last revision, or None when a reader finds no stream."""
    version = client.get_current_version(stream)
    return None if version is NO_STREAM else version


def is_missing(client: KurrentDBClient, stream: str) -> bool:
    try:
        client.get_stream(stream, limit=1)
    except NotFoundError:
        return True
    return False


def make_live(client: KurrentDBClient, count: int = 3, stream: str | None = None) -> str:
    stream = stream or fresh()
    client.append_events(stream, events=events(count), current_version=NO_STREAM)
    return stream


def make_soft_deleted(client: KurrentDBClient, count: int = 3, stream: str | None = None) -> str:
    stream = make_live(client, count, stream)
    client.delete_stream(stream, current_version=ANY)
    return stream


def make_tombstoned(client: KurrentDBClient, count: int = 3, stream: str | None = None) -> str:
    stream = make_live(client, count, stream)
    client.tombstone_stream(stream, current_version=ANY)
    return stream


def make_metadata_only(client: KurrentDBClient) -> str:
    stream = fresh()
    client.set_stream_metadata(stream, metadata={"owner": "nobody"}, current_version=NO_STREAM)
    return stream


class Subscriber:
    """Drains a subscription on its own thread, so that waiting has an end.

    The client's iterator blocks for ever on a quiet subscription; a scenario must
    be able to say "nothing came" and "this came within a while".
    """

    def __init__(self, subscription):
        self.subscription = subscription
        self.seen: list = []
        self.error: BaseException | None = None
        self.ended = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self):
        try:
            for item in self.subscription:
                with self._changed:
                    self.seen.append(item)
                    self._changed.notify_all()
        except BaseException as e:  # noqa: BLE001 - kept for the scenario to judge
            with self._changed:
                self.error = e
        with self._changed:
            self.ended = True
            self._changed.notify_all()

    @property
    def events(self) -> list:
        return [e for e in list(self.seen) if not (e.is_caught_up or e.is_checkpoint or e.is_fell_behind)]

    @property
    def checkpoints(self) -> list:
        return [e for e in list(self.seen) if e.is_checkpoint]

    @property
    def caught_up(self) -> list:
        return [e for e in list(self.seen) if e.is_caught_up]

    def wait(self, what, describe: str, timeout: float = PATIENCE_S):
        """Waits until `what()` holds; fails telling what has come instead."""
        deadline = time.monotonic() + timeout
        with self._changed:
            while not what():
                left = deadline - time.monotonic()
                if left <= 0 or self.ended:
                    raise AssertionError(
                        f"waited for {describe}; ended={self.ended} error={self.error!r}; saw "
                        f"{[(e.type or type(e).__name__, e.stream_position) for e in self.seen[-20:]]}"
                    )
                self._changed.wait(min(left, 0.5))

    def wait_events(self, count: int, timeout: float = PATIENCE_S) -> list:
        self.wait(lambda: len(self.events) >= count, f"{count} events", timeout)
        return self.events

    def wait_caught_up(self, timeout: float = PATIENCE_S):
        self.wait(lambda: self.caught_up, "caught up", timeout)
        return self.caught_up[0]

    def wait_ended(self, timeout: float = PATIENCE_S) -> BaseException | None:
        self._thread.join(timeout)
        assert self.ended, f"the subscription should have ended; saw {len(self.seen)} messages"
        return self.error

    def stop(self):
        self.subscription.stop()
        self._thread.join(5)


@contextlib.contextmanager
def subscribed(subscription):
    subscriber = Subscriber(subscription)
    try:
        yield subscriber
    finally:
        subscriber.stop()


def append_raw_records(client: KurrentDBClient, records, checks):
    """`AppendRecords` with checks the Python API has no name for (-5 and -6).

    Goes over the client's own stub and error mapping: only the request is ours.
    `records` are (stream, NewEvent), `checks` are (stream, expected state).
    """
    from kurrentdbclient.common import handle_rpc_error
    from kurrentdbclient.protos.v2.streams import streams_pb2 as v2

    request = v2.AppendRecordsRequest(
        records=[
            v2.AppendRecord(
                record_id=str(e.id),
                schema=v2.SchemaInfo(format=v2.SCHEMA_FORMAT_JSON, name=e.type),
                data=e.data,
                stream=stream,
            )
            for stream, e in records
        ],
        checks=[
            v2.ConsistencyCheck(
                stream_state=v2.ConsistencyCheck.StreamStateCheck(stream=stream, expected_state=state)
            )
            for stream, state in checks
        ],
    )
    try:
        # As the client's own calls: nothing over clear text.
        return client.v2streams._stub.AppendRecords(
            request, metadata=(("requires-leader", "true"),), timeout=10, credentials=client._call_credentials
        )
    except grpc.RpcError as e:
        raise handle_rpc_error(e) from e


# --- clusters -----------------------------------------------------------------


def cluster_url() -> str | None:
    return os.environ.get("ANNALS_CLUSTER_URL") or None


def cluster_hosts() -> list[str]:
    url = cluster_url()
    assert url
    return url.split("://", 1)[1].split("/")[0].split("?")[0].split("@")[-1].split(",")


def direct_url(host: str, preference: str = "follower") -> str:
    """One host only: the client then neither gossips nor wanders off."""
    url = cluster_url()
    assert url
    return f"{url.replace(','.join(cluster_hosts()), host)}&nodePreference={preference}"


def gossip(host: str) -> list[dict]:
    option = urllib.parse.parse_qs((cluster_url() or "").partition("?")[2])
    ca = option.get("tlsCaFile", [None])[0]
    tls = ssl.create_default_context(cafile=ca) if ca else None
    with urllib.request.urlopen(f"http{'s' if tls else ''}://{host}/gossip", timeout=3, context=tls) as answer:
        return json.load(answer)["members"]


def leader_and_followers(timeout: float = 30.0) -> tuple[str, list[str]]:
    """Hosts of the leader and of the followers, once one node names a full house."""
    deadline = time.monotonic() + timeout
    last: object = None
    while time.monotonic() < deadline:
        for host in cluster_hosts():
            try:
                members = gossip(host)
            except OSError as e:
                last = e
                continue
            last = members
            alive = [m for m in members if m["isAlive"]]
            leaders = [m for m in alive if m["state"] == "Leader"]
            followers = [m for m in alive if m["state"] == "Follower"]
            if len(leaders) == 1 and len(followers) == len(cluster_hosts()) - 1:
                def name(m):
                    return f"{m['httpEndPointIp']}:{m['httpEndPointPort']}"

                return name(leaders[0]), [name(m) for m in followers]
        time.sleep(0.2)
    raise AssertionError(f"no healthy cluster within {timeout} s; last answer: {last}")


def run_harness(variable: str):
    """Runs a command the harness gave us (kill the leader, restart the dead node)."""
    subprocess.run(os.environ[variable], shell=True, check=True, timeout=120)


def retrying(action, timeout: float = 60.0):
    """Repeats `action` until it succeeds: what an application does while a leader is elected.

    Only sound for actions whose events keep their ids, which is the point of the scenarios.
    """
    deadline = time.monotonic() + timeout
    while True:
        try:
            return action()
        except KurrentDBClientError as e:
            if time.monotonic() > deadline:
                raise AssertionError(f"did not succeed within {timeout} s: {e!r}") from e
            time.sleep(0.1)
