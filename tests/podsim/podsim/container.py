"""A container: the image's root, read-only where the manifest says so, volumes mounted
into it, and one process in it as the user that the manifest names.

What a container is given here: its pod's network and hostname, a mount namespace, an
overlay of the image's root, /proc and /dev of the machine, no supplementary groups but
`fsGroup`, no new privileges. What it is not given: cgroups (so no limits of memory and
CPU), seccomp, a process namespace of its own.
"""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

from .environment import expand
from .manifests import Object
from .network import Sandbox

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

# Arguments: image, scratch, ro|rw, uid, gid, groups, then source and target of each mount
# up to a word that is `--`, then the command. A mount's target is a file where its source is one.
ENTER = """
set -eu
image=$1 scratch=$2 mode=$3 uid=$4 gid=$5 groups=$6
shift 6
root=$scratch/root
mkdir -p "$root" "$scratch/upper" "$scratch/work"
mount -t overlay overlay -o "lowerdir=$image,upperdir=$scratch/upper,workdir=$scratch/work" "$root"
mkdir -p "$root/proc" "$root/dev"
mount --rbind /proc "$root/proc"
mount --rbind /dev "$root/dev"
while [ "$1" != -- ]; do
  if [ -d "$1" ]; then mkdir -p "$root$2"; else mkdir -p "$(dirname "$root$2")" && : >"$root$2"; fi
  mount --bind "$1" "$root$2"
  shift 2
done
shift
if [ "$mode" = ro ]; then mount -o remount,ro "$root"; fi
exec setpriv --no-new-privs chroot --userspec="$uid:$gid" --groups="$groups" "$root" "$@"
"""


class Container:
    """One container of a pod; started again when it ends, with the same volumes."""

    def __init__(
        self,
        spec: Object,
        security: Object,
        image: Path,
        entrypoint: list[str],
        environment: dict[str, str],
        mounts: list[tuple[Path, str]],
        sandbox: Sandbox,
        scratch: Path,
        log: Path,
    ) -> None:
        own = spec.get("securityContext", {})
        self._user = own.get("runAsUser", security.get("runAsUser", 0))
        self._group = own.get("runAsGroup", security.get("runAsGroup", 0))
        self._groups = str(security.get("fsGroup", self._group))
        self._mode = "ro" if own.get("readOnlyRootFilesystem") else "rw"
        self._command = [expand(word, environment) for word in self._argv(spec, entrypoint)]
        self._image, self._environment, self._mounts = image, environment | {"PATH": PATH}, mounts
        self._sandbox, self._scratch, self._log = sandbox, scratch, log
        self._starts = 0
        self.process: asyncio.subprocess.Process | None = None

    @staticmethod
    def _argv(spec: Object, entrypoint: list[str]) -> list[str]:
        return [*spec.get("command", entrypoint), *spec.get("args", [])]

    @property
    def running(self) -> bool:
        return self.process is not None and self.process.returncode is None

    async def start(self) -> None:
        self._starts += 1
        mounts = [word for source, target in self._mounts for word in (str(source), target)]
        with self._log.open("ab") as log:
            log.write(f"--- start {self._starts}\n".encode())
            log.flush()
            self.process = await asyncio.create_subprocess_exec(
                *self._sandbox.enter(), "unshare", "--mount", "sh", "-c", ENTER, "enter",
                str(self._image), str(self._scratch / str(self._starts)), self._mode,
                str(self._user), str(self._group), self._groups, *mounts, "--", *self._command,
                env=self._environment, stdin=asyncio.subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip

    async def execute(self, command: list[str], timeout: float) -> tuple[int, str]:
        """Runs a command inside, as `exec` of a hook or of kubectl does: exit code and output."""
        assert self.process
        inside = await asyncio.create_subprocess_exec(
            "nsenter", f"--target={self.process.pid}", "--mount", "--net", "--uts", "--root", "--wd=/",
            f"--setuid={self._user}", f"--setgid={self._group}", *command,
            env=self._environment, stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        )  # fmt: skip
        try:
            output, _ = await asyncio.wait_for(inside.communicate(), timeout)
        except asyncio.TimeoutError:
            inside.kill()
            await inside.wait()
            return 124, f"did not end within {timeout:.0f} s"
        assert inside.returncode is not None
        return inside.returncode, output.decode(errors="replace").strip()

    async def wait(self) -> int:
        assert self.process
        return await self.process.wait()

    def send_signal(self, number: signal.Signals) -> None:
        if self.running and self.process:
            self.process.send_signal(number)
