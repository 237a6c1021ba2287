"""Read configurations: YAML files with their bases, and `-o` overrides, become one validated Config."""

import difflib
import functools
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


class _Loader(yaml.SafeLoader):
    """YAML 1.1 with three changes: a key given twice is an error, 1e-3 is a number, 2024-10-01 is a string."""

    def construct_mapping(self, node, deep=False):
        seen = set()
        for key_node, _ in node.value:
            key = key_node.value if isinstance(key_node, yaml.ScalarNode) else None
            if key_node.tag != "tag:yaml.org,2002:merge" and key in seen:
                raise yaml.MarkedYAMLError(problem=f"the key {key} is given twice", problem_mark=key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)


_NUMBER = re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$")  # PyYAML alone wants 1.0e-3
_Loader.add_implicit_resolver("tag:yaml.org,2002:float", _NUMBER, list("-+.0123456789"))
_Loader.add_constructor("tag:yaml.org,2002:timestamp", yaml.SafeLoader.construct_yaml_str)


def _parse_yaml(text: str | bytes, source: str) -> Any:
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
        text = path.read_bytes()
    except OSError as error:
        problem = "no such configuration file" if isinstance(error, FileNotFoundError) else error.strerror
        base_of = f" (the base of {children[-1]})" if children else ""
        raise ConfigError(f"{path}: {problem}{base_of}; configurations are in configs/") from None
    tree = _parse_yaml(text, str(path))
    if not isinstance(tree, dict):
        raise ConfigError(f"{path}: expected a YAML mapping of keys, found {type(tree).__name__}")
    base = tree.pop("base", None)
    bases = [] if base is None else _read_layers(path.parent / str(base), (*children, path.resolve()))
    return [*bases, (str(path), tree)]


def _parse_override(override: str, tasks: list[str]) -> Layer:
    """Parse KEY=VALUE; `tasks` are the blocks that the files have."""
    source = f"-o {override}"
    key, equals, text = override.partition("=")
    parts = key.strip().split(".")
    if not equals:
        raise ConfigError(f"{source}: expected KEY=VALUE, such as -o TASK1.batch_size=8")
    if parts == ["base"]:
        raise ConfigError(f"{source}: a base is named in a file, not on the command line")
    if _TASK_KEY.match(parts[0]) and parts[0] not in tasks:
        raise ConfigError(f"{source}: the configuration has no {parts[0]}; it has {', '.join(tasks)}")
    tree = _parse_yaml(text, source)
    for part in reversed(parts):
        tree = {part: tree}
    return source, tree


def _merge(base: Any, child: Any) -> Any:
    """Merge mappings key by key; any other value replaces the value of the base."""
    if not (isinstance(base, dict) and isinstance(child, dict)):
        return child
    return {**base, **{key: _merge(base.get(key), value) for key, value in child.items()}}


def _contains(tree: Any, path: tuple[str, ...]) -> bool:
    return not path or (isinstance(tree, dict) and path[0] in tree and _contains(tree[path[0]], path[1:]))


def _list_tasks(layers: Sequence[Layer]) -> list[str]:
    return list(dict.fromkeys(key for _, tree in layers for key in tree if _TASK_KEY.match(str(key))))


def _find_nearest_key(path: tuple[str, ...], tasks: list[str]) -> str:
    """Find the known key that is most like an unknown one."""
    model: Any = Config
    for part in path[:-1]:
        model = TaskSpec if model is Config and _TASK_KEY.match(part) else model.model_fields[part].annotation
    known = [*model.model_fields] if path[1:] else [*(key for key in Config.model_fields if key != "tasks"), *tasks]
    names = {name.lower(): name for name in known}
    nearest = difflib.get_close_matches(path[-1].lower(), names, n=1, cutoff=0)[0]
    return ".".join((*path[:-1], names[nearest]))


def _format_error(error: Any, layers: Sequence[Layer]) -> str:
    """Format one of pydantic's errors as a line that names where the key is set."""
    loc, kind = error["loc"], error["type"]
    path = tuple(str(part) for part in (loc[1:] if loc[:1] == ("tasks",) else loc))
    set_in = path[:-1] if kind == "missing" else path
    source = next((name for name, tree in reversed(layers) if _contains(tree, set_in)), layers[-1][0])
    place = f"{source}: {'.'.join(path)}"
    if kind == "extra_forbidden":
        return f"{source}: unknown key {'.'.join(path)}; did you mean {_find_nearest_key(path, _list_tasks(layers))}?"
    if kind == "missing":
        return f"{place} is missing; add it"
    expected = error["msg"].removeprefix("Value error, ").replace("Input should be", "expected")
    got = "" if kind == "value_error" else f", got {error['input']!r}"
    return f"{place}: {expected}{got}" if path else f"{source}: {expected}"


def from_tree(tree: dict, layers: Sequence[Layer] = ()) -> Config:
    """Validate a plain tree, as `Config.to_tree` writes it.

    Args:
        tree: nested mappings with blocks TASK1, TASK2, … and the sections of Config.
        layers: the files and overrides that the tree was merged from, to name them in errors; the last one wins.

    Raises:
        ConfigError: naming the first wrong key.
    """
    layers = layers or [("configuration", tree)]
    tasks = _list_tasks([("", tree)])
    if not tasks or "tasks" in tree:
        raise ConfigError(f"{layers[-1][0]}: expected blocks TASK1, TASK2, …, at least one, and no key `tasks`")
    rest = {key: value for key, value in tree.items() if key not in tasks}
    try:
        # JSON allows strict types and yet lists for tuples, as YAML has them.
        return Config.model_validate_json(json.dumps({**rest, "tasks": {key: tree[key] for key in tasks}}), strict=True)
    except ValidationError as error:
        # An unknown key first: it is often the misspelt name of a missing one.
        first = min(error.errors(), key=lambda e: e["type"] != "extra_forbidden")
        raise ConfigError(_format_error(first, layers)) from None


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """Read a YAML file with its bases, apply `-o` overrides and validate the result.

    Raises:
        ConfigError: naming the file or override, the key, what was expected and the nearest known key.
    """
    layers = _read_layers(Path(path))
    tasks = _list_tasks(layers)
    layers += [_parse_override(override, tasks) for override in overrides]
    return from_tree(functools.reduce(_merge, [tree for _, tree in layers]), layers)


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
