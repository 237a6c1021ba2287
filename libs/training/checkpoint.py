"""Checkpoints: written whole or not at all, read without running code in them."""

import shutil
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from libs.core.config import ModelConfig
from libs.core.configfile import diff_configs, from_tree
from libs.core.errors import CheckpointError, format_list
from libs.core.files import replacing
from libs.modeling.published import from_published, rename_earlier_parameters

STATE_DICTS = ("state_dict", "state_dict_ema")
LAST, BEST, EPOCH_PATTERN = "last.pth.tar", "best.pth.tar", "epoch_*.pth.tar"
MODULE_DEPTH = 3  # parts of a parameter's name that are printed
EVALUATION_MAY_CHANGE = frozenset(["official_pos_embd", "dropout", "drop_path"])  # of the model section
# What a run resumes from.
RUN_STATE = "epoch", "step", "best", "state_dict", "optimizer", "criteria", "stop_and_go", "num_batches_seen", "config"


def save_checkpoint(state: dict[str, Any], *paths: Path) -> None:
    """Write a state to paths in one folder, in order; the others are hard links to the first where possible."""
    first, *others = paths
    with replacing(first) as temporary:
        try:
            torch.save(state, temporary)
        except RuntimeError as error:  # torch's error for a full disk
            raise CheckpointError(f"{first}: cannot be written ({str(error).splitlines()[0]}); free space") from None
    for path in others:
        with replacing(path) as temporary:
            try:
                temporary.hardlink_to(first)
            except OSError:  # a file system without links
                shutil.copyfile(first, temporary)


def find_checkpoint(path: Path) -> Path:
    """Return the file itself, or a folder's best, else last, else newest epoch; raises CheckpointError without any."""
    if path.is_file():
        return path
    if not path.is_dir():
        raise CheckpointError(f"{path}: no such checkpoint file or folder")
    for candidate in (path / BEST, path / LAST, *sorted(path.glob(EPOCH_PATTERN), reverse=True)):
        if candidate.is_file():
            return candidate
    raise CheckpointError(f"{path}: holds no checkpoint, expected {BEST}, {LAST} or {EPOCH_PATTERN}")


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Load a checkpoint file to the CPU: tensors and plain values only, under today's names.

    Raises:
        CheckpointError: if it is damaged, or if loading it would run code.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns of foreign pickles; our one line says it
            content = torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception:  # a damaged file fails in many ways
        problem = "damaged, or holds Python objects that would run code when loaded"
        raise CheckpointError(f"{path}: {problem}; copy it again, or save tensors and plain values alone") from None
    states = {name: content[name] for name in STATE_DICTS if name in content} if isinstance(content, dict) else {}
    if "state_dict_ema" not in states or not all(map(_is_state_dict, states.values())):
        raise CheckpointError(f"{path}: no checkpoint of this project, expected a dict with state_dict_ema")
    if "drawn" in content:  # the name in earlier versions
        content["num_batches_seen"] = content.pop("drawn")
    return {**content, **{name: rename_earlier_parameters(state) for name, state in states.items()}}


def _is_state_dict(state: Any) -> bool:
    return isinstance(state, dict) and all(isinstance(k, str) and torch.is_tensor(v) for k, v in state.items())


def load_resumable(path: Path) -> dict[str, Any]:
    """Load the checkpoint of a run that can go on; raises CheckpointError on one that only holds weights."""
    content = load_checkpoint(path)
    if missing := [key for key in RUN_STATE if key not in content]:
        raise CheckpointError(f"{path}: cannot be resumed, it holds no {', '.join(missing)}; start a new run")
    return content


def load_weights(model: nn.Module, state: dict[str, Tensor], path: Path) -> None:
    """Load a state_dict, ours or a published one; raises CheckpointError naming the first mismatches."""
    ours = model.state_dict()
    state = from_published(state, ours)
    problems = [f"{name} is missing" for name in ours if name not in state]
    problems += [f"{name} is not in this network" for name in state if name not in ours]
    problems += [
        f"{name} has shape {tuple(state[name].shape)}, expected {tuple(ours[name].shape)}"
        for name in ours
        if name in state and state[name].shape != ours[name].shape
    ]
    if problems:
        misfit = f"does not fit the configured network in {len(problems)} parameters"
        named = format_list(problems, separator="; ")
        raise CheckpointError(f"{path}: {misfit}: {named}; use the configuration it was trained with")
    model.load_state_dict(state)


def load_fitting(model: nn.Module, config: ModelConfig, path: Path) -> str:
    """Load those (EMA) weights of a checkpoint that fit this network, of `config`, by name and shape.

    Returns:
        lines for people that say what was loaded and what was left.

    Raises:
        CheckpointError: if nothing fits.
    """
    ours, content = model.state_dict(), load_checkpoint(path)
    state = from_published(content["state_dict_ema"], ours)
    fitting = {name: x for name, x in state.items() if name in ours and x.shape == ours[name].shape}
    if not fitting:
        raise CheckpointError(f"{path}: no parameter fits the configured network; use a configuration of its sizes")
    model.load_state_dict(fitting, strict=False)
    lines = [f"{path}: {len(fitting)} of the network's {len(ours)} parameter tensors loaded"]
    others = {
        "start random, another shape in the checkpoint": [n for n in ours if n in state and n not in fitting],
        "start random, not in the checkpoint": [n for n in ours if n not in state],
        "left out, not in this network": [n for n in state if n not in ours],
    }
    lines += [f"  {len(names)} {what}: {', '.join(_list_modules(names))}" for what, names in others.items() if names]
    lines += [f"  note: model.{changed}" for changed in _diff_network(content, config)]
    return "\n".join(lines)


def check_same_network(content: dict[str, Any], config: ModelConfig, path: Path) -> None:
    """Raise CheckpointError if a checkpoint was trained with another `model` section.

    Some of its keys change what is computed, but no parameter's name or shape.
    """
    if changed := _diff_network(content, config):
        raise CheckpointError(f"{path}: was trained with another network: model.{changed[0]}; evaluate it with that")


def _diff_network(content: dict[str, Any], config: ModelConfig) -> list[str]:
    if not isinstance(content.get("config"), dict):  # a published checkpoint
        return []
    trained = from_tree(content["config"]).model
    return diff_configs(trained.model_dump(mode="json"), config.model_dump(mode="json"), EVALUATION_MAY_CHANGE)


def _list_modules(names: list[str]) -> list[str]:
    """List the modules that hold the parameters, each once: few names for hundreds of parameters."""
    return list(dict.fromkeys(".".join(name.split(".")[:-1][:MODULE_DEPTH]) for name in names))
