import gzip
import json

import numpy as np

from libs.evaluation.results import UNKNOWN_CLASS, read_results, write_results
from tests.evaluation.cases import random_case


def test_results_survive_writing_and_reading(tmp_path):
    _, found = random_case(0)
    names = {0: "a", 2: "7", 3: "b"}  # without names of classes 1 and 4
    write_results(tmp_path / "r.json", found, names)
    read = read_results(tmp_path / "r.json", names)
    assert read.video_ids == found.video_ids
    for name in ("video", "segments", "scores", "labels"):
        np.testing.assert_array_equal(getattr(read, name), getattr(found, name))


def test_read_results_labels_are_names_ids_or_digits(tmp_path):
    labels = ["dog", 3, "4", "cow", -2, 2**40]
    entries = [{"label": label, "score": 1, "segment": [0, 1]} for label in labels]
    path = tmp_path / "r.json.gz"
    path.write_bytes(gzip.compress(json.dumps({"results": {"v": entries, "w": []}}).encode()))
    read = read_results(path, {9: "dog"})
    assert read.video_ids == ("v", "w")
    assert read.labels.tolist() == [9, 3, 4, UNKNOWN_CLASS, UNKNOWN_CLASS, UNKNOWN_CLASS]
