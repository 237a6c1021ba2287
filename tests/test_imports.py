"""Imports run one way: core <- {ops, features} <- {datasets, modeling, media, evaluation} <- training <- inference <- scripts."""

import ast
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
FILES = sorted(path for path in (ROOT / "libs").rglob("*.py") if path.parent != ROOT / "libs")


def imported(path: Path) -> set[str]:
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
def test_direction(path):
    room = path.relative_to(ROOT / "libs").parts[0]
    rooms = {name.split(".")[1] for name in imported(path) if name.startswith("libs.")}
    assert rooms <= ALLOWED[room]
    assert not {"tools", "tests", "benchmarks", "train", "eval"} & {name.split(".")[0] for name in imported(path)}


def test_every_room_is_covered():
    assert {path.relative_to(ROOT / "libs").parts[0] for path in FILES} <= ALLOWED.keys()
    assert len(FILES) > 20
