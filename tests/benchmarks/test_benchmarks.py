"""The benchmarks on tiny cases: they measure, report, and reject results that differ."""

import json
import math
from dataclasses import replace

import pytest
import torch

from benchmarks import network
from benchmarks.__main__ import list_cases, main, run_benchmarks
from benchmarks.case import BenchmarkCase, BenchmarkSettings, Variant, measure_peak_gb, run_case
from benchmarks.report import describe_machine
from libs.core.configfile import from_tree
from libs.core.errors import ConfigError, UserError
from tests.conftest import tiny_tree

CPU = torch.device("cpu")
MACHINE = {"cpu": "a CPU", "matmul_gflops": {"float32": 100}}
TINY = {
    "classes": 5,
    "nms_segments": 200,
    "nms_videos": 2,
    "eval_videos": 20,
    "eval_detections": 10,
    "eval_resamples": 20,
    "loader_videos": 8,
    "media_size": (64, 48),
    "media_seconds": 10.0,
    "long_size": (64, 48),
    "long_minutes": (0.2, 0.4),
}


@pytest.fixture
def settings(tmp_path) -> BenchmarkSettings:
    return BenchmarkSettings(from_tree(tiny_tree(tmp_path)), CPU, tmp_path, **TINY)


def run(settings, builders, out) -> int:
    return run_benchmarks(settings, builders, MACHINE, 1, out)


def run_all(settings, builders, out, capsys) -> None:
    assert run(settings, builders, out) == 0
    text, tree = capsys.readouterr().out, json.loads(out.read_text())
    assert [case["name"] for case in tree["cases"]] == list(builders)
    for case in tree["cases"]:
        assert case["title"] in text
        assert case["values"].keys() == {"plain", *case["errors"]}
        assert all(value > 0 for values in case["values"].values() for value in values)
    assert tree["machine"] == MACHINE


@pytest.mark.slow
def test_run_benchmarks_cases_without_media_are_measured(settings, tmp_path, capsys):
    slow = ("memory", "media")
    builders = {name: build for name, build in list_cases(settings).items() if not name.startswith(slow)}
    run_all(settings, builders, tmp_path / "out.json", capsys)
    assert any("loading TAL" in note for note in json.loads((tmp_path / "out.json").read_text())["notes"])


@pytest.mark.slow
def test_run_benchmarks_cases_of_memory_and_media_are_measured(settings, tmp_path, capsys):
    pytest.importorskip("av", reason="needs PyAV: pip install -e .[media]")
    builders = list_cases(settings, ["memory", "media"])
    run_all(settings, builders, tmp_path / "out.json", capsys)


def test_train_plain_and_fast_give_the_same_losses(settings):
    (plain, expected), (fast, losses) = (network.train_two_steps(settings, run) for run in (None, settings.config.run))
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
    assert run(settings, builders, tmp_path / "out.json") == 1
    captured = capsys.readouterr()
    assert "FAILED: bad: fast: AssertionError: differs from plain by 1, more than 0.1" in captured.err
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
        run(settings, builders, tmp_path / "out.json")
    assert f"written to {tmp_path / 'out.json'}" in capsys.readouterr().out
    assert [case["name"] for case in json.loads((tmp_path / "out.json").read_text())["cases"]] == ["good"]


def test_run_case_bf16_boundaries_that_differ_are_rejected(settings, monkeypatch):
    """Scores alone do not show that segments lie elsewhere."""
    build = list_cases(replace(settings, precisions=("float32", "bf16")))["infer-AVEL"]
    result = run_case("infer", build(), CPU, repeats=1)
    assert not result.failures
    assert 0 < result.errors["bf16"] < result.tolerances["bf16"]
    predict = network.predict

    def move_boundaries(model, ctx, batch, task):
        prediction = predict(model, ctx, batch, task)
        return replace(prediction, offsets=1.2 * prediction.offsets) if ctx.precision == "bf16" else prediction

    monkeypatch.setattr(network, "predict", move_boundaries)
    assert list(run_case("infer", build(), CPU, repeats=1).failures) == ["bf16"]


def test_run_case_nan_is_rejected():
    assert run_case("nan", build_case(lambda: 1.0, lambda: math.nan), CPU).failures


def test_run_case_measure_takes_the_value_from_the_only_call():
    calls = []
    case = build_case(lambda: 2.0, lambda: calls.append(1) or 2.05, measure=lambda found: 4 * found, plain_factor=3)
    for more_is_better, speedup in ((True, 8.2 / 24), (False, 24 / 8.2)):
        result = run_case("a", replace(case, more_is_better=more_is_better), CPU, repeats=3)
        assert result.values == {"plain": [24.0], "fast": [8.2]}
        assert result.speedup("fast") == pytest.approx(speedup)
    assert len(calls) == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--only", "nothing"], "--only nothing: no such case; choose from train-TAL"),
        (["--repeats", "many"], "invalid"),
        pytest.param(
            ["--device", "cuda"],
            "invalid choice: 'cuda'",
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


def test_run_benchmarks_unusable_settings_raise_user_error(settings, tmp_path):
    with pytest.raises(UserError, match="cannot be written"):
        run(settings, list_cases(settings, ["nms-1"]), tmp_path)
    with pytest.raises(ConfigError, match="cuda_graphs needs a GPU"):
        run(settings, list_cases(replace(settings, compile_modes=("cuda_graphs",))), tmp_path / "out.json")


def test_describe_machine_measures_matrix_products():
    machine = describe_machine(CPU, ("float32",))
    assert {"commit", "date", "cpu", "cores", "torch"} <= machine.keys()
    assert machine["matmul_gflops"]["float32"] > 0


def test_list_cases_by_prefix(settings):
    assert set(list_cases(settings, ["nms", "map"])) == {"nms-1", "nms-2", "map"}
