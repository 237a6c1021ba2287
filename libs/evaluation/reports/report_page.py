"""metrics.json's numbers and plots as one page that loads nothing from elsewhere, and the files beside it."""

import base64
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from libs.core.files import replacing
from libs.evaluation.metrics.bootstrap import CONFIDENCE
from libs.evaluation.metrics.compute import Estimate, EvaluationInput, MetricResult, format_tiou, metric_name
from libs.evaluation.metrics.selection import check_installed, parse_metrics
from libs.evaluation.reports.figures import draw_all, words
from libs.evaluation.reports.timelines import HOW_CHOSEN

PLOTS = "plots"  # the folder of the PNGs
STYLE = """
:root { --ink: #1d2430; --soft: #667085; --line: #e4e7ec; --paper: #f7f8fa; }
* { box-sizing: border-box; }
body {
  margin: 0 auto; padding: 2rem 1.5rem; max-width: 76rem; background: var(--paper); color: var(--ink);
  font: 15px/1.5 system-ui, "Segoe UI", "Noto Sans", sans-serif;
}
h1 { font-size: 1.6rem; margin: 0 0 .3rem; overflow-wrap: anywhere; }
h2 { font-size: 1.3rem; margin: 2.4rem 0 .3rem; overflow-wrap: anywhere; }
h3 { font-size: 1.05rem; margin: 0 0 .5rem; }
p { margin: .4rem 0; color: var(--soft); max-width: 60rem; }
section { background: #fff; border: 1px solid var(--line); border-radius: 10px; padding: 1rem 1.25rem; margin: 1rem 0; }
img { display: block; max-width: 100%; height: auto; margin: .6rem 0; }
.numbers { display: flex; flex-wrap: wrap; gap: 1rem 2.5rem; align-items: flex-start; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }
th, td { padding: .18rem .7rem .18rem 0; border-bottom: 1px solid var(--line); text-align: right; vertical-align: top; }
th:first-child, td:first-child { text-align: left; min-width: 4rem; max-width: 24rem; overflow-wrap: break-word; }
th { color: var(--soft); font-weight: 500; }
summary { cursor: pointer; color: var(--soft); margin: .4rem 0; }
"""
CAPTIONS = {  # title, what is to be known, by the name of the plot
    "precision_recall": ("Precision and recall", "Interpolated precision, the mean over classes, at each tIoU."),
    "recall": (
        "Recall@kx",
        "Of a video with x annotations of a class the k·x best scored detections of this class are looked at.",
    ),
    "proposals": (
        "Average recall",
        "Annotations that the best scored segments of a video find, whatever their label, the mean over tIoUs, against "
        "the average number of segments a video (ActivityNet's AR@AN).",
    ),
    "errors": (
        "Errors",
        "After DETAD. False positives are mended by leaving them out, missed annotations by a detection each that is "
        "scored above all others; with all mended mAP is 1.",
    ),
    "characteristics": (
        "What annotations are like",
        "mAP_N counts the annotations of the group alone, with precision as though each class had the mean number of "
        "them, so that groups can be compared; the dashed line is mAP_N of all.",
    ),
    "scores": ("Scores", "How many true positives and errors have which score."),
    "classes": ("Classes", "AP of each class, the mean over tIoUs, with 95 % intervals and its number of annotations."),
    "confusion": (
        "Confusion",
        "Detections whose best overlap (0.1 or more) is with another class's annotation, among the 10·G best scored of "
        "each class with G annotations; the classes with the most of them.",
    ),
    "timelines": ("A few videos", HOW_CHOSEN),
}
MOST_COUPLES = 20


@dataclass(frozen=True)
class Part:
    """One task's, or one results file's, share of a report: what it is, its metrics and its plots (PNG, by name)."""

    title: str
    data: EvaluationInput
    results: dict[str, MetricResult]
    notes: tuple[str, ...]
    plots: dict[str, bytes]

    @classmethod
    def draw(
        cls, title: str, data: EvaluationInput, results: dict[str, MetricResult], notes: tuple[str, ...] = ()
    ) -> "Part":
        return cls(title, data, results, notes, draw_all(data, results))


def choose_for_report(text: str) -> tuple[str, ...]:
    """parse_metrics(), and ConfigError where there is nothing to draw plots with: before anything is computed."""
    names = parse_metrics(text)
    check_installed(("matplotlib",), "the report of --metrics")
    return names


def write_report(folder: Path, title: str, parts: dict[str, Part]) -> None:
    """report.html, and plots/NAME.png beside it (plots/KEY_NAME.png for parts with a key that is not "")."""
    for key, part in parts.items():
        for name, png in part.plots.items():
            with replacing(folder / PLOTS / f"{key}_{name}.png" if key else folder / PLOTS / f"{name}.png") as path:
                path.write_bytes(png)
    with replacing(folder / "report.html") as path:
        path.write_text(render(title, list(parts.values())), encoding="utf-8")


def render(title: str, parts: list[Part]) -> str:
    """The HTML text."""
    about = f"Numbers in %. Brackets are {CONFIDENCE:.0%} intervals of a bootstrap over videos."
    return page(title, about, "\n".join(_part(part) for part in parts))


def page(title: str, about: str, body: str) -> str:
    """A page that loads nothing; body is HTML already."""
    policy = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:,">
<title>{escape(title)}</title>
<style>{STYLE}</style>
</head>
<body>
<h1>{escape(title)}</h1>
<p>{escape(about)}</p>
{body}
</body>
</html>
"""


def _part(part: Part) -> str:
    data, settings = part.data, part.data.settings
    facts = (
        f"{len(data.detections.scores)} detections, {len(data.videos)} videos, {len(data.matches.gt_class)} "
        f"annotations of {len(data.matches.labels)} classes; {settings.resamples} resamples, seed {settings.seed}; "
        f"right and wrong are judged at tIoU {settings.diagnosis_tiou:.2f}."
    )
    lines = [f"<h2>{escape(part.title)}</h2>", f"<p>{escape(facts)}</p>"]
    lines += [f"<p>Note: {escape(note)}</p>" for note in part.notes]
    lines.append(section("Headline numbers", f'<div class="numbers">{_headline(part.results, data.tious)}</div>'))
    for name, png in part.plots.items():
        title, text = CAPTIONS[name]
        content = f"<p>{escape(text)}</p>{image(title, png)}{_more(name, part.results)}"
        lines.append(section(title, content))
    if "sed" in part.results:
        lines.append(section("Sound events by class", _sound_classes(part.results["sed"].details.get("per_class", {}))))
    return "\n".join(lines)


def _sound_classes(per_class: dict[str, dict[str, Any]]) -> str:
    """What libs.evaluation.sound_events.scores says of each class: numbers of events, fractions and thresholds."""
    keys = list(dict.fromkeys(key for numbers in per_class.values() for key in numbers))
    rows = [
        [name, *(f"{x:.4f}" if isinstance(x, float) else x for x in (numbers.get(key, "–") for key in keys))]
        for name, numbers in per_class.items()
    ]
    return f'<div class="scroll">{table(["class", *map(words, keys)], rows)}</div>'


def section(title: str, content: str) -> str:
    return f"<section><h3>{escape(title)}</h3>{content}</section>"


def image(title: str, png: bytes) -> str:
    return f'<img alt="{escape(title)}" src="data:image/png;base64,{base64.b64encode(png).decode()}">'


def percent(number: dict[str, Any] | Estimate) -> tuple[str, str]:
    """(12.34, [11.9, 12.8]) of a number and its interval; a dash for what there is not."""
    value, low, high = number if isinstance(number, Estimate) else (number[key] for key in ("value", "low", "high"))
    shown = ["–" if x is None or x != x else f"{100 * x:.2f}" for x in (value, low, high)]
    return shown[0], f"[{shown[1]}, {shown[2]}]"


def _headline(results: dict[str, MetricResult], tious: tuple[float, ...]) -> str:
    """A table a metric, and one of what is reported at each tIoU: a row a threshold."""
    numbers = {key: x for result in results.values() for key, x in result.headline.items()}
    columns = [
        key.removesuffix(metric_name("", tious[0])) for key in numbers if key.endswith(metric_name("", tious[0]))
    ]
    at_tious = {metric_name(name, tiou) for name in columns for tiou in tious}
    tables = []
    for name, result in results.items():
        rows = [[words(key), *percent(x)] for key, x in result.headline.items() if key not in at_tious]
        tables += [table([words(name), "%", "95 %"], rows)] if rows else []
    rows = [
        [format_tiou(tiou), *(cell for name in columns for cell in percent(numbers[metric_name(name, tiou)]))]
        for tiou in tious
    ]
    head = ["tIoU", *(cell for name in columns for cell in (name, "95 %"))]
    return "".join([*tables, *([table(head, rows)] if columns else [])])


def table(head: list[str], rows: list[list[Any]]) -> str:
    cells = "".join(f"<th>{escape(str(cell))}</th>" for cell in head)
    body = "".join("<tr>" + "".join(f"<td>{escape(str(cell))}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><thead><tr>{cells}</tr></thead><tbody>{body}</tbody></table>"


def _more(plot: str, results: dict[str, MetricResult]) -> str:
    """The numbers behind a plot, folded away."""
    if plot == "classes":
        rows = sorted(results["classes"].details["per_class"], key=lambda row: -row["AP"]["value"])
        body = [[r["label"], r["instances"], r["detections"], *percent(r["AP"])] for r in rows]
        return _folded("All classes", ["class", "annotations", "detections", "AP in %", "95 %"], body)
    if plot == "confusion":
        couples = results["classes"].details["confusion"]["couples"][:MOST_COUPLES]
        body = [[r["detected"], r["annotated"], r["detections"]] for r in couples]
        return _folded("The most frequent", ["detected as", "annotated as", "detections"], body)
    if plot == "errors":
        details = results["diagnosis"].details
        total, base = max(sum(details["counts"].values()), 1), details["mAP"]["as_is"]
        rows = [
            [words(k), n, f"{100 * n / total:.2f}", f"{100 * (details['mAP'].get(k, base) - base):.2f}"]
            for k, n in details["counts"].items()
        ]
        rows.append(["all detections", total, "100.00", ""])
        missed = f"{100 * (details['mAP']['missed'] - base):.2f}"
        rows.append([f"missed, of {details['instances']} annotations", details["missed"], "", missed])
        rows.append(["all errors and missed annotations", "", "", f"{100 * (details['mAP']['all'] - base):.2f}"])
        return _folded(
            f"Numbers (mAP is {100 * base:.2f} as it is)", ["kind", "number", "% of detections", "mAP gained"], rows
        )
    if plot == "characteristics":
        rows = [
            [f"{name} {r['size']} ({r['range']})", r["instances"], r["missed"], *percent(r["recall"]), _one(r["mAP_N"])]
            for name, group in results["diagnosis"].details["characteristics"].items()
            for r in group
        ]
        return _folded("Numbers", ["group", "annotations", "missed", "recall in %", "95 %", "mAP_N in %"], rows)
    return ""


def _one(value: float) -> str:
    return "–" if value != value else f"{100 * value:.2f}"


def _folded(title: str, head: list[str], rows: list[list[Any]]) -> str:
    return f'<details><summary>{escape(title)}</summary><div class="scroll">{table(head, rows)}</div></details>'
