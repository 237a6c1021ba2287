"""Reading configurations: YAML files with their bases and `-o` overrides -> a checked Config, or one line of error."""

import difflib
import json
import re
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from libs.core.config import Config, TaskSpec
from libs.core.errors import ConfigError

_TASK_KEY = re.compile(r"TASK\d+$")


def _resolvers() -> dict:
    """PyYAML's, but 1e-3 is a number (it wants 1.0e-3) and 2024-10-01 is a string."""
    kept = {
        first: [(tag, pattern) for tag, pattern in rules if not tag.endswith(":timestamp")]
        for first, rules in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }
    number = ("tag:yaml.org,2002:float", re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"))
    return {first: [*kept.get(first, []), *([number] if first in "-+.0123456789" else [])] for first in kept}


class _Loader(yaml.SafeLoader):
    """YAML as people write it; a key given twice is an error."""

    yaml_implicit_resolvers = _resolvers()

    def construct_mapping(self, node, deep=False):
        seen = set()
        for key_node, _ in node.value:
            key = key_node.value if isinstance(key_node, yaml.ScalarNode) else None
            if key_node.tag != "tag:yaml.org,2002:merge" and key in seen:
                raise yaml.MarkedYAMLError(problem=f"the key {key} is given twice", problem_mark=key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)


def _parse_yaml(text: str, where: str) -> Any:
    try:
        tree = yaml.load(text, _Loader)
        json.dumps(tree)  # what JSON cannot hold (a mapping within itself, binary data) no key can mean
        return tree
    except (yaml.YAMLError, ValueError, TypeError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        raise ConfigError(f"{where}{line}: not valid YAML: {getattr(error, 'problem', error)}") from None


def _merge(base: dict, child: dict) -> dict:
    merged = dict(base)
    for key, value in child.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _merge(merged[key], value) if both else value
    return merged


def _read_chain(path: Path, children: tuple[Path, ...] = ()) -> list[tuple[str, dict]]:
    """The file and its bases, the first base first, each as (name, tree)."""
    if path.resolve() in children:
        raise ConfigError(f"{path}: its `base` leads back to itself; remove one of the `base` lines")
    named_by = f" (the base of {children[-1]})" if children else ""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        what = "no such configuration file" if isinstance(error, FileNotFoundError) else error.strerror
        raise ConfigError(f"{path}: {what}{named_by}; configurations lie in configs/") from None
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
    return [*_read_chain(path.parent / base, (*children, path.resolve())), (str(path), tree)]


def _override_tree(override: str) -> dict:
    key, equals, text = override.partition("=")
    if not equals or not key.strip():
        raise ConfigError(f"-o {override}: expected KEY=VALUE, such as -o TASK1.batch_size=8")
    value = _parse_yaml(text, f"-o {override}")
    for part in reversed(key.strip().split(".")):
        value = {part: value}
    return value


def _has(tree: Any, path: tuple) -> bool:
    for part in path:
        if not isinstance(tree, dict) or part not in tree:
            return False
        tree = tree[part]
    return True


def _known_keys(path: tuple, tasks: list[str]) -> list[str]:
    """The keys that the section at `path` (as in the file) may hold; `tasks` are the file's."""
    model: Any = Config
    for part in path:
        model = TaskSpec if model is Config and _TASK_KEY.match(str(part)) else model.model_fields[part].annotation
    hidden = {Config: "tasks", TaskSpec: "key"}.get(model)  # not keys of a file
    keys = [key for key in model.model_fields if key != hidden]
    return [*keys, *tasks] if model is Config else keys


def _explain(error: dict, layers: list[tuple[str, dict]]) -> str:
    """One line for one of pydantic's errors, naming where the key was set."""
    loc = error["loc"][1:] if error["loc"][:1] == ("tasks",) and len(error["loc"]) > 1 else error["loc"]
    path = tuple(str(part) for part in loc)
    key = ".".join(path)
    where = next((name for name, tree in reversed(layers) if _has(tree, path)), layers[-1][0])
    if error["type"] == "extra_forbidden":
        known = {name.lower(): name for name in _known_keys(path[:-1], [k for _, t in layers for k in _task_keys(t)])}
        near = difflib.get_close_matches(path[-1].lower(), known, n=1, cutoff=0)
        return f"{where}: unknown key {key}; did you mean {'.'.join((*path[:-1], *(known[n] for n in near)))}?"
    if error["type"] == "missing" and isinstance(error["loc"][-1], int):
        return f"{where}: {'.'.join(path[:-1])}: expected more values, got {error['input']!r}"
    if error["type"] == "missing":
        return f"{where}: {key} is missing; add it"
    expected = error["msg"].removeprefix("Value error, ").replace("Input should be", "expected")
    if error["type"] == "value_error":
        return f"{where}: {f'{key}: ' if key else ''}{expected}"
    if error["type"] == "too_short" and error["loc"] == ("tasks",):
        return f"{where}: no task; expected at least one block TASK1, TASK2, …"
    return f"{where}: {key}: {expected}, got {error['input']!r}"


def _task_keys(tree: dict) -> list[str]:
    return [key for key in tree if _TASK_KEY.match(str(key))]


def from_tree(tree: dict, layers: list[tuple[str, dict]] | None = None) -> Config:
    """A Config from a plain tree; `layers` says, for error messages, which file set what (the last one wins)."""
    layers = layers or [("configuration", tree)]
    tasks = {}
    for key in _task_keys(tree):
        tasks[key] = {**tree[key], "key": key} if isinstance(tree[key], dict) else tree[key]
        if isinstance(tree[key], dict) and "key" in tree[key]:
            raise ConfigError(f"{layers[-1][0]}: unknown key {key}.key; a task's key is the name of its block")
    rest = {k: v for k, v in tree.items() if k not in tasks}
    if "tasks" in rest:
        raise ConfigError(f"{layers[-1][0]}: unknown key tasks; tasks are top-level blocks TASK1, TASK2, …")
    # Through JSON: strict types and yet YAML's lists for tuples.
    try:
        return Config.model_validate_json(json.dumps({**rest, "tasks": tasks}), strict=True)
    except ValidationError as error:
        raise ConfigError(_explain(error.errors()[0], layers)) from None


def load_config(path: str | Path, overrides: list[str] = ()) -> Config:
    """Read a YAML file with its bases, apply `-o` overrides, check everything.

    Raises ConfigError, naming the file (or the override), the key, what was expected and, for unknown keys, the
    nearest known one.
    """
    layers = _read_chain(Path(path))
    in_files = [key for _, layer in layers for key in _task_keys(layer)]
    for override in overrides:
        layer = _override_tree(override)
        if "base" in layer:
            raise ConfigError(f"-o {override}: a base is named in a file, not on the command line")
        for key in _task_keys(layer):
            if key not in in_files:
                raise ConfigError(f"-o {override}: the configuration has no {key}; it has {', '.join(in_files)}")
        layers.append((f"-o {override}", layer))
    tree: dict = {}
    for name, layer in layers:
        for key in layer:
            if key in tree and isinstance(tree[key], dict) and not isinstance(layer[key], dict):
                raise ConfigError(f"{name}: {key}: expected a mapping of keys, got {layer[key]!r}")
        tree = _merge(tree, layer)
    return from_tree(tree, layers)


def diff_configs(before: dict, now: dict, may_change: frozenset[str], path: tuple[str, ...] = ()) -> list[str]:
    """The keys in which two configurations' trees differ, as "a.b was 1, is 2"; not those named in `may_change`."""
    found = []
    for key in before.keys() | now.keys():
        where, old, new = (*path, key), before.get(key), now.get(key)
        if isinstance(old, dict) and isinstance(new, dict):
            found += diff_configs(old, new, may_change, where)
        elif old != new and not may_change & {*where, ".".join(where)}:
            found.append(f"{'.'.join(where)} was {old}, is {new}")
    return sorted(found)
