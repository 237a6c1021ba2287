"""Parse the metrics that a user asks for, and check that what they need is installed."""

from difflib import get_close_matches
from importlib.util import find_spec

from libs.core.errors import ConfigError
from libs.evaluation.metrics.compute import METRICS

ALL = "all"
INSTALL = 'pip install -e ".[metrics]" (INSTALL.md, Extras)'
SED_LIBRARIES = ("sed_scores_eval", "sed_eval")


def parse_metrics(text: str) -> tuple[str, ...]:
    """Split names at commas, each once; "all" stands for every metric that applies.

    Raises:
        ConfigError: if a name is unknown, naming the nearest one, or if a library it needs is not installed.
    """
    names = tuple(dict.fromkeys(name.strip() for name in text.split(",")))
    for name in names:
        if name not in METRICS and name != ALL:
            near = get_close_matches(name, [*METRICS, ALL], n=1, cutoff=0.0)[0]
            raise ConfigError(
                f"--metrics {name!r}: no such metric; did you mean {near!r}? ({ALL}, {', '.join(METRICS)})"
            )
    if "sed" in names:
        check_installed(SED_LIBRARIES, "the metric sed")
    return names


def expand_metrics(names: tuple[str, ...], sounds: bool) -> tuple[tuple[str, ...], list[str]]:
    """Expand "all".

    Args:
        sounds: whether the events are sounds; only then "all" includes `sed`, if its libraries are installed.

    Returns:
        the metrics, and a line for each one that "all" leaves out.
    """
    if ALL not in names or "sed" in names:
        return tuple(name for name in METRICS if name in names or ALL in names), []
    without = tuple(name for name in METRICS if name != "sed")
    if not sounds:
        return without, ["sed is left out of all: it is for sound events; to include it, name it: all,sed"]
    missing = find_missing(SED_LIBRARIES)
    if missing:
        return without, [f"sed is left out of all: {', '.join(missing)} is not installed: {INSTALL}"]
    return tuple(METRICS), []


def find_missing(libraries: tuple[str, ...]) -> list[str]:
    return [library for library in libraries if find_spec(library) is None]


def check_installed(libraries: tuple[str, ...], what: str) -> None:
    """Raise ConfigError, naming the extra to install, if a library is missing."""
    missing = find_missing(libraries)
    if missing:
        raise ConfigError(f"{what} needs {', '.join(missing)}, which is not installed: {INSTALL}")
