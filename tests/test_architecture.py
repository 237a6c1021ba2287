"""The recipes of docs/architecture.md work as they are printed there."""

import re
from collections.abc import Callable

import numpy as np
import pytest

from libs.core.configfile import load_config
from libs.core.errors import UserError
from libs.core.types import Detections, Video
from libs.datasets.checks import events, findings
from libs.evaluation.metrics import compute
from libs.features.windows import WindowBatch
from libs.media.encoders import build
from tests.conftest import ROOT, open_tiny_task

PAGE = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")


def find_block(language: str, part: str) -> str:
    """Return the code block that contains a part."""
    (block,) = (block for block in re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL) if part in block)
    return block


def define(name: str, keyword: str, **scope) -> Callable:
    """Run the block that defines a function or class, and return that."""
    exec(find_block("python", f"{keyword} {name}(" if keyword == "def" else f"{keyword} {name}:"), scope)
    return scope[name]


@pytest.mark.parametrize(("name", "key"), [("music.yaml", "TASK4"), ("ablations/no_label_smoothing.yaml", "TASK1")])
def test_configuration_of_the_page_loads(tmp_path, name, key):
    block = find_block("yaml", f"# configs/{name}")
    base = (ROOT / "configs" / name).parent
    block = re.sub("^base: (.*)", lambda match: f"base: {base / match[1]}", block, flags=re.MULTILINE)
    (tmp_path / "x.yaml").write_text(block)
    config = load_config(tmp_path / "x.yaml")
    assert key in config.tasks
    assert name != "music.yaml" or config.tasks[key].shows_in == ("audio",)


def test_encoder_of_the_page_encodes():
    encoder = define("MeanEncoder", "class", np=np, WindowBatch=WindowBatch, UserError=UserError)()
    frames = np.full((24, 4, 6, 3), 51, np.uint8)
    np.testing.assert_allclose(encoder.encode_frames(WindowBatch(frames, 16, 4)), np.full((3, 3), 0.2), rtol=1e-5)
    assert encoder.encode_audio(WindowBatch(np.zeros(20_000, np.float32), 16_000, 4_000)).shape == (2, 1)
    assert "spec ==" in find_block("python", "return MeanEncoder()") and hasattr(build, "build_encoder")


def test_metric_of_the_page_computes():
    compute_top1 = define("compute_top1", "def", **vars(compute))
    videos = [Video(name, "test", 9.0, None, np.array([[0.0, 1.0]]), np.array([0])) for name in "ab"]
    table = np.array([0, 1]), np.array([[0.0, 1.0]] * 2), np.array([0.9, 0.8]), np.array([0, 1])
    data = compute.EvaluationInput(Detections(("a", "b"), *table), videos, {0: "x", 1: "y"}, (0.5,))
    assert compute_top1(data).headline["top1"].value == 0.5


def test_data_check_of_the_page_finds(tiny):
    check_short_events = define("check_short_events", "def", **vars(events))
    _, task, annotations = open_tiny_task(tiny)
    occurrences = list(check_short_events(events.TaskVideos(task, annotations)))
    short = sum((video.segments[:, 1] - video.segments[:, 0] < 1).sum() for video in annotations.videos)
    assert len(occurrences) == short
    assert {occurrence.check for occurrence in occurrences} <= {"shorter than a window"}
    entry = find_block("python", 'a window": (')
    ((check, (severity, _)),) = eval(f"{{{entry}}}").items()
    assert check == "shorter than a window" and severity in findings.SEVERITIES


def test_names_in_the_sequences_are_in_their_files():
    rows = re.findall(r"^\| .+ \| (.*`.*) \| (`libs/[^|]*) \|$", PAGE, re.MULTILINE)
    assert len(rows) > 15
    for made_by, where in rows:
        paths = [ROOT / path for path in re.findall(r"`([^`]+)`", where)]
        files = [file for path in paths for file in (path.rglob("*.py") if path.is_dir() else [path])]
        text = "\n".join(file.read_text(encoding="utf-8") for file in files)
        for name in re.findall(r"`([\w.]+)", made_by):
            assert re.search(rf"\b{name.split('.')[-1]}\b", text), f"{name} is not in {where}"
