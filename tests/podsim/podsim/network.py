"""One bridge, and on it a network namespace per pod with an address of its own.

The simulation itself lives in a network namespace that has nothing but this bridge
(`run` makes it), so nothing leaves it, and nothing is left of it when it ends.

Invariant: no address is given twice. A pod that comes back is somewhere else, always:
that is what Kubernetes does, and what nobody may rely on otherwise.
"""

from __future__ import annotations

import asyncio
import ipaddress
import itertools
import subprocess

NET = ipaddress.ip_network("198.18.0.0/16")
NODE = str(NET[1])  # where kubelet, DNS and clients are
BRIDGE = "pods"


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True)


class Network:
    def __init__(self) -> None:
        self._addresses = itertools.count(10)
        ip("link", "set", "lo", "up")
        ip("link", "add", BRIDGE, "type", "bridge")
        ip("address", "add", f"{NODE}/{NET.prefixlen}", "dev", BRIDGE)
        ip("link", "set", BRIDGE, "up")

    async def sandbox(self, hostname: str) -> "Sandbox":
        """A namespace with one interface, held by a process that does nothing."""
        number = next(self._addresses)
        # --fork would make the holder a grandchild, whose namespace is harder to find.
        holder = await asyncio.create_subprocess_exec(
            "unshare", "--net", "--uts", "sh", "-c", 'hostname "$0" && ip link set lo up && echo ready && exec sleep infinity',
            hostname, stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
        assert holder.stdout
        if await holder.stdout.readline() != b"ready\n":
            raise RuntimeError(f"there is no sandbox for {hostname}")
        sandbox = Sandbox(holder, str(NET[number]), f"pod{number}")
        ip("link", "add", sandbox.link, "type", "veth", "peer", "name", "eth0", "netns", str(holder.pid))
        ip("link", "set", sandbox.link, "master", BRIDGE, "up")
        inside = ["nsenter", f"--net=/proc/{holder.pid}/ns/net", "ip"]
        subprocess.run([*inside, "address", "add", f"{sandbox.address}/{NET.prefixlen}", "dev", "eth0"], check=True)
        subprocess.run([*inside, "link", "set", "eth0", "up"], check=True)
        return sandbox


class Sandbox:
    """What the containers of one pod share, and keep when they are restarted."""

    def __init__(self, holder: asyncio.subprocess.Process, address: str, link: str) -> None:
        self._holder = holder
        self.address = address
        self.link = link

    def enter(self) -> list[str]:
        """The beginning of a command that is to run inside."""
        proc = f"/proc/{self._holder.pid}/ns"
        return ["nsenter", f"--net={proc}/net", f"--uts={proc}/uts"]

    async def remove(self) -> None:
        """The interface goes with the namespace, and that with the last process in it."""
        subprocess.run(["ip", "link", "delete", self.link], check=False, stderr=subprocess.DEVNULL)
        self._holder.kill()
        await self._holder.wait()
