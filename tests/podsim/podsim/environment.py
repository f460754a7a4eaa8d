"""The environment of a container, as the kubelet makes it.

Order: all of `envFrom`, then `env` from top to bottom, later ones win. `$(NAME)` is
replaced by what was defined before it; `$$(NAME)` is a literal; a name that is not
known stays as it is written.
"""

from __future__ import annotations

import base64
import re

from .manifests import Manifests, Object, Unsupported

REFERENCE = re.compile(r"\$(\$|\(([A-Za-z_][A-Za-z0-9_.-]*)\))")


def expand(text: str, variables: dict[str, str]) -> str:
    """Kubernetes' own substitution: no shell, no default values."""

    def one(match: re.Match[str]) -> str:
        if match.group(1) == "$":
            return "$"
        return variables.get(match.group(2), match.group(0))

    return REFERENCE.sub(one, text)


def secret_data(secret: Object) -> dict[str, bytes]:
    """A Secret's contents, whichever way they are written."""
    data = {key: base64.b64decode(value) for key, value in (secret.get("data") or {}).items()}
    data.update({key: value.encode() for key, value in (secret.get("stringData") or {}).items()})
    return data


def environment(container: Object, manifests: Manifests, fields: dict[str, str]) -> dict[str, str]:
    """All variables of a container. `fields` are the pod's own, by path."""
    variables: dict[str, str] = {}
    for source in container.get("envFrom", []):
        if "configMapRef" in source:
            variables.update(manifests.get("ConfigMap", source["configMapRef"]["name"])["data"])
        elif "secretRef" in source:
            data = secret_data(manifests.get("Secret", source["secretRef"]["name"]))
            variables.update({key: value.decode() for key, value in data.items()})
        else:
            raise Unsupported(f"envFrom {source}")
    for variable in container.get("env", []):
        variables[variable["name"]] = value_of(variable, variables, manifests, fields)
    return variables


def value_of(variable: Object, before: dict[str, str], manifests: Manifests, fields: dict[str, str]) -> str:
    if "valueFrom" not in variable:
        return expand(variable.get("value", ""), before)
    source = variable["valueFrom"]
    if "fieldRef" in source:
        path = source["fieldRef"]["fieldPath"]
        if path not in fields:
            raise Unsupported(f"fieldRef {path}")
        return fields[path]
    if "configMapKeyRef" in source:
        reference = source["configMapKeyRef"]
        return manifests.get("ConfigMap", reference["name"])["data"][reference["key"]]
    if "secretKeyRef" in source:
        reference = source["secretKeyRef"]
        return secret_data(manifests.get("Secret", reference["name"]))[reference["key"]].decode()
    raise Unsupported(f"valueFrom {source}")
