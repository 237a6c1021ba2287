"""From rows of events (tables.py) to the project's annotation file: one entry a video, checked, ids in the order of a
class list. Times are never changed."""

import difflib
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import PurePosixPath

import numpy as np

from libs.core.errors import DataError, format_list
from libs.core.types import MEDIA_SUFFIXES, Video
from libs.datasets.importing.tables import Row

SKIP = "; put it there, or leave such videos out with --skip-missing"
END_TOLERANCE_S = 1.0  # DESED's and ActivityNet's own events end up to this late


@dataclass
class Entry:
    """A video as it is put together. named: as the rows name it; subset, duration (s) and fps: None until known."""

    video_id: str
    where: str
    named: PurePosixPath
    subset: str | None = None
    duration: float | None = None
    fps: float | None = None
    events: list[Row] = field(default_factory=list)

    def as_video(self, ids: dict[str, int]) -> Video:
        segments = np.array([(row.start, row.end) for row in self.events], np.float64).reshape(-1, 2)
        labels = np.array([ids[row.label] for row in self.events], np.int64)
        return Video(self.video_id, self.subset or "", self.duration, self.fps, segments, labels)


def video_name(named: str) -> PurePosixPath:
    return PurePosixPath(named.replace("\\", "/"))


def video_id(path: PurePosixPath) -> str:
    """A file's name without its ending, as extract.py names features; a name such as take_2.5 has none."""
    return path.stem if path.suffix.lower() in MEDIA_SUFFIXES else path.name


def gather(rows: Iterable[Row]) -> dict[str, Entry]:
    """The videos that rows tell of, by video_id, in the order of their first mention.

    Raises DataError, naming the row, on times that cannot be, and on what two rows say differently of one video.
    """
    entries: dict[str, Entry] = {}
    for row in rows:
        path = video_name(row.video)
        entry = entries.setdefault(video_id(path), Entry(video_id(path), row.where, path))
        _same_file(entry, path, row.where)
        for key, unit in (("subset", ""), ("duration", " s"), ("fps", " frames/s")):
            said, known = getattr(row, key), getattr(entry, key)
            if said is None:
                continue
            if known is not None and said != known:
                what = f"{key} of video {entry.video_id}"
                raise DataError(f"{row.where}: {what} is {said}{unit}, before it was {known}{unit}; make them one")
            setattr(entry, key, said)
        if row.duration is not None and not row.duration > 0:
            raise DataError(f"{row.where}: video {entry.video_id} lasts {row.duration:g} s, expected more than 0")
        if row.label is not None:
            _check_times(row)
            entry.events.append(row)
    return entries


def _same_file(entry: Entry, path: PurePosixPath, where: str) -> None:
    one, other = entry.named, path
    endings = {p.suffix.lower() for p in (one, other) if p.suffix.lower() in MEDIA_SUFFIXES}
    if one.parent != other.parent or len(endings) > 1:
        raise DataError(f"{where}: {other} and {one} would both be video {entry.video_id}; rename one of the files")


def _check_times(row: Row) -> None:
    if row.start < 0:
        raise DataError(f"{row.where}: starts at {row.start:g} s, expected 0 or later")
    if row.end < row.start:
        raise DataError(
            f"{row.where}: ends at {row.end:g} s, before it starts at {row.start:g} s; exchange or mend them"
        )


def check_against_durations(entries: dict[str, Entry]) -> list[str]:
    """Raises DataError where a video's duration is not known or an event lies outside it; an end up to
    END_TOLERANCE_S late is only counted in the notes that are returned."""
    late: list[tuple[float, Row]] = []
    for entry in entries.values():
        if entry.duration is None:
            raise DataError(
                f"{entry.where}: how long video {entry.video_id} lasts is not known; give --videos DIR, a column or a "
                "table of durations (video,duration), or --duration S where all last as long"
            )
        for row in entry.events:
            over = row.end - entry.duration
            if row.start >= entry.duration or over > END_TOLERANCE_S:
                times = f"{row.start:g} to {row.end:g} s"
                raise DataError(f"{row.where}: {times}, but video {entry.video_id} lasts {entry.duration:g} s; mend it")
            if over > 0:
                late.append((over, row))
    if not late:
        return []
    over, row = max(late, key=lambda item: item[0])
    return [
        f"events that end after their video does: {len(late)}, the latest by {over:.3f} s ({row.where}); kept as is"
    ]


def what_is_odd(entries: dict[str, Entry], ids: dict[str, int]) -> list[str]:
    """Notes of what is allowed and yet perhaps not meant: repeats, events of no length, labels that look alike."""
    notes = []
    empty = [row for entry in entries.values() for row in entry.events if row.end == row.start]
    if empty:
        notes.append(
            f"events that last 0 s: {len(empty)}, such as {empty[0].where}; kept, but no network can find them"
        )
    if repeats := count_repeats(entries, ids):
        notes.append(f"events given twice: {repeats}, such as {_first_repeat(entries, ids)}; kept, but they count once")
    alike = Counter(name.casefold() for name in ids)
    for name in ids:
        if alike[name.casefold()] > 1:
            twins = ", ".join(other for other in ids if other.casefold() == name.casefold())
            notes.append(f"classes that differ in capitals only: {twins}; they are taken as different")
            break
    return notes


def count_repeats(entries: dict[str, Entry], ids: dict[str, int]) -> int:
    videos = [entry.as_video(ids) for entry in entries.values()]
    return sum(len(video.labels) - len(video.remove_repeats().labels) for video in videos)


def _first_repeat(entries: dict[str, Entry], ids: dict[str, int]) -> str:
    for entry in entries.values():
        video = entry.as_video(ids)
        for n, row in enumerate(entry.events, 1):
            first = replace(video, segments=video.segments[:n], labels=video.labels[:n])
            if len(first.remove_repeats().labels) < n:
                return row.where
    raise AssertionError("no repeat")


def match_files(entries: dict[str, Entry], durations: dict[str, float], folder: str, skip_missing: bool) -> list[str]:
    """Give every video the duration of its file, and add the files that no row names as videos without events.

    durations: of the files, by video_id. Raises DataError where a video has no file, unless those are to be left out.
    """
    notes = []
    missing = [entry for name, entry in entries.items() if name not in durations]
    if missing and not skip_missing:
        first = missing[0]
        near = difflib.get_close_matches(first.video_id, durations, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        rest = f", nor of {len(missing) - 1} others" if len(missing) > 1 else ""
        raise DataError(f"{first.where}: no file of video {first.named} in {folder}{rest}{hint or SKIP}")
    for entry in missing:
        del entries[entry.video_id]
    if missing:
        notes.append(
            f"left out, since {folder} has no file of them: {format_list([entry.video_id for entry in missing])}"
        )
    if unnamed := [name for name in durations if name not in entries]:
        notes.append(f"named by no row, so taken as clips without events: {format_list(unnamed)} of {folder}")
    for name, duration in durations.items():
        place = f"{folder}: video {name}"
        entries.setdefault(name, Entry(name, place, PurePosixPath(name))).duration = duration
    return notes


def order_classes(entries: dict[str, Entry], given: tuple[str, ...], fixed: tuple[str, ...] | None) -> list[str]:
    """The class list, row = label_id: `fixed` where the user gives one, else what the files say, then the alphabet.

    Raises DataError where there is no event at all, or where a label is not in the fixed list.
    """
    first: dict[str, str] = {}
    for entry in entries.values():
        for row in entry.events:
            first.setdefault(row.label, row.where)
    if not first:
        raise DataError("no events; expected rows with video, start, end and label")
    if fixed is None:
        return [*given, *sorted(first.keys() - set(given))]
    for label, where in first.items():
        if label not in fixed:
            near = difflib.get_close_matches(label, fixed, n=1)
            raise DataError(
                f"{where}: label {label!r} is not in --labels{f'; did you mean {near[0]!r}?' if near else ''}"
            )
    return list(fixed)


def to_tree(entries: dict[str, Entry], classes: list[str], version: str) -> dict:
    """The annotation file (method.md §2), as load_annotations reads it."""
    ids = {name: i for i, name in enumerate(classes)}
    database = {}
    for name, entry in entries.items():
        annotations = [
            {"segment": [row.start, row.end], "label": row.label, "label_id": ids[row.label]} for row in entry.events
        ]
        known = {"fps": entry.fps} if entry.fps is not None else {}
        database[name] = {"subset": entry.subset, "duration": entry.duration, **known, "annotations": annotations}
    return {"version": version, "classes": classes, "database": database}
