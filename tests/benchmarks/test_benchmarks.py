"""The benchmarks on tiny cases: they measure, report, and reject results that differ."""

import json
import math
from dataclasses import replace
from functools import partial

import pytest
import torch

from benchmarks import network
from benchmarks.__main__ import list_all_cases, main, run_benchmarks, select_cases
from benchmarks.case import BenchmarkCase, BenchmarkSettings, Measurement, RunOptions, Variant
from benchmarks.memory import measure_peak_gb, train
from benchmarks.runner import run_case
from libs.core.configfile import from_tree
from libs.core.errors import ConfigError
from tests.conftest import tiny_tree

CPU = torch.device("cpu")
TINY = {
    "nms_segments": 200,
    "nms_classes": 5,
    "nms_videos": 2,
    "eval_videos": 20,
    "eval_detections": 10,
    "eval_classes": 3,
    "eval_resamples": 20,
    "loader_videos": 8,
    "matmul_size": 64,
    "media_size": (64, 48),
    "media_seconds": 10.0,
    "long_size": (64, 48),
    "long_minutes": (0.2, 0.4),
}


@pytest.fixture
def settings(tmp_path) -> BenchmarkSettings:
    return BenchmarkSettings(from_tree(tiny_tree(tmp_path)), CPU, **TINY)


def run_all(settings, builders, out, capsys) -> None:
    assert run_benchmarks(settings, builders, 1, out) == 0
    text, tree = capsys.readouterr().out, json.loads(out.read_text())
    assert [case["name"] for case in tree["cases"]] == list(builders)
    for case in tree["cases"]:
        assert case["title"] in text
        assert case["values"].keys() == {"plain", *case["errors"]}
        assert all(value > 0 for values in case["values"].values() for value in values)
    assert {"cpu", "cores", "torch", "date"} <= tree["machine"].keys()
    assert tree["matmul_gflops"]["float32"] > 0


def test_run_benchmarks_cases_without_media_are_measured(settings, tmp_path, capsys):
    slow = ("memory", "media")
    builders = {name: build for name, build in list_all_cases(settings).items() if not name.startswith(slow)}
    run_all(settings, builders, tmp_path / "out.json", capsys)
    assert any("loading TAL" in note for note in json.loads((tmp_path / "out.json").read_text())["notes"])


@pytest.mark.slow
def test_run_benchmarks_cases_of_memory_and_media_are_measured(settings, tmp_path, capsys):
    pytest.importorskip("av", reason="needs PyAV: pip install -e .[media]")
    builders = select_cases(list_all_cases(settings), ["memory", "media"])
    run_all(settings, builders, tmp_path / "out.json", capsys)


def test_train_plain_and_fast_give_the_same_losses(settings):
    (plain, expected), (fast, losses) = train(settings, None), train(settings, RunOptions())
    assert losses == pytest.approx(expected, rel=1e-4)
    # Both ran in this process: the later one's peak is that of all.
    assert 0.1 < plain <= fast == pytest.approx(measure_peak_gb(settings.device), rel=0.05)


def build_case(plain, fast, **options) -> BenchmarkCase:
    return BenchmarkCase("a case", "s", plain, [Variant("fast", fast, lambda x, y: abs(x - y), 0.1)], **options)


def fail():
    raise RuntimeError("no kernel")


def test_run_benchmarks_variant_that_differs_or_fails_is_not_measured(settings, tmp_path, capsys):
    good, bad, broken = (build_case(lambda: 1.0, fast) for fast in (lambda: 1.05, lambda: 2.0, fail))
    bad = replace(bad, variants=[*bad.variants, good.variants[0]._replace(name="other")])
    plain = build_case(fail, lambda: 1.0)
    builders = {"good": lambda: good, "bad": lambda: bad, "broken": lambda: broken, "plain": lambda: plain}
    assert run_benchmarks(settings, builders, 1, tmp_path / "out.json") == 1
    captured = capsys.readouterr()
    assert "FAILED: bad: fast: MismatchError: differs from the plain baseline by 1, more than 0.1" in captured.err
    assert "FAILED: broken: fast: RuntimeError: no kernel" in captured.err
    assert "FAILED: plain: plain: RuntimeError: no kernel" in captured.err
    assert captured.out.count("FAILED") == 3
    cases = json.loads((tmp_path / "out.json").read_text())["cases"]
    assert [list(case["values"]) for case in cases] == [["plain", "fast"], ["plain", "other"], ["plain"], []]


def test_run_benchmarks_interrupted_keeps_the_results(settings, tmp_path, capsys):
    def interrupt():
        raise KeyboardInterrupt

    builders = {"good": lambda: build_case(lambda: 1.0, lambda: 1.0), "never": interrupt}
    with pytest.raises(KeyboardInterrupt):
        run_benchmarks(settings, builders, 1, tmp_path / "out.json")
    assert f"written to {tmp_path / 'out.json'}" in capsys.readouterr().out
    assert [case["name"] for case in json.loads((tmp_path / "out.json").read_text())["cases"]] == ["good"]


def test_run_case_bf16_boundaries_that_differ_are_rejected(settings, monkeypatch):
    """Scores alone do not show that segments lie elsewhere."""
    vars(settings)["has_bf16"] = True
    build = list_all_cases(settings)["infer-AVEL"]
    result = run_case("infer", build, CPU, repeats=1)
    assert not result.failures
    assert 0 < result.errors["bf16"] < result.tolerances["bf16"]
    predict = network.predict

    def move_boundaries(model, ctx, batch, task):
        prediction = predict(model, ctx, batch, task)
        return replace(prediction, offsets=1.2 * prediction.offsets) if ctx.precision == "bf16" else prediction

    monkeypatch.setattr(network, "predict", move_boundaries)
    assert list(run_case("infer", build, CPU, repeats=1).failures) == ["bf16"]


def test_run_case_nan_is_rejected():
    assert run_case("nan", lambda: build_case(lambda: 1.0, lambda: math.nan), CPU).failures


def test_run_case_measurements_are_taken_as_they_are():
    closed = []
    case = build_case(partial(Measurement, 2.0, 0), partial(Measurement, 8.0, 0), close=lambda: closed.append(True))
    for more_is_better, speedup in ((True, 4.0), (False, 0.25)):
        result = run_case("a", lambda more=more_is_better: replace(case, more_is_better=more), CPU, repeats=3)
        assert result.values == {"plain": [2.0] * 3, "fast": [8.0] * 3}
        assert result.speedup("fast") == speedup
    assert closed == [True, True]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--only", "nothing"], "--only nothing: no such case"),
        (["--compile", "cuda_graphs", "--device", "cpu"], "--compile cuda_graphs: needs a GPU"),
        (["--only", "nms-1", "--json", "."], ".: is a folder"),
        (["--repeats", "0"], "expected 1 or more"),
        (["--repeats", "many"], "invalid"),
        pytest.param(
            ["--device", "cuda"],
            "PyTorch finds no GPU",
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="has a GPU"),
        ),
    ],
)
def test_main_unusable_option_ends_with_status_2(monkeypatch, capsys, options, message):
    monkeypatch.setattr("sys.argv", ["benchmarks", *options])
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


def test_select_cases_by_prefix(settings):
    assert set(select_cases(list_all_cases(settings), ["nms", "map"])) == {"nms-1", "nms-2", "map"}
    with pytest.raises(ConfigError, match="--only nothing: no such case; choose from train-TAL"):
        select_cases(list_all_cases(settings), ["nothing"])
