"""A mistake of a user ends every script with one line, exit status 2, and nothing written."""

import json
import pickle

import numpy as np
import pytest
import torch

from libs.modeling.uniav import UniAV
from tests.conftest import assert_user_error, write_yaml


def list_features(tiny, kind="avel"):
    return sorted((tiny / kind / "av_features").glob("*_train_*_one_peace_audio.npy"))


def edit_annotations(tiny, change, kind="avel"):
    path = tiny / kind / "annotations/tiny.json"
    tree = json.loads(path.read_text())
    video_id = next(k for k, v in tree["database"].items() if v["annotations"])
    change(tree["database"][video_id]["annotations"][0])
    path.write_text(json.dumps(tree))
    return [str(path), video_id]


def remove_features(tiny):
    removed = list_features(tiny)[:5]
    for path in removed:
        path.unlink()
    return ["5 of 24 features missing", removed[0].name, removed[2].name, "and 2 more"]


def truncate_file(tiny):
    path = list_features(tiny)[0]
    path.write_bytes(path.read_bytes()[:-7])
    return [str(path), "truncated"]


def save_pickled_array(tiny):
    path = list_features(tiny)[0]
    with path.open("wb") as file:
        np.save(file, np.array([{"a": 1}], dtype=object))
    return [str(path), "not a .npy file of numbers"]


def save_raw_pickle(tiny):
    path = list_features(tiny)[0]
    path.write_bytes(pickle.dumps([1, 2, 3]))
    return [str(path), "not a .npy file"]


def halve_length(tiny):
    path = list_features(tiny)[0]
    np.save(path, np.load(path)[: len(np.load(path)) // 2])
    return [path.name.removesuffix("_one_peace_audio.npy"), "more than 10 % apart"]


def narrow_features(tiny):
    path = list_features(tiny)[0]
    np.save(path, np.load(path)[:, :7])
    return [str(path.parent), path.name.removesuffix("_one_peace_audio.npy"), "(T, 10)", "model.input_dim_audio"]


def move_folder(tiny):
    (tiny / "avel/av_features").rename(tiny / "elsewhere")
    return [str(tiny / "avel/av_features"), "no such feature folder"]


def remove_annotations(tiny):
    (tiny / "avel/annotations/tiny.json").unlink()
    return [str(tiny / "avel/annotations/tiny.json"), "No such file", "annotation file"]


def break_annotations(tiny):
    (tiny / "avel/annotations/tiny.json").write_text('{"database": ')
    return [str(tiny / "avel/annotations/tiny.json"), "not valid JSON"]


def raise_label_id(tiny):
    return [*edit_annotations(tiny, lambda a: a.update(label_id=4)), "label_id 4, expected 0 … 3"]


def reverse_segment(tiny):
    return [*edit_annotations(tiny, lambda a: a.update(segment=[5, 4])), "ends before it starts"]


def set_nan_segment(tiny):
    return [*edit_annotations(tiny, lambda a: a.update(segment=[1, float("nan")])), "finite"]


def remove_prompts(tiny):
    (tiny / "avel/avel_prompt.npy").unlink()
    return [str(tiny / "avel/avel_prompt.npy"), "TASK2.dataset.prompt_file"]


def reshape_prompts(tiny):
    np.save(tiny / "avel/avel_prompt.npy", np.zeros((4, 9), np.float32))
    return [str(tiny / "avel/avel_prompt.npy"), "shape (4, 9), expected (4, 8)"]


def set_nan_features(tiny):
    for path in list_features(tiny):
        np.save(path, np.load(path) * np.nan)
    return ["TASK2: loss is nan at step 1", "avel_train_00", "NaN in their features"]


@pytest.mark.parametrize(
    "make_mistake",
    [
        remove_features,
        truncate_file,
        save_pickled_array,
        save_raw_pickle,
        halve_length,
        narrow_features,
        move_folder,
        remove_annotations,
        break_annotations,
        raise_label_id,
        reverse_segment,
        set_nan_segment,
        remove_prompts,
        reshape_prompts,
        set_nan_features,
    ],
)
def test_train_bad_data_is_a_user_error(tiny, run_script, make_mistake):
    expected = make_mistake(tiny)
    status, _, err = run_script("train.py", tiny / "tiny.yaml", "--tasks", "2", "--output", "x")
    assert_user_error(status, err, *expected)
    written = {path.name for path in (tiny / "ckpt").rglob("*")} if (tiny / "ckpt").exists() else set()
    assert not any("pth" in name for name in written)
    if make_mistake is not set_nan_features:
        assert not written


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["absent.yaml"], ["absent.yaml: no such configuration file"]),
        (["CONFIG", "-o", "TASK1.batchsize=3"], ["unknown key TASK1.batchsize", "did you mean TASK1.batch_size?"]),
        (["CONFIG", "-o", "TASK1.batch_size=many"], ["-o TASK1.batch_size=many", "expected a valid integer"]),
        (["CONFIG", "--tasks", "1-7"], ["no TASK7; choose from TASK1, TASK2, TASK3"]),
        (
            ["CONFIG", "-o", "TASK1.train_split=practice"],
            ["no video in split practice", "splits are: test, train, val"],
        ),
        (["CONFIG", "--resume", "nowhere"], ["nowhere: no such checkpoint"]),
        (["CONFIG", "--resume", ""], ["need a value"]),
        (["CONFIG", "--init-from", ""], ["need a value"]),
        (["CONFIG", "--resume", "auto"], ["--resume auto", "--output"]),
        (["CONFIG", "--num_train_epochs", "0"], ["opt.num_train_epochs", "greater than 0, got 0"]),
        (["CONFIG", "-o", "TASK2.dataset.feat_folder=none.h5"], ["none.h5: no such feature pack"]),
    ],
)
def test_train_bad_arguments_are_a_user_error(tiny, run_script, arguments, expected):
    arguments = [tiny / "tiny.yaml" if a == "CONFIG" else a for a in arguments]
    status, _, err = run_script("train.py", *arguments)
    assert_user_error(status, err, *expected)
    assert not (tiny / "ckpt").exists()


def test_bad_checkpoint_is_a_user_error(tiny, run_script):
    config, ckpt = tiny / "tiny.yaml", tiny / "some.pth.tar"
    ckpt.write_bytes(b"PK\x03\x04 broken")
    assert_user_error(*run_script("eval.py", config, ckpt)[::2], str(ckpt), "damaged")
    ckpt.write_bytes(pickle.dumps({"state_dict_ema": {}, "x": print}))
    assert_user_error(*run_script("eval.py", config, ckpt)[::2], str(ckpt))
    torch.save({"state_dict_ema": {"backbone.x": torch.zeros(1)}}, ckpt)
    assert_user_error(*run_script("eval.py", config, ckpt)[::2], "does not fit the configured network", "is missing; ")
    torch.save({"state_dict_ema": {"module.x": torch.zeros(1)}}, ckpt)
    assert_user_error(*run_script("eval.py", config, ckpt)[::2], "does not fit the configured network")
    assert_user_error(*run_script("train.py", config, "--resume", ckpt)[::2], "cannot be resumed, it holds no epoch")
    assert not list(tiny.glob("results*"))


def test_eval_checkpoint_of_another_network_names_the_difference(tiny, trained, run_script):
    wider = write_yaml(tiny / "wider.yaml", {"base": "tiny.yaml", "model": {"embd_dim": 32}})
    status, _, err = run_script("eval.py", wider, trained[0], "--tasks", "3")
    assert_user_error(status, err, "was trained with another network: model.embd_dim was 16, is 32")
    weights = torch.load(trained[0] / "last.pth.tar", weights_only=True)["state_dict_ema"]
    torch.save({"state_dict_ema": weights}, tiny / "weights.pth.tar")  # without a configuration
    status, _, err = run_script("eval.py", wider, tiny / "weights.pth.tar", "--tasks", "3")
    assert_user_error(status, err, "does not fit", "has shape (16, 12, 3), expected (32, 12, 3)", " more; use")


@pytest.mark.parametrize(
    ("results", "message"),
    [
        ("{", "Invalid JSON"),
        ("[]", 'expected {"results": {video_id: [{"label", "score": 0 … 1, "segment": [start, end]}]}}'),
        ('{"results": {"v": [{"score": 1, "label": "a"}]}}', "v: 0: segment: Field required"),
        ('{"results": {"v": [{"score": "x", "label": "a", "segment": [0, 1]}]}}', "v: 0: score: Input should be"),
        (
            '{"results": {"v": [{"score": NaN, "label": "a", "segment": [0, 1]}]}}',
            "v: 0: score: Input should be",
        ),
        (None, "No such file"),
    ],
)
def test_score_bad_results_file_is_a_user_error(tiny, run_script, results, message):
    path, annotations = tiny / "r.json", tiny / "avel/annotations/tiny.json"
    if results is not None:
        path.write_text(results)
    status, _, err = run_script("tools/score.py", path, annotations, "--subset", "test")
    assert_user_error(status, err, str(path), message)


def test_score_bad_arguments_are_a_user_error(tiny, run_script):
    path, annotations = tiny / "r.json", tiny / "avel/annotations/tiny.json"
    path.write_text('{"results": {}}')
    status, _, err = run_script("tools/score.py", path, annotations, "--subset", "test", "--tious", "9:1:0")
    assert_user_error(status, err, "tious '9:1:0'", "first:last:step")
    status, _, err = run_script("tools/score.py", path, annotations, "--subset", "tset")
    assert_user_error(status, err, "no video in split tset; the file's splits are: test, train, val")


def test_train_output_folder_is_a_file_is_a_user_error(tiny, run_script):
    status, _, err = run_script("train.py", tiny / "tiny.yaml", "-o", f"run.output_folder={tiny / 'tiny.yaml'}")
    assert_user_error(status, err, "cannot be written")


@pytest.mark.parametrize(
    ("script", "error"),
    [
        ("train.py", torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nMore lines")),
        ("eval.py", RuntimeError("[enforce fail at alloc_cpu.cpp:121] DefaultCPUAllocator: can't allocate memory")),
        ("eval.py", MemoryError("Unable to allocate 3.00 GiB for an array")),
        ("train.py", MemoryError()),
    ],
)
def test_out_of_memory_names_remedies(tiny, trained, run_script, monkeypatch, script, error):
    def run_out_of_memory(self, batch, task):
        raise error

    monkeypatch.setattr(UniAV, "forward", run_out_of_memory)
    arguments = [trained[0]] if script == "eval.py" else ["--output", "second"]
    status, _, err = run_script(script, tiny / "tiny.yaml", *arguments, "--tasks", "3")
    remedies = ("batch_size", "run.precision=bf16", "run.checkpointing=true")
    assert_user_error(status, err, "memory ran out", *remedies)


def test_train_other_runtime_error_is_raised(tiny, run_script, monkeypatch):
    def broken(self, batch, task):
        raise RuntimeError("a bug")

    monkeypatch.setattr(UniAV, "forward", broken)
    with pytest.raises(RuntimeError, match="a bug"):
        run_script("train.py", tiny / "tiny.yaml", "--tasks", "3")


def test_train_cuda_graphs_without_gpu_is_a_user_error(tiny, run_script, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    status, _, err = run_script("train.py", tiny / "tiny.yaml", "--tasks", "3", "-o", "run.compile=cuda_graphs")
    assert_user_error(status, err, "run.compile: cuda_graphs needs a GPU")
    assert not (tiny / "ckpt").exists()


def test_train_bf16_without_instructions_warns(tiny, run_script, monkeypatch):
    monkeypatch.setattr("libs.training.distributed.has_bf16", lambda: False)
    arguments = ["--tasks", "3", "--num_train_epochs", 1, "-o", "run.precision=bf16", "opt.warmup_epochs=0"]
    status, out, err = run_script("train.py", tiny / "tiny.yaml", *arguments)
    assert status == 0, err
    assert "warning: run.precision is bf16, but this CPU has no instructions for it" in out
