"""Intervals cover what is true at their nominal rate, in simulation; the test of a difference errs as often as it
says."""

import numpy as np
import pytest

from libs.core.types import Detections, Video
from libs.evaluation.metrics.average_precision import GroundTruth, match_detections
from libs.evaluation.metrics.bootstrap import (
    class_means,
    compute_interval,
    compute_p_value,
    resample_weights,
    resampled_ap,
)
from libs.evaluation.metrics.recall import RecallAtKx

NOMINAL, TOLERANCE = 0.95, 0.02
VIDEOS, CLASSES, EACH, DURATION = 100, 4, 6, 100.0


def simulated(rng, blur=3.0):
    """VIDEOS videos with an event each; half of its detections are around it, and good or bad together."""
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
    return class_means(resampled_ap(matches, weights)).mean(axis=1)


def covered(values, samples, truth):
    ends = np.array([compute_interval(value, sample) for value, sample in zip(values, samples, strict=True)])
    return float(((ends[:, 0] <= truth) & (truth <= ends[:, 1])).mean())


def test_a_mean_over_videos_is_covered():
    """2,000 simulations of 200 videos with a number each, whose mean over all videos of the world is known."""
    rng = np.random.default_rng(0)
    numbers = rng.beta(2, 5, (2000, 200))
    weights = resample_weights(200, 300, 1)[:, :-1] / 200
    samples = numbers @ weights.T  # the same resamples for all, which are independent of the numbers
    assert covered(samples[:, 0], samples[:, 1:], 2 / 7) == pytest.approx(NOMINAL, abs=TOLERANCE)


def test_recall_and_map_are_covered():
    """500 test sets from one world. The truth is the mean over test sets of this size: of mAP, which is not linear in
    the videos, where the plain percentile interval of the same resamples covers less."""
    tious, recalls, maps = (0.5,), [], []
    for seed in range(500):
        videos, found = simulated(np.random.default_rng(seed))
        weights = resample_weights(VIDEOS, 250, seed)
        recalls.append(
            RecallAtKx.compute(1, found, found.video, GroundTruth.from_videos(videos), tious).resampled(weights)[:, 0]
        )
        maps.append(average_map(match_detections(found, videos, tious), weights))
    rates = {}
    for name, numbers in (("recall", np.array(recalls)), ("mAP", np.array(maps))):
        values, samples = numbers[:, 0], numbers[:, 1:]
        rates[name] = covered(values, samples, values.mean())
        low, high = np.quantile(samples, [0.025, 0.975], axis=1)
        rates[f"{name} percentile"] = ((low <= values.mean()) & (values.mean() <= high)).mean()
    assert rates["recall"] == pytest.approx(NOMINAL, abs=TOLERANCE), rates
    assert rates["mAP"] == pytest.approx(NOMINAL, abs=TOLERANCE), rates
    assert rates["mAP percentile"] < NOMINAL - TOLERANCE, rates  # else the simpler one would do


def test_the_paired_test_errs_as_often_as_it_says():
    """300 pairs of systems that are equally good; and a system against a much worse one, and against itself."""
    p = []
    for seed in range(300):
        rng = np.random.default_rng(seed)
        videos, a = simulated(rng)
        # The other system's detections of the same kind: its own luck, on the same events.
        noise = np.sort(a.segments + rng.normal(0, 1, a.segments.shape), axis=1)
        other = np.sort(a.segments + rng.normal(0, 1, a.segments.shape), axis=1)
        weights = resample_weights(VIDEOS, 200, seed)
        maps = [
            average_map(
                match_detections(Detections(a.video_ids, a.video, s, a.scores, a.labels), videos, (0.5,)), weights
            )
            for s in (noise, other)
        ]
        difference = maps[0] - maps[1]
        p.append(compute_p_value(difference[0], difference[1:]))
    assert np.mean(np.array(p) <= 0.05) == pytest.approx(0.05, abs=0.025)
    assert compute_p_value(0.0, np.zeros(100)) == 1.0
    assert compute_p_value(0.3, np.random.default_rng(0).normal(0.3, 0.02, 1000)) == pytest.approx(2 / 1001)


def test_draws():
    weights = resample_weights(50, 20, 3)
    assert (weights[0] == 1).all()
    assert (weights[:, -1] == 1).all()
    assert (weights[1:, :-1].sum(axis=1) == 50).all()
    assert (weights == resample_weights(50, 20, 3)).all()
    assert (weights != resample_weights(50, 20, 4)).any()


def test_interval_is_around_the_value():
    low, high = compute_interval(0.5, np.array([0.7, 0.8, np.nan, 0.9]))
    assert (low + high) / 2 == pytest.approx(0.5)
    assert np.isnan(compute_interval(0.5, np.array([np.nan]))).all()
