"""The page of one video: page.html with the events as data. It loads nothing but the video."""

import base64
import hashlib
import json
import re
from collections import Counter
from collections.abc import Sequence
from html import escape
from pathlib import Path

import numpy as np

from libs.core.types import Event

TEMPLATE = Path(__file__).with_name("page.html")
MAX_PEAKS = 4000  # more than a screen has columns, so that zooming in shows something
SILENCE = 1e-4  # the waveform is drawn up to its loudest peak, but noise below this is not blown up
MEANINGS = {"TAL": "seen", "SED": "heard", "AVEL": "seen and heard"}  # for people; other types show their name alone


def task_names(tasks: dict[str, str]) -> dict[str, str]:
    """Task key -> its type, with the key added where two tasks are of one type."""
    of_type = Counter(tasks.values())
    return {key: kind if of_type[kind] == 1 else f"{kind} ({key})" for key, kind in tasks.items()}


def render_page(
    title: str,
    source: str | None,
    events: Sequence[Event],
    duration_s: float,
    peaks: Sequence[float] | np.ndarray | None,
    tasks: dict[str, str],
    notes: Sequence[str],
    files: dict[str, str],
) -> str:
    """The HTML text. `source` and the values of `files` (shown name -> file) are URLs relative to the page; events
    in the order of time; for the rest see write_outputs()."""
    data = {
        "source": source,
        "duration": float(duration_s),
        "peaks": _drawn(peaks),
        "tasks": [
            {"name": name, "meaning": MEANINGS.get(tasks[key], ""), "lanes": _lanes(events, key)}
            for key, name in task_names(tasks).items()
        ],
        "notes": list(notes),
        "files": files,
    }
    template = TEMPLATE.read_text(encoding="utf-8")
    values = {
        "title": escape(title),
        # Neither `</script>` nor `<!--` may end or change the element that holds the data.
        "data": json.dumps(data, allow_nan=False).replace("<", "\\u003c"),
        "script": _csp_hash(template, "script"),
        "style": _csp_hash(template, "style"),
    }
    # In one pass, so that a title cannot bring in another placeholder.
    return re.sub(r"\{\{(\w+)\}\}", lambda match: values[match[1]], template)


def _lanes(events: Sequence[Event], task: str) -> list[dict]:
    """A lane a class, that of the best event first."""
    lanes: dict[str, list[tuple[float, float, float]]] = {}
    for event in events:
        if event.task == task:
            lanes.setdefault(event.label, []).append((float(event.start), float(event.end), float(event.score)))
    in_order = sorted(lanes.items(), key=lambda lane: -max(score for *_, score in lane[1]))
    return [{"label": label, "events": rows} for label, rows in in_order]


def _drawn(peaks: Sequence[float] | np.ndarray | None) -> list[int]:
    """At most MAX_PEAKS heights in [0, 100], the loudest 100."""
    heights = np.abs(np.nan_to_num(np.asarray([] if peaks is None else peaks, np.float64), posinf=0, neginf=0))
    if heights.size == 0:
        return []
    if heights.size > MAX_PEAKS:
        heights = np.maximum.reduceat(heights, np.arange(MAX_PEAKS) * heights.size // MAX_PEAKS)
    return np.rint(100 * heights / max(heights.max(), SILENCE)).astype(int).tolist()


def _csp_hash(template: str, tag: str) -> str:
    """What Content-Security-Policy allows to run: this text, and nothing that a label might bring in."""
    text = re.search(rf"<{tag}>(.*?)</{tag}>", template, re.DOTALL)[1]
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
