"""Steps by PyTorch: networks that take channels-last images get them, those that do not are none the wiser."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional

from bptcnn.inner.eager import Eager, takes_channels_last

IMAGES, LABELS = torch.randn(8, 3, 8, 8, generator=torch.Generator().manual_seed(0)), torch.arange(8) % 4


class Views(nn.Module):
    """As many networks are written: activations become vectors by a view, which wants channels outermost."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.frozen = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.BatchNorm2d(4)
        self.linear = nn.Linear(4 * 6 * 6, 4)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        planes = functional.dropout(functional.relu(self.frozen(self.norm(self.conv(images)))))
        return self.linear(planes.view(len(planes), -1))


class Looks(nn.Module):
    """Remembers how its images lay."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3 * 8 * 8, 4)
        self.seen: list[bool] = []

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.seen.append(images.is_contiguous(memory_format=torch.channels_last))
        return self.linear(images.flatten(1))


def views() -> Views:
    torch.manual_seed(7)
    network = Views().train()
    network.frozen.eval()
    return network


def test_a_network_that_views_its_activations_trains_as_in_a_plain_loop() -> None:
    network, plain = views(), views()
    eager = Eager(network, channels_last=True)
    torch.manual_seed(11)
    found = [eager(IMAGES, LABELS, functional.cross_entropy)[0].item() for _ in range(2)]
    torch.manual_seed(11)
    for value in found:  # the same dropout, the same statistics
        plain.zero_grad()
        loss = functional.cross_entropy(plain(IMAGES), LABELS)
        loss.backward()
        assert value == pytest.approx(loss.item(), rel=1e-6)
    for own, others in zip(network.parameters(), plain.parameters(), strict=True):
        assert own.grad is not None
        assert others.grad is not None
        torch.testing.assert_close(own.grad, others.grad)
    for own, others in zip(network.buffers(), plain.buffers(), strict=True):
        torch.testing.assert_close(own, others)


def test_asking_changes_neither_modes_nor_statistics_nor_chance() -> None:
    network = views()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    chance = torch.get_rng_state()
    assert not takes_channels_last(network, IMAGES)
    assert [network.training, network.norm.training, network.frozen.training] == [True, True, False]
    assert torch.equal(torch.get_rng_state(), chance)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


@pytest.mark.parametrize("wanted", [True, False])
def test_channels_lie_innermost_where_that_is_wanted_and_nobody_minds(wanted: bool) -> None:
    network = Looks()
    eager = Eager(network, channels_last=wanted)
    for _ in range(2):
        eager(IMAGES, LABELS, functional.cross_entropy)
    assert network.seen == ([True] * 3 if wanted else [False] * 2)


def test_what_is_no_image_is_left_alone() -> None:
    vectors = torch.ones(4, 6)
    assert Eager(nn.Linear(6, 2), channels_last=True).laid_out(vectors) is vectors


def test_gradients_stay_where_others_see_them() -> None:
    network = nn.Linear(192, 4)
    whole = torch.full((2, 4 * 192), 7.0)
    network.weight.grad, bias = whole[0].view(4, 192), torch.full((4,), 7.0)
    network.bias.grad = bias
    Eager(network)(IMAGES.flatten(1), LABELS, functional.cross_entropy)
    assert network.weight.grad is not None
    assert network.weight.grad.data_ptr() == whole.data_ptr()
    assert torch.equal(bias, torch.full((4,), 7.0))  # PyTorch has put the new one elsewhere
    network.bias.grad = bias
    Eager(network, gradients_stay=True)(IMAGES.flatten(1), LABELS, functional.cross_entropy)
    assert network.bias.grad is bias
    plain = copy.deepcopy(network)
    plain.zero_grad()
    functional.cross_entropy(plain(IMAGES.flatten(1)), LABELS).backward()
    for own, others in zip(network.parameters(), plain.parameters(), strict=True):
        assert own.grad is not None
        assert others.grad is not None
        torch.testing.assert_close(own.grad, others.grad)
