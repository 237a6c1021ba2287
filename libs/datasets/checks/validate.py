"""Checks before each run: annotations, prompts and the lengths of features. They read no feature values."""

import shlex
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import numpy as np

from libs.core.config import TaskSpec
from libs.core.errors import DataError
from libs.datasets.annotations import Annotations
from libs.datasets.checks.events import TaskVideos, check_names, check_prompts, check_roles, check_times
from libs.datasets.checks.feature_files import compare_length
from libs.datasets.checks.findings import Finding, Occurrence, group_occurrences, sanitize
from libs.datasets.clips import ClipDataset


def validate_task_data(
    task: TaskSpec, annotations: Annotations, prompts: np.ndarray | None, datasets: Iterable[ClipDataset]
) -> list[str]:
    """Check annotations, prompts and feature lengths before a run.

    Args:
        prompts: (C, text_dim), None if the network uses none.
        datasets: what the run trains and evaluates on.

    Returns:
        A warning for each split in which a few videos have features of a wrong length.

    Raises:
        DataError: naming the file and the first video or class with an error.
    """
    data = TaskVideos(task, annotations)
    occurrences = [*check_names(data), *check_roles(data)]
    if prompts is not None:
        occurrences += check_prompts(task, prompts)
    findings = group_occurrences(task.key, [*occurrences, *check_times(data)])
    warnings = [finding for dataset in datasets for finding in _check_lengths(task, dataset)]
    for finding in [*findings, *warnings]:
        if finding.severity == "error":
            raise DataError(f"{annotations.path}: {_format_finding(finding)}; {finding.remedy}")
    return [_format_finding(finding) for finding in warnings]


def _check_lengths(task: TaskSpec, dataset: ClipDataset) -> list[Finding]:
    """Compare the lengths of a data set's features with the durations of its videos."""
    split = "+".join(sorted({video.subset for video in dataset.videos}))
    occurrences = [
        Occurrence(split, "length against duration", video.video_id, message)
        for video, length in zip(dataset.videos, dataset.lengths, strict=True)
        if (message := compare_length(video, task.dataset, length))
    ]
    return group_occurrences(task.key, occurrences, {split: len(dataset.videos)})


def _format_finding(finding: Finding) -> str:
    first, more = finding.occurrences[0], len(finding.occurrences) - 1
    place = f"{finding.task} {finding.split}".strip()
    end = f" (and {more} more)" if more else ""
    return sanitize(f"{place}: {finding.check}: {first.name}: {first.message}{end}")


@contextmanager
def suggest_verify_data(config: str, tasks: str | None, has_overrides: bool) -> Iterator[None]:
    """Add the command that lists all errors to a DataError."""
    try:
        yield
    except DataError as error:
        command = shlex.join(["python", "tools/verify_data.py", config, *(["--tasks", tasks] if tasks else [])])
        raise DataError(f"{error} [all errors: {command}{' and the same -o' * has_overrides}]") from None
