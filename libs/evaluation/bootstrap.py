"""Bootstrap over videos: intervals for what a metric would be on other test sets of this size.

A resample draws as many videos as there are, with replacement. It is stored as a row of weights: a video drawn twice
counts as two videos with the same annotations and detections.

Shapes: R resamples, V videos.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from joblib import Parallel, cpu_count, delayed

CHUNK_BYTES = 2**24  # of a thread's largest array: what fits the caches is much faster
CONFIDENCE = 0.95


def resample_weights(videos: int, resamples: int, seed: int) -> np.ndarray:
    """Draw resamples of videos.

    Returns:
        (1 + R, V + 1) int32: how often each video counts. Row 0 counts each once. The last column is always 1: the
        index -1 of videos without annotations finds it.
    """
    rng = np.random.default_rng(seed)
    weights = np.ones((1 + resamples, videos + 1), np.int32)
    for row in weights[1:]:
        row[:-1] = np.bincount(rng.integers(videos, size=videos), minlength=videos)
    return weights


def compute_interval(value: float, samples: np.ndarray) -> tuple[float, float]:
    """Compute the 95 % interval of a number from its resamples (R,); NaN resamples are left out.

    It is the middle 95 % of the resamples, moved so that their mean is the value: mAP is higher in resamples, since
    copies of a hit follow each other. In simulation it covers 94 to 96 %, the plain percentile interval 84 to 92 %
    (tests/evaluation/test_bootstrap.py).
    """
    centred = _centre(value, samples)
    low, high = np.quantile(centred, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2]) if len(centred) else (np.nan, np.nan)
    return float(low), float(high)


def compute_p_value(difference: float, samples: np.ndarray) -> float:
    """Compute the two-sided p-value of no difference from a difference and its resamples (R,).

    Twice the share of resamples, moved as in compute_interval, on the other side of 0; the difference counts as one
    more resample. So p is below .05 where the interval does not contain 0.
    """
    centred = _centre(difference, samples)
    below, above = (centred <= 1e-12).sum(), (centred >= -1e-12).sum()  # rounding errors are no difference
    return min(1.0, float(2 * (1 + min(below, above)) / (1 + len(centred))))


def _centre(value: float, samples: np.ndarray) -> np.ndarray:
    samples = samples[~np.isnan(samples)]
    return samples + (value - samples.mean()) if len(samples) else samples


class Estimate(NamedTuple):
    """A headline number and its 95 % interval."""

    value: float
    low: float
    high: float

    @classmethod
    def from_samples(cls, row: np.ndarray, bounds: tuple[float, float] = (0, 1)) -> "Estimate":
        """Build an estimate within `bounds` from its values (1 + R,) on all videos and in the resamples."""
        return cls(float(row[0]), *np.clip(compute_interval(row[0], row[1:]), *bounds).tolist())


@dataclass(frozen=True)
class MetricResult:
    """Output of a metric.

    Attributes:
        headline: reported numbers by name.
        details: what else is known, ready for JSON.
        samples: headline numbers in each resample (R,), to compare results of the same videos in pairs.
    """

    headline: dict[str, Estimate]
    details: dict[str, Any]
    samples: dict[str, np.ndarray]

    @classmethod
    def from_samples(
        cls, numbers: dict[str, np.ndarray], details: dict[str, Any], bounds: tuple[float, float] = (0, 1)
    ) -> "MetricResult":
        """Build a result from numbers (1 + R,) within `bounds` on all videos and in the resamples."""
        headline = {name: Estimate.from_samples(row, bounds) for name, row in numbers.items()}
        return cls(headline, details, {name: row[1:] for name, row in numbers.items()})


def map_chunks(function: Callable[[np.ndarray], np.ndarray], weights: np.ndarray, row_bytes: int) -> np.ndarray:
    """Apply a function to chunks of rows of `weights` in threads and concatenate the results.

    Args:
        row_bytes: memory that the function needs for one row.
    """
    size = max(1, CHUNK_BYTES // max(row_bytes, 1))
    chunks = [weights[i : i + size] for i in range(0, len(weights), size)]
    parallel = Parallel(n_jobs=min(len(chunks), cpu_count()), prefer="threads")
    results: Any = parallel(delayed(function)(chunk) for chunk in chunks)
    return np.concatenate(results)


def safe_divide(a: np.ndarray, b: np.ndarray, otherwise: float) -> np.ndarray:
    """Divide a by b; `otherwise` where b is 0."""
    b = np.broadcast_to(b, np.shape(a))
    return np.divide(a, b, out=np.full(np.shape(a), otherwise), where=b != 0)
