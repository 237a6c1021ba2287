"""NMS of every kernel against plain loops: C++, PyTorch, CUDA's algorithm on the host, and CUDA if there is a GPU.

The file is over 300 lines because all kernels share its cases.
"""

import contextlib
import ctypes
import functools
import shutil
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch

from libs.core.types import Prediction
from libs.modeling.postprocess import decode_predictions
from libs.ops.nms import nms_1d, nms_1d_torch, vote_segments
from setup import CPU, CUDA, CUDA_CODES, make_optional
from tests import oracles
from tests.conftest import ROOT

NMS_METHODS = ("soft", "soft_linear", "hard")
CSRC = ROOT / "libs/ops/csrc"
SETTINGS = {"iou_threshold": 0.5, "sigma": 0.4, "min_score": 0.01, "max_seg_num": 20}
COMPILER = shutil.which("g++") or shutil.which("clang++")
NEEDS_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
NEEDS_COMPILER = pytest.mark.skipif(COMPILER is None, reason="needs a C++ compiler")
LARGE = 2**31 // 8 + 1000  # candidates with segments of more than 2^31 bytes


@functools.cache
def host_library() -> ctypes.CDLL:
    """nms_block.h compiled for the host."""
    import tempfile

    out = Path(tempfile.mkdtemp()) / "nms_block_host.so"
    command = [COMPILER, "-std=c++20", "-O2", "-shared", "-fPIC", "-pthread", f"-I{CSRC}"]
    subprocess.run([*command, str(ROOT / "tests/ops/nms_block_host.cpp"), "-o", str(out)], check=True)
    library = ctypes.CDLL(str(out))
    library.nms_block_host.restype = ctypes.c_int64
    return library


def nms_block(threads, segments, scores, groups, splits, method, iou_threshold, sigma, min_score, max_seg_num):
    """Run the CUDA kernel's algorithm with a block of `threads` host threads."""
    videos = len(splits) - 1
    rows = torch.zeros(videos, max_seg_num, dtype=torch.int64)
    kept, counts = torch.zeros(videos, max_seg_num), torch.zeros(videos, dtype=torch.int64)
    for v in range(videos):
        own = [x[splits[v] : splits[v + 1]].contiguous() for x in (segments, scores, groups)]
        out = (torch.empty_like(own[1]), rows[v], kept[v])
        counts[v] = host_library().nms_block_host(
            *(ctypes.c_void_p(x.data_ptr()) for x in own),
            ctypes.c_int64(len(own[1])),
            NMS_METHODS.index(method),
            *(ctypes.c_float(x) for x in (iou_threshold, sigma, min_score)),
            ctypes.c_int64(max_seg_num),
            threads,
            *(ctypes.c_void_p(x.data_ptr()) for x in out),
        )
        rows[v, : counts[v]] += splits[v]
    return rows, kept, counts


def nms_cuda(*arguments):
    on_device = [x.cuda() if torch.is_tensor(x) else x for x in arguments]
    return tuple(x.cpu() for x in torch.ops.uniav.nms_1d(*on_device))


KERNELS = [
    pytest.param(torch.ops.uniav.nms_1d, id="operator"),
    pytest.param(nms_1d_torch, id="pytorch"),
    pytest.param(functools.partial(nms_block, 1), id="block-of-1", marks=NEEDS_COMPILER),
    pytest.param(functools.partial(nms_block, 7), id="block-of-7", marks=NEEDS_COMPILER),
    pytest.param(nms_cuda, id="cuda", marks=NEEDS_GPU),
]
OPERATORS = [KERNELS[0], KERNELS[-1]]  # these check their arguments
every_kernel = pytest.mark.parametrize("kernel", KERNELS)


def make_candidates(n: int, classes: int, seed: int):
    rng = np.random.default_rng(seed)
    start = rng.uniform(0, 50, n)
    segments = np.stack([start, start + rng.uniform(0.5, 20, n)], axis=1).astype(np.float32)
    return segments, rng.uniform(0, 1, n).astype(np.float32), rng.integers(classes, size=n)


def make_videos(sizes, classes):
    """Make the candidates of several videos, separately and concatenated."""
    videos = [make_candidates(n, classes, seed) for seed, n in enumerate(sizes)]
    joined = [torch.from_numpy(np.concatenate(column)) for column in zip(*videos, strict=True)]
    return videos, joined, torch.tensor([0, *np.cumsum(sizes)])


@every_kernel
@pytest.mark.parametrize("method", NMS_METHODS)
@pytest.mark.parametrize("classes", [4, 1])
@pytest.mark.parametrize("multiclass", [True, False])
def test_nms_each_kernel_equals_plain_loops(kernel, method, classes, multiclass):
    videos, (segments, scores, labels), splits = make_videos((60, 0, 1, 200), classes)
    groups = labels if multiclass else torch.zeros_like(labels)
    rows, kept, counts = kernel(segments, scores, groups, splits, method, *SETTINGS.values())
    for v, video in enumerate(videos):
        expected = oracles.soft_nms(*video, method=method, multiclass=multiclass, **SETTINGS)
        assert counts[v] == len(expected)
        assert (rows[v, : counts[v]] - splits[v]).tolist() == [row for row, _ in expected]
        np.testing.assert_allclose(kept[v, : counts[v]], [score for _, score in expected], atol=1e-5)
        assert not rows[v, counts[v] :].any()
        assert not kept[v, counts[v] :].any()


def test_nms_1d_any_dtype_equals_operator():
    _, (segments, scores, labels), splits = make_videos((60, 30), 4)
    arguments = (segments.double(), scores.double(), labels, splits)
    for multiclass, groups in ((True, labels), (False, torch.zeros_like(labels))):
        expected = torch.ops.uniav.nms_1d(segments, scores, groups, splits, "hard", *SETTINGS.values())
        for x, y in zip(nms_1d(*arguments, method="hard", multiclass=multiclass, **SETTINGS), expected, strict=True):
            assert torch.equal(x, y)


@every_kernel
def test_nms_touching_segments_only_equal_one_removed(kernel):
    segments = torch.tensor([[0.0, 1.0], [1.0, 2.0], [0.0, 1.0]])
    arguments = (segments, torch.tensor([0.9, 0.8, 0.7]), torch.zeros(3, dtype=torch.int64), torch.tensor([0, 3]))
    rows, kept, counts = kernel(*arguments, "hard", 0.7, 0.4, 0.001, 100)
    assert counts.tolist() == [2]
    assert rows[0, :2].tolist() == [0, 1]
    assert kept[0, :2].tolist() == pytest.approx([0.9, 0.8])


@every_kernel
@pytest.mark.parametrize("method", NMS_METHODS)
def test_nms_equal_scores_earlier_row_first(kernel, method):
    """Equal scores without overlaps: rows in their order, of any class."""
    start = torch.arange(50.0).flip(0) * 2
    groups = torch.arange(50) % 3
    arguments = (torch.stack([start, start + 1], 1), torch.full((50,), 0.5), groups, torch.tensor([0, 50]))
    assert kernel(*arguments, method, 0.7, 0.4, 0.001, 30)[0].tolist() == [list(range(30))]


@every_kernel
def test_nms_empty_input_no_picks(kernel):
    empty = (torch.zeros(0, 2), torch.zeros(0), torch.zeros(0, dtype=torch.int64))
    rows, kept, counts = kernel(*empty, torch.tensor([0]), "soft", 0.7, 0.4, 0.001, 5)
    assert (rows.shape, kept.shape, counts.shape) == ((0, 5), (0, 5), (0,))
    assert kernel(*empty, torch.tensor([0, 0, 0]), "soft", 0.7, 0.4, 0.001, 5)[2].tolist() == [0, 0]
    one = (torch.tensor([[0.0, 1.0]]), torch.ones(1), torch.zeros(1, dtype=torch.int64), torch.tensor([0, 1]))
    assert kernel(*one, "soft", 0.7, 0.4, 0.001, 0)[2].tolist() == [0]


@pytest.mark.slow
@pytest.mark.parametrize("kernel", [*OPERATORS, KERNELS[2]])
def test_nms_more_than_2_to_the_31_bytes_both_ends_found(kernel):
    """The picks are at both ends of a tensor with byte offsets of more than 31 bits."""
    if sys.platform == "linux":
        pages = Path("/proc/meminfo").read_text().split("MemAvailable:")[1].split()[0]
        if int(pages) < 16e6:
            pytest.skip("needs 16 GB of free memory")
    segments, scores = torch.zeros(LARGE, 2), torch.full((LARGE,), 0.0001)  # all below min_score
    ends = torch.tensor([5, 7, LARGE - 1, LARGE - 3])
    segments[ends] = torch.tensor([[0.0, 10.0], [40.0, 50.0], [0.0, 9.0], [20.0, 30.0]])
    scores[ends] = torch.tensor([0.5, 0.6, 0.9, 0.7])
    groups = torch.zeros(LARGE, dtype=torch.int64)
    rows, kept, counts = kernel(segments, scores, groups, torch.tensor([0, LARGE]), "hard", 0.7, 0.4, 0.001, 4)
    assert counts.tolist() == [3]
    assert rows[0, :3].tolist() == [LARGE - 1, LARGE - 3, 7]  # row 5 overlaps the best
    assert kept[0, :3].tolist() == pytest.approx([0.9, 0.7, 0.6])


@pytest.mark.parametrize("kernel", OPERATORS)
@pytest.mark.parametrize(
    ("segments", "splits"),
    [
        ((2, 2), [0, 2000]),
        ((2, 2), [0, 2, 1]),
        ((2, 2), [-1, 2]),
        ((3, 2), [0, 2]),
        ((2, 3), [0, 2]),
        ((2, 2), []),
        ((2, 2), [[2, 0]]),
        ((2, 2), [[0, 2], [2, 4]]),
    ],
)
def test_nms_wrong_shapes_raise(kernel, segments, splits):
    splits = torch.tensor(splits, dtype=torch.int64)
    arguments = (torch.zeros(segments), torch.ones(2), torch.zeros(2, dtype=torch.int64), splits)
    with pytest.raises(ValueError, match="expected"):
        kernel(*arguments, "soft", 0.7, 0.4, 0.001, 3)


@pytest.mark.parametrize("kernel", OPERATORS)
@pytest.mark.parametrize(
    ("column", "change", "message"),
    [
        (1, lambda x: x[:, None], "scores"),
        (2, lambda x: x[:, None], "groups"),
        (0, torch.Tensor.double, "float32"),
        (1, torch.Tensor.half, "float32"),
        (2, torch.Tensor.int, "int64"),
        (2, torch.Tensor.bool, "int64"),
        (3, torch.Tensor.int, "int64"),
    ],
)
def test_nms_wrong_columns_raise(kernel, column, change, message):
    arguments = [torch.rand(4, 2), torch.rand(4), torch.zeros(4, dtype=torch.int64), torch.tensor([0, 4])]
    arguments[column] = change(arguments[column])
    with pytest.raises(ValueError, match=f"expected .*{message}"):
        kernel(*arguments, "soft", 0.7, 0.4, 0.001, 3)


@pytest.mark.parametrize("kernel", [*OPERATORS, KERNELS[1]])
@pytest.mark.parametrize("column", [0, 1])
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_nms_not_finite_raises(kernel, column, value):
    arguments = [torch.rand(4, 2), torch.rand(4)]
    arguments[column].view(-1)[2] = value
    with pytest.raises(ValueError, match="a segment or score is NaN or infinite"):
        kernel(*arguments, torch.zeros(4, dtype=torch.int64), torch.tensor([0, 4]), "soft", 0.7, 0.4, 0.001, 3)


@pytest.mark.parametrize("kernel", OPERATORS)
@pytest.mark.parametrize(
    ("message", "method", "sigma", "max_seg_num"),
    [
        ("soft, soft_linear or hard", "no", 0.4, 3),
        ("expected sigma > 0", "soft", -1.0, 3),
        ("expected sigma > 0", "soft", 1e-50, 3),  # 0 in float32
        ("expected max_seg_num >= 0", "soft", 0.4, -1),
    ],
)
def test_nms_wrong_options_raise(kernel, message, method, sigma, max_seg_num):
    arguments = (torch.rand(1, 2), torch.rand(1), torch.zeros(1, dtype=torch.int64), torch.tensor([0, 1]))
    with pytest.raises(ValueError, match=message):
        kernel(*arguments, method, 0.7, sigma, 0.001, max_seg_num)


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=NEEDS_GPU)])
def test_nms_operator_passes_opcheck(device):
    arguments = [torch.from_numpy(x).to(device) for x in make_candidates(30, 3, 0)]
    splits = torch.tensor([0, 10, 30], device=device)
    torch.library.opcheck(torch.ops.uniav.nms_1d.default, (*arguments, splits, "soft", 0.7, 0.4, 0.001, 8))


def test_vote_segments_equals_weighted_mean():
    segments, scores, _ = make_candidates(40, 1, 3)
    kept = segments[:5]
    expected = []
    for segment in kept:
        inter = np.clip(np.minimum(segment[1], segments[:, 1]) - np.maximum(segment[0], segments[:, 0]), 0, None)
        iou = inter / ((segment[1] - segment[0]) + (segments[:, 1] - segments[:, 0]) - inter)
        weights = scores * (iou >= 0.5)
        expected.append((weights[:, None] * segments).sum(0) / weights.sum())
    kept, segments, scores = (torch.from_numpy(x) for x in (kept, segments, scores))
    # Three videos: all candidates, none, and the first ten alone.
    segments, scores = torch.cat([segments, segments[:10]]), torch.cat([scores, scores[:10]])
    found = vote_segments(torch.stack([kept] * 3), segments, scores, torch.tensor([0, 40, 40, 50]), 0.5)
    np.testing.assert_allclose(found[0], expected, rtol=1e-5)
    alone = vote_segments(kept[None], segments[40:], scores[40:], torch.tensor([0, 10]), 0.5)
    assert torch.equal(found[2], alone[0])
    assert found[1].isnan().all()
    assert vote_segments(torch.zeros(0, 5, 2), segments, scores, torch.tensor([0]), 0.5).shape == (0, 5, 2)


@NEEDS_GPU
@pytest.mark.parametrize("multiclass", [True, False])
@pytest.mark.parametrize("method", NMS_METHODS)
@pytest.mark.filterwarnings("error::RuntimeWarning")  # which a missing CUDA kernel causes
def test_decode_on_gpu_equals_cpu(method, multiclass):
    """Includes voting. Candidates stay on the device."""
    from libs.core.configfile import from_tree
    from libs.core.types import Clip
    from libs.modeling.points import make_points
    from tests.conftest import tiny_tree

    config = from_tree(tiny_tree(Path("nowhere")))
    task = config.tasks["TASK2"]
    changes = {"nms_method": method, "multiclass_nms": multiclass}
    task = task.model_copy(update={"test_cfg": task.test_cfg.model_copy(update=changes)})
    points, sizes = make_points(config.model, 32)
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(3, len(points), 4, generator=generator)
    offsets = torch.rand(3, len(points), 4, 2, generator=generator) * 3
    clips = (Clip("v", 8.0, 16.0, 4.0, 16.0, torch.zeros(0, 2), torch.zeros(0).long()),) * 3
    found = []
    for device in ("cpu", "cuda"):
        tensors = (x.to(device) for x in (logits, offsets, torch.ones(3, len(points), dtype=torch.bool), points))
        found.append(decode_predictions(Prediction(*tensors, sizes), clips, task))
    assert found[0].labels.tolist() == found[1].labels.tolist()
    np.testing.assert_allclose(found[1].scores, found[0].scores, atol=1e-5)
    np.testing.assert_allclose(found[1].segments, found[0].segments, atol=1e-4)


def test_nms_without_extension_warns_once(tmp_path):
    """A copy of the operator without its extension warns once with the reason, and works."""
    (tmp_path / "nms.py").write_text((ROOT / "libs/ops/nms.py").read_text())
    (tmp_path / "_nms_cpu.txt").write_text("g++ failed")
    code = (
        "import torch, nms\n"
        "for _ in range(2):\n"
        "    print(nms.nms_1d(torch.tensor([[0., 1.]]), torch.ones(1), torch.zeros(1, dtype=torch.int64),"
        " torch.tensor([0, 1]))[2].item())\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["1", "1"]
    assert done.stderr.count("NMS runs in slow pure PyTorch instead of the C++ extension") == 1
    assert "it could not be built (g++ failed)" in done.stderr
    assert "INSTALL.md" in done.stderr


def test_extension_is_built():
    """Otherwise all tests would run on the fallback."""
    assert list((ROOT / "libs/ops").glob("_nms_cpu*")), "the C++ extension was not built"


@NEEDS_GPU
def test_cuda_extension_is_built():
    assert list((ROOT / "libs/ops").glob("_nms_cuda*")), "the CUDA extension was not built: install nvcc"


@pytest.mark.parametrize(
    ("rejected", "built", "notes"),
    [
        ((CUDA,), [CPU], {CUDA: "The current installed version of g++ is too new"}),
        ((CPU,), [], dict.fromkeys((CPU, CUDA), "The current installed version of g++ is too new")),
        ((), [CPU, CUDA], {}),
    ],
)
def test_setup_rejected_compiler_leaves_extension_out(tmp_path, capsys, rejected, built, notes):
    class BuildExt:
        """Like PyTorch's, which checks the compilers before it builds anything."""

        def __init__(self):
            self.extensions = [types.SimpleNamespace(name=name) for name in (CPU, CUDA)]
            self.built = []

        def run(self):
            self.build_extensions()

        def build_extensions(self):
            if any(extension.name in rejected for extension in self.extensions):
                raise RuntimeError("The current installed version\nof g++ is too new")
            self.built = [extension.name for extension in self.extensions]

        def get_ext_fullpath(self, name):
            return str(tmp_path / f"{name}.so")

    (tmp_path / "_nms_cpu.txt").write_text("of an earlier build")
    build = make_optional(BuildExt, {})()
    build.run()
    assert build.built == built
    assert {f"libs.ops.{path.stem}": path.read_text() for path in tmp_path.glob("*.txt")} == notes
    err = capsys.readouterr().err
    assert all(f"{name} is left out: {reason}; see INSTALL.md" in err for name, reason in notes.items())


def test_setup_failed_compiler_is_noted(tmp_path):
    class BuildExt:
        """Like setuptools', which goes on after an optional extension fails."""

        def run(self):
            with contextlib.suppress(OSError):
                self.build_extension(types.SimpleNamespace(name=CPU))

        def build_extension(self, extension):
            raise OSError("g++ failed with exit code 1")

        def get_ext_fullpath(self, name):
            return str(tmp_path / "libs/ops/_nms.so")

    make_optional(BuildExt, {CUDA: "no nvcc found"})().run()
    notes = {path.name: path.read_text() for path in tmp_path.glob("libs/ops/*")}
    assert notes == {"_nms_cpu.txt": "g++ failed with exit code 1", "_nms_cuda.txt": "no nvcc found"}


@pytest.mark.skipif(shutil.which("nvcc") is None, reason="needs nvcc, CUDA's compiler")
def test_cuda_kernel_compiles(tmp_path):
    """For every card of setup.py, without PyTorch."""
    flags = [f"-gencode=arch={code}" for code in CUDA_CODES]
    out = tmp_path / "nms.o"
    options = ["-std=c++17", "-O3", "--fmad=false", "-Werror", "all-warnings", *flags]
    subprocess.run(["nvcc", *options, "-c", str(CSRC / "nms_cuda.cu"), "-o", str(out)], check=True)
    assert out.stat().st_size > 0
