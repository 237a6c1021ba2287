import json

import pytest

from libs.core.errors import DataError
from libs.datasets.annotations import load_annotations, read_annotations


def write_annotations(path, entry, **top):
    path.write_text(json.dumps({"database": {"clip1": {"subset": "Test", "duration": 10, **entry}}, **top}))
    return path


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"annotations": [{"segment": [3, 2], "label_id": 0}]}, "segment [3, 2] ends before it starts"),
        ({"annotations": [{"segment": [float("nan"), 2], "label_id": 0}]}, "finite seconds"),
        ({"annotations": [{"segment": [1], "label_id": 0}]}, "expected [start, end]"),
        ({"annotations": [{"segment": [1, 2], "label_id": 7}]}, "label_id 7, expected 0 … 2"),
        ({"annotations": [{"segment": [1, 2], "label_id": -1}]}, "label"),
        ({"annotations": [{"segment": [1, 2]}]}, "label_id None, expected a known label"),
        ({"annotations": ["x"]}, "segment None"),
        ({"annotations": {"segment": [0, 1]}}, "expected a list"),
        ({"annotations": 5}, "expected a list"),
        ({"annotations": [{"segment": [1, 2], "label": ["x"]}]}, "a known label, or a label_id"),
        ({"annotations": [{"segment": [1, 2], "label_id": True}]}, "label_id True, expected"),
        ({"annotations": [{"segment": [1, 2], "label_id": 10**20}]}, "000, expected a known label"),
        ({"duration": None, "annotations": []}, "duration None"),
        ({"duration": -1, "annotations": []}, "expected seconds above 0"),
        ({"fps": 0, "annotations": []}, "fps 0"),
        ({"duration": 10**400, "annotations": []}, "expected seconds above 0"),
        ({"subset": None, "annotations": []}, "subset None"),
    ],
)
def test_load_annotations_invalid_entry_names_file_and_video(tmp_path, entry, message):
    path = write_annotations(tmp_path / "a.json", entry)
    with pytest.raises(DataError) as caught:
        load_annotations(path, num_classes=3)
    assert message in str(caught.value)
    assert str(path) in str(caught.value)
    assert "clip1" in str(caught.value)


def test_load_annotations_missing_ids_follow_the_class_list_else_the_alphabet(tmp_path):
    named = {"annotations": [{"segment": [1, 2], "label": "b"}, {"segment": [1, 2], "label": "a"}]}
    assert load_annotations(write_annotations(tmp_path / "a.json", named)).videos[0].labels.tolist() == [1, 0]
    listed = write_annotations(tmp_path / "b.json", named, classes=["b", "c", "a"])
    assert load_annotations(listed).videos[0].labels.tolist() == [0, 2]
    assert load_annotations(listed).class_name(2) == "a"
    ids = {"annotations": [{"segment": [1, 2], "label_id": 2}]}
    only_ids = load_annotations(write_annotations(tmp_path / "c.json", ids, classes=["b", "c", "a"]))
    assert only_ids.videos[0].labels.tolist() == [2]
    assert only_ids.class_name(2) == "a"


def test_select_splits_ignores_case(tmp_path):
    annotations = load_annotations(write_annotations(tmp_path / "a.json", {"annotations": []}))
    assert len(annotations.select_splits(("TEST",))) == 1
    with pytest.raises(DataError, match="no video in split val; the file's splits are: test"):
        annotations.select_splits(("val",))


def test_load_annotations_repeated_video_raises(tmp_path):
    path = tmp_path / "a.json"
    entry = '{"subset": "test", "duration": 10, "annotations": []}'
    path.write_text(f'{{"database": {{"clip1": {entry}, "clip1": {entry}}}}}')
    with pytest.raises(DataError, match="a.json: video clip1: has two entries; keep one"):
        load_annotations(path)


def test_read_annotations_leaves_out_what_is_invalid(tmp_path):
    events = [
        {"segment": [1, 2], "label_id": 0},
        {"segment": [3, 2], "label_id": 0},
        {"segment": [1, 2], "label_id": 9},
    ]
    path = write_annotations(tmp_path / "a.json", {"annotations": events})
    annotations, problems = read_annotations(path, num_classes=3)
    assert annotations.videos[0].segments.tolist() == [[1, 2]]
    assert [(problem.kind, problem.subset) for problem in problems] == [("negative length", "test"), ("label", "test")]


def test_find_class_ids_unknown_class_raises(tmp_path):
    named = {"annotations": [{"segment": [1, 2], "label": "dog"}, {"segment": [1, 2], "label": "cat"}]}
    annotations = load_annotations(write_annotations(tmp_path / "a.json", named))
    assert annotations.find_class_ids(("dog", 0), 3) == [0, 1]
    with pytest.raises(DataError, match="no class 'dgo', expected a name or an id; did you mean dog"):
        annotations.find_class_ids(("dgo",), 2)
    with pytest.raises(DataError, match="no class 2, expected"):
        annotations.find_class_ids((2,), 2)
    with pytest.raises(DataError, match="names all 2 classes"):
        annotations.find_class_ids(("dog", "cat"), 2)
