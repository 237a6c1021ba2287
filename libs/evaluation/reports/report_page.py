"""The report of eval.py and tools/score.py: one page without outside resources, and its plots as PNG files."""

import base64
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from libs.core.files import replacing
from libs.evaluation.bootstrap import CONFIDENCE
from libs.evaluation.metrics.compute import EvaluationInput, MetricResult, format_tiou, metric_name
from libs.evaluation.metrics.selection import check_installed, parse_metrics
from libs.evaluation.reports.figures import plot_all, spell_out

PLOTS = "plots"  # folder of the PNG files
MAX_CONFUSIONS = 20
TEMPLATE = Path(__file__).with_name("report.html.jinja")
Results = dict[str, MetricResult]


@dataclass(frozen=True)
class Table:
    """A table of the page; one with a title is folded.

    Cells are texts, counts, fractions that are shown in %, or estimates, as dictionaries, that fill two columns.
    """

    head: list[str]
    rows: list[list[Any]]
    title: str = ""


@dataclass(frozen=True)
class Section:
    """A plot, tables, or both. The template maps the names of plots to titles and captions."""

    name: str
    tables: list[Table]
    png: bytes = b""


@dataclass(frozen=True)
class Part:
    """A part of the page, such as the report of one task."""

    sections: list[Section]
    title: str = ""
    facts: str = ""
    notes: tuple[str, ...] = ()

    @classmethod
    def build(cls, title: str, data: EvaluationInput, results: Results, notes: tuple[str, ...] = ()) -> "Part":
        """Build the report of a task or a results file from its metrics."""
        facts = (
            f"{len(data.detections.scores)} detections, {len(data.videos)} videos, {len(data.matches.truth.labels)} "
            f"annotations of {len(data.matches.truth.classes)} classes; {data.resamples} resamples, seed "
            f"{data.seed}; detections are judged right or wrong at tIoU {data.diagnosis_tiou:.2f}."
        )
        sections = [Section("Headline numbers", _build_headline(results, data.tious))]
        for name, png in plot_all(data, results).items():
            sections.append(Section(name, [DETAIL_TABLES[name](results)] if name in DETAIL_TABLES else [], png))
        if "sed" in results:
            sections.append(Section("Sound events by class", [_build_sound_classes(results)]))
        return cls(sections, title, facts, notes)


def choose_for_report(text: str) -> tuple[str, ...]:
    """Parse `--metrics` and check, before anything is computed, that the report's libraries are installed."""
    names = parse_metrics(text)
    check_installed(("matplotlib", "jinja2"), "the report of --metrics")
    return names


def write_report(folder: Path, title: str, parts: dict[str, Part]) -> None:
    """Write report.html and plots/NAME.png; plots/KEY_NAME.png for parts with a key other than ""."""
    for key, part in parts.items():
        for section in part.sections:
            if section.png:
                with replacing(folder / PLOTS / f"{key and f'{key}_'}{section.name}.png") as path:
                    path.write_bytes(section.png)
    about = f"Numbers in %. Brackets are {CONFIDENCE:.0%} intervals of a bootstrap over videos."
    save_page(folder / "report.html", title, about, list(parts.values()))


def save_page(path: Path, title: str, about: str, parts: list[Part]) -> None:
    """Save a page that loads nothing from elsewhere."""
    from jinja2 import StrictUndefined, Template

    options: Any = {"autoescape": True, "trim_blocks": True, "lstrip_blocks": True, "undefined": StrictUndefined}
    page = Template(TEMPLATE.read_text(encoding="utf-8"), **options)
    with replacing(path) as temporary:
        text = page.render(title=title, about=about, parts=parts, encode=base64.b64encode)
        temporary.write_text(text, encoding="utf-8")


def _build_headline(results: Results, tious: tuple[float, ...]) -> list[Table]:
    """One table per metric, and one with a row per tIoU for the numbers that exist at each tIoU."""
    numbers = {key: x._asdict() for result in results.values() for key, x in result.headline.items()}
    suffix = metric_name("", tious[0])
    columns = [key.removesuffix(suffix) for key in numbers if key.endswith(suffix)]
    at_tious = {metric_name(name, tiou) for name in columns for tiou in tious}
    tables = []
    for name, result in results.items():
        rows = [[spell_out(key), numbers[key]] for key in result.headline if key not in at_tious]
        tables += [Table([spell_out(name), "%", "95 %"], rows)] if rows else []
    if columns:
        rows = [[format_tiou(tiou), *(numbers[metric_name(name, tiou)] for name in columns)] for tiou in tious]
        tables.append(Table(["tIoU", *(cell for name in columns for cell in (name, "95 %"))], rows))
    return tables


def _build_classes(results: Results) -> Table:
    ranked = sorted(results["classes"].details["per_class"], key=lambda row: -row["AP"]["value"])
    rows = [[row["label"], row["instances"], row["detections"], row["AP"]] for row in ranked]
    return Table(["class", "annotations", "detections", "AP in %", "95 %"], rows, "All classes")


def _build_confusions(results: Results) -> Table:
    couples = results["classes"].details["confusion"]["couples"][:MAX_CONFUSIONS]
    rows = [[row["detected"], row["annotated"], row["detections"]] for row in couples]
    return Table(["detected as", "annotated as", "detections"], rows, "The most frequent confusions")


def _build_errors(results: Results) -> Table:
    details = results["diagnosis"].details
    total, base = sum(details["counts"].values()), details["mAP"]["as_is"]
    gains = {name: value - base for name, value in details["mAP"].items()}
    rows = [[spell_out(kind), n, n / max(total, 1), gains.get(kind, 0.0)] for kind, n in details["counts"].items()]
    rows.append(["all detections", total, 1.0, ""])
    rows.append([f"missed, of {details['instances']} annotations", details["missed"], "", gains["missed"]])
    rows.append(["all errors and missed annotations", "", "", gains["all"]])
    head = ["kind", "number", "% of detections", "mAP gained"]
    return Table(head, rows, f"Numbers (mAP is {100 * base:.2f})")


def _build_characteristics(results: Results) -> Table:
    rows = []
    for name, groups in results["diagnosis"].details["characteristics"].items():
        for row in groups:
            group = f"{name} {row['size']} ({row['range']})"
            rows.append([group, row["instances"], row["missed"], row["recall"], row["mAP_N"]])
    return Table(["group", "annotations", "missed", "recall in %", "95 %", "mAP_N in %"], rows, "Numbers")


def _build_sound_classes(results: Results) -> Table:
    rows = []
    for name, numbers in results["sed"].details["per_class"].items():
        rows.append([name, *(f"{x:.4f}" if isinstance(x, float) else x for x in numbers.values())])
    return Table(["class", *map(spell_out, numbers)], rows)


DETAIL_TABLES = {  # name of the plot -> the numbers below it
    "classes": _build_classes,
    "confusion": _build_confusions,
    "errors": _build_errors,
    "characteristics": _build_characteristics,
}
