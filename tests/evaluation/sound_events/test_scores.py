"""Metrics of sound event detection against sed_eval, psds_eval and sed_scores_eval."""

import csv
import json
import subprocess
import sys
import warnings
from dataclasses import replace

import numpy as np
import pytest

from libs.core.errors import DataError
from libs.core.types import Detections
from libs.datasets.annotations import load_annotations
from libs.evaluation.bootstrap import resample_weights
from libs.evaluation.results import read_results
from libs.evaluation.sound_events.counts import build_reference, build_score_frames, collect_counts, count_changes
from libs.evaluation.sound_events.scores import CURVES, F1S, compute_psds, compute_sed_metrics, resample_psds
from libs.evaluation.sound_events.tables import compute_frame_scores, read_events, read_operating_points
from tests.conftest import NEEDS_SHARED, ROOT
from tests.evaluation.cases import DESED, REAL, STUDENT, STUDENT_FOLDER
from tests.evaluation.sound_events.cases import (
    LABELS,
    NAMES,
    build_detections,
    find_events,
    get_values,
    list_events,
    random_sed_case,
    reference_events,
    sed_video,
)


def sed_eval_f1s(videos, found, threshold, labels=LABELS):
    import sed_eval

    names = [str(label) for label in labels]
    event = sed_eval.sound_event.EventBasedMetrics(
        names, t_collar=0.2, percentage_of_length=0.2, empty_system_output_handling="zero_score"
    )
    segment = sed_eval.sound_event.SegmentBasedMetrics(names, time_resolution=1.0)
    segment.empty_system_output_handling = "zero_score"  # else a class never found is left out of the mean
    estimated, reference = find_events(found, videos, threshold, labels), reference_events(videos, labels)
    for name in reference:
        rows = [
            [{"onset": float(s), "offset": float(e), "event_label": str(c)} for s, e, c in events[name]]
            for events in (reference, estimated)
        ]
        event.evaluate(*rows)
        segment.evaluate(*rows)
    return {
        f"{name}_f1_{mean}": float(result["f_measure"]["f_measure"])
        for name, scores in (("event", event), ("segment", segment))
        for mean, result in (
            ("macro", scores.results_class_wise_average_metrics()),
            ("micro", scores.results_overall_metrics()),
        )
    }


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("grid", [4, 10])
def test_f1_equals_sed_eval(seed, grid):
    """On a grid of tenths of seconds, ends lie on the collar up to rounding."""
    videos, found = random_sed_case(seed, grid)
    threshold = (0.05, 0.3, 0.5, 0.7, 0.9, 0.97)[seed]
    values = get_values(compute_sed_metrics(found, videos, NAMES, resamples=0, threshold=threshold))
    for name, expected in sed_eval_f1s(videos, found, threshold).items():
        assert values[name] == pytest.approx(expected, abs=1e-12), name


@pytest.mark.parametrize("seed", range(4))
def test_intersection_f1_equals_psds_eval(seed):
    import pandas
    import psds_eval

    videos, found = random_sed_case(seed)
    threshold = (0.1, 0.3, 0.5, 0.8)[seed]

    def table(events):
        rows = [(f, s, e, str(c)) for f, own in events.items() for s, e, c in own]
        return pandas.DataFrame(rows, columns=["filename", "onset", "offset", "event_label"])

    length = pandas.DataFrame([(v.video_id, v.duration) for v in videos], columns=["filename", "duration"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        judge = psds_eval.PSDSEval(0.5, 0.5, 0.3, ground_truth=table(reference_events(videos)), metadata=length)
        _, expected = judge.compute_macro_f_score(table(find_events(found, videos, threshold)))
    scores = compute_sed_metrics(found, videos, NAMES, resamples=0, threshold=threshold)
    per_class = scores.details["per_class"]
    for label, name in NAMES.items():
        # psds_eval has no F1 for a class without true positives
        assert per_class[name]["intersection_f1"] == pytest.approx(np.nan_to_num(expected[str(label)]), abs=1e-12)
    assert get_values(scores)["intersection_f1_macro"] == pytest.approx(np.mean(np.nan_to_num(list(expected.values()))))


@pytest.mark.parametrize("seed", range(3))
def test_resampled_scores_equal_scores_of_written_out_videos(seed):
    """A video drawn twice counts as two videos; the PSDS of these is the library's."""
    videos, found = random_sed_case(seed, videos=10, duration=60.0)
    scores = compute_sed_metrics(found, videos, NAMES, resamples=6, seed=seed)
    assert get_values(scores)["psds1"] > 0.01
    for row, weight in enumerate(resample_weights(len(videos), 6, seed)[1:, :-1]):
        parts, copies = [], []
        for i, times in enumerate(weight):
            for k in range(times):
                copies.append(replace(videos[i], video_id=f"{i}/{k}"))
                own = found.video == i
                rows = (found.segments[own], found.scores[own], found.labels[own])
                parts.append(Detections((f"{i}/{k}",), np.zeros(own.sum(), np.int64), *rows))
        expected = get_values(compute_sed_metrics(Detections.concat(parts), copies, NAMES, resamples=0))
        for name, value in expected.items():
            if not name.endswith("best"):  # their thresholds are those of all videos
                assert scores.samples[name][row] == pytest.approx(value, abs=1e-12), name


@pytest.mark.parametrize("metric", ["psds1", "psds2"])
def test_resample_psds_of_all_videos_equals_the_library(metric):
    for seed in range(2):
        videos, found = random_sed_case(seed, videos=30, duration=60.0)
        reference = build_reference(videos)
        frames = build_score_frames(compute_frame_scores(found, videos, reference.labels), reference)
        deltas, _ = count_changes(metric, frames, reference)
        counts = collect_counts(deltas, reference)
        once = resample_psds(metric, counts, reference, np.ones((1, len(videos)), np.int32))
        value, by_class = compute_psds(metric, deltas, reference)
        assert 0.01 < value < by_class.mean() < 0.99
        assert once[0] == pytest.approx(value, abs=1e-12)


def test_best_threshold_beats_all_thresholds_tried():
    videos, found = random_sed_case(11)
    scores = compute_sed_metrics(found, videos, NAMES, resamples=0)
    per_class = scores.details["per_class"]
    tried = {
        t: compute_sed_metrics(found, videos, NAMES, resamples=0, threshold=t).details["per_class"]
        for t in np.arange(0.025, 1, 0.05).tolist()
    }
    for metric in F1S:
        for name in NAMES.values():
            best = max(rows[name][f"{metric}_f1"] for rows in tried.values())
            assert per_class[name][f"{metric}_f1_best"] == pytest.approx(best, abs=1e-12)
            at = min(
                tried, key=lambda t, name=name, metric=metric: abs(t - per_class[name][f"{metric}_best_threshold"])
            )
            assert tried[at][name][f"{metric}_f1"] == pytest.approx(best, abs=1e-12)
        mean = np.mean([row[f"{metric}_f1_best"] for row in per_class.values()])
        assert get_values(scores)[f"{metric}_f1_macro_best"] == pytest.approx(mean)


def test_perfect_scores_one_nothing_scores_zero_and_one_class_works():
    videos, _ = random_sed_case(1)
    rows = [(i, s, e, 0.9, c) for i, one in enumerate(videos) for s, e, c in list_events(one)]
    ids = [v.video_id for v in videos]
    assert set(get_values(compute_sed_metrics(build_detections(rows, ids), videos, NAMES, resamples=3)).values()) == {
        1.0
    }
    nothing = compute_sed_metrics(Detections.concat([]), videos, NAMES, resamples=3)
    assert set(get_values(nothing).values()) == {0.0}
    dogs = [sed_video("a", [(1, 3, 3)]), sed_video("b", [])]
    scores = compute_sed_metrics(build_detections([(0, 1, 3, 0.9, 3)], ["a"]), dogs, NAMES, resamples=50)
    assert set(get_values(scores).values()) == {1.0}
    assert json.loads(json.dumps(scores.details, allow_nan=False))["per_class"]["dog"]["psds2"] == 1
    assert np.isnan(scores.samples["psds1"]).any()  # a resample of b alone has no events


def test_overlapping_events_are_merged_and_unscored_ones_counted():
    """Repeated and overlapping annotations are one event; detections of other videos and classes are counted only."""
    videos = [sed_video("a", [(1, 2, 3), (1.5, 3, 3), (1, 2, 3), (3, 4, 3), (5, 5, 3), (6, 7, 5)]), sed_video("b", [])]
    found = build_detections(
        [(0, 1, 4, 1, 3), (0, 6, 7, 1, 5), (0, 0, 1, 1, 9), (0, 0, 1, 1, -1), (1, 0, 1, 1, 3)], ["a", "x"]
    )
    scores = compute_sed_metrics(found, videos, NAMES, resamples=2)
    assert set(get_values(scores).values()) == {1.0}
    tree = scores.details
    assert tree["events"] == 2
    assert tree["left_out"] == {
        "events_without_length_in_their_video": 1,
        "events_joined_to_another": 3,
        "detections_of_other_videos": 1,
        "detections_of_classes_without_events": 2,
        "videos_not_annotated": ["x"],
    }
    assert list(tree["per_class"]) == ["dog", "speech\\loud"]


def test_events_beyond_the_video_are_cut():
    """Up to one second beyond the end counts. Without the cut, times in another unit would fill the memory."""
    videos = [sed_video("a", [(0, 2, 3), (8, 10.75, 3)])]
    found = build_detections([(0, -1, 2, 1, 3), (0, 8, 10.75, 1, 3), (0, -3, -1, 1, 3), (0, 5e8, 6e8, 1, 3)], ["a"])
    assert set(get_values(compute_sed_metrics(found, videos, NAMES, resamples=0)).values()) == {1.0}
    assert compute_frame_scores(found, videos, LABELS)[0][0].tolist() == [0, 2, 8, 10, 10.75]
    far = [sed_video("a", [(0, 2, 3), (8, 9e8, 3), (11, 12, 3), (5e8, 6e8, 5)])]
    found = build_detections([(0, 0, 2, 1, 3), (0, 8, 7e8, 1, 3)], ["a"])
    scores = compute_sed_metrics(found, far, NAMES, resamples=0)
    assert set(get_values(scores).values()) == {1.0}
    assert scores.details["left_out"]["events_without_length_in_their_video"] == 2


def test_videos_or_detections_that_do_not_fit_are_refused():
    videos, found = random_sed_case(0)
    empty = [replace(v, segments=np.empty((0, 2)), labels=np.empty(0, np.int64)) for v in videos]
    with pytest.raises(DataError, match="none of 8 videos has an event"):
        compute_sed_metrics(found, empty, NAMES)
    with pytest.raises(DataError, match="not results for these annotations"):
        compute_sed_metrics(replace(found, labels=found.labels + 100), videos, NAMES)


def test_libraries_print_no_warnings():
    code = (
        "from tests.evaluation.sound_events.test_scores import *\n"
        "compute_sed_metrics(*reversed(random_sed_case(0)), NAMES, resamples=2)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


TABLES = REAL / "desed"


@pytest.fixture(scope="module")
def desed():
    """DESED's validation clips from its own tables, class names, and the official figures."""
    rows = list(csv.DictReader((TABLES / "desed_validation.tsv").open(), delimiter="\t"))
    names = dict(enumerate(sorted({row["event_label"] for row in rows if row["event_label"]})))
    ids = {name: label for label, name in names.items()}
    events = {row["filename"]: [] for row in rows}
    for row in rows:
        if row["onset"]:
            events[row["filename"]].append((float(row["onset"]), float(row["offset"]), ids[row["event_label"]]))
    durations = csv.DictReader((TABLES / "dcase2021_validation_durations.tsv").open(), delimiter="\t")
    clips = [(row["filename"], float(row["duration"])) for row in durations]
    videos = [sed_video(name.removesuffix(".wav"), events[name], duration) for name, duration in clips]
    return videos, names, json.loads((TABLES / "dcase2021_baseline_student.official_sed.json").read_text())


@NEEDS_SHARED
def test_dcase_baseline_has_its_official_f1(desed):
    videos, names, official = desed
    found = read_events(STUDENT_FOLDER / "predictions0.5.csv", names)
    scores = compute_sed_metrics(found, videos, names, metrics=F1S, resamples=200)
    event = official[
        "sed_eval_event_based(t_collar=0.2,percentage_of_length=0.2,empty_system_output_handling=zero_score)"
    ]
    segment = official["sed_eval_segment_based(time_resolution=1.0)"]
    intersection = official["psds_eval_intersection_macro_f1(0.5,0.5,0.3)"]
    assert sum(len(v.labels) == 0 for v in videos) == 15
    assert get_values(scores)["event_f1_macro"] == pytest.approx(0.39872816179382786, abs=1e-14)
    assert get_values(scores)["segment_f1_macro"] == pytest.approx(0.6935255609849056, abs=1e-14)
    assert get_values(scores)["intersection_f1_macro"] == pytest.approx(0.6374170478522705, abs=1e-14)
    for name, tree in (("event", event), ("segment", segment)):
        micro = tree["overall"]["f_measure"]["f_measure"]
        assert get_values(scores)[f"{name}_f1_micro"] == pytest.approx(micro, abs=1e-14)
    for name, row in scores.details["per_class"].items():
        for key, tree in (("event_f1", event), ("segment_f1", segment)):
            assert row[key] == pytest.approx(tree["class_wise"][name]["f_measure"]["f_measure"], abs=1e-14)
        assert row["intersection_f1"] == pytest.approx(intersection["per_class"][name], abs=1e-14)
    for value, low, high in scores.headline.values():
        assert low < value < high
        assert high - low < 0.07


@pytest.mark.slow
@NEEDS_SHARED
def test_dcase_baseline_has_its_official_psds(desed):
    """psds_eval 0.5.3 gives .52810 for scenario 2, too, and differs in the sixth digit."""
    videos, names, official = desed
    found = read_operating_points(STUDENT_FOLDER / "operating_points.tar.gz", names)
    values = get_values(compute_sed_metrics(found, videos, names, metrics=tuple(CURVES), resamples=0))
    assert values["psds1"] == pytest.approx(official["psds_scenario1"]["value"], abs=1e-12)
    assert values["psds2"] == pytest.approx(official["psds_scenario2"]["value"], abs=5e-6)


@NEEDS_SHARED
def test_dcase_baseline_as_scored_segments_equals_sed_eval(desed):
    """The same system as a results file, on every fourth clip."""
    annotations = load_annotations(DESED)
    found = read_results(STUDENT, annotations.class_names)
    videos = list(annotations.videos[::4])
    values = get_values(compute_sed_metrics(found, videos, annotations.class_names, resamples=0))
    for name, expected in sed_eval_f1s(videos, found, 0.5, np.arange(10)).items():
        assert values[name] == pytest.approx(expected, abs=1e-12), name
    for metric in F1S:
        assert values[f"{metric}_f1_macro_best"] > values[f"{metric}_f1_macro"] > 0.35
