"""Read JSON and .npy files with errors of one line; write files so that an interruption leaves no partial file."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from libs.core.errors import DataError, UserError


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path that is renamed to `path` when the block succeeds, and removed otherwise.

    Raises:
        UserError: if the folder cannot be written to.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield temporary
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        reason = error.strerror or error
        raise UserError(f"{path}: cannot be written ({reason}); free space or choose another") from None


def make_folder(folder: Path) -> None:
    """Make a folder and check that it can be written to.

    Raises:
        UserError: if it cannot.
    """
    with replacing(folder / "writable") as temporary:
        temporary.touch()
    (folder / "writable").unlink()


def write_json(path: Path, tree: Any) -> None:
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(tree), encoding="utf-8")


def read_json(path: Path, content: str, **options: Any) -> Any:
    """Parse a JSON file.

    Args:
        content: what the file should hold, for error messages.
        options: options of json.loads.

    Raises:
        DataError: if the file is missing or not JSON.
    """
    try:
        return json.loads(path.read_bytes(), **options)
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}, expected {content}") from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: not valid JSON ({error}), expected {content}") from None


def read_npy(path: Path, content: str, mapped: bool = False) -> np.ndarray:
    """Read the array of a .npy file of numbers.

    Args:
        content: what the file should hold, for error messages.
        mapped: return a memory map of the file, whose shape is known before any data is read.

    Raises:
        DataError: if the file is missing, truncated, no .npy file, or holds something else than numbers.
    """
    try:
        array = np.load(path, mmap_mode="r" if mapped else None, allow_pickle=False)
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}, expected {content}") from None
    except (ValueError, EOFError):
        raise DataError(f"{path}: not a .npy file of numbers or truncated; expected {content}, save it again") from None
    if array.dtype.kind not in "fiu":
        raise DataError(f"{path}: holds {array.dtype}, expected numbers; save a float array with numpy.save")
    return array
