"""Data checks: what each one finds, how severe it is and how to correct it.

To add a check, add an entry to CHECKS and a function that yields an `Occurrence` of it.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from libs.core.errors import format_list

SEVERITIES = ("error", "warning", "note")  # the worst first
TOLERANT_CHECKS = ("all zero", "length against duration")  # only warn
MAX_STRAYS = 0.05  # up to here, a part of a split's videos


class Occurrence(NamedTuple):
    """One place where a check failed.

    split is "" where no single split is concerned; name is a video, class or file; severity replaces the check's own.
    """

    split: str
    check: str
    name: str
    message: str
    severity: str | None = None


class Finding(NamedTuple):
    """All occurrences of one check in one split of one task; task is "" where no single task is concerned."""

    task: str
    split: str
    check: str
    severity: str
    remedy: str
    occurrences: tuple[Occurrence, ...]

    def format_examples(self, limit: int = 3) -> str:
        """Format the first occurrences as "name: message; …", with the number of the others."""
        examples = [f"{sanitize(o.name, 60)}: {sanitize(o.message, 110)}" for o in self.occurrences]
        return format_list(examples, limit, "; ")

    def to_dict(self) -> dict:
        """Return the finding as `verify_data.py --json` writes it."""
        fields = {"task": self.task, "split": self.split, "check": self.check, "severity": self.severity}
        cases = [{"name": occurrence.name, "said": occurrence.message} for occurrence in self.occurrences]
        return {**fields, "cases": cases, "count": len(cases), "advice": self.remedy}


def group_occurrences(task: str, occurrences: Iterable[Occurrence], num_videos: Mapping[str, int]) -> Iterator[Finding]:
    """Group a task's occurrences by split and check.

    Args:
        task: the task's key, or "".
        occurrences: in any order; findings are in the order of their first occurrence.
        num_videos: videos in each split, for the checks that tolerate strays.
    """
    groups = defaultdict(list)
    for occurrence in occurrences:
        groups[occurrence.split, occurrence.check].append(occurrence)
    for (split, check), group in groups.items():
        severity, remedy = CHECKS[check]
        if check in TOLERANT_CHECKS and len(group) <= MAX_STRAYS * num_videos.get(split, 0):
            severity = "warning"
        yield Finding(task, split, check, group[0].severity or severity, remedy, tuple(group))


def sanitize(text: str, width: int) -> str:
    """Escape what is not printable in text from files, and shorten it to `width` characters."""
    text = "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)
    return text if len(text) <= width else text[: width - 1] + "…"


CHECKS: dict[str, tuple[str, str]] = {  # severity and remedy
    # annotations
    "annotation file": ("error", "correct json_file, or write the file as data/README.md describes it"),
    "repeated id": ("error", "keep one entry for each video; the last one replaces the others"),
    "entry": ("error", "correct the video's entry"),
    "segment": ("error", "give every annotation [start, end] in seconds"),
    "negative length": ("error", "correct start and end"),
    "label": ("error", "correct the label, label_id or num_classes"),
    "zero length": ("warning", "give the event a length: the network hardly learns or detects it"),
    "outside the video": ("error", "correct the times, which are seconds from the video's start, or the duration"),
    "ends late": ("warning", "correct the end: no detection ends after the video"),
    "starts early": ("warning", "correct the start: no detection starts before the video"),
    "repeated event": ("warning", "remove it, or set dataset.drop_repeats; mAP counts it once in both cases"),
    "no events": ("note", "check that no annotation is missing; a video of background only is fine"),
    "no event in training": ("error", "annotate events, or choose another train_split"),
    "empty split": ("error", "correct the split's name, or the subsets in the annotation file"),
    "few training videos": ("error", "lower batch_size"),
    "unused split": ("note", "no split of the task names it"),
    "no fps": ("error", "give the video an fps, or set dataset.default_fps"),
    # classes and prompts
    "class not in training": ("warning", "annotate some events: the network knows the class by its prompt only"),
    "class not in test": ("warning", "annotate some events: mAP is the mean over the classes in the test split"),
    "name with several ids": ("error", "give each class one label_id"),
    "id with several names": ("error", "give each class one name"),
    "class beyond num_classes": ("warning", "correct num_classes: the file has more classes than the task"),
    "class without name": ("note", 'name it in a list "classes"; results show its label_id until then'),
    "ids by alphabet": ("note", "the rows of the prompt table must follow the alphabetical order of the names"),
    "prompt table": ("error", "set dataset.prompt_file to a (num_classes, text_dim) table of finite numbers"),
    "zero prompt": ("error", "embed the class's sentence: the network cannot detect a class without a prompt"),
    "equal prompts": ("error", "embed a sentence of its own for each class: equal prompts give equal scores"),
    "prompt not of length 1": ("warning", "scale each row to unit length, as in the published tables"),
    # features
    "feature place": ("error", "set dataset.feat_folder to a folder of .npy files, a pack (.h5) or planted"),
    "other features": ("error", "set the configuration as the features were made, or extract them again"),
    "features missing": ("error", "extract them, or correct feat_folder, file_prefix and the suffixes"),
    "features unreadable": ("error", "copy or extract them again"),
    "feature shape": ("error", "expected (T, width): set model.input_dim_visual and model.input_dim_audio"),
    "feature type": ("warning", "save them as floats; integers are used as they are"),
    "NaN": ("error", "extract the features again; training would stop with a loss that is not finite"),
    "Inf": ("error", "extract the features again; the largest float16 is 65,504"),
    "all zero": ("error", "extract the features again, unless the video does not have this modality"),
    "constant": ("warning", "extract the features again, unless the video is silent or a still picture"),
    "constant channels": ("note", "these channels have one value in the whole video"),
    "dead channels": ("warning", "check the encoder: these channels have one value in all videos of the split"),
    "audio against visual": ("error", "extract both with one stride: they differ by more than 10 %"),
    "lengths apart": ("note", "both are cut to the shorter one"),
    "length against duration": ("error", "correct feat_stride, num_frames, default_fps or the duration"),
    "equal features": ("warning", "remove one of the two: they are one video under two ids"),
    # between splits
    "train and test share videos": ("error", "test on videos that are not in training"),
    "train and val share videos": ("warning", "use other videos for stop-and-go, which watches val_split"),
    "val and test share videos": ("warning", "use two splits: val_split selects what test_split scores"),
    "equal features in train and test": ("error", "remove one of the two: training has seen the test video"),
    "one video in train and test": ("warning", "remove it from one of the two: another task trains on it"),
    "one recording in train and test": ("warning", "keep all parts of a recording in one split"),
    # manifest
    "changed file": ("error", "restore the file, or delete the manifest to write a new one"),
    "lost file": ("error", "restore the file, or delete the manifest to write a new one"),
    "new file": ("warning", "delete the manifest to write one with this file"),
    # lengths
    "longer than any crop": ("warning", "raise max_seq_len: no crop keeps trunc_thresh of the event"),
    "learned by no point": ("warning", "change regression_range: no point is assigned to the event in training"),
}
