"""JAX: one compiled function a step, whose state is given away to it."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from inner_peers.case import LR, MOMENTUM, SEED, WEIGHT_DECAY, Setup
from inner_peers.layers import (
    Conv,
    Dense,
    Dropout,
    Flatten,
    Layer,
    Mean,
    Norm,
    Pool,
    Relu,
    Residual,
    Subsample,
)

Arrays = dict[str, jax.Array]


class State(NamedTuple):
    """What a step changes; ``momentum`` is per weight, ``key`` draws the dropout."""

    weights: Arrays
    momentum: Arrays
    statistics: Arrays
    key: jax.Array


class Runner:
    """A network that trains in JAX.

    Args:
        setup: what it trains.
    """

    def __init__(self, setup: Setup) -> None:
        self.version = jax.__version__
        network = setup.network
        assert network is not None
        weights = {name: jnp.asarray(value) for name, value in network.weights.items()}
        momentum = {name: jnp.zeros_like(value) for name, value in weights.items()}
        statistics = {name: jnp.asarray(value) for name, value in network.statistics.items()}
        self._state = State(weights, momentum, statistics, jax.random.key(SEED))
        dtype = jnp.bfloat16 if setup.case.precision == "bf16" else jnp.float32
        self._step = jax.jit(functools.partial(step, network.layers, dtype), donate_argnums=0)
        batches = [
            (jnp.asarray(images.transpose(0, 2, 3, 1)), jnp.asarray(labels)) for images, labels in setup.case.batches()
        ]
        self._batches = itertools.cycle(batches)

    def run(self, num_steps: int) -> float:
        """Do so many steps; the loss of the last."""
        for images, labels in itertools.islice(self._batches, num_steps):
            self._state, loss = self._step(self._state, images, labels)
        # The steps run behind the calls: the last weights are there when all are done.
        for weight in self._state.weights.values():
            weight.block_until_ready()
        return float(loss)


def step(
    layers: Sequence[Layer], dtype: Any, state: State, images: jax.Array, labels: jax.Array
) -> tuple[State, jax.Array]:
    """One step of SGD; the new state and the loss."""
    key, dropout = jax.random.split(state.key)

    def loss_of(weights: Arrays) -> tuple[jax.Array, Arrays]:
        statistics = dict(state.statistics)
        cast = {name: value.astype(dtype) for name, value in weights.items()}
        scores = forward(layers, images.astype(dtype), cast, statistics, dropout)
        chances = jax.nn.log_softmax(scores.astype(jnp.float32))
        return -jnp.take_along_axis(chances, labels[:, None], axis=1).mean(), statistics

    (loss, statistics), gradient = jax.value_and_grad(loss_of, has_aux=True)(state.weights)
    decayed = {name: gradient[name] + WEIGHT_DECAY * value for name, value in state.weights.items()}
    momentum = {name: MOMENTUM * state.momentum[name] + value for name, value in decayed.items()}
    weights = {name: value - LR * (decayed[name] + MOMENTUM * momentum[name]) for name, value in state.weights.items()}
    return State(weights, momentum, statistics, key), loss


def forward(layers: Sequence[Layer], x: jax.Array, weights: Arrays, statistics: Arrays, key: jax.Array) -> jax.Array:
    """Apply layers in training mode.

    Args:
        layers: in order.
        x: [B, H, W, C].
        weights: by name, of the activations' type.
        statistics: batch-norm's running ones, which are replaced by new ones.
        key: draws the dropout.

    Returns:
        What the last layer gives.
    """
    for layer in layers:
        match layer:
            case Conv():
                x = lax.conv_general_dilated(
                    x,
                    weights[f"{layer.name}.kernel"],
                    (layer.stride, layer.stride),
                    [(layer.padding, layer.padding)] * 2,
                    dimension_numbers=("NHWC", "HWIO", "NHWC"),
                )
                if layer.bias:
                    x = x + weights[f"{layer.name}.bias"]
            case Dense():
                x = x @ weights[f"{layer.name}.kernel"] + weights[f"{layer.name}.bias"]
            case Norm():
                x = normalize(layer, x, weights, statistics)
            case Pool():
                x = lax.reduce_window(
                    x,
                    -jnp.inf,
                    lax.max,
                    (1, layer.side, layer.side, 1),
                    (1, layer.stride, layer.stride, 1),
                    ((0, 0), (layer.padding, layer.padding), (layer.padding, layer.padding), (0, 0)),
                )
            case Relu():
                x = jax.nn.relu(x)
            case Flatten():
                x = x.reshape(len(x), -1)
            case Mean():
                x = x.mean((1, 2))
            case Dropout():
                key, mine = jax.random.split(key)
                kept = jax.random.bernoulli(mine, 1 - layer.rate, x.shape)
                x = jnp.where(kept, x / (1 - layer.rate), 0)
            case Subsample():
                x = x[:, :: layer.stride, :: layer.stride]
                x = jnp.pad(x, ((0, 0), (0, 0), (0, 0), (0, layer.new_channels)))
            case Residual():
                body = forward(layer.body, x, weights, statistics, key)
                x = jax.nn.relu(body + forward(layer.shortcut, x, weights, statistics, key))
    return x


def normalize(layer: Norm, x: jax.Array, weights: Arrays, statistics: Arrays) -> jax.Array:
    """Batch normalisation with the batch's own statistics, taken in float32."""
    full = x.astype(jnp.float32)
    mean = full.mean((0, 1, 2))
    # As Flax does by default: one pass over the images.
    variance = jnp.maximum((full * full).mean((0, 1, 2)) - mean * mean, 0)
    count = x.size // x.shape[-1]
    for name, value in (("mean", mean), ("variance", variance * count / (count - 1))):
        running = statistics[f"{layer.name}.{name}"]
        statistics[f"{layer.name}.{name}"] = running + layer.rate * (value - running)
    scale = weights[f"{layer.name}.scale"] * lax.rsqrt(variance + layer.epsilon)
    return ((full - mean) * scale + weights[f"{layer.name}.bias"]).astype(x.dtype)
