"""A run before it starts: configuration, network and data, checked against each other."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from math import ceil
from pathlib import Path

import torch
from torch import nn

from bptcnn.config import RunConfig
from bptcnn.data import DataPair, Samples
from bptcnn.data.subset import hold_out
from bptcnn.engine import packing
from bptcnn.engine.packing import ServerEnd, WorkerEnd
from bptcnn.errors import ConfigError, ModelError
from bptcnn.folder import RunFolder
from bptcnn.inner import Exchange, Learner, LocalWorker, Mixing, OptimizerConfig
from bptcnn.models import FlatModel, ModelConfig, adopt, build, freeze, read_model, restore
from bptcnn.outer.allocation import Plan, Uniform
from bptcnn.outer.coordinator import Setup
from bptcnn.outer.rules import Auto, Strategy
from bptcnn.outer.rules.gossip import Peers
from bptcnn.wire import Sizes

Factory = ModelConfig | Callable[..., nn.Module]
State = Mapping[str, torch.Tensor]
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
        initial: all tensors of the network at the start of the run, where they are not those that its factory draws:
            given weights, or frozen ones, which are never sent again.
        notices: what the user is told before the start.
    """

    config: RunConfig
    model: Factory
    train: Samples
    test: Samples
    validation: Samples | None
    initial: State | None = field(default=None, compare=False, repr=False)
    notices: tuple[str, ...] = ()

    def network(self) -> nn.Module:
        """Build the network; the same weights each time, and the same ones frozen."""
        network = build(self.model, self.train.shape, self.train.num_classes, self.config.seed)
        if self.initial is not None:
            restore(network, self.initial, "what the run began with")
        freeze(network, self.config.model.freeze)
        return network

    @property
    def rule(self) -> Strategy:
        """The update rule, with what it leaves to the number of workers filled in."""
        strategy = self.config.strategy
        assert not isinstance(strategy, Auto), "an engine chooses a rule before it starts anything"
        return strategy.settled(self.config.workers.count)

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

    def local_worker(self, learner: Learner | None, worker: int) -> LocalWorker:
        """A worker's side of the exchange, from a first answer on.

        Args:
            learner: does the arithmetic; None to keep time only.
            worker: its number.
        """
        config, flat = self.config, None if learner is None else learner.flat
        exchange = None
        if flat is not None and self.rule.meets != "peers":
            exchange = Exchange(flat, self.rule, summed=self.rule.meets == "team")
        rule, mixing = self.rule, None
        if isinstance(rule, Peers):
            mixing = Mixing(flat, answers_to=worker if rule.answered else None)
        return LocalWorker(
            config.batch_size,
            self.optimizer,
            config.schedule,
            learner,
            exchange,
            mixing,
            smallest_step=self.smallest_step,
        )

    @property
    def smallest_step(self) -> int:
        """Samples of a local step at least."""
        return max(1, ceil(self.config.exchange.smallest_step * self.config.batch_size - 1e-9))

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
        by_speed = not isinstance(config.allocation, Uniform)  # else all hold as much, and their steps are equal
        proportional = config.exchange.batches == "proportional" and by_speed
        plan = Plan(
            len(self.train),
            config.epochs,
            config.batch_size,
            every,
            config.seed,
            proportional,
            self.smallest_step,
            config.exchange.post,
        )
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


def prepare(config: RunConfig, model: Factory | None, data: DataPair, initial: State | None = None) -> Job:
    """Check that the pieces fit, hold out what the rule needs, and read the weights to begin with.

    Args:
        config: the recipe.
        model: the user's factory; None for the recipe's.
        data: training and test set.
        initial: what a run that is resumed began with; ``model.init`` is not read again then.

    Returns:
        The job.

    Raises:
        ConfigError: the validation subset would take half of the training data or more, or ``model.freeze`` does not
            fit the network.
        ModelError: the network cannot be built or does not fit the data, or ``model.init`` does not fit the network.
        RunFolderError: ``model.init`` is a folder but no run.
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
    job = Job(config, model or config.model, train, data.test, validation, initial)
    network = job.network()
    head = None
    if config.model.init is not None and initial is None:
        head = adopt(network, _weights_of(config.model.init), train.num_classes, config.model.init)
    flat = FlatModel(network)
    if config.model.init is None and not flat.is_partial:
        return job
    # Frozen weights are carried even where nobody gave them: a user's factory may draw others in each process.
    whole = flat.state_dict() if initial is None else initial
    return replace(job, initial=whole, notices=() if head is None else (str(head),))


def _weights_of(init: str) -> State:
    """The tensors of a file, or of the network that a run left."""
    path = Path(init).expanduser()
    if not path.is_dir():
        return read_model(path)
    folder = RunFolder.peek(path)
    if not folder.model_path.exists():
        raise ModelError(
            f"model.init = {init!r} is a run that has left no network yet: let it end, or name a .safetensors file"
        )
    return read_model(folder.model_path)
