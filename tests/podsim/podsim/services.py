"""Services: which pods have which names at the moment.

A headless service names each of its pods (A) and all of them with port (SRV); those
that are not ready only with `publishNotReadyAddresses`, and then until they are gone.
A ClusterIP is one address that leads to any pod that is ready; here its name simply has
the addresses of all of them. Changes reach DNS after `lag` seconds, as they do where
endpoints, their controller and CoreDNS each take their time.
"""

from __future__ import annotations

import asyncio
from typing import Callable, Iterable

from .dns import DOMAIN, Records, Server
from .manifests import Object, known, selects
from .pod import Pod

PERIOD = 0.1  # seconds
FIELDS = {"clusterIP", "ports", "publishNotReadyAddresses", "selector"}


def records(services: Iterable[Object], pods: list[Pod]) -> Records:
    """What DNS would know of these pods."""
    found = Records()
    for service in services:
        spec = service["spec"]
        known(f"the Service {service['metadata']['name']}", spec, FIELDS)
        name = f"{service['metadata']['name']}.{service['metadata']['namespace']}.svc.{DOMAIN}"
        chosen = [
            pod
            for pod in pods
            if selects(spec["selector"], pod.labels)
            and pod.address
            and not pod.gone.is_set()
            and (pod.ready or spec.get("publishNotReadyAddresses"))
        ]
        found.addresses[name] = [pod.address for pod in chosen if pod.address]
        if spec.get("clusterIP") != "None":
            continue
        for pod in chosen:
            assert pod.address
            found.addresses[f"{pod.name}.{name}"] = [pod.address]
        for port in spec["ports"]:
            # Headless services have no ports of their own: the pods' ports count.
            protocol = port.get("protocol", "TCP").lower()
            targets = [(f"{pod.name}.{name}", port["port"]) for pod in chosen]
            found.services[f"_{port['name']}._{protocol}.{name}"] = targets
    return found


class Publisher:
    """Keeps DNS as services and pods are, `lag` seconds late."""

    def __init__(self, server: Server, lag: float) -> None:
        self._server = server
        self.lag = lag

    async def publish(self, services: list[Object], pods: Callable[[], list[Pod]]) -> None:
        while True:
            asyncio.get_running_loop().call_later(self.lag, self._set, records(services, pods()))
            await asyncio.sleep(PERIOD)

    def _set(self, current: Records) -> None:
        self._server.records = current

