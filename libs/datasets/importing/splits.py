"""Assign whole videos to training, validation and test splits."""

from collections.abc import Iterable, Sequence
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
    without = videos.loc[videos.subset.isna()]
    others = f"but {len(videos) - len(without)} others have one; give it one, or divide all videos again with --resplit"
    check_rows(without, f"video {{video_id}} has no subset, {others}")
    # ActivityNet withholds the labels of its testing subset: without events there is nothing to score.
    with_events = videos.loc[videos.video_id.isin(tables.events.video_id), "subset"].unique().tolist()
    if chosen is None:
        return identify_subsets(with_events)
    for name in chosen:
        if name not in with_events:
            names = ", ".join(with_events)
            raise ConfigError(f"--subsets {name}: no video with events in this subset; there are {names}")
    train, val, test = chosen
    return train, val, test


def identify_subsets(names: Iterable[str]) -> tuple[str, str, str]:
    """Find the subsets that train, validate and test by their names.

    If there is only one of the latter two, it serves for both. Raises DataError if the names do not tell.
    """
    names = list(dict.fromkeys(names))
    prefixes = (("train",), ("val", "dev"), ("test", "eval", "public_eval"))
    found = [[name for name in names if name.lower().startswith(prefix)] for prefix in prefixes]
    if len(found[0]) != 1 or any(len(matches) > 1 for matches in found) or not (found[1] or found[2]):
        raise DataError(
            f"cannot tell which subset is for what: {', '.join(names)}; name them with --subsets TRAIN VAL TEST, or "
            "divide the videos again with --resplit"
        )
    train, val, test = (matches[0] if matches else "" for matches in found)
    return train, val or test, test or val


def parse_percentages(text: str) -> np.ndarray:
    """Parse "70/10/20" into fractions (3,). Raises ConfigError."""
    try:
        percentages = np.array([float(part) for part in text.split("/")])
    except ValueError:
        percentages = np.zeros(0)
    if len(percentages) != 3 or not (percentages > 0).all() or abs(percentages.sum() - 100) > 1e-6:
        raise ConfigError(f"--splits {text}: expected three percentages above 0 that sum to 100, such as 70/10/20")
    return percentages / 100


def divide_videos(tables: EventTables, fractions: np.ndarray, seed: int) -> EventTables:
    """Assign each video to one of SPLITS, and each class to all of them where it has enough videos."""
    videos, events = tables
    if len(videos) < len(SPLITS):
        raise DataError(f"{len(videos)} videos cannot be divided into {', '.join(SPLITS)}; annotate more")
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
    rng, fractions = np.random.default_rng(seed), np.asarray(fractions, float)
    best, best_cost = np.zeros(len(has_class), np.int64), (np.inf, np.inf)
    for _ in range(NUM_ORDERS):
        chosen = _stratify_once(has_class, fractions, rng.permutation(len(has_class)))
        sizes = np.bincount(chosen, minlength=len(fractions))
        size_error = np.abs(sizes - fractions * len(has_class)).max()
        num_missing = len(find_missing_classes(has_class, chosen, len(fractions)))
        if (num_missing, size_error) < best_cost:
            best, best_cost = chosen, (num_missing, size_error)
        if num_missing == 0 and size_error <= 1 + 0.01 * len(has_class):
            break
    return best


def _stratify_once(has_class: np.ndarray, fractions: np.ndarray, order: np.ndarray) -> np.ndarray:
    chosen = np.full(len(has_class), -1)
    totals = has_class.sum(axis=0)
    wanted, room = _wanted_videos(totals, fractions), fractions * len(has_class)

    def assign(videos: np.ndarray, lacking: np.ndarray) -> None:
        """Assign each video to the split that lacks most; among equals to the one with the most room."""
        for video in videos[chosen[videos] < 0]:
            split = max(range(len(fractions)), key=lambda s: (lacking[s], room[s]))
            chosen[video] = split
            room[split] -= 1
            wanted[has_class[video], split] -= 1

    classes = list(range(len(totals)))
    while classes:
        left = has_class[chosen < 0].sum(axis=0)
        rarest = min(classes, key=lambda c: (left[c], totals[c]))
        classes.remove(rarest)
        assign(order[has_class[order, rarest]], wanted[rarest])
    assign(order, room)
    return chosen


def _wanted_videos(totals: np.ndarray, fractions: np.ndarray) -> np.ndarray:
    """Return how many videos of each class each split should get, (C, S): at least one if there are enough."""
    wanted = totals[:, None] * fractions
    enough = totals >= len(fractions)
    wanted[enough] = np.maximum(1.0, wanted[enough])
    wanted[enough, 0] = totals[enough] - wanted[enough, 1:].sum(axis=1)
    return wanted


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
    for name in names:
        if not events[name].any():
            raise DataError(f"{name}: no events in this split; annotate more videos, or use other --splits or --seed")
    without_events = subset.loc[~subset.index.isin(tables.events.video_id)]
    counts = {"videos": subset.value_counts(), "without events": without_events.value_counts()}
    table = pd.concat([pd.DataFrame(counts, names).fillna(0).astype(int).T, events])
    notes = []
    for name in names:
        effect = "cannot be learned" if name == splits[0] else "are not measured"
        if missing := [label for label in classes if not events.loc[label, name]]:
            notes.append(f"{name} has no events of some classes, which {effect}: {format_list(missing)}")
    return table, notes
