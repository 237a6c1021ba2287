import tarfile

import numpy as np
import pytest

from libs.core.errors import DataError
from libs.evaluation.sound_events.scores import CURVES, F1S, compute_sed_metrics
from libs.evaluation.sound_events.tables import compute_frame_scores, read_events, read_operating_points
from tests.evaluation.sound_events.cases import LABELS, NAMES, find_events, get_values, random_sed_case, sed_video


@pytest.mark.parametrize("seed", range(5))
def test_frame_scores_are_the_highest_of_covering_detections(seed):
    videos, found = random_sed_case(seed)
    rng = np.random.default_rng(seed)
    for one, (times, scores) in zip(videos, compute_frame_scores(found, videos, LABELS), strict=True):
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


def test_frame_scores_above_a_threshold_are_unions_of_segments():
    videos, found = random_sed_case(7)
    for threshold in (0.0, 0.25, 0.5, 0.95, 1.0):
        expected = find_events(found, videos, threshold)
        for one, (times, scores) in zip(videos, compute_frame_scores(found, videos, LABELS), strict=True):
            events = []
            for c, label in enumerate(LABELS.tolist()):
                on = np.diff(np.concatenate([[0], scores[:, c] > threshold, [0]]).astype(int))
                events += [(start, end, label) for start, end in zip(times[on > 0], times[on < 0], strict=True)]
            assert events == expected[one.video_id]


HEADER = "filename\tonset\toffset\tevent_label\n"


def test_read_events_accepts_dcase_and_exported_tables(tmp_path):
    path = tmp_path / "found.csv"
    path.write_text(",event_label,onset,offset,filename\n0,dog,0.5,2,a.wav\n1,water,1,2.25,b_1.0_2.0.WAV\n2,,,,c.wav\n")
    found = read_events(path, NAMES)
    assert found.video_ids == ("a", "b_1.0_2.0", "c")
    assert found.segments.tolist() == [[0.5, 2], [1, 2.25]]
    assert found.labels.tolist() == [3, 9]
    path.write_bytes(b"\xef\xbb\xbf" + HEADER.encode().replace(b"\n", b"\r\n") + b"a.wav\t1\t2\tdog\r\n")
    assert read_events(path, NAMES).segments.tolist() == [[1, 2]]
    path.write_text(HEADER + "a.wav\t1\t2\tdog\n")
    videos = [sed_video("a", [(1, 2, 3)])]
    values = get_values(compute_sed_metrics(read_events(path, NAMES), videos, NAMES, metrics=F1S, resamples=2))
    assert values == {f"{metric}_f1_{mean}": 1.0 for metric in F1S for mean in ("macro", "micro")}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("filename\tonset\tevent_label\n", "column offset is missing"),
        ("", "column filename is missing"),
        (HEADER + "a.wav\t1\t2\tdog\na.wav\t3\t2\tdog\n", "line 3: .*'3', '2'.*expected 0 <= onset <= offset"),
        (HEADER + "a.wav\t-1\t2\tdog\n", "line 2: .*'-1'.*expected 0 <= onset"),
        (HEADER + "a.wav\t1\tinf\tdog\n", "line 2: .*'inf'.*expected 0 <= onset"),
        (HEADER + "a.wav\t1,5\t2\tdog\n", "line 2: .*'1,5'.*expected 0 <= onset"),
        (HEADER + "a.wav\t1\t2\tcow\n", "line 2: .*'cow'.*expected one of the classes dog"),
        (HEADER + "\t1\t2\tdog\n", "line 2: .*expected a filename"),
        (HEADER + "a.wav\t1\n", "line 2: .*'1', ''.*expected 0 <= onset"),
        ("filename\tonset\toffset\tevent_label\tna\xefve\n", "not UTF-8"),
    ],
)
def test_read_events_names_file_and_line_of_errors(tmp_path, text, message):
    path = tmp_path / "found.tsv"
    path.write_text(text, encoding="latin-1")
    with pytest.raises(DataError, match=message) as error:
        read_events(path, NAMES)
    assert str(path) in str(error.value)


def write_points(folder, found, thresholds):
    folder.mkdir(exist_ok=True)
    videos = [sed_video(name, []) for name in found.video_ids]
    for threshold in thresholds:
        rows = [
            f"{name}.wav\t{s}\t{e}\t{NAMES[c]}\n"
            for name, own in find_events(found, videos, threshold).items()
            for s, e, c in own
        ]
        (folder / f"points_th_{threshold}.tsv").write_text(HEADER + "".join(rows))


@pytest.mark.parametrize("packed", [False, True])
def test_operating_points_of_all_thresholds_give_the_psds_of_the_scores(tmp_path, packed):
    videos, found = random_sed_case(5)
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
    points = read_operating_points(path, NAMES)
    values = get_values(compute_sed_metrics(points, videos, NAMES, metrics=tuple(CURVES), resamples=2))
    expected = get_values(compute_sed_metrics(found, videos, NAMES, resamples=0))
    assert values == pytest.approx({name: expected[name] for name in ("psds1", "psds2")}, abs=1e-12)


def test_read_operating_points_names_the_faulty_table(tmp_path):
    folder = tmp_path / "points"
    folder.mkdir()
    with pytest.raises(DataError, match="contains no .tsv"):
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
