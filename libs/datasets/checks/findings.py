"""What a check of the data can find, how bad it is, and what to do about it."""

from collections.abc import Iterable, Iterator
from typing import Literal, NamedTuple

Severity = Literal["error", "warning", "note"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")
MAX_STRAYS = 0.05  # part of a split's videos that may be odd before the whole is


class Check(NamedTuple):
    """strays: a warning while at most MAX_STRAYS of the videos are concerned, from there on the severity given."""

    severity: Severity
    advice: str
    strays: bool = False


class Occurrence(NamedTuple):
    """One occurrence: the video, class or file, and what was found."""

    name: str
    said: str


class Finding(NamedTuple):
    """All that one check found in one split of one task; task or split is "" where it is none's or several's."""

    task: str
    split: str
    check: str
    severity: Severity
    cases: tuple[Occurrence, ...]

    @property
    def advice(self) -> str:
        return CHECKS[self.check].advice

    def tree(self) -> dict:
        cases = [case._asdict() for case in self.cases]
        return {**self._asdict(), "count": len(cases), "advice": self.advice, "cases": cases}


def found(
    task: str, split: str, check: str, cases: Iterable[Occurrence], of: int = 0, severity: Severity | None = None
) -> Iterator[Finding]:
    """A Finding if there are cases. of: the videos among which they were looked for; severity: another than usual."""
    cases = tuple(cases)
    kind = CHECKS[check]
    if cases:
        few = kind.strays and len(cases) <= MAX_STRAYS * of
        yield Finding(task, split, check, severity or ("warning" if few else kind.severity), cases)


def sanitize(text: str, width: int | None = None) -> str:
    """Somebody's text for a terminal: what is not printable is escaped, what is longer than `width` shortened."""
    text = "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)
    return text if width is None or len(text) <= width else text[: width - 1] + "…"


CHECKS = {
    # annotations
    "annotation file": Check("error", "give a file as data/README.md shows it"),
    "repeated id": Check("error", "keep one entry a video; the first is lost"),
    "entry": Check("error", "correct the video's entry"),
    "segment": Check("error", "give every annotation [start, end] in seconds"),
    "negative length": Check("error", "correct start and end"),
    "label": Check("error", "correct the label, label_id or num_classes"),
    "zero length": Check("warning", "nothing is learned of an event without length, and it can hardly be found"),
    "outside the video": Check("error", "times are seconds of the video: correct them or the duration"),
    "ends late": Check("warning", "no detection ends after the video: correct the end or the duration"),
    "starts early": Check("warning", "no detection starts before the video: correct the start"),
    "repeated event": Check("warning", "remove it, or set dataset.drop_repeats; mAP counts it once in any case"),
    "no events": Check("note", "fine as background; forgotten annotations look the same"),
    "no event in training": Check("error", "annotate events, or choose another train_split"),
    "empty split": Check("error", "correct the split's name, or the subsets in the annotation file"),
    "few training videos": Check("error", "lower batch_size"),
    "unused split": Check("note", "no split of the task names it"),
    "no fps": Check("error", "give the video an fps, or set dataset.default_fps"),
    # classes and prompts
    "class not in training": Check("warning", "it is known by its prompt alone: annotate some, or leave it out"),
    "class not in test": Check("warning", "mAP is a mean over the classes that occur: it says nothing of this one"),
    "name with several ids": Check("error", "give each class one label_id"),
    "id with several names": Check("error", "give each class one name"),
    "class beyond num_classes": Check("warning", "the file knows more classes than the task: correct num_classes"),
    "class without name": Check("note", 'its label_id stands in results; a list "classes" names it'),
    "ids by alphabet": Check("note", "rows of the prompt table must follow the names' alphabetical order"),
    "prompt table": Check("error", "set dataset.prompt_file to a (num_classes, text_dim) table of finite numbers"),
    "zero prompt": Check("error", "a class without a prompt cannot be told: embed its sentence"),
    "equal prompts": Check("error", "classes of one prompt cannot be told apart: embed each one's own sentence"),
    "prompt not of length 1": Check("warning", "scale the rows to unit length, as the published tables"),
    # features
    "feature place": Check("error", "set dataset.feat_folder to a folder of .npy files, a pack or planted"),
    "other features": Check("error", "set the configuration to what made the features, or extract them again"),
    "features missing": Check("error", "extract them, or correct feat_folder, file_prefix and the suffixes"),
    "features unreadable": Check("error", "copy or extract them again"),
    "feature shape": Check("error", "expected (T, width); set model.input_dim_visual and model.input_dim_audio"),
    "feature type": Check("warning", "expected floats; whole numbers are read as they are"),
    "NaN": Check("error", "extract the features again; training would end with a loss that is no number"),
    "Inf": Check("error", "extract the features again; float16 overflows at 65,504"),
    "all zero": Check("error", "the modality says nothing: fine for a video without it, else extract it again", True),
    "constant": Check("warning", "all windows are equal: fine for silence or a still picture, else extract it again"),
    "constant channels": Check("note", "channels that never change in the video"),
    "dead channels": Check("warning", "channels with one value in all videos of the split say nothing"),
    "audio against visual": Check("error", "more than 10 % apart: extract both with one stride"),
    "lengths apart": Check("note", "both are cut to the shorter"),
    "length against duration": Check(
        "error", "feat_stride, num_frames or default_fps is not that of the features, or the duration is wrong", True
    ),
    "equal features": Check("warning", "one video under two ids: remove one"),
    # between splits
    "train and test share videos": Check("error", "test on videos that were not trained on"),
    "train and val share videos": Check("warning", "stop-and-go watches videos that are trained on"),
    "val and test share videos": Check("warning", "stop-and-go and the best checkpoint are chosen by what is reported"),
    "equal features in train and test": Check("error", "the test has been seen in training: remove one of the two"),
    "one video in train and test": Check("warning", "the network sees the video in another task's training"),
    "one recording in train and test": Check("warning", "parts of one recording: keep them in one split"),
    # manifest
    "changed file": Check("error", "not what the manifest was made of; remove the manifest to make a new one"),
    "lost file": Check("error", "in the manifest, but no longer there"),
    "new file": Check("warning", "not in the manifest; remove the manifest to make a new one"),
    # lengths
    "longer than any crop": Check("warning", "no crop of max_seq_len keeps trunc_thresh of it: raise max_seq_len"),
    "learned by no point": Check("warning", "no point lies within it at the distances of regression_range"),
}
