"""Reading annotation files (method.md §2): the project's, ActivityNet's, UnAV-100's and DESED's JSON."""

import difflib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from libs.core.errors import DataError
from libs.core.types import Video

MAX_LABEL_ID = 2**31 - 1
LARGEST_S = 1e9  # seconds; NaN is not below it either


@dataclass(frozen=True)
class Annotations:
    """The videos of a file, in its order, and the class names it knows by label_id."""

    path: Path
    videos: tuple[Video, ...]
    class_names: dict[int, str]

    def of_splits(self, splits: tuple[str, ...], limit: int | None = None) -> list[Video]:
        """The videos of the named subsets, compared in lower case; of more than `limit` the first. Raises DataError
        if there are none."""
        wanted = {split.lower() for split in splits}
        chosen = [video for video in self.videos if video.subset in wanted]
        if not chosen:
            found = ", ".join(sorted({video.subset for video in self.videos})) or "none"
            raise DataError(f"{self.path}: no video in split {'/'.join(splits)}; the file's splits are: {found}")
        return chosen[:limit]

    def class_ids(self, classes: tuple[int | str, ...], num_classes: int) -> list[int]:
        """The label_ids of classes given by name or id, sorted. Raises DataError where there is no such class."""
        ids = {name: label for label, name in self.class_names.items()}
        found = {ids.get(name, name) for name in classes}
        for label in found:
            if not isinstance(label, int) or not 0 <= label < num_classes:
                near = difflib.get_close_matches(str(label), ids, n=1, cutoff=0)
                hint = f"; did you mean {near[0]}?" if near else ""
                raise DataError(f"{self.path}: train_classes: no class {label!r}, expected a name or an id{hint}")
        return sorted(found)

    def name_of(self, label: int) -> str:
        return self.class_names.get(label, str(label))


def read_json(path: Path, what: str) -> Any:
    """Parse a JSON file. Raises DataError, naming the file, when it is missing or no JSON."""
    try:
        return json.loads(path.read_bytes())
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}, expected {what}") from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: not valid JSON ({error}), expected {what}") from None


def load_annotations(path: str | Path, num_classes: int | None = None) -> Annotations:
    """Read and check an annotation file.

    Where a file gives only names or only ids, ids follow its class list ("classes"), else the names' alphabetical
    order. Raises DataError, naming file and video, on what cannot be meant: no database, a segment that ends before
    it starts or is not finite, a label_id outside num_classes, no duration.
    """
    path = Path(path)
    tree = read_json(path, "an annotation file")
    database = tree.get("database") if isinstance(tree, dict) else None
    if not isinstance(database, dict):
        raise DataError(f'{path}: expected a JSON object with a "database" of videos')
    ids = _class_ids(path, tree, database)
    videos = tuple(_video(path, video_id, entry, ids, num_classes) for video_id, entry in database.items())
    return Annotations(path, videos, {label: name for name, label in ids.items()})


def _class_ids(path: Path, tree: dict, database: dict) -> dict[str, int]:
    """name -> label_id: as annotations say it, else by the file's class list, else alphabetical."""
    given: dict[str, int] = {}
    unnumbered: set[str] = set()
    for entry in database.values():
        annotations = entry.get("annotations") if isinstance(entry, dict) else None
        for annotation in annotations if isinstance(annotations, list) else []:
            if not isinstance(annotation, dict):
                continue
            name, label = annotation.get("label"), annotation.get("label_id")
            if isinstance(name, str):
                if isinstance(label, int):
                    given.setdefault(name, label)
                else:
                    unnumbered.add(name)
    listed = tree.get("classes")
    if isinstance(listed, list) and all(isinstance(name, str) for name in listed):
        order = listed
    elif unnumbered - given.keys():
        if given:
            missing = sorted(unnumbered - given.keys())[0]
            raise DataError(f"{path}: label {missing!r} has no label_id while others have; give every label one")
        order = sorted(unnumbered)
    else:
        order = []
    return {name: i for i, name in enumerate(order)} | given


def _video(path: Path, video_id: str, entry: Any, ids: dict[str, int], num_classes: int | None) -> Video:
    where = f"{path}: video {video_id}"
    if not isinstance(entry, dict):
        raise DataError(f"{where}: expected an object with subset, duration and annotations")
    subset, duration, fps = entry.get("subset"), entry.get("duration"), entry.get("fps")
    if not isinstance(subset, str):
        raise DataError(f"{where}: subset {subset!r}, expected the name of its split")
    if not _is_number(duration) or duration <= 0:
        raise DataError(f"{where}: duration {duration!r}, expected seconds above 0")
    if fps is not None and (not _is_number(fps) or fps <= 0):
        raise DataError(f"{where}: fps {fps!r}, expected a number above 0")
    annotations = entry.get("annotations") or []
    if not isinstance(annotations, list):
        raise DataError(f"{where}: annotations {str(annotations)[:40]!r}, expected a list")
    segments, labels = [], []
    for annotation in annotations:
        segment = annotation.get("segment") if isinstance(annotation, dict) else None
        if not (isinstance(segment, list) and len(segment) == 2 and all(_is_number(x) for x in segment)):
            raise DataError(f"{where}: segment {segment!r}, expected [start, end] in finite seconds")
        if segment[1] < segment[0]:
            raise DataError(f"{where}: segment {segment} ends before it starts; correct it")
        label, name = annotation.get("label_id"), annotation.get("label")
        if label is None and isinstance(name, str):
            label = ids.get(name)
        if not isinstance(label, int) or isinstance(label, bool) or not 0 <= label <= MAX_LABEL_ID:
            named = {k: annotation.get(k) for k in ("label", "label_id")}
            raise DataError(f"{where}: label {named} is unknown, expected a label or a label_id from 0 on")
        if num_classes is not None and label >= num_classes:
            raise DataError(f"{where}: label_id {label}, expected 0 … {num_classes - 1}; correct it or num_classes")
        segments.append(segment)
        labels.append(label)
    return Video(
        video_id,
        subset.lower(),
        float(duration),
        fps,
        np.array(segments, np.float64).reshape(-1, 2),
        np.array(labels, np.int64),
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and -LARGEST_S < value < LARGEST_S
