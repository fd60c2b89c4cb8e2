"""A Redis Cluster of real processes, made and mended by its own commands."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from redis.cluster import ClusterNode
from redis.cluster import RedisCluster as ClusterClient
from redis.crc import key_slot
from redis.exceptions import RedisError

from neverstale.testing.node import RedisServer
from neverstale.testing.processes import LOOPBACK, free_port, wait_until


class RedisCluster:
    """A Redis Cluster of real processes: primaries that share the slots, and their replicas.

    Attributes:
        nodes: every process, the primaries of the first hour first.
    """

    is_cluster = True

    def __init__(self, nodes: Sequence[RedisServer]) -> None:
        self.nodes: Sequence[RedisServer] = nodes
        self._heads = 0
        self._timeout = 0
        self._client: ClusterClient | None = None

    @classmethod
    def start(
        cls,
        binary: Path | str,
        primaries: int = 3,
        replicas: int = 1,
        *,
        args: Sequence[str] = (),
        timeout: int = 2000,
    ) -> RedisCluster:
        """Start a cluster and wait until every node agrees and every replica is attached.

        Args:
            binary: one of `binaries()`.
            primaries: nodes that hold slots.
            replicas: replicas of each primary.
            args: further options of every node.
            timeout: milliseconds that a node may be silent before it is taken for dead
                (cluster-node-timeout).

        Raises:
            ServerError: a node does not start, or the cluster does not come together.
        """
        options = ["--cluster-enabled", "yes", "--cluster-config-file", "nodes.conf"]
        options += ["--cluster-announce-ip", LOOPBACK]
        options += ["--repl-diskless-sync", "yes", "--repl-diskless-sync-delay", "0"]
        # A node that has been alone waits one node timeout before it serves: short while the cluster is made.
        options += ["--cluster-node-timeout", "500", "--repl-ping-replica-period", "1", *args]
        nodes: list[RedisServer] = []
        cluster = cls(nodes)
        try:
            for _ in range(primaries * (1 + replicas)):
                node = RedisServer(Path(binary), options)
                nodes.append(node)
                node.bus_port = free_port()
                node._launch(0)
            cluster._join(primaries, timeout)
        except BaseException:
            cluster.stop()
            raise
        return cluster

    def __repr__(self) -> str:
        return f"<RedisCluster {' '.join(str(node.port) for node in self.nodes)}>"

    def __enter__(self) -> RedisCluster:
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()

    @property
    def url(self) -> str:
        first, *others = [f"{LOOPBACK}:{node.port}" for node in self.nodes]
        return f"redis://{','.join([first, *others])}?cluster=true"

    def client(self) -> ClusterClient:
        """Return the cluster's own synchronous client: replies are bytes; `stop()` closes it."""
        if self._client is None:
            start = [ClusterNode(LOOPBACK, node.port) for node in self.nodes]
            self._client = ClusterClient(startup_nodes=start)
        return self._client

    def primaries(self) -> list[RedisServer]:
        """Return the nodes that are alive and say of themselves that they are primaries, at this moment."""
        return [node for node in self.nodes if node.running and node.client().role()[0] == b"master"]

    def primary_of(self, key: str | bytes) -> RedisServer:
        """Return the node that holds a key."""
        slot = key_slot(key.encode() if isinstance(key, str) else key)
        # Asked of a node: what a client remembers is wrong after a failover, until its next error.
        shares: Any = self.primaries()[0].client().execute_command("CLUSTER", "SLOTS")
        port = next(share[2][1] for share in shares if share[0] <= slot <= share[1])
        return next(node for node in self.nodes if node.port == port)

    def flush(self) -> None:
        """Delete every key on every primary."""
        for node in self.primaries():
            node.flush()

    def keys(self) -> list[bytes]:
        """Return the keys of all primaries, sorted."""
        return sorted(key for node in self.primaries() for key in node.keys())  # noqa: SIM118

    def freeze(self) -> None:
        """Freeze every node."""
        for node in self.nodes:
            node.freeze()

    def thaw(self) -> None:
        """Let every node go on."""
        for node in self.nodes:
            node.thaw()

    def revive(self) -> None:
        """Thaw what is frozen, restart what is dead, and wait until the cluster serves again."""
        dead = [node for node in self.nodes if not node.running]
        for node in self.nodes:
            node.revive()
        self._settle()
        self._allow(dead)
        if self._client is not None:
            self._client.nodes_manager.initialize()

    def stop(self) -> None:
        """End every process. May be called more than once."""
        if self._client is not None:
            self._client.close()
            self._client = None
        for node in self.nodes:
            node.stop()

    def _join(self, primaries: int, timeout: int) -> None:
        self._heads = primaries
        self._timeout = timeout
        heads, tails = self.nodes[:primaries], self.nodes[primaries:]
        share = 16384 / primaries
        for rank, node in enumerate(self.nodes):
            # Epochs that differ from the start spare the nodes the settling of collisions.
            node.client().execute_command("CLUSTER", "SET-CONFIG-EPOCH", rank + 1)
        for rank, node in enumerate(heads):
            first, last = round(rank * share), round((rank + 1) * share) - 1
            node.client().execute_command("CLUSTER", "ADDSLOTSRANGE", first, last)
        for node in self.nodes:
            for other in self.nodes:
                if other is not node:
                    node.client().execute_command("CLUSTER", "MEET", LOOPBACK, other.port, other.bus_port)
        ids = [str(_text(node.client().execute_command("CLUSTER", "MYID"))) for node in self.nodes]
        for rank, node in enumerate(tails):
            head = ids[rank % primaries]
            wait_until(lambda node=node, head=head: _knows(node, head), "a replica meets its primary")  # type: ignore[misc]
            node.client().execute_command("CLUSTER", "REPLICATE", head)
        self._settle()
        self._allow(self.nodes)

    def _allow(self, nodes: Sequence[RedisServer]) -> None:
        """Give nodes that have started, and belong to the cluster, the time that others may be silent."""
        for node in nodes:
            node.client().config_set("cluster-node-timeout", self._timeout)

    def _settle(self) -> None:
        def settled() -> bool:
            # A primary that was dead during a failover believes for a moment that it still is one.
            roles = [_settled_role(node, len(self.nodes)) for node in self.nodes]
            return "" not in roles and roles.count("primary") == self._heads

        wait_until(settled, "a cluster that agrees")


def _text(reply: Any) -> str:
    return reply.decode() if isinstance(reply, bytes) else str(reply)


def _knows(node: RedisServer, other: str) -> bool:
    return other in _text(node.client().execute_command("CLUSTER", "NODES"))


def _settled_role(node: RedisServer, size: int) -> str:
    """Return `primary` or `replica`, or "" while the node is not ready for service."""
    try:
        info = node.client().cluster("info")
        shares: Any = node.client().execute_command("CLUSTER", "SLOTS")
        role = node.client().role()
    except (RedisError, OSError):
        return ""
    if info["cluster_state"] != "ok" or int(info["cluster_known_nodes"]) != size:
        return ""
    # What a node takes for dead, or has not heard of since it was started, it names to nobody.
    if len({server[1] for share in shares for server in share[2:]}) != size:
        return ""
    if role[0] == b"master":
        return "primary"
    return "replica" if role[3] == b"connected" else ""
