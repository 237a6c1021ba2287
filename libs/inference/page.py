"""The HTML page of one video: page.html with the events as data. It loads nothing but the video."""

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
from libs.inference.result import VideoResult

TEMPLATE = Path(__file__).with_name("page.html")
SILENCE = 1e-4  # the waveform is scaled to its loudest peak, but not below this, so that faint noise stays flat
MEANINGS = {"TAL": "seen", "SED": "heard", "AVEL": "seen and heard"}  # shown beside the name of a task type


def name_tasks(tasks: dict[str, str]) -> dict[str, str]:
    """Map task keys to their types, followed by the key where two tasks have the same type."""
    counts = Counter(tasks.values())
    return {key: kind if counts[kind] == 1 else f"{kind} ({key})" for key, kind in tasks.items()}


def render_page(
    result: VideoResult, tasks: dict[str, str], title: str, source: str | None, files: dict[str, str]
) -> str:
    """Render the page of a video.

    Args:
        result: its events in the order of time.
        tasks: types by task key, of all tasks that were looked for.
        source: URL of the video relative to the page; None where only features are known.
        files: URLs of the other output files, by the name of the link.
    """
    data = {
        "source": source,
        "duration": float(result.duration),
        "peaks": _scale_peaks(result.peaks),
        "tasks": [
            {"name": name, "meaning": MEANINGS.get(tasks[key], ""), "lanes": _build_lanes(result.events, key)}
            for key, name in name_tasks(tasks).items()
        ],
        "notes": list(result.notes),
        "files": files,
    }
    template = TEMPLATE.read_text(encoding="utf-8")
    values = {
        "title": escape(title),
        # Without "<", no `</script>` or `<!--` in a label can end the element that holds the data.
        "data": json.dumps(data, allow_nan=False).replace("<", "\\u003c"),
        "script": _hash_for_csp(template, "script"),
        "style": _hash_for_csp(template, "style"),
    }
    # In one pass, so that a placeholder in the title is not replaced.
    return re.sub(r"\{\{(\w+)\}\}", lambda match: values[match[1]], template)


def _build_lanes(events: Sequence[Event], task: str) -> list[dict]:
    """Build one lane for each class, sorted by the score of its best event."""
    lanes: dict[str, list[tuple[float, float, float]]] = {}
    for event in events:
        if event.task == task:
            lanes.setdefault(event.label, []).append((float(event.start), float(event.end), float(event.score)))
    ordered = sorted(lanes.items(), key=lambda lane: -max(score for *_, score in lane[1]))
    return [{"label": label, "events": rows} for label, rows in ordered]


def _scale_peaks(peaks: np.ndarray) -> list[int]:
    """Scale peaks to heights in [0, 100], the loudest 100."""
    heights = np.nan_to_num(peaks.astype(np.float64), posinf=0, neginf=0)
    return np.rint(100 * heights / heights.max(initial=SILENCE)).astype(int).tolist()


def _hash_for_csp(template: str, tag: str) -> str:
    """Hash the text of an element, the only one that the Content-Security-Policy then allows to run."""
    text = template.partition(f"<{tag}>")[2].partition(f"</{tag}>")[0]
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
