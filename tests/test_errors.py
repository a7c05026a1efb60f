"""Errors that users meet: their kinds and the sentence about an unknown name."""

from __future__ import annotations

import pytest

from bptcnn import errors
from bptcnn.errors import (
    BptcnnError,
    CheckpointError,
    ConfigError,
    RunFolderError,
    TrainingError,
    WorkersLostError,
    unknown,
)


def test_every_error_can_be_caught_as_one() -> None:
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, Exception)]
    assert len(kinds) == 13
    assert all(issubclass(kind, BptcnnError) for kind in kinds)


def test_a_wrong_setting_is_also_a_value_error() -> None:
    with pytest.raises(ValueError, match="epochs"):
        raise ConfigError("epochs = -1 is not valid: give at least 1")


def test_a_damaged_checkpoint_is_a_trouble_of_the_run_folder() -> None:
    assert issubclass(CheckpointError, RunFolderError)
    assert issubclass(WorkersLostError, TrainingError)


def test_a_near_miss_is_corrected() -> None:
    assert unknown("strategy", "awgu", ["agwu", "sgwu", "easgd"]).startswith(
        "unknown strategy 'awgu': did you mean 'agwu'?"
    )


def test_a_name_that_resembles_nothing_gets_the_sorted_list() -> None:
    assert unknown("model", "xyz", ["resnet8", "lenet5"]) == "unknown model 'xyz': use one of lenet5, resnet8"
