"""tools/demo_report.py on the tiny data."""

import json

from libs.core.configfile import load_config
from tests.conftest import assert_user_error


def test_demo_report_shows_network_and_baselines_for_each_task(tiny, run_script):
    tasks = load_config(tiny / "tiny.yaml").tasks
    metrics = {key: {"mAP": [0.5] * len(task.tious), "average_mAP": 0.5} for key, task in tasks.items()}
    (tiny / "metrics.json").write_text(json.dumps(metrics))
    status, out, err = run_script("tools/demo_report.py", tiny / "tiny.yaml", tiny)
    assert status == 0, err
    header, _, *rows = out.splitlines()[1:]
    assert header.split()[:2] == ["task", ".10"]
    assert header.split()[-2:] == [".95", "average"]
    averages = {}
    for row in rows:
        averages.setdefault(" ".join(row.split()[:2]), []).append(float(row.split()[-1]))
    assert [averages[f"{kind} network"] for kind in ("TAL", "AVEL", "SED")] == [[50.0]] * 3
    for matching, guessing in zip(averages["window matching"], averages["random guessing"], strict=True):
        assert 0 < guessing < matching


def test_demo_report_without_a_task_in_metrics_raises(tiny, run_script):
    (tiny / "metrics.json").write_text("{}")
    status, _, err = run_script("tools/demo_report.py", tiny / "tiny.yaml", tiny)
    assert_user_error(status, err, "metrics.json: no TASK1; evaluate all tasks with eval.py first")
