"""Gather the events of all inputs by video, check them, and convert them to an annotation file. Times never change."""

import difflib
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import pandas as pd

from libs.core.errors import DataError, format_list
from libs.core.types import MEDIA_SUFFIXES, Video
from libs.datasets.annotations import MAX_TIME_S
from libs.datasets.importing.readers import check_rows, read_text

END_TOLERANCE_S = 1.0  # events of DESED and ActivityNet end up to this late
# What all rows must say alike about their video, with its unit. extract.py names features without folder and ending.
VIDEO_FACTS = {"folder": "", "ending": "", "subset": "", "duration": " s", "fps": " frames/s"}


class EventTables(NamedTuple):
    """Everything known about the videos and events of a data set; unknown values are missing.

    videos: index video_id; columns source and those of VIDEO_FACTS; in the order in which they are first named.
    events: columns video_id, start, end (s), label, source; in the order of the input.
    """

    videos: pd.DataFrame
    events: pd.DataFrame


def gather_videos(rows: pd.DataFrame) -> EventTables:
    """Gather the rows of an EventList by video.

    Raises:
        DataError: naming the row, on impossible times and where two rows contradict each other about a video.
    """
    paths = [PurePosixPath(name.replace("\\", "/")) for name in rows.video]
    endings = [path.suffix.lower() if path.suffix.lower() in MEDIA_SUFFIXES else "" for path in paths]
    names = [path.stem if ending else path.name for path, ending in zip(paths, endings, strict=True)]
    folders = [str(path.parent) for path in paths]
    rows = rows.assign(video_id=names, folder=folders, ending=[ending or None for ending in endings])
    by_video = rows.groupby("video_id", sort=False)
    first: Any = by_video[[*VIDEO_FACTS]].transform("first")
    message = (
        "{name} of video {video_id} is {value}{unit}, before it was {other}{unit}; correct it, or rename the video"
    )
    for name, unit in VIDEO_FACTS.items():
        values = rows.assign(value=rows[name], other=first[name])
        check_rows(values, values.value.notna() & (values.value != values.other), message, name=name, unit=unit)
    check_rows(rows, rows.start < 0, "starts at {start:g} s, expected 0 or later")
    check_rows(rows, rows.end < rows.start, "ends at {end:g} s, before it starts at {start:g} s; correct them")
    events = rows.loc[rows.start.notna(), ["video_id", "start", "end", "label", "source"]]
    return EventTables(pd.DataFrame(by_video[["source", *VIDEO_FACTS]].first()), events.reset_index(drop=True))


def match_files(
    tables: EventTables, durations: dict[str, float], folder: str, skip_missing: bool
) -> tuple[EventTables, list[str]]:
    """Set the duration of each video to that of its file, and add files that no row names as videos without events.

    Args:
        tables: of all inputs.
        durations: seconds of the files in `folder`, by video_id.
        folder: for messages.
        skip_missing: leave out videos without a file.

    Returns:
        The tables, and notes on what was left out and added.

    Raises:
        DataError: a video has no file, and skip_missing is False.
    """
    videos, events = tables
    missing = [name for name in videos.index if name not in durations]
    unnamed = [name for name in durations if name not in videos.index]
    if missing and not skip_missing:
        near = difflib.get_close_matches(missing[0], durations, n=1)
        hint = f"did you mean {near[0]}?" if near else "put it there, or leave such videos out with --skip-missing"
        raise DataError(f"{videos.source[missing[0]]}: no file in {folder} of video {format_list(missing)}; {hint}")
    findings = {
        f"left out, because {folder} has no file of them": missing,
        f"no row names these files of {folder}; they count as clips without events": unnamed,
    }
    kept = [name for name in videos.index if name in durations]
    videos = videos.reindex([*kept, *unnamed]).rename_axis("video_id").fillna({"source": folder})
    videos["duration"] = [durations[name] for name in videos.index]
    tables = EventTables(videos, events.loc[events.video_id.isin(kept)])
    return tables, [f"{finding}: {format_list(names)}" for finding, names in findings.items() if names]


def check_durations(tables: EventTables) -> None:
    """Check that each video's duration is known and that its events lie within it, or end up to END_TOLERANCE_S late.

    Raises:
        DataError: naming the row.
    """
    videos: Any = tables.videos.reset_index()
    message = "give --videos DIR, a column or a table of durations (video,duration), or --duration S if all are equal"
    check_rows(videos, videos.duration.isna(), f"the duration of video {{video_id}} is not known; {message}")
    possible = videos.duration.between(0, MAX_TIME_S, inclusive="right")
    check_rows(videos, ~possible, "video {video_id} lasts {duration:g} s, expected more than 0 and at most 1e9")
    events: Any = tables.events.merge(videos[["video_id", "duration"]])
    outside = (events.start >= events.duration) | (events.end - events.duration > END_TOLERANCE_S)
    check_rows(events, outside, "{start:g} to {end:g} s, but video {video_id} lasts {duration:g} s; correct it")


def order_classes(events: pd.DataFrame, named: Iterable[str], fixed: list[str] | None) -> list[str]:
    """Return the class names by label_id.

    Args:
        events: of EventTables.
        named: classes in the order that the inputs fix; the others follow in alphabetical order.
        fixed: the user's own class list, used as it is.

    Raises:
        DataError: a label is not in the fixed list.
    """
    if fixed is None:
        return [*named, *sorted(set(events.label) - set(named))]
    unknown: Any = events.loc[~events.label.isin(fixed)]
    if len(unknown):
        source, label = unknown.iloc[0][["source", "label"]]
        near = difflib.get_close_matches(label, fixed, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise DataError(f"{source}: label {label!r} is not in --labels{hint}")
    return fixed


def load_class_list(path: Path) -> list[str]:
    """Load class names, one per line. Raises DataError if a name is repeated."""
    text, _ = read_text(path)
    names = [line.strip() for line in text.split("\n") if line.strip()]
    if repeated := [name for i, name in enumerate(names) if name in names[:i]]:
        raise DataError(f"{path}: {repeated[0]!r} is there twice; name each class once")
    return names


def build_videos(tables: EventTables, classes: list[str]) -> list[Video]:
    """Convert to the project's videos; label_id is the place in `classes`."""
    segments = tables.events.filter(["start", "end"]).to_numpy(float)
    labels = pd.Index(classes).get_indexer(tables.events.label)
    rows_of = tables.events.groupby("video_id").indices
    videos: Any = tables.videos
    converted = []
    for video in videos.itertuples():
        rows, fps = rows_of.get(video.Index, []), None if pd.isna(video.fps) else video.fps
        converted.append(Video(str(video.Index), video.subset, video.duration, fps, segments[rows], labels[rows]))
    return converted


def collect_warnings(tables: EventTables, classes: list[str]) -> list[str]:
    """Describe what is allowed but may be a mistake: late, empty and repeated events, classes that differ in case."""
    events = tables.events
    late: Any = events.end - events.video_id.map(tables.videos.duration)
    sources = events.groupby("video_id").source.agg(list)
    names = [name.casefold() for name in classes]
    findings = {
        f"events that end after their video, by up to {late.max():.3f} s": events.source[late > 0],
        "events that last 0 s, which no network can find": events.source[events.start == events.end],
        "events given twice, which count once": [
            sources[video.video_id][i] for video in build_videos(tables, classes) for i in video.find_repeats()
        ],
        "classes that differ only in upper and lower case": [c for c in classes if names.count(c.casefold()) > 1],
    }
    return [f"{what}: {len(found)}, such as {[*found][0]}; kept" for what, found in findings.items() if len(found)]


def build_annotation_tree(videos: list[Video], classes: list[str], version: str) -> dict:
    """Build the annotation file (method.md §2), as load_annotations reads it."""
    database = {}
    for video in videos:
        events = zip(video.segments.tolist(), video.labels.tolist(), strict=True)
        annotations = [{"segment": segment, "label": classes[i], "label_id": i} for segment, i in events]
        known = {"subset": video.subset, "duration": video.duration, **({"fps": video.fps} if video.fps else {})}
        database[video.video_id] = {**known, "annotations": annotations}
    return {"version": version, "classes": classes, "database": database}
