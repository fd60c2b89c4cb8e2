"""The nodes of a Redis, each with a client of its own, for those who must ask one after the other."""

from __future__ import annotations

import contextlib
import ipaddress
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import redis

from neverstale.config import Settings
from neverstale.drive.clients import Client, Connections
from neverstale.drive.cluster import BoundedCluster
from neverstale.drive.connection import REDIS_ERRORS, unavailable
from neverstale.errors import RedisUnavailable

__all__ = ["Node", "is_loopback", "nodes_of", "version_of"]

T = TypeVar("T")
Role = Literal["primary", "replica"]


@dataclass(frozen=True)
class Node:
    """One server.

    Attributes:
        name: `host:port`, or the path of a unix socket.
        role: what the cluster says it is; without one, `primary`, which its own INFO may contradict.
        client: sends to this node alone, with the patient time limit.
    """

    name: str
    role: Role
    client: redis.Redis

    @property
    def loopback(self) -> bool:
        """Whether it is reached without leaving this machine."""
        host, _, _ = self.name.rpartition(":")
        return self.name.startswith("/") or is_loopback(host)

    def ask(self, what: Callable[[redis.Redis], T]) -> T:
        """Ask this node.

        Raises:
            RedisUnavailable: it did not answer, or refused.
        """
        try:
            return what(self.client)
        except REDIS_ERRORS as problem:
            raise unavailable(problem) from problem


def nodes_of(connections: Connections, *, replicas: bool = False) -> list[Node]:
    """Return the primaries, and the replicas of a cluster where they are wanted.

    Raises:
        RedisUnavailable: no node of a cluster, or no Sentinel, answers.
    """
    settings = connections.settings
    client = _client_of(connections)
    if not isinstance(client, BoundedCluster):
        return [Node(settings.path or _address(client, settings), "primary", client)]
    roles: tuple[Role, ...] = ("primary", "replica") if replicas else ("primary",)
    found = []
    for role in roles:
        for node in client.nodes_manager.get_nodes_by_server_type(role):
            found.append(Node(str(node.name), role, client.get_redis_connection(node)))
    if not found:
        raise RedisUnavailable("the cluster names no primary")
    return sorted(found, key=lambda node: (node.role, node.name))


def _client_of(connections: Connections) -> Client:
    # Each attempt asks another node of a cluster: who looks for what is wrong must not stop at the one that is.
    for _ in connections.settings.nodes[1:]:
        with contextlib.suppress(*REDIS_ERRORS):
            return connections.patient
    try:
        return connections.patient
    except REDIS_ERRORS as problem:
        raise unavailable(problem) from problem


def _address(client: redis.Redis, settings: Settings) -> str:
    """Return where the one server is; behind Sentinels, the primary that they name."""
    host, port = settings.host, settings.port
    if settings.mode == "sentinel":
        manager: Any = client.connection_pool
        try:
            host, port = manager.sentinel_manager.discover_master(settings.service)
        except REDIS_ERRORS as problem:
            raise unavailable(problem) from problem
    return f"{host}:{port}"


def is_loopback(host: str) -> bool:
    """Return whether a host is this machine; a name other than `localhost` is not looked up."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def version_of(info: dict[str, object]) -> tuple[str, str]:
    """Return the server's name and version by its INFO; Valkey says a Redis version beside its own."""
    if "valkey_version" in info:
        return "valkey", str(info["valkey_version"])
    return "redis", str(info.get("redis_version", "?"))
