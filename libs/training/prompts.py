"""What a network is told of its tasks' classes: prompt tables, or learned context that a text encoder embeds."""

import torch

from libs.core.config import Config
from libs.core.errors import ConfigError
from libs.core.prompts import build_prompts
from libs.media.encoders.build import build_encoder
from libs.modeling.uniav import UniAV
from libs.training.evaluation import EvalSet


def set_prompts(model: UniAV, config: Config, eval_sets: list[EvalSet]) -> None:
    """Set the prompts of the sets' tasks, as model.prompts says.

    Raises DataError on an unusable prompt table or classes without names, ConfigError or UserError where context is to
    be learned and model.encoder has no text side, or one of another width.
    """
    spec = config.model
    if not model.uses_prompts:
        return
    if spec.prompts != "context":
        for data in eval_sets:
            task = data.task
            model.set_prompts(task.key, torch.from_numpy(build_prompts(task, spec)))
        return
    encoder = build_encoder(spec.encoder)
    if not hasattr(encoder, "context_embedder"):
        raise ConfigError(
            f"model.prompts: context needs an encoder with a text side, hf:NAME, and model.encoder is {spec.encoder}; "
            "learn offsets instead"
        )
    for data in eval_sets:
        task = data.task
        names = data.annotations.list_class_names(task.dataset.num_classes)
        embed, width = encoder.context_embedder(names, spec.context_length)
        if (encoder.text_dim, width) != (spec.text_dim, spec.context_dim):
            raise ConfigError(
                f"encoder {encoder.name}: embeds text in {encoder.text_dim} numbers, its tokens have {width}; set "
                f"model.text_dim to {encoder.text_dim} and model.context_dim to {width}"
            )
        with torch.no_grad():
            table = embed(model.learned_prompts[task.key]).cpu()  # the encoder may have found a GPU
        model.set_prompts(task.key, table, embed)
