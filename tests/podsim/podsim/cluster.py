"""A namespace of Kubernetes with one set of manifests in it, and the hands of an operator.

What `kubectl` would do is a method here, and is told on the way, with the time.
"""

from __future__ import annotations

import asyncio
import shutil
import sys
import time
from pathlib import Path
from typing import Any, Callable

from .dns import Server, resolv_conf
from .job import Job
from .manifests import Manifests, Object, selects
from .network import NODE, Network
from .pod import Pod, World
from .probes import Probe
from .services import Publisher
from .statefulset import StatefulSet
from .volumes import Volumes


class Failed(Exception):
    """What a scenario demands did not happen."""


async def no() -> bool:
    return False


class Cluster:
    def __init__(self, manifests: Manifests, network: Network, image: Path, binary: Path, directory: Path) -> None:
        self.manifests, self.directory, self.binary = manifests, directory, binary
        self._begun = time.monotonic()
        self._world = World(manifests, network, Volumes(directory, manifests), image, directory, {}, self.tell)
        self.sets = {o["metadata"]["name"]: StatefulSet(self._world, o) for o in manifests.of_kind("StatefulSet")}
        for one in self.sets.values():
            for container in one.spec["template"]["spec"]["containers"]:
                self._world.binaries[container["image"]] = binary
        self.voters = self.sets["annals"]
        self._dns = Server()
        self.publisher = Publisher(self._dns, lag=1.0)
        self._tasks: list[asyncio.Task[Any]] = []
        # The voters that do not serve at the moment, and the most of them at a time.
        self.down: set[str] = set()
        self.most_down = 0
        self._world.resolv_conf.write_text(resolv_conf(NODE, self.voters.namespace))

    # --- its life --------------------------------------------------------------------

    async def apply(self) -> None:
        """`kubectl apply` of everything. Returns at once."""
        await self._dns.start(NODE)
        services = list(self.manifests.of_kind("Service"))
        self._tasks.append(asyncio.create_task(self.publisher.publish(services, self.pods)))
        self._tasks += [asyncio.create_task(one.control()) for one in self.sets.values()]
        self._tasks += [asyncio.create_task(self._watch()), asyncio.create_task(self._count_down())]

    async def remove(self) -> None:
        """Ends everything, without ceremony."""
        for task in self._tasks:
            task.cancel()
        for pod in self.pods():
            pod.delete(grace=0)
        await asyncio.gather(*(pod.gone.wait() for pod in self.pods()))
        await self._dns.stop()

    async def _watch(self) -> None:
        while True:
            for task in self._tasks:
                if task.done() and not task.cancelled() and task.exception():
                    self.tell(f"BROKEN: {task.exception()!r}")
                    sys.exit(70)
            await asyncio.sleep(0.2)

    async def _count_down(self) -> None:
        """Asks every voter by itself whether it serves. A pod that Kubernetes takes for
        terminating may do so for long: while it waits for its turn to drain."""
        (container,) = self.voters.spec["template"]["spec"]["containers"]
        ports = {port["name"]: port["containerPort"] for port in container["ports"]}
        probe = Probe.parse(container["readinessProbe"], ports)
        while True:
            pods = {f"{self.voters.name}-{o}": self.voters.pods.get(o) for o in range(self.voters.replicas)}
            serves = await asyncio.gather(*(probe.ask(pod.address) if pod and pod.address else no() for pod in pods.values()))
            self.down = {name for name, good in zip(pods, serves) if not good}
            self.most_down = max(self.most_down, len(self.down))
            await asyncio.sleep(0.2)

    def tell(self, what: str) -> None:
        print(f"  {time.monotonic() - self._begun:7.1f} s  {what}", flush=True)

    @property
    def failed_hooks(self) -> list[str]:
        return self._world.failed_hooks

    # --- what there is ---------------------------------------------------------------

    def pods(self) -> list[Pod]:
        return [pod for one in self.sets.values() for pod in one.pods.values()]

    def pod(self, ordinal: int) -> Pod:
        return self.voters.pods[ordinal]

    def address(self, ordinal: int) -> str:
        """By what clients call a node: its name, whatever is behind it."""
        return f"annals-{ordinal}.{self.voters.service}.{self.voters.namespace}.svc:2113"

    async def until(self, what: str, holds: Callable[[], bool], seconds: float) -> float:
        """Waits until something holds, and says how long that took."""
        begun = time.monotonic()
        while not holds():
            if time.monotonic() - begun > seconds:
                raise Failed(f"not within {seconds:.0f} s: {what}")
            await asyncio.sleep(0.05)
        took = time.monotonic() - begun
        self.tell(f"{what}: after {took:.1f} s")
        return took

    async def until_ready(self, seconds: float = 60) -> float:
        return await self.until("all pods are ready", self.all_ready, seconds)

    def all_ready(self) -> bool:
        return all(len(s.pods) == s.replicas and all(p.ready for p in s.pods.values()) for s in self.sets.values())

    # --- what operators do -------------------------------------------------------------

    async def annals(
        self, ordinal: int, *arguments: str, timeout: float = 60, check: bool = True, quiet: bool = False
    ) -> str:
        """`kubectl exec annals-N -- annals …`."""
        code, output = await self.pod(ordinal).execute(["/usr/local/bin/annals", *arguments], timeout)
        if not quiet:
            came = "done" if code == 0 else f"code {code}"
            self.tell(f"kubectl exec annals-{ordinal} -- annals {' '.join(arguments)}: {came}")
        if check and code != 0:
            raise Failed(f"annals {' '.join(arguments)} in annals-{ordinal}: code {code}: {output}")
        return output

    async def rollout_restart(self, seconds: float) -> float:
        """`kubectl rollout restart`, and `status` until it is through."""
        annotations = self.voters.spec["template"]["metadata"].setdefault("annotations", {})
        annotations["kubectl.kubernetes.io/restartedAt"] = str(time.monotonic())
        self.tell("kubectl rollout restart statefulset/annals")
        return await self.until("the rollout is through", self.voters.updated, seconds)

    def set_image(self, image: str, binary: Path) -> None:
        """Another image, which is this program."""
        self._world.binaries[image] = binary
        for container in self.voters.spec["template"]["spec"]["containers"]:
            container["image"] = image
        self.tell(f"kubectl set image statefulset/annals annals={image}")

    async def delete_pod(self, ordinal: int, grace: float | None = None) -> None:
        """`kubectl delete pod`: returns when it is gone."""
        pod = self.pod(ordinal)
        pod.delete(grace)
        await pod.gone.wait()

    async def lose_volume(self, ordinal: int) -> None:
        """The machine with the pod and its volume is gone, without a word."""
        for claim in self.voters.claim_names(ordinal):
            self.delete_claim(claim)
        await self.delete_pod(ordinal, grace=0)

    async def lose_everything(self) -> None:
        """All machines with all pods and volumes are gone. Nobody makes pods anew: the set
        has been scaled to none before."""
        self.voters.scale(0)
        claims = [claim for ordinal in self.voters.pods for claim in self.voters.claim_names(ordinal)]
        await asyncio.gather(*(self.delete_pod(ordinal, grace=0) for ordinal in list(self.voters.pods)))
        for claim in claims:
            self.delete_claim(claim)

    async def run_job(self, name: str, spec: Object) -> None:
        """`kubectl create job`, or `apply` of one, and `wait --for=condition=complete`."""
        self._world.binaries.setdefault(spec["template"]["spec"]["containers"][0]["image"], self.binary)
        code, said = await Job(self._world, name, self.voters.namespace, spec).run()
        if code != 0:
            raise Failed(f"the job {name} failed with code {code}: {said}")

    def delete_claim(self, name: str) -> None:
        self._world.volumes.delete_claim(name)
        self.tell(f"the volume of the claim {name} is gone")

    async def evict(self, pod: Pod) -> bool:
        """The eviction API: refused where the PodDisruptionBudget has nothing left."""
        for budget in self.manifests.of_kind("PodDisruptionBudget"):
            if not selects(budget["spec"]["selector"]["matchLabels"], pod.labels):
                continue
            same = [p for p in self.pods() if selects(budget["spec"]["selector"]["matchLabels"], p.labels)]
            expected = sum(s.replicas for s in self.sets.values() if any(p in s.pods.values() for p in same))
            healthy = sum(p.ready for p in same)
            if healthy - 1 < expected - budget["spec"]["maxUnavailable"]:
                return False
        pod.delete()
        return True

    def secret_changed(self, secret: Object) -> None:
        """New contents of a Secret, which the kubelet brings to the pods that show it."""
        name = secret["metadata"]["name"]
        self.manifests.objects = [o for o in self.manifests.objects if (o["kind"], o["metadata"]["name"]) != ("Secret", name)]
        self.manifests.add(secret)
        for pod in self.pods():
            pod.refresh(name)
        self.tell(f"the Secret {name} has changed")


def fresh(directory: Path) -> Path:
    """An empty directory."""
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    return directory
