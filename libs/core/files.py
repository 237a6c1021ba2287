"""Read JSON and .npy files with errors of one line; write files so that an interruption leaves no partial file."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

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


class NpyHeader(NamedTuple):
    """Shape and type of the array in a .npy file."""

    shape: tuple[int, ...]
    dtype: np.dtype


def read_npy_header(path: Path, content: str) -> NpyHeader:
    """Read the header of a .npy file of numbers and check its length, without reading the data.

    Args:
        content: what the file should hold, for error messages.

    Raises:
        DataError: if the file is missing, truncated, no .npy file, or holds something else than numbers.
    """
    try:
        with path.open("rb") as file:
            version = np.lib.format.read_magic(file)
            read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, _, dtype = read(file)
            expected = file.tell() + int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
            actual = path.stat().st_size
    except OSError as error:
        problem = "no such file" if isinstance(error, FileNotFoundError) else error.strerror
        raise DataError(f"{path}: {problem}, expected {content}") from None
    except (ValueError, EOFError):
        raise DataError(f"{path}: not a .npy file (or a truncated one), expected {content}; write it again") from None
    if dtype.kind not in "fiu":
        found = "pickled objects, which are never loaded" if dtype.hasobject else dtype
        raise DataError(f"{path}: holds {found}, expected numbers; save a float array with numpy.save")
    if actual < expected:
        raise DataError(f"{path}: truncated, {actual} of {expected} bytes; copy or write it again")
    return NpyHeader(shape, dtype)


def read_npy(path: Path, content: str) -> np.ndarray:
    """Read the array of a .npy file; the same arguments and errors as `read_npy_header`."""
    read_npy_header(path, content)
    return np.load(path, allow_pickle=False)
