"""Set a network's prompts for a run: tables from files, or context that the encoder's text side embeds."""

import torch

from libs.core.config import Config
from libs.core.errors import ConfigError
from libs.core.prompts import build_prompts
from libs.datasets.task_data import TaskData
from libs.media.encoders.base import ContextEncoder
from libs.media.encoders.build import build_encoder
from libs.modeling.uniav import UniAV


def set_prompts(model: UniAV, config: Config, data: list[TaskData]) -> None:
    """Set the prompts of the tasks in use, as `model.prompts` says.

    Raises:
        DataError: on an unusable prompt table, or classes without names.
        ConfigError: if context is to be learned and model.encoder has no text side, or one of another width.
    """
    if not model.uses_prompts:
        return
    if config.model.prompts == "context":
        _set_learned_context(model, config, data)
        return
    for task_data in data:
        model.set_prompts(task_data.task.key, torch.from_numpy(build_prompts(task_data.task, config.model)))


def _set_learned_context(model: UniAV, config: Config, data: list[TaskData]) -> None:
    spec = config.model
    encoder = build_encoder(spec.encoder)
    if not isinstance(encoder, ContextEncoder):
        raise ConfigError(
            f"model.prompts: context needs an encoder with a text side, hf:NAME, and model.encoder is {spec.encoder}; "
            "learn offsets instead"
        )
    for task_data in data:
        task = task_data.task
        names = task_data.annotations.list_class_names(task.dataset.num_classes)
        embed, width = encoder.build_context_embedder(names, spec.context_length)
        if (encoder.text_dim, width) != (spec.text_dim, spec.context_dim):
            raise ConfigError(
                f"encoder {encoder.name}: embeds text in {encoder.text_dim} numbers, its tokens have {width}; set "
                f"model.text_dim to {encoder.text_dim} and model.context_dim to {width}"
            )
        model.set_prompts(task.key, embed)
