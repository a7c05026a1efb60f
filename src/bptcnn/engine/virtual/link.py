"""The network of a simulation: one link a worker, the same both ways."""

from __future__ import annotations

import re
from dataclasses import dataclass

from bptcnn.errors import ConfigError

_FORM = re.compile(r"(?:(?P<rate>\d+(?:\.\d+)?)(?P<unit>[kMG])bit)?(?:,?(?P<latency>\d+(?:\.\d+)?)ms)?")
_BITS = {"k": 1e3, "M": 1e6, "G": 1e9}


@dataclass(frozen=True, slots=True)
class Link:
    """Bandwidth and latency.

    Attributes:
        bytes_per_s: bandwidth; infinite when free.
        latency_s: seconds until the first byte arrives.

    Example:
        >>> Link.parse("100Mbit,5ms").transfer_s(12_500_000)
        1.005
    """

    bytes_per_s: float = float("inf")
    latency_s: float = 0.0

    def transfer_s(self, num_bytes: int) -> float:
        """Seconds that a message of ``num_bytes`` is under way."""
        return self.latency_s + num_bytes / self.bytes_per_s

    @classmethod
    def parse(cls, text: str) -> Link:
        """Read ``free``, ``100Mbit``, ``5ms`` or ``100Mbit,5ms``.

        Raises:
            ConfigError: the text has another form, or the rate is 0.
        """
        match = None if text == "free" else _FORM.fullmatch(text)
        if text != "free" and (match is None or not text):
            raise ConfigError(f"link {text!r} is not understood: write free, 100Mbit or 100Mbit,5ms")
        if match is None:
            return cls()
        rate = float(match["rate"]) * _BITS[match["unit"]] / 8 if match["rate"] else float("inf")
        if rate == 0:
            raise ConfigError(f"link {text!r} has no bandwidth: give more than 0 bit/s")
        return cls(rate, float(match["latency"] or 0) / 1000)
