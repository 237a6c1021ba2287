"""Reading JSON and .npy files with one-line errors; writing files so that a half-written one is never taken for a whole one."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from libs.core.errors import DataError, UserError


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; when the block ends well it is renamed to `path`, else removed.

    Raises UserError if the folder cannot be written to.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        temporary.replace(path)
    except OSError as error:
        raise UserError(
            f"{path}: cannot be written ({error.strerror or error}); free space or choose another"
        ) from None
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def make_folder(folder: Path) -> None:
    """Make a folder that can be written to. Raises UserError where that is impossible."""
    with replacing(folder / "writable") as temporary:
        temporary.touch()
    (folder / "writable").unlink()


def write_json(path: Path, tree: Any) -> None:
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(tree), encoding="utf-8")


def read_json(path: Path, what: str, **options: Any) -> Any:
    """Parse a JSON file; options are json.loads'. Raises DataError, naming the file, when it is missing or no JSON."""
    try:
        return json.loads(path.read_bytes(), **options)
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}, expected {what}") from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: not valid JSON ({error}), expected {what}") from None


class Header(NamedTuple):
    shape: tuple[int, ...]
    dtype: np.dtype


def read_npy_header(path: Path, what: str) -> Header:
    """Shape and type of a .npy file of numbers, its length on disk checked, without reading the data.

    Raises DataError, naming the file, when it is missing, no .npy file, truncated, or holds pickled objects.
    """
    try:
        with path.open("rb") as file:
            version = np.lib.format.read_magic(file)
            read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, _, dtype = read(file)
            expected = file.tell() + int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
            actual = path.stat().st_size
    except FileNotFoundError:
        raise DataError(f"{path}: no such file, expected {what}") from None
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}, expected {what}") from None
    except (ValueError, EOFError):
        raise DataError(f"{path}: not a .npy file (or a truncated one), expected {what}; write it again") from None
    if dtype.hasobject:
        raise DataError(f"{path}: holds pickled objects, which are never loaded; save a plain array with numpy.save")
    if dtype.kind not in "fiu":
        raise DataError(f"{path}: holds {dtype}, expected numbers; save a float array with numpy.save")
    if actual < expected:
        raise DataError(f"{path}: truncated, {actual} of {expected} bytes; copy or write it again")
    return Header(shape, dtype)


def read_npy(path: Path, what: str) -> np.ndarray:
    """The array of a .npy file; the same errors as read_npy_header."""
    read_npy_header(path, what)
    return np.load(path, allow_pickle=False)
