"""The benchmark itself, on tiny cases: it measures, reports, and refuses what differs."""

import json
from dataclasses import replace
from functools import partial

import pytest
import torch

from benchmarks import network
from benchmarks.__main__ import all_cases, choose, main, run
from benchmarks.case import BenchmarkCase, Measured, NetworkVariant, Setting, Sizes, Variant
from benchmarks.memory import peak_bytes, train
from benchmarks.runner import run_case
from libs.core.configfile import from_tree
from libs.core.errors import ConfigError
from tests.conftest import tiny_tree

CPU = torch.device("cpu")
TINY = Sizes(
    nms_segments=200,
    nms_classes=5,
    nms_videos=2,
    eval_videos=20,
    eval_detections=10,
    eval_classes=3,
    loader_videos=8,
    matmul=64,
    media_size=(64, 48),
    media_seconds=10.0,
    long_size=(64, 48),
    media_minutes=(0.2, 0.4),
)


@pytest.fixture
def setting(tmp_path):
    return Setting(from_tree(tiny_tree(tmp_path)), CPU, TINY)


def test_every_case(setting, tmp_path, capsys):
    """All cases but the one that starts processes, once each."""
    builders = all_cases(setting)
    memory = builders.pop("memory")
    assert run(setting, builders, 1, tmp_path / "out.json") == 0
    out = capsys.readouterr().out
    tree = json.loads((tmp_path / "out.json").read_text())
    assert [case["name"] for case in tree["cases"]] == list(builders)
    for case in tree["cases"]:
        assert case["title"] in out
        assert case["values"].keys() == {"plain", *case["errors"]}
        assert all(value > 0 for values in case["values"].values() for value in values)
    assert "loading TAL" in out
    assert {"cpu", "cores", "torch", "date"} <= tree["machine"].keys()
    assert tree["matmul_gflops"]["float32"] > 0
    assert memory().once == ("plain", *(variant.name for variant in memory().variants))


def test_what_the_memory_case_does_in_its_processes(setting):
    (plain, expected), (fast, losses) = train(setting, None), train(setting, NetworkVariant("float32"))
    assert losses == pytest.approx(expected, rel=1e-4)
    # Here in one process, which may have done more before: the peak so far, in GB.
    assert 0.1 < plain <= fast == pytest.approx(peak_bytes(setting.device) / 1e9, rel=0.05)


def case_of(plain, fast, **options) -> BenchmarkCase:
    return BenchmarkCase("a case", "s", plain, [Variant("fast", fast, lambda x, y: abs(x - y), 0.1)], **options)


def fails():
    raise RuntimeError("no kernel")


def test_what_differs_or_fails_is_not_measured(setting, tmp_path, capsys):
    """But the rest is, and the exit status tells."""
    good, bad, broken = (case_of(lambda: 1.0, fast) for fast in (lambda: 1.05, lambda: 2.0, fails))
    bad = replace(bad, variants=bad.variants + [replace(good.variants[0], name="other")])
    plain = case_of(fails, lambda: 1.0)
    builders = {"good": lambda: good, "bad": lambda: bad, "broken": lambda: broken, "plain": lambda: plain}
    assert run(setting, builders, 1, tmp_path / "out.json") == 1
    captured = capsys.readouterr()
    assert "FAILED: bad: fast: Mismatch: differs from the plain baseline by 1, more than 0.1" in captured.err
    assert "FAILED: broken: fast: RuntimeError: no kernel" in captured.err
    assert "FAILED: plain: plain: RuntimeError: no kernel" in captured.err
    assert captured.out.count("FAILED") == 3
    cases = json.loads((tmp_path / "out.json").read_text())["cases"]
    assert [list(case["values"]) for case in cases] == [["plain", "fast"], ["plain", "other"], ["plain"], []]


def test_bf16_detections_come_from_nearly_the_same_boundaries(setting, monkeypatch):
    """Scores alone would not tell that segments lie elsewhere."""
    vars(setting)["has_bf16"] = True
    build = all_cases(setting)["infer-AVEL"]
    result = run_case("infer", build, CPU, repeats=1)
    assert not result.failures
    assert 0 < result.errors["bf16"] < result.tolerances["bf16"]

    def moved(model, ranks, batch, task):
        prediction = predict(model, ranks, batch, task)
        return replace(prediction, offsets=1.2 * prediction.offsets) if ranks.precision == "bf16" else prediction

    predict = network.predict
    monkeypatch.setattr(network, "predict", moved)
    assert list(run_case("infer", build, CPU, repeats=1).failures) == ["bf16"]


def test_nan_is_a_different_result():
    assert run_case("nan", lambda: case_of(lambda: 1.0, lambda: float("nan")), CPU).failures


def test_measured_values_and_gains():
    closed = []
    case = case_of(partial(Measured, 2.0, 0.0), partial(Measured, 8.0, 0.0), close=lambda: closed.append(True))
    for more_is_better, gain in ((True, 4.0), (False, 0.25)):
        result = run_case("a", lambda more=more_is_better: replace(case, more_is_better=more), CPU, repeats=3)
        assert result.values == {"plain": [2.0] * 3, "fast": [8.0] * 3}
        assert result.gain("fast", result.median("plain")) == gain
    assert closed == [True, True]


def test_what_was_measured_before_an_interruption_is_kept(setting, tmp_path, capsys):
    def interrupted():
        raise KeyboardInterrupt

    builders = {"good": lambda: case_of(lambda: 1.0, lambda: 1.0), "never": interrupted}
    with pytest.raises(KeyboardInterrupt):
        run(setting, builders, 1, tmp_path / "out.json")
    assert f"written to {tmp_path / 'out.json'}" in capsys.readouterr().out
    assert [case["name"] for case in json.loads((tmp_path / "out.json").read_text())["cases"]] == ["good"]


@pytest.mark.parametrize(
    ("options", "said"),
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
def test_options_that_do_not_fit(monkeypatch, capsys, options, said):
    monkeypatch.setattr("sys.argv", ["benchmarks", *options])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert said in capsys.readouterr().err


def test_choice(setting):
    assert set(choose(all_cases(setting), ["nms", "map"])) == {"nms-1", "nms-2", "map"}
    with pytest.raises(ConfigError, match="--only nothing: no such case; choose from train-TAL"):
        choose(all_cases(setting), ["nothing"])
