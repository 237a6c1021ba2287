"""Time and memory of training, and time of inference, at the published setting.

Features and unit prompts are random. In training each variant has a network of its own with the same weights, since
steps and compiling change it. Evaluation never compiles.
"""

import math
from functools import partial
from operator import itemgetter

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.case import BenchmarkCase, BenchmarkSettings, Variant, measure_peak_gb, relative_error, run_in_process
from benchmarks.data import random_batch, task_data_without_clips
from benchmarks.plain.decoding import plain_decode
from benchmarks.plain.network import plain_forward
from benchmarks.plain.training import PlainTraining
from libs.core.config import Config, RunConfig, TaskSpec
from libs.core.types import Batch, Detections, Prediction
from libs.modeling.losses import Losses
from libs.modeling.postprocess import decode_predictions
from libs.modeling.uniav import UniAV
from libs.training.distributed import DistributedContext
from libs.training.optimizer import set_lr
from libs.training.trainer import Trainer

TOLERANCES = {"float32": 1e-3, "bf16": 0.05}  # relative, of losses and gradients
WIDE_TOLERANCES = {"float32": 0.01, "bf16": 0.05}  # of weights, scores, and the share of other detections
SAME_SEGMENT_S = 1e-2
LR_FACTOR = 0.01  # of the learning rate, so that repeated steps on one batch do not make the loss explode


def build_model(config: Config, device: torch.device) -> UniAV:
    """Build a network with the same random weights and prompts at each call."""
    torch.manual_seed(0)
    model = UniAV(config)
    for key, task in config.tasks.items():
        model.set_prompts(key, F.normalize(torch.randn(task.dataset.num_classes, config.model.text_dim), dim=-1))
    return model.to(device)


def build_trainer(settings: BenchmarkSettings, run: RunConfig | None) -> Trainer | PlainTraining:
    """Build the training of a variant, None for the plain one.

    So that results can be compared, drop path draws random numbers but never drops a branch, and the losses'
    normalizer stays as it is.
    """
    changes = {
        "model": settings.config.model.model_copy(update={"drop_path": 1e-30}),
        "opt": settings.config.opt.model_copy(update={"loss_normalizer_momentum": 1.0}),
        "run": run or settings.config.run,
    }
    config = settings.config.model_copy(update=changes)
    model = build_model(config, settings.device).train()
    if run is None:
        trainer = PlainTraining(model, config)
    else:
        ctx = DistributedContext(0, 1, settings.device, run.precision)
        trainer = Trainer(config, model, [task_data_without_clips(task) for task in config.tasks.values()], ctx)
    set_lr(trainer.optimizer, lambda base: LR_FACTOR * base)
    return trainer


def build_train_case(settings: BenchmarkSettings, task: TaskSpec, whole_step: bool = False) -> BenchmarkCase:
    """Compare losses and gradients; after a whole step losses, gradient norm and weights."""
    batch = random_batch(settings.config, task, task.batch_size, settings.device, cropped=True)

    def train(trainer: Trainer | PlainTraining) -> tuple[Losses, list[Tensor], UniAV]:
        trainer.model.zero_grad(set_to_none=True)
        losses = trainer.compute_losses(task, batch)
        trainer.backward(task, losses)
        if whole_step:
            return losses, [trainer.update()], trainer.model
        return losses, [p.grad for p in trainer.model.parameters() if p.grad is not None], trainer.model

    def compute_error(expected: tuple, found: tuple, lr: float) -> float:
        """Compare results. The RMS of the difference of weights is relative to what Adam's first step changes."""
        weights = zip(*(model.parameters() for *_, model in (expected, found)), strict=True)
        squares = sum(float((x - y).detach().square().sum()) for x, y in weights)
        weight_error = (squares / sum(weight.numel() for weight in found[2].parameters())) ** 0.5 / lr
        return max(relative_error(expected[0], found[0]), relative_error(expected[1], found[1]), weight_error)

    def build_variant(name: str, run: RunConfig) -> Variant:
        # In bf16 the signs of small gradients differ too often to compare weights.
        lr = LR_FACTOR * task.learning_rate if run.precision == "float32" else math.inf
        tolerance = (WIDE_TOLERANCES if whole_step else TOLERANCES)[run.precision]
        return Variant(name, partial(train, build_trainer(settings, run)), partial(compute_error, lr=lr), tolerance)

    name = "whole step (clipping, AdamW, EMA)" if whole_step else "forward and backward"
    plain, variants = build_trainer(settings, None), [build_variant(*item) for item in settings.runs.items()]
    title = f"training, {name}: {task.task_type} batch {task.batch_size}"
    return BenchmarkCase(title, "s", partial(train, plain), variants, repeatable=not whole_step)


def build_memory_case(settings: BenchmarkSettings) -> BenchmarkCase:
    fastest = settings.precisions[-1]
    runs = settings.runs | {f"{fastest} checkpointing": settings.build_run(fastest, checkpointing=True)}
    measure = partial(run_in_process, train_two_steps, settings)
    variants = [
        Variant(name, partial(measure, run), lambda a, b: relative_error([a[1]], [b[1]]), TOLERANCES[run.precision])
        for name, run in runs.items()
    ]
    title = f"peak memory of training all tasks, {'GPU memory allocated' if settings.on_gpu else 'of the process'}"
    return BenchmarkCase(title, "GB", partial(measure, None), variants, measure=itemgetter(0))


def train_two_steps(settings: BenchmarkSettings, run: RunConfig | None) -> tuple[float, list[float]]:
    """Train two steps of the first and largest task while the other tasks' optimizer state exists.

    Args:
        run: None for the plain training.

    Returns:
        Peak memory in GB, and the losses of the last step.
    """
    torch.backends.cudnn.allow_tf32 = False  # as in benchmarks.__main__
    trainer = build_trainer(settings, run)
    first, *others = settings.config.tasks.values()
    losses = None
    for task, videos in (*((other, 1) for other in others), (first, first.batch_size), (first, first.batch_size)):
        batch = random_batch(settings.config, task, videos, settings.device, cropped=True)
        losses = trainer.compute_losses(task, batch)
        trainer.backward(task, losses)
        trainer.update()
    return measure_peak_gb(settings.device), [loss.item() for loss in losses or ()]


@torch.inference_mode()
def predict(model: UniAV, ctx: DistributedContext, batch: Batch, task: TaskSpec) -> Prediction:
    with ctx.autocast():
        return model(batch, task.key)


@torch.no_grad()
def plain_predict(model: UniAV, batch: Batch, task: TaskSpec) -> Prediction:
    return plain_forward(model, batch, task.key)


def build_infer_case(settings: BenchmarkSettings, task: TaskSpec) -> BenchmarkCase:
    batch = random_batch(settings.config, task, task.batch_size, settings.device, cropped=False)
    model = build_model(settings.config, settings.device).eval()

    def build_variant(precision: str) -> Variant:
        ctx = DistributedContext(0, 1, settings.device, precision)

        def run_inference() -> Detections:
            return decode_predictions(predict(model, ctx, batch, task), batch.clips, task)

        def bf16_error(expected: Detections, found: Detections) -> float:
            """Compare scores, logits and offsets: rounding swaps segments of nearly equal scores in NMS."""
            plain, own = plain_predict(model, batch, task), predict(model, ctx, batch, task)
            pairs = (plain.logits, own.logits), (plain.offsets, own.offsets)
            return max(score_error(expected, found), *(relative_error([x], [y]) for x, y in pairs))

        compute_error = detection_error if precision == "float32" else bf16_error
        return Variant(precision, run_inference, compute_error, WIDE_TOLERANCES[precision])

    return BenchmarkCase(
        f"inference with detections: {task.task_type} batch {task.batch_size}",
        "s",
        lambda: plain_decode(plain_predict(model, batch, task), batch.clips, task),
        [build_variant(precision) for precision in settings.precisions],
    )


def build_decode_case(settings: BenchmarkSettings, task: TaskSpec) -> BenchmarkCase:
    batch = random_batch(settings.config, task, task.batch_size, settings.device, cropped=False)
    prediction = plain_predict(build_model(settings.config, settings.device).eval(), batch, task)
    plain, fast = (partial(decode, prediction, batch.clips, task) for decode in (plain_decode, decode_predictions))
    variants = [Variant("float32", fast, detection_error, WIDE_TOLERANCES["float32"])]
    return BenchmarkCase(f"of which decoding and soft-NMS: {task.task_type}", "s", plain, variants)


def score_error(expected: Detections, found: Detections) -> float:
    """Compute the largest difference of scores, ranked within each video; inf if numbers of detections differ."""
    if not np.array_equal(expected.video, found.video):
        return float("inf")
    return float(np.abs(expected.scores - found.scores).max(initial=0))


def detection_error(expected: Detections, found: Detections) -> float:
    """Compute `score_error`, or the share of found detections without an equal expected one if that is larger.

    Where scores are closer than rounding errors, NMS may keep another detection.
    """
    matched = []
    for video in range(len(expected.video_ids)):
        own, others = expected.video == video, found.video == video
        distance = np.abs(found.segments[others, None] - expected.segments[own]).max(axis=2)
        same = (distance < SAME_SEGMENT_S) & (found.labels[others, None] == expected.labels[own])
        matched.extend(same.any(axis=1))
    return max(score_error(expected, found), 1 - float(np.mean(matched or [True])))
