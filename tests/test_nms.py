import subprocess
import sys

import numpy as np
import pytest
import torch

from libs.ops.nms import NMS_METHODS, nms_1d, nms_1d_torch, vote_segments
from tests import oracles
from tests.conftest import ROOT

SETTINGS = {"iou_threshold": 0.5, "sigma": 0.4, "min_score": 0.01, "max_seg_num": 20}


def candidates(n: int, classes: int, seed: int):
    rng = np.random.default_rng(seed)
    start = rng.uniform(0, 50, n)
    segments = np.stack([start, start + rng.uniform(0.5, 20, n)], axis=1).astype(np.float32)
    return segments, rng.uniform(0, 1, n).astype(np.float32), rng.integers(classes, size=n)


@pytest.mark.parametrize("method", NMS_METHODS)
@pytest.mark.parametrize("multiclass", [True, False])
@pytest.mark.parametrize("kernel", ["operator", "pytorch"])
def test_like_exhausting_each_class(method, multiclass, kernel):
    videos = [candidates(n, 4, seed) for seed, n in enumerate((60, 0, 1, 200))]
    segments, scores, labels = (torch.from_numpy(np.concatenate(column)) for column in zip(*videos, strict=True))
    splits = torch.tensor([0, 60, 60, 61, 261])
    if kernel == "operator":
        rows, kept, counts = nms_1d(segments, scores, labels, splits, method=method, multiclass=multiclass, **SETTINGS)
    else:
        groups = labels if multiclass else torch.zeros_like(labels)
        rows, kept, counts = nms_1d_torch(segments, scores, groups, splits, method, *SETTINGS.values())
    for v, video in enumerate(videos):
        expected = oracles.soft_nms(*video, method=method, multiclass=multiclass, **SETTINGS)
        assert counts[v] == len(expected)
        assert (rows[v, : counts[v]] - splits[v]).tolist() == [row for row, _ in expected]
        np.testing.assert_allclose(kept[v, : counts[v]], [score for _, score in expected], atol=1e-5)
        assert not rows[v, counts[v] :].any()


def test_touching_and_equal_segments():
    segments = torch.tensor([[0.0, 1.0], [1.0, 2.0], [0.0, 1.0]])
    rows, kept, counts = nms_1d(
        segments, torch.tensor([0.9, 0.8, 0.7]), torch.zeros(3, dtype=torch.int64), torch.tensor([0, 3]), method="hard"
    )
    assert counts.tolist() == [2]
    assert rows[0, :2].tolist() == [0, 1]
    assert kept[0, :2].tolist() == pytest.approx([0.9, 0.8])


@pytest.mark.parametrize("kernel", [torch.ops.uniav.nms_1d, nms_1d_torch])
def test_of_equal_scores_the_earlier_row(kernel):
    segments = torch.tensor([[0.0, 1.0], [5.0, 6.0], [9.0, 10.0]])
    args = (segments, torch.full((3,), 0.5), torch.tensor([1, 0, 1]), torch.tensor([0, 3]), "soft", 0.7, 0.4, 0.001, 2)
    assert kernel(*args)[0].tolist() == [[0, 1]]


@pytest.mark.parametrize(
    ("segments", "splits"),
    [((2, 2), [0, 2000]), ((2, 2), [0, 2, 1]), ((2, 2), [-1, 2]), ((3, 2), [0, 2]), ((2, 3), [0, 2])],
)
def test_shapes_that_do_not_fit_are_refused(segments, splits):
    with pytest.raises(ValueError, match="expected"):
        nms_1d(torch.zeros(segments), torch.ones(2), torch.zeros(2, dtype=torch.int64), torch.tensor(splits))


@pytest.mark.parametrize("kernel", [torch.ops.uniav.nms_1d, nms_1d_torch])
@pytest.mark.parametrize("spoiled", [0, 1])
def test_nan_is_refused(kernel, spoiled):
    given = [torch.rand(4, 2), torch.rand(4)]
    given[spoiled].view(-1)[2] = torch.nan
    with pytest.raises(ValueError, match="a segment or score is NaN"):
        kernel(*given, torch.zeros(4, dtype=torch.int64), torch.tensor([0, 4]), "soft", 0.7, 0.4, 0.001, 3)


def test_opcheck():
    segments, scores, labels = (torch.from_numpy(x) for x in candidates(30, 3, 0))
    args = (segments, scores, labels, torch.tensor([0, 10, 30]), "soft", 0.7, 0.4, 0.001, 8)
    torch.library.opcheck(torch.ops.uniav.nms_1d.default, args)


def test_unknown_method():
    with pytest.raises(ValueError, match="soft, soft_linear or hard"):
        nms_1d(torch.rand(1, 2), torch.rand(1), torch.zeros(1, dtype=torch.int64), torch.tensor([0, 1]), method="no")


def test_voting():
    segments, scores, _ = candidates(40, 1, 3)
    kept = segments[:5]
    expected = []
    for segment in kept:
        inter = np.clip(np.minimum(segment[1], segments[:, 1]) - np.maximum(segment[0], segments[:, 0]), 0, None)
        iou = inter / ((segment[1] - segment[0]) + (segments[:, 1] - segments[:, 0]) - inter)
        weights = scores * (iou >= 0.5)
        expected.append((weights[:, None] * segments).sum(0) / weights.sum())
    found = vote_segments(*(torch.from_numpy(x) for x in (kept, segments, scores)), 0.5)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_without_the_extension_one_warning(tmp_path):
    """A copy of the operator without its built extension warns once and still works."""
    (tmp_path / "nms.py").write_text((ROOT / "libs/ops/nms.py").read_text())
    code = (
        "import torch, nms\n"
        "for _ in range(2):\n"
        "    print(nms.nms_1d(torch.tensor([[0., 1.]]), torch.ones(1), torch.zeros(1, dtype=torch.int64),"
        " torch.tensor([0, 1]))[2].item())\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["1", "1"]
    assert done.stderr.count("slow pure PyTorch") == 1
    assert "INSTALL.md" in done.stderr


def test_the_extension_is_built():
    """`make install` has a compiler here; the fallback must not go unnoticed."""
    assert list((ROOT / "libs/ops").glob("_nms*")), "the C++ extension was not built"
