"""Prompt tables: the text embedding of each class's prompt sentence, (num_classes, text_dim), row = label_id."""

import zlib
from pathlib import Path

import numpy as np

from libs.core.config import ModelConfig, TaskSpec
from libs.core.errors import DataError
from libs.core.files import read_npy, replacing


def load_prompts(task: TaskSpec, text_dim: int) -> np.ndarray:
    """Load the prompt table of a task.

    Returns:
        (num_classes, text_dim) float32.

    Raises:
        DataError: if the file is missing, has another shape or holds NaN or Inf.
    """
    path, key = task.prompt_file, f"{task.key}.dataset.prompt_file"
    table = read_npy(path, f"{task.key}'s prompt table (num_classes, text_dim); {key} names it")
    expected = (task.dataset.num_classes, text_dim)
    if table.shape != expected:
        raise DataError(
            f"{path}: {task.key}'s prompt table has shape {table.shape}, expected {expected} = (num_classes, "
            f"text_dim); set {key}, or correct num_classes and model.text_dim"
        )
    if not np.isfinite(table).all():
        raise DataError(f"{path}: {task.key}'s prompt table holds NaN or Inf; make it again")
    return table.astype(np.float32)


def build_prompts(task: TaskSpec, config: ModelConfig) -> np.ndarray:
    """Build the table that the network uses: the task's prompt table or, with `prompts: random`, random unit vectors.

    The random vectors of a task are the same in every run. Returns and raises as `load_prompts`.
    """
    if config.prompts != "random":
        return load_prompts(task, config.text_dim)
    return sample_prompts(task.dataset.num_classes, config.text_dim, seed=zlib.crc32(task.key.encode()))


def sample_prompts(num_classes: int, text_dim: int, seed: int | np.random.Generator) -> np.ndarray:
    """Sample a table of random unit vectors, for encoders that embed no text; (num_classes, text_dim) float32."""
    table = np.random.default_rng(seed).standard_normal((num_classes, text_dim)).astype(np.float32)
    return table / np.linalg.norm(table, axis=1, keepdims=True)


def save_prompts(path: Path, table: np.ndarray) -> None:
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.save(file, table)
