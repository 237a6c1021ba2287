"""Errors that a user can correct, each with a message of one line."""

from collections.abc import Sequence


class UserError(ValueError):
    """A mistake in user input. The message names the file, video or key, what was expected and what to do."""


class ConfigError(UserError):
    """A configuration file or a `-o` override is not usable."""


class DataError(UserError):
    """An annotation, feature or prompt file is not usable."""


class CheckpointError(UserError):
    """A checkpoint cannot be read or does not fit the network."""


class MediaError(UserError):
    """A video or sound file cannot be read."""


class TrainingError(UserError):
    """Training cannot continue, for example because a loss is not finite."""


def format_list(items: Sequence, limit: int = 3, separator: str = ", ") -> str:
    """Format the first items of a list and the number of the others, for messages of one line."""
    rest = f" and {len(items) - limit} more" if len(items) > limit else ""
    return separator.join(map(str, items[:limit])) + rest


def is_out_of_memory(error: Exception) -> bool:
    """Check whether an error means that memory ran out, in Python, PyTorch or a CUDA library."""
    signs = ("DefaultCPUAllocator", "out of memory", "ALLOC_FAILED")
    return isinstance(error, MemoryError) or any(sign in str(error) for sign in signs)
