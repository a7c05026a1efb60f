"""The structure of the source: import layers, purity, docstrings, the error tree, sizes."""

from __future__ import annotations

import ast
import builtins
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

from bptcnn import errors

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "bptcnn"

# A module imports its own package and lower levels, never its own level.
LEVELS = {
    "errors": 0,
    "section": 1,
    "durable": 1,
    "wire": 1,
    "data": 2,
    "models": 2,
    "checkpoint": 2,
    "telemetry": 2,
    "folder": 2,
    "inner": 3,
    "outer": 3,
    "config": 4,
    "engine": 5,
    "report": 6,
    "launch": 7,
    "api": 8,
    "bench": 9,
    "cli": 10,
    "__init__": 11,
    "__main__": 11,
}
IMPURE = {
    *("asyncio", "multiprocessing", "os", "pathlib", "random", "ray", "secrets", "shutil", "signal", "socket"),
    *("subprocess", "tempfile", "threading", "time", "torch.distributed"),
}
# What Python's protocols and typer ask for, and Ctrl-C; a connection error is mapped to ours where the retries end.
RAISED_BESIDE_OURS = {
    *("AttributeError", "ConnectionError", "KeyboardInterrupt", "NotImplementedError", "StopIteration", "typer.Exit"),
}
MAX_LINES = 300


@dataclass(frozen=True)
class Module:
    """A source file, parsed."""

    name: str
    path: Path
    tree: ast.Module

    @property
    def unit(self) -> str:
        """The entry of the level table that it belongs to."""
        return self.name.split(".")[1] if "." in self.name else "__init__"


@dataclass(frozen=True)
class Function:
    """A public function or method."""

    where: str
    node: ast.FunctionDef | ast.AsyncFunctionDef
    owner: ast.ClassDef | None


@cache
def modules() -> tuple[Module, ...]:
    found = []
    for path in sorted(SOURCE.rglob("*.py")):
        parts = path.relative_to(SOURCE.parent).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        found.append(Module(name, path, ast.parse(path.read_text())))
    return tuple(found)


def imports(module: Module) -> Iterator[str]:
    """Dotted names of all that a module imports, wherever in the file, for type checking too."""
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module.name}, line {node.lineno}: a relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@cache
def classes() -> tuple[tuple[Module, ast.ClassDef], ...]:
    return tuple(
        (module, node) for module in modules() for node in ast.walk(module.tree) if isinstance(node, ast.ClassDef)
    )


def public_functions() -> Iterator[Function]:
    for module in modules():
        for node in module.tree.body:
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                yield Function(f"{module.name}.{node.name}", node, None)
            elif isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                for method in node.body:
                    if isinstance(method, ast.FunctionDef | ast.AsyncFunctionDef):
                        yield Function(f"{module.name}.{node.name}.{method.name}", method, node)


def is_public(function: Function) -> bool:
    return not function.node.name.startswith("_")


def test_imports_point_downwards_only() -> None:
    wrong = []
    for module in modules():
        for name in imports(module):
            package, _, rest = name.partition(".")
            if package != "bptcnn" or name == "bptcnn.__version__":  # a constant, there before any import
                continue
            unit = rest.split(".")[0] if rest.split(".")[0] in LEVELS else "__init__"
            if unit != module.unit and LEVELS[unit] >= LEVELS[module.unit]:
                wrong.append(f"{module.name} imports {name}")
    assert not wrong, wrong


def test_every_module_has_a_level() -> None:
    assert {module.unit for module in modules()} <= set(LEVELS)


def test_outer_is_pure() -> None:
    wrong = []
    for module in modules():
        if module.unit != "outer":
            continue
        torch_allowed = module.name.startswith("bptcnn.outer.rules")
        for name in imports(module):
            prefixes = {".".join(name.split(".")[:end]) for end in range(1, name.count(".") + 2)}
            if prefixes & IMPURE or (name.split(".")[0] == "torch" and not torch_allowed):
                wrong.append(f"{module.name} imports {name}")
        calls = (node.func for node in ast.walk(module.tree) if isinstance(node, ast.Call))
        wrong += [
            f"{module.name} calls {f.id}()" for f in calls if isinstance(f, ast.Name) and f.id in {"open", "print"}
        ]
    assert not wrong, wrong


def test_everything_public_has_a_docstring() -> None:
    bare = [module.name for module in modules() if not ast.get_docstring(module.tree)]
    bare += [
        f"{module.name}.{node.name}"
        for module, node in classes()
        if not node.name.startswith("_") and not ast.get_docstring(node)
    ]
    bare += [f.where for f in public_functions() if is_public(f) and needs_docstring(f) and not doc(f)]
    assert not bare, bare


def test_functions_of_several_parameters_explain_them() -> None:
    bare = [
        f.where
        for f in public_functions()
        if is_public(f) and not is_command(f) and not overrides(f) and len(parameters(f)) >= 2 and "Args:" not in doc(f)
    ]
    assert not bare, bare


def doc(function: Function) -> str:
    return ast.get_docstring(function.node) or ""


def needs_docstring(function: Function) -> bool:
    return "overload" not in {ast.unparse(decorator).split(".")[-1] for decorator in function.node.decorator_list}


def parameters(function: Function) -> list[str]:
    arguments = function.node.args
    every = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs, arguments.vararg, arguments.kwarg]
    return [argument.arg for argument in every if argument is not None and argument.arg not in {"self", "cls"}]


def is_command(function: Function) -> bool:
    """Its arguments are explained by the help texts of its flags."""
    return function.where.startswith("bptcnn.cli") and "typer." in ast.unparse(function.node.args)


def overrides(function: Function) -> bool:
    """The class it overrides explains its arguments."""
    return function.owner is not None and any(
        defines(base, function.node.name) for base in map(ast.unparse, function.owner.bases)
    )


def defines(class_name: str, method: str) -> bool:
    plain = class_name.split("[")[0].split(".")[-1]
    ours = [node for _, node in classes() if node.name == plain]
    if not ours:
        return plain not in {"ABC", "Enum", "Exception", "Generic", "NamedTuple", "Protocol"}
    return any(
        any(isinstance(item, ast.FunctionDef | ast.AsyncFunctionDef) and item.name == method for item in node.body)
        or any(defines(base, method) for base in map(ast.unparse, node.bases))
        for node in ours
    )


def test_exceptions_live_in_errors() -> None:
    ours = set(vars(errors))
    builtin = {
        name for name, value in vars(builtins).items() if isinstance(value, type) and issubclass(value, BaseException)
    }
    strays = [
        f"{module.name}.{node.name}"
        for module, node in classes()
        if module.unit != "errors" and {ast.unparse(base).split(".")[-1] for base in node.bases} & (ours | builtin)
    ]
    assert not strays, strays


def test_the_error_tree_is_drawn_as_it_is() -> None:
    drawn: dict[str, str | None] = {}
    ancestors: list[tuple[int, str]] = []
    for line in (errors.__doc__ or "").splitlines():
        match = re.match(r"(?P<branch>    [│├└─ ]*)(?P<name>\w+Error) {2,}\S", line)
        if match:
            depth = len(match["branch"])
            ancestors = [(column, name) for column, name in ancestors if column < depth]
            drawn[match["name"]] = ancestors[-1][1] if ancestors else None
            ancestors.append((depth, match["name"]))
    defined = {
        name: kind for name, kind in vars(errors).items() if isinstance(kind, type) and issubclass(kind, Exception)
    }
    bases = {name: kind.__bases__[0].__name__ for name, kind in defined.items()}
    assert drawn == {**bases, "BptcnnError": None}


def test_only_our_errors_are_raised() -> None:
    ours = {name for name, kind in vars(errors).items() if isinstance(kind, type)}
    strays = []
    for module in modules():
        checking = {inner for node in ast.walk(module.tree) if is_validator(node) for inner in ast.walk(node)}
        for node in ast.walk(module.tree):
            if isinstance(node, ast.Raise) and node.exc is not None and node not in checking:
                raised = node.exc.func if isinstance(node.exc, ast.Call) else node.exc
                name = ast.unparse(raised)
                is_class = name.split(".")[-1][:1].isupper()  # anything else is an error at hand, or makes one of ours
                if is_class and name.split(".")[-1] not in ours and name not in RAISED_BESIDE_OURS:
                    strays.append(f"{module.name}, line {node.lineno}: raise {name}")
    assert not strays, strays


def is_validator(node: ast.AST) -> bool:
    """Pydantic asks for a ValueError there, which `Section` turns into ours."""
    if not isinstance(node, ast.FunctionDef):
        return False
    return node.name == "model_post_init" or any("validator" in ast.unparse(d) for d in node.decorator_list)


def test_modules_are_short_and_well_named() -> None:
    assert not [module.name for module in modules() if module.path.name == "utils.py"]
    long = {
        module.name: length for module in modules() if (length := len(module.path.read_text().splitlines())) > MAX_LINES
    }
    assert not long, long


def test_no_path_of_one_machine_is_written_down() -> None:
    try:
        command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
        listing = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("not a git checkout")
    machine = re.compile(r"(?<![\w.>}])/(work|root|tmp)/")
    found = []
    for name in listing.splitlines():
        try:
            text = (ROOT / name).read_text(encoding="utf-8")
        except (UnicodeDecodeError, FileNotFoundError):
            continue
        found += [f"{name}:{n}" for n, line in enumerate(text.splitlines(), start=1) if machine.search(line)]
    assert not found, found
