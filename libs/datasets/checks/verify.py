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

NUM_EXAMPLES = 3  # in the table of findings
EXAMPLES_WIDTH = 76  # characters


@dataclass
class VerificationReport:
    """What was read, and all that was found."""

    findings: list[Finding] = field(default_factory=list)
    splits: list[dict] = field(default_factory=list)  # one row for each task and split
    lengths: dict[str, TaskLengths] = field(default_factory=dict)  # by task
    files: dict[str, str] = field(default_factory=dict)  # path -> SHA-256

    def add(self, task: str, occurrences: Iterable[Occurrence], num_videos: Mapping[str, int] | None = None) -> None:
        self.findings += group_occurrences(task, occurrences, num_videos)

    @contextmanager
    def record_error(self, task: str, check: str, place: str | Path) -> Iterator[None]:
        """Turn an error about a file or folder into a finding."""
        try:
            yield
        except (UserError, OSError) as error:
            self.add(task, [Occurrence("", check, str(place), str(error).removeprefix(f"{place}: "))])

    def add_file(self, path: str | Path) -> None:
        """Hash a file for the manifest. A missing file is a finding of another check."""
        if str(path) not in self.files and Path(path).is_file():
            self.files[str(path)] = hash_file(Path(path))

    def count(self, severity: str) -> int:
        return sum(finding.severity == severity for finding in self.findings)

    def sorted_findings(self) -> list[Finding]:
        """Sort the findings, the worst first, then by task."""
        return sorted(self.findings, key=lambda finding: (SEVERITIES.index(finding.severity), finding.task))

    def to_dict(self) -> dict:
        """Return the report as `verify_data.py --json` writes it."""
        return {
            "counts": {severity: self.count(severity) for severity in SEVERITIES},
            "splits": self.splits,
            "findings": [finding.to_dict() for finding in self.sorted_findings()],
            "tasks": {
                task: {"histograms": build_histograms(lengths), "advice": suggest_settings(lengths)}
                for task, lengths in self.lengths.items()
            },
        }


def verify(config: Config, tasks: list[TaskSpec], jobs: int) -> VerificationReport:
    """Check all data that a run of these tasks would read, with `jobs` threads."""
    report = VerificationReport()
    loaded = [data for task in tasks if (data := _load_videos(task, config, report))]
    features = {}
    for data in loaded:
        key = data.task.key
        source = _open_source(data.task, config, report)
        features[key] = check_features(data, source, jobs) if source else TaskFeatures()
        report.add(key, features[key].occurrences, {split: len(videos) for split, videos in data.splits.items()})
        report.files |= features[key].files
        report.splits += _summarize_splits(data, features[key])
        report.lengths[key] = TaskLengths.measure(config, data, features[key].lengths)
        report.add(key, check_lengths(report.lengths[key]))
    for key, occurrences in check_leaks(loaded, features):
        report.add(key, occurrences)
    return report


def _load_videos(task: TaskSpec, config: Config, report: VerificationReport) -> TaskVideos | None:
    """Load and check annotations and prompts. Returns None if there are no annotations."""
    json_file = task.dataset.json_file
    if config.model.reads_prompts or task.dataset.feat_folder == "planted":
        with report.record_error(task.key, "prompt table", task.prompt_file):
            report.add_file(task.prompt_file)
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
    folder, source = task.dataset.feat_folder, None
    if folder != "planted":
        with report.record_error(task.key, "feature place", folder):
            source = open_feature_files(task.dataset, config.model.input_dims)
            report.add_file(folder)
    if source:
        with report.record_error(task.key, "other features", folder):
            check_provenance(task, config.model.encoder)
    return source


def _summarize_splits(data: TaskVideos, features: TaskFeatures) -> Iterator[dict]:
    """Count the videos, events and classes of each split."""
    for split, videos in data.splits.items():
        labels = data.events.loc[data.events["split"] == split, "label"]
        yield {
            "task": data.task.key,
            "split": split,
            "used as": "+".join(role for role, splits in data.role_splits.items() if split in splits),
            "videos": len(videos),
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
        [f.severity, f.task, sanitize(f.split), f.check, len(f.occurrences), _format_examples(f.occurrences)]
        for f in findings
    ]
    headers = ["severity", "task", "split", "check", "count", "examples"]
    table = tabulate(rows, headers, maxcolwidths=[None] * 5 + [EXAMPLES_WIDTH])
    remedies = {finding.check: finding.remedy for finding in findings if finding.severity != "note"}
    return "\n".join([table, "", *(f"{check}: {remedy}" for check, remedy in remedies.items())]).rstrip()


def _format_examples(occurrences: tuple[Occurrence, ...]) -> str:
    examples = [f"{sanitize(o.name, 60)}: {sanitize(o.message, 110)}" for o in occurrences[:NUM_EXAMPLES]]
    return "; ".join(examples) + ("; …" if len(occurrences) > NUM_EXAMPLES else "")
