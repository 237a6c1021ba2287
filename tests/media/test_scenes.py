"""The demo's scenes: each event can be seen and heard when its annotation says."""

import numpy as np
import pytest

from libs.media.scenes import HEARD, SEEN, Scene, SceneEvent, Style, build_scene, draw_scene, play_scene
from libs.media.writing import RATE_HZ


def make_scene(label: str, seen: bool, heard: bool) -> Scene:
    scene = build_scene("a", np.random.default_rng(0), 6.0)
    style = Style(np.array([1.0, 0.5, 0.2]), 0.6, 0.5, 1.0, 1.0, 1.0)
    return scene._replace(events=[SceneEvent(label, 2.0, 4.0, seen, heard, style)])


@pytest.mark.parametrize("label", sorted({*SEEN, *HEARD}))
def test_scene_event_is_seen_and_heard_while_it_lasts(label):
    seen, heard = label in SEEN, label in HEARD
    scene, empty = make_scene(label, seen, heard), make_scene(label, False, False)
    pictures, background = (
        np.array(list(draw_scene(drawn, np.random.default_rng(1))), np.int16) for drawn in (scene, empty)
    )
    differs = (np.abs(pictures - background) > 20).any(axis=(1, 2, 3))
    time = np.arange(len(differs)) / scene.fps
    during = (time >= 2) & (time < 4)
    assert not differs[~during].any()
    assert differs[during].mean() > (0.3 if seen else -1)  # a drum is seen at its beats
    assert differs.any() == seen

    sound, noise = (play_scene(played, np.random.default_rng(1)) for played in (scene, empty))
    second = np.arange(len(sound)) / RATE_HZ
    louder = np.abs(sound - noise) > 0.01
    assert not louder[(second < 2) | (second >= 4)].any()
    assert louder.any() == heard


def test_play_scene_repeats_recording_in_background():
    scene, tone = make_scene("bell", True, False), np.sin(np.arange(RATE_HZ) / 20).astype(np.float32)
    plain, mixed = (play_scene(scene, np.random.default_rng(1), recording) for recording in (None, tone))
    assert len(mixed) == len(plain) == 6 * RATE_HZ
    assert np.corrcoef(mixed, np.resize(tone, len(mixed)))[0, 1] > 0.7 > abs(np.corrcoef(plain, mixed)[0, 1])
