"""What people get for one video: results, table, subtitles, a label track, a page. And a summary of many videos.

Labels and file names are somebody's text: each format neutralises them in its own way, and none becomes a path.
"""

import csv
import io
import json
import os
import unicodedata
from collections.abc import Callable, Sequence
from html import escape
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

import numpy as np
from tabulate import tabulate

from libs.core.files import replacing
from libs.core.types import Event
from libs.inference.page import render_page, task_names

MAX_NAME_BYTES = 160  # file systems allow 255, of which replacing() needs some for its temporary name
SHORTEST_CUE_MS = 1  # a cue that ends when it begins is dropped, or worse, by players
SRT_SUBSTITUTES = str.maketrans({"<": "‹", ">": "›"})  # SRT has tags and an arrow, but no way of escaping them


class Summary(NamedTuple):
    """One video's row of the summary table."""

    name: str
    duration_s: float
    events: list[Event]


def safe_name(video_id: str) -> str:
    """A video's id as a name for files that can only lie in the folder they are meant for.

    Letters of any script, digits, spaces, `-`, `_` and `.` stay, anything else becomes `_`; no dot or space at either
    end; at most 160 bytes; never empty. Two videos may have one name: that is for the caller to notice.
    """
    # Marks (M) are part of the letters of many scripts, such as Devanagari.
    name = unicodedata.normalize("NFC", video_id)
    name = "".join(c if c in " -_." or unicodedata.category(c)[0] in "LMN" else "_" for c in name).strip(". ")
    return name.encode()[:MAX_NAME_BYTES].decode(errors="ignore").rstrip(". ") or "video"


def write_outputs(
    folder: Path,
    video_id: str,
    video_path: Path | None,
    events: Sequence[Event],
    duration_s: float,
    waveform_peaks: Sequence[float] | np.ndarray | None,
    tasks: dict[str, str],
    notes: Sequence[str] = (),
) -> list[Path]:
    """Write NAME.json, .csv, .vtt, .srt, .txt (Audacity labels) and .html into `folder`, each whole or not at all.

    NAME is safe_name(video_id), the id itself stands in the results; `video_path` None where only features are known.
    `waveform_peaks` are the largest amplitudes, in [0, 1], of equally long stretches of the sound, None without sound.
    `tasks` are all tasks that were looked for: key -> type, such as TASK1 -> TAL. `notes` are shown on the page.

    Raises UserError if the folder cannot be written to.
    """
    name = safe_name(video_id)
    names = task_names(tasks)
    in_time = sorted(events, key=lambda event: (event.start, event.end, -event.score))
    texts: dict[str, str] = {
        "json": _results(video_id, in_time, names),
        "csv": _csv(in_time, names),
        "vtt": "WEBVTT\n\n" + _cues(in_time, names, ".", lambda text: escape(text, quote=False)),
        "srt": _cues(in_time, names, ",", lambda text: text.translate(SRT_SUBSTITUTES)),
        "txt": "".join(f"{e.start:.6f}\t{e.end:.6f}\t{_one_line(e.label)}\n" for e in in_time),
    }
    texts["html"] = render_page(
        title=_one_line(video_path.name if video_path else video_id),
        source=_url(video_path, folder) if video_path else None,
        events=in_time,
        duration_s=duration_s,
        peaks=waveform_peaks,
        tasks=tasks,
        notes=notes,
        files={kind: quote(f"{name}.{kind}") for kind in texts},
    )
    paths = [folder / f"{name}.{kind}" for kind in texts]
    for path, text in zip(paths, texts.values(), strict=True):
        with replacing(path) as temporary:
            temporary.write_bytes(text.encode("utf-8", errors="replace"))
    return paths


def summary_table(rows: Sequence[Summary], tasks: dict[str, str]) -> str:
    """For the terminal: a line a video with its duration, events a task and the event with the highest score."""
    names = task_names(tasks)
    body = []
    for row in rows:
        counts = [sum(event.task == key for event in row.events) for key in tasks]
        best = max(row.events, key=lambda event: event.score, default=None)
        text = f"{_one_line(best.label)} {best.start:.1f}–{best.end:.1f} s ({best.score:.2f})" if best else "–"
        minutes, seconds = divmod(round(row.duration_s), 60)
        body.append([_one_line(row.name), f"{minutes}:{seconds:02d}", *counts, text])
    headers = ["video", "duration", *names.values(), "best event"]
    align = ("left", "right", *("right" for _ in names), "left")
    # Else a video named 007 would lose its zeros.
    return tabulate(body, headers=headers, colalign=align if body else None, disable_numparse=True)


def _results(video_id: str, events: list[Event], names: dict[str, str]) -> str:
    """ActivityNet's layout, the best event first, and each event's task."""
    entries = [
        {"label": e.label, "score": float(e.score), "segment": [float(e.start), float(e.end)], "task": names[e.task]}
        for e in sorted(events, key=lambda event: -event.score)
    ]
    return json.dumps({"version": "VERSION 1.3", "results": {video_id: entries}, "external_data": {}}, indent=1)


def _csv(events: list[Event], names: dict[str, str]) -> str:
    file = io.StringIO(newline="")
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["task", "label", "start", "end", "score"])
    for e in events:
        writer.writerow([names[e.task], e.label, f"{e.start:.3f}", f"{e.end:.3f}", f"{e.score:.4f}"])
    return file.getvalue()


def _cues(events: list[Event], names: dict[str, str], point: str, neutral: Callable[[str], str]) -> str:
    cues = []
    for number, event in enumerate(events, start=1):
        start_ms = max(0, round(event.start * 1000))
        end_ms = max(start_ms + SHORTEST_CUE_MS, round(event.end * 1000))
        text = f"{_one_line(event.label)} ({names[event.task]} {event.score:.2f})"
        cues.append(f"{number}\n{_clock(start_ms, point)} --> {_clock(end_ms, point)}\n{neutral(text)}\n")
    return "\n".join(cues)


def _clock(time_ms: int, point: str) -> str:
    seconds, milliseconds = divmod(time_ms, 1000)
    return f"{seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}{point}{milliseconds:03d}"


def _one_line(text: str) -> str:
    """Without line breaks, tabs, terminal escapes and half characters; what joins emoji (Cf) stays."""
    return " ".join("".join(" " if unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp") else c for c in text).split())


def _url(video_path: Path, folder: Path) -> str:
    """The video as seen from a page in `folder`. Symbolic links stay: the browser resolves `..` in the text, too."""
    try:
        # As bytes, so that names that are no UTF-8 survive.
        return quote(os.fsencode(Path(os.path.relpath(video_path, folder)).as_posix()))
    except ValueError:  # another drive on Windows
        return Path(os.path.abspath(video_path)).as_uri()  # noqa: PTH100  (resolve() would follow links)
