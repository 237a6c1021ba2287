"""Results files of a small split for the scripts that score, and a page reader."""

import importlib.util
import json

import numpy as np
import pytest

from libs.core.types import Detections
from libs.evaluation.bootstrap import Estimate, MetricResult
from libs.evaluation.metrics import compute, selection
from libs.evaluation.metrics.average_precision import GroundTruth
from libs.evaluation.results import write_results
from tests.evaluation.cases import random_case, video
from tests.tools.pages import NASTY
from tools.demo_report import generate_random_detections


@pytest.fixture
def fake_sed(monkeypatch):
    """Replace the metrics of sound events, so that their libraries are not needed."""
    calls = []

    def compute_sed_metrics(detections, videos, class_names, *, resamples=1000, seed=0):
        calls.append((detections, videos, class_names, resamples, seed))
        value = len(calls) / 10
        return MetricResult(
            {"event_f1_macro": Estimate(value, 0.0, float("nan"))},
            {"library": "fake 1.0", "per_class": {"<i>Dog": {"events": 3, "event_f1": 0.125}}},
            {"event_f1_macro": np.full(resamples, value)},
        )

    monkeypatch.setattr(compute, "compute_sed_metrics", compute_sed_metrics)
    monkeypatch.setattr(selection, "find_spec", lambda name: importlib.util.spec_from_loader(name, None))
    return calls


def perturb_annotations(videos, seed):
    """Detections near the annotations, and random ones."""
    rng = np.random.default_rng(seed)
    truth, guesses = GroundTruth(videos), generate_random_detections(videos, 3, 10, seed)
    near = np.sort(truth.segments + rng.normal(0, 1.5, truth.segments.shape), axis=1)
    return Detections(
        guesses.video_ids,
        np.concatenate([truth.video, guesses.video]),
        np.concatenate([near, guesses.segments]),
        np.concatenate([rng.uniform(0.3, 1, len(near)), guesses.scores]),
        np.concatenate([truth.labels, guesses.labels]),
    )


@pytest.fixture
def scored_files(tmp_path):
    """Annotations with names that need escaping in HTML, and two results files: (annotations, A, B)."""
    videos, _ = random_case(5)
    videos = [video(f"v<{i}>", v.segments, v.labels) for i, v in enumerate(videos)]
    names = {0: NASTY, 1: "two", 2: "three", 3: "four"}
    database = {
        v.video_id: {
            "subset": "val",
            "duration": v.duration,
            "annotations": [
                {"segment": s, "label_id": x, "label": names[x]}
                for s, x in zip(v.segments.tolist(), v.labels.tolist(), strict=True)
            ],
        }
        for v in videos
    }
    annotations = tmp_path / "annotations.json"
    annotations.write_text(json.dumps({"database": database, "classes": list(names.values())}))
    for name, seed in (("a.json", 1), ("b.json", 2)):
        write_results(tmp_path / name, perturb_annotations(videos, seed), names)
    return annotations, tmp_path / "a.json", tmp_path / "b.json"
