"""All checks of a configuration's data, and their table."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from tabulate import tabulate

from libs.core.config import Config, TaskSpec
from libs.core.errors import DataError, UserError
from libs.core.prompts import load_prompts
from libs.core.types import PACK_SUFFIXES, Video
from libs.datasets.checks.events import TaskVideos, check_annotations, check_prompts, roles_of
from libs.datasets.checks.feature_files import SplitFeatures, check_features, hash_file
from libs.datasets.checks.findings import SEVERITIES, Finding, Occurrence, found, sanitize
from libs.datasets.checks.leaks import check_equal_features, check_equal_features_of_tasks, check_recordings
from libs.datasets.checks.lengths import TaskLengths, check_learning, histograms, length_advice
from libs.features.sources import Hdf5Pack, NpyFolder
from libs.features.windows import expected_windows

EXAMPLES = 3  # in the table
EXAMPLES_WIDTH = 76  # characters


@dataclass
class VerificationReport:
    """What was examined, and all that was found."""

    findings: list[Finding] = field(default_factory=list)
    facts: list[dict] = field(default_factory=list)  # a row a task and split
    lengths: dict[str, TaskLengths] = field(default_factory=dict)  # by task
    files: dict[str, str] = field(default_factory=dict)  # file -> SHA-256

    def count(self, severity: str) -> int:
        return sum(finding.severity == severity for finding in self.findings)

    def sorted_findings(self) -> list[Finding]:
        """The worst first."""
        return sorted(self.findings, key=lambda finding: (SEVERITIES.index(finding.severity), finding.task))

    def tree(self) -> dict:
        """For JSON."""
        return {
            "counts": {severity: self.count(severity) for severity in SEVERITIES},
            "splits": self.facts,
            "findings": [finding.tree() for finding in self.sorted_findings()],
            "tasks": {k: {"histograms": histograms(v), "advice": length_advice(v)} for k, v in self.lengths.items()},
        }


def verify(
    config: Config, tasks: list[TaskSpec], jobs: int, progress: Callable[[int], Callable[[], object]]
) -> VerificationReport:
    """Examine all that a run of these tasks would read, with `jobs` threads.

    progress(n) is called once with the number of steps and gives what is called after each: a video's features read.
    """
    report = VerificationReport()
    read = [data for task in tasks if (data := _read(task, config, report)) is not None]
    sources = {data.task.key: _source(data.task, config, report) for data in read}
    steps = [len(v) for data in read if sources[data.task.key] for v in data.splits.values()]
    step, features = progress(sum(steps)), {}
    with ThreadPoolExecutor(jobs) as pool:
        for data in read:
            features[data.task.key] = of_task = {}
            for split, videos in data.splits.items():
                source = sources[data.task.key]
                if source is None:
                    of_task[split] = SplitFeatures()
                else:
                    findings, of_task[split] = check_features(data.task, split, videos, source, pool, step)
                    report.findings += findings
                report.files |= of_task[split].files
                report.facts.append(_facts(data, split, videos, of_task[split]))
            report.findings += check_equal_features(data, of_task)
            report.lengths[data.task.key] = lengths = _lengths(data, config, of_task)
            report.findings += check_learning(lengths)
    report.findings += [*check_recordings(read), *check_equal_features_of_tasks(read, features)]
    return report


def _read(task: TaskSpec, config: Config, report: VerificationReport) -> TaskVideos | None:
    """Annotations and prompts; None where there are no annotations."""
    prompt_file, json_file = task.prompt_file, Path(task.dataset.json_file)
    _add_file(report, json_file)
    if config.model.reads_prompts or task.dataset.feat_folder == "planted":
        _add_file(report, prompt_file)
        try:
            report.findings += check_prompts(task, load_prompts(task, config.model.text_dim))
        except DataError as error:
            said = str(error).removeprefix(f"{prompt_file}: ")
            report.findings += found(task.key, "", "prompt table", [Occurrence(str(prompt_file), said)])
    try:
        data = TaskVideos.read(task)
    except DataError as error:
        said = str(error).removeprefix(f"{json_file}: ")
        report.findings += found(task.key, "", "annotation file", [Occurrence(str(json_file), said)])
        return None
    report.findings += check_annotations(data)
    return data


def _source(task: TaskSpec, config: Config, report: VerificationReport) -> NpyFolder | Hdf5Pack | None:
    """None for planted features, which are none, and where there is no place with features."""
    folder, dims = task.dataset.feat_folder, config.model.input_dims
    if folder == "planted":
        return None
    try:
        if not folder.endswith(PACK_SUFFIXES):
            return NpyFolder(task.dataset, dims)
        pack = Hdf5Pack(folder, dims)
    except UserError as error:
        report.findings += found(task.key, "", "feature place", [Occurrence(folder, str(error))])
        return None
    _add_file(report, Path(folder))
    return pack


def _add_file(report: VerificationReport, path: Path) -> None:
    """To those of the manifest, once; what cannot be read is a finding of another check."""
    if str(path) not in report.files and path.is_file():
        try:
            report.files[str(path)] = hash_file(path)
        except OSError:
            return


def _facts(data: TaskVideos, split: str, videos: list[Video], features: SplitFeatures) -> dict:
    roles = [role for role, splits in roles_of(data.task).items() if split in splits]
    labels = np.concatenate([np.empty(0, np.int64), *(video.labels for video in videos)])
    return {
        "task": data.task.key,
        "split": split,
        "used as": "+".join(roles),
        "videos": len(videos),
        "hours": round(sum(video.duration for video in videos) / 3600, 2),
        "events": len(labels),
        "classes": len(np.unique(labels)),
        "with features": len(features.lengths),
    }


def _lengths(data: TaskVideos, config: Config, features: dict[str, SplitFeatures]) -> TaskLengths:
    """Of training; a video without features counts as long as its duration makes it."""
    videos = data.roles["train"]
    known = {name: length for split in features.values() for name, length in split.lengths.items()}
    clips = [known.get(video.video_id) or expected_windows(video, data.task.dataset) for video in videos]
    return TaskLengths.of(data.task, config.model, videos, clips)


def findings_table(findings: list[Finding]) -> str:
    """A row a finding, the worst first, and what to do about errors and warnings."""
    if not findings:
        return "nothing found"
    rows = [[f.severity, f.task, sanitize(f.split), f.check, len(f.cases), _examples(f.cases)] for f in findings]
    widths = [None] * 5 + [EXAMPLES_WIDTH]
    table = tabulate(rows, ["severity", "task", "split", "check", "count", "examples"], maxcolwidths=widths)
    remedies = {finding.check: finding.advice for finding in findings if finding.severity != "note"}
    lines = [f"{check}: {remedy}" for check, remedy in remedies.items()]
    return "\n".join([table, *(["", *lines] if lines else [])])


def _examples(cases: tuple[Occurrence, ...]) -> str:
    shown = [f"{sanitize(case.name, 60)}: {sanitize(case.said, 110)}" for case in cases[:EXAMPLES]]
    return "; ".join(shown) + ("; …" if len(cases) > EXAMPLES else "")
