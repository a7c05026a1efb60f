"""The server as the driver reaches it: it may die, stand still and come back between two calls."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import ray

from bptcnn.errors import BptcnnError, ClusterError

FROZEN_S = 60.0
"""A server that does not answer for so long is started anew."""

PATIENCE_S = 150.0
"""How long a dead server may take to come back."""

RETRY_S = 0.2
"""Pause before a server that is being restarted is asked again."""


class Reach:
    """Calls of a server actor that wait for it while it is restarted.

    A server that stands still is killed, and Ray starts it anew. Not so one that has yet to answer for the first time,
    on a machine that others keep busy: what is killed while it starts, Ray tries to start for ever.

    Args:
        server: its handle.
        folder: of the run, for the advice to go on with it.
    """

    def __init__(self, server: Any, folder: Path) -> None:
        self.server, self._folder = server, folder
        self._lives = False  # whether this life of the server has answered

    def ask(self, method: str, *arguments: Any) -> Any:
        """Call a method.

        Args:
            method: its name.
            arguments: what it gets.

        Returns:
            What it returns.

        Raises:
            BptcnnError: that the server met.
            ClusterError: it does not come back.
        """
        until_s = time.monotonic() + PATIENCE_S
        while True:
            try:
                answer = ray.get(getattr(self.server, method).remote(*arguments), timeout=FROZEN_S)
            except ray.exceptions.RayTaskError as error:
                if isinstance(error.cause, BptcnnError):
                    raise error.cause from error
                raise
            except (ray.exceptions.GetTimeoutError, ray.exceptions.RayActorError) as error:
                if time.monotonic() > until_s:
                    raise ClusterError(
                        f"the server did not come back within {PATIENCE_S:.0f} s: go on with --resume {self._folder}"
                    ) from error
                if isinstance(error, ray.exceptions.GetTimeoutError) and self._lives:
                    ray.kill(self.server, no_restart=False)
                self._lives = False
                time.sleep(RETRY_S)
            else:
                self._lives = True
                return answer

    def end(self) -> None:
        """End the server for good."""
        ray.kill(self.server)
