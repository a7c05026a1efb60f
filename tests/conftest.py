"""What all tests share: hypothesis's settings, the order of tests, the folder of real data sets."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from bptcnn.inner.kernels import jit

settings.register_profile("here", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("ci" if os.environ.get("CI") else "here")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run what starts Ray or processes one after the other, and last, so that a simple mistake shows within seconds.

    Where there are several processes, one of them begins with it, as it takes longest.
    """
    first = "PYTEST_XDIST_WORKER" in os.environ
    items.sort(key=lambda item: (item.get_closest_marker("real") is not None) != first)
    for item in items:
        if item.get_closest_marker("real") is not None:
            item.add_marker(pytest.mark.xdist_group("real"))


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """What is measured and compiled here is nobody else's, and not made before."""
    os.environ["BPTCNN_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session", autouse=True)
def _own_compiler() -> Iterator[None]:
    """Kernels are compiled in this process, which starts no other one for each small network."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jit, "compiled", jit.compiled_here)
        yield


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """Where local copies of the standard data sets are, one folder each."""
    folder = os.environ.get("BPTCNN_DATA")
    if not folder:
        pytest.skip("BPTCNN_DATA is not set: it names a folder of standard data sets")
    return Path(folder)
