import numpy as np
import pytest

from libs.core.prompts import load_prompts
from libs.core.types import Video
from libs.features.planted import PlantedSource
from tests.conftest import open_tiny_task

DIMS = (12, 10)


def build_source(tiny, key="TASK2", **planted):
    _, task, annotations = open_tiny_task(tiny, key, planted=planted)
    return PlantedSource(task, load_prompts(task, 8), DIMS), task, annotations


@pytest.mark.parametrize(("key", "visual", "audio"), [("TASK1", 1, 0), ("TASK2", 1, 1), ("TASK3", 0, 1)])
def test_planted_source_event_shows_in_the_tasks_modalities(tiny, key, visual, audio):
    """The match with the true signal is high during the event, and only there."""
    source, task, _ = build_source(tiny, key, signal=3.0, distractors=0.0)
    features = source.load(Video("x", "test", 60.0, None, np.array([[20.0, 40.0]]), np.array([1])))
    inside = (np.arange(len(features.visual)) * task.dataset.feat_stride / 16 - 22) % 100 < 15
    for stream, shows, modality in ((features.visual, visual, "visual"), (features.audio, audio, "audio")):
        signal = source.signals[modality][1]
        match = stream @ signal / (signal @ signal)
        assert match[inside].mean() - match[~inside].mean() == pytest.approx(shows, abs=0.35)


@pytest.mark.parametrize(
    ("key", "modalities"), [("TASK1", {"audio"}), ("TASK2", {"visual", "audio"}), ("TASK3", {"visual"})]
)
def test_planted_source_distractors_show_in_one_other_modality(tiny, key, modalities):
    source, task, annotations = build_source(tiny, key, distractors=4.0)
    seen = set()
    for i, video in enumerate(annotations.videos):
        plan = source.plan_events(video, np.random.default_rng(i))
        events, distractors = plan[: len(video.labels)], plan[len(video.labels) :]
        assert all((e.visual > 0) == ("visual" in task.shows_in) for e in events)
        assert all((e.audio > 0) == ("audio" in task.shows_in) for e in events)
        for d in distractors:
            assert (d.visual > 0) != (d.audio > 0)
            seen.add("visual" if d.visual else "audio")
            assert not any(e.label == d.label and e.start < d.end and d.start < e.end for e in events)
    assert seen == modalities


def test_planted_source_noise_has_variance_1_and_the_correlation(tiny):
    source, _, _ = build_source(tiny, correlation=0.8)
    noise = source._make_noise(np.random.default_rng(0), 20000, 4)
    assert noise.std() == pytest.approx(1, abs=0.05)
    assert (noise[1:] * noise[:-1]).mean() == pytest.approx(0.8, abs=0.05)
