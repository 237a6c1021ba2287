import numpy as np
import pytest
import torch
import yaml

from libs.core.configfile import from_tree, load_config
from libs.core.errors import ConfigError
from libs.modeling.uniav import UniAV
from tests.conftest import NEEDS_SHARED, ROOT, tiny_tree, write_yaml

FULL = ROOT / "configs/multi_task_anet_unav_dcase.yaml"

PUBLISHED_SHAPE = """
TASK1:
  task_type: TAL
  dataset_name: anet
  train_split: ['training']
  val_split: ['validation']
  test_split: ['validation']
  dataset: {json_file: ./data/activitynet13/annotations/anet1.3_all.json, feat_folder: ./data/activitynet13/av_features,
    file_prefix: v_, feat_stride: 8, num_frames: 16, default_fps: 16, trunc_thresh: 0.5, num_classes: 200,
    max_seq_len: 256, max_buffer_len_factor: 1.0, force_upsampling: True, class_aware: False}
  train_cfg: {loss_weight: 1, init_loss_norm: 400, label_smoothing: 0.1}
  test_cfg: {multiclass_nms: True, ext_score_file: ~, nms_sigma: 0.75}
  batch_size: 16
  learning_rate: 1e-3
  epochs: 5
"""


def test_load_config_published_file_loads_unchanged(tmp_path):
    path = tmp_path / "published.yaml"
    path.write_text(PUBLISHED_SHAPE)
    task = load_config(path).tasks["TASK1"]
    assert task.learning_rate == 1e-3
    assert str(task.prompt_file) == "data/activitynet13/anet_prompt.npy"
    assert task.tious == tuple(np.linspace(0.5, 0.95, 10))
    assert task.drop_repeats
    assert task.shows_in == ("visual",)


def test_published_file_equals_full_configuration(tmp_path):
    """The defaults of the published file are what the full configuration spells out."""
    path = tmp_path / "published.yaml"
    path.write_text(PUBLISHED_SHAPE.replace("./data", "data"))
    short, full = (load_config(p).tasks["TASK1"] for p in (path, FULL))
    assert (short.tious, short.prompt_file) == (full.tious, full.prompt_file)
    spelled_out = {"prompt_file": None, "max_buffer_len_factor": 1.0}
    assert short.dataset == full.dataset.model_copy(update=spelled_out)
    assert short.test_cfg == full.test_cfg.model_copy(update={"tious": None})
    assert short.train_cfg == full.train_cfg
    assert (short.batch_size, short.learning_rate, short.epochs) == (full.batch_size, full.learning_rate, full.epochs)


def test_full_configuration_equals_defaults():
    config = load_config(FULL)
    tree = yaml.safe_load(FULL.read_text())
    assert tree["model"] == {k: _plain(v) for k, v in config.model.model_dump(mode="json").items()}
    assert config.opt.model_dump(mode="json") == {k: _plain(v) for k, v in tree["opt"].items()}
    defaults = from_tree({"TASK1": tiny_tree(FULL.parent)["TASK1"]} | {"model": {}, "opt": {}})
    assert config.model == defaults.model
    assert config.opt == defaults.opt
    assert (config.stop_and_go, config.loader, config.run) == (defaults.stop_and_go, defaults.loader, defaults.run)


def _plain(value):
    return [_plain(v) for v in value] if isinstance(value, list | tuple) else value


def test_full_configuration_has_published_size():
    with torch.device("meta"):
        model = UniAV(load_config(FULL))
    assert sum(p.numel() for p in model.parameters()) == pytest.approx(130.75e6, abs=5e3)


@NEEDS_SHARED
def test_prompt_file_default_is_published_place():
    for task in load_config(FULL).tasks.values():
        plain = task.model_copy(update={"dataset": task.dataset.model_copy(update={"prompt_file": None})})
        assert plain.prompt_file == task.prompt_file


def test_load_config_merges_base_and_overrides(tmp_path):
    write_yaml(tmp_path / "base.yaml", tiny_tree(tmp_path))
    child = write_yaml(tmp_path / "child.yaml", {"base": "base.yaml", "model": {"n_head": 2}, "TASK2": {"epochs": 7}})
    config = load_config(child, ["TASK2.batch_size=8", "TASK3.learning_rate=5e-4", "opt.milestones=[1, 2]"])
    assert (config.model.n_head, config.model.embd_dim) == (2, 16)
    assert (config.tasks["TASK2"].epochs, config.tasks["TASK2"].batch_size) == (7, 8)
    assert config.tasks["TASK3"].learning_rate == 5e-4
    assert config.opt.milestones == (1, 2)


def test_to_yaml_loads_back(tmp_path):
    config = from_tree(tiny_tree(tmp_path))
    path = tmp_path / "config.yaml"
    path.write_text(config.to_yaml())
    assert load_config(path) == config


def test_select_tasks_keeps_order_and_names_mistakes(tmp_path):
    config = from_tree(tiny_tree(tmp_path))
    assert [task.key for task in config.select_tasks("3-1")] == ["TASK3", "TASK1"]
    assert len(config.select_tasks(None)) == 3
    with pytest.raises(ConfigError, match="no TASK4; choose from TASK1, TASK2, TASK3"):
        config.select_tasks("1-4")
    with pytest.raises(ConfigError, match="named twice"):
        config.select_tasks("1-1")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("TASK1.batch_sise=4", "unknown key TASK1.batch_sise; did you mean TASK1.batch_size?"),
        ("modl.n_head=4", "unknown key modl; did you mean model?"),
        ("TASK1.dataset.feat_strid=4", "did you mean TASK1.dataset.feat_stride?"),
        ("TASK1.batch_size=four", "TASK1.batch_size: expected a valid integer, got 'four'"),
        ("TASK1.batch_size=1.5", "TASK1.batch_size: expected a valid integer"),
        ("TASK1.batch_size='16'", "TASK1.batch_size: expected a valid integer, got '16'"),
        ("TASK1.dataset.force_upsampling=1", "force_upsampling: expected a valid boolean"),
        ("TASK1.batch_size=0", "TASK1.batch_size: expected greater than 0, got 0"),
        ("TASK1.batch_size", "expected KEY=VALUE"),
        ("TASK1.batch_size.more=1", "TASK1.batch_size"),
        ("TASK1.dataset=3", "TASK1.dataset"),
        ("model=3", "model: expected an object, got 3"),
        ("model.embd_dim=18", "embd_dim 18 must be a multiple of n_head 4"),
        ("model.regression_range=[[0, 4]]", "give one range a level"),
        ("TASK2.dataset.max_seq_len=33", "TASK2.dataset.max_seq_len 33 must be a multiple"),
        ("TASK1.test_cfg.tious=0.5:4:0.1", "expected tIoU thresholds"),
        ("TASK1.test_cfg.nms_method=medium", "TASK1.test_cfg.nms_method: expected 'soft', 'soft_linear' or 'hard'"),
        ("TASK1.dataset.crop_ratio=[1.0, 0.5]", "crop_ratio: expected the smaller fraction first"),
        ("a=[", "not valid YAML"),
        ("model={{x}}", "not valid YAML"),
        ("model=&a {x: *a}", "not valid YAML"),
        ("task1.batch_size=3", "did you mean TASK1?"),
        ("TASK9.x=1", "the configuration has no TASK9; it has TASK1, TASK2, TASK3"),
        ("TASK1.key=x", "unknown key TASK1.key"),
        ("base=x.yaml", "a base is named in a file"),
        ("TASK1.dataset.crop_ratio=[0.9]", "TASK1.dataset.crop_ratio.1 is missing"),
        ("model.head_kernel_size=-1", "model.head_kernel_size: expected greater than 0"),
        ("model.regression_range=[[4, 0], [4, 8], [8, 10000]]", "expected low < high"),
        ("TASK1.learning_rate=.inf", "TASK1.learning_rate"),
        ("run.seed=99999999999999999999999", "run.seed"),
        ("TASK1.task_type=type", "TASK1.task_type"),
        ("TASK1.test_cfg.tious=0.5:0.95:0.3", "expected tIoU thresholds"),
    ],
)
def test_load_config_bad_override_names_key_and_remedy(tmp_path, override, message):
    path = write_yaml(tmp_path / "tiny.yaml", tiny_tree(tmp_path))
    with pytest.raises(ConfigError) as caught:
        load_config(path, [override])
    assert message in str(caught.value)
    assert str(caught.value).startswith(f"-o {override}") or "tiny.yaml" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_load_config_bad_file_is_named(tmp_path):
    def check(text, message):
        path = tmp_path / "bad.yaml"
        path.write_text(text)
        with pytest.raises(ConfigError, match=message) as caught:
            load_config(path)
        assert "bad.yaml" in str(caught.value)

    check("TASK1: [", "line 1: not valid YAML")
    check("model: {}\nmodel: {}", "given twice")
    check("- 1", "expected a YAML mapping")
    check("model: {}", "expected blocks TASK1")
    check("base: bad.yaml", "leads back to itself")
    check("base: absent.yaml", "absent.yaml: no such configuration file")
    check("tasks: {}", "no key `tasks`")
    check("TASK1: {task_type: TAL}", "TASK1.dataset_name is missing")
    with pytest.raises(ConfigError, match=r"none.yaml: no such configuration file"):
        load_config(tmp_path / "none.yaml")
    with pytest.raises(ConfigError, match="Is a directory"):
        load_config(tmp_path)


def test_load_config_misspelt_required_key_is_named_with_its_file(tmp_path):
    tree = tiny_tree(tmp_path)
    tree["TASK1"]["taks_type"] = tree["TASK1"].pop("task_type")
    path = write_yaml(tmp_path / "a.yaml", tree)
    with pytest.raises(ConfigError, match=r"a.yaml: unknown key TASK1.taks_type; did you mean TASK1.task_type\?"):
        load_config(path, ["opt.gamma=0.5"])
    del tree["TASK1"]["taks_type"]
    with pytest.raises(ConfigError, match=r"a.yaml: TASK1.task_type is missing"):
        load_config(write_yaml(path, tree), ["opt.gamma=0.5"])
