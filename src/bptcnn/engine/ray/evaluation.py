"""Test accuracy, measured by the driver beside the run so that neither server nor workers wait for it."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections import deque

from bptcnn.data import Samples
from bptcnn.engine.ray.failure import described
from bptcnn.errors import TrainingError
from bptcnn.inner import accuracy_of
from bptcnn.models import FlatModel
from bptcnn.outer.messages import Evaluate, Evaluated

BACKLOG_S = 20.0
"""How long the run may have to wait at its end for evaluations; beyond that every other one is left out."""

NICENESS = 19
"""Workers, to which Ray gives a niceness of 15, go before the evaluation where they share its cores."""


class Evaluator:
    """A thread that works off orders to evaluate, oldest first.

    Args:
        model: a network of its own.
        test: what to measure on.

    Attributes:
        skipped: how many orders were left out because measuring takes longer than training.
    """

    def __init__(self, model: FlatModel, test: Samples) -> None:
        self.skipped = 0
        self._model, self._test = model, test
        self._waiting: deque[tuple[Evaluate, int]] = deque()
        self._done: deque[tuple[Evaluated, int]] = deque()
        self._changed = threading.Condition()
        self._error: Exception | None = None
        self._closed = False
        self._unfinished = 0
        self._seconds = 0.0
        threading.Thread(target=self._work, daemon=True, name="evaluation").start()

    @property
    def busy(self) -> bool:
        """Whether a result is still to come or to be fetched."""
        return self._unfinished > 0

    def submit(self, order: Evaluate, session: int) -> None:
        """Queue an order; one that comes after a failure is left out.

        Args:
            order: weights and when they were that.
            session: the life of the server that wants to know.
        """
        with self._changed:
            if self._closed:
                return
            if len(self._waiting) * self._seconds > BACKLOG_S:
                self._thin_out()
            self._waiting.append((order, session))
            self._unfinished += 1
            self._changed.notify()

    def finished(self) -> list[tuple[Evaluated, int]]:
        """Fetch results.

        Returns:
            Each new one, with the session that asked.

        Raises:
            TrainingError: the user's network or test set failed; said once, and nothing is measured any more.
        """
        error, self._error = self._error, None
        if error is not None:
            self.close()
            self._unfinished = len(self._done)
            raise TrainingError(f"testing the network failed: {described(error)}") from error
        results = [self._done.popleft() for _ in range(len(self._done))]
        self._unfinished -= len(results)
        return results

    def close(self) -> None:
        """End the thread after what it is at."""
        with self._changed:
            self._closed = True
            self._changed.notify()

    def _thin_out(self) -> None:
        kept = deque(list(self._waiting)[::2])
        left_out = len(self._waiting) - len(kept)
        self.skipped += left_out
        self._unfinished -= left_out
        self._waiting = kept

    def _work(self) -> None:
        if sys.platform == "linux":  # there alone a thread has a niceness of its own
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)
        while (entry := self._next()) is not None:
            order, session = entry
            began_s = time.perf_counter()
            try:
                self._done.append((self._measure(order), session))
            except Exception as error:  # the user's code may raise anything; the driver's thread tells
                self._error = error
                return
            self._seconds = time.perf_counter() - began_s

    def _next(self) -> tuple[Evaluate, int] | None:
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._closed)
            return None if self._closed else self._waiting.popleft()

    def _measure(self, order: Evaluate) -> Evaluated:
        assert order.weights is not None
        self._model.load(order.weights)
        return Evaluated(order.version, order.committed, order.at_s, accuracy_of(self._model.module, self._test))
