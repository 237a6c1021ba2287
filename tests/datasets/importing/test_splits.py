"""Splits: every class in every split where possible, and subsets identified by name."""

import numpy as np
import pandas as pd
import pytest

from libs.core.errors import ConfigError, DataError
from libs.datasets.importing.event_tables import EventTables
from libs.datasets.importing.splits import (
    find_missing_classes,
    identify_subsets,
    parse_percentages,
    select_subsets,
    stratify,
)

FRACTIONS = (0.7, 0.1, 0.2)


def sample_classes(rng: np.random.Generator, num_videos: int, num_classes: int) -> np.ndarray:
    """(num_videos, num_classes) bool: up to three classes per video, some of them rare."""
    weights = rng.dirichlet(np.full(num_classes, 0.5))
    has_class = np.zeros((num_videos, num_classes), bool)
    for video in range(num_videos):
        has_class[video, rng.choice(num_classes, size=rng.integers(0, 4), p=weights)] = True
    return has_class


@pytest.mark.parametrize("seed", range(20))
def test_stratify_every_class_in_every_split_and_sizes_as_wanted(seed):
    rng = np.random.default_rng(seed)
    has_class = sample_classes(rng, int(rng.integers(12, 200)), int(rng.integers(1, 12)))
    chosen = stratify(has_class, FRACTIONS, seed)
    size_errors = np.bincount(chosen, minlength=3) - np.array(FRACTIONS) * len(has_class)
    assert np.abs(size_errors).max() <= 2 + 0.05 * len(has_class)
    missing = [  # the slow way
        [c, split]
        for c in range(has_class.shape[1])
        for split in range(3)
        if has_class[:, c].sum() >= 3 and not has_class[chosen == split, c].any()
    ]
    assert missing == find_missing_classes(has_class, chosen, 3).tolist() == []
    assert (stratify(has_class, FRACTIONS, seed) == chosen).all()


def test_stratify_rare_classes_are_trained_first():
    classes = np.array([0] * 20 + [1, 1, 2])
    chosen = stratify(classes[:, None] == np.arange(3), FRACTIONS, 0)
    assert 0 in chosen[20:22]
    assert chosen[22] == 0
    assert len(set(chosen[20:22])) == 2


@pytest.mark.parametrize("text", ["50/50", "80/20/0", "a/b/c", "50/20/20"])
def test_parse_percentages_other_than_three_of_sum_100_is_an_error(text):
    assert parse_percentages("70/10/20").tolist() == [0.7, 0.1, 0.2]
    with pytest.raises(ConfigError, match=f"--splits {text}: expected three percentages"):
        parse_percentages(text)


def test_identify_subsets_by_name():
    assert identify_subsets(["Training", "validation", "testing"]) == ("Training", "validation", "testing")
    assert identify_subsets(["train", "test"]) == ("train", "test", "test")
    assert identify_subsets(["train", "dev"]) == ("train", "dev", "dev")
    for names in (["validation"], ["train"], ["train", "train2", "test"], ["validation", "public_eval"]):
        with pytest.raises(DataError, match="which subset is for what"):
            identify_subsets(names)


def test_select_subsets_some_videos_without_is_an_error():
    videos = pd.DataFrame({"source": ["e.csv, row 2", "e.csv, row 3"], "subset": ["train", None]}, index=["a", "b"])
    events = pd.DataFrame({"video_id": ["a", "b"]})
    tables = EventTables(videos.rename_axis("video_id"), events)
    with pytest.raises(DataError, match="row 3: video b has no subset, but 1 others have one"):
        select_subsets(tables, None)
    tables.videos["subset"] = ["train", "test"]
    assert select_subsets(tables, None) == ("train", "test", "test")
    with pytest.raises(ConfigError, match="--subsets dev: no videos with events"):
        select_subsets(tables, ["train", "dev", "test"])
