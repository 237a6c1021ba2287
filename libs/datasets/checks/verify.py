"""Run all checks of a configuration's data and format what they find."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tabulate import tabulate

from libs.core.config import Config, TaskSpec
from libs.core.errors import UserError
from libs.core.prompts import load_prompts
from libs.datasets.annotations import read_annotations
from libs.datasets.checks.events import TaskVideos, check_annotations, check_prompts
from libs.datasets.checks.feature_files import TaskFeatures, check_features, hash_file
from libs.datasets.checks.findings import SEVERITIES, Finding, Occurrence, group_occurrences, sanitize
from libs.datasets.checks.leaks import check_leaks
from libs.datasets.checks.lengths import TaskLengths, build_histograms, check_lengths, suggest_settings
from libs.features.provenance import check_provenance
from libs.features.sources import Hdf5Pack, NpyFolder, open_feature_files

EXAMPLES_WIDTH = 76  # characters


@dataclass
class VerificationReport:
    """What was read, and all that was found."""

    findings: list[Finding] = field(default_factory=list)
    splits: list[dict] = field(default_factory=list)  # one row for each task and split
    tasks: dict[str, dict] = field(default_factory=dict)  # by key: "histograms" of lengths and "advice"
    files: dict[str, str] = field(default_factory=dict)  # path -> SHA-256

    def add(self, task: str, occurrences: Iterable[Occurrence], num_videos: Mapping[str, int] | None = None) -> None:
        """Add a task's occurrences and keep the findings sorted, the worst first, then by task."""
        self.findings += group_occurrences(task, occurrences, num_videos or {})
        self.findings.sort(key=lambda finding: (SEVERITIES.index(finding.severity), finding.task))

    @contextmanager
    def record_error(self, task: str, check: str, place: str) -> Iterator[None]:
        """Turn an error about a file or folder into a finding."""
        try:
            yield
        except (UserError, OSError) as error:
            self.add(task, [Occurrence("", check, place, str(error).removeprefix(f"{place}: "))])

    def add_file(self, path: str) -> None:
        """Hash a file for the manifest. A missing or empty file is a finding of another check."""
        if path not in self.files and Path(path).is_file() and Path(path).stat().st_size:
            self.files[path] = hash_file(Path(path))

    def count_severities(self) -> dict[str, int]:
        return {severity: sum(f.severity == severity for f in self.findings) for severity in SEVERITIES}

    def to_dict(self) -> dict:
        """Return the report as `verify_data.py --json` writes it."""
        findings = [finding.to_dict() for finding in self.findings]
        return {"counts": self.count_severities(), "splits": self.splits, "findings": findings, "tasks": self.tasks}


def verify(config: Config, tasks: list[TaskSpec], jobs: int) -> VerificationReport:
    """Check all data that a run of these tasks would read, with `jobs` threads."""
    report = VerificationReport()
    loaded = [data for task in tasks if (data := _load_videos(task, config, report))]
    features = {}
    for data in loaded:
        key = data.task.key
        source = _open_source(data.task, config, report)
        features[key] = found = check_features(data, source, jobs) if source else TaskFeatures()
        lengths = TaskLengths(config, data, found.lengths)
        report.add(key, [*found.occurrences, *check_lengths(lengths)], data.num_videos)
        report.files |= found.files
        report.splits += _summarize_splits(data, found)
        report.tasks[key] = {"histograms": build_histograms(lengths), "advice": [*suggest_settings(lengths)]}
    for key, occurrences in check_leaks(loaded, features):
        report.add(key, occurrences)
    return report


def _load_videos(task: TaskSpec, config: Config, report: VerificationReport) -> TaskVideos | None:
    """Load and check annotations and prompts. Returns None if there are no annotations."""
    json_file, prompt_file = task.dataset.json_file, str(task.prompt_file)
    if config.model.reads_prompts or task.dataset.feat_folder == "planted":
        with report.record_error(task.key, "prompt table", prompt_file):
            report.add_file(prompt_file)
            report.add(task.key, check_prompts(task, load_prompts(task, config.model.text_dim)))
    with report.record_error(task.key, "annotation file", json_file):
        report.add_file(json_file)
        annotations, problems = read_annotations(json_file, task.dataset.num_classes)
        data = TaskVideos(task, annotations)
        invalid = [Occurrence(p.subset, p.kind, p.video_id or Path(json_file).name, p.message) for p in problems]
        report.add(task.key, [*invalid, *check_annotations(data)])
        return data


def _open_source(task: TaskSpec, config: Config, report: VerificationReport) -> NpyFolder | Hdf5Pack | None:
    """Open the task's features. Returns None for planted features and where there are none."""
    folder = task.dataset.feat_folder
    if folder == "planted":
        return None
    with report.record_error(task.key, "feature place", folder):
        source = open_feature_files(task.dataset, config.model.input_dims)
        report.add_file(folder)
        with report.record_error(task.key, "other features", folder):
            check_provenance(task, config.model.encoder)
        return source


def _summarize_splits(data: TaskVideos, features: TaskFeatures) -> Iterator[dict]:
    """Count the videos, events and classes of each split."""
    for split, num_videos in data.num_videos.items():
        videos = [video for video in data.videos if video.subset == split]
        labels = data.events.loc[data.events["split"] == split, "label"]
        yield {
            "task": data.task.key,
            "split": split,
            "used as": "+".join(role for role, splits in data.role_splits.items() if split in splits),
            "videos": num_videos,
            "hours": round(sum(video.duration for video in videos) / 3600, 2),
            "events": len(labels),
            "classes": labels.nunique(),
            "with features": sum(video.video_id in features.lengths for video in videos),
        }


def format_findings(findings: list[Finding]) -> str:
    """Format a table with one row for each finding, and the remedies of errors and warnings."""
    if not findings:
        return "nothing found"
    rows = [
        [f.severity, f.task, sanitize(f.split, 60), f.check, len(f.occurrences), f.format_examples()] for f in findings
    ]
    headers = ["severity", "task", "split", "check", "count", "examples"]
    table = tabulate(rows, headers, maxcolwidths=[None] * 5 + [EXAMPLES_WIDTH])
    remedies = {f"{finding.check}: {finding.remedy}": None for finding in findings if finding.severity != "note"}
    return "\n".join([table, "", *remedies]).rstrip()
