"""tools/compare.py as users call it, and the metrics of eval.py that it compares."""

import json
import re

import pytest

from tests.conftest import assert_user_error
from tests.tools.pages import NASTY, read_page


def test_compare_files_gives_differences_with_their_sign(scored_files, run_script, tmp_path):
    annotations, a, b = scored_files
    arguments = [annotations, "--subset", "val", "--tious", "0.3,0.5", "--json", tmp_path / "c.json"]
    status, out, err = run_script("tools/compare.py", a, b, *arguments, "--html", tmp_path / "c.html")
    assert status == 0, err
    rows = {row["name"]: row for row in json.loads((tmp_path / "c.json").read_text())["val"]["numbers"]}
    for row in rows.values():
        difference = row["difference"]
        assert difference["value"] == pytest.approx(row["B"] - row["A"])
        assert (row["p"] < 0.05) == (not difference["low"] <= 0 <= difference["high"])
    assert re.search(r"average mAP\s", out)
    assert NASTY in read_page(tmp_path / "c.html").text
    # The reverse comparison negates all differences.
    assert run_script("tools/compare.py", b, a, *arguments)[0] == 0
    swapped = {row["name"]: row for row in json.loads((tmp_path / "c.json").read_text())["val"]["numbers"]}
    for name, row in rows.items():
        assert swapped[name]["difference"]["value"] == pytest.approx(-row["difference"]["value"])
        assert swapped[name]["p"] == row["p"]


def test_compare_with_itself_finds_no_difference(scored_files, run_script, tmp_path):
    annotations, a, _ = scored_files
    status, out, err = run_script(
        "tools/compare.py", a, a, annotations, "--subset", "val", "--json", tmp_path / "c.json"
    )
    assert status == 0, err
    tree = json.loads((tmp_path / "c.json").read_text())["val"]
    assert len(tree["numbers"]) > 20
    for row in (*tree["numbers"], *tree["classes"]):
        assert row["difference"] == {"value": 0, "low": 0, "high": 0}
        assert row["p"] == 1
    assert "largest" not in out


def test_compare_includes_sound_event_metrics(scored_files, run_script, tmp_path, fake_sed):
    annotations, a, b = scored_files
    arguments = [annotations, "--subset", "val", "--metrics", "sed", "--json", tmp_path / "c.json"]
    status, out, err = run_script("tools/compare.py", a, b, *arguments)
    assert status == 0, err
    (row,) = json.loads((tmp_path / "c.json").read_text())["val"]["numbers"]
    assert row["difference"]["value"] == pytest.approx(0.1)


def test_compare_with_bad_arguments_raises(scored_files, run_script, tmp_path):
    annotations, a, b = scored_files
    assert_user_error(
        *run_script("tools/compare.py", a, b)[::2], "two results files need ANNOTATIONS.json and --subset"
    )
    assert_user_error(*run_script("tools/compare.py", a, tmp_path)[::2], "expected two folders or two results files")
    status, _, err = run_script("tools/compare.py", a, b, annotations, "--subset", "val", "--metrics", "classes")
    assert_user_error(status, err, "--metrics classes: has no numbers to compare")
    assert_user_error(
        *run_script("tools/compare.py", tmp_path, tmp_path)[::2], "metrics.json", "the metrics that eval.py writes"
    )
    (tmp_path / "metrics.json").write_text('{"checkpoint": "x", "TASK1": {"average_mAP": 0.1}}')
    status, _, err = run_script("tools/compare.py", tmp_path, tmp_path)
    assert_user_error(status, err, "TASK1 lacks annotations, splits, tiou, videos; run eval.py again")


def test_compare_folders_takes_data_from_eval_metrics(tiny, trained, run_script, fake_sed):
    """Sound event metrics are computed for SED only. The second evaluation has other tasks and fewer detections."""
    out = tiny / "out"
    arguments = ["--output", out, "--metrics", "all", "--tasks", "2-3"]
    status, text, err = run_script("eval.py", tiny / "tiny.yaml", trained[0], *arguments)
    assert status == 0, err
    tree = json.loads((out / "metrics.json").read_text())
    assert "sed" in tree["TASK3"]["metrics"]
    assert len(fake_sed) == 1
    for key in ("TASK2", "TASK3"):
        assert {"splits", "average_mAP", "tiou", "mAP", "ap_per_class", "metrics"} <= tree[key].keys()
        value = tree[key]["metrics"]["map"]["headline"]["average_mAP"]["value"]
        assert value == pytest.approx(tree[key]["average_mAP"], abs=1e-12)
        assert (out / f"plots/{key}_errors.png").exists()
    page = read_page(out / "report.html")
    assert all(name in page.text for name in ("AVEL avel test", "SED sed test", "event f1 macro", "<i>Dog", "0.1250"))
    fewer = tiny / "fewer"
    assert run_script("eval.py", tiny / "tiny.yaml", trained[0], "--output", fewer, "-t", 2)[0] == 0
    assert "metrics" not in json.loads((fewer / "metrics.json").read_text())["TASK2"]
    status, text, err = run_script("tools/compare.py", out, fewer, "--metrics", "map", "--json", tiny / "c.json")
    assert status == 0, err
    compared = json.loads((tiny / "c.json").read_text())
    assert compared.keys() == {"A", "B", "TASK2", "TASK3"}  # only one folder has TASK1
    row = compared["TASK2"]["numbers"][0]
    assert (row["name"], row["A"]) == ("average_mAP", pytest.approx(tree["TASK2"]["average_mAP"]))


def test_eval_with_bad_metrics_raises_before_it_starts(tiny, run_script):
    ways = {"did you mean 'map'": ["--metrics", "mpa"], "leave one of them out": ["--metrics", "map", "--saveonly"]}
    for message, arguments in ways.items():
        status, _, err = run_script("eval.py", tiny / "tiny.yaml", tiny / "nothing", *arguments)
        assert_user_error(status, err, message)
