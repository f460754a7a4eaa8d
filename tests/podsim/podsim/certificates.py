"""What cert-manager makes of a Certificate: a Secret with the names that it asks for.

The names in certificates are texts to Kustomize and schemas. Only a node that starts with
such a certificate, and a client that connects to it by name, tell whether they are right.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

from .manifests import Object
from .volumes import secret

# Of cert-manager's words for usages those that the manifests use.
USAGES = {"server auth": "serverAuth", "client auth": "clientAuth", "digital signature": None}
NEW_KEY = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]


class Authority:
    """A CA with its files in a directory."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        directory.mkdir()
        self.certificate = directory / "ca.crt"
        self._openssl("req", "-x509", *NEW_KEY, "-keyout", "ca.key", "-out", "ca.crt", "-subj", "/CN=annals-ca", "-days", "2")

    def issue(self, certificate: Object) -> Object:
        """The Secret that a Certificate asks for, with a new key and serial number."""
        spec = certificate["spec"]
        names = [f"DNS:{name}" for name in spec.get("dnsNames", [])] + [f"URI:{uri}" for uri in spec.get("uris", [])]
        usages = [USAGES[usage] for usage in spec["usages"]]
        extensions = [
            f"subjectAltName=critical,{','.join(names)}",
            "keyUsage=critical,digitalSignature",
            f"extendedKeyUsage={','.join(usage for usage in usages if usage)}",
            "basicConstraints=CA:FALSE",
        ]
        (self._directory / "extensions").write_text("\n".join(extensions) + "\n")
        self._openssl("req", *NEW_KEY, "-keyout", "node.key", "-out", "node.csr", "-subj", "/")
        self._openssl(
            "x509", "-req", "-in", "node.csr", "-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial",
            "-extfile", "extensions", "-days", "1", "-out", "node.crt",
        )  # fmt: skip
        read = {"tls.crt": "node.crt", "tls.key": "node.key", "ca.crt": "ca.crt"}
        files = {key: (self._directory / name).read_bytes() for key, name in read.items()}
        return secret(spec["secretName"], files)

    def _openssl(self, *arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=self._directory, check=True, capture_output=True)
