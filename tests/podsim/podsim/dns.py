"""The cluster's DNS: A and SRV records of services, which change as pods come and go.

A server of our own and not dnsmasq, which can change SRV records only by being started
anew. It answers as CoreDNS does: names end in `svc.cluster.local`, and only in that.
Shorter ones are made longer by the resolver of the pod (`search`, `ndots:5`), so that
a resolver which does not do it fails here as it would there. Without records a name
that exists is an empty answer, any other NXDOMAIN. Addresses are IPv4.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from dataclasses import dataclass, field
from typing import cast

DOMAIN = "cluster.local"
TTL = 5  # seconds, CoreDNS's default for Kubernetes
A, AAAA, SRV, ANY = 1, 28, 33, 255
NXDOMAIN = 3


@dataclass
class Records:
    """What is answered. Names are whole, in small letters, without the last dot."""

    addresses: dict[str, list[str]] = field(default_factory=dict)
    services: dict[str, list[tuple[str, int]]] = field(default_factory=dict)  # target, port


class Server(asyncio.DatagramProtocol):
    """Answers over UDP and TCP at port 53 of one address."""

    def __init__(self) -> None:
        self.records = Records()
        self._transport: asyncio.DatagramTransport | None = None
        self._listener: asyncio.Server | None = None

    async def start(self, address: str) -> None:
        loop = asyncio.get_running_loop()
        await loop.create_datagram_endpoint(lambda: self, local_addr=(address, 53))
        self._listener = await asyncio.start_server(self._tcp, address, 53)

    async def stop(self) -> None:
        if self._transport:
            self._transport.close()
        if self._listener:
            self._listener.close()
        # Sockets are closed in the loop's next turn.
        await asyncio.sleep(0.1)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        assert self._transport
        answer = self.answer(data)
        if len(answer) > datagram_size(data):
            answer = truncated(data)
        self._transport.sendto(answer, addr)

    async def _tcp(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                (length,) = struct.unpack("!H", await reader.readexactly(2))
                answer = self.answer(await reader.readexactly(length))
                writer.write(struct.pack("!H", len(answer)) + answer)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    def answer(self, query: bytes) -> bytes:
        (number,) = struct.unpack("!H", query[:2])
        name, kind, question = parse_question(query)
        answers: list[bytes] = []
        additional: list[bytes] = []
        exists = name in self.records.addresses or name in self.records.services
        if kind in (A, ANY):
            answers += [record(name, A, socket.inet_aton(a)) for a in self.records.addresses.get(name, [])]
        if kind in (SRV, ANY):
            for target, port in self.records.services.get(name, []):
                answers.append(record(name, SRV, struct.pack("!HHH", 0, 100, port) + encode(target)))
                additional += [record(target, A, socket.inet_aton(a)) for a in self.records.addresses.get(target, [])]
        # Answer, authoritative, recursion desired and available.
        flags = 0x8580 | (0 if exists else NXDOMAIN)
        header = struct.pack("!HHHHHH", number, flags, 1, len(answers), 0, len(additional))
        return header + question + b"".join(answers) + b"".join(additional)


def parse_question(query: bytes) -> tuple[str, int, bytes]:
    """Name, type, and the question as it was asked."""
    labels = []
    at = 12
    while length := query[at]:
        labels.append(query[at + 1 : at + 1 + length].decode("ascii").lower())
        at += 1 + length
    kind, _class = struct.unpack("!HH", query[at + 1 : at + 5])
    return ".".join(labels), kind, query[12 : at + 5]


def datagram_size(query: bytes) -> int:
    """What the asker takes by UDP: 512 bytes, unless it says more (EDNS, RFC 6891)."""
    _, _, question = parse_question(query)
    option = query[12 + len(question) :]
    if len(option) < 5 or option[:3] != b"\0\0\x29":
        return 512
    (size,) = struct.unpack("!H", option[3:5])
    return int(min(max(size, 512), 1232))


def truncated(query: bytes) -> bytes:
    """Ask again, by TCP."""
    (number,) = struct.unpack("!H", query[:2])
    return struct.pack("!HHHHHH", number, 0x8780, 1, 0, 0, 0) + parse_question(query)[2]


def encode(name: str) -> bytes:
    return b"".join(bytes([len(label)]) + label.encode() for label in name.split(".")) + b"\0"


def record(name: str, kind: int, data: bytes) -> bytes:
    return encode(name) + struct.pack("!HHIH", kind, 1, TTL, len(data)) + data


def resolv_conf(nameserver: str, namespace: str) -> str:
    """What a pod with the policy ClusterFirst has in /etc/resolv.conf."""
    return f"nameserver {nameserver}\nsearch {namespace}.svc.{DOMAIN} svc.{DOMAIN} {DOMAIN}\noptions ndots:5\n"
