"""Calls of workers that wait for an answer, until a round is complete or there is work."""

from __future__ import annotations

import asyncio
from typing import Generic, TypeVar

A = TypeVar("A")


class Calls(Generic[A]):
    """One a worker at most: whoever calls anew is another life of it, and nobody waits for the one before."""

    def __init__(self) -> None:
        self._waiting: dict[int, asyncio.Future[A]] = {}

    def begin(self, worker: int) -> asyncio.Future[A]:
        """A call; wait for it to have the answer.

        Args:
            worker: who calls.
        """
        self.drop(worker)
        self._waiting[worker] = call = asyncio.get_running_loop().create_future()
        return call

    def answer(self, worker: int, answer: A) -> None:
        """End a call.

        Args:
            worker: whose it is.
            answer: what it gets.
        """
        self._waiting.pop(worker).set_result(answer)

    def answer_all(self, answer: A) -> None:
        """End all calls.

        Args:
            answer: what they get.
        """
        for worker in list(self._waiting):
            self.answer(worker, answer)

    def drop(self, worker: int) -> None:
        """End the call of a worker that is gone, if there is one, with what it keeps: its task, and its connection.

        Args:
            worker: whose it is.
        """
        if worker in self._waiting:
            self._waiting.pop(worker).cancel()
