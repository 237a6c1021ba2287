"""tools/import_annotations.py: the files that it writes, its messages, and that errors leave nothing behind."""

import csv
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from libs.core.configfile import load_config
from libs.core.prompts import load_prompts
from libs.datasets.annotations import load_annotations
from tests.conftest import NEEDS_SHARED, ROOT, SHARED, assert_user_error

HEADER = "video,start,end,label"
BASE = ROOT / "configs/multi_task_anet_unav_dcase.yaml"
SCRIPT = "tools/import_annotations.py"
TASK = ("--name", "mine", "--task-type", "SED")


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def make_table(num_videos: int = 20) -> str:
    events = [f"v{i:02d}.mp4,{0.5 + i % 3},{2 + i % 3},{'dog' if i % 3 else 'cat'}" for i in range(num_videos)]
    return "\n".join([HEADER, *events, ""])


def load_imported() -> dict[str, list[tuple]]:
    """Load the events of each video from the annotation file that was written."""
    annotations = load_annotations("data/mine/annotations/mine.json")
    return {
        video.video_id: [
            (*segment, annotations.class_name(label))
            for segment, label in zip(video.segments.tolist(), video.labels.tolist(), strict=True)
        ]
        for video in annotations.videos
    }


def test_import_table_written_files_load(here, run_script):
    write(here / "e.csv", make_table())
    status, out, err = run_script(SCRIPT, "e.csv", *TASK, "--duration", 8, "--prompt", "Hear the {label}.")
    assert status == 0, err
    config = load_config("configs/mine.yaml")
    task = config.tasks["TASK1"]
    assert task.format_prompt("dog") == "Hear the dog."
    assert task.dataset.num_classes == 2
    table = load_prompts(task, config.model.text_dim)
    assert np.allclose(np.linalg.norm(table, axis=1), 1, atol=1e-6)
    assert "random unit vectors" in out
    events = {f"v{i:02d}": [(0.5 + i % 3, 2.0 + i % 3, "dog" if i % 3 else "cat")] for i in range(20)}
    assert load_imported() == events
    assert Path("data/mine/mine_labels.txt").read_text() == "cat\ndog\n"
    head = Path("configs/mine.yaml").read_text()
    reasons = [line for line in out.splitlines() if line.startswith("- ")]
    assert len(reasons) >= 5
    assert all(f"# {line}\n" in head for line in reasons)
    sizes = Counter(video.subset for video in load_annotations("data/mine/annotations/mine.json").videos)
    assert sizes == {"training": 14, "validation": 2, "testing": 4}


def test_import_labels_option_fixes_the_order(here, run_script):
    write(here / "e.csv", make_table())
    write(here / "order.txt", "dog\nfox\ncat\n")
    status, out, err = run_script(SCRIPT, "e.csv", *TASK, "--duration", 8, "--labels", "order.txt")
    assert status == 0, err
    assert load_annotations("data/mine/annotations/mine.json").class_names == {0: "dog", 1: "fox", 2: "cat"}
    assert "training has no events of some classes, which cannot be learned: fox" in out


def test_import_files_as_subsets(here, run_script):
    write(here / "a.csv", make_table(10))
    write(here / "b.csv", make_table(20).replace("v0", "w0"))
    write(here / "lengths.csv", "video,duration\n" + "".join(f"{c}{i:02d},9\n" for c in "vw" for i in range(10)))
    status, out, err = run_script(SCRIPT, "Train=a.csv", "test=b.csv", *TASK, "--duration", 9)
    assert status == 0, err
    task = load_config("configs/mine.yaml").tasks["TASK1"]
    assert (task.train_split, task.val_split, task.test_split) == (("train",), ("test",), ("test",))
    status, _, err = run_script(SCRIPT, "train=a.csv", "test=a.csv", "lengths.csv", *TASK, "--replace")
    assert_user_error(status, err, "a.csv, row 2: subset of video v00 is test, before it was train")


def test_import_subset_without_labels_is_not_the_test_split(here, run_script):
    """ActivityNet withholds the labels of its testing subset."""
    database = {}
    for subset, count in (("training", 8), ("validation", 4), ("testing", 3)):
        for i in range(count):
            events = [] if subset == "testing" else [{"segment": [1, 2], "label": "dog"}]
            database[f"{subset}{i}"] = {"subset": subset, "duration": 8.0, "annotations": events}
    write(here / "anet.json", json.dumps({"database": database}))
    status, out, err = run_script(SCRIPT, "anet.json", *TASK)
    assert status == 0, err
    task = load_config("configs/mine.yaml").tasks["TASK1"]
    assert (task.val_split, task.test_split) == (("validation",), ("validation",))


def test_import_repeated_events_are_kept_and_dropped_later(here, run_script):
    write(here / "e.csv", make_table() + "v00.mp4,0.5,2.0,cat\n")
    status, out, err = run_script(SCRIPT, "e.csv", *TASK, "--duration", 8)
    assert status == 0, err
    assert "events given twice, which count once: 1, such as e.csv, row 22;" in out
    assert load_config("configs/mine.yaml").tasks["TASK1"].drop_repeats
    assert len(load_imported()["v00"]) == 2


# ---- errors: one line, exit status 2, nothing written ----


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "e.csv, row 2: the duration of video v00 is not known"),
        (["--duration", 1], "e.csv, row 3: 1.5 to 3 s, but video v01 lasts 1 s"),
        (["--duration", 8, "--splits", "50/50"], "--splits 50/50: expected three percentages"),
        (["--duration", 8, "--subsets", "a", "b", "c"], "--subsets: the input has no subsets"),
        (["--duration", 8, "--labels", "order.txt"], "e.csv, row 2: label 'cat' is not in --labels"),
        (["--duration", 8, "--labels", "none.txt"], "none.txt"),
        (["--duration", 8, "--prompt", "no place"], "prompt: expected a sentence with {label} in it"),
        (["--duration", 8, "--encoder", "none"], "encoder 'none'"),
        (["--duration", 8, "--base", "none.yaml"], "none.yaml"),
        (["--duration", 8, "--base", BASE, "--encoder", "builtin"], "--encoder builtin: all tasks of"),
        (["--duration", 8, "--task-type", "sed"], "TASK1.task_type"),
        (["--duration", 8, "--name", "../x"], "--name ../x"),
        (["--duration", -8], "e.csv, row 2: video v00 lasts -8 s, expected more than 0"),
        (["--duration", "nan"], "e.csv, row 2: the duration of video v00 is not known"),
    ],
)
def test_import_bad_argument_is_one_line_and_writes_nothing(here, run_script, arguments, message):
    write(here / "e.csv", make_table())
    write(here / "order.txt", "dog\ncats\n")
    status, _, err = run_script(SCRIPT, "e.csv", *TASK, *arguments)
    assert_user_error(status, err, message)
    assert {path.name for path in here.iterdir()} == {"e.csv", "order.txt"}


def test_import_existing_files_are_replaced_only_if_asked(here, run_script):
    write(here / "e.csv", make_table())
    write(here / "configs/mine.yaml", "mine: true\n")
    status, _, err = run_script(SCRIPT, "e.csv", *TASK, "--duration", 8)
    assert_user_error(status, err, "mine.yaml: exists")
    assert (here / "configs/mine.yaml").read_text() == "mine: true\n"
    assert not (here / "data").exists()
    assert run_script(SCRIPT, "e.csv", *TASK, "--duration", 8, "--replace")[0] == 0
    assert load_config("configs/mine.yaml").tasks


# ---- with a folder of clips ----


@pytest.fixture
def clips(here):
    pytest.importorskip("av", reason="needs PyAV: pip install -e .[media]")
    from tests.media.clips import write_clip

    (here / "clips").mkdir()
    for i in range(4):
        write_clip(here / f"clips/v{i:02d}.mp4", 3.0 + i / 2, fps=8, size=(32, 32))
    return here


def test_import_folder_gives_durations_and_clips_without_events(clips, run_script):
    write(clips / "e.csv", f"{HEADER}\nv00.mp4,0.5,2,dog\nv01,0.5,2,dog\nsub/v02.mp4,0.5,2,dog\n")
    status, out, err = run_script(SCRIPT, "e.csv", *TASK, "--videos", "clips")
    assert status == 0, err
    assert "no row names these files of clips; they count as clips without events: v03" in out
    durations = {v.video_id: v.duration for v in load_annotations("data/mine/annotations/mine.json").videos}
    assert durations == pytest.approx({f"v{i:02d}": 3.0 + i / 2 for i in range(4)}, abs=0.1)


def test_import_broken_clip_is_named(clips, run_script):
    (clips / "clips/v01.mp4").write_bytes(b"no video")
    write(clips / "e.csv", f"{HEADER}\nv00.mp4,0.5,2,dog\n")
    status, _, err = run_script(SCRIPT, "e.csv", *TASK, "--videos", "clips")
    assert_user_error(status, err, "clips/v01.mp4")
    assert not (clips / "data").exists()


# ---- real annotations ----


@NEEDS_SHARED
def test_import_desed_tables_equal_desed_json(here, run_script):
    desed = SHARED / "real/desed"
    files = {"validation": desed / "desed_validation.tsv", "public_eval": desed / "desed_eval_public.tsv"}
    status, out, err = run_script(
        SCRIPT, *(f"{subset}={path}" for subset, path in files.items()), "--name", "mine", "--task-type", "SED",
        "--duration", 10, "--subsets", "validation", "public_eval", "public_eval",
    )  # fmt: skip
    assert status == 0, err
    # DESED's own tables, read the plain way.
    wanted: dict[str, list[tuple]] = {}
    for path in files.values():
        with path.open(newline="") as file:
            for row in csv.DictReader(file, delimiter="\t"):
                events = wanted.setdefault(row["filename"].removesuffix(".wav"), [])
                if row["onset"]:
                    events.append((float(row["onset"]), float(row["offset"]), row["event_label"]))
    found = load_imported()
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
def test_import_desed_with_its_table_of_durations(here, run_script):
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
def test_import_published_json_is_unchanged(here, run_script, file, arguments, videos, events, classes):
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
        assert "events that last 0 s, which no network can find: 3," in out
        assert "events given twice, which count once: 21," in out
