"""What a network is told of its tasks' classes: prompt tables, or learned context that a text encoder embeds."""

import torch

from libs.core.config import Config, TaskSpec
from libs.core.errors import ConfigError
from libs.core.prompts import network_prompts
from libs.media.encoders import make_encoder
from libs.modeling.uniav import UniAV


def give_prompts(model: UniAV, tasks: list[TaskSpec], config: Config, class_names: dict[str, list[str]]) -> None:
    """Set the prompts of `tasks`, as model.prompts says; class_names of each task, by label_id.

    Raises DataError on an unusable prompt table, ConfigError or UserError where context is to be learned and
    model.encoder has no text side, or one of another width.
    """
    spec = config.model
    if spec.classifier == "linear":
        return
    if spec.prompts != "context":
        for task in tasks:
            model.set_prompts(task.key, torch.from_numpy(network_prompts(task, spec)))
        return
    encoder = make_encoder(spec.encoder)
    if not hasattr(encoder, "context_embedder"):
        raise ConfigError(
            f"model.prompts: context needs an encoder with a text side, hf:NAME, and model.encoder is {spec.encoder}; "
            "learn offsets instead"
        )
    for task in tasks:
        embed, width = encoder.context_embedder(class_names[task.key], spec.context_length)
        if (encoder.text_dim, width) != (spec.text_dim, spec.context_dim):
            raise ConfigError(
                f"encoder {encoder.name}: embeds text in {encoder.text_dim} numbers, its tokens have {width}; set "
                f"model.text_dim to {encoder.text_dim} and model.context_dim to {width}"
            )
        with torch.no_grad():
            table = embed(model.learned_prompts[task.key])
        model.set_prompts(task.key, table, embed)
