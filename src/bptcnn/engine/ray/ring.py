"""Sums among workers on Ray, by torch.distributed: the server has the meeting point, and no part in the sums."""

from __future__ import annotations

import time
from datetime import timedelta
from typing import Any, NamedTuple

import ray
import torch
import torch.distributed

from bptcnn.outer.collective import MOST_TEAMS
from bptcnn.outer.messages import Reduce, Vector

dist: Any = torch.distributed  # whose annotations leave half of it out

RETRY_S = 0.25
"""Pause after a sum that was lost: what is out of order may be so for a moment."""

LONGEST = 200
"""Characters of gloo's explanation that are passed on."""


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


class Summed(NamedTuple):
    """What became of a sum.

    Attributes:
        total: the sum, float32 [num_weights]; None if it is lost.
        reason: why, in a few words.
    """

    total: Vector | None
    reason: str = ""


class Ring:
    """A worker's connections to its teams.

    Args:
        server: handle of the server actor, which has the meeting point.
        worker: whose connections they are.
    """

    def __init__(self, server: Any, worker: int) -> None:
        self._server, self._worker = server, worker
        self._groups: dict[int, Any] = {}  # by the attempt that they have been there since

    def sum(self, order: Reduce, part: Vector) -> Summed:
        """Take part in a sum; it is lost if somebody else does not.

        Args:
            order: which one.
            part: what goes into it, float32 [num_weights]; it is overwritten.
        """
        if len(order.team) == 1:
            return Summed(part)
        patience = timedelta(seconds=order.patience_s)
        try:
            group = self._groups.pop(order.since, None) or self._meet(order, patience)
            options = dist.AllreduceOptions()
            options.timeout = patience
            group.allreduce([torch.from_numpy(part)], options).wait()
        except RuntimeError as error:  # gloo's own, of which it has no others
            time.sleep(RETRY_S)
            return Summed(None, " ".join(str(error).split())[:LONGEST])
        self._groups = dict([*self._groups.items(), (order.since, group)][-MOST_TEAMS:])
        return Summed(part)

    def _meet(self, order: Reduce, patience: timedelta) -> Any:
        """Connect to all of the team; who comes too late for that has missed the sum."""
        host, port = ray.get(self._server.meeting_point.remote())
        store = dist.PrefixStore(str(order.since), dist.TCPStore(host, port, None, False, timeout=patience))
        options = dist.ProcessGroupGloo._Options()
        options._timeout = patience
        options._devices = [dist.ProcessGroupGloo.create_device(hostname=_this_host())]
        return dist.ProcessGroupGloo(store, order.team.index(self._worker), len(order.team), options)


def _this_host() -> str:
    """The address at which other machines of the cluster reach this one."""
    return str(ray.util.get_node_ip_address())  # type: ignore[no-untyped-call]
