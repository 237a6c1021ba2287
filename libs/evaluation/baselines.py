"""What random guessing scores, as a reference for every table."""

import numpy as np

from libs.core.types import Detections, Video


def generate_random_detections(
    videos: list[Video], num_classes: int, per_video: int = 100, seed: int = 0
) -> Detections:
    """Generate `per_video` detections in each video with uniform classes, scores and ends."""
    rng = np.random.default_rng(seed)
    count = len(videos) * per_video
    ends = np.sort(rng.random((count, 2)), axis=1)
    durations = np.repeat([video.duration for video in videos], per_video)
    return Detections(
        tuple(video.video_id for video in videos),
        np.repeat(np.arange(len(videos)), per_video),
        ends * durations[:, None],
        rng.random(count),
        rng.integers(num_classes, size=count),
    )
