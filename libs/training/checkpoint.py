"""Checkpoints: written whole or not at all, read without running anything in them."""

import pickle
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
from libs.modeling.published import from_earlier_versions, from_published, is_published

LAST, BEST, EPOCH_PATTERN = "last.pth.tar", "best.pth.tar", "epoch_*.pth.tar"
PARTS_SHOWN = 3  # of a parameter's name
EVALUATION_MAY_CHANGE = frozenset(["official_pos_embd", "dropout", "drop_path"])  # of the model section
RUN_STATE = {  # what a run goes on from, and its types
    **dict.fromkeys(("epoch", "step"), int),
    "best": float,
    **dict.fromkeys(("state_dict", "optimizer", "criteria", "stop_and_go", "drawn", "config"), dict),
}


def save_checkpoint(state: dict[str, Any], *paths: Path) -> None:
    """Write a state under one or more names of a folder, in order; the others are links to the first if possible."""
    first, *others = paths
    with replacing(first) as temporary:
        try:
            torch.save(state, temporary)
        except RuntimeError as error:  # what torch makes of a full disk
            raise CheckpointError(f"{first}: cannot be written ({str(error).splitlines()[0]}); free space") from None
    for path in others:
        with replacing(path) as temporary:
            try:
                temporary.hardlink_to(first)
            except OSError:  # a file system without links
                shutil.copyfile(first, temporary)


def find_checkpoint(path: Path) -> Path:
    """The file itself, or a folder's best, else last, else newest epoch. Raises CheckpointError if there is none."""
    if path.is_file():
        return path
    if not path.is_dir():
        raise CheckpointError(f"{path}: no such checkpoint file or folder")
    for candidate in (path / BEST, path / LAST, *sorted(path.glob(EPOCH_PATTERN), reverse=True)):
        if candidate.is_file():
            return candidate
    raise CheckpointError(f"{path}: holds no checkpoint, expected {BEST}, {LAST} or {EPOCH_PATTERN}")


def load_checkpoint(path: Path) -> dict[str, Any]:
    """The content of a checkpoint file, on the CPU, tensors and plain values only.

    Raises CheckpointError if it is damaged, or if loading it would need code to run.
    """
    unreadable = f"{path}: damaged, or no checkpoint that can be read without running code; copy or save it again"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's remarks on foreign pickles would follow our one line
            content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such checkpoint file") from None
    except pickle.UnpicklingError as error:
        # "Unsupported operand" is no pickle at all; a pickle that would call something names a GLOBAL.
        if "GLOBAL" not in str(error):
            raise CheckpointError(unreadable) from None
        raise CheckpointError(
            f"{path}: holds Python objects that would run code when loaded; expected tensors and plain values, save "
            "it again as a plain dict"
        ) from None
    except Exception:  # a damaged file fails in more ways than can be named
        raise CheckpointError(unreadable) from None
    weights = content.get("state_dict_ema") if isinstance(content, dict) else None
    if not isinstance(weights, dict) or not all(isinstance(k, str) and torch.is_tensor(v) for k, v in weights.items()):
        raise CheckpointError(f"{path}: no checkpoint of this project, expected a dict with state_dict_ema")
    return content


def load_resumable(path: Path) -> dict[str, Any]:
    """load_checkpoint of a run that can go on. Raises CheckpointError on one that only holds weights."""
    content = load_checkpoint(path)
    missing = [key for key, kind in RUN_STATE.items() if not isinstance(content.get(key), kind)]
    if missing:
        raise CheckpointError(f"{path}: cannot be resumed, it holds no {', '.join(missing)}; train anew")
    return content


def load_weights(model: nn.Module, state: dict[str, Tensor], path: Path) -> None:
    """Load a state_dict, ours or the published one. Raises CheckpointError naming the first few mismatches."""
    ours = model.state_dict()
    if is_published(state):
        state = from_published(state, ours, str(path))
    problems = [f"{name} is missing" for name in ours if name not in state]
    problems += [f"{name} is not in this network" for name in state if name not in ours]
    problems += [
        f"{name} has shape {tuple(state[name].shape)}, expected {tuple(ours[name].shape)}"
        for name in ours
        if name in state and state[name].shape != ours[name].shape
    ]
    if problems:
        raise CheckpointError(
            f"{path}: does not fit the configured network in {len(problems)} parameters: "
            f"{format_list(problems, between='; ')}; use the configuration it was trained with"
        )
    model.load_state_dict(state)


def load_fitting(model: nn.Module, content: dict[str, Any], config: ModelConfig, path: Path) -> str:
    """Load the (EMA) weights of a checkpoint that fit this network, of `config`, by name and shape.

    Returns what was loaded and what was left, for people. Raises CheckpointError if nothing fits.
    """
    ours, state = model.state_dict(), content["state_dict_ema"]
    if is_published(state):
        state = from_published(state, ours, str(path))
    fitting = {name: x for name, x in state.items() if name in ours and x.shape == ours[name].shape}
    if not fitting:
        raise CheckpointError(f"{path}: no parameter fits the configured network; use a configuration of its sizes")
    model.load_state_dict(fitting, strict=False)
    lines = [f"{path}: {len(fitting)} of the network's {len(ours)} parameter tensors loaded"]
    others = {
        "begin anew, of another shape there": [n for n in ours if n in state and n not in fitting],
        "begin anew, not there": [n for n in ours if n not in state],
        "left, not in this network": [n for n in state if n not in ours],
    }
    lines += [f"  {len(names)} {what}: {', '.join(_parts(names))}" for what, names in others.items() if names]
    lines += [f"  note: model.{changed}" for changed in _other_network(content, config)]
    return "\n".join(lines)


def check_same_network(content: dict[str, Any], config: ModelConfig, path: Path) -> None:
    """Raise CheckpointError if a checkpoint of ours was trained with another `model` section: some of its keys change
    what is computed, and no parameter's name or shape."""
    if changed := _other_network(content, config):
        raise CheckpointError(f"{path}: was trained with another network: model.{changed[0]}; evaluate it with that")


def _other_network(content: dict[str, Any], config: ModelConfig) -> list[str]:
    if not isinstance(content.get("config"), dict):  # a published one
        return []
    trained = from_tree(content["config"]).model
    return diff_configs(trained.model_dump(mode="json"), config.model_dump(mode="json"), EVALUATION_MAY_CHANGE)


def _parts(names: list[str]) -> list[str]:
    """The modules that parameters lie in, each once: a few names for hundreds of parameters."""
    return list(dict.fromkeys(".".join(name.split(".")[:-1][:PARTS_SHOWN]) for name in names))
