"""The tiny data set of conftest.py, its files and how to change them. Its defects are in TASK2 (avel)."""

import json

import numpy as np

from libs.core.configfile import from_tree
from libs.datasets.checks.verify import VerificationReport, verify
from tests.conftest import tiny_tree

VISUAL, AUDIO = "_one_peace_video_finetune", "_one_peace_audio"
FIRST, SECOND, TESTED = "avel_train_0000", "avel_train_0001", "avel_test_0000"


def verify_tiny(folder, tasks="2", dataset=None, **task_keys) -> VerificationReport:
    """Verify the tiny data. dataset: keys of TASK2.dataset; task_keys: keys of TASK2."""
    tree = tiny_tree(folder)
    tree["TASK2"] |= task_keys
    tree["TASK2"]["dataset"] |= dataset or {}
    config = from_tree(tree)
    return verify(config, config.select_tasks(tasks), jobs=2)


def summarize(report: VerificationReport) -> dict:
    """(task, split, check) -> (severity, names)."""
    return {(f.task, f.split, f.check): (f.severity, tuple(o.name for o in f.occurrences)) for f in report.findings}


def annotation_file(tiny, kind="avel"):
    return tiny / kind / "annotations/tiny.json"


def edit_database(tiny, change, kind="avel"):
    """Let `change` edit the database of a task's annotations."""
    tree = json.loads(annotation_file(tiny, kind).read_text())
    change(tree["database"])
    annotation_file(tiny, kind).write_text(json.dumps(tree))


def add_event(tiny, video_id, segment, label_id=0, **keys):
    event = {"segment": segment, "label_id": label_id, **keys}
    edit_database(tiny, lambda db: db[video_id]["annotations"].append(event))


def remove_class(tiny, label_id, subset):
    """Remove the events of a class from a split."""

    def change(database):
        for entry in database.values():
            if entry["subset"] == subset:
                entry["annotations"] = [event for event in entry["annotations"] if event["label_id"] != label_id]

    edit_database(tiny, change)


def feature_file(tiny, video_id, suffix=VISUAL):
    return tiny / "avel/av_features" / f"{video_id}{suffix}.npy"


def change_features(tiny, video_id, change, *suffixes):
    for suffix in suffixes or (VISUAL,):
        path = feature_file(tiny, video_id, suffix)
        np.save(path, change(np.load(path)))


def remove_chance_defects(tiny):
    """Give each video of TASK2 an event, so that no check finds anything."""

    def add_missing(database):
        for entry in database.values():
            third = entry["duration"] / 3
            event = {"segment": [third, 2 * third], "label": "AVEL class 0", "label_id": 0}
            entry["annotations"] = entry["annotations"] or [event]

    edit_database(tiny, add_missing)
