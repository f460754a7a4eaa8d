"""Probes exactly as they are written: period, timeout, thresholds, scheme.

As of the kubelet: the first probe comes after `initialDelaySeconds` and up to one
period later; a code from 200 to 399 is a success; certificates are not verified; a
number of results in a row as large as the threshold changes the state.
"""

from __future__ import annotations

import asyncio
import random
import ssl
from dataclasses import dataclass
from typing import Awaitable, Callable

from .manifests import Object, known


@dataclass(frozen=True)
class Probe:
    path: str
    port: int
    tls: bool
    initial_delay: float
    period: float
    timeout: float
    failures: int
    successes: int

    @classmethod
    def parse(cls, probe: Object, ports: dict[str, int]) -> "Probe":
        known("probe", probe, {
            "httpGet", "initialDelaySeconds", "periodSeconds", "timeoutSeconds", "failureThreshold", "successThreshold",
        })  # fmt: skip
        get = probe["httpGet"]
        known("httpGet", get, {"path", "port", "scheme"})
        port = get["port"]
        return cls(
            path=get["path"],
            port=ports[port] if isinstance(port, str) else port,
            tls=get.get("scheme", "HTTP") == "HTTPS",
            initial_delay=probe.get("initialDelaySeconds", 0),
            period=probe.get("periodSeconds", 10),
            timeout=probe.get("timeoutSeconds", 1),
            failures=probe.get("failureThreshold", 3),
            successes=probe.get("successThreshold", 1),
        )

    async def ask(self, address: str) -> bool:
        try:
            return 200 <= await asyncio.wait_for(self._status(address), self.timeout) < 400
        except (OSError, asyncio.TimeoutError, ValueError, IndexError):
            return False

    async def _status(self, address: str) -> int:
        context = None
        if self.tls:
            context = ssl.create_default_context()
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        reader, writer = await asyncio.open_connection(address, self.port, ssl=context)
        try:
            writer.write(
                f"GET {self.path} HTTP/1.1\r\nHost: {address}:{self.port}\r\n"
                "User-Agent: kube-probe/1.33\r\nAccept: */*\r\nConnection: close\r\n\r\n".encode()
            )
            return int((await reader.readline()).split()[1])
        finally:
            writer.close()

    async def watch(self, address: str, changed: Callable[[bool], Awaitable[None]], good: bool = False) -> None:
        """Asks until it is cancelled. `changed` is told of each change, beginning from `good`."""
        await asyncio.sleep(self.initial_delay + random.uniform(0, min(self.period, 1)))
        in_a_row = 0
        while True:
            if await self.ask(address) == good:
                in_a_row = 0
            else:
                in_a_row += 1
                if in_a_row >= (self.failures if good else self.successes):
                    good, in_a_row = not good, 0
                    await changed(good)
            await asyncio.sleep(self.period)

    async def first_success(self, address: str) -> bool:
        """Asks until it succeeds (true) or has failed too often (false): a startup probe."""
        await asyncio.sleep(self.initial_delay)
        for _ in range(self.failures):
            if await self.ask(address):
                return True
            await asyncio.sleep(self.period)
        return False
