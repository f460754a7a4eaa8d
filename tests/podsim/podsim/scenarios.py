"""What is done to a cluster, and what must hold. One function per scenario.

Every scenario begins with the manifests freshly applied and ends with the judgement of
the load, which is no part of it: nothing acknowledged lost, doubled, reordered or shown
too early, and every subscription saw everything. What a scenario demands beyond that it
says by raising `Failed`.
"""

from __future__ import annotations

import asyncio
import json
import signal
import ssl
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Coroutine

from .bucket import Bucket
from .certificates import Authority
from .cluster import Cluster, Failed
from .command_line import CommandLine
from .load import Load
from .manifests import Manifests, Object
from .network import NODE
from .volumes import secret

# Each step of scaling may take so long, until all nodes are voters and serve.
SCALE_STEP = 30.0
# preStop (80 s at most), a start, probes and minReadySeconds, for each pod.
ROLL_PER_POD = 130.0
REPLICAS = Path(__file__).parents[3] / "deploy/k8s/components/replicas"
LOADED = 5.0  # seconds of load without disturbance, before and after


Steps = Callable[[Cluster, Load], Coroutine[Any, Any, None]]


@dataclass(frozen=True)
class Scenario:
    name: str
    about: str
    run: Steps
    prepare: Callable[[Manifests], None] = lambda manifests: None
    # Which of deploy/k8s/dist, and whether the load of jepsen-tests runs, which knows no TLS.
    overlay: str = "ha"
    judged: bool = True


SCENARIOS: list[Scenario] = []


def scenario(about: str, **more: Any) -> Callable[[Steps], Steps]:
    """What follows is a scenario, by its own name."""

    def register(run: Steps) -> Steps:
        SCENARIOS.append(Scenario(run.__name__.replace("_", "-"), about, run, **more))
        return run

    return register


def demand(holds: bool, otherwise: str) -> None:
    if not holds:
        raise Failed(otherwise)


async def loaded(cluster: Cluster, load: Load, within: float = 60) -> None:
    """All pods are ready, and clients are at work."""
    await cluster.until_ready(within)
    await load.start(sorted(cluster.voters.pods))
    await asyncio.sleep(LOADED)
    cluster.most_down = 0


def one_at_a_time(cluster: Cluster) -> None:
    """What the maintenance lease promises, and that it never took too long to get it."""
    demand(cluster.most_down <= 1, f"{cluster.most_down} nodes were down at a time")
    demand(not cluster.failed_hooks, f"a drain failed: {cluster.failed_hooks}")


# --- starts and stops --------------------------------------------------------------


@scenario("three empty volumes, three pods at once: one cluster")
async def cold_start(cluster: Cluster, load: Load) -> None:
    await loaded(cluster, load)
    demand(await voters(cluster, 0) == 3, "there are not three voters")


@scenario("every process is killed at once, and every pod started again with its volume")
async def all_killed(cluster: Cluster, load: Load) -> None:
    await loaded(cluster, load)
    async with load.during("kill-all", [0, 1, 2]):
        for pod in cluster.pods():
            pod.send_signal(signal.SIGKILL)
        await asyncio.sleep(0.5)
        await cluster.until_ready()
    await asyncio.sleep(LOADED)


@scenario("all pods are replaced at once without notice: every address changes")
async def new_addresses(cluster: Cluster, load: Load) -> None:
    await loaded(cluster, load)
    before = {pod.address for pod in cluster.pods()}
    async with load.during("new-addresses", [0, 1, 2]):
        await asyncio.gather(*(cluster.delete_pod(ordinal, grace=0) for ordinal in range(3)))
        await asyncio.sleep(0.5)
        await cluster.until_ready()
    demand(before.isdisjoint(pod.address for pod in cluster.pods()), "an address was used again")
    await asyncio.sleep(LOADED)


@scenario("the same while DNS is ten seconds late")
async def late_dns(cluster: Cluster, load: Load) -> None:
    cluster.publisher.lag = 10.0
    await new_addresses(cluster, load)


# --- rolling updates ---------------------------------------------------------------


@scenario("kubectl rollout restart: never two nodes down")
async def rolling_restart(cluster: Cluster, load: Load) -> None:
    await loaded(cluster, load)
    async with load.during("rolling-restart", [0, 1, 2]):
        await cluster.rollout_restart(3 * ROLL_PER_POD)
    one_at_a_time(cluster)
    await asyncio.sleep(LOADED)


@scenario("a rollout begins while a node hangs: the drain of the next one waits for it")
async def rolling_while_one_hangs(cluster: Cluster, load: Load) -> None:
    await loaded(cluster, load)
    async with load.during("rolling-while-one-hangs", [0, 1, 2]):
        cluster.tell("annals-0 hangs")
        cluster.pod(0).send_signal(signal.SIGSTOP)
        await cluster.until("annals-0 is not ready", lambda: not cluster.pod(0).ready, 40)

        async def cure() -> None:
            # Before its liveness probe has failed for a minute.
            await asyncio.sleep(15)
            cluster.tell("annals-0 goes on")
            cluster.pod(0).send_signal(signal.SIGCONT)

        healing = asyncio.create_task(cure())
        await cluster.rollout_restart(3 * ROLL_PER_POD)
        await healing
    one_at_a_time(cluster)
    await asyncio.sleep(LOADED)


@scenario("an image that does not start stops the rollout at one pod; rolled back")
async def bad_image(cluster: Cluster, load: Load) -> None:
    await loaded(cluster, load)
    (container,) = cluster.voters.spec["template"]["spec"]["containers"]
    good = container["image"]
    broken = cluster.directory / "broken"
    broken.write_text("#!/does/not/exist\n")
    broken.chmod(0o755)
    async with load.during("bad-image", [0, 1, 2]):
        cluster.set_image("annals/annals:broken", broken)
        await cluster.until("annals-2 fails again and again", lambda: cluster.pod(2).restarts >= 3, ROLL_PER_POD)
        demand(cluster.pod(0).ready and cluster.pod(1).ready, "the rollout went on past a broken pod")
        container["image"] = good
        cluster.tell("kubectl rollout undo statefulset/annals")
        await cluster.until("the rollout is undone", cluster.voters.updated, ROLL_PER_POD)
    one_at_a_time(cluster)
    await asyncio.sleep(LOADED)


# --- evictions ---------------------------------------------------------------------


@scenario("two machines are drained at once: the PodDisruptionBudget makes it one after the other")
async def two_evictions(cluster: Cluster, load: Load) -> None:
    await loaded(cluster, load)

    async def drain_machine_of(ordinal: int) -> None:
        pod = cluster.pod(ordinal)
        refused = 0
        while not await cluster.evict(pod):  # kubectl drain tries again every 5 s
            refused += 1
            await asyncio.sleep(5)
        cluster.tell(f"{pod.name} evicted after {refused} refusals")
        await pod.gone.wait()

    async with load.during("two-evictions", [0, 1, 2]):
        await asyncio.gather(drain_machine_of(0), drain_machine_of(1))
        await cluster.until_ready(ROLL_PER_POD)
    one_at_a_time(cluster)
    await asyncio.sleep(LOADED)


@scenario("two pods are deleted at once, past the budget: the lease makes it one after the other")
async def two_deletions(cluster: Cluster, load: Load) -> None:
    await loaded(cluster, load)
    async with load.during("two-deletions", [0, 1, 2]):
        await asyncio.gather(cluster.delete_pod(0), cluster.delete_pod(1))
        await cluster.until_ready(ROLL_PER_POD)
    one_at_a_time(cluster)
    await asyncio.sleep(LOADED)


# --- membership ---------------------------------------------------------------------


async def members(cluster: Cluster, ordinal: int) -> list[Object]:
    """The members that a node knows of; none when it does not say."""
    output = await cluster.annals(ordinal, "cluster", "status", "-o", "json", check=False, quiet=True)
    try:
        nodes: list[Object] = json.loads(output)["nodes"]
    except (ValueError, KeyError):
        return []
    return nodes


async def voters(cluster: Cluster, ordinal: int) -> int:
    return sum(bool(node["voter"]) for node in await members(cluster, ordinal))


async def until_voters(cluster: Cluster, count: int, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while await voters(cluster, 0) != count or not all(pod.ready for pod in cluster.voters.pods.values()):
        demand(time.monotonic() < deadline, f"there are not {count} voters within {seconds:.0f} s")
        await asyncio.sleep(0.5)


def of_one(manifests: Manifests) -> None:
    manifests.get("StatefulSet", "annals")["spec"]["replicas"] = 1
    manifests.get("ConfigMap", "annals")["data"]["ANNALS_BOOTSTRAP_EXPECT"] = "1"


@scenario("1, 3, 5, 3, 1 nodes, under load: no step takes more than 30 s", prepare=of_one)
async def scale(cluster: Cluster, load: Load) -> None:
    await loaded(cluster, load)
    size = 1
    for wanted in (3, 5, 3, 1):
        begun = time.monotonic()
        async with load.during(f"scale-{size}-{wanted}", list(range(max(size, wanted)))):
            if wanted > size:
                cluster.voters.scale(wanted)
                await cluster.until("pods are there", lambda: len(cluster.voters.pods) == wanted, 10)
            else:
                for ordinal in range(wanted, size):
                    await load.drop(ordinal)
                await cluster.annals(0, "cluster", "scale", str(wanted), "--yes", timeout=SCALE_STEP)
                cluster.voters.scale(wanted)
            await until_voters(cluster, wanted, SCALE_STEP)
            took = time.monotonic() - begun
            cluster.tell(f"{size} to {wanted} nodes: {took:.1f} s")
            if wanted > size:
                for ordinal in range(size, wanted):
                    await load.add(ordinal)
            else:
                await cluster.until("pods are gone", lambda: len(cluster.voters.pods) == wanted, 150)
                # As the documentation says: a volume of a node that was removed is deleted.
                for ordinal in range(wanted, size):
                    for claim in cluster.voters.claim_names(ordinal):
                        cluster.delete_claim(claim)
        demand(took <= SCALE_STEP, f"{size} to {wanted} nodes took {took:.1f} s")
        await asyncio.sleep(LOADED)
        size = wanted


@scenario("a volume is lost: its node waits, is replaced by word of an operator, and catches up")
async def lost_volume(cluster: Cluster, load: Load) -> None:
    await loaded(cluster, load)
    async with load.during("lost-volume", [1]):
        await load.drop(1)
        await cluster.lose_volume(1)
        await asyncio.sleep(20)
        demand(not cluster.pod(1).ready, "a node without its volume became a member by itself")
        await cluster.annals(0, "cluster", "replace", "annals-1", "--with", cluster.address(1), timeout=120)
        await cluster.until("annals-1 is ready", lambda: cluster.pod(1).ready, 60)
        await until_voters(cluster, 3, 60)
        await load.add(1)
    await asyncio.sleep(LOADED)


def with_replicas(manifests: Manifests) -> None:
    """The component replicas, which no committed rendering has."""
    for name in ("services", "statefulset", "poddisruptionbudget"):
        for object in Manifests.load(REPLICAS / f"{name}.yaml").objects:
            object["metadata"]["namespace"] = "annals"
            manifests.add(object)


@scenario("read replicas come and go at will, and never vote", prepare=with_replicas)
async def replicas(cluster: Cluster, load: Load) -> None:
    await loaded(cluster, load, 90)
    demand(await voters(cluster, 0) == 3, "a replica has a vote, or a voter has none")
    replicas = cluster.sets["annals-replica"]
    async with load.during("replicas", [0]):
        for wanted in (3, 1):
            replicas.scale(wanted)
            await cluster.until(f"{wanted} replicas are there", lambda: len(replicas.pods) == wanted, 150)
            await cluster.until_ready()
            await until_members(cluster, 3 + wanted, 30)
        # What a kubelet does after a failed liveness probe: the container starts again, in its pod.
        (replica,) = replicas.pods.values()
        replica.send_signal(signal.SIGTERM)
        await cluster.until("the replica was started again", lambda: replica.restarts == 1, 60)
        await cluster.until_ready()
        await until_members(cluster, 4, 30)
    demand(await voters(cluster, 0) == 3, "a replica has a vote, or a voter has none")
    await asyncio.sleep(LOADED)


async def until_members(cluster: Cluster, count: int, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while len(await members(cluster, 0)) != count:
        demand(time.monotonic() < deadline, f"there are not {count} members within {seconds:.0f} s")
        await asyncio.sleep(0.5)


# --- backups -------------------------------------------------------------------------

HERE = Path(__file__).parents[1]
RESTORE_WITHIN = 60.0  # seconds, of three nodes, after the volume is restored


def rendered(kustomization: Path) -> Manifests:
    """What `kubectl apply -k` would apply."""
    try:
        done = subprocess.run(["kubectl", "kustomize", str(kustomization)], capture_output=True, text=True, check=True)
    except FileNotFoundError:
        raise Failed("kubectl is missing: nothing can be rendered") from None
    except subprocess.CalledProcessError as error:
        raise Failed(f"{kustomization} cannot be rendered: {error.stderr}") from None
    return Manifests.parse(done.stdout)


def with_backups(manifests: Manifests) -> None:
    manifests.objects = rendered(HERE / "backup").objects


@scenario("backups by the CronJobs, then all pods and volumes are lost, and a Job restores", prepare=with_backups)
async def backup_restore(cluster: Cluster, load: Load) -> None:
    bucket = Bucket()
    await bucket.start(NODE)
    url = {"ANNALS_URL": f"kurrentdb://annals-headless.{cluster.voters.namespace}.svc:2113?tls=false"}
    values = {name: value.encode() for name, value in (bucket.environment | url).items()}
    cluster.manifests.add(secret("annals-backup", values))
    await loaded(cluster, load)
    for kind in ("full", "incremental", "incremental"):
        job = cluster.manifests.get("CronJob", f"annals-backup-{kind}")["spec"]["jobTemplate"]["spec"]
        await cluster.run_job(f"annals-backup-{kind}", job)
        await asyncio.sleep(LOADED)
    backup = CommandLine(cluster, url["ANNALS_URL"], bucket.environment)
    (_, _, last) = [json.loads(line) for line in await backup.lines("backup", "ls", "--from", bucket.environment["BACKUP_TO"])]
    position, was = last["through"], last["hash"]
    await load.halt()
    cluster.tell(f"the newest backup ends at {position} with the hash {was}")
    demand(await hash_at(cluster, position) == {was}, "the hash in the backup is not that of the cluster")

    # As docs/kubernetes.md says, step by step.
    await cluster.lose_everything()
    restore = rendered_restore()
    await cluster.run_job("annals-restore", restore.get("Job", "annals-restore")["spec"])
    begun = time.monotonic()
    cluster.voters.scale(3)
    await cluster.until("pods are there", lambda: len(cluster.voters.pods) == 3, 10)
    await until_voters(cluster, 3, RESTORE_WITHIN)
    cluster.tell(f"three voters after {time.monotonic() - begun:.1f} s")
    demand(await hash_at(cluster, position) == {was}, "a restored node has another hash")
    # A second attempt leaves alone what is there.
    try:
        await cluster.run_job("annals-restore-again", restore.get("Job", "annals-restore")["spec"] | {"backoffLimit": 0})
    except Failed:
        cluster.tell("a volume with data is not restored into")
    else:
        raise Failed("a restore went into a volume that has data")
    await load.restored(position)
    await bucket.stop()


def rendered_restore() -> Manifests:
    return Manifests.load(HERE.parents[1] / "deploy/k8s/dist/annals-restore.yaml")


async def hash_at(cluster: Cluster, position: int) -> set[str | None]:
    """What the nodes say is the hash of their events up to a position."""
    output = await cluster.annals(0, "cluster", "hash", "--position", str(position), "-o", "json")
    return {node["hash"] for node in json.loads(output)["nodes"]}


# --- TLS -----------------------------------------------------------------------------


def with_secrets(manifests: Manifests) -> None:
    """The Secret that the documentation says to make before the first start."""
    manifests.add(secret("annals-admin", {"password": b"correct horse"}))


@scenario(
    "TLS: names are right, and new certificates are taken up without a restart or a failed append",
    prepare=with_secrets,
    overlay="ha-tls",
    judged=False,
)
async def certificate_rotation(cluster: Cluster, load: Load) -> None:
    wanted = cluster.manifests.get("Certificate", "annals-node")
    authority = Authority(cluster.directory / "ca")
    cluster.manifests.add(authority.issue(wanted))
    await cluster.until_ready()
    await asyncio.sleep(cluster.publisher.lag + 1)  # services have them then
    trust = ssl.create_default_context(cafile=str(authority.certificate))
    services = [f"annals.{cluster.voters.namespace}.svc", f"annals-headless.{cluster.voters.namespace}.svc"]
    hosts = [cluster.address(ordinal).split(":")[0] for ordinal in range(3)]
    before = {host: await serial(host, trust) for host in [*services, *hosts]}
    demand(len(set(before.values())) == 1, "the nodes do not show the certificate that was issued")

    client = CommandLine(cluster, f"kurrentdb://admin:correct%20horse@{services[1]}:2113?tlsCaFile={authority.certificate}")
    await client.until_it_works(30)
    appending = asyncio.create_task(client.append_until_stopped())
    await asyncio.sleep(LOADED)
    starts = {pod.uid: pod.restarts for pod in cluster.pods()}
    cluster.secret_changed(authority.issue(wanted))
    deadline = time.monotonic() + 10
    while any([await serial(host, trust) == before[host] for host in hosts]):
        demand(time.monotonic() < deadline, "the new certificate is not shown within 10 s")
        await asyncio.sleep(0.2)
    cluster.tell("all nodes show the new certificate")
    await asyncio.sleep(LOADED)
    client.stop()
    await appending
    demand(starts == {pod.uid: pod.restarts for pod in cluster.pods()}, "a pod was restarted")
    # As preStop calls: on loopback, by a certificate that does not name it.
    await cluster.annals(0, "node", "check", "--local")
    await client.verify()


async def serial(host: str, trust: ssl.SSLContext) -> bytes:
    """Which certificate a host shows, verified by the name that clients call it by."""
    try:
        _, writer = await asyncio.open_connection(host, 2113, ssl=trust)
    except ssl.SSLError as error:
        raise Failed(f"{host} is not to be trusted: {error}") from error
    certificate: bytes = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    writer.close()
    return certificate
