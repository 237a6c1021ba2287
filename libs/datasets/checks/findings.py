"""Data checks: what each one finds, how severe it is and how to correct it.

To add a check, add an entry to CHECKS and a function that yields an `Occurrence` of it.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Literal, NamedTuple

Severity = Literal["error", "warning", "note"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")  # the worst first
MAX_STRAYS = 0.05  # of a split's videos; up to here a check that tolerates strays only warns


class Check(NamedTuple):
    """A check's severity, the remedy, and whether a few stray videos lower an error to a warning."""

    severity: Severity
    remedy: str
    tolerates_strays: bool = False


class Occurrence(NamedTuple):
    """One place where a check failed.

    split is "" where no single split is concerned; name is a video, class or file; severity replaces the check's own.
    """

    split: str
    check: str
    name: str
    message: str
    severity: Severity | None = None


class Finding(NamedTuple):
    """All occurrences of one check in one split of one task; task is "" where no single task is concerned."""

    task: str
    split: str
    check: str
    severity: Severity
    occurrences: tuple[Occurrence, ...]

    @property
    def remedy(self) -> str:
        return CHECKS[self.check].remedy

    def to_dict(self) -> dict:
        """Return the finding as `verify_data.py --json` writes it."""
        fields = {"task": self.task, "split": self.split, "check": self.check, "severity": self.severity}
        cases = [{"name": occurrence.name, "said": occurrence.message} for occurrence in self.occurrences]
        return {**fields, "cases": cases, "count": len(cases), "advice": self.remedy}


def group_occurrences(
    task: str, occurrences: Iterable[Occurrence], num_videos: Mapping[str, int] | None = None
) -> list[Finding]:
    """Group a task's occurrences by split and check.

    Args:
        task: the task's key, or "".
        occurrences: in any order; findings are in the order of their first occurrence.
        num_videos: videos in each split, for the checks that tolerate strays.
    """
    groups = defaultdict(list)
    for occurrence in occurrences:
        groups[occurrence.split, occurrence.check].append(occurrence)
    findings = []
    for (split, check), group in groups.items():
        severity = group[0].severity or CHECKS[check].severity
        if CHECKS[check].tolerates_strays and len(group) <= MAX_STRAYS * (num_videos or {}).get(split, 0):
            severity = "warning"
        findings.append(Finding(task, split, check, severity, tuple(group)))
    return findings


def sanitize(text: str, width: int | None = None) -> str:
    """Escape what is not printable in text from files, and shorten it to `width` characters."""
    text = "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)
    return text if width is None or len(text) <= width else text[: width - 1] + "…"


CHECKS = {
    # annotations
    "annotation file": Check("error", "write the file as data/README.md describes it"),
    "repeated id": Check("error", "keep one entry for each video; the last one replaces the others"),
    "entry": Check("error", "correct the video's entry"),
    "segment": Check("error", "give every annotation [start, end] in seconds"),
    "negative length": Check("error", "correct start and end"),
    "label": Check("error", "correct the label, label_id or num_classes"),
    "zero length": Check("warning", "give the event a length: the network hardly learns or detects it"),
    "outside the video": Check("error", "correct the times, which are seconds from the video's start, or the duration"),
    "ends late": Check("warning", "correct the end: no detection ends after the video"),
    "starts early": Check("warning", "correct the start: no detection starts before the video"),
    "repeated event": Check("warning", "remove it, or set dataset.drop_repeats; mAP counts it once in both cases"),
    "no events": Check("note", "check that no annotation is missing; a video of background only is fine"),
    "no event in training": Check("error", "annotate events, or choose another train_split"),
    "empty split": Check("error", "correct the split's name, or the subsets in the annotation file"),
    "few training videos": Check("error", "lower batch_size"),
    "unused split": Check("note", "no split of the task names it"),
    "no fps": Check("error", "give the video an fps, or set dataset.default_fps"),
    # classes and prompts
    "class not in training": Check("warning", "annotate some events: the network knows the class by its prompt only"),
    "class not in test": Check("warning", "annotate some events: mAP is the mean over the classes in the test split"),
    "name with several ids": Check("error", "give each class one label_id"),
    "id with several names": Check("error", "give each class one name"),
    "class beyond num_classes": Check("warning", "correct num_classes: the file has more classes than the task"),
    "class without name": Check("note", 'name it in a list "classes"; results show its label_id until then'),
    "ids by alphabet": Check("note", "the rows of the prompt table must follow the alphabetical order of the names"),
    "prompt table": Check("error", "set dataset.prompt_file to a (num_classes, text_dim) table of finite numbers"),
    "zero prompt": Check("error", "embed the class's sentence: the network cannot detect a class without a prompt"),
    "equal prompts": Check("error", "embed a sentence of its own for each class: equal prompts give equal scores"),
    "prompt not of length 1": Check("warning", "scale each row to unit length, as in the published tables"),
    # features
    "feature place": Check("error", "set dataset.feat_folder to a folder of .npy files, a pack (.h5) or planted"),
    "other features": Check("error", "set the configuration as the features were made, or extract them again"),
    "features missing": Check("error", "extract them, or correct feat_folder, file_prefix and the suffixes"),
    "features unreadable": Check("error", "copy or extract them again"),
    "feature shape": Check("error", "expected (T, width): set model.input_dim_visual and model.input_dim_audio"),
    "feature type": Check("warning", "save them as floats; integers are used as they are"),
    "NaN": Check("error", "extract the features again; training would stop with a loss that is not finite"),
    "Inf": Check("error", "extract the features again; the largest float16 is 65,504"),
    "all zero": Check("error", "extract the features again, unless the video does not have this modality", True),
    "constant": Check("warning", "extract the features again, unless the video is silent or a still picture"),
    "constant channels": Check("note", "these channels have one value in the whole video"),
    "dead channels": Check("warning", "check the encoder: these channels have one value in all videos of the split"),
    "audio against visual": Check("error", "extract both with one stride: they differ by more than 10 %"),
    "lengths apart": Check("note", "both are cut to the shorter one"),
    "length against duration": Check("error", "correct feat_stride, num_frames, default_fps or the duration", True),
    "equal features": Check("warning", "remove one of the two: they are one video under two ids"),
    # between splits
    "train and test share videos": Check("error", "test on videos that are not in training"),
    "train and val share videos": Check("warning", "use other videos for stop-and-go, which watches val_split"),
    "val and test share videos": Check("warning", "use two splits: val_split selects what test_split scores"),
    "equal features in train and test": Check("error", "remove one of the two: training has seen the test video"),
    "one video in train and test": Check("warning", "remove it from one of the two: another task trains on it"),
    "one recording in train and test": Check("warning", "keep all parts of a recording in one split"),
    # manifest
    "changed file": Check("error", "restore the file, or delete the manifest to write a new one"),
    "lost file": Check("error", "restore the file, or delete the manifest to write a new one"),
    "new file": Check("warning", "delete the manifest to write one with this file"),
    # lengths
    "longer than any crop": Check("warning", "raise max_seq_len: no crop keeps trunc_thresh of the event"),
    "learned by no point": Check("warning", "change regression_range: no point is assigned to the event in training"),
}
