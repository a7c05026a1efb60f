"""From a name or a user's function to a network that is known to fit the data."""

from __future__ import annotations

import importlib
import inspect
import operator
import sys
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn

from bptcnn.errors import ModelError, unknown
from bptcnn.models.layers import Shape
from bptcnn.models.zoo import MODELS
from bptcnn.section import Section


class ModelConfig(Section):
    """Which network is trained."""

    name: str = "lenet5"
    """A network of the zoo, such as ``lenet5``, or your own as ``package.module:function``: a factory that takes no
    arguments, or any of the keyword parameters ``input_shape`` (channels, height, width) and ``num_classes``."""

    init: str | None = None
    """Weights to begin with: a run folder, or a ``.safetensors`` file of tensors under the network's own names. Where
    the number of classes differs, the head starts anew."""

    freeze: tuple[str, ...] = ()
    """Parameters that do not train, as patterns over their names: ``0.*`` freezes the convolutions of ``lenet5``."""


def build(
    config_or_factory: ModelConfig | Callable[..., nn.Module], shape: Shape, num_classes: int, seed: int
) -> nn.Module:
    """Build a network and check that it fits the data.

    A user's factory takes no arguments, or any of the keywords ``input_shape`` and ``num_classes``. The same seed gives
    the same weights; the caller's random state is left as it was.

    Args:
        config_or_factory: the configuration, or a function that returns the network.
        shape: of an image: channels, height, width.
        num_classes: number of outputs that the data needs.
        seed: of the initial weights, 0 to 2**63 - 1.

    Returns:
        The network, on the CPU, in training mode.

    Raises:
        ModelError: there is no such network, its factory fails, or it does not fit the data.

    Example:
        >>> model = build(ModelConfig(name="lenet5"), (1, 28, 28), 10, seed=0)
        >>> sum(parameter.numel() for parameter in model.parameters())
        61706
    """
    name, make = _maker(config_or_factory, shape, num_classes)
    # Only the CPU's generator is seeded: torch.manual_seed would also reach those of the GPUs.
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        try:
            module = make()
        except ModelError:
            raise
        except Exception as error:
            raise ModelError(
                f"model {name!r} cannot be built for {_images(shape)} ({_cause(error)}): {_REMEDY}"
            ) from error
        if not isinstance(module, nn.Module):
            raise ModelError(f"model {name!r} returns {_a(module)}, not a torch.nn.Module: return the network itself")
        _check_output(name, module, shape, num_classes)
    return module.train()


_REMEDY = "use a network made for images of this size and number of channels, or correct your own"
_CONTRACT = "a factory takes no arguments, or input_shape and num_classes by these names"


def _maker(
    source: ModelConfig | Callable[..., nn.Module], shape: Shape, num_classes: int
) -> tuple[str, Callable[[], object]]:
    """A name for messages, and what builds the network."""
    if not isinstance(source, ModelConfig):
        name = getattr(source, "__qualname__", type(source).__qualname__)
        return name, _bound(name, source, shape, num_classes)
    if ":" in source.name:
        return source.name, _bound(source.name, _imported(source.name), shape, num_classes)
    if source.name not in MODELS:
        raise ModelError(f"{unknown('model', source.name, MODELS)}; name your own as package.module:function")
    return source.name, lambda: MODELS[source.name](shape, num_classes)


def _bound(name: str, factory: Any, shape: Shape, num_classes: int) -> Callable[[], object]:
    """A user's factory with those of our two keywords that its signature names."""
    if isinstance(factory, nn.Module):
        raise ModelError(f"model {name!r} is a finished network: give the function or class that builds it")
    if not callable(factory):
        raise ModelError(
            f"model {name!r} is {_a(factory)}, which can't be called: name a function that builds the network"
        )
    offered = {"input_shape": shape, "num_classes": num_classes}
    keywords = {keyword: value for keyword, value in offered.items() if keyword in _parameters(factory)}

    def make() -> object:
        try:
            return factory(**keywords)
        except TypeError as error:
            if _accepts(factory, keywords):  # then the fault lies inside of it
                raise
            raise ModelError(f"model {name!r} cannot be built ({_cause(error)}): {_CONTRACT}") from error

    return make


def _parameters(factory: Callable[..., object]) -> Collection[str]:
    try:
        return inspect.signature(factory).parameters
    except ValueError:  # some built-in callables have no signature
        return ()


def _accepts(factory: Callable[..., object], keywords: Mapping[str, object]) -> bool:
    """Whether a call with these keywords fits the signature, as far as there is one."""
    try:
        inspect.signature(factory).bind(**keywords)
    except TypeError:
        return False
    except ValueError:
        return True
    return True


def _imported(name: str) -> Any:
    """Import what ``package.module:attribute`` names, also from the current directory."""
    module_name, _, attribute = name.partition(":")
    if not module_name or not attribute:
        raise ModelError(f"model {name!r} is not valid: write it as package.module:function")
    module = _module(name, module_name)
    try:
        return operator.attrgetter(attribute)(module)
    except AttributeError:
        own = [key for key, value in vars(module).items() if getattr(value, "__module__", "") == module_name]
        raise ModelError(
            f"model {name!r}: module {module_name!r} has no {attribute!r}: "
            f"name what it defines ({', '.join(own) or 'nothing'})"
        ) from None


def _module(name: str, module_name: str) -> ModuleType:
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    importlib.invalidate_caches()
    try:
        return importlib.import_module(module_name)
    except Exception as error:
        if isinstance(error, ModuleNotFoundError) and f"{module_name}.".startswith(f"{error.name}."):
            raise ModelError(
                f"model {name!r}: there is no module {error.name!r} on the path or in {here!r}: "
                "correct the name or start from the folder that holds it"
            ) from None
        raise ModelError(
            f"model {name!r}: importing {module_name!r} failed ({_cause(error)}): correct that module"
        ) from error


def _check_output(name: str, module: nn.Module, shape: Shape, num_classes: int) -> None:
    """Send two black images through the network."""
    module.eval()
    try:
        with torch.no_grad():
            output = module(torch.zeros(2, *shape))
    except Exception as error:
        raise ModelError(f"model {name!r} cannot take {_images(shape)} ({_cause(error)}): {_REMEDY}") from error
    if not isinstance(output, torch.Tensor):
        raise ModelError(f"model {name!r} gives {_a(output)}, not a tensor: return the outputs before the softmax")
    if output.shape == (2, num_classes):
        return
    if output.ndim == 2 and len(output) == 2:
        classes = "1 class" if num_classes == 1 else f"{num_classes} classes"
        raise ModelError(
            f"model {name!r} gives {output.shape[1]} outputs but the data has {classes}: "
            f"build it with {num_classes} outputs, for example by taking the keyword num_classes"
        )
    raise ModelError(
        f"model {name!r} gives outputs of shape {list(output.shape)} for 2 images, not [2, {num_classes}]: "
        "return one number per image and class"
    )


def _images(shape: Shape) -> str:
    return f"images of {'x'.join(map(str, shape))}"


def _cause(error: Exception) -> str:
    """An exception's kind and the first line of its message."""
    return f"{type(error).__name__}: {error}".strip().splitlines()[0].rstrip(".:")


def _a(value: object) -> str:
    kind = type(value).__name__
    return f"an {kind}" if kind[0] in "aeiouAEIOU" else f"a {kind}"
