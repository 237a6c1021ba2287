"""Defects of the tiny data, one function each.

A function changes the files and returns what must be found, {(split, check): (severity, names)}, where `...` stands for
what may be found as well. test_verify.py runs all functions of this module.
"""

import json
import shutil

import numpy as np

from tests.datasets.checks.tiny_data import (
    AUDIO,
    FIRST,
    SECOND,
    TESTED,
    VISUAL,
    add_event,
    annotation_file,
    change_features,
    edit_database,
    feature_file,
    remove_class,
)


def missing_features(tiny):
    feature_file(tiny, FIRST).unlink()
    feature_file(tiny, SECOND, AUDIO).unlink()
    return {("train", "features missing"): ("error", (FIRST, SECOND))}


def damaged_features(tiny):
    path = feature_file(tiny, FIRST)
    path.write_bytes(path.read_bytes()[:-5])
    feature_file(tiny, SECOND).write_bytes(b"no array")
    with feature_file(tiny, TESTED).open("wb") as file:
        np.save(file, np.array([{"a": 1}], dtype=object))
    return {
        ("train", "features unreadable"): ("error", (FIRST, SECOND)),
        ("test", "features unreadable"): ("error", (TESTED,)),
    }


def folder_in_place_of_a_file(tiny):
    feature_file(tiny, FIRST).unlink()
    feature_file(tiny, FIRST).mkdir()
    return {("train", "features unreadable"): ("error", (FIRST,))}


def wrong_shapes(tiny):
    change_features(tiny, FIRST, lambda x: x[:, :7])
    change_features(tiny, SECOND, lambda x: x[0])
    change_features(tiny, TESTED, lambda x: x[:0])
    return {("train", "feature shape"): ("error", (FIRST, SECOND)), ("test", "feature shape"): ("error", (TESTED,))}


def integer_features(tiny):
    change_features(tiny, FIRST, lambda x: np.round(100 * x).astype(np.int32))
    return {("train", "feature type"): ("warning", (FIRST,))}


def nan_values(tiny):
    change_features(tiny, FIRST, lambda x: np.where(np.arange(x.size).reshape(x.shape) == 5, np.nan, x), AUDIO)
    return {("train", "NaN"): ("error", (FIRST,))}


def infinite_values(tiny):
    change_features(tiny, FIRST, lambda x: np.where(np.arange(x.size).reshape(x.shape) == 5, -np.inf, x))
    change_features(tiny, SECOND, lambda x: x.astype(np.float64) * 1e300)  # beyond float32, as training reads it
    return {("train", "Inf"): ("error", (FIRST, SECOND))}


def zero_features(tiny):
    change_features(tiny, FIRST, lambda x: 0 * x)
    return {("train", "all zero"): ("error", (FIRST,))}


def constant_features(tiny):
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


def half_of_the_audio(tiny):
    change_features(tiny, FIRST, lambda x: x[: len(x) // 2], AUDIO)
    return {("train", "audio against visual"): ("error", (FIRST,))}


def one_audio_window_less(tiny):
    change_features(tiny, FIRST, lambda x: x[:-1], AUDIO)
    return {("train", "lengths apart"): ("note", (FIRST,))}


def features_too_short(tiny):
    change_features(tiny, FIRST, lambda x: x[: len(x) // 2], VISUAL, AUDIO)
    edit_database(tiny, lambda db: db[FIRST]["annotations"].clear())  # some would lie outside the features
    return {("train", "length against duration"): ("error", (FIRST,)), ("train", "no events"): ("note", (FIRST,))}


def one_video_under_two_ids(tiny):
    for suffix in (VISUAL, AUDIO):
        shutil.copy(feature_file(tiny, FIRST, suffix), feature_file(tiny, SECOND, suffix))
    edit_database(tiny, lambda db: db.update({SECOND: db[FIRST]}))
    return {("", "equal features"): ("warning", (SECOND,))}


def features_in_train_and_test(tiny):
    shutil.copy(feature_file(tiny, FIRST), feature_file(tiny, TESTED))
    shutil.copy(feature_file(tiny, FIRST, AUDIO), feature_file(tiny, TESTED, AUDIO))
    edit_database(tiny, lambda db: db.update({TESTED: db[FIRST] | {"subset": "test"}}))
    return {("", "equal features in train and test"): ("error", (TESTED,))}


def missing_feature_folder(tiny):
    (tiny / "avel/av_features").rename(tiny / "elsewhere")
    return {("", "feature place"): ("error", (str(tiny / "avel/av_features"),))}


def no_annotation_file(tiny):
    annotation_file(tiny).unlink()
    return {("", "annotation file"): ("error", (str(annotation_file(tiny)),))}


def empty_annotation_file(tiny):
    annotation_file(tiny).write_text("")
    return {("", "annotation file"): ("error", (str(annotation_file(tiny)),))}


def video_with_two_entries(tiny):
    entry = json.dumps(json.loads(annotation_file(tiny).read_text())["database"][FIRST])
    text = annotation_file(tiny).read_text()
    annotation_file(tiny).write_text(text.replace('"database": {', f'"database": {{"{FIRST}": {entry}, ', 1))
    return {("", "repeated id"): ("error", (FIRST,))}


def invalid_entries(tiny):
    def change(db):
        db["no_duration"] = {"subset": "train", "duration": -3, "annotations": []}
        db["no_subset"] = {"duration": 3, "annotations": []}
        db["no_object"] = "nothing"

    edit_database(tiny, change)
    return {("", "entry"): ("error", ("no_duration", "no_subset", "no_object"))}


def invalid_segments(tiny):
    add_event(tiny, FIRST, [1])
    add_event(tiny, SECOND, [1, float("nan")])
    add_event(tiny, SECOND, [3, 2])
    return {("train", "segment"): ("error", (FIRST, SECOND)), ("train", "negative length"): ("error", (SECOND,))}


def invalid_labels(tiny):
    add_event(tiny, FIRST, [1, 2], label_id=4)
    add_event(tiny, FIRST, [1, 2], label_id=None)
    add_event(tiny, TESTED, [1, 2], label_id=-1)
    return {("train", "label"): ("error", (FIRST, FIRST)), ("test", "label"): ("error", (TESTED,))}


def segments_outside_the_video(tiny):
    add_event(tiny, FIRST, [1000, 1001])
    add_event(tiny, SECOND, [-4, -1])
    add_event(tiny, TESTED, [1, 1000])
    add_event(tiny, "avel_test_0001", [-0.5, 3])
    return {
        ("train", "outside the video"): ("error", (FIRST, SECOND)),
        ("test", "ends late"): ("warning", (TESTED,)),
        ("test", "starts early"): ("warning", ("avel_test_0001",)),
    }


def zero_length_event(tiny):
    add_event(tiny, FIRST, [1, 1])
    return {("train", "zero length"): ("warning", (FIRST,))}


def event_between_two_points(tiny):
    add_event(tiny, FIRST, [1.01, 1.02])
    return {("train", "learned by no point"): ("warning", (FIRST,))}


def repeated_event(tiny):
    add_event(tiny, FIRST, [1, 3])
    add_event(tiny, FIRST, [1 + 5e-4, 3])
    return {("train", "repeated event"): ("warning", (FIRST,))}


def video_without_events(tiny):
    edit_database(tiny, lambda db: db[FIRST]["annotations"].clear())
    return {("train", "no events"): ("note", (FIRST,))}


def no_training_events(tiny):
    for label_id in range(4):
        remove_class(tiny, label_id, "train")
    return {
        ("", "no event in training"): ("error", ("train",)),
        ("train", "no events"): ("note", tuple(f"avel_train_{i:04d}" for i in range(12))),
    }


def missing_val_split(tiny):
    edit_database(tiny, lambda db: [entry.update(subset="dev") for entry in db.values() if entry["subset"] == "val"])
    return {
        ("", "empty split"): ("error", ("val",)),
        ("", "unused split"): ("note", ("dev",)),
    }


def fewer_videos_than_batch_size(tiny):
    edit_database(tiny, lambda db: [db.pop(f"avel_train_{i:04d}") for i in range(3, 12)])
    return {("", "few training videos"): ("error", ("train",)), ("train", "class not in training"): ...}


def class_not_in_training(tiny):
    remove_class(tiny, 2, "train")
    add_event(tiny, FIRST, [1, 3], label_id=1)
    return {("train", "class not in training"): ("warning", ("AVEL class 2",)), ("train", "no events"): ...}


def class_not_in_test(tiny):
    remove_class(tiny, 2, "test")
    return {("test", "class not in test"): ("warning", ("AVEL class 2",)), ("test", "no events"): ...}


def name_with_two_ids(tiny):
    edit_database(tiny, lambda db: db[FIRST]["annotations"][0].update(label="AVEL class 0", label_id=1))
    return {
        ("", "name with several ids"): ("error", ("AVEL class 0",)),
        ("", "id with several names"): ("error", ("1",)),
    }


def id_with_two_names(tiny):
    add_event(tiny, FIRST, [1, 3], label_id=1, label="another")
    return {("", "id with several names"): ("error", ("1",))}


def ids_by_alphabet(tiny):
    edit_database(tiny, lambda db: [a.pop("label_id") for name in db for a in db[name]["annotations"]])
    return {("", "ids by alphabet"): ("note", ("tiny.json",))}


def more_names_than_classes(tiny):
    tree = json.loads(annotation_file(tiny).read_text())
    annotation_file(tiny).write_text(json.dumps({**tree, "classes": [f"AVEL class {i}" for i in range(6)]}))
    return {("", "class beyond num_classes"): ("warning", ("AVEL class 4", "AVEL class 5"))}


def classes_without_names(tiny):
    edit_database(tiny, lambda db: [a.pop("label") for name in db for a in db[name]["annotations"]])
    return {("", "class without name"): ("note", ("0", "1", "2", "3"))}


def missing_prompts(tiny):
    (tiny / "avel/avel_prompt.npy").unlink()
    return {("", "prompt table"): ("error", (str(tiny / "avel/avel_prompt.npy"),))}


def too_few_prompts(tiny):
    np.save(tiny / "avel/avel_prompt.npy", np.load(tiny / "avel/avel_prompt.npy")[:3])
    return {("", "prompt table"): ("error", (str(tiny / "avel/avel_prompt.npy"),))}


def unusable_prompts(tiny):
    table = np.load(tiny / "avel/avel_prompt.npy")
    table[1], table[2], table[3] = 0, 2 * table[2], table[0]
    np.save(tiny / "avel/avel_prompt.npy", table)
    return {
        ("", "zero prompt"): ("error", ("avel_prompt.npy",)),
        ("", "equal prompts"): ("error", ("avel_prompt.npy",)),
        ("", "prompt not of length 1"): ("warning", ("avel_prompt.npy",)),
    }
