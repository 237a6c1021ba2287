"""Annotation files (method.md §2): the project's own, ActivityNet's, UnAV-100's and DESED's JSON."""

import difflib
from collections import Counter
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
from pydantic import BaseModel, Field, ValidationError

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


Seconds = Annotated[float, Field(strict=True, gt=-MAX_TIME_S, lt=MAX_TIME_S, allow_inf_nan=False)]
Positive = Annotated[float, Field(strict=True, gt=0, lt=MAX_TIME_S)]


class _Entry(BaseModel):
    """A video of the file. A field's description says what is expected."""

    subset: str = Field(description="the name of its split")
    duration: Positive = Field(description="seconds above 0")
    fps: Positive | None = Field(None, description="a number above 0")
    annotations: list | None = Field(None, description="a list")


class _Event(BaseModel):
    """An annotation of the file."""

    segment: tuple[Seconds, Seconds] = Field(description="[start, end] in finite seconds")
    label_id: int = Field(strict=True, ge=0, le=MAX_LABEL_ID, description="a known label, or a label_id from 0 on")


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
        ids = {name: label for label, name in self.class_names.items() if label < num_classes}
        ids |= {label: label for label in range(num_classes)}
        if unknown := [name for name in classes if name not in ids]:
            near = difflib.get_close_matches(str(unknown[0]), self.class_names.values(), n=1, cutoff=0)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise DataError(f"{self.path}: train_classes: no class {unknown[0]!r}, expected a name or an id{hint}")
        if len(found := {ids[name] for name in classes}) == num_classes:
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
    path, repeated_ids = Path(path), []
    tree = read_json(path, "an annotation file", object_pairs_hook=partial(_build_object, repeated_ids))
    database = tree.get("database") if isinstance(tree, dict) else None
    if not isinstance(database, dict):
        raise DataError(f'{path}: expected a JSON object with a "database" of videos')
    problems = [Problem("repeated id", video_id, "", "has two entries; keep one") for video_id in repeated_ids]
    entries = {}
    for video_id, entry in database.items():
        if invalid := _find_invalid(_Entry, entry):
            problems.append(Problem("entry", video_id, "", invalid[1]))
        else:
            entries[video_id] = entry

    classes, listed_events = tree.get("classes") or [], (entry.get("annotations") or [] for entry in entries.values())
    events = [event for each in listed_events for event in each if isinstance(event, dict)]
    pairs = [(event.get("label"), event.get("label_id")) for event in events]
    named = list(dict.fromkeys((n, i) for n, i in pairs if isinstance(n, str) and isinstance(i, int | None)))
    numbered = {name: label for name, label in reversed(named) if label is not None}  # the first label_id of a name
    unnumbered = {name for name, label in named if label is None}
    alphabetical = not numbered and not classes
    if not classes and numbered and (without_id := unnumbered - numbered.keys()):
        message = f"label {min(without_id)!r} has no label_id while others have; give every label one"
        problems.append(Problem("label", "", "", message))
    listed = {name: label for label, name in enumerate(sorted(unnumbered) if alphabetical else classes)}
    ids = listed | numbered
    for event, (name, label) in zip(events, pairs, strict=True):
        if label is None:
            event["label_id"] = ids.get(name, name) if isinstance(name, str) else name

    videos = tuple(_build_video(video_id, entry, num_classes, problems) for video_id, entry in entries.items())
    names = {label: name for name, label in ids.items()}
    known = frozenset([*listed.items(), *((name, label) for name, label in named if label is not None)])
    return Annotations(path, videos, names, known, alphabetical and bool(ids)), problems


def _build_object(repeated_ids: list[str], pairs: list[tuple[str, Any]]) -> dict:
    """Build a JSON object as json does, and note the ids of videos that it has twice."""
    tree = dict(pairs)
    if len(tree) < len(pairs):
        videos = Counter(key for key, value in pairs if isinstance(value, dict) and "annotations" in value)
        repeated_ids += [video_id for video_id, count in videos.items() if count > 1]
    return tree


def _find_invalid(model: type[BaseModel], tree: Any) -> tuple[str, str] | None:
    """Return the first invalid key of a JSON object and what is wrong with it, None where all are valid."""
    tree = tree if isinstance(tree, dict) else {}
    try:
        model.model_validate(tree)
    except ValidationError as error:
        key = str(error.errors()[0]["loc"][0])
        return key, f"{key} {tree.get(key)!r}, expected {model.model_fields[key].description}"
    return None


def _build_video(video_id: str, entry: dict, num_classes: int | None, problems: list[Problem]) -> Video:
    """Build a video without its invalid annotations."""
    subset, segments, labels = entry["subset"].lower(), [], []
    for event in entry.get("annotations") or []:
        if invalid := _check_event(event, num_classes):
            problems.append(Problem(invalid[0], video_id, subset, invalid[1]))
        else:
            segments.append(event["segment"])
            labels.append(event["label_id"])
    segments = np.array(segments, np.float64).reshape(-1, 2)
    return Video(video_id, subset, float(entry["duration"]), entry.get("fps"), segments, np.array(labels, np.int64))


def _check_event(event: Any, num_classes: int | None) -> tuple[str, str] | None:
    """Return the kind and the message of a problem with an annotation, None where it is valid."""
    if invalid := _find_invalid(_Event, event):
        return invalid[0].removesuffix("_id"), invalid[1]
    if event["segment"][1] < event["segment"][0]:
        return "negative length", f"segment {event['segment']} ends before it starts; correct it"
    if num_classes is not None and event["label_id"] >= num_classes:
        return "label", f"label_id {event['label_id']}, expected 0 … {num_classes - 1}; correct it or num_classes"
    return None
