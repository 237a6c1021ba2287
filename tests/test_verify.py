"""Every kind of defect that tools/verify_data.py finds: it is found, named, and nothing else is."""

import json
import shutil

import h5py
import numpy as np
import pytest

from libs.core.configfile import from_tree
from libs.core.types import Video
from libs.datasets.checks.feature_files import length_problem
from libs.datasets.checks.findings import CHECKS
from libs.datasets.checks.leaks import recording
from libs.datasets.checks.manifest import read_manifest, write_manifest
from libs.datasets.checks.verify import VerificationReport, verify
from tests.conftest import NEEDS_SHARED, ROOT, SHARED, tiny_tree, write_yaml

VISUAL, AUDIO = "_one_peace_video_finetune", "_one_peace_audio"


def report_of(folder, tasks=None, **dataset) -> VerificationReport:
    """Of the tiny data; dataset: keys of TASK2's."""
    tree = tiny_tree(folder)
    tree["TASK2"]["dataset"] |= dataset
    config = from_tree(tree)
    return verify(config, config.select_tasks(tasks), 2, lambda total: lambda: None)


def listed(report: VerificationReport) -> dict:
    """(task, split, check) -> (severity, names)."""
    return {(f.task, f.split, f.check): (f.severity, tuple(case.name for case in f.cases)) for f in report.findings}


def annotations(tiny, kind="avel"):
    return tiny / kind / "annotations/tiny.json"


def edit(tiny, change, kind="avel"):
    """Let `change` edit the database of a task's annotations."""
    tree = json.loads(annotations(tiny, kind).read_text())
    change(tree["database"])
    annotations(tiny, kind).write_text(json.dumps(tree))


def events(database, video_id):
    return database[video_id]["annotations"]


def npy(tiny, video_id, suffix=VISUAL):
    return tiny / "avel/av_features" / f"{video_id}{suffix}.npy"


def change_features(tiny, video_id, change, *suffixes):
    for suffix in suffixes or (VISUAL,):
        path = npy(tiny, video_id, suffix)
        np.save(path, change(np.load(path)))


FIRST, SECOND, TESTED = "avel_train_0000", "avel_train_0001", "avel_test_0000"


# Each defect changes the tiny data and returns what must be found: {(split, check): (severity, names)}, `...` for what
# may come along.


def missing_features(tiny):
    npy(tiny, FIRST).unlink()
    npy(tiny, SECOND, AUDIO).unlink()
    return {("train", "features missing"): ("error", (FIRST, SECOND))}


def damaged_features(tiny):
    path = npy(tiny, FIRST)
    path.write_bytes(path.read_bytes()[:-5])
    npy(tiny, SECOND).write_bytes(b"no array")
    with npy(tiny, TESTED).open("wb") as file:
        np.save(file, np.array([{"a": 1}], dtype=object))
    return {
        ("train", "features unreadable"): ("error", (FIRST, SECOND)),
        ("test", "features unreadable"): ("error", (TESTED,)),
    }


def a_folder_for_a_file(tiny):
    npy(tiny, FIRST).unlink()
    npy(tiny, FIRST).mkdir()
    return {("train", "features unreadable"): ("error", (FIRST,))}


def other_shapes(tiny):
    change_features(tiny, FIRST, lambda x: x[:, :7])
    change_features(tiny, SECOND, lambda x: x[0])
    change_features(tiny, TESTED, lambda x: x[:0])
    return {("train", "feature shape"): ("error", (FIRST, SECOND)), ("test", "feature shape"): ("error", (TESTED,))}


def whole_numbers(tiny):
    change_features(tiny, FIRST, lambda x: np.round(100 * x).astype(np.int32))
    return {("train", "feature type"): ("warning", (FIRST,))}


def nan(tiny):
    change_features(tiny, FIRST, lambda x: np.where(np.arange(x.size).reshape(x.shape) == 5, np.nan, x), AUDIO)
    return {("train", "NaN"): ("error", (FIRST,))}


def inf(tiny):
    change_features(tiny, FIRST, lambda x: np.where(np.arange(x.size).reshape(x.shape) == 5, -np.inf, x))
    change_features(tiny, SECOND, lambda x: x.astype(np.float64) * 1e300)  # beyond float32, as training reads it
    return {("train", "Inf"): ("error", (FIRST, SECOND))}


def all_zero(tiny):
    change_features(tiny, FIRST, lambda x: 0 * x)
    return {("train", "all zero"): ("error", (FIRST,))}


def constant(tiny):
    change_features(tiny, FIRST, lambda x: np.broadcast_to(x[:1], x.shape))
    return {("train", "constant"): ("warning", (FIRST,))}


def constant_channels(tiny):
    change_features(tiny, FIRST, lambda x: np.where(np.arange(x.shape[1]) == 3, 0.5, x))
    return {("train", "constant channels"): ("note", (FIRST,))}


def dead_channels(tiny):
    names = [f"avel_test_{i:04d}" for i in range(9)]
    for name in names:
        change_features(tiny, name, lambda x: np.where(np.arange(x.shape[1]) == 3, 0.5, x))
    return {
        ("test", "constant channels"): ("note", tuple(names)),
        ("test", "dead channels"): ("warning", ("visual",)),
    }


def half_the_sound(tiny):
    change_features(tiny, FIRST, lambda x: x[: len(x) // 2], AUDIO)
    return {("train", "audio against visual"): ("error", (FIRST,))}


def a_window_less(tiny):
    change_features(tiny, FIRST, lambda x: x[:-1], AUDIO)
    return {("train", "lengths apart"): ("note", (FIRST,))}


def too_short(tiny):
    change_features(tiny, FIRST, lambda x: x[: len(x) // 2], VISUAL, AUDIO)
    edit(tiny, lambda db: events(db, FIRST).clear())  # else some are not within the features
    return {("train", "length against duration"): ("error", (FIRST,)), ("train", "no events"): ("note", (FIRST,))}


def one_video_twice(tiny):
    for suffix in (VISUAL, AUDIO):
        shutil.copy(npy(tiny, FIRST, suffix), npy(tiny, SECOND, suffix))
    edit(tiny, lambda db: db.update({SECOND: db[FIRST]}))
    return {("", "equal features"): ("warning", (SECOND,))}


def trained_and_tested(tiny):
    shutil.copy(npy(tiny, FIRST), npy(tiny, TESTED))
    shutil.copy(npy(tiny, FIRST, AUDIO), npy(tiny, TESTED, AUDIO))
    edit(tiny, lambda db: db.update({TESTED: db[FIRST] | {"subset": "test"}}))
    return {("", "equal features in train and test"): ("error", (TESTED,))}


def no_folder(tiny):
    (tiny / "avel/av_features").rename(tiny / "elsewhere")
    return {("", "feature place"): ("error", (str(tiny / "avel/av_features"),))}


def no_annotations(tiny):
    annotations(tiny).unlink()
    return {("", "annotation file"): ("error", (str(annotations(tiny)),))}


def broken_annotations(tiny):
    annotations(tiny).write_text('{"database": ')
    return {("", "annotation file"): ("error", (str(annotations(tiny)),))}


def a_video_twice_in_the_file(tiny):
    entry = json.dumps(json.loads(annotations(tiny).read_text())["database"][FIRST])
    text = annotations(tiny).read_text()
    annotations(tiny).write_text(text.replace('"database": {', f'"database": {{"{FIRST}": {entry}, ', 1))
    return {("", "repeated id"): ("error", (FIRST,))}


def odd_entries(tiny):
    def spoil(db):
        db["odd_1"] = {"subset": "train", "duration": -3, "annotations": []}
        db["odd_2"] = {"duration": 3, "annotations": []}
        db["odd_3"] = "nothing"

    edit(tiny, spoil)
    return {("", "entry"): ("error", ("odd_1", "odd_2", "odd_3"))}


def odd_segments(tiny):
    def spoil(db):
        events(db, FIRST).append({"segment": [1], "label_id": 0})
        events(db, SECOND).append({"segment": [1, float("nan")], "label_id": 0})
        events(db, SECOND).append({"segment": [3, 2], "label_id": 0})

    edit(tiny, spoil)
    return {
        ("train", "segment"): ("error", (FIRST, SECOND)),
        ("train", "negative length"): ("error", (SECOND,)),
    }


def odd_labels(tiny):
    def spoil(db):
        events(db, FIRST).append({"segment": [1, 2], "label_id": 4})
        events(db, FIRST).append({"segment": [1, 2]})
        events(db, TESTED).append({"segment": [1, 2], "label_id": -1})

    edit(tiny, spoil)
    return {("train", "label"): ("error", (FIRST, FIRST)), ("test", "label"): ("error", (TESTED,))}


def segments_outside(tiny):
    def spoil(db):
        end = db[FIRST]["duration"]
        events(db, FIRST).append({"segment": [end + 1, end + 2], "label_id": 0})
        events(db, SECOND).append({"segment": [-4, -1], "label_id": 0})
        events(db, TESTED).append({"segment": [1, db[TESTED]["duration"] + 0.5], "label_id": 0})
        events(db, "avel_test_0001").append({"segment": [-0.5, 3], "label_id": 0})

    edit(tiny, spoil)
    return {
        ("train", "outside the video"): ("error", (FIRST, SECOND)),
        ("test", "ends late"): ("warning", (TESTED,)),
        ("test", "starts early"): ("warning", ("avel_test_0001",)),
    }


def zero_length(tiny):
    edit(tiny, lambda db: events(db, FIRST).append({"segment": [1, 1], "label_id": 0}))
    return {("train", "zero length"): ("warning", (FIRST,))}


def too_short_to_learn(tiny):
    edit(tiny, lambda db: events(db, FIRST).append({"segment": [1.01, 1.02], "label_id": 0}))
    return {("train", "learned by no point"): ("warning", (FIRST,))}


def repeated_event(tiny):
    def spoil(db):
        again = dict(events(db, FIRST)[0])
        again["segment"] = [again["segment"][0] + 5e-4, again["segment"][1]]
        events(db, FIRST).append(again)

    edit(tiny, spoil)
    return {("train", "repeated event"): ("warning", (FIRST,))}


def no_events(tiny):
    edit(tiny, lambda db: events(db, FIRST).clear())
    return {("train", "no events"): ("note", (FIRST,))}


def no_training_events(tiny):
    def spoil(db):
        for name in db:
            if "train" in name:
                events(db, name).clear()

    edit(tiny, spoil)
    return {
        ("", "no event in training"): ("error", ("train",)),
        ("train", "no events"): ("note", tuple(f"avel_train_{i:04d}" for i in range(12))),
    }


def no_val_split(tiny):
    edit(tiny, lambda db: [entry.update(subset="dev") for entry in db.values() if entry["subset"] == "val"])
    return {
        ("", "empty split"): ("error", ("val",)),
        ("", "unused split"): ("note", ("dev",)),
    }


def few_videos(tiny):
    edit(tiny, lambda db: [db.pop(f"avel_train_{i:04d}") for i in range(3, 12)])
    return {("", "few training videos"): ("error", ("train",)), ("train", "class not in training"): ...}


def untrained_class(tiny):
    def spoil(db):
        for name in db:
            if "train" in name:
                db[name]["annotations"] = [a for a in events(db, name) if a["label_id"] != 2]
        db[FIRST]["annotations"] = [{"segment": [1, 3], "label_id": 1}]

    edit(tiny, spoil)
    return {("train", "class not in training"): ("warning", ("AVEL class 2",)), ("train", "no events"): ...}


def untested_class(tiny):
    def spoil(db):
        for name in db:
            if "test" in name:
                db[name]["annotations"] = [a for a in events(db, name) if a["label_id"] != 2]

    edit(tiny, spoil)
    return {("test", "class not in test"): ("warning", ("AVEL class 2",)), ("test", "no events"): ...}


def two_ids_of_a_name(tiny):
    edit(tiny, lambda db: events(db, FIRST)[0].update(label="AVEL class 0", label_id=1))
    return {
        ("", "name with several ids"): ("error", ("AVEL class 0",)),
        ("", "id with several names"): ("error", ("1",)),
    }


def two_names_of_an_id(tiny):
    edit(tiny, lambda db: events(db, FIRST).append({"segment": [1, 3], "label": "another", "label_id": 1}))
    return {("", "id with several names"): ("error", ("1",))}


def ids_by_alphabet(tiny):
    edit(tiny, lambda db: [a.pop("label_id") for name in db for a in events(db, name)])
    return {("", "ids by alphabet"): ("note", ("tiny.json",))}


def more_classes(tiny):
    tree = json.loads(annotations(tiny).read_text())
    annotations(tiny).write_text(json.dumps({**tree, "classes": [f"AVEL class {i}" for i in range(6)]}))
    return {("", "class beyond num_classes"): ("warning", ("AVEL class 4", "AVEL class 5"))}


def no_names(tiny):
    edit(tiny, lambda db: [a.pop("label") for name in db for a in events(db, name)])
    return {("", "class without name"): ("note", ("0", "1", "2", "3"))}


def no_prompts(tiny):
    (tiny / "avel/avel_prompt.npy").unlink()
    return {("", "prompt table"): ("error", (str(tiny / "avel/avel_prompt.npy"),))}


def few_prompts(tiny):
    np.save(tiny / "avel/avel_prompt.npy", np.load(tiny / "avel/avel_prompt.npy")[:3])
    return {("", "prompt table"): ("error", (str(tiny / "avel/avel_prompt.npy"),))}


def odd_prompts(tiny):
    table = np.load(tiny / "avel/avel_prompt.npy")
    table[1], table[2], table[3] = 0, 2 * table[2], table[0]
    np.save(tiny / "avel/avel_prompt.npy", table)
    return {
        ("", "zero prompt"): ("error", ("avel_prompt.npy",)),
        ("", "equal prompts"): ("error", ("avel_prompt.npy",)),
        ("", "prompt not of length 1"): ("warning", ("avel_prompt.npy",)),
    }


DEFECTS = [
    missing_features,
    damaged_features,
    a_folder_for_a_file,
    other_shapes,
    whole_numbers,
    nan,
    inf,
    all_zero,
    constant,
    constant_channels,
    dead_channels,
    half_the_sound,
    a_window_less,
    too_short,
    one_video_twice,
    trained_and_tested,
    no_folder,
    no_annotations,
    broken_annotations,
    a_video_twice_in_the_file,
    odd_entries,
    odd_segments,
    odd_labels,
    segments_outside,
    zero_length,
    too_short_to_learn,
    repeated_event,
    no_events,
    no_training_events,
    no_val_split,
    few_videos,
    untrained_class,
    untested_class,
    two_ids_of_a_name,
    two_names_of_an_id,
    ids_by_alphabet,
    more_classes,
    no_names,
    no_prompts,
    few_prompts,
    odd_prompts,
]


def plain(tiny):
    """The tiny data of TASK2 without what chance left in them: nothing is to be found."""

    def mend(db):
        for entry in db.values():
            if not entry["annotations"]:
                third = entry["duration"] / 3
                entry["annotations"] = [{"segment": [third, 2 * third], "label": "AVEL class 0", "label_id": 0}]

    edit(tiny, mend)


def test_sound_data(tiny):
    plain(tiny)
    report = report_of(tiny, "2")
    assert listed(report) == {}
    assert {(row["split"], row["videos"], row["with features"]) for row in report.facts} == {
        ("train", 12, 12),
        ("val", 4, 4),
        ("test", 9, 9),
    }


@pytest.mark.parametrize("spoil", DEFECTS)
def test_each_defect_is_found_and_nothing_else(tiny, spoil):
    plain(tiny)
    expected = {("TASK2", *place): what for place, what in spoil(tiny).items()}
    optional = {place for place, what in expected.items() if what is ...}
    found = listed(report_of(tiny, "2"))
    assert {place: found[place] for place in found.keys() - optional} == {
        place: expected[place] for place in expected.keys() - optional
    }


@pytest.fixture
def packed(tiny, run_script):
    """TASK2's features in a pack, to be spoilt."""
    plain(tiny)
    pack = tiny / "pack.h5"
    assert run_script("tools/pack_features.py", tiny / "tiny.yaml", "2", pack)[0] == 0
    return pack


def test_a_pack_is_examined_like_a_folder(tiny, packed):
    report = report_of(tiny, "2", feat_folder=str(packed))
    assert listed(report) == {}
    assert set(report.files) == {str(packed), str(annotations(tiny)), str(tiny / "avel/avel_prompt.npy")}
    with h5py.File(packed, "a") as pack:
        del pack[f"audio/{FIRST}"]
        pack[f"visual/{SECOND}"][3, 2] = np.nan
        pack.move("visual/avel_train_0002", "visual/gone")
        pack["visual/avel_train_0002"] = np.full((5, 12), b"text")
        pack[f"audio/{TESTED}"][...] = 0
    assert listed(report_of(tiny, "2", feat_folder=str(packed))) == {
        ("TASK2", "train", "features missing"): ("error", (FIRST,)),
        ("TASK2", "train", "NaN"): ("error", (SECOND,)),
        ("TASK2", "train", "features unreadable"): ("error", ("avel_train_0002",)),
        ("TASK2", "test", "all zero"): ("error", (TESTED,)),
    }
    packed.write_bytes(b"no HDF5")
    assert listed(report_of(tiny, "2", feat_folder=str(packed))) == {
        ("TASK2", "", "feature place"): ("error", (str(packed),))
    }


def test_equal_features_in_a_pack(tiny, packed):
    edit(tiny, lambda db: db.update({TESTED: db[FIRST] | {"subset": "test"}}))
    with h5py.File(packed, "a") as pack:
        for modality in ("visual", "audio"):
            del pack[f"{modality}/{TESTED}"]
            pack.copy(f"{modality}/{FIRST}", f"{modality}/{TESTED}")
    report = report_of(tiny, "2", feat_folder=str(packed))
    assert listed(report) == {("TASK2", "", "equal features in train and test"): ("error", (TESTED,))}
    assert report.findings[0].cases[0].said == f"visual and audio as {FIRST}"


def test_planted_features_need_no_files(tiny):
    plain(tiny)
    shutil.rmtree(tiny / "avel/av_features")
    assert listed(report_of(tiny, "2", feat_folder="planted")) == {}
    zero_length(tiny)
    assert listed(report_of(tiny, "2", feat_folder="planted")) == {
        ("TASK2", "train", "zero length"): ("warning", (FIRST,))
    }


def test_splits_that_share_videos(tiny):
    plain(tiny)
    for splits, expected in (
        ({"test_split": "train"}, {"train and test share videos": "error"}),
        ({"val_split": "train"}, {"train and val share videos": "warning"}),
        ({"val_split": "test"}, {"val and test share videos": "warning"}),
    ):
        tree = tiny_tree(tiny)
        tree["TASK2"] |= splits
        config = from_tree(tree)
        report = verify(config, config.choose("2"), 1, lambda total: lambda: None)
        found = {f.check: f.severity for f in report.findings if f.check != "unused split"}
        assert found == expected
        assert {f.check for f in report.findings} == {*expected, "unused split"}


def test_only_the_videos_of_a_run_are_examined(tiny):
    plain(tiny)
    missing_features(tiny)
    assert ("TASK2", "train", "features missing") not in listed(report_of(tiny, "1-3"))
    report = report_of(tiny, "2", max_videos=1)
    assert listed(report)["TASK2", "train", "features missing"] == ("error", (FIRST,))
    assert [row["videos"] for row in report.facts] == [1, 1, 1]


def test_leaks_between_tasks(tiny):
    """The test videos of TASK2: one that TASK3 trains on, one that shares its features, and a part of a recording."""
    plain(tiny)
    whole = "abcdefghijk"

    def rename(kind, old, new):
        edit(tiny, lambda db: db.update({new: db.pop(old)}), kind)
        for path in (tiny / kind / "av_features").glob(f"{old}_one*"):
            path.rename(path.with_name(path.name.replace(old, new)))

    rename("sed", "sed_train_0000", TESTED)
    rename("sed", "sed_train_0001", f"{whole}_30_40")
    rename("avel", "avel_test_0001", whole)
    for suffix in (VISUAL, AUDIO):
        shutil.copy(tiny / f"sed/av_features/sed_train_0002{suffix}.npy", npy(tiny, "avel_test_0002", suffix))
    edit(tiny, lambda db: db["avel_test_0002"].update(duration=10, annotations=db[FIRST]["annotations"][:1]))
    edit(tiny, lambda db: db["avel_test_0002"]["annotations"][0].update(segment=[2, 8]))
    found = {place: what for place, what in listed(report_of(tiny, "2-3")).items() if place[0] == "TASK2"}
    findings = report_of(tiny, "2-3").findings
    names = [case.name for f in findings if f.check == "one video in train and test" for case in f.cases]
    assert sorted(names) == [TESTED, "avel_test_0002"]
    assert found["TASK2", "test", "one recording in train and test"] == ("warning", (whole,))
    assert {check for _, _, check in found} == {"one video in train and test", "one recording in train and test"}


def test_recordings():
    assert recording("-Wd5YV97ftU_320_330") == recording("Y-Wd5YV97ftU_0.000_10.000") == recording("v_-Wd5YV97ftU")
    assert recording("clip_1_2") == "clip_1_2"  # too short for YouTube's: rather a number than a time


def test_a_few_odd_videos_are_a_warning():
    from libs.datasets.checks.findings import Occurrence, found

    cases = [Occurrence("x", "zero")]
    assert [f.severity for f in found("TASK1", "train", "all zero", cases, of=20)] == ["warning"]
    assert [f.severity for f in found("TASK1", "train", "all zero", cases, of=19)] == ["error"]
    assert [f.severity for f in found("TASK1", "train", "NaN", cases, of=1000)] == ["error"]
    assert list(found("TASK1", "train", "NaN", [], of=10)) == []


@pytest.mark.parametrize(("length", "odd"), [(37, False), (41, False), (33, False), (42, True), (32, True), (74, True)])
def test_lengths_of_ten_seconds(tiny, length, odd):
    config = from_tree(tiny_tree(tiny)).tasks["TASK2"].dataset  # 16 frames/s, windows of 16 frames every 4: 37 windows
    video = Video("x", "test", 10.0, None, np.empty((0, 2)), np.empty(0, np.int64))
    assert bool(length_problem(video, config, length)) == odd


def test_a_manifest_is_read_as_it_was_written(tmp_path):
    files = {"a b.npy": "0" * 64, "odd\nname\\n.npy": "1" * 64, "ü\udcff.npy": "2" * 64}
    write_manifest(tmp_path / "m", files)
    assert read_manifest(tmp_path / "m") == files


def test_a_manifest_is_written_then_compared(tiny, run_script):
    plain(tiny)
    manifest, arguments = tiny / "m.sha256", [tiny / "tiny.yaml", "--tasks", "2", "--manifest", tiny / "m.sha256"]
    status, out, err = run_script("tools/verify_data.py", *arguments)
    assert (status, err) == (0, "")
    assert "SHA-256 of 52 files -> " in out  # 25 videos, two files each, annotations and prompts
    assert len(manifest.read_text().splitlines()) == 52
    assert f"{npy(tiny, FIRST)}\n" in manifest.read_text()
    assert run_script("tools/verify_data.py", *arguments)[0] == 0
    change_features(tiny, FIRST, lambda x: x + 1)
    damaged = npy(tiny, "avel_train_0002")
    damaged.write_bytes(damaged.read_bytes()[:-1])
    npy(tiny, SECOND).unlink()
    lines = manifest.read_text().splitlines(keepends=True)
    manifest.write_text("".join(line for line in lines if TESTED not in line))
    before = manifest.read_bytes()
    status, _, _ = run_script("tools/verify_data.py", *arguments, "--json", tiny / "found.json")
    assert status == 1
    findings = {f["check"]: f for f in json.loads((tiny / "found.json").read_text())["findings"]}
    names = {check: [case["name"] for case in findings[check]["cases"]] for check in findings}
    assert names["changed file"] == [str(npy(tiny, FIRST)), str(damaged)]
    assert names["lost file"] == [str(npy(tiny, SECOND))]
    assert names["new file"] == [str(npy(tiny, TESTED, AUDIO)), str(npy(tiny, TESTED))]
    assert manifest.read_bytes() == before
    run_script("tools/verify_data.py", tiny / "tiny.yaml", "--tasks", "1", "--manifest", manifest, "--json", tiny / "1")
    checks = {f["check"] for f in json.loads((tiny / "1").read_text())["findings"]}
    assert "new file" in checks
    assert "lost file" in checks  # SECOND's; the others of TASK2 are there, but not looked at
    manifest.write_text("nonsense")
    status, _, err = run_script("tools/verify_data.py", *arguments)
    assert status == 2
    assert "m.sha256, line 1: expected a SHA-256" in err


def test_what_a_user_sees(tiny, run_script):
    plain(tiny)
    repeated_event(tiny)
    status, out, err = run_script("tools/verify_data.py", tiny / "tiny.yaml", "--json", tiny / "out/found.json")
    assert (status, err) == (0, "")
    for part in ("TASK3", "max_seq_len 32", "level 2: 8–10000", "repeated event", FIRST, "0 errors, 1 warning,"):
        assert part in out
    tree = json.loads((tiny / "out/found.json").read_text())
    assert tree["counts"]["warning"] == 1
    assert tree["tasks"].keys() == {"TASK1", "TASK2", "TASK3"}
    assert [row["videos"] for row in tree["splits"]] == [12, 4, 9] * 3
    nan(tiny)
    edit(tiny, lambda db: db.update({"\x1b[31mred": {"subset": "train", "duration": 0}}))
    status, out, err = run_script("tools/verify_data.py", tiny / "tiny.yaml", "--jobs", "1")
    assert (status, err) == (1, "")
    assert "2 errors, 1 warning," in out
    assert "audio: 1 of" in out
    assert "\x1b" not in out
    assert "extract the features again" in out


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["absent.yaml"], "absent.yaml: no such configuration file"),
        (["CONFIG", "--tasks", "7"], "no TASK7"),
        (["CONFIG", "--jobs", "0"], "--jobs 0: expected at least 1"),
        (["CONFIG", "-o", "TASK2.dataset.feat_stride=0"], "TASK2.dataset.feat_stride"),
    ],
)
def test_bad_arguments(tiny, run_script, arguments, expected):
    arguments = [tiny / "tiny.yaml" if a == "CONFIG" else a for a in arguments]
    status, out, err = run_script("tools/verify_data.py", *arguments)
    assert (status, out) == (2, "")
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert expected in err


def test_features_of_another_encoder(tiny, run_script):
    (tiny / "avel/av_features/encoder.json").write_text('{"encoder": "builtin"}')
    status, out, _ = run_script("tools/verify_data.py", tiny / "tiny.yaml", "--tasks", "2")
    assert status == 1
    assert "other features" in out


# What train.py finds by itself: the defect and what its one line says.


def all_too_long(tiny):
    """The features' stride is not the configured one."""
    for path in (tiny / "avel/av_features").glob("avel_train*.npy"):
        np.save(path, np.repeat(np.load(path), 2, axis=0))
    return ["TASK2 train: length against duration: avel_train_0000", "and 11 more", "feat_stride"]


def all_too_long_in_test(tiny):
    for path in (tiny / "avel/av_features").glob("avel_test*.npy"):
        np.save(path, np.repeat(np.load(path), 2, axis=0))
    return ["TASK2 test: length against duration: avel_test_0000", "and 8 more"]


@pytest.mark.parametrize(
    ("spoil", "expected"),
    [
        (two_names_of_an_id, ["id with several names: 1: names 'AVEL class 1', 'another'"]),
        (two_ids_of_a_name, ["name with several ids: AVEL class 0: ids 0, 1"]),
        (no_training_events, ["no event in training: train: 12 videos"]),
        (odd_prompts, ["zero prompt: avel_prompt.npy: row 1"]),
        (segments_outside, [f"outside the video: {FIRST}"]),
        (a_video_twice_in_the_file, [f"video {FIRST}: has two entries"]),
        (missing_features, ["2 of 24 feature files missing"]),
        (all_too_long, []),
        (all_too_long_in_test, []),
    ],
)
def test_train_refuses_what_would_train_wrong(tiny, run_script, spoil, expected):
    plain(tiny)
    said = spoil(tiny)
    status, _, err = run_script("train.py", tiny / "tiny.yaml", "--tasks", "2", "-o", "opt.warmup_epochs=0")
    assert status == 2
    assert err.count("\n") == 1
    for part in [*(expected or said), "python tools/verify_data.py", "tiny.yaml --tasks 2 and the same -o]"]:
        assert part in err
    assert not (tiny / "ckpt").exists()


def test_train_warns_of_what_is_odd(tiny, run_script):
    """One of many videos whose length is off; a test split that is trained on."""
    plain(tiny)
    too_short(tiny)
    tree = tiny_tree(tiny) | {"opt": {"warmup_epochs": 0, "num_train_epochs": 1}}
    tree["TASK2"] |= {"train_split": ["train", "test"], "epochs": 1}
    config = write_yaml(tiny / "all.yaml", tree)
    status, out, err = run_script("train.py", config, "--tasks", "2", "--output", "x")
    assert status == 0, err
    assert f"warning: TASK2 test+train: length against duration: {FIRST}" in out
    assert "warning: TASK2: test_split shares videos with train_split" in out


REAL = SHARED / "real"


def real_arguments(*more):
    files = {
        "TASK1.dataset.json_file": "activitynet/anet1.3_all.json",
        "TASK1.dataset.prompt_file": "prompts/anet_prompt.npy",
        "TASK2.dataset.json_file": "unav100/unav100_all.json",
        "TASK2.dataset.prompt_file": "prompts/unav100_prompt.npy",
        "TASK3.dataset.json_file": "desed/dcase_all.json",
        "TASK3.dataset.prompt_file": "prompts/dcase_prompt.npy",
    }
    return [ROOT / "configs/planted_full.yaml", "-o", *(f"{key}={REAL / name}" for key, name in files.items()), *more]


@NEEDS_SHARED
def test_real_annotations(tmp_path, run_script):
    """The facts that their README states, and no error."""
    status, out, err = run_script("tools/verify_data.py", *real_arguments(), "--json", tmp_path / "found.json")
    assert (status, err) == (0, "")
    tree = json.loads((tmp_path / "found.json").read_text())
    assert {(row["task"], row["split"]): (row["videos"], row["events"], row["classes"]) for row in tree["splits"]} == {
        ("TASK1", "training"): (10024, 15410, 200),
        ("TASK1", "validation"): (4926, 7654, 200),
        ("TASK2", "train"): (6489, 18123, 100),
        ("TASK2", "validation"): (2134, 6036, 100),
        ("TASK2", "test"): (2167, 5900, 100),
        ("TASK3", "validation"): (1168, 4224, 10),
        ("TASK3", "public_eval"): (692, 2765, 10),
    }
    counts = {(f["task"], f["split"], f["check"]): f["count"] for f in tree["findings"]}
    assert counts["TASK1", "validation", "zero length"] == 3
    assert counts["TASK1", "validation", "repeated event"] == 21
    assert counts["TASK3", "validation", "no events"] == 15
    assert tree["counts"]["error"] == 0


@NEEDS_SHARED
def test_activitynets_own_layout(tmp_path, run_script):
    """Names without ids, one split: the facts, and that there is nothing to train on."""
    own = f"TASK1.dataset.json_file={REAL / 'activitynet/activity_net.v1-3.validation.json'}"
    arguments = real_arguments(own, "--tasks", "1", "--json", tmp_path / "found.json")
    status, out, err = run_script("tools/verify_data.py", *arguments)
    assert (status, err) == (1, "")
    tree = json.loads((tmp_path / "found.json").read_text())
    assert [(row["videos"], row["events"]) for row in tree["splits"]] == [(4926, 7654)]
    counts = {f["check"]: f["count"] for f in tree["findings"]}
    assert (counts["zero length"], counts["repeated event"], counts["ids by alphabet"]) == (3, 21, 1)
    assert [f["check"] for f in tree["findings"] if f["severity"] == "error"] == ["empty split"]


def test_every_check_says_what_to_do():
    for name, check in CHECKS.items():
        assert check.advice, name
        assert check.severity in ("error", "warning", "note")
