"""The checks that cost no time and are made before each run: annotations, prompts and the headers of features."""

import shlex
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import numpy as np

from libs.core.config import TaskSpec
from libs.core.errors import DataError
from libs.datasets.annotations import Annotations
from libs.datasets.checks.events import TaskVideos, check_names, check_prompts, check_roles, check_times
from libs.datasets.checks.feature_files import check_lengths
from libs.datasets.checks.findings import Finding, sanitize
from libs.datasets.clips import ClipDataset


def validate_task_data(
    task: TaskSpec, annotations: Annotations, prompts: np.ndarray | None, opened: Iterable[ClipDataset]
) -> list[str]:
    """Raise DataError, naming the video or class, where a run would learn or score something else than is meant.

    prompts (C, text_dim), if there are any; opened: what the run trains and evaluates on. Returns a sentence for each
    check of lengths that only a few videos do not pass.
    """
    data = TaskVideos.of(task, annotations)
    findings = [*check_names(data), *check_roles(data)]
    if prompts is not None:
        findings += check_prompts(task, prompts)
    for split, videos in data.splits.items():
        findings += check_times(task, split, videos)
    of_lengths = []
    for clips in opened:
        split = "+".join(sorted({video.subset for video in clips.videos}))
        of_lengths += check_lengths(task, split, clips.videos, clips.lengths)
    for finding in [*findings, *of_lengths]:
        if finding.severity == "error":
            raise DataError(f"{annotations.path}: {_sentence(finding)}; {finding.advice}")
    return [_sentence(finding) for finding in of_lengths]


@contextmanager
def suggest_verify_data(config: str, tasks: str | None, has_overrides: bool) -> Iterator[None]:
    """Add to any DataError the command that lists all that is wrong."""
    try:
        yield
    except DataError as error:
        command = shlex.join(["python", "tools/verify_data.py", config, *(["--tasks", tasks] if tasks else [])])
        also = " and the same -o" if has_overrides else ""
        raise DataError(f"{error} [all that is wrong: {command}{also}]") from None


def _sentence(finding: Finding) -> str:
    case, more = finding.cases[0], len(finding.cases) - 1
    where = f"{finding.task} {finding.split}".strip()
    also = f" (and {more} more)" if more else ""
    return sanitize(f"{where}: {finding.check}: {case.name}: {case.said}{also}")
