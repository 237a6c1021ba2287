"""The metrics by name."""

import numpy as np
import pytest

from libs.evaluation.bootstrap import Estimate, MetricResult
from libs.evaluation.metrics import compute
from libs.evaluation.metrics.average_precision import score_detections
from libs.evaluation.metrics.compute import EvaluationInput, compute_metrics
from libs.evaluation.metrics.selection import expand_metrics
from tests.evaluation.cases import TIOUS, random_case


def test_compute_metrics_repeats_with_the_seed():
    videos, found = random_case(2)
    trees = []
    for seed in (0, 0, 1):
        data = EvaluationInput(found, videos, {}, TIOUS, resamples=20, seed=seed)
        trees.append(compute.metrics_to_dict(compute_metrics(data, ("map", "diagnosis"))))
    assert trees[0] == trees[1] != trees[2]


def test_compute_metrics_details_agree():
    videos, found = random_case(4)
    data = EvaluationInput(found, videos, {}, TIOUS, resamples=20)
    results = compute_metrics(data, expand_metrics(("all",), sounds=False)[0])
    scores = score_detections(found, videos, TIOUS, keep_repeats=True)
    classes = results["classes"].details["per_class"]
    np.testing.assert_allclose([row["AP"]["value"] for row in classes], scores.ap.mean(axis=1), atol=1e-12)
    assert sum(row["instances"] for row in classes) == results["diagnosis"].details["instances"]
    details = results["diagnosis"].details
    assert details["mAP"]["as_is"] == pytest.approx(results["map"].headline["mAP@0.50"].value)
    assert details["mAP"]["all"] == 1
    histogram = details["scores"]
    assert sum(histogram["true_positive"]) + sum(histogram["errors"]) == len(found.scores)
    shares = [x.value for name, x in results["diagnosis"].headline.items() if name.startswith("share_")]
    assert sum(shares) == pytest.approx(1)


def test_precision_curves_have_ap_as_area():
    """Interpolated precision at a thousand recalls has AP as its mean."""
    videos, found = random_case(7)
    matches = EvaluationInput(found, videos, {}, TIOUS).matches
    curves = compute.compute_precision_curves(matches)
    scores = score_detections(found, videos, TIOUS, keep_repeats=True)
    assert (np.diff(curves, axis=1) <= 1e-12).all()
    np.testing.assert_allclose(curves.mean(axis=1), scores.map, atol=0.02)


def test_format_tiou_is_unique():
    assert [compute.format_tiou(t) for t in (0.5, 0.1 + 0.2, 0.333, 0.3334)] == [
        "0.50",
        "0.30",
        "0.333",
        "0.3334",
    ]


def test_sed_metric_passes_settings_and_replaces_nan(monkeypatch):
    calls = []

    def compute_sed_metrics(detections, videos, class_names, *, resamples, seed):
        calls.append((detections, videos, class_names, resamples, seed))
        return MetricResult({"event_f1_macro": Estimate(0.1, 0.0, float("nan"))}, {"library": "fake"}, {})

    monkeypatch.setattr(compute, "compute_sed_metrics", compute_sed_metrics)
    videos, found = random_case(1)
    data = EvaluationInput(found, videos, {0: "a"}, TIOUS, resamples=7, seed=3)
    tree = compute.metrics_to_dict(compute_metrics(data, ("sed",)))["sed"]
    assert calls == [(found, videos, {0: "a"}, 7, 3)]
    assert tree == {
        "headline": {"event_f1_macro": {"value": 0.1, "low": 0.0, "high": None}},
        "details": {"library": "fake"},
    }
