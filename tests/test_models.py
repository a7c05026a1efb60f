"""Networks: the zoo has the sizes of its papers, and what does not fit is refused in one sentence."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from bptcnn.errors import ConfigError, ModelError
from bptcnn.models import MODELS, FlatModel, ModelConfig, build, load_model, save_model

DIGITS = (1, 8, 8)


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Small tensors on several threads are slow wherever the cores are busy."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def size(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def linear(input_shape: tuple[int, int, int], num_classes: int) -> nn.Module:
    channels, height, width = input_shape
    return nn.Sequential(nn.Flatten(), nn.Linear(channels * height * width, num_classes))


@pytest.mark.parametrize(
    ("name", "shape", "num_classes", "expected"),
    [
        ("lenet5", (1, 28, 28), 10, 61_706),
        ("easgd-cifar", (3, 28, 28), 10, 351_946),
        ("resnet8", (3, 32, 32), 10, 75_290),
        ("resnet20", (3, 32, 32), 10, 269_722),
        ("resnet18", (3, 32, 32), 10, 11_173_962),
        ("resnet18", (3, 64, 64), 1000, 11_689_512),
    ],
)
def test_sizes_are_those_of_the_papers(name: str, shape: tuple[int, int, int], num_classes: int, expected: int) -> None:
    assert size(build(ModelConfig(name=name), shape, num_classes, seed=0)) == expected


@pytest.mark.parametrize("shape", [(1, 8, 8), (1, 28, 28), (3, 32, 32), (2, 9, 17)])
@pytest.mark.parametrize("name", sorted(set(MODELS) - {"easgd-cifar", "resnet18", "case5", "case6", "case7"}))
def test_the_zoo_takes_images_of_any_usual_size(name: str, shape: tuple[int, int, int]) -> None:
    model = build(ModelConfig(name=name), shape, 7, seed=0)
    assert model.training
    assert model(torch.rand(3, *shape)).shape == (3, 7)


@pytest.mark.parametrize("name", ["case5", "case6", "case7", "resnet18"])
def test_the_large_ones_take_small_images_too(name: str) -> None:
    build(ModelConfig(name=name), DIGITS, 10, seed=0)


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 32, 32)])
def test_the_seven_cases_grow(shape: tuple[int, int, int]) -> None:
    sizes = [size(MODELS[f"case{number}"](shape, 10)) for number in range(1, 8)]
    assert sizes == sorted(sizes)
    assert len(set(sizes)) == 7


@pytest.mark.parametrize("name", ["lenet5", "case3", "resnet8"])
def test_outputs_begin_neither_dead_nor_wild(name: str) -> None:
    model = build(ModelConfig(name=name), (1, 28, 28), 10, seed=0)
    outputs = model(torch.randn(64, 1, 28, 28, generator=torch.Generator().manual_seed(0)))
    assert 0.1 < outputs.std() < 10
    biases = [module.bias for module in model.modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    assert all(bias is None or not bias.any() for bias in biases)


@pytest.mark.parametrize("name", ["lenet5", "resnet8"])
def test_the_zoo_learns(name: str) -> None:
    flat = FlatModel(build(ModelConfig(name=name), DIGITS, 4, seed=1))
    images = torch.randn(32, *DIGITS, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(32) % 4
    losses = []
    for _ in range(15):
        flat.zero_grad()
        loss = nn.functional.cross_entropy(flat.module(images), labels)
        loss.backward()
        flat.parameters_vector.sub_(0.1 * flat.gradient)
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 2


def test_the_seed_decides_and_the_callers_random_state_stays() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first, same, other = (FlatModel(build(ModelConfig(), DIGITS, 10, seed)).vector for seed in (1, 1, 2))
    assert torch.equal(torch.rand(3), expected)
    assert torch.equal(first, same)
    assert not torch.equal(first, other)


def test_a_users_factory_gets_the_keywords_it_names() -> None:
    def only_classes(num_classes: int) -> nn.Module:
        return linear(DIGITS, num_classes)

    def neither(width: int = 10) -> nn.Module:
        return linear(DIGITS, width)

    class Own(nn.Module):
        def __init__(self, *, input_shape: tuple[int, int, int], num_classes: int = 2) -> None:
            super().__init__()
            self.layers = linear(input_shape, num_classes)

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return self.layers(images)

    for factory in (linear, only_classes, neither, Own):
        assert build(factory, DIGITS, 10, seed=0)(torch.zeros(5, *DIGITS)).shape == (5, 10)


def fails() -> nn.Module:
    raise ZeroDivisionError("no width\nsecond line")


def misspelt(classes: int) -> nn.Module:
    return linear(DIGITS, classes)


def by_position(num_classes: int, /) -> nn.Module:
    return linear(DIGITS, num_classes)


def wrong_inside(num_classes: int) -> nn.Module:
    return linear(DIGITS, num_classes, more=1)  # type: ignore[call-arg]


@pytest.mark.parametrize(
    ("factory", "sentence"),
    [
        (fails, r"model 'fails' cannot be built for images of 1x8x8 \(ZeroDivisionError: no width\): use a network"),
        (lambda: 3, r"returns an int, not a torch.nn.Module: return the network itself"),
        (lambda: None, r"returns a NoneType, not a torch.nn.Module"),
        (lambda: linear(DIGITS, 7), r"gives 7 outputs but the data has 10 classes: build it with 10 outputs"),
        (lambda: nn.Conv2d(1, 10, 1), r"gives outputs of shape \[2, 10, 8, 8\] for 2 images, not \[2, 10\]"),
        (lambda: nn.Conv2d(3, 4, 3), r"cannot take images of 1x8x8 \(RuntimeError: .*\): use a network made for"),
        (lambda: nn.Sequential(nn.Flatten(), nn.LSTM(64, 10)), r"gives a tuple, not a tensor: return the outputs"),
        (nn.Flatten(), r"model 'Flatten' is a finished network: give the function or class"),
        ("lenet5", r"model 'str' is a str, which can't be called"),
        (
            misspelt,
            r"'misspelt' cannot be built \(TypeError: .*missing 1 required positional argument: 'classes'\): a fac",
        ),
        (
            by_position,
            r"'by_position' cannot be built \(TypeError: .*\): .* input_shape and num_classes by these names",
        ),
        (wrong_inside, r"cannot be built for images of 1x8x8 \(TypeError: .*'more'\): use a network made for"),
    ],
)
def test_a_factory_that_does_not_fit_is_refused(factory: Callable[..., nn.Module], sentence: str) -> None:
    with pytest.raises(ModelError, match=sentence):
        build(factory, DIGITS, 10, seed=0)


def test_a_network_too_deep_for_the_image_is_refused() -> None:
    for name, shape in (("easgd-cifar", DIGITS), ("lenet5", (1, 2, 2))):
        with pytest.raises(
            ModelError, match=f"model '{name}' cannot be built for images of .*: use a network made for"
        ):
            build(ModelConfig(name=name), shape, 10, seed=0)


def test_an_unknown_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(
        ModelError, match=r"unknown model 'lenet': did you mean 'lenet5'\?.* as package.module:function"
    ):
        build(ModelConfig(name="lenet"), DIGITS, 10, seed=0)
    with pytest.raises(ConfigError, match="unknown key 'nam'"):
        ModelConfig(nam="lenet5")


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's folder with a module of its own, and the current directory in it."""
    (tmp_path / "my_nets.py").write_text(
        textwrap.dedent(
            """
            from torch import nn

            WIDTH = 3

            def small(input_shape, num_classes):
                return nn.Sequential(nn.Flatten(), nn.Linear(input_shape[1] * input_shape[2], num_classes))

            class Nets:
                build = staticmethod(small)
            """
        )
    )
    (tmp_path / "broken_nets.py").write_text("import no_such_library")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    for name in ("my_nets", "broken_nets"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return tmp_path


@pytest.mark.parametrize("name", ["my_nets:small", "my_nets:Nets.build"])
@pytest.mark.usefixtures("project")
def test_a_users_module_is_found_in_the_current_directory(name: str) -> None:
    assert size(build(ModelConfig(name=name), DIGITS, 10, seed=0)) == 650


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("my_net:small", r"there is no module 'my_net' on the path or in '.*': correct the name or start from"),
        ("my_nets.sub:small", r"there is no module 'my_nets.sub'|importing 'my_nets.sub' failed"),
        ("my_nets:smal", r"module 'my_nets' has no 'smal': name what it defines \(small, Nets\)"),
        ("my_nets:WIDTH", r"is an int, which can't be called: name a function"),
        ("broken_nets:small", r"importing 'broken_nets' failed \(ModuleNotFoundError: No module named 'no_such_"),
        (":small", r"model ':small' is not valid: write it as package.module:function"),
        ("my_nets:", r"is not valid: write it as package.module:function"),
    ],
)
@pytest.mark.usefixtures("project")
def test_a_users_module_that_fails_is_explained(name: str, sentence: str) -> None:
    with pytest.raises(ModelError, match=sentence):
        build(ModelConfig(name=name), DIGITS, 10, seed=0)


def test_a_saved_model_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    saved, loaded = (FlatModel(build(ModelConfig(name="resnet8"), DIGITS, 10, seed)) for seed in (1, 2))
    saved.module(torch.rand(4, *DIGITS))
    save_model(path, saved.module)
    load_model(path, loaded.module)
    assert torch.equal(saved.vector, loaded.vector)
    save_model(tmp_path / "same.safetensors", saved.state_dict())
    assert (tmp_path / "same.safetensors").read_bytes() == path.read_bytes()
    assert sorted(file.name for file in tmp_path.iterdir()) == ["model.safetensors", "same.safetensors"]


def test_tied_tensors_are_saved_under_both_names(tmp_path: Path) -> None:
    def tied() -> nn.Module:
        module = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
        module[1].weight = module[0].weight
        return module

    first, second = tied(), tied()
    save_model(tmp_path / "model.safetensors", first)
    load_model(tmp_path / "model.safetensors", second)
    assert torch.equal(first[1].weight, second[0].weight)
    assert second[1].weight is second[0].weight


def test_a_model_file_that_does_not_fit_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    module = nn.Linear(3, 2)
    before = module.weight.clone()
    for other, sentence in (
        (nn.Linear(3, 4), r"does not fit: 'bias' is float32 \[4\] there and float32 \[2\] in the network"),
        (nn.Linear(3, 2, bias=False), r"does not fit: 'bias' is absent there and float32 \[2\]"),
        (nn.Linear(3, 2).double(), r"does not fit: 'bias' is float64 \[2\] there"),
    ):
        save_model(path, other)
        with pytest.raises(ModelError, match=sentence):
            load_model(path, module)
    path.write_bytes(b"no model")
    with pytest.raises(ModelError, match=r"is damaged or no \.safetensors file: save the model again"):
        load_model(path, module)
    with pytest.raises(ModelError, match=r"cannot read model .*absent.* \(No such file or directory\)"):
        load_model(tmp_path / "absent", module)
    with pytest.raises(ModelError, match=r"cannot write model .* \(No such file or directory\)"):
        save_model(tmp_path / "absent" / "model", module)
    assert torch.equal(module.weight, before)
