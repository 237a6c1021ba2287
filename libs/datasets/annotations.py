"""Annotation files (method.md §2): the project's own, ActivityNet's, UnAV-100's and DESED's JSON."""

import difflib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeGuard

import numpy as np

from libs.core.errors import DataError, format_list
from libs.core.files import read_json
from libs.core.types import Video

MAX_LABEL_ID = 2**31 - 1
MAX_TIME_S = 1e9


class Problem(NamedTuple):
    """An invalid part of an annotation file."""

    kind: str  # "repeated id", "entry", "segment", "negative length" or "label"
    video_id: str  # "" where the whole file is meant
    subset: str  # "" where it is not known
    message: str  # what was found and what was expected


@dataclass(frozen=True)
class Annotations:
    """The videos of a file, in its order, and its class names.

    Attributes:
        class_names: by label_id.
        named: every (name, label_id) in the annotations and the class list.
        alphabetical: whether the file has no ids, so that they follow the alphabetical order of the names.
    """

    path: Path
    videos: tuple[Video, ...]
    class_names: dict[int, str]
    named: frozenset[tuple[str, int]] = frozenset()
    alphabetical: bool = False

    def select_splits(self, splits: tuple[str, ...], limit: int | None = None) -> list[Video]:
        """Return the videos of the named subsets, the first `limit` of them. Case does not matter.

        Raises:
            DataError: there are none.
        """
        wanted = {split.lower() for split in splits}
        videos = [video for video in self.videos if video.subset in wanted]
        if not videos:
            found = ", ".join(sorted({video.subset for video in self.videos})) or "none"
            raise DataError(f"{self.path}: no video in split {'/'.join(splits)}; the file's splits are: {found}")
        return videos[:limit]

    def find_class_ids(self, classes: tuple[int | str, ...], num_classes: int) -> list[int]:
        """Return the sorted label_ids of the training classes, which are given by name or id.

        Raises:
            DataError: there is no such class, or all classes are named.
        """
        ids = {name: label for label, name in self.class_names.items()}
        found: set[int] = set()
        for name in classes:
            label = ids.get(name) if isinstance(name, str) else name
            if label is None or not 0 <= label < num_classes:
                near = difflib.get_close_matches(str(name), ids, n=1, cutoff=0)
                hint = f"; did you mean {near[0]}?" if near else ""
                raise DataError(f"{self.path}: train_classes: no class {name!r}, expected a name or an id{hint}")
            found.add(label)
        if len(found) == num_classes:
            raise DataError(f"{self.path}: train_classes names all {num_classes} classes; leave some out, or the key")
        return sorted(found)

    def list_class_names(self, num_classes: int) -> list[str]:
        """Return the class names by label_id. Raises DataError where a class has none."""
        if nameless := [label for label in range(num_classes) if label not in self.class_names]:
            remedy = f'name all {num_classes} classes in a list "classes", or correct num_classes'
            raise DataError(f"{self.path}: no name for label_id {format_list(nameless)}; {remedy}")
        return [self.class_names[label] for label in range(num_classes)]

    def class_name(self, label: int) -> str:
        return self.class_names.get(label, str(label))


def load_annotations(path: str | Path, num_classes: int | None = None) -> Annotations:
    """Load an annotation file and check all of it.

    Where a file has only names or only ids, ids follow its class list ("classes"), else the names' alphabetical order.

    Raises:
        DataError: naming the file and the first video with a problem, such as two entries, no duration, a segment that
            is not finite or ends before it starts, or a label_id outside num_classes.
    """
    annotations, problems = read_annotations(path, num_classes)
    for problem in problems:
        where = f"{path}: video {problem.video_id}" if problem.video_id else path
        raise DataError(f"{where}: {problem.message}")
    return annotations


def read_annotations(path: str | Path, num_classes: int | None = None) -> tuple[Annotations, list[Problem]]:
    """Read an annotation file and leave out its invalid videos and annotations.

    Returns:
        The annotations and a problem for each part that was left out.

    Raises:
        DataError: the file is missing or is not an annotation file.
    """
    path, problems = Path(path), []
    repeated_ids: list[str] = []
    tree = read_json(path, "an annotation file", object_pairs_hook=lambda pairs: _build_object(pairs, repeated_ids))
    database = tree.get("database") if isinstance(tree, dict) else None
    if not isinstance(database, dict):
        raise DataError(f'{path}: expected a JSON object with a "database" of videos')
    problems += [Problem("repeated id", video_id, "", "has two entries; keep one") for video_id in repeated_ids]
    numbered, unnumbered = _find_names(database)
    classes = tree.get("classes")
    if not (isinstance(classes, list) and all(isinstance(name, str) for name in classes)):
        classes = []
    alphabetical = not numbered and not classes
    if not classes and numbered and (without_id := unnumbered - numbered.keys()):
        message = f"label {min(without_id)!r} has no label_id while others have; give every label one"
        problems.append(Problem("label", "", "", message))
    listed = {name: label for label, name in enumerate(sorted(unnumbered) if alphabetical else classes)}
    ids = listed | {name: labels[0] for name, labels in numbered.items()}
    videos = [_parse_video(video_id, entry, ids, num_classes, problems) for video_id, entry in database.items()]
    annotations = Annotations(
        path,
        tuple(video for video in videos if video is not None),
        {label: name for name, label in ids.items()},
        frozenset([*listed.items(), *((name, label) for name, labels in numbered.items() for label in labels)]),
        alphabetical and bool(ids),
    )
    return annotations, problems


def _build_object(pairs: list[tuple[str, Any]], repeated_ids: list[str]) -> dict:
    """Build a JSON object as json does, and note the ids of videos that it has twice."""
    tree = dict(pairs)
    if len(tree) < len(pairs):
        seen: set[str] = set()
        for key, value in pairs:
            if key in seen and isinstance(value, dict) and "annotations" in value:
                repeated_ids.append(key)
            seen.add(key)
    return tree


def _find_names(database: dict) -> tuple[dict[str, list[int]], set[str]]:
    """Return the label_ids of each name, in order of appearance, and the names that appear without one."""
    numbered: dict[str, list[int]] = {}
    unnumbered: set[str] = set()
    lists = [entry.get("annotations") for entry in database.values() if isinstance(entry, dict)]
    for annotation in (annotation for each in lists if isinstance(each, list) for annotation in each):
        if not isinstance(annotation, dict) or not isinstance(name := annotation.get("label"), str):
            continue
        label = annotation.get("label_id")
        if not isinstance(label, int):
            unnumbered.add(name)
        elif label not in numbered.setdefault(name, []):
            numbered[name].append(label)
    return numbered, unnumbered


def _parse_video(
    video_id: str, entry: Any, ids: dict[str, int], num_classes: int | None, problems: list[Problem]
) -> Video | None:
    """Parse a video without its invalid annotations. Returns None if the video itself is invalid."""
    if message := _check_entry(entry):
        problems.append(Problem("entry", video_id, "", message))
        return None
    subset, segments, labels = entry["subset"].lower(), [], []
    for annotation in entry.get("annotations") or []:
        fields = annotation if isinstance(annotation, dict) else {}
        segment, label, name = (fields.get(key) for key in ("segment", "label_id", "label"))
        if label is None and isinstance(name, str):
            label = ids.get(name)
        if invalid := _check_segment(segment) or _check_label(name, label, num_classes):
            problems.append(Problem(invalid[0], video_id, subset, invalid[1]))
        else:
            segments.append(segment)
            labels.append(label)
    segments = np.array(segments, np.float64).reshape(-1, 2)
    return Video(video_id, subset, float(entry["duration"]), entry.get("fps"), segments, np.array(labels, np.int64))


def _check_entry(entry: Any) -> str | None:
    """Return what is wrong with a video's entry, None where it is valid."""
    if not isinstance(entry, dict):
        return "expected an object with subset, duration and annotations"
    subset, duration, fps, annotations = (entry.get(key) for key in ("subset", "duration", "fps", "annotations"))
    if not isinstance(subset, str):
        return f"subset {subset!r}, expected the name of its split"
    if not _is_number(duration) or duration <= 0:
        return f"duration {duration!r}, expected seconds above 0"
    if fps is not None and (not _is_number(fps) or fps <= 0):
        return f"fps {fps!r}, expected a number above 0"
    if annotations and not isinstance(annotations, list):
        return f"annotations {str(annotations)[:40]!r}, expected a list"
    return None


def _check_segment(segment: Any) -> tuple[str, str] | None:
    """Return the kind and the message of the problem with a segment, None where it is valid."""
    if not (isinstance(segment, list) and len(segment) == 2 and all(_is_number(time) for time in segment)):
        return "segment", f"segment {segment!r}, expected [start, end] in finite seconds"
    if segment[1] < segment[0]:
        return "negative length", f"segment {segment} ends before it starts; correct it"
    return None


def _check_label(name: Any, label: Any, num_classes: int | None) -> tuple[str, str] | None:
    if not isinstance(label, int) or isinstance(label, bool) or not 0 <= label <= MAX_LABEL_ID:
        return "label", f"label {name!r} with label_id {label!r} is unknown, expected a label or a label_id from 0 on"
    if num_classes is not None and label >= num_classes:
        return "label", f"label_id {label}, expected 0 … {num_classes - 1}; correct it or num_classes"
    return None


def _is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < MAX_TIME_S  # False for NaN
