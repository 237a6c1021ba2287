"""Checks before each run: annotations, prompts and the lengths of features. They read no feature values."""

import shlex
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import numpy as np

from libs.core.config import TaskSpec
from libs.core.errors import DataError
from libs.datasets.annotations import Annotations
from libs.datasets.checks.events import TaskVideos, check_names, check_prompts, check_roles, check_times
from libs.datasets.checks.feature_files import check_length
from libs.datasets.checks.findings import Finding, Occurrence, group_occurrences
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
    occurrences = [*check_names(data), *check_roles(data), *check_times(data)]
    if prompts is not None:
        occurrences += check_prompts(task, prompts)
    num_videos = {}
    for dataset in datasets:
        split = "+".join(sorted({video.subset for video in dataset.videos}))
        num_videos[split] = len(dataset.videos)
        for video, length in zip(dataset.videos, dataset.lengths, strict=True):
            problems = check_length(length, video, task.dataset)
            occurrences += [Occurrence(split, check, video.video_id, message) for check, message in problems]
    findings = [*group_occurrences(task.key, dict.fromkeys(occurrences), num_videos)]  # each once
    for finding in findings:
        if finding.severity == "error":
            raise DataError(f"{annotations.path}: {_format_finding(finding)}; {finding.remedy}")
    return [_format_finding(finding) for finding in findings if finding.check == "length against duration"]


def _format_finding(finding: Finding) -> str:
    place = f"{finding.task} {finding.split}".strip()
    return f"{place}: {finding.check}: {finding.format_examples(1)}"


@contextmanager
def suggest_verify_data(config: str, tasks: str | None, has_overrides: bool) -> Iterator[None]:
    """Add the command that lists all errors to a DataError."""
    try:
        yield
    except DataError as error:
        command = shlex.join(["python", "tools/verify_data.py", config, *(["--tasks", tasks] if tasks else [])])
        raise DataError(f"{error} [all errors: {command}{' and the same -o' * has_overrides}]") from None
