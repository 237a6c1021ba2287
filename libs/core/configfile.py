"""Read configurations: YAML files with their bases, and `-o` overrides, become one validated Config."""

import difflib
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from libs.core.config import Config, TaskSpec
from libs.core.errors import ConfigError

_TASK_KEY = re.compile(r"TASK\d+$")
Layer = tuple[str, dict]  # where keys are set (a file or an override), and their tree


def _build_resolvers() -> dict:
    """PyYAML's resolvers, except that 1e-3 is a number (PyYAML wants 1.0e-3) and 2024-10-01 is a string."""
    kept = {
        first: [(tag, pattern) for tag, pattern in rules if not tag.endswith(":timestamp")]
        for first, rules in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }
    number = ("tag:yaml.org,2002:float", re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"))
    return {first: [*rules, *([number] if first in "-+.0123456789" else [])] for first, rules in kept.items()}


class _Loader(yaml.SafeLoader):
    """YAML in which a key that is given twice is an error."""

    yaml_implicit_resolvers = _build_resolvers()

    def construct_mapping(self, node, deep=False):
        seen = set()
        for key_node, _ in node.value:
            key = key_node.value if isinstance(key_node, yaml.ScalarNode) else None
            if key_node.tag != "tag:yaml.org,2002:merge" and key in seen:
                raise yaml.MarkedYAMLError(problem=f"the key {key} is given twice", problem_mark=key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)


def _parse_yaml(text: str, source: str) -> Any:
    try:
        tree = yaml.load(text, _Loader)
        json.dumps(tree)  # recursive mappings and binary data are YAML, but no configuration
        return tree
    except (yaml.YAMLError, ValueError, TypeError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        raise ConfigError(f"{source}{line}: not valid YAML: {getattr(error, 'problem', error)}") from None


def _read_layers(path: Path, children: tuple[Path, ...] = ()) -> list[Layer]:
    """Read a file and its bases, the first base first."""
    if path.resolve() in children:
        raise ConfigError(f"{path}: its `base` leads back to itself; remove one of the `base` lines")
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        problem = "no such configuration file" if isinstance(error, FileNotFoundError) else error.strerror
        base_of = f" (the base of {children[-1]})" if children else ""
        raise ConfigError(f"{path}: {problem}{base_of}; configurations are in configs/") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: not a text file; expected YAML") from None
    tree = _parse_yaml(text, str(path))
    if not isinstance(tree, dict):
        raise ConfigError(f"{path}: expected a YAML mapping of keys, found {type(tree).__name__}")
    base = tree.pop("base", None)
    if base is None:
        return [(str(path), tree)]
    if not isinstance(base, str):
        raise ConfigError(f"{path}: base: expected the path of a YAML file, got {base!r}")
    return [*_read_layers(path.parent / base, (*children, path.resolve())), (str(path), tree)]


def _parse_override(override: str, tasks: list[str]) -> Layer:
    """Parse KEY=VALUE; `tasks` are the blocks that the files have."""
    source = f"-o {override}"
    key, equals, text = override.partition("=")
    parts = key.strip().split(".")
    if not equals or not key.strip():
        raise ConfigError(f"{source}: expected KEY=VALUE, such as -o TASK1.batch_size=8")
    if parts == ["base"]:
        raise ConfigError(f"{source}: a base is named in a file, not on the command line")
    if _TASK_KEY.match(parts[0]) and parts[0] not in tasks:
        raise ConfigError(f"{source}: the configuration has no {parts[0]}; it has {', '.join(tasks)}")
    tree = _parse_yaml(text, source)
    for part in reversed(parts):
        tree = {part: tree}
    return source, tree


def _merge(base: dict, child: dict) -> dict:
    """Merge mappings key by key; any other value replaces the value of the base."""
    merged = dict(base)
    for key, value in child.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _merge(merged[key], value) if both else value
    return merged


def _contains(tree: Any, path: tuple[str, ...]) -> bool:
    for part in path:
        if not isinstance(tree, dict) or part not in tree:
            return False
        tree = tree[part]
    return True


def _list_keys(path: tuple[str, ...], tasks: list[str]) -> list[str]:
    """List the keys that the section at `path` may hold; `tasks` are the blocks of the files."""
    model: Any = Config
    for part in path:
        model = TaskSpec if model is Config and _TASK_KEY.match(part) else model.model_fields[part].annotation
    if model is Config:
        return [*(key for key in Config.model_fields if key != "tasks"), *tasks]
    return [key for key, field in model.model_fields.items() if not field.exclude]


def _format_error(error: Any, layers: Sequence[Layer]) -> str:
    """Format one of pydantic's errors as a line that names where the key is set."""
    loc, kind = error["loc"], error["type"]
    path = tuple(str(part) for part in (loc[1:] if loc[:1] == ("tasks",) and len(loc) > 1 else loc))
    key = ".".join(path)
    source = next((name for name, tree in reversed(layers) if _contains(tree, path)), layers[-1][0])
    if kind == "extra_forbidden":
        tasks = [task for _, tree in layers for task in _list_tasks(tree)]
        known = {name.lower(): name for name in _list_keys(path[:-1], tasks)}
        nearest = known[difflib.get_close_matches(path[-1].lower(), known, n=1, cutoff=0)[0]]
        return f"{source}: unknown key {key}; did you mean {'.'.join((*path[:-1], nearest))}?"
    if kind == "missing" and isinstance(loc[-1], int):
        return f"{source}: {'.'.join(path[:-1])}: expected more values, got {error['input']!r}"
    if kind == "missing":
        return f"{source}: {key} is missing; add it"
    if kind == "too_short" and loc == ("tasks",):
        return f"{source}: no task; expected at least one block TASK1, TASK2, …"
    expected = error["msg"].removeprefix("Value error, ").replace("Input should be", "expected")
    if kind == "value_error":
        return f"{source}: {f'{key}: ' if key else ''}{expected}"
    return f"{source}: {key}: {expected}, got {error['input']!r}"


def _list_tasks(tree: dict) -> list[str]:
    return [key for key in tree if _TASK_KEY.match(str(key))]


def from_tree(tree: dict, layers: Sequence[Layer] = ()) -> Config:
    """Validate a plain tree, as `Config.to_tree` writes it.

    Args:
        tree: nested mappings with blocks TASK1, TASK2, … and the sections of Config.
        layers: the files and overrides that the tree was merged from, to name them in errors; the last one wins.

    Raises:
        ConfigError: naming the first wrong key.
    """
    layers = layers or [("configuration", tree)]
    tasks = {key: tree[key] for key in _list_tasks(tree)}
    for key, block in tasks.items():
        if isinstance(block, dict):
            if "key" in block:
                raise ConfigError(f"{layers[-1][0]}: unknown key {key}.key; a task's key is the name of its block")
            tasks[key] = {**block, "key": key}
    rest = {key: value for key, value in tree.items() if key not in tasks}
    if "tasks" in rest:
        raise ConfigError(f"{layers[-1][0]}: unknown key tasks; tasks are top-level blocks TASK1, TASK2, …")
    try:
        # JSON allows strict types and yet lists for tuples, as YAML has them.
        return Config.model_validate_json(json.dumps({**rest, "tasks": tasks}), strict=True)
    except ValidationError as error:
        raise ConfigError(_format_error(error.errors()[0], layers)) from None


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """Read a YAML file with its bases, apply `-o` overrides and validate the result.

    Raises:
        ConfigError: naming the file or override, the key, what was expected and the nearest known key.
    """
    layers = _read_layers(Path(path))
    tasks = [task for _, tree in layers for task in _list_tasks(tree)]
    layers += [_parse_override(override, tasks) for override in overrides]
    merged: dict = {}
    for _, tree in layers:
        merged = _merge(merged, tree)
    return from_tree(merged, layers)


def diff_configs(before: dict, now: dict, may_change: frozenset[str], path: tuple[str, ...] = ()) -> list[str]:
    """List the keys in which two trees differ, as "a.b was 1, is 2", without those named in `may_change`."""
    changed = []
    for name in before.keys() | now.keys():
        place, old, new = (*path, name), before.get(name), now.get(name)
        key = ".".join(place)
        if isinstance(old, dict) and isinstance(new, dict):
            changed += diff_configs(old, new, may_change, place)
        elif old != new and not may_change & {*place, key}:
            changed.append(f"{key} was {old}, is {new}")
    return sorted(changed)
