"""Decoding against the text of docs/method.md §7."""

import numpy as np
import pytest
import torch

from libs.core.errors import DataError
from libs.core.types import Video
from libs.modeling.postprocess import decode_predictions, load_external_scores
from tests import oracles
from tests.modeling.networks import make_batch, make_model


def decoded(config, key, external=None, **test_cfg):
    task = config.tasks[key]
    task = task.model_copy(update={"test_cfg": task.test_cfg.model_copy(update=test_cfg)})
    batch = make_batch([32, 20], 32)
    with torch.no_grad():
        prediction = make_model(config)(batch, key)
    return task, prediction, batch, decode_predictions(prediction, batch.clips, task, external)


@pytest.mark.parametrize("key", ["TASK1", "TASK2"])
def test_decode_predictions_equals_loops(config, key):
    """Against the text of method.md §7, one pair at a time."""
    task, prediction, batch, found = decoded(config, key, pre_nms_topk=30, max_seg_num=15)
    settings = task.test_cfg
    cuts = np.cumsum([0, *prediction.level_sizes])
    for row, clip in enumerate(batch.clips):
        rows = []
        for first, last in zip(cuts[:-1], cuts[1:], strict=True):
            level = []
            for p in range(first, last):
                for c in range(task.dataset.num_classes):
                    score = float(torch.sigmoid(prediction.logits[row, p, c]) * prediction.mask[row, p])
                    time, _, _, stride = prediction.points[p].tolist()
                    left, right = prediction.offsets[row, p, c if task.dataset.class_aware else 0].tolist()
                    if score > settings.pre_nms_thresh:
                        level.append((score, time - left * stride, time + right * stride, c))
            level = sorted(level, reverse=True)[: settings.pre_nms_topk]
            rows += [r for r in level if r[2] - r[1] > settings.duration_thresh]
        segments, scores, labels = [r[1:3] for r in rows], [r[0] for r in rows], [r[3] for r in rows]
        options = {k: getattr(settings, k) for k in ("iou_threshold", "min_score", "max_seg_num")}
        kept = oracles.soft_nms(
            segments, scores, labels, method="soft", multiclass=True, sigma=settings.nms_sigma, **options
        )
        mine = found.video == row
        assert found.labels[mine].tolist() == [labels[i] for i, _ in kept]
        np.testing.assert_allclose(found.scores[mine], [score for _, score in kept], atol=1e-5)
        seconds = (np.array([segments[i] for i, _ in kept]) * clip.feat_stride + 0.5 * clip.num_frames) / clip.fps
        np.testing.assert_allclose(found.segments[mine], seconds.clip(0, clip.duration), atol=1e-4)


def test_external_scores_are_fused_and_checked(config, tmp_path):
    path = tmp_path / "scores.json"
    path.write_text('{"results": {"32": [0.1, 0.9, 0.5], "20": [0.2, 0.1, 0.3]}}')
    _, _, _, plain = decoded(config, "TASK1")
    settings = config.tasks["TASK1"].test_cfg.model_copy(update={"ext_score_file": str(path)})
    external = load_external_scores(config.tasks["TASK1"].model_copy(update={"test_cfg": settings}), [])
    _, _, _, fused = decoded(config, "TASK1", external, ext_top_segments=5)
    rows, before = fused.video == 0, plain.video == 0
    assert rows.sum() == 10
    assert set(fused.labels[rows]) == {1, 2}
    assert (np.diff(fused.scores[rows]) <= 0).all()
    assert fused.scores[rows][0] == pytest.approx(np.sqrt(0.9 * plain.scores[before][0]), abs=1e-6)
    for text, message in (
        ("{", "not valid JSON"),
        ('{"20": [1, 2]}', "20: expected 3 scores"),
        ('{"20": [1, 2, 0]}', "between 0 and 1"),
        ('{"20": "x"}', "expected"),
        ("[]", "expected a JSON object"),
    ):
        path.write_text(text)
        with pytest.raises(DataError, match=message):
            load_external_scores(config.tasks["TASK1"].model_copy(update={"test_cfg": settings}), [])
    path.write_text('{"20": [1, 0, 0]}')
    videos = [Video(name, "test", 1.0, None, np.zeros((0, 2)), np.zeros(0)) for name in ("20", "32")]
    with pytest.raises(DataError, match="no scores of 1 of 2 videos, 32 the first"):
        load_external_scores(config.tasks["TASK1"].model_copy(update={"test_cfg": settings}), videos)
