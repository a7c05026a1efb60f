"""Configuration sections: frozen, strict, and wrong values explained in one sentence."""

from __future__ import annotations

from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field, ValidationError, field_validator

from bptcnn.errors import ConfigError
from bptcnn.section import Section


class Optimizer(Section):
    lr: float = Field(default=0.1, gt=0, le=1.5)
    """Learning rate."""
    kind: Literal["sgd", "adam"] = "sgd"


class Recipe(Section):
    epochs: int = Field(ge=1, lt=100)
    optimizer: Optimizer = Optimizer()

    @field_validator("epochs")
    @classmethod
    def _not_thirteen(cls, value: int) -> int:
        if value == 13:
            raise ValueError("it brings bad luck, take 12 or 14")
        return value


def complaint(**values: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        Recipe(**values)
    return str(caught.value)


def test_a_section_is_frozen() -> None:
    recipe = Recipe(epochs=3)
    with pytest.raises(ValidationError, match="frozen"):
        recipe.epochs = 4


def test_the_docstring_of_a_field_is_its_description() -> None:
    assert Optimizer.model_fields["lr"].description == "Learning rate."


def test_an_unknown_key_is_answered_with_the_nearest_one() -> None:
    assert complaint(epochs=1, epoch=2) == "unknown key 'epoch': did you mean 'epochs'? (known: epochs, optimizer)"


def test_an_unknown_key_in_a_nested_section_keeps_its_path() -> None:
    answer = complaint(epochs=1, optimizer={"lrr": 1})
    assert answer.startswith("unknown key 'optimizer.lrr': did you mean ")


def test_a_missing_key_is_named() -> None:
    assert complaint() == "key 'epochs' is missing: give it a value"


def test_a_value_out_of_range_is_shown_with_its_bound() -> None:
    assert complaint(epochs=0) == "epochs = 0 is not valid: give 1 or more"
    assert complaint(epochs=1, optimizer={"lr": 0}) == "optimizer.lr = 0 is not valid: give more than 0"
    assert complaint(epochs=100) == "epochs = 100 is not valid: give less than 100"
    assert complaint(epochs=1, optimizer={"lr": 2}) == "optimizer.lr = 2 is not valid: give 1.5 or less"
    assert complaint(epochs=1, optimizer={"kind": "rms"}).startswith("optimizer.kind = 'rms' is not valid: ")


def test_a_validators_own_words_are_kept() -> None:
    assert complaint(epochs=13) == "epochs = 13 is not valid: it brings bad luck, take 12 or 14"


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_numbers_are_finite(number: float) -> None:
    assert complaint(epochs=1, optimizer={"lr": number}).startswith("optimizer.lr = ")


@given(st.text(min_size=1).filter(lambda key: key not in Optimizer.model_fields), st.integers())
def test_any_unknown_key_is_answered_in_one_printable_line(key: str, value: int) -> None:
    unknown: dict[str, Any] = {key: value}
    with pytest.raises(ConfigError) as caught:
        Optimizer(**unknown)
    assert str(caught.value).isprintable()
