"""Many videos in parallel processes, one of which dies."""

import os
import signal

import pytest

from libs.media.batch_extraction import ExtractionResult, describe_failure, extract_videos
from libs.media.inputs import VideoInput


class DyingExtractor:
    """Stands for an extractor whose decoder crashes on one video."""

    def extract(self, video: VideoInput, threads: int) -> ExtractionResult:
        if video.name == "b":
            os.kill(os.getpid(), signal.SIGKILL)
        return ExtractionResult(video, 1.0)


@pytest.mark.slow
def test_extract_videos_process_that_dies_fails_one_video(tmp_path):
    videos = [VideoInput(name, tmp_path / name) for name in "abcd"]
    results = list(extract_videos(videos, DyingExtractor(), workers=2))
    errors = {result.video.name: result.error for result in results}
    assert len(results) == len(errors) == 4
    died = f"{tmp_path / 'b'}: the process that read it died; it may be damaged"
    assert errors == {"a": None, "b": died, "c": None, "d": None}


def test_describe_failure_out_of_memory_says_what_to_do():
    assert "memory ran out; cut it into shorter videos" in describe_failure("a.mp4", MemoryError())
    assert describe_failure("a.mp4", RuntimeError("two\nlines")) == "a.mp4: RuntimeError: two lines"
