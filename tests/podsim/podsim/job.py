"""A Job: a pod that is to end well, tried again as often as `backoffLimit` says.

`restartPolicy: Never`, so each attempt is a pod of its own: another address, the same
claims, nothing else. The pause before an attempt doubles from 10 s on, as of the Job
controller; here it is a tenth of that.
"""

from __future__ import annotations

import asyncio
import itertools

from .container import Container
from .environment import environment
from .manifests import Object, Unsupported, known
from .pod import CONTAINER_FIELDS, POD_FIELDS, World

BACK_OFF_FIRST = 1.0

_numbers = itertools.count(1)

JOB_FIELDS = {"activeDeadlineSeconds", "backoffLimit", "template"}


class Job:
    def __init__(self, world: World, name: str, namespace: str, spec: Object) -> None:
        known(f"the Job {name}", spec, JOB_FIELDS)
        self.name, self._namespace, self._world = name, namespace, world
        self._template, self._retries = spec["template"], spec.get("backoffLimit", 6)
        self._seconds: float = spec.get("activeDeadlineSeconds", 3600)

    async def run(self) -> tuple[int, str]:
        """Its exit code in the end, and what the last attempt said."""
        pod = self._template["spec"]
        known(f"the pod of {self.name}", pod, POD_FIELDS | {"restartPolicy"})
        if pod.get("restartPolicy") != "Never":
            raise Unsupported(f"restartPolicy {pod.get('restartPolicy')} of {self.name}")
        delay = BACK_OFF_FIRST
        for attempt in range(self._retries + 1):
            code, said = await self._attempt(pod)
            self._world.tell(f"job {self.name}, attempt {attempt + 1}: code {code}")
            if code == 0:
                break
            await asyncio.sleep(delay)
            delay *= 2
        return code, said

    async def _attempt(self, pod: Object) -> tuple[int, str]:
        (spec,) = pod["containers"]
        known(f"the container of {self.name}", spec, CONTAINER_FIELDS)
        name = f"{self.name}-{next(_numbers)}"
        sandbox = await self._world.network.sandbox(name)
        directories = self._world.volumes.attach(name, name, pod, [])
        try:
            fields = {"metadata.name": name, "metadata.namespace": self._namespace, "status.podIP": sandbox.address}
            mounts = [(directories[mount["name"]], mount["mountPath"]) for mount in spec.get("volumeMounts", [])]
            binary = self._world.binaries[spec["image"]]
            mounts += [(binary, "/usr/local/bin/annals"), (self._world.resolv_conf, "/etc/resolv.conf")]
            log = self._world.directory / f"{name}.log"
            container = Container(
                spec, pod.get("securityContext", {}), self._world.image, ["/usr/local/bin/annals"],
                environment(spec, self._world.manifests, fields), mounts, sandbox,
                self._world.directory / "scratch" / name, log,
            )  # fmt: skip
            await container.start()
            assert container.process
            try:
                code = await asyncio.wait_for(container.wait(), self._seconds)
            except asyncio.TimeoutError:
                container.process.kill()
                code = await container.wait()
            return code, log.read_text(errors="replace")[-2000:]
        finally:
            await sandbox.remove()
            self._world.volumes.detach(name)
