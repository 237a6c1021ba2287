"""Reading annotation files (method.md §2): the project's, ActivityNet's, UnAV-100's and DESED's JSON."""

import difflib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from libs.core.errors import DataError
from libs.core.files import read_json
from libs.core.types import Video

MAX_LABEL_ID = 2**31 - 1
MAX_TIME_S = 1e9  # seconds; NaN is not below it either


class Problem(NamedTuple):
    """Something in an annotation file that cannot be meant."""

    kind: str  # "repeated id", "entry", "segment", "negative length" or "label"
    video_id: str  # "" where it is the whole file's
    subset: str  # "" where it is not known
    message: str  # what was found and what was expected


class _BadEntry(Exception):
    """(kind, said) of a Problem."""


@dataclass(frozen=True)
class Annotations:
    """The videos of a file, in its order, and the class names it knows by label_id.

    named: all (name, label_id) that its annotations and its class list say. alphabetical: the file gives no ids, so
    they are the names' places in the alphabet.
    """

    path: Path
    videos: tuple[Video, ...]
    class_names: dict[int, str]
    named: frozenset[tuple[str, int]] = frozenset()
    alphabetical: bool = False

    def select_splits(self, splits: tuple[str, ...], limit: int | None = None) -> list[Video]:
        """The videos of the named subsets, compared in lower case; of more than `limit` the first. Raises DataError
        if there are none."""
        wanted = {split.lower() for split in splits}
        chosen = [video for video in self.videos if video.subset in wanted]
        if not chosen:
            found = ", ".join(sorted({video.subset for video in self.videos})) or "none"
            raise DataError(f"{self.path}: no video in split {'/'.join(splits)}; the file's splits are: {found}")
        return chosen[:limit]

    def find_class_ids(self, classes: tuple[int | str, ...], num_classes: int) -> list[int]:
        """The label_ids of classes given by name or id, sorted. Raises DataError where there is no such class."""
        ids = {name: label for label, name in self.class_names.items()}
        found = {ids.get(name, name) for name in classes}
        for label in found:
            if not isinstance(label, int) or not 0 <= label < num_classes:
                near = difflib.get_close_matches(str(label), ids, n=1, cutoff=0)
                hint = f"; did you mean {near[0]}?" if near else ""
                raise DataError(f"{self.path}: train_classes: no class {label!r}, expected a name or an id{hint}")
        if len(found) == num_classes:
            raise DataError(f"{self.path}: train_classes names all {num_classes} classes; leave some out, or the key")
        return sorted(found)

    def list_class_names(self, num_classes: int) -> list[str]:
        """By label_id. Raises DataError where a class has no name."""
        if nameless := [label for label in range(num_classes) if label not in self.class_names]:
            raise DataError(
                f"{self.path}: no name for label_id {', '.join(map(str, nameless[:5]))}; name all {num_classes} "
                'classes (a list "classes"), or correct num_classes'
            )
        return [self.class_names[label] for label in range(num_classes)]

    def class_name(self, label: int) -> str:
        return self.class_names.get(label, str(label))


def load_annotations(path: str | Path, num_classes: int | None = None) -> Annotations:
    """Read and check an annotation file.

    Where a file gives only names or only ids, ids follow its class list ("classes"), else the names' alphabetical
    order. Raises DataError, naming file and video, on what cannot be meant: no database, a video with two entries, a
    segment that ends before it starts or is not finite, a label_id outside num_classes, no duration.
    """

    def refuse(problem: Problem) -> None:
        where = f"{path}: video {problem.video_id}" if problem.video_id else str(path)
        raise DataError(f"{where}: {problem.message}")

    return read_annotations(path, num_classes, refuse)


def read_annotations(path: str | Path, num_classes: int | None, report: Callable[[Problem], None]) -> Annotations:
    """load_annotations, but each Problem goes to `report`; where that returns, the annotation or video is left out.

    Raises DataError where the file is missing or is no annotation file at all.
    """
    path = Path(path)
    repeated: list[str] = []
    tree = read_json(path, "an annotation file", object_pairs_hook=lambda pairs: _object(pairs, repeated))
    database = tree.get("database") if isinstance(tree, dict) else None
    if not isinstance(database, dict):
        raise DataError(f'{path}: expected a JSON object with a "database" of videos')
    for video_id in repeated:
        report(Problem("repeated id", video_id, "", "has two entries; keep one"))
    given, unnumbered = _given_names(database)
    listed = tree.get("classes")
    listed = listed if isinstance(listed, list) and all(isinstance(name, str) for name in listed) else []
    alphabetical = not given and not listed
    order = sorted(unnumbered) if alphabetical else listed
    if not listed and given and unnumbered - given.keys():
        missing = sorted(unnumbered - given.keys())[0]
        report(Problem("label", "", "", f"label {missing!r} has no label_id while others have; give every label one"))
    ids = {name: i for i, name in enumerate(order)} | {name: labels[0] for name, labels in given.items()}
    videos = (_video(video_id, entry, ids, num_classes, report) for video_id, entry in database.items())
    return Annotations(
        path,
        tuple(video for video in videos if video is not None),
        {label: name for name, label in ids.items()},
        frozenset((name, i) for i, name in enumerate(order))
        | {(name, label) for name, labels in given.items() for label in labels},
        alphabetical and bool(ids),
    )


def _object(pairs: list[tuple[str, Any]], repeated: list[str]) -> dict:
    """A JSON object; a video's id that comes twice, of which JSON keeps the last, is added to `repeated`."""
    tree = dict(pairs)
    if len(tree) < len(pairs):
        seen: set[str] = set()
        for key, value in pairs:
            if key in seen and isinstance(value, dict) and "annotations" in value:
                repeated.append(key)
            seen.add(key)
    return tree


def _given_names(database: dict) -> tuple[dict[str, list[int]], set[str]]:
    """name -> the label_ids that it has, the first first; and the names that occur without one."""
    given: dict[str, list[int]] = {}
    unnumbered: set[str] = set()
    for entry in database.values():
        annotations = entry.get("annotations") if isinstance(entry, dict) else None
        for annotation in annotations if isinstance(annotations, list) else []:
            if not isinstance(annotation, dict):
                continue
            name, label = annotation.get("label"), annotation.get("label_id")
            if not isinstance(name, str):
                continue
            if not isinstance(label, int):
                unnumbered.add(name)
            elif label not in given.setdefault(name, []):
                given[name].append(label)
    return given, unnumbered


def _video(
    video_id: str, entry: Any, ids: dict[str, int], num_classes: int | None, report: Callable[[Problem], None]
) -> Video | None:
    try:
        subset, duration, fps, annotations = _fields(entry)
    except _BadEntry as bad:
        report(Problem(bad.args[0], video_id, "", bad.args[1]))
        return None
    segments, labels = [], []
    for annotation in annotations:
        try:
            segment, label = _event(annotation, ids, num_classes)
        except _BadEntry as bad:
            report(Problem(bad.args[0], video_id, subset, bad.args[1]))
            continue
        segments.append(segment)
        labels.append(label)
    return Video(
        video_id, subset, duration, fps, np.array(segments, np.float64).reshape(-1, 2), np.array(labels, np.int64)
    )


def _fields(entry: Any) -> tuple[str, float, float | None, list]:
    """(subset, duration, fps, annotations) of a video. Raises _BadEntry."""
    if not isinstance(entry, dict):
        raise _BadEntry("entry", "expected an object with subset, duration and annotations")
    subset, duration, fps = entry.get("subset"), entry.get("duration"), entry.get("fps")
    if not isinstance(subset, str):
        raise _BadEntry("entry", f"subset {subset!r}, expected the name of its split")
    if not _is_number(duration) or duration <= 0:
        raise _BadEntry("entry", f"duration {duration!r}, expected seconds above 0")
    if fps is not None and (not _is_number(fps) or fps <= 0):
        raise _BadEntry("entry", f"fps {fps!r}, expected a number above 0")
    annotations = entry.get("annotations") or []
    if not isinstance(annotations, list):
        raise _BadEntry("entry", f"annotations {str(annotations)[:40]!r}, expected a list")
    return subset.lower(), float(duration), fps, annotations


def _event(annotation: Any, ids: dict[str, int], num_classes: int | None) -> tuple[list[float], int]:
    """(segment, label_id) of an annotation. Raises _BadEntry."""
    segment = annotation.get("segment") if isinstance(annotation, dict) else None
    if not (isinstance(segment, list) and len(segment) == 2 and all(_is_number(x) for x in segment)):
        raise _BadEntry("segment", f"segment {segment!r}, expected [start, end] in finite seconds")
    if segment[1] < segment[0]:
        raise _BadEntry("negative length", f"segment {segment} ends before it starts; correct it")
    label, name = annotation.get("label_id"), annotation.get("label")
    if label is None and isinstance(name, str):
        label = ids.get(name)
    if not isinstance(label, int) or isinstance(label, bool) or not 0 <= label <= MAX_LABEL_ID:
        named = {k: annotation.get(k) for k in ("label", "label_id")}
        raise _BadEntry("label", f"label {named} is unknown, expected a label or a label_id from 0 on")
    if num_classes is not None and label >= num_classes:
        raise _BadEntry("label", f"label_id {label}, expected 0 … {num_classes - 1}; correct it or num_classes")
    return segment, label


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and -MAX_TIME_S < value < MAX_TIME_S
