"""An object store: as much of S3's protocol as backups need, in the memory of one process.

No signature is verified. What it does verify is what a store would: that a body is as
long as it was said to be, and that nothing is read that was not written.
"""

from __future__ import annotations

import asyncio
from urllib.parse import parse_qs, unquote, urlsplit

LISTING = "<ListBucketResult><IsTruncated>false</IsTruncated>{}</ListBucketResult>"
FOLDER = "<CommonPrefixes><Prefix>{}</Prefix></CommonPrefixes>"
HEAD = (
    'HTTP/1.1 {} X\r\ncontent-length: {}\r\netag: "x"\r\nlast-modified: Thu, 01 Jan 2026 00:00:00 GMT\r\n'
    "content-type: application/xml\r\nconnection: close\r\n\r\n"
)


class Bucket:
    NAME = "backups"
    PORT = 9000

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self._server: asyncio.Server | None = None
        self.environment: dict[str, str] = {}

    async def start(self, host: str) -> None:
        self._server = await asyncio.start_server(self._serve, host, self.PORT)
        self.environment = {
            "BACKUP_TO": f"s3://{self.NAME}/annals",
            "AWS_ENDPOINT": f"http://{host}:{self.PORT}",
            "AWS_ALLOW_HTTP": "true",
            "AWS_REGION": "eu-central-1",
            "AWS_ACCESS_KEY_ID": "key",
            "AWS_SECRET_ACCESS_KEY": "secret",
        }

    async def stop(self) -> None:
        if self._server:
            self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            method, target, _ = (await reader.readline()).decode().split()
            headers = {}
            while line := (await reader.readline()).decode().strip():
                name, _, value = line.partition(":")
                headers[name.lower()] = value.strip()
            body = await reader.readexactly(int(headers.get("content-length", 0)))
            status, answer = self._answer(method, urlsplit(target), body)
            writer.write(HEAD.format(status, len(answer)).encode() + (b"" if method == "HEAD" else answer))
            await writer.drain()
        except (OSError, ValueError, asyncio.IncompleteReadError):
            pass  # Who went away, or said what is no request.
        finally:
            writer.close()

    def _answer(self, method: str, target, body: bytes) -> tuple[int, bytes]:
        bucket, _, key = unquote(target.path).lstrip("/").partition("/")
        if bucket != self.NAME:
            return 404, b"<Error><Code>NoSuchBucket</Code></Error>"
        if method == "PUT" and key:
            self.objects[key] = body
            return 200, b""
        if method == "GET" and not key:
            prefix = parse_qs(target.query).get("prefix", [""])[0]
            rest = (name[len(prefix) :] for name in self.objects if name.startswith(prefix))
            folders = {name.split("/")[0] for name in rest if "/" in name}
            return 200, LISTING.format("".join(FOLDER.format(f"{prefix}{folder}/") for folder in sorted(folders))).encode()
        if method in ("GET", "HEAD"):
            found = self.objects.get(key)
            return (404, b"<Error><Code>NoSuchKey</Code></Error>") if found is None else (200, found)
        if method == "POST" and not key and "delete" in target.query:
            names = [part.split("</Key>")[0] for part in body.decode().split("<Key>")[1:]]
            for name in names:
                self.objects.pop(name, None)
            deleted = "".join(f"<Deleted><Key>{name}</Key></Deleted>" for name in names)
            return 200, f"<DeleteResult>{deleted}</DeleteResult>".encode()
        if method == "DELETE" and key:
            self.objects.pop(key, None)
            return 204, b""
        return 400, b""
