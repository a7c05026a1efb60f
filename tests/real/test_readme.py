"""The README's Python example runs as it stands, on real Ray."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

README = Path(__file__).parents[2] / "README.md"


@pytest.mark.real
def test_the_example_of_the_readme_runs(tmp_path: Path) -> None:
    code, _ = re.findall(r"^```python\n(.*?)^```", README.read_text(), re.MULTILINE | re.DOTALL)
    (tmp_path / "mine.py").write_text(code)
    done = subprocess.run([sys.executable, "mine.py"], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    summary = json.loads((tmp_path / "runs" / "mine" / "summary.json").read_text())
    assert summary["outcome"] == "finished"
    assert summary["samples"]["lost"] == summary["samples"]["duplicated"] == 0
    assert summary["test_accuracy"] > 0.9  # stripes are easy, and coin tossing gives 0.5
    assert str(summary["test_accuracy"]) in done.stdout
