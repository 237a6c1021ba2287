"""Dividing videos into training, validation and test: whole videos, and of each class some in every split."""

from collections.abc import Sequence

import numpy as np

from libs.core.errors import DataError

ROLES = ("training", "validation", "testing")
TRIES = 50  # orders of the videos tried until no class is missing where it could be


def stratify(labels: Sequence[set[int]], parts: Sequence[float], seed: int) -> np.ndarray:
    """Which split each video goes to, (N,) int64, from its classes and the parts (all above 0, sum 1) wanted of all.

    After iterative stratification (Sechidis and others, 2011): the rarest class first, each of its videos to where most
    of it is lacking. A class of at least as many videos as splits wants one in each; of several orders of the videos
    the one is taken after which the fewest (class, split) pairs lack one, then the one closest to the parts.
    """
    rng, parts = np.random.default_rng(seed), np.asarray(parts, float)
    best, best_cost = np.zeros(len(labels), np.int64), (np.inf, np.inf)
    for _ in range(TRIES):
        chosen = _stratify_once(labels, parts, rng)
        unequal = np.abs(np.bincount(chosen, minlength=len(parts)) - parts * len(labels)).max()
        lacking = len(lacks(labels, chosen, len(parts)))
        if (lacking, unequal) < best_cost:
            best, best_cost = chosen, (lacking, unequal)
        if lacking == 0 and unequal <= 1 + 0.01 * len(labels):
            break
    return best


def _stratify_once(labels: Sequence[set[int]], parts: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    order = rng.permutation(len(labels))
    chosen = np.full(len(labels), -1)
    videos_of = {c: [i for i in order if c in labels[i]] for c in sorted(set().union(*labels))}
    wanted = {c: _wanted(len(videos), parts) for c, videos in videos_of.items()}
    room = parts * len(labels)

    def put(i: int, want: np.ndarray) -> None:
        # What is lacking most; of equals the split with the most room.
        split = max(range(len(parts)), key=lambda s: (want[s], room[s]))
        chosen[i] = split
        room[split] -= 1
        for c in labels[i]:
            wanted[c][split] -= 1

    while left := {c: sum(chosen[i] < 0 for i in videos) for c, videos in videos_of.items()}:
        c = min(left, key=lambda c: (left[c], len(videos_of[c])))
        for i in videos_of.pop(c):
            if chosen[i] < 0:
                put(i, wanted[c])
    for i in order:
        if chosen[i] < 0:
            put(i, room)
    return chosen


def _wanted(count: int, parts: np.ndarray) -> np.ndarray:
    """How many of a class's videos each split should get: its part, and at least one where there are enough."""
    wanted = parts * count
    if count >= len(parts):
        wanted = np.maximum(1.0, wanted)
        wanted[0] = count - wanted[1:].sum()
    return wanted


def lacks(labels: Sequence[set[int]], chosen: np.ndarray, splits: int) -> list[tuple[int, int]]:
    """The (class, split) pairs without an example, of classes that have at least as many videos as there are splits."""
    found = []
    for c in sorted(set().union(*labels)):
        with_it = [chosen[i] for i, own in enumerate(labels) if c in own]
        if len(with_it) >= splits:
            found += [(c, split) for split in range(splits) if split not in with_it]
    return found


def recognise(subsets: Sequence[str]) -> tuple[str, str, str]:
    """Which of a file's own subsets train, validate and test, by their names; where one of the latter two is missing
    the other serves for both. Raises DataError where it cannot be told."""
    starts = (("train",), ("val", "dev"), ("test", "eval", "public_eval"))
    found = [[name for name in dict.fromkeys(subsets) if name.lower().startswith(start)] for start in starts]
    if len(found[0]) != 1 or any(len(names) > 1 for names in found) or not (found[1] or found[2]):
        raise DataError(
            f"which subset is for what? there are {', '.join(dict.fromkeys(subsets))}; say it with --subsets TRAIN VAL "
            "TEST, or divide the videos anew with --resplit"
        )
    train, val, test = (names[0] if names else None for names in found)
    return train, val or test, test or val
