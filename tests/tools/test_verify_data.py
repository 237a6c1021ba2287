"""tools/verify_data.py as a user runs it."""

import json
import re

from tests.conftest import NEEDS_SHARED, ROOT, SHARED, assert_user_error
from tests.datasets.checks import defects
from tests.datasets.checks.tiny_data import (
    AUDIO,
    FIRST,
    SECOND,
    TESTED,
    change_features,
    edit_database,
    feature_file,
    remove_chance_defects,
)

REAL = SHARED / "real"


def test_verify_data_prints_facts_findings_and_remedies(tiny, run_script):
    remove_chance_defects(tiny)
    defects.repeated_event(tiny)
    status, out, err = run_script("tools/verify_data.py", tiny / "tiny.yaml", "--json", tiny / "out/found.json")
    assert (status, err) == (0, "")
    for part in ("TASK3", "max_seq_len 32", "8–10000", "repeated event", FIRST, "0 errors, 1 warning,"):
        assert part in out
    tree = json.loads((tiny / "out/found.json").read_text())
    assert tree["counts"]["warning"] == 1
    assert tree["tasks"].keys() == {"TASK1", "TASK2", "TASK3"}
    assert [row["videos"] for row in tree["splits"]] == [12, 4, 9] * 3


def test_verify_data_errors_end_with_status_1_and_printable_text(tiny, run_script):
    remove_chance_defects(tiny)
    defects.nan_values(tiny)
    edit_database(tiny, lambda db: db.update({"\x1b[31mred": {"subset": "train", "duration": 0}}))
    status, out, err = run_script("tools/verify_data.py", tiny / "tiny.yaml", "--jobs", "1")
    assert (status, err) == (1, "")
    assert "2 errors, 0 warnings," in out
    assert "audio: 1 of" in out
    assert "\x1b" not in out
    assert "extract the features again" in out


def test_verify_data_manifest_is_written_then_compared(tiny, run_script):
    remove_chance_defects(tiny)
    manifest = tiny / "m.sha256"
    arguments = [tiny / "tiny.yaml", "--tasks", "2", "--manifest", manifest]
    status, out, err = run_script("tools/verify_data.py", *arguments)
    assert (status, err) == (0, "")
    assert "SHA-256 of 52 files -> " in out  # 25 videos with two files each, annotations and prompts
    assert len(manifest.read_text().splitlines()) == 52
    assert run_script("tools/verify_data.py", *arguments)[0] == 0
    change_features(tiny, FIRST, lambda x: x + 1)
    damaged = feature_file(tiny, "avel_train_0002")
    damaged.write_bytes(damaged.read_bytes()[:-1])
    feature_file(tiny, SECOND).unlink()
    manifest.write_text(re.sub(f".*{TESTED}.*\n", "", manifest.read_text()))
    before = manifest.read_bytes()
    status, _, _ = run_script("tools/verify_data.py", *arguments, "--json", tiny / "found.json")
    assert status == 1
    findings = {f["check"]: f["cases"] for f in json.loads((tiny / "found.json").read_text())["findings"]}
    names = {check: [case["name"] for case in cases] for check, cases in findings.items()}
    assert names["changed file"] == [str(feature_file(tiny, FIRST)), str(damaged)]
    assert names["lost file"] == [str(feature_file(tiny, SECOND))]
    assert names["new file"] == [str(feature_file(tiny, TESTED, AUDIO)), str(feature_file(tiny, TESTED))]
    assert manifest.read_bytes() == before


def test_verify_data_without_threads_ends_with_one_line(tiny, run_script):
    status, out, err = run_script("tools/verify_data.py", tiny / "tiny.yaml", "--jobs", "0")
    assert out == ""
    assert_user_error(status, err, "--jobs 0: expected at least 1")


def verify_real(run_script, folder, *more):
    """Verify the published annotations with planted features: exit status and the written JSON."""
    files = {
        "TASK1.dataset.json_file": "activitynet/anet1.3_all.json",
        "TASK1.dataset.prompt_file": "prompts/anet_prompt.npy",
        "TASK2.dataset.json_file": "unav100/unav100_all.json",
        "TASK2.dataset.prompt_file": "prompts/unav100_prompt.npy",
        "TASK3.dataset.json_file": "desed/dcase_all.json",
        "TASK3.dataset.prompt_file": "prompts/dcase_prompt.npy",
    }
    overrides = [f"{key}={REAL / name}" for key, name in files.items()]
    out = folder / "found.json"
    arguments = [ROOT / "configs/planted_full.yaml", "--json", out, "-o", *overrides, *more]
    status, _, err = run_script("tools/verify_data.py", *arguments)
    assert err == ""
    return status, json.loads(out.read_text())


@NEEDS_SHARED
def test_verify_data_published_annotations_have_no_error(tmp_path, run_script):
    status, tree = verify_real(run_script, tmp_path)
    assert (status, tree["counts"]["error"]) == (0, 0)
    assert {(row["task"], row["split"]): (row["videos"], row["events"], row["classes"]) for row in tree["splits"]} == {
        ("TASK1", "training"): (10024, 15410, 200),
        ("TASK1", "validation"): (4926, 7654, 200),
        ("TASK2", "train"): (6489, 18123, 100),
        ("TASK2", "validation"): (2134, 6036, 100),
        ("TASK2", "test"): (2167, 5900, 100),
        ("TASK3", "validation"): (1168, 4224, 10),
        ("TASK3", "public_eval"): (692, 2765, 10),
    }
    counts = {(f["task"], f["split"], f["check"]): f["count"] for f in tree["findings"]}
    assert counts["TASK1", "validation", "zero length"] == 3
    assert counts["TASK1", "validation", "repeated event"] == 21
    assert counts["TASK3", "validation", "no events"] == 15


@NEEDS_SHARED
def test_verify_data_activitynet_layout_without_a_training_split_is_an_error(tmp_path, run_script):
    own = f"TASK1.dataset.json_file={REAL / 'activitynet/activity_net.v1-3.validation.json'}"
    status, tree = verify_real(run_script, tmp_path, own, "--tasks", "1")
    assert status == 1
    assert [(row["videos"], row["events"]) for row in tree["splits"]] == [(4926, 7654)]
    counts = {f["check"]: f["count"] for f in tree["findings"]}
    assert (counts["zero length"], counts["repeated event"], counts["ids by alphabet"]) == (3, 21, 1)
    assert [f["check"] for f in tree["findings"] if f["severity"] == "error"] == ["empty split"]
