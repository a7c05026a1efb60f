"""Sums among workers on Ray, by torch.distributed: the server has the meeting point, and no part in the sums."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import ray
import torch
import torch.distributed

from bptcnn.outer.messages import Reduce, Vector

dist: Any = torch.distributed  # whose annotations leave half of it out


class MeetingPoint:
    """Where workers learn how to reach one another; one for each life of the server."""

    def __init__(self) -> None:
        self._store: Any = None

    @property
    def address(self) -> tuple[str, int]:
        """Host and port."""
        host = _this_host()
        if self._store is None:
            self._store = dist.TCPStore(host, 0, None, is_master=True, wait_for_workers=False)
        return host, self._store.port


class Ring:
    """A worker's connections to its team.

    Args:
        server: handle of the server actor, which has the meeting point.
        worker: whose connections they are.
        patience_s: how long it waits for the others, before it takes a sum as lost.
    """

    def __init__(self, server: Any, worker: int, patience_s: float) -> None:
        self._server, self._worker = server, worker
        self._patience = timedelta(seconds=patience_s)
        self._group: Any = None
        self._since = 0

    def sum(self, order: Reduce, part: Vector) -> Vector | None:
        """Take part in a sum.

        Args:
            order: which one.
            part: what goes into it, float32 [num_weights]; it is overwritten.

        Returns:
            The sum, in the same memory; None if it is lost, as somebody did not take part.
        """
        if len(order.team) == 1:
            return part
        try:
            if self._group is None or self._since != order.since:
                self._group, self._since = self._meet(order), order.since
            self._group.allreduce([torch.from_numpy(part)]).wait()
            return part
        except RuntimeError:  # gloo's own errors, of which it has no others
            self._group = None
            return None

    def _meet(self, order: Reduce) -> Any:
        """Connect to all of the team; who comes too late for that has missed the sum."""
        host, port = ray.get(self._server.meeting_point.remote())
        store = dist.PrefixStore(str(order.since), dist.TCPStore(host, port, None, False, timeout=self._patience))
        options = dist.ProcessGroupGloo._Options()
        options._timeout = self._patience
        options._devices = [dist.ProcessGroupGloo.create_device(hostname=_this_host())]
        return dist.ProcessGroupGloo(store, order.team.index(self._worker), len(order.team), options)


def _this_host() -> str:
    """The address at which other machines of the cluster reach this one."""
    return str(ray.util.get_node_ip_address())  # type: ignore[no-untyped-call]
