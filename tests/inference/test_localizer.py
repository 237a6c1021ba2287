"""From a checkpoint and a video or its features to events."""

import json

import numpy as np
import pytest
import torch

from libs.core.errors import CheckpointError, ConfigError, DataError, MediaError, UserError
from libs.core.types import Event
from libs.inference.localizer import Localizer
from libs.inference.tiling import split_into_pieces
from tests.inference.conftest import WIDTHS, save_checkpoint

pytest.importorskip("av", reason="needs PyAV: pip install -e .[media]")

from tests.media.clips import write_clip  # noqa: E402


def random_features(num_windows: int) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.standard_normal((num_windows, width)).astype(np.float32) for width in WIDTHS]


def test_localize_clip_returns_sorted_events_of_all_tasks(checkpoint, clip):
    localizer = Localizer.from_checkpoint(checkpoint, device="cpu")
    events = localizer.localize(clip, min_score=0.01)
    assert {type(event) for event in events} == {Event}
    assert {event.task_type for event in events} == {"TAL", "AVEL", "SED"}
    assert [event.score for event in events] == sorted((event.score for event in events), reverse=True)
    assert all(0 <= event.start < event.end <= 4.1 and 0.01 <= event.score <= 1 for event in events)
    assert all(event.label.startswith(f"{event.task} <class>") for event in events)
    assert localizer.localize(clip, min_score=0.01) == events


def test_localize_file_without_media_raises_media_error(checkpoint, tmp_path):
    (tmp_path / "x.mp4").write_bytes(b"")
    with pytest.raises(MediaError):
        Localizer.from_checkpoint(checkpoint, device="cpu").localize(tmp_path / "x.mp4")


def test_localize_same_video_as_eval_finds_the_same_events(tiny, run_script, tmp_path, checkpoint):
    """Compare extract.py followed by eval.py with Localizer, which shares one decoding between tasks."""
    clips = {name: write_clip(tmp_path / f"{name}.mp4", 6, flash=(1, 3), beep=(2, 5)) for name in ("one", "two")}
    prompts = torch.load(checkpoint, weights_only=True)["prompts"]
    overrides = [f"model.input_dim_visual={WIDTHS[0]}", f"model.input_dim_audio={WIDTHS[1]}", "model.encoder=builtin"]
    for i, kind in ((1, "tal"), (2, "avel"), (3, "sed")):
        features = tmp_path / f"features_{kind}"
        stride = 8 if kind == "tal" else 4
        status, _, err = run_script("extract.py", *clips.values(), "--out", features, "--stride", stride)
        assert status == 0, err
        database = {name: {"subset": "test", "duration": 6.0, "annotations": []} for name in clips}
        database["one"]["annotations"] = [{"segment": [1, 3], "label": "x", "label_id": 0}]
        (tmp_path / f"{kind}.json").write_text(json.dumps({"database": database}))
        np.save(tmp_path / f"{kind}.npy", prompts[f"TASK{i}"].numpy())
        overrides += [
            f"TASK{i}.dataset.json_file={tmp_path / f'{kind}.json'}",
            f"TASK{i}.dataset.feat_folder={features}",
            f"TASK{i}.dataset.prompt_file={tmp_path / f'{kind}.npy'}",
        ]
    arguments = [tiny / "tiny.yaml", checkpoint, "--output", tmp_path / "out", "--saveonly", "-o", *overrides]
    status, _, err = run_script("eval.py", *arguments)
    assert status == 0, err
    for override, message in (
        ("model.encoder=one-peace", "builtin"),
        ("TASK2.dataset.feat_stride=8", "features_"),
    ):
        status, _, err = run_script("eval.py", *arguments, override)
        assert status == 2
        assert message in err
        assert override.partition("=")[0] in err
    events = Localizer.from_checkpoint(checkpoint, device="cpu").localize(clips["one"], min_score=0.0)
    for key in ("TASK1", "TASK2", "TASK3"):
        evaluated = json.loads((tmp_path / f"out/results_{key}.json").read_text())["results"]["one"]
        expected = [(d["score"], *d["segment"]) for d in evaluated if d["segment"][1] > d["segment"][0]]
        found = [(e.score, e.start, e.end) for e in events if e.task == key]
        assert len(found) == len(expected) > 0
        assert found[0] == pytest.approx(expected[0], abs=0.02)  # files hold float16


@pytest.mark.parametrize("missing", ["config", "prompts", "class_names"])
def test_from_checkpoint_weights_alone_raises_checkpoint_error(tmp_path, missing):
    with pytest.raises(CheckpointError, match="holds weights only"):
        Localizer.from_checkpoint(save_checkpoint(tmp_path, **{missing: None}))


def test_set_classes_prompts_of_trained_classes_finds_the_same_events(checkpoint, clip, monkeypatch):
    trained = torch.load(checkpoint, weights_only=True)["prompts"]["TASK3"]
    localizer = Localizer.from_checkpoint(checkpoint, tasks="3", device="cpu")
    before = localizer.localize(clip, 0.02)
    monkeypatch.setattr(localizer.encoder, "encode_text", lambda sentences: trained[[3, 1, 2]].numpy())
    localizer.set_classes("SED", ["d", "b", "c"])
    after = localizer.localize(clip, 0.02)
    renamed = {"TASK3 <class> 3": "d", "TASK3 <class> 1": "b", "TASK3 <class> 2": "c"}
    expected = [e._replace(label=renamed[e.label]) for e in before if e.label in renamed]
    assert len(expected) > 5
    for event in expected[:5]:
        assert any(abs(event.score - e.score) < 1e-5 and event.label == e.label for e in after)
    # A second list is compared with the trained prompts, not with the first list's.
    monkeypatch.setattr(localizer.encoder, "encode_text", lambda sentences: trained.numpy())
    localizer.set_classes("SED", list("abcdef")[: len(trained)])
    assert localizer.nearest_trained["TASK3"].tolist() == list(range(len(trained)))


def test_set_classes_impossible_raises_user_error(checkpoint):
    localizer = Localizer.from_checkpoint(checkpoint, tasks="3", device="cpu")
    with pytest.raises(UserError, match="builtin"):
        localizer.set_classes("SED", ["x"])
    with pytest.raises(ConfigError, match="no such task"):
        localizer.set_classes("TAL", ["x"])


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_localize_features_not_finite_raises_data_error(checkpoint, value):
    features = [np.zeros((40, width), np.float32) for width in WIDTHS]
    features[1][3, 0] = value
    with pytest.raises(DataError, match="NaN or infinite"):
        Localizer.from_checkpoint(checkpoint, device="cpu").localize_features(*features, 4, 11.0)


def test_localize_features_long_video_keeps_more_events(checkpoint):
    """The limit on detections is for one training clip; a longer video may have as many for each clip it fills."""
    localizer = Localizer.from_checkpoint(checkpoint, tasks="3", device="cpu")
    (task,) = localizer.tasks
    limit, length = task.test_cfg.max_seg_num, task.dataset.max_seq_len

    def count_events(num_windows: int) -> int:
        return len(localizer.localize_features(*random_features(num_windows), 4, num_windows / 4 + 1, 0.0))

    assert count_events(length) <= limit < count_events(20 * length) <= 20 * limit
    # Two pieces, which find more events than belong to their cores.
    assert 16 * limit < count_events(17 * length) <= 17 * limit


def test_localize_features_in_pieces_finds_the_events_of_a_part(checkpoint, monkeypatch):
    """The end of the video, alone, has the events of the video's second piece."""
    localizer = Localizer.from_checkpoint(checkpoint, tasks="3", device="cpu")
    (task,) = localizer.tasks
    num_windows = 18 * task.dataset.max_seq_len
    features, lengths, localize_piece = random_features(num_windows), [], localizer._localize_piece
    monkeypatch.setattr(localizer, "_localize_piece", lambda *a: lengths.append(len(a[1])) or localize_piece(*a))
    min_score = 0.6  # leaves fewer events than the limits on their number
    events = localizer.localize_features(*features, 4, num_windows / 4 + 0.75, min_score)
    assert lengths == [16 * task.dataset.max_seq_len] * 2
    first = num_windows - lengths[0]
    core = split_into_pieces(num_windows, task.dataset.max_seq_len)[1].core_start
    tail = localizer.localize_features(*(f[first:] for f in features), 4, lengths[0] / 4 + 0.75, min_score)
    late = [e for e in tail if e.start > (core - first) / 4]
    assert 5 < len(late) < task.test_cfg.max_seg_num * (num_windows - core) / task.dataset.max_seq_len
    found = {(e.label, round(e.start, 2), round(e.end, 2)) for e in events}
    assert all((e.label, round(e.start + first / 4, 2), round(e.end + first / 4, 2)) in found for e in late)
