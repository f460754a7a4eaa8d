"""A pod, and what the kubelet does with it.

    start ──► startup probe ──► liveness and readiness probes ──┐
      ▲                              │ liveness fails           │ deleted
      └── back-off ◄── the process ends, or is made to          ▼
                                          preStop ► SIGTERM ► grace period ► SIGKILL ► gone

Invariants
- A pod that is deleted is never ready again, and is there until its process has ended.
- The grace period begins with the deletion: preStop takes from it.
- A container that is restarted keeps its pod's address and volumes; a new pod has neither,
  but for its claims.
"""

from __future__ import annotations

import asyncio
import itertools
import signal
import time
from pathlib import Path
from typing import Callable

from .container import Container
from .environment import environment
from .manifests import Manifests, Object, Unsupported, known, revision
from .network import Network, Sandbox
from .probes import Probe
from .volumes import Volumes

# After a container's first end it is started at once, then after these, doubling.
BACK_OFF_FIRST = 10.0
BACK_OFF_MAX = 300.0
# Of a container that ran so long the back-off is forgotten.
BACK_OFF_FORGET = 600.0
# What is left for SIGTERM where preStop has used up the grace period.
GRACE_MIN = 2.0

_uids = itertools.count(1)

POD_FIELDS = {
    "affinity", "automountServiceAccountToken", "containers", "enableServiceLinks", "securityContext",
    "serviceAccountName", "terminationGracePeriodSeconds", "topologySpreadConstraints", "volumes",
}  # fmt: skip
CONTAINER_FIELDS = {
    "args", "command", "env", "envFrom", "image", "imagePullPolicy", "lifecycle", "livenessProbe", "name", "ports",
    "readinessProbe", "resources", "securityContext", "startupProbe", "volumeMounts",
}  # fmt: skip


class World:
    """What pods are made of: shared by all of them."""

    def __init__(
        self, manifests: Manifests, network: Network, volumes: Volumes, image: Path, directory: Path, binaries: dict[str, Path],
        tell: Callable[[str], None],
    ) -> None:  # fmt: skip
        self.manifests, self.network, self.volumes = manifests, network, volumes
        self.image, self.directory, self.tell = image, directory, tell
        # What each image is: the program that is its entry point.
        self.binaries = binaries
        self.resolv_conf = directory / "resolv.conf"
        # What preStop hooks said that did not end well.
        self.failed_hooks: list[str] = []


class Pod:
    def __init__(self, world: World, name: str, namespace: str, template: Object, claims: list[Object]) -> None:
        self.name, self.namespace = name, namespace
        self.labels: Object = template["metadata"]["labels"]
        self.revision = revision(template)
        self.uid = f"{name}.{next(_uids)}"
        self.address: str | None = None
        self.ready_since: float | None = None
        self.deleted_at: float | None = None
        self.restarts = 0
        self.gone = asyncio.Event()
        self._world, self._spec, self._claims = world, template["spec"], claims
        self._container: Container | None = None
        self._probes: list[asyncio.Task[None]] = []
        self._life = asyncio.create_task(self._live())

    # --- what others see -------------------------------------------------------------

    @property
    def ready(self) -> bool:
        return self.ready_since is not None and self.deleted_at is None

    @property
    def terminating(self) -> bool:
        return self.deleted_at is not None

    def available(self, min_ready_seconds: float) -> bool:
        """Ready for so long without a break."""
        return self.ready and self.ready_since is not None and time.monotonic() - self.ready_since >= min_ready_seconds

    def delete(self, grace: float | None = None) -> None:
        """As `kubectl delete pod`: returns at once; `gone` says when it is."""
        if self.deleted_at is None:
            self.deleted_at = time.monotonic()
            self._say("deleted")
            asyncio.create_task(self._end(self._grace if grace is None else grace))

    def send_signal(self, number: signal.Signals) -> None:
        """A signal out of the blue: SIGKILL for a crash, SIGSTOP for one that hangs."""
        if self._container:
            self._container.send_signal(number)

    async def execute(self, command: list[str], timeout: float = 60) -> tuple[int, str]:
        """As `kubectl exec`."""
        if not self._container or not self._container.running:
            return 125, f"the container of {self.name} does not run"
        return await self._container.execute(command, timeout)

    def refresh(self, secret: str) -> None:
        """A Secret has changed: so do the files of the volumes that show it."""
        for volume in self._spec.get("volumes", []):
            if volume.get("secret", {}).get("secretName") == secret:
                self._world.volumes.republish(self.uid, volume, self._spec)

    # --- its life --------------------------------------------------------------------

    @property
    def _grace(self) -> float:
        return float(self._spec.get("terminationGracePeriodSeconds", 30))

    def _say(self, what: str) -> None:
        self._world.tell(f"{self.name} {what}")

    async def _live(self) -> None:
        try:
            known(f"the pod {self.name}", self._spec, POD_FIELDS)
            sandbox = await self._world.network.sandbox(self.name)
            self.address = sandbox.address
            try:
                container = self._container = self._make_container(sandbox)
                await self._run(container)
            finally:
                await sandbox.remove()
                self._world.volumes.detach(self.uid)
        except Exception as error:  # The simulation is wrong, not what it runs.
            self._say(f"BROKEN: {error!r}")
            raise
        finally:
            self.ready_since = None
            self.gone.set()

    def _make_container(self, sandbox: Sandbox) -> Container:
        (spec,) = self._spec["containers"]
        known(f"the container of {self.name}", spec, CONTAINER_FIELDS)
        directories = self._world.volumes.attach(self.name, self.uid, self._spec, self._claims)
        fields = {"metadata.name": self.name, "metadata.namespace": self.namespace, "status.podIP": sandbox.address}
        try:
            binary = self._world.binaries[spec["image"]]
        except KeyError:
            raise Unsupported(f"nobody said what the image {spec['image']} is") from None
        mounts = [(directories[mount["name"]], mount["mountPath"]) for mount in spec.get("volumeMounts", [])]
        mounts += [(binary, "/usr/local/bin/annals"), (self._world.resolv_conf, "/etc/resolv.conf")]
        return Container(
            spec, self._spec.get("securityContext", {}), self._world.image, ["/usr/local/bin/annals"],
            environment(spec, self._world.manifests, fields), mounts, sandbox,
            self._world.directory / "scratch" / self.uid, self._world.directory / f"{self.name}.log",
        )  # fmt: skip

    async def _run(self, container: Container) -> None:
        """Starts the container again and again, until the pod is deleted."""
        delay = 0.0
        while not self.terminating:
            begun = time.monotonic()
            await container.start()
            self._say(f"started at {self.address}")
            self._probes = [asyncio.create_task(self._probe(container))]
            code = await container.wait()
            self._stop_probes()
            self.ready_since = None
            if self.terminating:
                return
            self.restarts += 1
            if time.monotonic() - begun > BACK_OFF_FORGET:
                delay = 0.0
            self._say(f"ended by itself with {code}" + (f", back-off {delay:.0f} s" if delay else ""))
            deadline = time.monotonic() + delay
            while time.monotonic() < deadline and not self.terminating:
                await asyncio.sleep(0.1)
            delay = min(BACK_OFF_MAX, max(BACK_OFF_FIRST, delay * 2))

    def _stop_probes(self) -> None:
        for task in self._probes:
            task.cancel()
        self._probes = []

    async def _probe(self, container: Container) -> None:
        (spec,) = self._spec["containers"]
        ports = {port["name"]: port["containerPort"] for port in spec.get("ports", [])}
        assert self.address
        if "startupProbe" in spec and not await Probe.parse(spec["startupProbe"], ports).first_success(self.address):
            self._say("did not start: its startup probe failed")
            asyncio.create_task(self._stop(container, self._grace))
            return
        if "livenessProbe" in spec:
            probe = Probe.parse(spec["livenessProbe"], ports)
            self._probes.append(asyncio.create_task(probe.watch(self.address, self._liveness_changed, good=True)))
        if "readinessProbe" in spec:
            probe = Probe.parse(spec["readinessProbe"], ports)
            self._probes.append(asyncio.create_task(probe.watch(self.address, self._readiness_changed)))
        else:
            await self._readiness_changed(True)

    async def _liveness_changed(self, good: bool) -> None:
        if not good and self._container:
            self._say("is not alive: its liveness probe failed")
            asyncio.create_task(self._stop(self._container, self._grace))

    async def _readiness_changed(self, good: bool) -> None:
        self.ready_since = time.monotonic() if good else None
        if not self.terminating:
            self._say("ready" if good else "not ready")

    # --- its end ---------------------------------------------------------------------

    async def _end(self, grace: float) -> None:
        if self._container:
            await self._stop(self._container, grace)

    async def _stop(self, container: Container, grace: float) -> None:
        begun = time.monotonic()
        (spec,) = self._spec["containers"]
        hook = spec.get("lifecycle", {}).get("preStop")
        if hook and container.running and grace > 0:
            known("preStop", hook, {"exec"})
            code, output = await container.execute(hook["exec"]["command"], grace)
            took = time.monotonic() - begun
            if code == 0:
                self._say(f"preStop done in {took:.1f} s")
            else:  # The kubelet tells an event of it, and goes on.
                event = f"FailedPreStopHook after {took:.1f} s, code {code}: {output[-300:]}"
                self._world.failed_hooks.append(f"{self.name}: {event}")
                self._say(event)
        # Without a grace period, as `kubectl delete --grace-period=0 --force`.
        if grace > 0:
            container.send_signal(signal.SIGTERM)
            deadline = max(begun + grace, time.monotonic() + GRACE_MIN)
            while container.running and time.monotonic() < deadline:
                await asyncio.sleep(0.05)
        if container.running:
            if grace > 0:
                self._say("killed: it did not end within its grace period")
            container.send_signal(signal.SIGKILL)
