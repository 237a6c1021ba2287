"""Imports run one way, as docs/architecture.md shows."""

import ast
import graphlib
from pathlib import Path

import pytest

from tests.conftest import ROOT

MIDDLE = {"datasets", "modeling", "evaluation", "media"}
ALLOWED = {
    "core": {"core"},
    "ops": {"core", "ops"},
    "features": {"core", "features"},
    **{room: {"core", "ops", "features", room} for room in MIDDLE},
    "training": {"core", "ops", "features", "training", *MIDDLE},
    "inference": {"core", "ops", "features", "training", "inference", *MIDDLE},
}
SCRIPTS = {"train", "eval", "extract", "infer"}
FILES = sorted(path for path in (ROOT / "libs").rglob("*.py") if path.parent != ROOT / "libs")


def list_imports(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            assert all(alias.name != "*" for alias in node.names), f"{path}: import *"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    return names


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_libs_import_only_allowed_rooms(path):
    room = path.relative_to(ROOT / "libs").parts[0]
    names = list_imports(path)
    assert {name.split(".")[1] for name in names if name.startswith("libs.")} <= ALLOWED[room]
    assert not {"tools", "tests", "benchmarks", *SCRIPTS} & {name.split(".")[0] for name in names}


def test_allowed_names_every_room():
    assert {path.relative_to(ROOT / "libs").parts[0] for path in FILES} == ALLOWED.keys()


def test_benchmarks_import_neither_tests_nor_tools():
    names = {name.split(".")[0] for path in (ROOT / "benchmarks").rglob("*.py") for name in list_imports(path)}
    assert not {"tests", "tools"} & names


def test_libs_modules_import_each_other_without_a_circle():
    """Only imports at the top of a module count; those in functions run later."""
    names = {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in FILES}
    graph = {}
    for name, path in names.items():
        top = [node for node in ast.parse(path.read_text()).body if isinstance(node, ast.ImportFrom)]
        candidates = {node.module for node in top} | {f"{node.module}.{a.name}" for node in top for a in node.names}
        graph[name] = candidates & names.keys()
    tuple(graphlib.TopologicalSorter(graph).static_order())  # raises CycleError
