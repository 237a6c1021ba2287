"""Errors that a user can correct; each message is one line."""

from collections.abc import Sequence


class UserError(ValueError):
    """A mistake in what a user gave. The message names the file, video or key, what was expected and what to do."""


class ConfigError(UserError):
    """A configuration file or a `-o` override is not usable."""


class DataError(UserError):
    """An annotation, feature or prompt file is not usable."""


class CheckpointError(UserError):
    """A checkpoint cannot be read or does not fit the network."""


class MediaError(UserError):
    """A video or sound file cannot be read."""


class TrainingError(UserError):
    """Training cannot go on, for example because a loss is not finite."""


def format_list(things: Sequence, most: int = 3, between: str = ", ") -> str:
    """The first of many things, for a message of one line."""
    return between.join(map(str, things[:most])) + (f" and {len(things) - most} more" if len(things) > most else "")


def is_out_of_memory(error: Exception) -> bool:
    """Python's error, PyTorch's for its CPU and GPU memory, and what CUDA's libraries say in errors of no own type."""
    signs = ("DefaultCPUAllocator", "out of memory", "ALLOC_FAILED")
    return isinstance(error, MemoryError) or any(sign in str(error) for sign in signs)
