"""A run before it starts: configuration, network and data, checked against each other."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from bptcnn.config import RunConfig
from bptcnn.data import DataPair, Samples
from bptcnn.data.subset import hold_out
from bptcnn.engine import packing
from bptcnn.engine.packing import ServerEnd, WorkerEnd
from bptcnn.errors import ConfigError
from bptcnn.inner import Exchange, Learner, LocalWorker, Mixing, OptimizerConfig
from bptcnn.models import FlatModel, ModelConfig, build
from bptcnn.outer.allocation import Plan
from bptcnn.outer.coordinator import Setup
from bptcnn.outer.rules import Strategy
from bptcnn.wire import Sizes

Factory = ModelConfig | Callable[..., nn.Module]
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Job:
    """What every process of a run needs to know; sent to workers as it is.

    Attributes:
        config: the recipe.
        model: a registered name or the user's factory.
        train: what workers train on.
        test: what accuracy is measured on.
        validation: training samples held out for Q, if the rule asks for it.
    """

    config: RunConfig
    model: Factory
    train: Samples
    test: Samples
    validation: Samples | None

    def network(self) -> nn.Module:
        """Build the network; the same weights each time."""
        return build(self.model, self.train.shape, self.train.num_classes, self.config.seed)

    @property
    def rule(self) -> Strategy:
        """The update rule, with what it leaves to the number of workers filled in."""
        return self.config.strategy.settled(self.config.workers.count)

    @property
    def optimizer(self) -> OptimizerConfig:
        """The workers' optimizer, with what the rule prescribes."""
        momentum = self.config.strategy.local_momentum
        if momentum is None:
            return self.config.optimizer
        return self.config.optimizer.model_copy(update={"momentum": momentum, "nesterov": True})

    def learner(self, network: nn.Module, num_lanes: int = 1, device: torch.device = CPU) -> Learner:
        """The arithmetic of one worker, on a network of its own.

        Args:
            network: the network.
            num_lanes: cores to use.
            device: where to train.
        """
        config = self.config
        return Learner(
            network,
            self.train,
            self.optimizer,
            config.precision,
            self.validation,
            batch_size=config.batch_size,
            num_lanes=num_lanes,
            device=device,
        )

    def local_worker(self, learner: Learner | None) -> LocalWorker:
        """A worker's side of the exchange, from a first answer on; without a learner it only keeps time."""
        config, flat = self.config, None if learner is None else learner.flat
        exchange = Exchange(flat, self.rule) if flat is not None and self.rule.central else None
        mixing = None if self.rule.central else Mixing(flat)
        return LocalWorker(config.batch_size, self.optimizer, config.schedule, learner, exchange, mixing)

    def worker_end(self) -> WorkerEnd:
        """A worker's end of its connection to the server, for one incarnation."""
        return WorkerEnd(self.rule, self.config.exchange.dtype)

    def server_end(self) -> ServerEnd:
        """The server's end of the connections."""
        return ServerEnd(self.rule, self.config.exchange.dtype)

    def sizes(self, num_weights: int) -> Sizes:
        """What vectors of this length weigh on their ways."""
        return packing.sizes(self.rule, self.config.exchange.dtype, num_weights)

    def setup(self, *, num_weights: int, session: int) -> Setup:
        """The coordinator's fixed facts.

        Args:
            num_weights: length of the weight vector.
            session: restarts so far.
        """
        config, every = self.config, self.rule.cadence(self.config.exchange.every)
        plan = Plan(len(self.train), config.epochs, config.batch_size, every, config.seed)
        return Setup(
            plan=plan,
            allocation=config.allocation,
            strategy=self.rule,
            exchange=config.exchange,
            faults=config.faults,
            evaluation=config.evaluation,
            checkpoint=config.checkpoint,
            num_workers=config.workers.count,
            sizes=self.sizes(num_weights),
            session=session,
        )


def prepare(config: RunConfig, model: Factory | None, data: DataPair) -> Job:
    """Check that the pieces fit and hold out what the rule needs.

    Args:
        config: the recipe.
        model: the user's factory; None for the recipe's.
        data: training and test set.

    Returns:
        The job.

    Raises:
        ConfigError: the validation subset would take half of the training data or more.
        ModelError: the network cannot be built or does not fit the data.
    """
    train: Samples = data.train
    validation: Samples | None = None
    if config.strategy.accuracy_from == "validation":
        count = config.evaluation.validation
        if 2 * count > len(train):
            raise ConfigError(
                f"evaluation.validation = {count} is more than half of the {len(train)} training samples: lower it"
            )
        train, validation = hold_out(train, count, config.seed)
    job = Job(config, model or config.model, train, data.test, validation)
    FlatModel(job.network())
    return job
