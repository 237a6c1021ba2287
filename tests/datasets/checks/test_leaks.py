"""What the training of one task and the test of another share."""

import shutil

from libs.datasets.checks.leaks import find_recording
from tests.datasets.checks.tiny_data import (
    AUDIO,
    TESTED,
    VISUAL,
    edit_database,
    feature_file,
    remove_chance_defects,
    summarize,
    verify_tiny,
)


def test_find_recording_removes_prefix_and_seconds():
    for video_id in ("-Wd5YV97ftU_320_330", "Y-Wd5YV97ftU_0.000_10.000", "v_-Wd5YV97ftU"):
        assert find_recording(video_id) == "-Wd5YV97ftU"
    assert find_recording("clip_1_2") == "clip_1_2"  # no YouTube id: shorter than 11 characters


def test_leaks_between_tasks_are_found_by_id_recording_and_features(tiny):
    remove_chance_defects(tiny)
    whole = "abcdefghijk"

    def rename(kind, old, new):
        edit_database(tiny, lambda db: db.update({new: db.pop(old)}), kind)
        for path in (tiny / kind / "av_features").glob(f"{old}_one*"):
            path.rename(path.with_name(path.name.replace(old, new)))

    rename("sed", "sed_train_0000", TESTED)
    rename("sed", "sed_train_0001", f"{whole}_30_40")
    rename("avel", "avel_test_0001", whole)
    for suffix in (VISUAL, AUDIO):
        source = tiny / f"sed/av_features/sed_train_0002{suffix}.npy"
        shutil.copy(source, feature_file(tiny, "avel_test_0002", suffix))
    events = [{"segment": [2, 8], "label_id": 0}]
    edit_database(tiny, lambda db: db["avel_test_0002"].update(duration=10, annotations=events))
    found = summarize(verify_tiny(tiny, "2-3"))
    assert {place: names for place, (_, names) in found.items() if place[0] == "TASK2"} == {
        ("TASK2", "test", "one video in train and test"): (TESTED, "avel_test_0002"),
        ("TASK2", "test", "one recording in train and test"): (whole,),
    }
