"""Assign whole videos to training, validation and test splits."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from libs.core.errors import ConfigError, DataError, format_list
from libs.datasets.importing.event_tables import EventTables
from libs.datasets.importing.readers import check_rows

SPLITS = ("training", "validation", "testing")
NUM_ORDERS = 50  # random orders of the videos that are tried until no class is missing unnecessarily


def select_subsets(tables: EventTables, chosen: Sequence[str] | None) -> tuple[str, str, str]:
    """Return which of the input's own subsets train, validate and test.

    Args:
        tables: videos with subsets.
        chosen: the subsets that the user names in this order; None identifies them by name.

    Raises:
        DataError: a video has no subset, or the subsets' names do not tell.
        ConfigError: a chosen subset has no events.
    """
    videos: Any = tables.videos.reset_index()
    message = "video {video_id} has no subset, but {others} others have one; give it one, or use --resplit"
    check_rows(videos, videos.subset.isna(), message, others=videos.subset.count())
    # ActivityNet withholds the labels of its testing subset: without events there is nothing to score.
    with_events = videos.loc[videos.video_id.isin(tables.events.video_id), "subset"].unique().tolist()
    train, val, test = chosen or identify_subsets(with_events)
    if unknown := [name for name in (train, val, test) if name not in with_events]:
        raise ConfigError(f"--subsets {unknown[0]}: no videos with events; the subsets are {', '.join(with_events)}")
    return train, val, test


def identify_subsets(names: list[str]) -> tuple[str, str, str]:
    """Find the subsets that train, validate and test by their names.

    If there is only one of the latter two, it serves for both. Raises DataError if the names do not tell.
    """
    prefixes = (("train",), ("val", "dev"), ("test", "eval", "public_eval"))
    train, val, test = ([name for name in names if name.lower().startswith(prefix)] for prefix in prefixes)
    if len(train) != 1 or len(val) > 1 or len(test) > 1 or not val + test:
        remedy = "name them with --subsets TRAIN VAL TEST, or divide the videos again with --resplit"
        raise DataError(f"cannot tell which subset is for what: {', '.join(names)}; {remedy}")
    return train[0], (val or test)[0], (test or val)[0]


def parse_percentages(text: str) -> np.ndarray:
    """Parse "70/10/20" into fractions (3,). Raises ConfigError."""
    percentages: Any = pd.to_numeric(pd.Series(text.split("/")), errors="coerce")
    if len(percentages) != 3 or not (percentages > 0).all() or abs(percentages.sum() - 100) > 1e-6:
        raise ConfigError(f"--splits {text}: expected three percentages above 0 that sum to 100, such as 70/10/20")
    return percentages.to_numpy() / 100


def divide_videos(tables: EventTables, fractions: np.ndarray, seed: int) -> EventTables:
    """Assign each video to one of SPLITS, and each class to all of them where it has enough videos."""
    videos, events = tables
    counts = pd.crosstab(events.video_id, events.label).reindex(videos.index, fill_value=0)
    chosen = stratify(counts.to_numpy() > 0, fractions, seed)
    return tables._replace(videos=videos.assign(subset=np.array(SPLITS, object)[chosen]))


def stratify(has_class: np.ndarray, fractions: Sequence[float] | np.ndarray, seed: int) -> np.ndarray:
    """Divide videos so that each split gets its fraction of every class.

    Iterative stratification (Sechidis et al., 2011): the rarest class first, each of its videos to the split that lacks
    it most. Of several random orders of the videos, the best is the one with the fewest classes missing in a split,
    then the one with sizes closest to the fractions.

    Args:
        has_class: (N, C) bool, which classes occur in each video.
        fractions: (S,) of the videos wanted in each split, above 0, sum 1.
        seed: of the random orders.

    Returns:
        (N,) int64, the split of each video.
    """
    rng, fractions, totals = np.random.default_rng(seed), np.asarray(fractions, float), has_class.sum(axis=0)
    sizes = fractions * len(has_class)
    wanted = totals[:, None] * fractions
    enough = totals >= len(fractions)
    wanted[enough] = np.maximum(1.0, wanted[enough])
    wanted[enough, 0] = totals[enough] - wanted[enough, 1:].sum(axis=1)
    best, best_cost = np.zeros(len(has_class), np.int64), (np.inf, np.inf)
    for _ in range(NUM_ORDERS):
        chosen = _stratify_once(has_class, wanted, sizes, rng.permutation(len(has_class)))
        size_error = np.abs(np.bincount(chosen, minlength=len(fractions)) - sizes).max()
        cost = (len(find_missing_classes(has_class, chosen, len(fractions))), size_error)
        if cost < best_cost:
            best, best_cost = chosen, cost
        if cost <= (0, 1 + 0.01 * len(has_class)):
            break
    return best


def _stratify_once(has_class: np.ndarray, wanted: np.ndarray, sizes: np.ndarray, order: np.ndarray) -> np.ndarray:
    """Divide the videos in one order; wanted (C, S) and sizes (S,): videos of each class, and of all, per split."""
    has_class = np.column_stack([has_class, np.ones(len(has_class), bool)])  # all videos are the last class
    wanted = np.vstack([wanted, sizes])
    chosen, totals = np.full(len(has_class), -1), has_class.sum(axis=0)
    classes = list(range(len(totals)))
    while classes:
        left = has_class[chosen < 0].sum(axis=0)
        rarest = min(classes, key=lambda c: (left[c], totals[c]))
        classes.remove(rarest)
        for video in order[has_class[order, rarest] & (chosen[order] < 0)]:
            # The split that lacks most videos of this class; among equals the one that lacks most videos.
            split = max(range(len(sizes)), key=lambda s: (wanted[rarest, s], wanted[-1, s]))
            chosen[video] = split
            wanted[has_class[video], split] -= 1
    return chosen


def find_missing_classes(has_class: np.ndarray, chosen: np.ndarray, num_splits: int) -> np.ndarray:
    """Find the (class, split) pairs (M, 2) without a video, of classes with at least as many videos as splits."""
    counts = np.stack([has_class[chosen == split].sum(axis=0) for split in range(num_splits)], axis=1)
    return np.argwhere((counts == 0) & (counts.sum(axis=1) >= num_splits)[:, None])


def summarize_splits(
    tables: EventTables, classes: list[str], splits: tuple[str, str, str]
) -> tuple[pd.DataFrame, list[str]]:
    """Count videos and events per class in each split, with notes on missing classes.

    Raises:
        DataError: a split has no events.
    """
    names = list(dict.fromkeys(splits))
    subset: Any = tables.videos.subset
    events: Any = pd.crosstab(tables.events.label, tables.events.video_id.map(subset))
    events = events.reindex(index=classes, columns=names, fill_value=0)
    without_events = subset.loc[~subset.index.isin(tables.events.video_id)]
    counts = {"videos": subset.value_counts(), "without events": without_events.value_counts()}
    table = pd.concat([pd.DataFrame(counts, names).fillna(0).astype(int).T, events])
    notes = []
    for name in names:
        missing = [label for label in classes if not events.loc[label, name]]
        if len(missing) == len(classes):
            raise DataError(f"{name}: no events in this split; annotate more videos, or use other --splits or --seed")
        effect = "cannot be learned" if name == splits[0] else "are not measured"
        if missing:
            notes.append(f"{name} has no events of some classes, which {effect}: {format_list(missing)}")
    return table, notes
