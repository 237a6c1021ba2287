"""Metrics of sound event detection against sed_eval, psds_eval and sed_scores_eval itself, and slow oracles."""

import csv
import io
import json
import subprocess
import sys
import tarfile
import warnings
from dataclasses import replace

import numpy as np
import pytest

from libs.core.errors import DataError, UserError
from libs.core.types import Detections, Video
from libs.datasets.annotations import load_annotations
from libs.evaluation.metrics.bootstrap import resample_weights
from libs.evaluation.results import read_results
from libs.evaluation.sound_events import scores as sed
from libs.evaluation.sound_events.scores import compute_sed_metrics, score_events, score_operating_points
from libs.evaluation.sound_events.tables import frame_scores, read_events, read_operating_points
from tests.conftest import NEEDS_SHARED, ROOT, SHARED

NAMES = {3: "dog", 5: "speech\\loud", 9: "water"}
LABELS = np.array(sorted(NAMES))


def video(name, events, duration=10.0):
    """events: (start, end, label)."""
    table = np.array(events, np.float64).reshape(-1, 3)
    return Video(name, "val", duration, None, table[:, :2].copy(), table[:, 2].astype(np.int64))


def detected(rows, ids):
    """rows: (video's place, start, end, score, label)."""
    table = np.array(rows, np.float64).reshape(-1, 5)
    whole = table[:, [0, 4]].astype(np.int64)
    return Detections(tuple(ids), whole[:, 0], table[:, 1:3].copy(), table[:, 3].copy(), whole[:, 1])


def random_case(seed, grid=4, videos=8, duration=10.0):
    """Coarse times and scores, so that ties, touching ends and exact collars happen. The last video has no events, the
    one before has no detections, some detections end after their video. What is near an event scores higher."""
    rng = np.random.default_rng(seed)

    def spans(n, longest):
        start = rng.integers(0, 9 * grid, n)
        return start / grid, (start + rng.integers(1, longest * grid, n)) / grid

    truth = []
    for i in range(videos):
        n = 0 if i == videos - 1 else rng.integers(1, 6)
        start, end = spans(n, 4)
        truth.append(video(f"v{i}", np.stack([start, end.clip(max=10), rng.choice(LABELS, n)], axis=1), duration))
    truth[0] = video("v0", [(1 + i, 1.5 + i, c) for i, c in enumerate(LABELS)], duration)  # every class occurs
    rows = []
    for i in (i for i in range(videos) if i != videos - 2):
        near = [(max(0, s + rng.integers(-1, 2) / grid), e + rng.integers(-1, 2) / grid, c) for s, e, c in of(truth[i])]
        rows += [(i, s, e, rng.integers(8, 20) / 20, c) for s, e, c in near if e > s]
        start, end = spans(8, 5)
        rows += [
            (i, *row)
            for row in zip(start, end.clip(max=11), rng.integers(1, 13, 8) / 20, rng.choice(LABELS, 8), strict=True)
        ]
    order = rng.permutation(len(rows))
    rows = sorted((rows[i] for i in order), key=lambda row: row[0])
    return truth, detected(rows, [v.video_id for v in truth])


def of(one):
    return [(s, e, c) for (s, e), c in zip(one.segments.tolist(), one.labels.tolist(), strict=True)]


def joined(spans):
    """Union of intervals, as a list of intervals."""
    result = []
    for start, end in sorted(spans):
        if result and start <= result[-1][1]:
            result[-1] = (result[-1][0], max(result[-1][1], end))
        else:
            result.append((start, end))
    return result


def decisions(found, videos, threshold, labels=LABELS):
    """{video_id: [(start, end, label)]}: the union of the segments with a score above the threshold."""
    result = {v.video_id: [] for v in videos}
    for name in result:
        own = np.array([v == name for v in found.video_ids], bool)[found.video] & (found.scores > threshold)
        for label in labels.tolist():
            spans = joined(found.segments[own & (found.labels == label)].tolist())
            result[name] += [(s, e, label) for s, e in spans]
    return result


def truth_of(videos, labels=LABELS):
    return {v.video_id: [(*span, c) for c in labels.tolist() for span in joined(spans_of(v, c))] for v in videos}


def spans_of(one, label):
    return one.segments[one.labels == label].tolist()


@pytest.mark.parametrize("seed", range(5))
def test_frame_scores_are_the_highest_that_cover(seed):
    videos, found = random_case(seed)
    rng = np.random.default_rng(seed)
    for one, (times, scores) in zip(videos, frame_scores(found, videos, LABELS), strict=True):
        own = np.flatnonzero(np.array([v == one.video_id for v in found.video_ids])[found.video])
        assert times[0] == 0
        assert times[-1] == max([one.duration, *found.segments[own, 1]])
        assert (np.diff(times) > 0).all()
        assert scores.shape == (len(times) - 1, len(LABELS))
        for t in rng.uniform(0, times[-1], 50):
            frame = np.searchsorted(times, t, side="right") - 1
            for c, label in enumerate(LABELS):
                cover = [
                    found.scores[i]
                    for i in own
                    if found.labels[i] == label and found.segments[i, 0] <= t < found.segments[i, 1]
                ]
                assert scores[frame, c] == max(cover, default=0)


def test_decisions_are_unions_of_segments():
    videos, found = random_case(7)
    for threshold in (0.0, 0.25, 0.5, 0.95, 1.0):
        expected = decisions(found, videos, threshold)
        for one, (times, scores) in zip(videos, frame_scores(found, videos, LABELS), strict=True):
            events = []
            for c, label in enumerate(LABELS.tolist()):
                on = np.diff(np.concatenate([[0], scores[:, c] > threshold, [0]]).astype(int))
                events += [(start, end, label) for start, end in zip(times[on > 0], times[on < 0], strict=True)]
            assert events == expected[one.video_id]


def sed_eval_f1s(videos, found, threshold, labels=LABELS):
    import sed_eval

    names = [str(label) for label in labels]
    event = sed_eval.sound_event.EventBasedMetrics(
        names, t_collar=0.2, percentage_of_length=0.2, empty_system_output_handling="zero_score"
    )
    segment = sed_eval.sound_event.SegmentBasedMetrics(names, time_resolution=1.0)
    segment.empty_system_output_handling = "zero_score"  # else a class never found is left out of the mean
    estimated, reference = decisions(found, videos, threshold, labels), truth_of(videos, labels)
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
def test_f1_as_sed_eval_has_it(seed, grid):
    """On tenths of seconds collars are hit exactly, but for rounding: both must decide alike."""
    videos, found = random_case(seed, grid)
    threshold = (0.05, 0.3, 0.5, 0.7, 0.9, 0.97)[seed]
    values = compute_sed_metrics(found, videos, NAMES, resamples=0, threshold=threshold).values
    for name, expected in sed_eval_f1s(videos, found, threshold).items():
        assert values[name] == pytest.approx(expected, abs=1e-12), name


@pytest.mark.parametrize("seed", range(4))
def test_intersection_f1_as_psds_eval_has_it(seed):
    import pandas
    import psds_eval

    videos, found = random_case(seed)
    threshold = (0.1, 0.3, 0.5, 0.8)[seed]

    def table(events):
        rows = [(f, s, e, str(c)) for f, own in events.items() for s, e, c in own]
        return pandas.DataFrame(rows, columns=["filename", "onset", "offset", "event_label"])

    length = pandas.DataFrame([(v.video_id, v.duration) for v in videos], columns=["filename", "duration"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        judge = psds_eval.PSDSEval(0.5, 0.5, 0.3, ground_truth=table(truth_of(videos)), metadata=length)
        _, expected = judge.compute_macro_f_score(table(decisions(found, videos, threshold)))
    scores = compute_sed_metrics(found, videos, NAMES, resamples=0, threshold=threshold)
    per_class = scores.details["per_class"]
    for label, name in NAMES.items():
        # psds_eval has no F1 for a class without true positives
        assert per_class[name]["intersection_f1"] == pytest.approx(np.nan_to_num(expected[str(label)]), abs=1e-12)
    assert scores.values["intersection_f1_macro"] == pytest.approx(np.mean(np.nan_to_num(list(expected.values()))))


@pytest.mark.parametrize("seed", range(3))
def test_each_resample_is_what_the_library_gives_for_copies(seed):
    """A video drawn twice is two videos: F1s and, by the library itself, PSDS."""
    videos, found = random_case(seed, videos=10, duration=60.0)
    scores = compute_sed_metrics(found, videos, NAMES, resamples=6, seed=seed)
    assert scores.values["psds1"] > 0.01
    for row, weight in enumerate(resample_weights(len(videos), 6, seed)[1:, :-1]):
        parts, copies = [], []
        for i, times in enumerate(weight):
            for k in range(times):
                copies.append(replace(videos[i], video_id=f"{i}/{k}"))
                own = found.video == i
                rows = (found.segments[own], found.scores[own], found.labels[own])
                parts.append(Detections((f"{i}/{k}",), np.zeros(own.sum(), np.int64), *rows))
        expected = compute_sed_metrics(Detections.concat(parts), copies, NAMES, resamples=0).values
        for name, value in expected.items():
            if not name.endswith("best"):  # whose thresholds are those of all videos
                assert scores.samples[name][row] == pytest.approx(value, abs=1e-12), name


@pytest.mark.parametrize("metric", ["psds1", "psds2"])
def test_psds_with_every_video_once_is_the_library_s(metric):
    for seed in range(2):
        videos, found = random_case(seed, videos=30, duration=60.0)
        truth = sed.annotated(videos)
        deltas, _ = sed.count(metric, sed.library_tables(frame_scores(found, videos, truth.labels), truth), truth)
        once = sed.resampled_psds(metric, sed.counts_of(deltas, truth), truth, np.ones((1, len(videos)), np.int32))
        value, of_classes = sed.library_psds(metric, deltas, truth)
        assert 0.01 < value < of_classes.mean() < 0.99
        assert once[0] == pytest.approx(value, abs=1e-12)


def test_best_threshold_is_the_best():
    videos, found = random_case(11)
    scores = compute_sed_metrics(found, videos, NAMES, resamples=0)
    per_class = scores.details["per_class"]
    tried = {
        t: compute_sed_metrics(found, videos, NAMES, resamples=0, threshold=t).details["per_class"]
        for t in np.arange(0.025, 1, 0.05).tolist()
    }
    for metric in sed.F1S:
        for name in NAMES.values():
            best = max(rows[name][f"{metric}_f1"] for rows in tried.values())
            assert per_class[name][f"{metric}_f1_best"] == pytest.approx(best, abs=1e-12)
            at = min(
                tried, key=lambda t, name=name, metric=metric: abs(t - per_class[name][f"{metric}_best_threshold"])
            )
            assert tried[at][name][f"{metric}_f1"] == pytest.approx(best, abs=1e-12)
        mean = np.mean([row[f"{metric}_f1_best"] for row in per_class.values()])
        assert scores.values[f"{metric}_f1_macro_best"] == pytest.approx(mean)


def test_perfect_nothing_and_one_class():
    videos, _ = random_case(1)
    rows = [(i, s, e, 0.9, c) for i, one in enumerate(videos) for s, e, c in of(one)]
    ids = [v.video_id for v in videos]
    assert set(compute_sed_metrics(detected(rows, ids), videos, NAMES, resamples=3).values.values()) == {1.0}
    nothing = compute_sed_metrics(Detections.concat([]), videos, NAMES, resamples=3)
    assert set(nothing.values.values()) == {0.0}
    dogs = [video("a", [(1, 3, 3)]), video("b", [])]
    scores = compute_sed_metrics(detected([(0, 1, 3, 0.9, 3)], ["a"]), dogs, NAMES, resamples=50)
    assert set(scores.values.values()) == {1.0}
    assert json.loads(json.dumps(scores.tree(), allow_nan=False))["headline"]["psds2"]["value"] == 1
    assert np.isnan(scores.samples["psds1"]).any()  # a resample of b alone has no events


def test_joined_events_and_what_is_left_out():
    """Repeats and overlaps are one event, as one hears them; others' videos and classes are counted, not scored."""
    videos = [video("a", [(1, 2, 3), (1.5, 3, 3), (1, 2, 3), (3, 4, 3), (5, 5, 3), (6, 7, 5)]), video("b", [])]
    found = detected([(0, 1, 4, 1, 3), (0, 6, 7, 1, 5), (0, 0, 1, 1, 9), (0, 0, 1, 1, -1), (1, 0, 1, 1, 3)], ["a", "x"])
    scores = compute_sed_metrics(found, videos, NAMES, resamples=2)
    assert set(scores.values.values()) == {1.0}
    tree = scores.tree()
    assert tree["events"] == 2
    assert tree["left_out"] == {
        "events_without_length_in_their_video": 1,
        "events_joined_to_another": 3,
        "detections_of_other_videos": 1,
        "detections_of_classes_without_events": 2,
        "videos_not_annotated": ["x"],
    }
    assert list(tree["per_class"]) == ["dog", "speech\\loud"]


def test_what_lies_beyond_the_video():
    """Up to a second counts as it is; the rest, and what lies before the start, is cut off (times in another unit would
    fill the memory with empty seconds)."""
    videos = [video("a", [(0, 2, 3), (8, 10.75, 3)])]
    found = detected([(0, -1, 2, 1, 3), (0, 8, 10.75, 1, 3), (0, -3, -1, 1, 3), (0, 5e8, 6e8, 1, 3)], ["a"])
    assert set(compute_sed_metrics(found, videos, NAMES, resamples=0).values.values()) == {1.0}
    assert frame_scores(found, videos, LABELS)[0][0].tolist() == [0, 2, 8, 10, 10.75]
    far = [video("a", [(0, 2, 3), (8, 9e8, 3), (11, 12, 3), (5e8, 6e8, 5)])]
    found = detected([(0, 0, 2, 1, 3), (0, 8, 7e8, 1, 3)], ["a"])
    scores = compute_sed_metrics(found, far, NAMES, resamples=0)
    assert set(scores.values.values()) == {1.0}
    assert scores.details["left_out"]["events_without_length_in_their_video"] == 2


@pytest.mark.parametrize("score", [float("nan"), -0.1, 1.5])
def test_bad_scores(score):
    videos, found = random_case(0)
    scores = found.scores.copy()
    scores[3] = score
    with pytest.raises(DataError, match=rf"v0: score {score}, expected \[0, 1\]"):
        compute_sed_metrics(replace(found, scores=scores), videos, NAMES)


def test_nothing_to_score():
    videos, found = random_case(0)
    empty = [replace(v, segments=np.empty((0, 2)), labels=np.empty(0, np.int64)) for v in videos]
    with pytest.raises(DataError, match="none of 8 videos has an event"):
        compute_sed_metrics(found, empty, NAMES)
    with pytest.raises(DataError, match="not results for these annotations"):
        compute_sed_metrics(replace(found, labels=found.labels + 100), videos, NAMES)


def test_without_the_library(monkeypatch):
    videos, found = random_case(0)
    monkeypatch.setitem(sys.modules, "sed_scores_eval", None)
    with pytest.raises(UserError, match=r"sed_scores_eval .*pip install -e .\[metrics\]"):
        compute_sed_metrics(found, videos, NAMES)


def test_the_libraries_keep_quiet():
    code = "from tests.test_sed import *; compute_sed_metrics(*reversed(random_case(0)), NAMES, resamples=2)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


HEADER = "filename\tonset\toffset\tevent_label\n"


def test_event_tables(tmp_path):
    path = tmp_path / "found.csv"
    path.write_text(",event_label,onset,offset,filename\n0,dog,0.5,2,a.wav\n1,water,1,2.25,b_1.0_2.0.WAV\n2,,,,c.wav\n")
    found = read_events(path, NAMES)
    assert found.video_ids == ("a", "b_1.0_2.0", "c")
    assert found.segments.tolist() == [[0.5, 2], [1, 2.25]]
    assert found.labels.tolist() == [3, 9]
    path.write_bytes(b"\xef\xbb\xbf" + HEADER.encode().replace(b"\n", b"\r\n") + b"a.wav\t1\t2\tdog\r\n")
    assert read_events(path, NAMES).segments.tolist() == [[1, 2]]
    path.write_text(HEADER + "a.wav\t1\t2\tdog\n")
    videos = [video("a", [(1, 2, 3)])]
    scores = score_events(path, videos, NAMES, resamples=2)
    assert set(scores.values) == {f"{m}_f1_{mean}" for m in sed.F1S for mean in ("macro", "micro")}
    assert set(scores.values.values()) == {1.0}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("filename\tonset\tevent_label\n", "column offset is missing"),
        ("", "column filename is missing"),
        (HEADER + "a.wav\t1\t2\tdog\na.wav\t3\t2\tdog\n", "line 3: from '3' to '2'"),
        (HEADER + "a.wav\t-1\t2\tdog\n", "line 2: from '-1'"),
        (HEADER + "a.wav\t1\tinf\tdog\n", "line 2: from '1' to 'inf'"),
        (HEADER + "a.wav\t1,5\t2\tdog\n", "line 2: from '1,5'"),
        (HEADER + "a.wav\t1\t2\tcow\n", "line 2: class 'cow' is not"),
        (HEADER + "\t1\t2\tdog\n", "line 2: no filename"),
        (HEADER + "a.wav\t1\n", "line 2: from '1' to ''"),
        ("filename\tonset\toffset\tevent_label\tna\xefve\n", "not UTF-8"),
    ],
)
def test_bad_event_tables(tmp_path, text, message):
    path = tmp_path / "found.tsv"
    path.write_text(text, encoding="latin-1")
    with pytest.raises(DataError, match=message) as error:
        read_events(path, NAMES)
    assert str(path) in str(error.value)


def write_points(folder, found, thresholds):
    folder.mkdir(exist_ok=True)
    videos = [video(name, []) for name in found.video_ids]
    for threshold in thresholds:
        rows = [
            f"{name}.wav\t{s}\t{e}\t{NAMES[c]}\n"
            for name, own in decisions(found, videos, threshold).items()
            for s, e, c in own
        ]
        (folder / f"points_th_{threshold}.tsv").write_text(HEADER + "".join(rows))


@pytest.mark.parametrize("packed", [False, True])
def test_operating_points_are_psds_of_the_scores(tmp_path, packed):
    """Tables of all thresholds that differ say as much as the scores do."""
    videos, found = random_case(5)
    folder = tmp_path / "points"
    write_points(folder, found, [0.025, *(i / 20 for i in range(1, 20))])
    path = folder
    if packed:
        path = tmp_path / "points.tar.gz"
        with tarfile.open(path, "w:gz") as tar:
            tar.add(folder, "points")
            escape = tarfile.TarInfo("../../points_th_0.5.tsv")
            escape.type, escape.linkname = tarfile.SYMTYPE, "/etc/passwd"
            tar.addfile(escape)
    values = score_operating_points(path, videos, NAMES, resamples=2).values
    expected = compute_sed_metrics(found, videos, NAMES, resamples=0).values
    assert values == pytest.approx({name: expected[name] for name in ("psds1", "psds2")}, abs=1e-12)


def test_bad_operating_points(tmp_path):
    folder = tmp_path / "points"
    folder.mkdir()
    with pytest.raises(DataError, match="holds no .tsv"):
        read_operating_points(folder, NAMES)
    (folder / "a_0.5.tsv").write_text(HEADER + "a.wav\t1\t3\tdog\n")
    (folder / "a_0.25.tsv").write_text(HEADER + "a.wav\t1\t2\tdog\n")
    with pytest.raises(DataError, match=r"a's event \[1.0, 3.0\] in a_0.5.tsv lies within no event of a_0.25.tsv"):
        read_operating_points(folder, NAMES)
    (folder / "b_0.50.tsv").write_text(HEADER)
    with pytest.raises(DataError, match="its threshold is also that of a_0.5.tsv"):
        read_operating_points(folder, NAMES)
    (folder / "all.tsv").write_text(HEADER)
    with pytest.raises(DataError, match=r"all.tsv: expected a name that ends in its threshold"):
        read_operating_points(folder, NAMES)
    for name, data in (("none.tar", None), ("text.tar", b"no tar"), ("cut.tar.gz", cut_archive())):
        path = tmp_path / name
        if data is not None:
            path.write_bytes(data)
        with pytest.raises(DataError, match=f"{name}: .*expected a folder or tar file"):
            read_operating_points(path, NAMES)


def cut_archive():
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as tar:
        entry = tarfile.TarInfo("a_0.5.tsv")
        entry.size = 20_000
        tar.addfile(entry, io.BytesIO(np.random.default_rng(0).bytes(20_000)))
    return file.getvalue()[:9_000]


DESED = SHARED / "real/desed"
STUDENT = DESED / "dcase2021_baseline_student"


@pytest.fixture(scope="module")
def desed():
    """DESED's validation clips by its own tables, class names, and the official figures."""
    rows = list(csv.DictReader((DESED / "desed_validation.tsv").open(), delimiter="\t"))
    names = dict(enumerate(sorted({row["event_label"] for row in rows if row["event_label"]})))
    ids = {name: label for label, name in names.items()}
    events = {row["filename"]: [] for row in rows}
    for row in rows:
        if row["onset"]:
            events[row["filename"]].append((float(row["onset"]), float(row["offset"]), ids[row["event_label"]]))
    durations = csv.DictReader((DESED / "dcase2021_validation_durations.tsv").open(), delimiter="\t")
    clips = [(row["filename"], float(row["duration"])) for row in durations]
    videos = [video(name.removesuffix(".wav"), events[name], duration) for name, duration in clips]
    return videos, names, json.loads((DESED / "dcase2021_baseline_student.official_sed.json").read_text())


@NEEDS_SHARED
def test_official_f1(desed):
    videos, names, official = desed
    scores = score_events(STUDENT / "predictions0.5.csv", videos, names, resamples=200)
    event = official[
        "sed_eval_event_based(t_collar=0.2,percentage_of_length=0.2,empty_system_output_handling=zero_score)"
    ]
    segment = official["sed_eval_segment_based(time_resolution=1.0)"]
    intersection = official["psds_eval_intersection_macro_f1(0.5,0.5,0.3)"]
    assert sum(len(v.labels) == 0 for v in videos) == 15
    assert scores.values["event_f1_macro"] == pytest.approx(0.39872816179382786, abs=1e-14)
    assert scores.values["segment_f1_macro"] == pytest.approx(0.6935255609849056, abs=1e-14)
    assert scores.values["intersection_f1_macro"] == pytest.approx(0.6374170478522705, abs=1e-14)
    for name, tree in (("event", event), ("segment", segment)):
        micro = tree["overall"]["f_measure"]["f_measure"]
        assert scores.values[f"{name}_f1_micro"] == pytest.approx(micro, abs=1e-14)
    for name, row in scores.details["per_class"].items():
        for key, tree in (("event_f1", event), ("segment_f1", segment)):
            assert row[key] == pytest.approx(tree["class_wise"][name]["f_measure"]["f_measure"], abs=1e-14)
        assert row["intersection_f1"] == pytest.approx(intersection["per_class"][name], abs=1e-14)
    for value, low, high in scores.headline.values():
        assert low < value < high
        assert high - low < 0.07


@NEEDS_SHARED
def test_official_psds(desed):
    """psds_eval 0.5.3 has .52810 for scenario 2 as well, and differs in the sixth digit."""
    videos, names, official = desed
    values = score_operating_points(STUDENT / "operating_points.tar.gz", videos, names, resamples=0).values
    assert values["psds1"] == pytest.approx(official["psds_scenario1"]["value"], abs=1e-12)
    assert values["psds2"] == pytest.approx(official["psds_scenario2"]["value"], abs=5e-6)


@NEEDS_SHARED
def test_student_as_scored_segments_judged_by_sed_eval(desed):
    """The same system in the project's results format, every fourth clip."""
    annotations = load_annotations(DESED / "desed_validation.anet_format.json")
    found = read_results(STUDENT / "derived_scored_detections.anet_format.json.gz", annotations.class_names)
    videos = list(annotations.videos[::4])
    values = compute_sed_metrics(found, videos, annotations.class_names, resamples=0).values
    for name, expected in sed_eval_f1s(videos, found, 0.5, np.arange(10)).items():
        assert values[name] == pytest.approx(expected, abs=1e-12), name
    for metric in sed.F1S:
        assert values[f"{metric}_f1_macro_best"] > values[f"{metric}_f1_macro"] > 0.35
