"""eval.py on a trained run."""

import json

import numpy as np
import pytest


def test_eval_with_nan_features_is_one_line(tiny, trained, run_script):
    path = next((tiny / "avel/av_features").glob("*_test_0003_one_peace_audio.npy"))
    np.save(path, np.load(path) * np.nan)
    status, _, err = run_script("eval.py", tiny / "tiny.yaml", trained[0], "--output", tiny / "out", "--tasks", "2")
    assert status == 2
    assert "AVEL avel test: the network's output is not finite for avel_test_0003" in err
    assert not list((tiny / "out").iterdir())


def test_eval_reproduces_the_scores_of_training(tiny, trained, run_script):
    run, _ = trained
    reported = json.loads((run / "metrics.json").read_text())
    out_folder = tiny / "evaluated"
    status, out, err = run_script("eval.py", tiny / "tiny.yaml", run / "last.pth.tar", "--output", out_folder, "-p", 5)
    assert status == 0, err
    metrics = json.loads((out_folder / "metrics.json").read_text())
    del reported["network"]
    for key, tree in reported.items():
        assert metrics[key]["mAP"] == tree["mAP"]
        scores = tiny / f"{key}.json"
        folder = {"TASK1": "tal", "TASK2": "avel", "TASK3": "sed"}[key]
        annotations = tiny / folder / "annotations/tiny.json"
        tious = ["--tious", "0.5:0.95:0.05" if key == "TASK1" else "0.1:0.9:0.1"]
        arguments = [out_folder / f"results_{key}.json", annotations, "--subset", "test", *tious, "--json", scores]
        assert run_script("tools/score.py", *arguments)[0] == 0
        assert json.loads(scores.read_text())["average_mAP"] == pytest.approx(tree["average_mAP"], abs=1e-12)


def test_eval_with_topk_and_saveonly(tiny, trained, run_script):
    run, _ = trained
    out_folder = tiny / "some"
    arguments = ["--tasks", "2", "-t", 3, "--saveonly", "--output", out_folder]
    status, out, err = run_script("eval.py", tiny / "tiny.yaml", run, *arguments)
    assert status == 0, err
    assert {path.name for path in out_folder.iterdir()} == {"results_TASK2.json"}
    results = json.loads((out_folder / "results_TASK2.json").read_text())["results"]
    assert len(results) == 9
    assert max(len(rows) for rows in results.values()) == 3
    assert "average" not in out
