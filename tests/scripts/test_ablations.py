"""train.py and eval.py with the keys of ablations, and the files in configs/ablations."""

import json

import pytest
import torch
import yaml

from libs.core.configfile import load_config
from libs.modeling.uniav import UniAV
from tests.conftest import ROOT, assert_user_error, tiny_tree, write_yaml
from tests.training.runs import assert_same_weights

FILES = sorted((ROOT / "configs/ablations").glob("*.yaml"))


def test_train_init_from_fine_tunes_one_task(tiny, trained, run_script):
    one_epoch = ["-o", "opt.warmup_epochs=0", "opt.num_train_epochs=1"]
    arguments = ["--output", "one", "--init-from", trained[0], *one_epoch, "run.tasks='2'"]
    status, out, err = run_script("train.py", tiny / "tiny.yaml", *arguments)
    assert status == 0, err
    assert "parameter tensors loaded" in out and "TASK2 AVEL" in out and "TASK1" not in out
    config = load_config(tiny / "ckpt/tiny_one/config.yaml")
    assert (config.run.tasks, config.run.init_from) == ("2", str(trained[0]))
    for path, message in ((tiny / "none", "no such checkpoint"), ("", "need a value")):
        status, _, err = run_script("train.py", tiny / "tiny.yaml", "--output", "x", "--init-from", path)
        assert_user_error(status, err, message)
        assert not (tiny / "ckpt/tiny_x").exists()


def test_eval_of_another_network_or_task_raises(tiny, run_script):
    """Without cross-attention the parameters have the same names and shapes, so that only the key differs."""
    settings = ["-o", "opt.warmup_epochs=0", "opt.num_train_epochs=1", "model.cross_attention=false"]
    status, _, err = run_script("train.py", tiny / "tiny.yaml", "--output", "one", "--tasks", "3", *settings)
    assert status == 0, err
    run = tiny / "ckpt/tiny_one"
    status, out, err = run_script("eval.py", tiny / "tiny.yaml", run)
    assert_user_error(status, err, "model.cross_attention was False, is True; evaluate it with that")
    status, out, err = run_script("eval.py", tiny / "tiny.yaml", run, *settings)
    assert status == 0, err
    assert "not trained on it: TASK1, TASK2" in out and "SED sed test" in out and "TAL tal" not in out
    status, out, err = run_script("eval.py", tiny / "tiny.yaml", run, "--tasks", "1-3", *settings)
    assert_user_error(status, err, "was trained on TASK3 alone")


@pytest.mark.parametrize("model", [{"classifier": "linear"}, {"prompts": "offsets"}])
def test_train_resumed_with_other_classifier_equals_whole_run(tiny, run_script, model):
    settings = ["-o", *(f"model.{key}={value}" for key, value in model.items())]
    arguments = ["--output", "whole", "--tasks", "2"], ["--output", "half", "--tasks", "2", "--resume", "auto"]
    whole, half = tiny / "ckpt/tiny_whole", tiny / "ckpt/tiny_half"
    status, _, err = run_script("train.py", tiny / "tiny.yaml", *arguments[0], *settings)
    assert status == 0, err
    half.mkdir()
    first_epoch = torch.load(whole / "epoch_001.pth.tar", weights_only=True)
    del first_epoch["config"]["model"]["attention_window"]  # a run of a version without this key
    torch.save(first_epoch, half / "last.pth.tar")
    status, _, err = run_script("train.py", tiny / "tiny.yaml", *arguments[1], *settings)
    assert status == 0, err
    assert_same_weights(whole / "last.pth.tar", half / "last.pth.tar")
    prompts = torch.load(half / "last.pth.tar", weights_only=True)["prompts"]
    assert list(prompts) == ([] if model == {"classifier": "linear"} else ["TASK2"])


def test_train_with_one_modality_reads_only_its_features(tiny, run_script):
    for path in tiny.glob("*/av_features/*_one_peace_video_finetune.npy"):
        path.unlink()
    settings = ["-o", "model.modalities=[audio]", "opt.warmup_epochs=0", "opt.num_train_epochs=1"]
    status, _, err = run_script("train.py", tiny / "tiny.yaml", "--output", "heard", *settings)
    assert status == 0, err
    status, out, err = run_script("eval.py", tiny / "tiny.yaml", tiny / "ckpt/tiny_heard", *settings)
    assert status == 0, err
    status, out, err = run_script("tools/verify_data.py", tiny / "tiny.yaml", *settings)
    assert "features missing" not in out, out
    status, out, err = run_script("tools/verify_data.py", tiny / "tiny.yaml")
    assert (status, "features missing" in out) == (1, True)


def test_train_classes_are_evaluated_as_seen_and_unseen(tiny, run_script):
    """Training leaves out videos with other classes; the evaluation reports seen and unseen classes."""
    held = [
        "-o",
        "TASK3.dataset.class_aware=false",
        "TASK3.dataset.train_classes=[0, SED class 1, 2, 3]",
        "TASK3.batch_size=1",
        "run.tasks='3'",
    ]
    status, out, err = run_script("train.py", tiny / "tiny.yaml", "--output", "held", *held)
    assert status == 0, err
    assert "TASK3: trains on 4 of 5 classes, and on the " in out and " seen" in out and " unseen" in out
    status, out, err = run_script("eval.py", tiny / "tiny.yaml", tiny / "ckpt/tiny_held", "--metrics", "map", *held)
    assert status == 0, err
    numbers = json.loads((tiny / "ckpt/tiny_held/metrics.json").read_text())["TASK3"]
    for name in ("seen", "unseen"):
        interval = numbers["metrics"]["map"]["headline"][f"average_mAP_{name}"]
        assert interval["value"] == pytest.approx(numbers[name]["average_mAP"])
    wrong_classes = (("[0, 1, 2, 3, 4]", "names all 5 classes"), ("[7]", "no class 7"), ("[Alarm]", "no class 'Alarm'"))
    for wrong, message in (*wrong_classes, ("[]", "train_classes")):
        wrong = [*held[:2], f"TASK3.dataset.train_classes={wrong}", "run.tasks='3'"]
        status, _, err = run_script("train.py", tiny / "tiny.yaml", "--output", "wrong", *wrong)
        assert_user_error(status, err, message)
    status, _, err = run_script("train.py", tiny / "tiny.yaml", "-o", "TASK3.dataset.train_classes=[0]")
    assert_user_error(status, err, "set class_aware to false")
    for key in ("model.classifier=linear", "model.prompts=random"):
        status, _, err = run_script("train.py", tiny / "tiny.yaml", *held, key)
        assert_user_error(status, err, "held-out classes need model.classifier: prompt")


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_ablation_file_has_question_base_and_network(path):
    """The first line is the question."""
    text = path.read_text()
    assert text.startswith("# ") and "base:" in text
    config = load_config(path)
    torch.manual_seed(0)
    with torch.device("meta"):
        model = UniAV(config)
    assert config.select_tasks(None) and model
    base = yaml.safe_load(text)["base"]
    assert load_config(path.parent / base).to_tree() != config.to_tree() or path.stem == "base"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model.modalities=[visual, visual]", "modalities: expected each once"),
        ("model.modalities=[]", "model.modalities"),
        ("model.modalities=[smell]", "'visual' or 'audio'"),
        ("model.attention_window=4", "attention_window 4 must be odd"),
        ("model.expert_levels=[3]", "expert_levels: expected 0 to 2"),
        ("run.tasks=7", "run.tasks: 7: the configuration has no TASK7"),
        ("run.task=1", "did you mean run.tasks?"),
        ("model.classifier=svm", "'prompt' or 'linear'"),
        ("model.prompts=none", "'frozen', 'random', 'offsets' or 'context'"),
    ],
)
def test_train_with_unusable_key_raises(tmp_path, run_script, override, message):
    path = write_yaml(tmp_path / "tiny.yaml", tiny_tree(tmp_path))
    status, _, err = run_script("train.py", path, "-o", override)
    assert_user_error(status, err, message)


def test_train_context_prompts_without_text_encoder_raises(tiny, run_script):
    status, _, err = run_script("train.py", tiny / "tiny.yaml", "-o", "model.prompts=context", "model.encoder=builtin")
    assert_user_error(status, err, "learn offsets instead")
