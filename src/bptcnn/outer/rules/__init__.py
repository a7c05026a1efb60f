"""Update rules: how pushed differences become the next global weights. One file per rule.

A rule is its own configuration section: frozen settings plus pure functions of them. Adding one is a file here, a row
in ``RULES`` and a place in ``Strategy``'s union; the contract tests then run it.
"""

from typing import Annotated, TypeAlias

from pydantic import Field

from bptcnn.outer.rules.agwu import Agwu
from bptcnn.outer.rules.base import Contribution, Peer, UpdateRule
from bptcnn.outer.rules.combine import combine
from bptcnn.outer.rules.sgwu import Sgwu

Strategy: TypeAlias = Annotated[Agwu | Sgwu, Field(discriminator="name")]
"""Any update rule; its ``name`` says which."""

RULES: dict[str, type[Agwu | Sgwu]] = {"agwu": Agwu, "sgwu": Sgwu}
"""Known update rules by name."""

__all__ = ["RULES", "Agwu", "Contribution", "Peer", "Sgwu", "Strategy", "UpdateRule", "combine"]
