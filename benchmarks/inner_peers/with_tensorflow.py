"""TensorFlow: one ``tf.function`` a step, not compiled by XLA, images NHWC."""

from __future__ import annotations

import itertools
import os
from collections.abc import Mapping, Sequence
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # before the import, which else greets

import tensorflow as tf

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


class Runner:
    """A network that trains in TensorFlow, with its default threads.

    Args:
        setup: what it trains.
    """

    def __init__(self, setup: Setup) -> None:
        self.version = str(tf.__version__)
        network = setup.network
        assert network is not None
        tf.random.set_seed(SEED)
        self._layers = network.layers
        self._weights = {name: tf.Variable(value) for name, value in network.weights.items()}
        self._momentum = {name: tf.Variable(tf.zeros_like(value)) for name, value in network.weights.items()}
        self._statistics = {name: tf.Variable(value, trainable=False) for name, value in network.statistics.items()}
        self._type = tf.bfloat16 if setup.case.precision == "bf16" else tf.float32
        batches = [
            (tf.constant(images.transpose(0, 2, 3, 1)), tf.constant(labels)) for images, labels in setup.case.batches()
        ]
        self._batches = itertools.cycle(batches)
        self._compiled = tf.function(self._step, jit_compile=False)

    def run(self, num_steps: int) -> float:
        """Do so many steps; the loss of the last."""
        for images, labels in itertools.islice(self._batches, num_steps):
            loss = self._compiled(images, labels)
        return float(loss)

    def _step(self, images: Any, labels: Any) -> Any:
        with tf.GradientTape() as tape:
            cast = {name: tf.cast(value, self._type) for name, value in self._weights.items()}
            scores = self._forward(self._layers, tf.cast(images, self._type), cast)
            losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, tf.cast(scores, tf.float32))
            loss = tf.reduce_mean(losses)
        gradient = tape.gradient(loss, self._weights)
        for name, weight in self._weights.items():
            tf.raw_ops.ResourceApplyMomentum(
                var=weight.handle,
                accum=self._momentum[name].handle,
                lr=LR,
                grad=gradient[name] + WEIGHT_DECAY * weight,
                momentum=MOMENTUM,
                use_nesterov=True,
            )
        return loss

    def _forward(self, layers: Sequence[Layer], x: Any, weights: Mapping[str, Any]) -> Any:
        for layer in layers:
            match layer:
                case Conv():
                    x = convolve(layer, x, weights[f"{layer.name}.kernel"])
                    if layer.bias:
                        x = tf.nn.bias_add(x, weights[f"{layer.name}.bias"])
                case Dense():
                    x = tf.nn.bias_add(x @ weights[f"{layer.name}.kernel"], weights[f"{layer.name}.bias"])
                case Norm():
                    x = self._normalize(layer, x)
                case Pool():
                    x = tf.nn.max_pool2d(padded(x, layer.padding, x.dtype.min), layer.side, layer.stride, "VALID")
                case Relu():
                    x = tf.nn.relu(x)
                case Flatten():
                    x = tf.reshape(x, [x.shape[0], -1])
                case Mean():
                    x = tf.reduce_mean(x, [1, 2])
                case Dropout():
                    x = tf.nn.dropout(x, layer.rate)
                case Subsample():
                    x = x[:, :: layer.stride, :: layer.stride]
                    x = tf.pad(x, [[0, 0], [0, 0], [0, 0], [0, layer.new_channels]])
                case Residual():
                    body = self._forward(layer.body, x, weights)
                    x = tf.nn.relu(body + self._forward(layer.shortcut, x, weights))
        return x

    def _normalize(self, layer: Norm, x: Any) -> Any:
        """Batch normalisation by the fused operation, whose weights stay float32."""
        mean, variance = (self._statistics[f"{layer.name}.{name}"] for name in ("mean", "variance"))
        y, batch_mean, batch_variance = tf.compat.v1.nn.fused_batch_norm(
            x,
            self._weights[f"{layer.name}.scale"],
            self._weights[f"{layer.name}.bias"],
            epsilon=layer.epsilon,
            is_training=True,
        )
        for running, value in ((mean, batch_mean), (variance, batch_variance)):
            running.assign_add(layer.rate * (value - running))
        return y


def convolve(layer: Conv, x: Any, kernel: Any) -> Any:
    """Convolve without a bias.

    Never with explicit padding, whose bfloat16 form takes ten times as long. "SAME" is the faster of the other two, and
    pads both sides alike where the stride is 1.
    """
    if layer.stride == 1 and kernel.shape[0] == 2 * layer.padding + 1:
        return tf.nn.conv2d(x, kernel, 1, "SAME")
    return tf.nn.conv2d(padded(x, layer.padding, 0.0), kernel, layer.stride, "VALID")


def padded(x: Any, pixels: int, value: float) -> Any:
    """Add so many pixels on every side."""
    return tf.pad(x, [[0, 0], [pixels, pixels], [pixels, pixels], [0, 0]], constant_values=value) if pixels else x
