"""Volumes as directories. Claims outlive pods; everything else goes with them."""

from __future__ import annotations

import base64
import shutil
import subprocess
from pathlib import Path

from .environment import secret_data
from .manifests import Manifests, Object, Unsupported

# What any ext4 volume has in its root.
LOST_AND_FOUND = "lost+found"


class Volumes:
    def __init__(self, directory: Path, manifests: Manifests) -> None:
        self._claims = directory / "claims"
        self._ephemeral = directory / "ephemeral"
        self._lost = directory / "lost"
        self._manifests = manifests
        self._claims.mkdir(parents=True)
        self._ephemeral.mkdir()

    def claim(self, name: str) -> Path:
        """The directory of a PersistentVolumeClaim, made when it is asked for first."""
        directory = self._claims / name
        if not directory.exists():
            directory.mkdir()
            (directory / LOST_AND_FOUND).mkdir(mode=0o700)
        return directory

    def delete_claim(self, name: str) -> None:
        """The volume is gone for whoever asks for it next. Who has it mounted keeps it."""
        self._lost.mkdir(exist_ok=True)
        (self._claims / name).rename(self._lost / f"{name}.{len(list(self._lost.iterdir()))}")

    def attach(self, pod: str, uid: str, spec: Object, templates: list[Object]) -> dict[str, Path]:
        """The directories of a new pod, by the names of its volumes."""
        group = spec.get("securityContext", {}).get("fsGroup")
        directories: dict[str, Path] = {}
        for template in templates:
            name = template["metadata"]["name"]
            directories[name] = own(self.claim(f"{name}-{pod}"), group)
        for volume in spec.get("volumes", []):
            if "persistentVolumeClaim" in volume:
                claim = volume["persistentVolumeClaim"]["claimName"]
                directories[volume["name"]] = own(self.claim(claim), group)
                continue
            directory = self._ephemeral / uid / volume["name"]
            directory.mkdir(parents=True)
            directories[volume["name"]] = own(self._fill(volume, directory), group)
        return directories

    def _fill(self, volume: Object, directory: Path) -> Path:
        if "secret" in volume:
            source = volume["secret"]
            data = secret_data(self._manifests.get("Secret", source["secretName"]))
            wanted = {item["key"]: item["path"] for item in source.get("items", [])} or {key: key for key in data}
            publish(directory, {path: data[key] for key, path in wanted.items()}, source.get("defaultMode", 0o644))
        elif "ephemeral" in volume:
            (directory / LOST_AND_FOUND).mkdir(mode=0o700)
        elif "emptyDir" not in volume:
            raise Unsupported(f"volume {volume}")
        return directory

    def detach(self, uid: str) -> None:
        shutil.rmtree(self._ephemeral / uid, ignore_errors=True)

    def republish(self, uid: str, volume: Object, spec: Object) -> None:
        """A Secret has changed: its files do, in one step, as the kubelet does it."""
        directory = self._fill(volume, self._ephemeral / uid / volume["name"])
        own(directory, spec.get("securityContext", {}).get("fsGroup"))


def publish(directory: Path, files: dict[str, bytes], mode: int) -> None:
    """Files behind one link to a directory, so that all of them change at once."""
    versions = sum(1 for entry in directory.iterdir() if entry.name.startswith("..v"))
    version = directory / f"..v{versions}"
    version.mkdir()
    for name, content in files.items():
        (version / name).write_bytes(content)
        (version / name).chmod(mode)
        if not (directory / name).is_symlink():
            (directory / name).symlink_to(f"..data/{name}")
    link = directory / "..data.new"
    link.symlink_to(version.name)
    link.rename(directory / "..data")


def own(directory: Path, group: int | None) -> Path:
    """As the kubelet does for `fsGroup`: the group owns the volume, and what is made in it."""
    if group is not None:
        subprocess.run(["chgrp", "-R", "-h", str(group), str(directory)], check=True)
        directory.chmod(0o2775)
    return directory


def secret(name: str, files: dict[str, bytes]) -> Object:
    """A Secret, as a scenario makes one."""
    data = {key: base64.b64encode(value).decode() for key, value in files.items()}
    return {"kind": "Secret", "metadata": {"name": name}, "data": data}
