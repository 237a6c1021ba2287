"""Intervals cover the truth at their nominal rate, and the test of a difference errs at its nominal rate."""

import numpy as np
import pytest

from libs.core.types import Detections, Video
from libs.evaluation.bootstrap import compute_interval, compute_p_value, resample_weights
from libs.evaluation.metrics.average_precision import Matches
from libs.evaluation.metrics.recall import find_lowest_k, resample_recall
from libs.evaluation.metrics.resampling import mean_over_classes, resample_ap

NOMINAL, TOLERANCE = 0.95, 0.02
VIDEOS, CLASSES, EACH, DURATION = 100, 4, 6, 100.0


def simulate(rng, blur=3.0):
    """Simulate VIDEOS videos with one event each; half of the detections are near it, and good or bad together."""
    start = rng.uniform(0, 80, VIDEOS)
    events = np.stack([start, start + rng.uniform(4, 20, VIDEOS)], axis=1)
    classes = rng.permutation(np.arange(VIDEOS) % CLASSES)
    videos = [
        Video(f"v{i}", "val", DURATION, None, events[i : i + 1], classes[i : i + 1].astype(np.int64))
        for i in range(VIDEOS)
    ]
    video = np.repeat(np.arange(VIDEOS), EACH)
    hard = np.repeat(rng.random(VIDEOS), EACH)
    near = rng.random(len(video)) < 0.5
    guess = np.sort(rng.uniform(0, DURATION, (len(video), 2)), axis=1)
    around = np.sort(events[video] + rng.normal(0, 1, (len(video), 2)) * (1 + blur * hard[:, None]), axis=1)
    return videos, Detections(
        tuple(v.video_id for v in videos),
        video,
        np.where(near[:, None], around, guess),
        np.where(near, rng.beta(3, 2, len(video)) * (1 - 0.3 * hard), rng.beta(2, 3, len(video))),
        np.where(near, classes[video], rng.integers(CLASSES, size=len(video))),
    )


def average_map(matches, weights):
    return mean_over_classes(resample_ap(matches, weights)).mean(axis=1)


def covered(values, samples, truth):
    ends = np.array([compute_interval(value, sample) for value, sample in zip(values, samples, strict=True)])
    return float(((ends[:, 0] <= truth) & (truth <= ends[:, 1])).mean())


def test_interval_of_a_mean_covers_it():
    """2,000 simulations of 200 videos with one number each and a known expected value."""
    rng = np.random.default_rng(0)
    numbers = rng.beta(2, 5, (2000, 200))
    weights = resample_weights(200, 300, 1)[:, :-1] / 200
    samples = numbers @ weights.T  # the same resamples for all, which are independent of the numbers
    assert covered(samples[:, 0], samples[:, 1:], 2 / 7) == pytest.approx(NOMINAL, abs=TOLERANCE)


def test_interval_of_recall_and_map_covers_them():
    """500 simulated test sets; the truth is the mean over test sets of this size.

    mAP is not linear in the videos: the percentile interval of the same resamples covers less.
    """
    tious, recalls, maps = (0.5,), [], []
    for seed in range(500):
        videos, found = simulate(np.random.default_rng(seed))
        weights = resample_weights(VIDEOS, 250, seed)
        matches = Matches(found, videos, tious)
        recalls.append(resample_recall(matches.truth.video, find_lowest_k(matches) == 1, weights)[:, 0])
        maps.append(average_map(matches, weights))
    rates = {}
    for name, numbers in (("recall", np.array(recalls)), ("mAP", np.array(maps))):
        values, samples = numbers[:, 0], numbers[:, 1:]
        rates[name] = covered(values, samples, values.mean())
        low, high = np.quantile(samples, [0.025, 0.975], axis=1)
        rates[f"{name} percentile"] = ((low <= values.mean()) & (values.mean() <= high)).mean()
    assert rates["recall"] == pytest.approx(NOMINAL, abs=TOLERANCE), rates
    assert rates["mAP"] == pytest.approx(NOMINAL, abs=TOLERANCE), rates
    assert rates["mAP percentile"] < NOMINAL - TOLERANCE, rates  # so the simpler interval would not do


def test_p_value_of_equal_systems_is_uniform():
    """300 pairs of equally good systems; no difference; and a large one."""
    p = []
    for seed in range(300):
        rng = np.random.default_rng(seed)
        videos, a = simulate(rng)
        # The other system's detections of the same kind: its own luck, on the same events.
        noise = np.sort(a.segments + rng.normal(0, 1, a.segments.shape), axis=1)
        other = np.sort(a.segments + rng.normal(0, 1, a.segments.shape), axis=1)
        weights = resample_weights(VIDEOS, 200, seed)
        maps = [
            average_map(Matches(Detections(a.video_ids, a.video, s, a.scores, a.labels), videos, (0.5,)), weights)
            for s in (noise, other)
        ]
        difference = maps[0] - maps[1]
        p.append(compute_p_value(difference[0], difference[1:]))
    assert np.mean(np.array(p) <= 0.05) == pytest.approx(0.05, abs=0.025)
    assert compute_p_value(0.0, np.zeros(100)) == 1.0
    assert compute_p_value(0.3, np.random.default_rng(0).normal(0.3, 0.02, 1000)) == pytest.approx(2 / 1001)


def test_resample_weights_draw_all_videos_and_repeat_with_the_seed():
    weights = resample_weights(50, 20, 3)
    assert (weights[0] == 1).all()
    assert (weights[:, -1] == 1).all()
    assert (weights[1:, :-1].sum(axis=1) == 50).all()
    assert (weights == resample_weights(50, 20, 3)).all()
    assert (weights != resample_weights(50, 20, 4)).any()


def test_interval_is_centred_and_ignores_nan():
    low, high = compute_interval(0.5, np.array([0.7, 0.8, np.nan, 0.9]))
    assert (low + high) / 2 == pytest.approx(0.5)
    assert np.isnan(compute_interval(0.5, np.array([np.nan]))).all()
