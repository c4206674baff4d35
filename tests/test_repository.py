"""What the repository may hold."""

from __future__ import annotations

import ast
import shutil
import subprocess
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LONGEST = 60  # lines of a function


def tracked(*options: str) -> list[str]:
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("this is no clone with git")
    done = subprocess.run(["git", "ls-files", *options], cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


def test_nothing_that_is_ignored_is_tracked():
    """Caches, models and runs that a test or a training leaves in a bundle stay out."""
    assert tracked("--cached", "--ignored", "--exclude-standard") == []


def test_nothing_that_a_run_makes_is_tracked():
    made = {".pt", ".npy", ".npz", ".nii", ".gz", ".dcm", ".html"}
    files = [file for file in tracked() if Path(file).suffix in made and "templates" not in file]
    assert files == []


def python_files() -> list[Path]:
    return sorted(path for folder in ("common", "benchmarks") for path in (ROOT / folder).rglob("*.py"))


def test_functions_are_short():
    """Their bodies: a docstring, and a signature of a line for each keyword, may be as long as they need."""
    long = []
    for path in python_files():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef):
                start = node.body[1].lineno if ast.get_docstring(node) and len(node.body) > 1 else node.lineno
                if node.end_lineno - start >= LONGEST:
                    long.append(f"{path.relative_to(ROOT)}: {node.name} has {node.end_lineno - start + 1} lines")
    assert long == []


def test_who_is_a_method_of_which_kind_is_asked_inside_of_methods_alone():
    """Methods say what they need; others do not ask for their class."""
    from common import methods

    names = {name for name in methods.__all__ if name != "Step"}
    asked = []
    for path in python_files():
        if "methods" in path.parts:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "isinstance":
                kinds = {getattr(part, "id", getattr(part, "attr", "")) for part in ast.walk(node.args[1])}
                if kinds & names:
                    asked.append(f"{path.relative_to(ROOT)}:{node.lineno}")
    assert asked == []


def package_of(module: str) -> str:
    return module.split(".")[1] if "." in module else module


def imported_by(path: Path) -> set[str]:
    """What of ``common`` a file imports when it is imported itself, not for its types or within a function."""
    found = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("common"):
            found |= {f"common.{name.name}" for name in node.names} if node.module == "common" else {node.module}
    return found


def test_imports_between_packages_run_one_way():
    """As CONTRIBUTING.md draws them."""
    graph: dict[str, set[str]] = {}
    for path in sorted((ROOT / "common").rglob("*.py")):
        name = package_of(".".join(path.relative_to(ROOT).with_suffix("").parts))
        graph.setdefault(name, set()).update(package_of(module) for module in imported_by(path))
    for name, imported in graph.items():
        imported.discard(name)
    order = list(TopologicalSorter(graph).static_order())  # raises CycleError
    assert order.index("views") < order.index("terms") < order.index("methods") < order.index("handlers")
