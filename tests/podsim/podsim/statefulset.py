"""The StatefulSet controller, for `podManagementPolicy: Parallel`.

Read from Kubernetes' `stateful_set_control.go`, including what surprises:

- Missing pods are made at once, whatever the state of the others.
- A rolling update goes from the highest ordinal to the lowest. A pod that has the new
  template and is not available holds it up; one with the old template that is not ready
  does not (kubernetes#96218). It deletes pods and does not evict them: no
  PodDisruptionBudget is asked.
- Scaling down deletes the highest pods, all at once, ready or not.
- So a pod from a broken template is replaced once the template is put right. (With
  `OrderedReady` somebody has to delete it: kubernetes#67250.)
- Claims stay, unless `persistentVolumeClaimRetentionPolicy` says otherwise.
"""

from __future__ import annotations

import asyncio

from .manifests import Object, Unsupported, known, revision
from .pod import Pod, World

PERIOD = 0.2  # seconds; a real one is woken by what happens

FIELDS = {
    "minReadySeconds", "persistentVolumeClaimRetentionPolicy", "podManagementPolicy", "replicas", "selector",
    "serviceName", "template", "updateStrategy", "volumeClaimTemplates",
}  # fmt: skip


class StatefulSet:
    def __init__(self, world: World, object: Object) -> None:
        self.name: str = object["metadata"]["name"]
        self.namespace: str = object["metadata"]["namespace"]
        self.spec: Object = object["spec"]
        self.pods: dict[int, Pod] = {}
        self._world = world
        known(f"the StatefulSet {self.name}", self.spec, FIELDS)
        if self.spec.get("podManagementPolicy") != "Parallel":
            raise Unsupported("podManagementPolicy other than Parallel")
        if self.spec.get("updateStrategy", {"type": "RollingUpdate"}) != {"type": "RollingUpdate"}:
            raise Unsupported(f"updateStrategy {self.spec['updateStrategy']}")

    @property
    def replicas(self) -> int:
        return self.spec["replicas"]

    @property
    def service(self) -> str:
        return self.spec["serviceName"]

    def scale(self, replicas: int) -> None:
        self.spec["replicas"] = replicas
        self._world.tell(f"kubectl scale statefulset/{self.name} --replicas={replicas}")

    def claim_names(self, ordinal: int) -> list[str]:
        templates = self.spec.get("volumeClaimTemplates", [])
        return [f"{template['metadata']['name']}-{self.name}-{ordinal}" for template in templates]

    def updated(self) -> bool:
        """What `kubectl rollout status` waits for."""
        wanted = revision(self.spec["template"])
        return len(self.pods) == self.replicas and all(
            pod.revision == wanted and pod.available(self._min_ready) for pod in self.pods.values()
        )

    @property
    def _min_ready(self) -> float:
        return float(self.spec.get("minReadySeconds", 0))

    async def control(self) -> None:
        while True:
            self._reconcile()
            await asyncio.sleep(PERIOD)

    def _reconcile(self) -> None:
        for ordinal, pod in list(self.pods.items()):
            if pod.gone.is_set():
                del self.pods[ordinal]
                if ordinal >= self.replicas:
                    self._release(ordinal)
        for ordinal in range(self.replicas):
            if ordinal not in self.pods:
                self.pods[ordinal] = self._make(ordinal)
        for ordinal in sorted(self.pods, reverse=True):
            if ordinal >= self.replicas:
                self.pods[ordinal].delete()
        self._update()

    def _make(self, ordinal: int) -> Pod:
        claims = self.spec.get("volumeClaimTemplates", [])
        return Pod(self._world, f"{self.name}-{ordinal}", self.namespace, self.spec["template"], claims)

    def _release(self, ordinal: int) -> None:
        if self.spec.get("persistentVolumeClaimRetentionPolicy", {}).get("whenScaled", "Retain") == "Delete":
            for claim in self.claim_names(ordinal):
                self._world.volumes.delete_claim(claim)

    def _update(self) -> None:
        wanted = revision(self.spec["template"])
        for ordinal in sorted((o for o in self.pods if o < self.replicas), reverse=True):
            pod = self.pods[ordinal]
            if pod.revision != wanted and not pod.terminating:
                pod.delete()
                return
            if not pod.available(self._min_ready):
                return
