"""Reading .npy files that a user gives: never unpickled, and what is wrong with them said in one line."""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from libs.core.errors import DataError


class Header(NamedTuple):
    shape: tuple[int, ...]
    dtype: np.dtype


def read_header(path: Path, what: str) -> Header:
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


def read_array(path: Path, what: str) -> np.ndarray:
    """The array of a .npy file; the same errors as read_header."""
    read_header(path, what)
    return np.load(path, allow_pickle=False)
