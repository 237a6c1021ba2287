"""Build the configuration of an imported data set: a task alone, or one more task of an existing configuration."""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from libs.core.config import Config
from libs.core.types import Video
from libs.datasets.importing import rules
from libs.datasets.importing.rules import Choice
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
    task: ImportedTask, features: FeatureProvenance, text_dim: int, base: Config | None = None
) -> tuple[dict, list[str]]:
    """Build the configuration tree of a task alone, or the block of one more task of a base.

    Args:
        task, features: of the data set.
        text_dim: width of its prompts, if there is no base.
        base: the configuration to extend.

    Returns:
        The tree, and the reasons for its values.
    """
    train = [video for video in task.videos if video.subset == task.splits[0]]
    segments = np.concatenate([video.segments for video in train])
    lengths = (segments[:, 1] - segments[:, 0]) * (FRAME_RATE_HZ / features.stride)
    ranges = rules.choose_regression_range(lengths)
    if base:
        ranges = Choice(base.model.regression_range, "regression_range: that of the base, shared by all tasks")
    clips = num_windows(np.array([video.duration for video in train]), features.stride)
    max_seq_len = rules.choose_max_seq_len(clips, lengths, coarsest_stride=2 ** (len(ranges.value) - 1))
    class_aware = rules.choose_class_aware(train)
    plan, plan_reason = rules.plan_training(len(train), len(ranges.value))
    window, step = WINDOW_FRAMES / FRAME_RATE_HZ, features.stride / FRAME_RATE_HZ
    reasons = [f"a window lasts {window:g} s, the next one starts {step:g} s later"]
    reasons += [ranges.reason, max_seq_len.reason, class_aware.reason, *rules.check_stride(lengths, ranges.value)]
    fields = {} if is_pack(task.feature_folder) else FILE_NAME_FIELDS
    file_names = {key: getattr(features, field) for key, field in fields.items()}
    block = {
        "task_type": task.task_type,
        **({"prompt": task.prompt} if task.prompt else {}),
        "dataset_name": task.name,
        **dict(zip(("train_split", "val_split", "test_split"), task.splits, strict=True)),
        "dataset": {
            "json_file": task.annotation_file.as_posix(),
            "feat_folder": task.feature_folder.as_posix(),
            **{key: name for key, name in file_names.items() if name != getattr(FeatureProvenance, fields[key])},
            "feat_stride": features.stride,
            "num_classes": len(task.classes),
            "max_seq_len": max_seq_len.value,
            "class_aware": class_aware.value,
            **({"drop_repeats": True} if any(video.find_repeats() for video in task.videos) else {}),
        },
        "train_cfg": {"init_loss_norm": 100},
        **plan["task"],
    }
    if base:
        number = 1 + max(int(key.removeprefix("TASK")) for key in base.tasks)
        block["learning_rate"] = min(other.learning_rate for other in base.tasks.values())
        block["epochs"] = base.opt.num_train_epochs
        reason = f"batch_size {block['batch_size']}: {len(train)} training clips; rates and epochs as in the base"
        return {f"TASK{number}": block}, [*reasons, reason]
    tree = {
        "TASK1": block,
        "model": {
            "encoder": features.encoder,
            "input_dim_visual": features.visual_dim,
            "input_dim_audio": features.audio_dim,
            "text_dim": text_dim,
            "regression_range": [[int(low), int(high)] for low, high in ranges.value],
            **plan["model"],
        },
        "opt": plan["opt"],
        "stop_and_go": {"enabled": False},  # it balances several tasks
        "loader": {"num_workers": 1},
        "run": {"eval_freq": max(1, block["epochs"] // 5), "ckpt_freq": block["epochs"]},
    }
    return tree, [*reasons, plan_reason]
