"""``RunConfig``: recipes there and back, single values laid over them, and every mistake answered in one sentence."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bptcnn.config import RunConfig, WorkersConfig, compose
from bptcnn.errors import ConfigError
from bptcnn.outer.allocation import ALLOCATIONS
from bptcnn.outer.rules import STRATEGIES


def complaint(values: Mapping[str, Any]) -> str:
    """What the user is told about these settings, by dotted key."""
    with pytest.raises(ConfigError) as caught:
        compose(None, values)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def a_recipe(folder: Path, text: str) -> Path:
    path = folder / "recipe.toml"
    path.write_text(text)
    return path


# --------------------------------------------------------------------------------------- there and back

positive = st.floats(1e-6, 1e6)
RULES = st.one_of(
    st.fixed_dictionaries(
        {"name": st.just("agwu")},
        optional={
            "accuracy_from": st.sampled_from(["training", "validation"]),
            "accuracy_weight": st.sampled_from(["raw", "relative", "none"]),
            "staleness": st.sampled_from(["paper", "polynomial", "none"]),
            "gamma_over": st.sampled_from(["workers", "versions"]),
        },
    ),
    st.fixed_dictionaries({"name": st.just("sgwu")}, optional={"accuracy_weight": st.sampled_from(["raw", "none"])}),
    st.fixed_dictionaries({"name": st.just("auto")}, optional={"lag_price": st.floats(0, 10)}),
)
PARTITIONS = st.one_of(
    st.fixed_dictionaries({"name": st.sampled_from(["uniform", "dynamic"])}),
    st.fixed_dictionaries(
        {"name": st.just("idpa")},
        optional={"batches": st.integers(1, 5), "form": st.sampled_from(["cumulative", "per_batch"])},
    ),
)
RECIPES = st.fixed_dictionaries(
    {"strategy": RULES, "allocation": PARTITIONS},
    optional={
        "seed": st.integers(0, 2**32 - 1),
        "epochs": st.integers(3, 1000),
        "precision": st.sampled_from(["fp32", "bf16"]),
        "data": st.fixed_dictionaries({"name": st.text(), "dir": st.none() | st.text(), "flip": st.booleans()}),
        "optimizer": st.fixed_dictionaries({"lr": positive, "momentum": st.floats(0, 0.999)}),
        "schedule": st.fixed_dictionaries({"milestones": st.lists(positive)}),
        "workers": st.lists(positive, min_size=1, max_size=5).map(lambda v: {"count": len(v), "speeds": v}),
        "exchange": st.fixed_dictionaries({"every": st.just("epoch") | st.integers(1, 1000)}),
        "checkpoint": st.fixed_dictionaries({"every_s": positive}),
    },
)


@given(recipe=RECIPES)
def test_a_configuration_survives_the_way_through_its_file(
    recipe: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> None:
    config = RunConfig(**recipe)
    path = a_recipe(tmp_path_factory.getbasetemp(), config.to_toml())
    assert compose(path, {}) == config
    assert compose(path, {}).to_toml() == config.to_toml()


@pytest.mark.parametrize("allocation", ALLOCATIONS)
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_names_alone_stand_for_sections(strategy: str, allocation: str) -> None:
    config = RunConfig(strategy=strategy, allocation=allocation, data="mnist", model="resnet8")
    assert (config.strategy, config.allocation) == (STRATEGIES[strategy](), ALLOCATIONS[allocation]())
    assert (config.data.name, config.model.name) == ("mnist", "resnet8")


def test_an_empty_recipe_is_the_default_run(tmp_path: Path) -> None:
    assert compose(a_recipe(tmp_path, ""), {}) == compose(None, {}) == RunConfig()


# ------------------------------------------------------------------------------------------ laying over


def test_single_values_win_over_the_recipe(tmp_path: Path) -> None:
    recipe = a_recipe(tmp_path, 'epochs = 7\nstrategy = "sgwu"\n[optimizer]\nlr = 0.3\nmomentum = 0.5\n')
    config = compose(recipe, {"optimizer.lr": 0.1, "strategy.accuracy_weight": "none"})
    assert (config.epochs, config.optimizer.lr, config.optimizer.momentum) == (7, 0.1, 0.5)
    assert (config.strategy.name, config.strategy.accuracy_weight) == ("sgwu", "none")


@pytest.mark.parametrize(
    ("before", "name", "after"),
    [
        ('name = "agwu"\nstaleness = "none"', "sgwu", {"name": "sgwu"}),
        ('name = "agwu"\nstaleness = "none"', "agwu", {"name": "agwu", "staleness": "none"}),
        ('weighting = "equal"', "local-sgd", {"name": "local-sgd", "weighting": "equal"}),
        ('weighting = "equal"', "sgwu", {"name": "sgwu"}),
    ],
)
def test_choosing_another_rule_drops_the_options_of_the_one_before(
    tmp_path: Path, before: str, name: str, after: dict[str, str]
) -> None:
    recipe = a_recipe(tmp_path, f"[strategy]\n{before}\n")
    assert compose(recipe, {"strategy.name": name}).strategy == STRATEGIES[name](**after)


def test_choosing_another_allocation_drops_the_options_of_the_one_before(tmp_path: Path) -> None:
    recipe = a_recipe(tmp_path, '[allocation]\nname = "idpa"\nbatches = 2\n')
    assert compose(recipe, {"allocation.name": "dynamic"}).allocation == ALLOCATIONS["dynamic"]()


def test_options_given_along_with_a_name_stay_whatever_comes_first(tmp_path: Path) -> None:
    recipe = a_recipe(tmp_path, 'strategy = "sgwu"')
    overrides = {"strategy.staleness": "none", "strategy.name": "agwu"}
    assert compose(recipe, overrides).strategy == STRATEGIES["agwu"](staleness="none")


# --------------------------------------------------------------------------------------------- mistakes


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"epohcs": 3}, "unknown key 'epohcs': did you mean 'epochs'? (known: "),
        ({"optimizer.lrr": 1}, "unknown key 'optimizer.lrr': did you mean 'lr'? (known: lr, momentum, "),
        (
            {"strategy.name": "agwu", "strategy.stale": 1},
            "unknown key 'strategy.stale': did you mean 'staleness'? (known: ",
        ),
        (
            {"strategy.name": "sgwu", "strategy.staleness": "none"},
            "unknown key 'strategy.staleness': use one of accuracy_from, accuracy_weight, name",
        ),
        ({"allocation.name": "idpa", "allocation.batch": 2}, "unknown key 'allocation.batch': did you mean 'batches'?"),
        ({"a.b.c": 1}, "unknown key 'a': use one of allocation, "),
        ({"optimizer.": 1}, "unknown key 'optimizer.': use one of lr, "),
        ({".lr": 1}, "unknown key '': use one of "),
    ],
)
def test_an_unknown_key_is_named_in_full_with_the_nearest_one(values: dict[str, Any], sentence: str) -> None:
    assert complaint(values).startswith(sentence)


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"strategy.name": "agw"}, f"unknown strategy 'agw': did you mean 'agwu'? (known: {', '.join(STRATEGIES)})"),
        ({"strategy": "sgw"}, f"unknown strategy 'sgw': did you mean 'sgwu'? (known: {', '.join(STRATEGIES)})"),
        (
            {"allocation.name": "idap"},
            "unknown allocation 'idap': did you mean 'idpa'? (known: dynamic, idpa, uniform)",
        ),
        ({"allocation.name": 3}, "unknown allocation 3: use one of dynamic, idpa, uniform"),
        (
            {"strategy.name": ["agwu"]},
            f"unknown strategy ['agwu']: did you mean 'agwu'? (known: {', '.join(STRATEGIES)})",
        ),
    ],
)
def test_an_unknown_name_is_answered_with_the_nearest_one(values: dict[str, Any], sentence: str) -> None:
    assert complaint(values) == sentence


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"epochs": 0}, "epochs = 0 is not valid: give 1 or more"),
        ({"epochs": "many"}, "epochs = 'many' is not valid: input should be a valid integer, "),
        ({"seed": 2**32}, "seed = 4294967296 is not valid: give less than 4294967296"),
        ({"precision": "fp16"}, "precision = 'fp16' is not valid: input should be 'fp32' or 'bf16'"),
        ({"optimizer.lr": float("nan")}, "optimizer.lr = nan is not valid: input should be a finite number"),
        ({"data.name": 3}, "data.name = 3 is not valid: input should be a valid string"),
        (
            {"schedule.milestones": [0.5, "a"]},
            "schedule.milestones[1] = 'a' is not valid: input should be a valid number",
        ),
        (
            {"strategy.name": "agwu", "strategy.staleness": "x"},
            "strategy.staleness = 'x' is not valid: input should be 'paper', 'polynomial' or ",
        ),
        (
            {"strategy.name": "sgwu", "strategy.accuracy_from": 1},
            "strategy.accuracy_from = 1 is not valid: input should",
        ),
        ({"allocation.name": "idpa", "allocation.batches": 0}, "allocation.batches = 0 is not valid: give 1 or more"),
        ({"exchange.every": 0}, "exchange.every = 0 is not valid: give a number of local steps, 1 or more, or 'epoch'"),
        ({"exchange.every": "epocj"}, "exchange.every = 'epocj' is not valid: give a number of local steps, "),
        ({"workers.speeds": 5}, "workers.speeds = 5 is not valid: give a list"),
        ({"workers.speeds": [1, 2, 3, "x"]}, "workers.speeds[3] = 'x' is not valid: input should be a valid number"),
        ({"optimizer": "adam"}, "optimizer = 'adam' is not valid: it is a section, set its keys, such as optimizer.lr"),
        ({"strategy": 3}, "strategy = 3 is not valid: it is a section, set its keys, such as strategy."),
        ({"epochs.more": 3}, "epochs = {'more': 3} is not valid: input should be a valid integer"),
    ],
)
def test_a_wrong_value_is_shown_under_its_full_key_with_the_remedy(values: dict[str, Any], sentence: str) -> None:
    assert complaint(values).startswith(sentence)


def test_a_value_in_the_place_of_a_section_is_named(tmp_path: Path) -> None:
    recipe = a_recipe(tmp_path, "epochs = 3\n")
    with pytest.raises(ConfigError, match=r"^key 'epochs\.more' does not exist: 'epochs' is a value, not a section$"):
        compose(recipe, {"epochs.more": 1})


def test_speeds_and_count_must_agree() -> None:
    assert complaint({"workers.count": 2, "workers.speeds": [300, 200, 100]}) == (
        "workers.speeds = 300,200,100 names 3 workers but workers.count = 2: give one speed a worker"
    )
    assert complaint({"workers.count": 2, "workers.speeds": [300, 0]}) == (
        "workers.speeds holds 0: give samples per second above 0"
    )
    with pytest.raises(ConfigError, match=r"^workers\.speeds = 1 names 1 workers but workers\.count = 4: "):
        WorkersConfig(speeds=(1.0,))


def test_batches_that_would_never_be_released_are_refused() -> None:
    assert complaint({"allocation.name": "idpa", "allocation.batches": 6, "epochs": 3}) == (
        "allocation.batches = 6 needs at least 4 epochs: with epochs = 3 use 5 or fewer"
    )
    assert RunConfig(allocation={"name": "idpa", "batches": 5}, epochs=3).epochs == 3


@given(recipe=RECIPES, key=st.text(min_size=1).filter(lambda key: key not in RunConfig.model_fields))
def test_any_unknown_key_is_answered_in_one_printable_line(recipe: dict[str, Any], key: str) -> None:
    with pytest.raises(ConfigError, match=r"^unknown key ") as caught:
        RunConfig(**{**recipe, key: 1})
    assert str(caught.value).isprintable()


# -------------------------------------------------------------------------------------- unreadable files


def test_a_recipe_that_is_missing_or_a_folder_is_named(tmp_path: Path) -> None:
    for path, reason in ((tmp_path / "none.toml", "No such file or directory"), (tmp_path, "Is a directory")):
        with pytest.raises(ConfigError) as caught:
            compose(path, {})
        assert str(caught.value) == f"cannot read recipe {str(path)!r} ({reason}): give the path of a TOML file"


def test_a_recipe_that_is_no_toml_or_no_text_is_named(tmp_path: Path) -> None:
    recipe = a_recipe(tmp_path, "epochs = 3\nepochs 4")
    with pytest.raises(ConfigError, match=r"recipe\.toml' is not valid TOML: .*line 2"):
        compose(recipe, {})
    recipe.write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match=r"recipe\.toml' \(it is not text\): give the path of a TOML file$"):
        compose(recipe, {})
