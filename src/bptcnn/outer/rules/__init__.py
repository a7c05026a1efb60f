"""Update rules: how pushed differences become the next global weights. One file per rule.

A rule is its own configuration section: frozen settings plus pure functions of them. Adding one is a file here, a row
in ``RULES`` and a place in ``Strategy``'s union; the contract tests then run it.
"""

from typing import Annotated, TypeAlias

from pydantic import Field

from bptcnn.outer.rules.agwu import Agwu
from bptcnn.outer.rules.allreduce import AllReduce
from bptcnn.outer.rules.anytime import Anytime
from bptcnn.outer.rules.async_local_sgd import AsyncLocalSgd
from bptcnn.outer.rules.auto import Auto
from bptcnn.outer.rules.base import Contribution, Memory, Peer, UpdateRule
from bptcnn.outer.rules.combine import combine
from bptcnn.outer.rules.diloco import Diloco
from bptcnn.outer.rules.downpour import Downpour
from bptcnn.outer.rules.easgd import Eamsgd, Easgd
from bptcnn.outer.rules.gossip import AdPsgd, Alone, Gosgd
from bptcnn.outer.rules.local_sgd import LocalSgd
from bptcnn.outer.rules.sgwu import Sgwu

AnyRule: TypeAlias = (
    AdPsgd
    | Agwu
    | AllReduce
    | Alone
    | Anytime
    | AsyncLocalSgd
    | Diloco
    | Downpour
    | Eamsgd
    | Easgd
    | Gosgd
    | LocalSgd
    | Sgwu
)

Strategy: TypeAlias = Annotated[AnyRule, Field(discriminator="name")]
"""Any update rule; its ``name`` says which."""

AnyStrategy: TypeAlias = Annotated[AnyRule | Auto, Field(discriminator="name")]
"""What a recipe may ask for: an update rule, or that one be chosen."""

RULES: dict[str, type[AnyRule]] = {
    "ad-psgd": AdPsgd,
    "agwu": Agwu,
    "allreduce": AllReduce,
    "anytime": Anytime,
    "async-local-sgd": AsyncLocalSgd,
    "diloco": Diloco,
    "downpour": Downpour,
    "eamsgd": Eamsgd,
    "easgd": Easgd,
    "gosgd": Gosgd,
    "local-sgd": LocalSgd,
    "none": Alone,
    "sgwu": Sgwu,
}
"""Known update rules by name."""

STRATEGIES: dict[str, type[AnyRule | Auto]] = dict(sorted({**RULES, "auto": Auto}.items()))
"""What a recipe may ask for, by name."""

__all__ = [
    "RULES",
    "STRATEGIES",
    "AdPsgd",
    "Agwu",
    "AllReduce",
    "Alone",
    "AnyStrategy",
    "Anytime",
    "AsyncLocalSgd",
    "Auto",
    "Contribution",
    "Diloco",
    "Downpour",
    "Eamsgd",
    "Easgd",
    "Gosgd",
    "LocalSgd",
    "Memory",
    "Peer",
    "Sgwu",
    "Strategy",
    "UpdateRule",
    "combine",
]
