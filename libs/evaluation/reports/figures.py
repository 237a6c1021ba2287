"""The report's plots, drawn with matplotlib from what the metrics computed. No display, no global state."""

import io
import warnings
from collections.abc import Callable
from contextlib import contextmanager

import numpy as np

from libs.evaluation.metrics.compute import RECALL_KS, EvaluationInput, MetricResult, metric_name
from libs.evaluation.reports.timelines import choose_videos

INK, SOFT, GRID, BLUE, ORANGE, GREEN = "#1d2430", "#667085", "#e4e7ec", "#2f6bd8", "#e07b39", "#2e9b6f"
COLOURS = {  # of the kinds of detections
    "true_positive": "#2e9b6f",
    "double_detection": "#5b8def",
    "wrong_label": "#b061d6",
    "localization": "#f0a53a",
    "confusion": "#e2603f",
    "background": "#98a2b3",
    "missed": "#475467",
}
STYLE = {
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.edgecolor": GRID,
    "axes.labelcolor": SOFT,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "text.color": INK,
    "xtick.color": SOFT,
    "ytick.color": SOFT,
    "legend.frameon": False,
    "figure.facecolor": "white",
    "text.parse_math": False,  # a class may be called "$1 bill"
}
MOST_CLASSES = 20  # of the best, of the worst, and in the table of confusions
LONGEST_NAME = 30  # characters


@contextmanager
def _style():
    import matplotlib

    with matplotlib.rc_context(STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")  # names in scripts that the font lacks are drawn as boxes
        yield


def _axes(width: float, height: float, columns: int = 1, rows: int = 1, **options):
    """A figure (inches) and its row or column of axes."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False, **options).ravel()


def short(name: str) -> str:
    return name if len(name) <= LONGEST_NAME else name[: LONGEST_NAME - 1] + "…"


def words(name: str) -> str:
    return name.replace("_", " ")


def _shades(count: int):
    """Colours from light to dark of so many steps."""
    from matplotlib import colormaps

    return [colormaps["viridis_r"](x) for x in np.linspace(0.15, 1, count)]


def _errors(numbers: list[dict]) -> np.ndarray:
    """(2, N): how far intervals reach below and above their values, 0 where there is none."""
    rows = np.array([[x["value"], x["low"], x["high"]] for x in numbers], float).reshape(-1, 3)
    return np.nan_to_num(np.stack([rows[:, 0] - rows[:, 1], rows[:, 2] - rows[:, 0]])).clip(min=0)


def draw_precision_recall(data: EvaluationInput, results: dict[str, MetricResult]):
    result = results["map"]
    curves = result.details["precision_recall"]
    figure, (left, right) = _axes(10, 3.8, 2, width_ratios=[1.35, 1])
    for (tiou, precision), colour in zip(curves["precision"].items(), _shades(len(data.tious)), strict=True):
        left.plot(curves["recall"], precision, color=colour, label=f"tIoU {tiou}")
    left.set(
        xlabel="recall", ylabel="precision", xlim=(0, 1), ylim=(0, 1.02), title="Precision and recall, mean of classes"
    )
    left.legend(fontsize=8, ncols=1 + (len(data.tious) > 5))
    numbers = [result.headline[metric_name("mAP", tiou)]._asdict() for tiou in data.tious]
    values = [100 * x["value"] for x in numbers]
    right.errorbar(data.tious, values, 100 * _errors(numbers), color=BLUE, marker="o", markersize=4, capsize=3)
    right.set(xlabel="tIoU", ylabel="mAP in %", title="mAP with 95 % intervals")
    right.set_ylim(bottom=0)
    return figure


def draw_classes(data: EvaluationInput, results: dict[str, MetricResult]):
    ranked = sorted(results["classes"].details["per_class"], key=lambda row: -row["AP"]["value"])
    parts = {"AP by class": ranked}
    if len(ranked) > 2 * MOST_CLASSES:
        parts = {f"The best {MOST_CLASSES} classes": ranked[:MOST_CLASSES]}
        parts[f"The worst {MOST_CLASSES} of {len(ranked)}"] = ranked[-MOST_CLASSES:]
    rows = max(map(len, parts.values()))
    figure, axes = _axes(5.2 * len(parts) + (1.5 if len(parts) == 1 else 0), 1 + 0.2 * max(rows, 3), len(parts))
    for ax, (title, chosen) in zip(axes, parts.items(), strict=True):
        numbers, places = [row["AP"] for row in chosen], np.arange(len(chosen))
        values = [100 * x["value"] for x in numbers]
        ax.barh(places, values, color=BLUE, alpha=0.75, height=0.7)
        ax.errorbar(values, places, xerr=100 * _errors(numbers), fmt="none", ecolor=INK, elinewidth=0.8)
        ax.set_yticks(places, [f"{short(row['label'])} ({row['instances']})" for row in chosen], fontsize=8)
        ax.set(title=title, xlabel="AP in % (annotations of the class)", ylim=(len(chosen) - 0.4, -0.6))
        ax.set_xlim(left=0)
        ax.grid(axis="y", visible=False)
    return figure


def draw_characteristics(data: EvaluationInput, results: dict[str, MetricResult]):
    details = results["diagnosis"].details
    groups = details["characteristics"]
    titles = {
        "coverage": "By coverage (length / duration)",
        "length": "By length",
        "instances": "By annotations of the class in the video",
    }
    figure, axes = _axes(11, 3.6, len(groups), sharey=True)
    for ax, (name, rows) in zip(axes, groups.items(), strict=True):
        places = np.arange(len(rows))
        recalls = [row["recall"] for row in rows]
        bars = {"mAP_N": [row["mAP_N"] for row in rows], "recall": [x["value"] for x in recalls]}
        for shift, (label, values), colour in zip((-0.2, 0.2), bars.items(), (BLUE, GREEN), strict=True):
            ax.bar(
                places + shift, 100 * np.nan_to_num(np.array(values, float)), 0.36, color=colour, alpha=0.8, label=label
            )
        heights = 100 * np.nan_to_num(np.array(bars["recall"], float))
        ax.errorbar(places + 0.2, heights, 100 * _errors(recalls), fmt="none", ecolor=INK, elinewidth=0.8, capsize=2)
        ax.axhline(100 * details["mAP_N"], color=BLUE, linestyle="--", linewidth=1)
        ticks = [f"{row['size']}\n{row['range']}\nn={row['instances']}" for row in rows]
        ax.set_xticks(places, ticks, fontsize=7.5)
        ax.set(title=titles[name])
        ax.grid(axis="x", visible=False)
    axes[0].set_ylabel(f"% at tIoU {details['tiou']:.2f}")
    axes[0].legend(fontsize=8)
    return figure


def draw_errors(data: EvaluationInput, results: dict[str, MetricResult]):
    result = results["diagnosis"]
    profile = result.details["profile"]
    counts = np.array(profile["counts"], float).reshape(-1, len(profile["kinds"]))
    shares = 100 * counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    figure, (left, right) = _axes(10.5, 3.8, 2, width_ratios=[1.3, 1])
    base = np.zeros(len(shares))
    for kind, column in zip(profile["kinds"], shares.T, strict=True):
        left.bar(profile["slices"], column, bottom=base, color=COLOURS[kind], width=0.85, label=words(kind))
        base += column
    left.set_xticks(profile["slices"], [f"{i}G" for i in profile["slices"]])
    left.set(title="Kinds of detections, the best scored first", ylabel="% of the slice", ylim=(0, 100))
    left.set_xlabel("slices of each class's detections, G = its annotations")
    left.grid(visible=False)
    left.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
    gains = {name[5:]: x._asdict() for name, x in result.headline.items() if name.startswith("gain_")}
    places, values = np.arange(len(gains)), [100 * x["value"] for x in gains.values()]
    right.barh(places, values, color=[COLOURS[kind] for kind in gains], height=0.7)
    right.errorbar(values, places, xerr=100 * _errors([*gains.values()]), fmt="none", ecolor=INK, elinewidth=0.8)
    right.set_yticks(places, [words(kind) for kind in gains])
    right.set(title="What mending each gains", xlabel=f"mAP points at tIoU {result.details['tiou']:.2f}")
    right.set_ylim(len(gains) - 0.4, -0.6)
    right.grid(axis="y", visible=False)
    return figure


def draw_proposals(data: EvaluationInput, results: dict[str, MetricResult]):
    curve = {name: np.array(column, float) for name, column in results["proposals"].details["curve"].items()}
    figure, (ax,) = _axes(6, 3.6)
    ax.plot(curve["proposals"], 100 * curve["recall"], color=BLUE)
    ax.fill_between(curve["proposals"], 100 * curve["low"], 100 * curve["high"], color=BLUE, alpha=0.2, linewidth=0)
    ax.set(
        title=f"Average recall, AUC {100 * results['proposals'].headline['AUC'].value:.2f} %",
        xlim=(1, 100),
        ylim=(0, 100),
    )
    ax.set(xlabel="average number of proposals a video", ylabel="average recall in %")
    return figure


def draw_recall(data: EvaluationInput, results: dict[str, MetricResult]):
    headline = results["recall"].headline
    figure, (ax,) = _axes(6, 3.6)
    for name, colour in zip((f"Recall@{k}x" for k in RECALL_KS), (BLUE, ORANGE), strict=True):
        numbers = [headline[metric_name(name, tiou)]._asdict() for tiou in data.tious]
        values = [100 * x["value"] for x in numbers]
        ax.errorbar(
            data.tious, values, 100 * _errors(numbers), color=colour, marker="o", markersize=4, capsize=3, label=name
        )
    ax.set(
        title="Recall of the k·x best detections of a class", xlabel="tIoU", ylabel="% of annotations", ylim=(0, 100)
    )
    ax.legend(fontsize=8)
    return figure


def draw_confusion(data: EvaluationInput, results: dict[str, MetricResult]):
    couples = results["classes"].details["confusion"]["couples"]
    weight: dict[str, int] = {}
    for row in couples:
        for side in ("detected", "annotated"):
            weight[row[side]] = weight.get(row[side], 0) + row["detections"]
    names = sorted(sorted(weight, key=lambda name: -weight[name])[:MOST_CLASSES])
    if not names:
        return None
    table = np.zeros((len(names), len(names)))
    for row in couples:
        if row["detected"] in names and row["annotated"] in names:
            table[names.index(row["annotated"]), names.index(row["detected"])] = row["detections"]
    side = 2.6 + 0.27 * len(names)
    figure, (ax,) = _axes(side + 1.2, side)
    image = ax.imshow(table, cmap="Blues")
    ax.set_xticks(range(len(names)), map(short, names), rotation=90, fontsize=8)
    ax.set_yticks(range(len(names)), map(short, names), fontsize=8)
    ax.set(title="Taken for another class", xlabel="detected", ylabel="annotated")
    ax.grid(visible=False)
    figure.colorbar(image, ax=ax, shrink=0.6, label="detections").outline.set_visible(False)
    return figure


def draw_scores(data: EvaluationInput, results: dict[str, MetricResult]):
    scores = results["diagnosis"].details["scores"]
    figure, (ax,) = _axes(6, 3.2)
    for name, colour in (("errors", COLOURS["background"]), ("true_positive", COLOURS["true_positive"])):
        ax.stairs(scores[name], scores["edges"], fill=True, alpha=0.7, color=colour, label=words(name))
    ax.set_yscale("symlog", linthresh=1)
    ax.yaxis.set_major_formatter("{x:,.0f}")
    ax.set(title="Scores", xlabel="score", ylabel="detections (logarithmic)", xlim=(0, 1))
    ax.legend(fontsize=8)
    return figure


def draw_timelines(data: EvaluationInput, results: dict[str, MetricResult]):
    """A band a video: annotations above, detections below, fainter where their score is low."""
    from matplotlib import colormaps

    chosen = choose_videos(data)
    if not chosen:
        return None
    labels = sorted({label for t in chosen for label in (*t.truth_labels.tolist(), *t.labels.tolist())})
    colours = {label: colormaps["tab20"](i % 20) for i, label in enumerate(labels)}
    heights = [1.6 + 0.34 * t.lanes for t in chosen]
    figure, axes = _axes(11, sum(heights) * 0.62 + 0.4, rows=len(chosen), height_ratios=heights)
    for ax, t in zip(axes, chosen, strict=True):
        ticks = []
        for lane, label in enumerate(t.lane_labels):
            for annotated, shift in ((True, 0.0), (False, 0.42)):
                segments, scores = t.of_label(label, annotated)
                for (start, end), score in zip(segments, scores, strict=True):
                    ax.broken_barh(
                        [(start, max(end - start, t.duration / 500))],
                        (lane + shift, 0.36),
                        facecolors=colours[label],
                        alpha=1.0 if annotated else 0.15 + 0.7 * score,
                        edgecolor=INK if annotated else colours[label],
                        linewidth=0.8,
                    )
            ticks.append(short(data.class_name(label)))
        ax.set_yticks(np.arange(len(ticks)) + 0.4, ticks, fontsize=8)
        ax.set(xlim=(0, t.duration), ylim=(max(len(ticks), 1), -0.1), title=f"{t.why}: {short(t.video_id)}, {t.words}")
        ax.title.set_fontsize(9)
        ax.grid(axis="y", visible=False)
        ax.tick_params(axis="x", labelsize=8)
    ax.set_xlabel("seconds; outlined above: annotated, below: detected, fainter where the score is lower")
    return figure


Draw = Callable[[EvaluationInput, dict[str, MetricResult]], object]
# Name of the plot -> the metrics that it needs, and how it is drawn.
FIGURES: dict[str, tuple[tuple[str, ...], Draw]] = {
    "precision_recall": (("map",), draw_precision_recall),
    "recall": (("recall",), draw_recall),
    "proposals": (("proposals",), draw_proposals),
    "errors": (("diagnosis",), draw_errors),
    "characteristics": (("diagnosis",), draw_characteristics),
    "scores": (("diagnosis",), draw_scores),
    "classes": (("classes",), draw_classes),
    "confusion": (("classes",), draw_confusion),
    "timelines": ((), draw_timelines),
}


def draw_all(data: EvaluationInput, results: dict[str, MetricResult]) -> dict[str, bytes]:
    """PNGs by name: those whose metrics were computed and that have something to show."""
    pngs = {}
    with _style():
        for name, (needs, function) in FIGURES.items():
            figure = function(data, results) if all(need in results for need in needs) else None
            if figure is not None:
                buffer = io.BytesIO()
                figure.savefig(buffer, format="png", dpi=110)
                pngs[name] = buffer.getvalue()
    return pngs
