"""The load of `jepsen-tests`, steered from here, and its verdict.

Clients call nodes by their names in DNS. What they call and what they are told is in
the history; what is done to the pods is told to it as faults of class `P`, so that the
checker knows when a node was not to be relied upon.
"""

from __future__ import annotations

import asyncio
import json
import re
import time
from contextlib import asynccontextmanager
from pathlib import Path
from typing import AsyncIterator

from .cluster import Cluster, Failed

ORDER_TIMEOUT = 20.0
HALT_TIMEOUT = 60.0  # calls that are under way get their answers
VERDICT_TIMEOUT = 300.0


class Load:
    def __init__(self, cluster: Cluster, program: Path, directory: Path, seed: int, rate: float) -> None:
        self._cluster, self._directory = cluster, directory
        self._command = [str(program), str(directory), str(seed), str(rate)]
        self._process: asyncio.subprocess.Process | None = None
        self._log = directory / "load.log"

    async def start(self, ordinals: list[int]) -> None:
        """Begins to load these nodes."""
        with self._log.open("wb") as log:
            self._process = await asyncio.create_subprocess_exec(
                *self._command, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=log
            )
        for ordinal in ordinals:
            await self.add(ordinal)
        await self._order("start")

    async def add(self, ordinal: int) -> None:
        """Clients call this node from now on. Nodes have numbers from 1 in histories."""
        await self._order(f"node {ordinal + 1} {self._cluster.address(ordinal)}")

    async def drop(self, ordinal: int) -> None:
        await self._order(f"gone {ordinal + 1}")

    async def counts(self) -> str:
        return await self._order("counts")

    async def halt(self) -> None:
        """Ends the load; nothing is read or judged yet."""
        await self._order("halt", HALT_TIMEOUT)

    async def restored(self, position: int) -> None:
        """What there is from now on was restored from a backup that ends there."""
        await self._order(f"restored {position}")

    @asynccontextmanager
    async def during(self, name: str, ordinals: list[int]) -> AsyncIterator[None]:
        """What happens inside is a fault to these nodes."""
        await self._order(f"begin P {name} {','.join(str(ordinal + 1) for ordinal in ordinals)}")
        try:
            yield
        finally:
            # Connections and reads that began before it was over end a little later.
            await asyncio.sleep(1)
            await self._order("end")

    async def finish(self) -> dict[str, int]:
        """Ends the load, has it judged, and returns what was counted."""
        process = self._process
        assert process and process.stdin and process.stdout
        process.stdin.write(b"stop\n")
        begun = time.monotonic()
        try:
            output, _ = await asyncio.wait_for(process.communicate(), VERDICT_TIMEOUT)
        except asyncio.TimeoutError:
            process.kill()
            raise Failed(f"no verdict within {VERDICT_TIMEOUT:.0f} s: {self._tail()}") from None
        self._cluster.tell(f"judged in {time.monotonic() - begun:.0f} s")
        if process.returncode != 0:
            raise Failed(f"the checker says (code {process.returncode}): {output.decode()}\n{self._tail()}")
        patient = json.loads(re.search(r"^patient (.*)$", output.decode(), re.MULTILINE)[1])  # type: ignore[index]
        self._cluster.tell(f"a client that sends again until it is done: {patient}")
        if patient["failed"] or not patient["acknowledged"]:
            raise Failed("an append failed for good, however often it was sent")
        return json.loads((self._directory / "verdict.json").read_text())["counts"]

    def abandon(self) -> None:
        if self._process and self._process.returncode is None:
            self._process.kill()

    async def _order(self, order: str, timeout: float = ORDER_TIMEOUT) -> str:
        process = self._process
        assert process and process.stdin and process.stdout
        process.stdin.write(order.encode() + b"\n")
        try:
            answer = await asyncio.wait_for(process.stdout.readline(), timeout)
        except asyncio.TimeoutError:
            raise Failed(f"the load does not answer to {order!r}") from None
        if not answer.startswith(b"ok"):
            raise Failed(f"the load answers {answer!r} to {order!r}: {self._tail()}")
        return answer.decode()[3:].strip()

    def _tail(self) -> str:
        return self._log.read_text(errors="replace")[-2000:]
