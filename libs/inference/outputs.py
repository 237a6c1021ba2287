"""Output files of one video: results, table, subtitles, label track and page; and the summary of many videos.

Labels and file names come from users: each format escapes them in its own way, and none becomes a path.
"""

import csv
import io
import json
import os
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import replace
from html import escape
from pathlib import Path
from urllib.parse import quote

from tabulate import tabulate

from libs.core.files import replacing
from libs.core.types import Event
from libs.inference.page import name_tasks, render_page
from libs.inference.result import VideoResult

MAX_NAME_BYTES = 160  # file systems allow 255; replacing() needs some for its temporary name
SRT_SUBSTITUTES = str.maketrans({"<": "‹", ">": "›"})  # SRT has tags and arrows, but no escape sequences


def safe_name(video_id: str) -> str:
    """Turn a video's id into a file name that cannot leave its folder.

    Letters of any script, digits, spaces, `-`, `_` and `.` stay; any other character becomes `_`. Dots and spaces are
    stripped from both ends. The result has 1 to 160 bytes. Two ids may get the same name.
    """
    # Marks (M) are part of the letters of many scripts, such as Devanagari.
    name = unicodedata.normalize("NFC", video_id)
    name = "".join(c if c in " -_." or unicodedata.category(c)[0] in "LMN" else "_" for c in name).strip(". ")
    return name.encode()[:MAX_NAME_BYTES].decode(errors="ignore").rstrip(". ") or "video"


def write_outputs(folder: Path, result: VideoResult, tasks: dict[str, str]) -> list[Path]:
    """Write NAME.json, .csv, .vtt, .srt, .txt (Audacity labels) and .html; NAME is safe_name(result.video_id).

    Args:
        tasks: types by task key, such as TASK1 -> TAL, of all tasks that were looked for.

    Raises:
        UserError: the folder cannot be written to.
    """
    name, names = safe_name(result.video_id), name_tasks(tasks)
    events = sorted(result.events, key=lambda event: (event.start, event.end, -event.score))
    texts = {
        "json": _format_json(result.video_id, events, names),
        "csv": _format_csv(events, names),
        "vtt": "WEBVTT\n\n" + _format_cues(events, names, ".", lambda text: escape(text, quote=False)),
        "srt": _format_cues(events, names, ",", lambda text: text.translate(SRT_SUBSTITUTES)),
        "txt": "".join(f"{e.start:.6f}\t{e.end:.6f}\t{_single_line(e.label)}\n" for e in events),
    }
    files = {kind: quote(f"{name}.{kind}") for kind in texts}
    # Links are unresolved, as browsers resolve `..` in the text; bytes, so that names that are not UTF-8 survive.
    source = quote(os.fsencode(os.path.relpath(result.path, folder))) if result.path else None
    texts["html"] = render_page(replace(result, events=events), tasks, _single_line(result.title), source, files)
    paths = []
    for kind, text in texts.items():
        paths.append(folder / f"{name}.{kind}")
        with replacing(paths[-1]) as temporary:
            temporary.write_bytes(text.encode("utf-8", errors="replace"))
    return paths


def format_summary(results: Sequence[VideoResult], tasks: dict[str, str]) -> str:
    """Format a table of all videos: duration, number of events of each task, event with the highest score."""
    names = name_tasks(tasks)
    rows = []
    for result in results:
        counts = [sum(event.task == key for event in result.events) for key in tasks]
        best = max(result.events, key=lambda event: event.score, default=None)
        text = f"{_single_line(best.label)} {best.start:.1f}–{best.end:.1f} s ({best.score:.2f})" if best else "–"
        minutes, seconds = divmod(round(result.duration), 60)
        rows.append([_single_line(result.title), f"{minutes}:{seconds:02d}", *counts, text])
    headers = ["video", "duration", *names.values(), "best event"]
    align = ("left", *["right"] * (len(names) + 1), "left")
    # Without disable_numparse a video named 007 becomes 7.
    return tabulate(rows, headers=headers, colalign=align if rows else None, disable_numparse=True)


def _format_json(video_id: str, events: list[Event], names: dict[str, str]) -> str:
    """Format results in ActivityNet's layout, best event first, with each event's task."""
    entries = [
        {"label": e.label, "score": float(e.score), "segment": [float(e.start), float(e.end)], "task": names[e.task]}
        for e in sorted(events, key=lambda event: -event.score)
    ]
    return json.dumps({"version": "VERSION 1.3", "results": {video_id: entries}, "external_data": {}}, indent=1)


def _format_csv(events: list[Event], names: dict[str, str]) -> str:
    # The csv module rather than pandas, which cannot write labels that are not valid Unicode.
    file = io.StringIO(newline="")
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["task", "label", "start", "end", "score"])
    writer.writerows([names[e.task], e.label, f"{e.start:.3f}", f"{e.end:.3f}", f"{e.score:.4f}"] for e in events)
    return file.getvalue()


def _format_cues(events: list[Event], names: dict[str, str], point: str, escape_text: Callable[[str], str]) -> str:
    """Format numbered subtitles; `point` separates seconds and milliseconds."""

    def clock(time_ms: int) -> str:
        seconds, milliseconds = divmod(time_ms, 1000)
        return f"{seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}{point}{milliseconds:03d}"

    cues = []
    for number, event in enumerate(events, start=1):
        start_ms = max(0, round(event.start * 1000))
        end_ms = max(start_ms + 1, round(event.end * 1000))  # players drop a cue that ends when it starts
        text = escape_text(f"{_single_line(event.label)} ({names[event.task]} {event.score:.2f})")
        cues.append(f"{number}\n{clock(start_ms)} --> {clock(end_ms)}\n{text}\n")
    return "\n".join(cues)


def _single_line(text: str) -> str:
    """Replace line breaks, tabs, terminal escapes and lone surrogates; format characters (Cf) stay, they join emoji."""
    return " ".join("".join(" " if unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp") else c for c in text).split())
