"""Small random networks and batches."""

import torch

from libs.core.types import Batch, Clip, Prediction
from libs.modeling.uniav import UniAV


def make_model(config, seed=0) -> UniAV:
    """Random weights all over: fresh norms and scales would hide mistakes."""
    torch.manual_seed(seed)
    model = UniAV(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.3)
    for key in model.prompts:
        model.set_prompts(key, torch.randn(config.tasks[key].dataset.num_classes, config.model.text_dim))
    return model


def make_batch(lengths, padded) -> Batch:
    generator = torch.Generator().manual_seed(len(lengths) + sum(lengths))
    mask = torch.arange(padded) < torch.tensor(lengths)[:, None]
    clips = tuple(Clip(str(n), n / 4 + 1, 16.0, 4.0, 16.0, torch.zeros(0, 2), torch.zeros(0).long()) for n in lengths)
    visual, audio = torch.zeros(len(lengths), padded, 12), torch.zeros(len(lengths), padded, 10)
    for row, n in enumerate(lengths):
        visual[row, :n] = torch.randn(n, 12, generator=generator)
        audio[row, :n] = torch.randn(n, 10, generator=generator)
    return Batch(visual, audio, mask, torch.zeros(len(lengths), 1, 2), torch.full((len(lengths), 1), -1), clips)


def valid(prediction: Prediction, row: int):
    mask = prediction.mask[row]
    return prediction.logits[row][mask], prediction.offsets[row][mask]
