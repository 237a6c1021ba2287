"""Prompt tables: the frozen text embedding of each class's prompt sentence, row = label_id."""

import zlib
from pathlib import Path

import numpy as np

from libs.core.config import ModelConfig, TaskSpec
from libs.core.errors import DataError
from libs.core.files import read_npy, replacing


def load_prompts(task: TaskSpec, text_dim: int) -> np.ndarray:
    """A task's prompt table, (num_classes, text_dim) float32. Raises DataError on a missing file, a wrong shape or
    values that are not finite."""
    path, named_by = task.prompt_file, f"{task.key}.dataset.prompt_file"
    table = read_npy(path, f"{task.key}'s prompt table (num_classes, text_dim); {named_by} names it")
    expected = (task.dataset.num_classes, text_dim)
    if table.shape != expected:
        raise DataError(
            f"{path}: {task.key}'s prompt table has shape {table.shape}, expected {expected} = (num_classes, "
            f"text_dim); set {named_by}, or correct num_classes and model.text_dim"
        )
    if not np.isfinite(table).all():
        raise DataError(f"{path}: {task.key}'s prompt table holds NaN or Inf; make it anew")
    return table.astype(np.float32)


def build_prompts(task: TaskSpec, config: ModelConfig) -> np.ndarray:
    """What the network is to know of a task's classes: its prompt table, or with `prompts: random` unit vectors that
    say nothing, the same ones whenever asked. (num_classes, text_dim) float32. Raises DataError as load_prompts."""
    if config.prompts != "random":
        return load_prompts(task, config.text_dim)
    return sample_prompts(task.dataset.num_classes, config.text_dim, seed=zlib.crc32(task.key.encode()))


def sample_prompts(num_classes: int, text_dim: int, seed: int | np.random.Generator) -> np.ndarray:
    """(num_classes, text_dim) float32 unit rows that mean nothing, for encoders that embed no text; a generator is
    drawn from."""
    table = np.random.default_rng(seed).standard_normal((num_classes, text_dim)).astype(np.float32)
    return table / np.linalg.norm(table, axis=1, keepdims=True)


def save_prompts(path: Path, table: np.ndarray) -> None:
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.save(file, table)
