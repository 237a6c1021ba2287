"""Build the configuration of an imported data set: a task alone, or one more task of an existing configuration."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from libs.core.config import Config
from libs.core.types import Video
from libs.datasets.importing import rules
from libs.datasets.importing.rules import Choice, TrainingPlan
from libs.features.provenance import FeatureProvenance
from libs.features.sources import is_pack
from libs.features.windows import FRAME_RATE_HZ, WINDOW_FRAMES, num_windows

# configuration key -> field of FeatureProvenance
FILE_NAME_FIELDS = {"file_prefix": "prefix", "visual_suffix": "visual_suffix", "audio_suffix": "audio_suffix"}


class ImportedTask(NamedTuple):
    """What the configuration says about an imported data set."""

    name: str
    task_type: str
    prompt: str | None
    annotation_file: Path
    feature_folder: Path  # or pack
    videos: list[Video]
    classes: list[str]
    splits: tuple[str, str, str]  # names of the subsets for training, validation, test


def build_configuration(
    task: ImportedTask, features: FeatureProvenance, text_dim: int, base: Config | None = None, base_path: str = ""
) -> tuple[dict, list[str]]:
    """Build the configuration tree of a task alone, or of one more task of a base.

    Args:
        task, features: of the data set.
        text_dim: width of its prompts, if there is no base.
        base: the loaded configuration to extend.
        base_path: of its file, as the new file refers to it.

    Returns:
        The tree, and the reasons for its values.
    """
    train = [video for video in task.videos if video.subset == task.splits[0]]
    lengths = np.concatenate([video.segments[:, 1] - video.segments[:, 0] for video in train])
    lengths *= FRAME_RATE_HZ / features.stride
    if base:
        ranges = Choice(base.model.regression_range, "regression_range: that of the base, shared by all tasks")
    else:
        ranges = rules.choose_regression_range(lengths)
    clips = num_windows(np.array([video.duration for video in train]), features.stride)
    max_seq_len = rules.choose_max_seq_len(clips, lengths, coarsest_stride=2 ** (len(ranges.value) - 1))
    class_aware = rules.choose_class_aware(train)
    plan, plan_reason = rules.plan_training(len(train))
    window, step = WINDOW_FRAMES / FRAME_RATE_HZ, features.stride / FRAME_RATE_HZ
    reasons = [f"a window lasts {window:g} s, the next one starts {step:g} s later"]
    reasons += [ranges.reason, max_seq_len.reason, class_aware.reason, *rules.check_stride(lengths, ranges.value)]
    block = _build_task(task, features, max_seq_len.value, class_aware.value, plan)
    if base:
        number = 1 + max(int(key.removeprefix("TASK")) for key in base.tasks)
        block["learning_rate"] = min(other.learning_rate for other in base.tasks.values())
        block["epochs"] = base.opt.num_train_epochs
        reason = f"batch_size {plan.batch_size}: {len(train)} training clips; rates and epochs as in the base"
        return {"base": base_path, f"TASK{number}": block}, [*reasons, reason]
    tree = {
        "TASK1": block,
        "model": {
            "encoder": features.encoder,
            "input_dim_visual": features.visual_dim,
            "input_dim_audio": features.audio_dim,
            "text_dim": text_dim,
            "backbone_arch": [*plan.depth, len(ranges.value) - 1],
            "regression_range": [[int(low), int(high)] for low, high in ranges.value],
            **plan.model,
        },
        "opt": plan.opt,
        "stop_and_go": {"enabled": False},  # it balances several tasks
        "loader": {"num_workers": 1},
        "run": {"eval_freq": max(1, plan.epochs // 5), "ckpt_freq": plan.epochs},
    }
    return tree, [*reasons, plan_reason]


def _build_task(
    task: ImportedTask, features: FeatureProvenance, max_seq_len: int, class_aware: bool, plan: TrainingPlan
) -> dict[str, Any]:
    train, val, test = task.splits
    fields = {} if is_pack(task.feature_folder) else FILE_NAME_FIELDS
    file_names = {key: getattr(features, field) for key, field in fields.items()}
    return {
        "task_type": task.task_type,
        **({"prompt": task.prompt} if task.prompt else {}),
        "dataset_name": task.name,
        "train_split": train,
        "val_split": val,
        "test_split": test,
        "dataset": {
            "json_file": task.annotation_file.as_posix(),
            "feat_folder": task.feature_folder.as_posix(),
            **{key: name for key, name in file_names.items() if name != getattr(FeatureProvenance, fields[key])},
            "feat_stride": features.stride,
            "num_classes": len(task.classes),
            "max_seq_len": max_seq_len,
            "class_aware": class_aware,
            **({"drop_repeats": True} if any(video.find_repeats() for video in task.videos) else {}),
        },
        "train_cfg": {"init_loss_norm": 100},
        "batch_size": plan.batch_size,
        "learning_rate": plan.learning_rate,
        "epochs": plan.epochs,
    }
