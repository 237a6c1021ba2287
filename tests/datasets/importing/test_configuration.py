"""The configuration of an imported data set, alone and added to a base."""

from pathlib import Path

import numpy as np
import pytest

from libs.core.configfile import from_tree, load_config
from libs.core.types import Video
from libs.datasets.importing.configuration import ImportedTask, build_configuration
from libs.features.provenance import FeatureProvenance
from tests.conftest import ROOT

SPLITS = ("train", "val", "val")


def make_task(feature_folder: str = "features", repeated: bool = False) -> ImportedTask:
    segments, labels = np.array([[1.0, 2.0], [1.0, 2.0] if repeated else [2.0, 4.0]]), np.zeros(2, np.int64)
    videos = [Video(f"v{i}", SPLITS[i % 2], 8.0, None, segments, labels) for i in range(8)]
    return ImportedTask("mine", "MUSIC", None, Path("mine.json"), Path(feature_folder), videos, ["violin"], SPLITS)


def test_build_configuration_alone_is_a_valid_configuration():
    tree, reasons = build_configuration(make_task(), FeatureProvenance("builtin", 256, 240, 8), text_dim=32)
    config = from_tree(tree)
    task = config.tasks["TASK1"]
    assert (task.task_type, task.train_split, task.test_split) == ("MUSIC", ("train",), ("val",))
    assert (config.model.encoder, config.model.input_dims, config.model.text_dim) == ("builtin", (256, 240), 32)
    assert task.dataset.feat_stride == 8
    assert "drop_repeats" not in tree["TASK1"]["dataset"]
    for key in ("regression_range", "max_seq_len", "class_aware", "batch_size"):
        assert any(reason.startswith(key) for reason in reasons)


def test_build_configuration_repeated_events_are_dropped():
    tree, _ = build_configuration(make_task(repeated=True), FeatureProvenance("builtin", 256, 240, 4), text_dim=32)
    assert tree["TASK1"]["dataset"]["drop_repeats"]


@pytest.mark.parametrize(("folder", "expected"), [("features", {"file_prefix": "v_"}), ("features.h5", {})])
def test_build_configuration_names_files_of_a_folder_if_unusual(folder, expected):
    features = FeatureProvenance("builtin", 256, 240, 4, prefix="v_")
    dataset = build_configuration(make_task(folder), features, text_dim=32)[0]["TASK1"]["dataset"]
    keys = ("file_prefix", "visual_suffix", "audio_suffix")
    assert {key: dataset[key] for key in keys if key in dataset} == expected


def test_build_configuration_with_base_is_one_more_task():
    path = ROOT / "configs/multi_task_anet_unav_dcase.yaml"
    base = load_config(path)
    features = FeatureProvenance(base.model.encoder, *base.model.input_dims, 4)
    tree, _ = build_configuration(make_task(), features, 0, base)
    assert tree.keys() == {"TASK4"}
    config = from_tree({**base.to_tree(), **tree})
    assert config.model == base.model
    assert config.tasks["TASK4"].dataset.max_seq_len % 32 == 0  # the coarsest stride of the base
