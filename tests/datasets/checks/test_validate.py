"""What train.py checks by itself."""

import numpy as np
import pytest

from tests.conftest import tiny_tree, write_yaml
from tests.datasets.checks import defects
from tests.datasets.checks.tiny_data import FIRST, remove_chance_defects


def double_the_windows(split):
    def make_defect(tiny):
        for path in (tiny / "avel/av_features").glob(f"avel_{split}*.npy"):
            np.save(path, np.repeat(np.load(path), 2, axis=0))

    return make_defect


@pytest.mark.parametrize(
    ("make_defect", "expected"),
    [
        (defects.id_with_two_names, ["id with several names: 1: names 'AVEL class 1', 'another'"]),
        (defects.name_with_two_ids, ["name with several ids: AVEL class 0: ids 0, 1"]),
        (defects.no_training_events, ["no event in training: train: 12 videos"]),
        (defects.unusable_prompts, ["zero prompt: avel_prompt.npy: row 1"]),
        (defects.segments_outside_the_video, [f"outside the video: {FIRST}"]),
        (defects.video_with_two_entries, [f"video {FIRST}: has two entries"]),
        (defects.missing_features, ["2 of 24 features missing"]),
        (
            double_the_windows("train"),
            ["TASK2 train: length against duration: avel_train_0000", "and 11 more", "feat_stride"],
        ),
        (double_the_windows("test"), ["TASK2 test: length against duration: avel_test_0000", "and 8 more"]),
    ],
)
def test_train_with_an_error_in_the_data_ends_with_one_line(tiny, run_script, make_defect, expected):
    remove_chance_defects(tiny)
    make_defect(tiny)
    status, _, err = run_script("train.py", tiny / "tiny.yaml", "--tasks", "2", "-o", "opt.warmup_epochs=0")
    assert status == 2
    assert err.count("\n") == 1
    for part in [*expected, "python tools/verify_data.py", "tiny.yaml --tasks 2 and the same -o]"]:
        assert part in err
    assert not (tiny / "ckpt").exists()


def test_train_with_a_stray_video_and_shared_splits_warns(tiny, run_script):
    remove_chance_defects(tiny)
    defects.features_too_short(tiny)
    tree = tiny_tree(tiny) | {"opt": {"warmup_epochs": 0, "num_train_epochs": 1}}
    tree["TASK2"] |= {"train_split": ["train", "test"], "epochs": 1}
    config = write_yaml(tiny / "all.yaml", tree)
    status, out, err = run_script("train.py", config, "--tasks", "2", "--output", "x")
    assert status == 0, err
    assert f"warning: TASK2 test+train: length against duration: {FIRST}" in out
    assert "warning: TASK2: test_split shares videos with train_split" in out
