"""The plots of the report, made with matplotlib from computed metrics, without a display or global state."""

import io
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from libs.evaluation.bootstrap import Estimate
from libs.evaluation.metrics.compute import RECALL_KS, EvaluationInput, MetricResult, metric_name
from libs.evaluation.reports.timelines import select_videos

if TYPE_CHECKING:  # matplotlib is an extra
    from matplotlib.figure import Figure

STYLE = Path(__file__).with_name("report.mplstyle")
INK, BLUE, ORANGE, GREEN = "#1d2430", "#2f6bd8", "#e07b39", "#2e9b6f"
KIND_COLORS = {
    "true_positive": GREEN,
    "double_detection": "#5b8def",
    "wrong_label": "#b061d6",
    "localization": "#f0a53a",
    "confusion": "#e2603f",
    "background": "#98a2b3",
    "missed": "#475467",
}
CHARACTERISTICS = {
    "coverage": "By coverage (length / duration)",
    "length": "By length",
    "instances": "By annotations of the class in the video",
}
MAX_CLASSES = 20  # among the best, among the worst, and in the confusion matrix
MAX_NAME_CHARS = 30
WHISKERS = {"fmt": "none", "ecolor": INK, "elinewidth": 0.8}


def spell_out(name: str) -> str:
    return name.replace("_", " ")


def _shorten(name: str) -> str:
    return name if len(name) <= MAX_NAME_CHARS else name[: MAX_NAME_CHARS - 1] + "…"


def _add_axes(figure: "Figure", width: float, height: float, rows: int = 1, columns: int = 1, **options: Any) -> Any:
    """Resize an empty figure (inches) and add the array of its axes."""
    figure.set_size_inches(width, height)
    return figure.subplots(rows, columns, squeeze=False, **options).ravel()


def _to_percent(numbers: Sequence[dict[str, Any] | Estimate]) -> tuple[np.ndarray, np.ndarray]:
    """Values (N,) in %, and how far their intervals reach below and above them (2, N), 0 without an interval."""
    value, low, high = 100 * pd.DataFrame(numbers, columns=list(Estimate._fields), dtype=float).to_numpy().T
    return value, np.nan_to_num([value - low, high - value]).clip(min=0)


def _plot_bars(axes: Any, numbers: Sequence[dict[str, Any] | Estimate], labels: Sequence[str], **options: Any) -> None:
    """Plot horizontal bars with 95 % intervals, the first at the top."""
    places, (values, errors) = np.arange(len(numbers)), _to_percent(numbers)
    axes.barh(places, values, height=0.7, **options)
    axes.errorbar(values, places, xerr=errors, **WHISKERS)
    axes.set_yticks(places, labels)
    axes.set_ylim(len(numbers) - 0.4, -0.6)
    axes.grid(axis="y", visible=False)


def _plot_by_tiou(axes: Any, data: EvaluationInput, result: MetricResult, name: str, color: str) -> None:
    """Plot a headline number at each tIoU with its 95 % intervals."""
    values, errors = _to_percent([result.headline[metric_name(name, tiou)] for tiou in data.tious])
    axes.errorbar(data.tious, values, errors, color=color, label=name, marker="o", markersize=4, capsize=3)


def plot_precision_recall(figure: "Figure", data: EvaluationInput, result: MetricResult) -> None:
    from matplotlib import colormaps

    curves = result.details["precision_recall"]
    left, right = _add_axes(figure, 10, 3.8, columns=2, width_ratios=[1.35, 1])
    colors = colormaps["viridis_r"](np.linspace(0.15, 1, len(data.tious)))
    for (tiou, precision), color in zip(curves["precision"].items(), colors, strict=True):
        left.plot(curves["recall"], precision, color=color, label=f"tIoU {tiou}")
    left.set(title="Precision and recall, mean of classes", xlabel="recall", ylabel="precision")
    left.set(xlim=(0, 1), ylim=(0, 1.02))
    left.legend(fontsize=8, ncols=1 + (len(data.tious) > 5))
    _plot_by_tiou(right, data, result, "mAP", BLUE)
    right.set(xlabel="tIoU", ylabel="mAP in %", title="mAP with 95 % intervals", ylim=(0, None))


def plot_classes(figure: "Figure", data: EvaluationInput, result: MetricResult) -> None:
    ranked = sorted(result.details["per_class"], key=lambda row: -row["AP"]["value"])
    groups, width = {"AP by class": ranked}, 6.7
    if len(ranked) > 2 * MAX_CLASSES:
        best, worst = f"The best {MAX_CLASSES} classes", f"The worst {MAX_CLASSES} of {len(ranked)}"
        groups, width = {best: ranked[:MAX_CLASSES], worst: ranked[-MAX_CLASSES:]}, 10.4
    height = 1 + 0.2 * max(3, *map(len, groups.values()))
    columns = _add_axes(figure, width, height, columns=len(groups))
    for axes, (title, chosen) in zip(columns, groups.items(), strict=True):
        labels = [f"{_shorten(row['label'])} ({row['instances']})" for row in chosen]
        _plot_bars(axes, [row["AP"] for row in chosen], labels, color=BLUE, alpha=0.75)
        axes.set(title=title, xlabel="AP in % (number of annotations)", xlim=(0, None))
        axes.tick_params(axis="y", labelsize=8)


def plot_characteristics(figure: "Figure", data: EvaluationInput, result: MetricResult) -> None:
    details, characteristics = result.details, result.details["characteristics"]
    columns = _add_axes(figure, 11, 3.6, columns=len(characteristics), sharey=True)
    for axes, (name, rows) in zip(columns, characteristics.items(), strict=True):
        places = np.arange(len(rows))
        normalized = 100 * np.nan_to_num(np.array([row["mAP_N"] for row in rows], float))
        recalls, errors = _to_percent([row["recall"] for row in rows])
        recalls = np.nan_to_num(recalls)
        axes.bar(places - 0.2, normalized, 0.36, color=BLUE, alpha=0.8, label="mAP_N")
        axes.bar(places + 0.2, recalls, 0.36, color=GREEN, alpha=0.8, label="recall")
        axes.errorbar(places + 0.2, recalls, errors, capsize=2, **WHISKERS)
        axes.axhline(100 * details["mAP_N"], color=BLUE, linestyle="--", linewidth=1)
        ticks = [f"{row['size']}\n{row['range']}\nn={row['instances']}" for row in rows]
        axes.set_xticks(places, ticks, fontsize=7.5)
        axes.set_title(CHARACTERISTICS[name])
        axes.grid(axis="x", visible=False)
    columns[0].set_ylabel(f"% at tIoU {details['tiou']:.2f}")
    columns[0].legend(fontsize=8)


def plot_errors(figure: "Figure", data: EvaluationInput, result: MetricResult) -> None:
    profile = result.details["profile"]
    counts = np.array(profile["counts"], float).reshape(-1, len(profile["kinds"]))
    shares = 100 * counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    bottoms = np.cumsum(shares, axis=1) - shares
    left, right = _add_axes(figure, 10.5, 3.8, columns=2, width_ratios=[1.3, 1])
    for kind, share, bottom in zip(profile["kinds"], shares.T, bottoms.T, strict=True):
        left.bar(profile["slices"], share, 0.85, bottom, color=KIND_COLORS[kind], label=spell_out(kind))
    left.set_xticks(profile["slices"], [f"{i}G" for i in profile["slices"]])
    left.set(title="Kinds of detections, highest scores first", ylabel="% of the slice", ylim=(0, 100))
    left.set_xlabel("slices of each class's detections, G = its number of annotations")
    left.grid(visible=False)
    left.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
    gains = {name[5:]: x for name, x in result.headline.items() if name.startswith("gain_")}
    _plot_bars(right, [*gains.values()], [*map(spell_out, gains)], color=[KIND_COLORS[kind] for kind in gains])
    right.set(title="mAP gained without each error", xlabel=f"points at tIoU {result.details['tiou']:.2f}")


def plot_proposals(figure: "Figure", data: EvaluationInput, result: MetricResult) -> None:
    curve = pd.DataFrame(result.details["curve"])
    recall, low, high = (100 * curve[name] for name in ("recall", "low", "high"))
    (axes,) = _add_axes(figure, 6, 3.6)
    axes.plot(curve["proposals"], recall, color=BLUE)
    axes.fill_between(curve["proposals"], low, high, color=BLUE, alpha=0.2, linewidth=0)
    axes.set(xlabel="average number of proposals per video", ylabel="average recall in %", xlim=(1, 100), ylim=(0, 100))
    axes.set_title(f"Average recall, AUC {100 * result.headline['AUC'].value:.2f} %")


def plot_recall(figure: "Figure", data: EvaluationInput, result: MetricResult) -> None:
    (axes,) = _add_axes(figure, 6, 3.6)
    for k, color in zip(RECALL_KS, (BLUE, ORANGE), strict=True):
        _plot_by_tiou(axes, data, result, f"Recall@{k}x", color)
    axes.set(title="Recall of the k·x best detections of a class", xlabel="tIoU", ylabel="% of annotations")
    axes.set_ylim(0, 100)
    axes.legend(fontsize=8)


def plot_confusion(figure: "Figure", data: EvaluationInput, result: MetricResult) -> None:
    couples = pd.DataFrame(result.details["confusion"]["couples"])
    if couples.empty:
        return
    matrix = couples.pivot_table(index="annotated", columns="detected", values="detections", aggfunc="sum")
    names = sorted(matrix.sum().add(matrix.sum(axis=1), fill_value=0).nlargest(MAX_CLASSES).index)
    side, labels = 2.6 + 0.27 * len(names), [_shorten(name) for name in names]
    (axes,) = _add_axes(figure, side + 1.2, side)
    image = axes.imshow(matrix.reindex(index=names, columns=names).fillna(0), cmap="Blues")
    axes.set_xticks(range(len(names)), labels, rotation=90, fontsize=8)
    axes.set_yticks(range(len(names)), labels, fontsize=8)
    axes.set(title="Confusion between classes", xlabel="detected", ylabel="annotated")
    axes.grid(visible=False)
    figure.colorbar(image, ax=axes, shrink=0.6, label="detections").outline.set_visible(False)


def plot_scores(figure: "Figure", data: EvaluationInput, result: MetricResult) -> None:
    scores = result.details["scores"]
    (axes,) = _add_axes(figure, 6, 3.2)
    for name, color in (("errors", KIND_COLORS["background"]), ("true_positive", GREEN)):
        axes.stairs(scores[name], scores["edges"], fill=True, alpha=0.7, color=color, label=spell_out(name))
    axes.set_yscale("symlog", linthresh=1)
    axes.yaxis.set_major_formatter("{x:,.0f}")
    axes.set(title="Scores", xlabel="score", ylabel="detections (logarithmic)", xlim=(0, 1))
    axes.legend(fontsize=8)


def plot_timelines(figure: "Figure", data: EvaluationInput, result: None) -> None:
    """Plot annotations and detections of a few videos, one lane per class."""
    from matplotlib import colormaps

    timelines = select_videos(data)
    if not timelines:
        return
    labels = sorted({int(label) for t in timelines for label in (*t.video.labels, *t.labels)})
    colors = {label: colormaps["tab20"](i % 20) for i, label in enumerate(labels)}
    heights = [1.6 + 0.34 * len(t.lanes) for t in timelines]
    rows = _add_axes(figure, 11, sum(heights) * 0.62 + 0.4, rows=len(timelines), height_ratios=heights)
    for axes, t in zip(rows, timelines, strict=True):
        for lane, label in enumerate(t.lanes):
            color, mine = colors[label], t.labels == label
            bars: list[Any] = [(lane, segment, INK, 1) for segment in t.video.segments[t.video.labels == label]]
            detections = zip(t.segments[mine], 0.15 + 0.7 * t.scores[mine], strict=True)
            bars += [(lane + 0.42, segment, color, alpha) for segment, alpha in detections]
            for bottom, (start, end), edge, alpha in bars:
                width = max(end - start, t.video.duration / 500)
                axes.broken_barh([(start, width)], (bottom, 0.36), fc=color, ec=edge, alpha=alpha, lw=0.8)
        names = [_shorten(data.class_name(label)) for label in t.lanes]
        axes.set_yticks(np.arange(len(names)) + 0.4, names, fontsize=8)
        axes.set(xlim=(0, t.video.duration), ylim=(max(len(names), 1), -0.1))
        title = f"{t.rank}: {_shorten(t.video.video_id)}, {t.num_found} of {len(t.video.labels)} found"
        axes.set_title(title, fontsize=9)
        axes.grid(axis="y", visible=False)
        axes.tick_params(axis="x", labelsize=8)
    rows[-1].set_xlabel("seconds; above with outline: annotations; below: detections, paler with lower scores")


PLOTS = {  # name of the plot -> the metric that it shows, if any, and its function
    "precision_recall": ("map", plot_precision_recall),
    "recall": ("recall", plot_recall),
    "proposals": ("proposals", plot_proposals),
    "errors": ("diagnosis", plot_errors),
    "characteristics": ("diagnosis", plot_characteristics),
    "scores": ("diagnosis", plot_scores),
    "classes": ("classes", plot_classes),
    "confusion": ("classes", plot_confusion),
    "timelines": (None, plot_timelines),
}


def plot_all(data: EvaluationInput, results: dict[str, MetricResult]) -> dict[str, bytes]:
    """Plot the computed metrics, if there is something to show, and example videos: PNGs by name."""
    import matplotlib.style
    from matplotlib.figure import Figure

    pngs, inputs = {}, {**results, None: None}
    with matplotlib.style.context(STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")  # the font lacks some scripts and shows boxes
        for name, (metric, plot) in PLOTS.items():
            figure, buffer = Figure(), io.BytesIO()
            if metric in inputs:
                plot(figure, data, inputs[metric])
            if figure.axes:
                figure.savefig(buffer, format="png", dpi=110)
                pngs[name] = buffer.getvalue()
    return pngs
