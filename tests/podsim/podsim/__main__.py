"""The command line: see ../run."""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from pathlib import Path

from .cluster import Cluster, Failed, fresh
from .load import Load
from .manifests import Manifests, Unsupported
from .network import Network
from .scenarios import SCENARIOS, Scenario


async def run(scenario: Scenario, network: Network, options: argparse.Namespace) -> bool:
    directory = fresh(options.out / scenario.name)
    print(f"\n=== {scenario.name}: {scenario.about}", flush=True)
    manifests = Manifests.load(options.manifests / f"annals-{scenario.overlay}.yaml")
    try:
        scenario.prepare(manifests)
    except Failed as failure:
        print(f"=== {scenario.name}: FAILED: {failure}", flush=True)
        return False
    begun = time.monotonic()
    cluster = Cluster(manifests, network, options.image, options.binary, directory)
    load = Load(cluster, options.load, directory, options.seed, options.rate)
    try:
        await cluster.apply()
        await scenario.run(cluster, load)
        if scenario.judged:
            cluster.tell(f"valid: {await load.finish()}")
        verdict = "passed"
    except (Failed, Unsupported) as failure:
        cluster.tell(f"WRONG: {failure}")
        verdict = "FAILED"
    finally:
        load.abandon()
        await cluster.remove()
    print(f"=== {scenario.name}: {verdict} in {time.monotonic() - begun:.0f} s; {directory}", flush=True)
    return verdict == "passed"


async def run_all(scenarios: list[Scenario], options: argparse.Namespace) -> int:
    network = Network()
    failed = [scenario.name for scenario in scenarios if not await run(scenario, network, options)]
    print(f"\n{len(scenarios) - len(failed)} passed, {len(failed)} failed{': ' if failed else ''}{', '.join(failed)}")
    return 1 if failed else 0


def main() -> int:
    parser = argparse.ArgumentParser(prog="tests/podsim/run")
    parser.add_argument("scenarios", nargs="*", help="which; all of them by default")
    parser.add_argument("--list", action="store_true", help="list the scenarios")
    parser.add_argument("--binary", type=Path, required=True, help="the annals program")
    parser.add_argument("--load", type=Path, required=True, help="the program steered_load")
    parser.add_argument("--image", type=Path, required=True, help="the root of the image")
    parser.add_argument("--manifests", type=Path, required=True, help="the directory of what is applied")
    parser.add_argument("--out", type=Path, required=True, help="where a directory per scenario is made")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--rate", type=float, default=100.0, help="turns to write in a second")
    options = parser.parse_args()
    by_name = {scenario.name: scenario for scenario in SCENARIOS}
    if options.list:
        for scenario in SCENARIOS:
            print(f"{scenario.name:24} {scenario.about}")
        return 0
    strange = [name for name in options.scenarios if name not in by_name]
    if strange:
        parser.error(f"no such scenario: {', '.join(strange)} (there are {', '.join(by_name)})")
    chosen = [by_name[name] for name in options.scenarios] or SCENARIOS
    return asyncio.run(run_all(chosen, options))


if __name__ == "__main__":
    sys.exit(main())
