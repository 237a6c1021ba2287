"""Each defect of a data set is found, and nothing else is."""

import inspect
import json
import shutil

import h5py
import numpy as np
import pytest

from tests.datasets.checks import defects
from tests.datasets.checks.tiny_data import (
    FIRST,
    SECOND,
    TESTED,
    add_event,
    annotation_file,
    edit_database,
    remove_chance_defects,
    summarize,
    verify_tiny,
)

DEFECTS = [f for _, f in inspect.getmembers(defects, inspect.isfunction) if f.__module__ == defects.__name__]


def test_verify_data_without_defects_finds_nothing(tiny):
    remove_chance_defects(tiny)
    report = verify_tiny(tiny)
    assert summarize(report) == {}
    assert [(row["split"], row["videos"], row["with features"]) for row in report.splits] == [
        ("train", 12, 12),
        ("val", 4, 4),
        ("test", 9, 9),
    ]


@pytest.mark.parametrize("make_defect", DEFECTS)
def test_verify_one_defect_finds_it_and_nothing_else(tiny, make_defect):
    remove_chance_defects(tiny)
    expected = {("TASK2", *place): finding for place, finding in make_defect(tiny).items()}
    found = summarize(verify_tiny(tiny))
    optional = {place for place, finding in expected.items() if finding is ...}
    assert {place: found[place] for place in found.keys() - optional} == {
        place: expected[place] for place in expected.keys() - optional
    }


@pytest.fixture
def pack(tiny, run_script):
    """TASK2's features in a pack."""
    remove_chance_defects(tiny)
    path = tiny / "pack.h5"
    assert run_script("tools/pack_features.py", tiny / "tiny.yaml", "2", path)[0] == 0
    return path


def test_verify_pack_finds_what_is_wrong_in_it(tiny, pack):
    report = verify_tiny(tiny, dataset={"feat_folder": str(pack)})
    assert summarize(report) == {}
    assert set(report.files) == {str(pack), str(annotation_file(tiny)), str(tiny / "avel/avel_prompt.npy")}
    with h5py.File(pack, "a") as file:
        del file[f"audio/{FIRST}"]
        del file["visual/avel_train_0002"]
        file["visual/avel_train_0002"] = np.full((5, 12), b"text")
        file[f"visual/{SECOND}"][3, 2] = np.nan
        file[f"audio/{TESTED}"][...] = 0
    assert summarize(verify_tiny(tiny, dataset={"feat_folder": str(pack)})) == {
        ("TASK2", "train", "features missing"): ("error", (FIRST,)),
        ("TASK2", "train", "NaN"): ("error", (SECOND,)),
        ("TASK2", "train", "features unreadable"): ("error", ("avel_train_0002",)),
        ("TASK2", "test", "all zero"): ("error", (TESTED,)),
    }
    pack.write_bytes(b"no HDF5")
    assert summarize(verify_tiny(tiny, dataset={"feat_folder": str(pack)})) == {
        ("TASK2", "", "feature place"): ("error", (str(pack),))
    }


def test_verify_equal_features_in_a_pack_are_found(tiny, pack):
    edit_database(tiny, lambda db: db.update({TESTED: db[FIRST] | {"subset": "test"}}))
    with h5py.File(pack, "a") as file:
        for modality in ("visual", "audio"):
            del file[f"{modality}/{TESTED}"]
            file.copy(f"{modality}/{FIRST}", f"{modality}/{TESTED}")
    report = verify_tiny(tiny, dataset={"feat_folder": str(pack)})
    assert summarize(report) == {("TASK2", "", "equal features in train and test"): ("error", (TESTED,))}
    assert report.findings[0].occurrences[0].message == f"visual and audio as {FIRST}"


def test_verify_planted_features_needs_no_files(tiny):
    remove_chance_defects(tiny)
    shutil.rmtree(tiny / "avel/av_features")
    add_event(tiny, FIRST, [1, 1])
    assert summarize(verify_tiny(tiny, dataset={"feat_folder": "planted"})) == {
        ("TASK2", "train", "zero length"): ("warning", (FIRST,))
    }


def test_verify_features_of_another_encoder_is_an_error(tiny):
    remove_chance_defects(tiny)
    folder = tiny / "avel/av_features"
    (folder / "encoder.json").write_text(json.dumps({"encoder": "builtin"}))
    assert summarize(verify_tiny(tiny)) == {("TASK2", "", "other features"): ("error", (str(folder),))}


def test_verify_ignores_videos_that_no_run_uses(tiny):
    remove_chance_defects(tiny)
    defects.missing_features(tiny)
    assert ("TASK2", "train", "features missing") not in summarize(verify_tiny(tiny, "1-3"))
    report = verify_tiny(tiny, dataset={"max_videos": 1})
    assert summarize(report)["TASK2", "train", "features missing"] == ("error", (FIRST,))
    assert [row["videos"] for row in report.splits] == [1, 1, 1]
