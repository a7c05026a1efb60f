"""The base of every configuration section: frozen, complete, and strict about unknown keys."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, get_args

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from bptcnn.errors import ConfigError, unknown

_BOUNDS = {
    "greater_than_equal": ("give {} or more", "ge"),
    "greater_than": ("give more than {}", "gt"),
    "less_than_equal": ("give {} or less", "le"),
    "less_than": ("give less than {}", "lt"),
}


class Section(BaseModel):
    """A frozen group of settings; every field's docstring states its meaning and unit.

    Raises:
        ConfigError: a value is out of range or a key does not exist.

    Example:
        >>> class Optimizer(Section):
        ...     lr: float = 0.1
        >>> Optimizer(rate=1)
        Traceback (most recent call last):
        bptcnn.errors.ConfigError: unknown key 'rate': use one of lr
    """

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, arbitrary_types_allowed=False, allow_inf_nan=False
    )

    def __init__(self, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise ConfigError(explain(type(self), error)) from None

    # Sections inside another one are not built by this __init__: the outermost explains, as it knows the whole key.
    __init__.__pydantic_base_init__ = True  # type: ignore[attr-defined]


def explain(owner: type[BaseModel], error: ValidationError) -> str:
    """Turn pydantic's report into one sentence about the first wrong value.

    Args:
        owner: the section that was being built.
        error: pydantic's report.

    Returns:
        A sentence that names the key as a user writes it, the value and the remedy.
    """
    first = error.errors(include_url=False)[0]
    cause = first.get("ctx", {}).get("error")
    if isinstance(cause, ConfigError):  # from a validator, which names the key itself
        return str(cause)
    key, section, inner = _locate(owner, first["loc"])
    if first["type"] == "extra_forbidden":
        name = str(first["loc"][-1])
        return unknown("key", name, section.model_fields).replace(repr(name), repr(key), 1)
    if first["type"] == "missing":
        return f"key {key!r} is missing: give it a value"
    if inner is not None:
        cause = f"it is a section, set its keys, such as {key}.{next(iter(inner.model_fields))}"
    return f"{key} = {first['input']!r} is not valid: {cause or _remedy(first)}"


def _locate(owner: type[BaseModel], places: Sequence[int | str]) -> tuple[str, type[BaseModel], type[BaseModel] | None]:
    """Follow pydantic's path, which also names the chosen part of each union.

    Returns:
        The key as a user writes it, the section that it stands in, and the section that it holds if it holds one.
    """
    key, section, inner = "", owner, None
    steps = iter(places)
    for step in steps:
        if isinstance(step, int):
            key, inner = f"{key}[{step}]", None
            continue
        section = inner or section
        field = section.model_fields.get(step)
        tag = next(steps, None) if field is not None and field.discriminator else None
        key, inner = f"{key}.{step}" if key else step, _held(field, tag)
    return key, section, inner


def _held(field: FieldInfo | None, tag: int | str | None) -> type[BaseModel] | None:
    """The section that a field holds: of a union, the one with this tag; None if it holds a plain value."""
    if field is None:
        return None
    sections = [kind for kind in (field.annotation, *get_args(field.annotation)) if hasattr(kind, "model_fields")]
    name = str(field.discriminator)
    return next((kind for kind in sections if tag is None or kind.model_fields[name].default == tag), None)


def _remedy(details: ErrorDetails) -> str:
    """What to give instead, in our words where pydantic's are clumsy."""
    kind, message, bounds = details["type"], details["msg"], details.get("ctx", {})
    if kind in _BOUNDS:
        words, name = _BOUNDS[kind]
        return words.format(f"{bounds[name]}".removesuffix(".0"))
    return "give a list" if kind == "tuple_type" else message[:1].lower() + message[1:]
