"""The command line of Annals as a client: one append after the other, and a count."""

from __future__ import annotations

import asyncio
import json
import os
import time

from .cluster import Cluster, Failed

STREAM = "orders-1"


class CommandLine:
    def __init__(self, cluster: Cluster, url: str, environment: dict[str, str] | None = None) -> None:
        self._cluster, self._url = cluster, url
        self._environment = os.environ | (environment or {})
        self._stopped = False
        self._appended = 0

    async def until_it_works(self, seconds: float) -> None:
        """The first account is made a moment after the first leader is there."""
        deadline = time.monotonic() + seconds
        while True:
            code, output = await self._annals("user", "show", "admin")
            if code == 0:
                return
            if time.monotonic() > deadline:
                raise Failed(f"no administrator within {seconds:.0f} s: {output}")
            await asyncio.sleep(0.2)

    async def append_until_stopped(self) -> None:
        """Nothing may fail, and nothing is sent twice."""
        while not self._stopped:
            code, output = await self._annals("stream", "append", STREAM, "--type", "OrderPlaced", "--data", "{}")
            if code != 0:
                raise Failed(f"an append failed after {self._appended}: code {code}: {output}")
            self._appended += 1

    def stop(self) -> None:
        self._stopped = True

    async def verify(self) -> None:
        """Every append is there, once."""
        code, output = await self._annals("stream", "read", STREAM, "--limit", "1000000", "-o", "json")
        if code != 0:
            raise Failed(f"cannot read what was appended: code {code}: {output}")
        found = len([line for line in output.splitlines() if line.startswith("{") and json.loads(line)])
        self._cluster.tell(f"{self._appended} appended, {found} read")
        if found != self._appended or found == 0:
            raise Failed(f"{self._appended} events were appended and {found} are there")

    async def lines(self, *arguments: str) -> list[str]:
        """What a command prints for programs, one object a line."""
        code, output = await self._annals(*arguments, "-o", "json")
        if code != 0:
            raise Failed(f"annals {' '.join(arguments)}: code {code}: {output}")
        return output.splitlines()

    async def _annals(self, *arguments: str) -> tuple[int, str]:
        process = await asyncio.create_subprocess_exec(
            str(self._cluster.binary), *arguments, "--server", self._url,
            stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
            env=self._environment,
        )  # fmt: skip
        output, errors = await asyncio.wait_for(process.communicate(), 60)
        assert process.returncode is not None
        return process.returncode, (output if process.returncode == 0 else errors).decode(errors="replace")
