"""tools/import_annotations.py: what it reads, what it refuses, how it divides, what it derives from the data."""

import csv
import json
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import yaml

from libs.core.configfile import load_config
from libs.core.errors import DataError
from libs.core.prompts import load_prompts
from libs.datasets.annotations import load_annotations
from libs.datasets.importing import derive
from libs.datasets.importing.splits import lacks, recognise, stratify
from libs.datasets.importing.tables import read_source
from libs.features.windows import num_windows
from tests.conftest import NEEDS_SHARED, ROOT, SHARED

HEADER = "video,start,end,label"
ROWS = [("a", 0.5, 2.0, "dog"), ("a", 1.0, 3.25, "cat"), ("b", 0.0, 4.0, "dog"), ("c", 2.5, 3.0, "cat")]
TABLE = "\n".join([HEADER, *(",".join(map(str, row)) for row in ROWS), ""])
BASE = ROOT / "configs/multi_task_anet_unav_dcase.yaml"
SCRIPT = "tools/import_annotations.py"


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(path: Path, text: str, encoding: str = "utf-8") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode(encoding))
    return path


def events_of(path: Path) -> list[tuple]:
    return [(row.video, row.start, row.end, row.label) for row in read_source(path).rows if row.label is not None]


def imported() -> dict[str, list[tuple]]:
    """Of each video, what load_annotations reads of what was written."""
    annotations = load_annotations("data/mine/annotations/mine.json")
    return {
        video.video_id: [
            (*segment, annotations.class_name(label))
            for segment, label in zip(video.segments.tolist(), video.labels.tolist(), strict=True)
        ]
        for video in annotations.videos
    }


# ---- what is understood ----


@pytest.mark.parametrize(
    "text",
    [
        TABLE,
        TABLE.replace(",", ";"),
        TABLE.replace(",", "\t"),
        TABLE.replace(",", "|"),
        TABLE.replace("\n", "\r\n"),
        TABLE.replace(",", ";").replace(".", ","),
        TABLE.replace(HEADER, "FileName, Onset ,Offset,Event Label"),
        "\n" + TABLE.replace("\n", "\n\n"),
        "label,end,note,start,video\n" + "".join(f'"{r[3]}",{r[2]},"x, y",{r[1]},{r[0]}\n' for r in ROWS),
    ],
    ids=["plain", "semicolon", "tab", "bar", "crlf", "decimal comma", "synonyms", "blank lines", "order"],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "latin-1"])
def test_tables_are_the_same_table(tmp_path, text, encoding):
    assert events_of(write(tmp_path / "e.csv", text, encoding)) == ROWS


def test_what_was_found_out_is_said(tmp_path):
    text = TABLE.replace("dog", "Geräusch").replace(",", ";").replace(".", ",").replace(HEADER.replace(",", ";"), "")
    path = write(tmp_path / "e.csv", "video;start;end;label;who" + text, "latin-1")
    source = read_source(path)
    assert [row.label for row in source.rows] == ["Geräusch", "cat", "Geräusch", "cat"]
    notes = "\n".join(source.notes)
    for said in ("Latin-1", "Geräusch", "semicolons", "not used: who", "0,5 is read as 0.5 s"):
        assert said in notes
    assert not read_source(write(tmp_path / "plain.csv", TABLE)).notes


def test_a_row_without_event_is_a_clip_without_events(tmp_path):
    text = "filename\tonset\toffset\tevent_label\nx.wav\t0.5\t1.5\tdog\ny_30.000_40.000.wav\t\t\t\nz.wav\n"
    rows = read_source(write(tmp_path / "d.tsv", text)).rows
    assert [(row.video, row.label) for row in rows] == [
        ("x.wav", "dog"),
        ("y_30.000_40.000.wav", None),
        ("z.wav", None),
    ]


def test_audacity(tmp_path):
    text = "0.5\t2.0\tdog\n\\\t100.0\t3000.0\n1\t3.25\tcat\n"
    assert events_of(write(tmp_path / "a.txt", text)) == [("a", 0.5, 2.0, "dog"), ("a", 1.0, 3.25, "cat")]
    assert events_of(write(tmp_path / "b.txt", text.replace(".", ","))) == [
        ("b", 0.5, 2.0, "dog"),
        ("b", 1.0, 3.25, "cat"),
    ]
    assert [row.label for row in read_source(write(tmp_path / "empty.txt", "")).rows] == [None]
    with pytest.raises(DataError, match=r"c.txt, row 2: no label"):
        read_source(write(tmp_path / "c.txt", "0\t1\tdog\n2\t3\t\n"))


def test_a_folder_of_label_tracks(here, run_script):
    for name, label in (("a", "dog"), ("b", "dog"), ("c", "cat"), ("d", "cat"), ("e", "dog")):
        write(here / f"labels/{name}.txt", f"0.5\t2.0\t{label}\n")
    status, out, err = run_script(SCRIPT, "labels", "--name", "mine", "--task-type", "SED", "--duration", 4)
    assert status == 0, err
    assert imported()["c"] == [(0.5, 2.0, "cat")]


# ---- what is written ----


def many(videos: int = 20, extra: str = "") -> str:
    rows = [f"v{i:02d}.mp4,{0.5 + i % 3},{2 + i % 3},{'dog' if i % 3 else 'cat'}{extra}" for i in range(videos)]
    return "\n".join([HEADER, *rows, ""])


def test_what_is_written_loads(here, run_script):
    write(here / "e.csv", many())
    status, out, err = run_script(
        SCRIPT, "e.csv", "--name", "mine", "--task-type", "SED", "--duration", 8, "--prompt", "Hear the {label}."
    )
    assert status == 0, err
    config = load_config("configs/mine.yaml")
    task = config.tasks["TASK1"]
    assert task.format_prompt("dog") == "Hear the dog."
    assert task.dataset.num_classes == 2
    table = load_prompts(task, config.model.text_dim)
    assert np.allclose(np.linalg.norm(table, axis=1), 1, atol=1e-6)
    assert "random unit vectors" in out
    assert imported() == {f"v{i:02d}": [(0.5 + i % 3, 2.0 + i % 3, "dog" if i % 3 else "cat")] for i in range(20)}
    assert Path("data/mine/mine_labels.txt").read_text() == "cat\ndog\n"
    # The reasons stand in the file, too.
    head = Path("configs/mine.yaml").read_text()
    reasons = [line for line in out.splitlines() if line.startswith("- ")]
    assert len(reasons) >= 5
    assert all(f"# {line}\n" in head for line in reasons)
    sizes = Counter(v.subset for v in load_annotations("data/mine/annotations/mine.json").videos)
    assert sizes == {"training": 14, "validation": 2, "testing": 4}


def test_labels_fix_the_order(here, run_script):
    write(here / "e.csv", many())
    write(here / "order.txt", "dog\nfox\ncat\n")
    call = (SCRIPT, "e.csv", "--name", "mine", "--task-type", "SED", "--duration", 8, "--labels", "order.txt")
    status, out, err = run_script(*call)
    assert status == 0, err
    assert load_annotations("data/mine/annotations/mine.json").class_names == {0: "dog", 1: "fox", 2: "cat"}
    assert "training has no events of some classes, which cannot be learned: fox" in out


def test_subsets_are_kept_and_files_are_subsets(here, run_script):
    write(here / "a.csv", many(10))
    write(here / "b.csv", many(20).replace("v0", "w0"))
    write(here / "lengths.csv", "video,duration\n" + "".join(f"{c}{i:02d},9\n" for c in "vw" for i in range(20)))
    status, out, err = run_script(
        SCRIPT, "Train=a.csv", "test=b.csv", "--name", "mine", "--task-type", "SED", "--duration", 9
    )
    assert status == 0, err
    task = load_config("configs/mine.yaml").tasks["TASK1"]
    assert (task.train_split, task.val_split, task.test_split) == (("train",), ("test",), ("test",))
    status, _, err = run_script(
        SCRIPT, "train=a.csv", "test=a.csv", "--name", "two", "--task-type", "SED", "--duration", 9
    )
    assert (status, "a.csv, row 2: subset of video v00 is test, before it was train" in err) == (2, True)


def test_a_subset_without_labels_does_not_test(here, run_script):
    """ActivityNet withholds those of its testing subset."""
    database = {}
    for subset, count in (("training", 8), ("validation", 4), ("testing", 3)):
        for i in range(count):
            events = [] if subset == "testing" else [{"segment": [1, 2], "label": "dog"}]
            database[f"{subset}{i}"] = {"subset": subset, "duration": 8.0, "annotations": events}
    write(here / "anet.json", json.dumps({"database": database}))
    status, out, err = run_script(SCRIPT, "anet.json", "--name", "mine", "--task-type", "TAL")
    assert status == 0, err
    task = load_config("configs/mine.yaml").tasks["TASK1"]
    assert (task.val_split, task.test_split) == (("validation",), ("validation",))


# ---- what is refused: one line naming file and row, exit status 2, nothing written ----

BAD = {
    "missing column": (TABLE.replace("label", "what"), "e.csv, row 1: no column label (event_label"),
    "no header": (TABLE.split("\n", 1)[1], "e.csv, row 1: no column video"),
    "two meanings": (TABLE.replace(HEADER, "video,start,onset,end,label"), "row 1: the columns start and onset both"),
    "negative": (TABLE.replace("0.5", "-0.5"), "e.csv, row 2: starts at -0.5 s"),
    "backwards": (TABLE.replace("3.25", "0.25"), "e.csv, row 3: ends at 0.25 s, before it starts at 1 s"),
    "no number": (TABLE.replace("3.25", "soon"), "e.csv, row 3: end 'soon', expected seconds"),
    "NaN": (TABLE.replace("3.25", "nan"), "e.csv, row 3: end 'nan', expected seconds"),
    "infinite": (TABLE.replace("3.25", "1e400"), "e.csv, row 3: end '1e400', expected seconds"),
    "clock": (TABLE.replace("3.25", "0:03"), "e.csv, row 3: end '0:03', expected seconds"),
    "mixed commas": (TABLE.replace(",", ";").replace("3.25", "3,25"), "e.csv, row 3: end '3,25'"),
    "comma in comma": (TABLE.replace("3.25", "3,25"), "e.csv, row 3: 5 columns where the header has 4"),
    "no label": (TABLE.replace("3.25,cat", "3.25,"), "e.csv, row 3: no label"),
    "no start": (TABLE.replace("0.5,2.0", ",2.0"), "e.csv, row 2: no start"),
    "no video": (TABLE.replace("b,", ",", 1).replace("b,0.0", ",0.0"), "no "),
    "beyond": (TABLE.replace("4.0", "40"), "e.csv, row 4: 0 to 40 s, but video b lasts 8 s"),
    "begins beyond": (TABLE.replace("0.0,4.0", "8.2,8.4"), "e.csv, row 4: 8.2 to 8.4 s, but video b lasts 8 s"),
    "quotes": (TABLE.replace("dog", '"dog', 1), "not a row of a table"),
    "empty": ("", "e.csv: empty"),
    "header alone": (HEADER + "\n", "no events"),
    "binary": ("PK\x03\x04" + TABLE, "e.csv: not a text file"),
    "two folders": (TABLE.replace("\na,1", "\nx/a,1"), "e.csv, row 3: x/a and a would both be video a"),
    "two files": (TABLE.replace("\na,0", "\na.mp4,0").replace("\na,1", "\na.wav,1"), "would both be video a"),
    "two subsets": (
        TABLE.replace("label\n", "label,subset\n").replace("dog\n", "dog,train\n").replace("cat\n", "cat,test\n"),
        "e.csv, row 3: subset of video a is test, before it was train",
    ),
    "half subsets": (TABLE.replace("label\n", "label,subset\n").replace("dog\n", "dog,train\n"), "has no subset"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_tables(here, run_script, name):
    text, said = BAD[name]
    write(here / "e.csv", text)
    status, _, err = run_script(SCRIPT, "e.csv", "--name", "mine", "--task-type", "SED", "--duration", 8)
    assert status == 2
    assert said in err
    assert err.count("\n") == 1
    assert [path.name for path in here.iterdir()] == ["e.csv"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "e.csv, row 2: how long video v00 lasts is not known"),
        (["--duration", 8, "--splits", "50/50"], "--splits 50/50: expected three percentages"),
        (["--duration", 8, "--splits", "80/20/0"], "--splits 80/20/0: expected three percentages"),
        (["--duration", 8, "--subsets", "a", "b", "c"], "--subsets: the input has no subsets"),
        (
            ["--duration", 8, "--labels", "order.txt"],
            "e.csv, row 2: label 'cat' is not in --labels; did you mean 'cats'?",
        ),
        (["--duration", 8, "--labels", "none.txt"], "none.txt: No such file"),
        (["--duration", 8, "--prompt", "no place"], "TASK1.prompt: expected a sentence with {label} in it"),
        (["--duration", 8, "--encoder", "none"], "encoder 'none'"),
        (["--duration", 8, "--base", "none.yaml"], "none.yaml: no such configuration file"),
        (["--duration", 8, "--base", BASE, "--encoder", "builtin"], "--encoder builtin: all tasks of"),
        (["--duration", 8, "--task-type", "sed"], "TASK1.task_type"),
        (["--duration", 8, "--name", "../x"], "--name ../x"),
        (["--duration", -8], "--duration -8.0: expected seconds above 0"),
        (["--duration", "nan"], "--duration nan: expected seconds above 0"),
    ],
)
def test_bad_arguments(here, run_script, arguments, said):
    write(here / "e.csv", many())
    write(here / "order.txt", "dog\ncats\n")
    status, _, err = run_script(SCRIPT, "e.csv", "--name", "mine", "--task-type", "SED", *arguments)
    assert (status, said in err) == (2, True), err
    assert {path.name for path in here.iterdir()} == {"e.csv", "order.txt"}


def test_files_that_are_there_are_kept(here, run_script):
    write(here / "e.csv", many())
    write(here / "configs/mine.yaml", "mine: true\n")
    call = (SCRIPT, "e.csv", "--name", "mine", "--task-type", "SED", "--duration", 8)
    status, _, err = run_script(*call)
    assert (status, "mine.yaml: exists" in err) == (2, True)
    assert (here / "configs/mine.yaml").read_text() == "mine: true\n"
    assert not (here / "data").exists()
    assert run_script(*call, "--replace")[0] == 0
    assert load_config("configs/mine.yaml").tasks


def test_what_is_odd_is_said(here, run_script):
    text = many() + "v00.mp4,0.5,2.0,cat\nv01.mp4,3,3,dog\nv02.mp4,7,8.5,Dog\n"
    write(here / "e.csv", text)
    status, out, err = run_script(SCRIPT, "e.csv", "--name", "mine", "--task-type", "SED", "--duration", 8)
    assert status == 0, err
    for said in (
        "events given twice: 1, such as e.csv, row 22;",
        "events that last 0 s: 1, such as e.csv, row 23;",
        "events that end after their video does: 1, the latest by 0.500 s (e.csv, row 24)",
        "classes that differ in capitals only: Dog, dog",
    ):
        assert said in out
    assert load_config("configs/mine.yaml").tasks["TASK1"].drop_repeats
    assert len(imported()["v00"]) == 2


# ---- against a folder of clips ----


@pytest.fixture
def clips(here):
    pytest.importorskip("av", reason="needs PyAV: pip install -e .[media]")
    from tests.media.clips import write_clip

    (here / "clips").mkdir()
    for i in range(4):
        write_clip(here / f"clips/v{i:02d}.mp4", 3.0 + i / 2, fps=8, size=(32, 32))
    return here


def test_durations_and_clips_without_events_come_from_the_folder(clips, run_script):
    write(clips / "e.csv", f"{HEADER}\nv00.mp4,0.5,2,dog\nv01,0.5,2,dog\nsub/v02.mp4,0.5,2,dog\n")
    call = (SCRIPT, "e.csv", "--name", "mine", "--task-type", "SED", "--videos", "clips")
    status, out, err = run_script(*call)
    assert status == 0, err
    assert "named by no row, so taken as clips without events: v03 of clips" in out
    durations = {v.video_id: v.duration for v in load_annotations("data/mine/annotations/mine.json").videos}
    assert durations == pytest.approx({f"v{i:02d}": 3.0 + i / 2 for i in range(4)}, abs=0.1)

    write(clips / "e.csv", f"{HEADER}\nv00.mp4,0.5,2,dog\nv0l.mp4,0.5,2,dog\nv02,0.5,2,dog\nv03,0.5,2,dog\n")
    status, _, err = run_script(*call, "--replace")
    assert (status, "e.csv, row 3: no file of video v0l.mp4 in clips; did you mean v0" in err) == (2, True), err
    status, out, err = run_script(*call, "--replace", "--skip-missing")
    assert status == 0, err
    assert "left out, since clips has no file of them: v0l" in out
    assert "v0l" not in imported()


def test_a_broken_clip_is_named(clips, run_script):
    (clips / "clips/v01.mp4").write_bytes(b"no video")
    write(clips / "e.csv", f"{HEADER}\nv00.mp4,0.5,2,dog\n")
    status, _, err = run_script(SCRIPT, "e.csv", "--name", "mine", "--task-type", "SED", "--videos", "clips")
    assert (status, "clips/v01.mp4" in err, err.count("\n")) == (2, True, 1)
    assert not (clips / "data").exists()


# ---- splits ----


def random_labels(rng, videos: int, classes: int) -> list[set[int]]:
    weights = rng.dirichlet(np.full(classes, 0.5))
    return [set(rng.choice(classes, size=rng.integers(0, 4), p=weights).tolist()) for _ in range(videos)]


@pytest.mark.parametrize("seed", range(20))
def test_splits_have_every_class_and_the_wanted_sizes(seed):
    rng = np.random.default_rng(seed)
    labels = random_labels(rng, int(rng.integers(12, 200)), int(rng.integers(1, 12)))
    parts = (0.7, 0.1, 0.2)
    chosen = stratify(labels, parts, seed)
    assert set(chosen) <= {0, 1, 2}
    slack = 2 + 0.05 * len(labels)
    assert np.abs(np.bincount(chosen, minlength=3) - np.array(parts) * len(labels)).max() <= slack
    # The slow way: every class of three videos or more, every split.
    missing = [
        (c, s)
        for c in range(12)
        for s in range(3)
        if sum(c in own for own in labels) >= 3 and not any(c in own and chosen[i] == s for i, own in enumerate(labels))
    ]
    assert missing == lacks(labels, chosen, 3) == []
    assert (stratify(labels, parts, seed) == chosen).all()


def test_rare_classes_are_trained_first():
    labels = [{0}] * 20 + [{1}, {1}, {2}]
    chosen = stratify(labels, (0.7, 0.1, 0.2), 0)
    assert 0 in chosen[20:22]
    assert chosen[22] == 0
    assert len(set(chosen[20:22])) == 2


def test_subsets_are_recognised_by_name():
    assert recognise(["Training", "validation", "testing"]) == ("Training", "validation", "testing")
    assert recognise(["train", "test"]) == ("train", "test", "test")
    assert recognise(["train", "dev"]) == ("train", "dev", "dev")
    for names in (["validation"], ["train"], ["train", "train2", "test"], ["validation", "public_eval"]):
        with pytest.raises(DataError, match="which subset is for what"):
            recognise(names)


# ---- what is derived ----


@pytest.mark.parametrize("seed", range(10))
def test_the_last_range_gets_the_middles_of_long_events_and_no_more_levels_would(seed):
    rng = np.random.default_rng(seed)
    segments = rng.lognormal(rng.uniform(1, 5), rng.uniform(0.1, 1), 200)
    ranges = derive.regression_ranges(segments).value
    assert all(high == low for (_, high), (low, _) in zip(ranges, ranges[1:], strict=False))
    assert all(high == 2 * low for low, high in ranges[1:-1])
    longest = sorted(segments)[int(np.ceil(0.95 * 199))]
    times = np.linspace(0, longest, 2001)
    least = np.maximum(times, longest - times).min()  # what the point in the middle has to its farther end
    taken = [i for i, (low, high) in enumerate(ranges) if low <= least <= high]
    if derive.LEVELS[0] < len(ranges) < derive.LEVELS[1]:
        assert taken[-1] == len(ranges) - 1
        assert 2 * ranges[-1][0] > least
    else:
        assert len(ranges) in derive.LEVELS


def test_published_numbers_follow_from_data_like_the_published():
    """A minute at most, events up to all of it: max_seq_len 256, six levels, as for UnAV-100."""
    clips = num_windows(np.linspace(20, 60, 100), 4, 16, 16)
    segments = np.linspace(1, 50, 100) * 4
    ranges = derive.regression_ranges(segments).value
    assert ranges == ((0, 4), (4, 8), (8, 16), (16, 32), (32, 64), (64, 10000))
    assert derive.max_seq_len(clips, segments, 32).value == 256


def test_max_seq_len():
    clips, segments = np.array([20] * 99 + [500]), np.array([5.0] * 10)
    choice = derive.max_seq_len(clips, segments, 8)
    assert choice.value == 24
    assert "1 longer clips are cropped" in choice.reason
    assert derive.max_seq_len(clips, np.array([100.0] * 10), 8).value == 104
    assert derive.max_seq_len(np.array([5000]), segments, 8).value == derive.LONGEST_INPUT


def test_windows_are_those_that_extraction_makes():
    durations = np.random.default_rng(0).uniform(0.1, 100, 500)
    for stride in (4, 8):
        assert num_windows(durations, stride, 16, 16).tolist() == [num_windows(d, stride) for d in durations]


def test_class_aware_where_classes_overlap():
    apart = (np.array([[0, 1], [2, 3], [2.5, 4]]), np.array([0, 1, 1]))
    at_once = (np.array([[0, 1.5], [1, 3], [5, 6]]), np.array([0, 1, 0]))
    assert not derive.class_aware([apart]).value
    assert derive.class_aware([apart, at_once]).value


@pytest.mark.parametrize("clips", [1, 2, 5, 14, 100, 240, 999, 1000, 10_024])
def test_a_run_fits_the_number_of_clips(clips):
    run = derive.training_run(clips).value
    assert run.batch_size <= clips
    assert derive.EPOCHS[0] <= run.epochs <= derive.EPOCHS[1]
    assert run.epochs * (clips // run.batch_size) >= derive.STEPS or run.epochs == derive.EPOCHS[1]


def test_advice():
    ranges = derive.regression_ranges(np.array([20.0, 200.0])).value
    assert "ranges up to 8 get any" in derive.advice(np.array([20.0, 200.0]), ranges)[0]
    assert "1 of 2 events are shorter" in derive.advice(np.array([0.5, 200.0]), ranges)[0]
    assert not derive.advice(np.array([6.0, 200.0]), ranges)


# ---- a fourth task ----


def test_a_fourth_task_is_a_block_of_yaml(tiny, run_script):
    """Beside the three, of a type that no code knows: data made, all four trained and evaluated."""
    tree = yaml.safe_load((tiny / "tiny.yaml").read_text())
    block = {
        **tree["TASK3"],
        "task_type": "MUSIC",
        "prompt": "Somebody plays the {label}.",
        "dataset_name": "music",
        "test_cfg": {"tious": "0.3:0.7:0.1"},
        "dataset": {
            **tree["TASK3"]["dataset"],
            "json_file": str(tiny / "music/annotations/tiny.json"),
            "feat_folder": str(tiny / "music/av_features"),
            "drop_repeats": True,
            "planted": {"shows_in": ["visual"]},
        },
    }
    (tiny / "four.yaml").write_text(yaml.safe_dump({"base": "tiny.yaml", "TASK4": block}))
    shutil.copytree(tiny / "sed", tiny / "music")
    (tiny / "music/sed_prompt.npy").rename(tiny / "music/music_prompt.npy")
    quick = ["-o", "opt.num_train_epochs=1", "opt.warmup_epochs=0"]
    status, out, err = run_script("train.py", tiny / "four.yaml", "--output", "t", *quick)
    assert status == 0, err
    run = tiny / "ckpt/four_t"
    status, out, err = run_script("eval.py", tiny / "four.yaml", run)
    assert status == 0, err
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics.keys() == {"checkpoint", "TASK1", "TASK2", "TASK3", "TASK4"}
    assert len(metrics["TASK4"]["tiou"]) == 5
    assert "mAP, MUSIC music test" in out
    task = load_config(tiny / "four.yaml").tasks["TASK4"]
    assert task.format_prompt("violin") == "Somebody plays the violin."
    assert task.shows_in == ("visual",)
    assert task.drop_repeats


# ---- real annotations ----


@NEEDS_SHARED
def test_real_desed(here, run_script):
    desed = SHARED / "real/desed"
    files = {"validation": desed / "desed_validation.tsv", "public_eval": desed / "desed_eval_public.tsv"}
    status, out, err = run_script(
        SCRIPT, *(f"{subset}={path}" for subset, path in files.items()), "--name", "mine", "--task-type", "SED",
        "--duration", 10, "--subsets", "validation", "public_eval", "public_eval",
    )  # fmt: skip
    assert status == 0, err
    # DESED's own tables once more, the plain way.
    wanted: dict[str, list[tuple]] = {}
    for path in files.values():
        with path.open(newline="") as file:
            for row in csv.DictReader(file, delimiter="\t"):
                events = wanted.setdefault(row["filename"].removesuffix(".wav"), [])
                if row["onset"]:
                    events.append((float(row["onset"]), float(row["offset"]), row["event_label"]))
    found = imported()
    assert found == wanted
    assert (len(found), sum(map(len, found.values()))) == (1860, 6989)
    assert sum(not events for events in found.values()) == 15
    # As in the JSON of UniAV, whose authors shortened the names.
    theirs = load_annotations(desed / "dcase_all.json")
    mine = load_annotations("data/mine/annotations/mine.json")
    assert Counter(v.subset for v in mine.videos) == Counter(v.subset for v in theirs.videos)
    assert set(mine.class_names.values()) == set(theirs.class_names.values())

    def events(annotations):
        pairs = ((v, i) for v in annotations.videos for i in range(len(v.labels)))
        return Counter((*v.segments[i], annotations.class_name(v.labels[i])) for v, i in pairs)

    assert events(mine) == events(theirs)


@NEEDS_SHARED
def test_real_desed_with_its_durations(here, run_script):
    desed = SHARED / "real/desed"
    status, _, err = run_script(
        SCRIPT, desed / "desed_validation.tsv", desed / "dcase2021_validation_durations.tsv",
        "--name", "mine", "--task-type", "SED",
    )  # fmt: skip
    assert status == 0, err
    videos = load_annotations("data/mine/annotations/mine.json").videos
    assert (len(videos), sum(len(v.labels) for v in videos)) == (1168, 4224)
    assert {v.subset for v in videos} == {"training", "validation", "testing"}


@NEEDS_SHARED
@pytest.mark.parametrize(
    ("file", "arguments", "videos", "events", "classes"),
    [
        ("unav100/unav100_all.json", (), 10_790, 30_059, 100),
        ("activitynet/activity_net.v1-3.validation.json", ("--resplit", "--stride", 8), 4926, 7654, 200),
    ],
)
def test_real_json(here, run_script, file, arguments, videos, events, classes):
    path = SHARED / "real" / file
    status, out, err = run_script(SCRIPT, path, "--name", "mine", "--task-type", "AVEL", *arguments)
    assert status == 0, err
    mine, theirs = load_annotations("data/mine/annotations/mine.json"), load_annotations(path)
    assert (len(mine.videos), sum(len(v.labels) for v in mine.videos)) == (videos, events)
    assert mine.class_names == theirs.class_names
    assert len(mine.class_names) == classes
    for a, b in zip(mine.videos, theirs.videos, strict=True):
        assert (a.video_id, a.duration) == (b.video_id, b.duration)
        assert (a.segments == b.segments).all()
        assert (a.labels == b.labels).all()
    spec = load_config("configs/mine.yaml").tasks["TASK1"].dataset
    assert (spec.num_classes, spec.drop_repeats) == (classes, True if "activitynet" in file else None)
    if "unav" in file:  # what the published configuration has
        assert (spec.max_seq_len, spec.class_aware) == (256, True)
    else:
        assert "events that last 0 s: 3," in out
        assert "events given twice: 21," in out
