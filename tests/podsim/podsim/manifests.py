"""The manifests as they are rendered: what there is, by kind and name.

Nothing is interpreted here but numbers that Kubernetes writes as text. Fields that the
simulation does not know are refused where they would matter (`known`), so that a
manifest never seems to be tried that was only read.
"""

from __future__ import annotations

import copy
import hashlib
import json
from pathlib import Path
from typing import Any, Iterator

import yaml

Object = dict[str, Any]


class Unsupported(Exception):
    """The manifest says something that the simulation does not do."""


def known(where: str, found: Object, fields: set[str]) -> None:
    """Refuses fields that nobody would act on."""
    strange = sorted(set(found) - fields)
    if strange:
        raise Unsupported(f"{where} has {', '.join(strange)}, which podsim does not know")


class Manifests:
    """All objects of one file, and those that a scenario adds (Secrets, above all)."""

    def __init__(self, objects: list[Object]) -> None:
        self.objects = objects

    @classmethod
    def load(cls, path: Path) -> "Manifests":
        return cls.parse(path.read_text())

    @classmethod
    def parse(cls, text: str) -> "Manifests":
        return cls([object for object in yaml.safe_load_all(text) if object])

    def copy(self) -> "Manifests":
        return Manifests(copy.deepcopy(self.objects))

    def of_kind(self, kind: str) -> Iterator[Object]:
        return (object for object in self.objects if object["kind"] == kind)

    def get(self, kind: str, name: str) -> Object:
        for object in self.of_kind(kind):
            if object["metadata"]["name"] == name:
                return object
        raise KeyError(f"the manifests have no {kind} {name}")

    def add(self, object: Object) -> None:
        self.objects.append(object)


def selects(selector: Object, labels: Object) -> bool:
    """Whether a Service's selector, all equalities, fits a pod's labels."""
    return all(labels.get(key) == value for key, value in selector.items())


def revision(template: Object) -> str:
    """What tells one pod template from another."""
    return hashlib.sha256(json.dumps(template, sort_keys=True).encode()).hexdigest()[:10]
