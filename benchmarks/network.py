"""Training and inference of the network at the published setting: random features, random unit prompts.

In training each variant has a network of its own with the same weights, since steps and compiling change it.
Evaluation never compiles.
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.case import TOLERANCES, BenchmarkCase, NetworkVariant, Setting, Variant
from benchmarks.data import random_batch, task_data_without_clips
from benchmarks.error_measures import detection_error, relative_error, score_error
from benchmarks.plain.decoding import plain_decode
from benchmarks.plain.network import plain_forward
from benchmarks.plain.training import PlainTraining
from libs.core.config import Config, TaskSpec
from libs.core.types import Batch, Detections, Prediction
from libs.modeling.losses import Losses
from libs.modeling.postprocess import decode_predictions
from libs.modeling.uniav import UniAV
from libs.training.distributed import DistributedContext
from libs.training.optimizer import set_lr
from libs.training.trainer import Trainer

PUBLISHED_TRAIN_S = {"TAL": 6.1, "AVEL": 4.2, "SED": 1.05}  # forward and backward, 16 clips, on two cores
PUBLISHED_INFER_S = {"TAL": 1.60, "AVEL": 1.50, "SED": 0.34}
PUBLISHED_DECODE_S = {"TAL": 0.39, "AVEL": 0.25, "SED": 0.026}
STEP_TOLERANCES = {"float32": 0.01, "bf16": 0.05}
DETECTION_TOLERANCES = {"float32": 0.01, "bf16": 0.05}  # scores, and the share of other detections
LR_FACTOR = 0.01  # of the published learning rate: the same batch again and again must not make the loss explode


def cases(setting: Setting) -> dict[str, Callable[[], BenchmarkCase]]:
    tasks = list(setting.config.tasks.values())
    first = tasks[0]
    builders = {f"train-{task.task_type}": partial(train_case, setting, task) for task in tasks}
    builders[f"step-{first.task_type}"] = partial(step_case, setting, first)
    builders |= {f"infer-{task.task_type}": partial(infer_case, setting, task, task.batch_size) for task in tasks}
    if setting.on_gpu:
        many = setting.sizes.infer_videos
        builders[f"infer-{first.task_type}-{many}"] = partial(infer_case, setting, first, many)
    return builders | {f"decode-{task.task_type}": partial(decode_case, setting, task) for task in tasks}


def deterministic(config: Config) -> Config:
    """Drop path draws and multiplies as ever, but never drops, so that results can be compared."""
    return config.model_copy(update={"model": config.model.model_copy(update={"drop_path": 1e-30})})


def make_model(config: Config, device: torch.device) -> UniAV:
    """The same weights and prompts at each call."""
    torch.manual_seed(0)
    model = UniAV.from_config(config)
    for key, task in config.tasks.items():
        model.set_prompts(key, F.normalize(torch.randn(task.dataset.num_classes, config.model.text_dim), dim=-1))
    return model.to(device)


def in_way(config: Config, way: NetworkVariant) -> Config:
    return config.model_copy(update={"run": config.run.model_copy(update=way._asdict())})


def make_trainer(setting: Setting, way: NetworkVariant) -> Trainer:
    config = in_way(deterministic(setting.config), way)
    ctx = DistributedContext(0, 1, setting.device, way.precision)
    model = make_model(config, setting.device).train()
    trainer = Trainer(config, model, [task_data_without_clips(task) for task in config.tasks.values()], ctx)
    set_lr(trainer.optimizer, lambda base: LR_FACTOR * base)
    return trainer


def make_plain_training(setting: Setting) -> PlainTraining:
    config = deterministic(setting.config)
    plain = PlainTraining(make_model(config, setting.device).train(), config)
    set_lr(plain.optimizer, lambda base: LR_FACTOR * base)
    return plain


def train_case(setting: Setting, task: TaskSpec) -> BenchmarkCase:
    batch = random_batch(setting.config, task, task.batch_size, setting.device, cropped=True)
    plain, first_normalizer = make_plain_training(setting), task.train_cfg.init_loss_norm

    def gradients(training: Trainer | PlainTraining) -> tuple[Losses, list[Tensor]]:
        training.model.zero_grad(set_to_none=True)
        losses = training.compute_losses(task, batch)
        losses.total.backward()
        return losses, [p.grad for p in training.model.parameters() if p.grad is not None]

    def plain_gradients() -> tuple[Losses, list[Tensor]]:
        plain.normalizer[task.key] = first_normalizer
        return gradients(plain)

    def fast_gradients(trainer: Trainer) -> tuple[Losses, list[Tensor]]:
        trainer.criteria[task.key].normalizer.fill_(first_normalizer)
        return gradients(trainer)

    def variant(way: NetworkVariant) -> Variant:
        run = partial(fast_gradients, make_trainer(setting, way))
        return Variant(way.name, run, _gradient_error, TOLERANCES[way.precision], way.warmups)

    title = f"training, forward and backward: {task.task_type} batch {task.batch_size}"
    variants = [variant(way) for way in setting.network_variants]
    return BenchmarkCase(title, "s", plain_gradients, variants, PUBLISHED_TRAIN_S.get(task.task_type))


def _gradient_error(expected, found) -> float:
    """Of (losses, gradients)."""
    return max(relative_error(x, y) for x, y in zip(expected, found, strict=True))


def step_case(setting: Setting, task: TaskSpec) -> BenchmarkCase:
    batch = random_batch(setting.config, task, task.batch_size, setting.device, cropped=True)

    def step(training: Trainer | PlainTraining):
        losses = training.compute_losses(task, batch)
        training.backward(task, losses)
        return losses, training.update(), training.model

    def variant(way: NetworkVariant) -> Variant:
        run = partial(step, make_trainer(setting, way))
        error = partial(_step_error, lr=LR_FACTOR * task.learning_rate if way.precision == "float32" else None)
        return Variant(way.name, run, error, STEP_TOLERANCES[way.precision], way.warmups)

    title = f"training, whole step (clipping, AdamW, EMA): {task.task_type} batch {task.batch_size}"
    variants = [variant(way) for way in setting.network_variants]
    return BenchmarkCase(title, "s", partial(step, make_plain_training(setting)), variants, repeatable=False)


def _step_error(expected, found, lr: float | None) -> float:
    """Of (losses, gradient norm, network after the first step). With a lr, also what the weights differ by, root mean
    square, relative to what Adam's first step moves them by; with 8 bits its signs are too often others."""
    (losses, norm, model), (own_losses, own_norm, own_model) = expected, found
    error = max(relative_error(losses, own_losses), relative_error([norm], [own_norm]))
    if lr is None:
        return error
    weights = list(zip(model.parameters(), own_model.parameters(), strict=True))
    squares = sum(float((x - y).detach().square().sum()) for x, y in weights if x.grad is not None)
    moved = sum(x.numel() for x, _ in weights if x.grad is not None)
    return max(error, (squares / moved) ** 0.5 / lr)


@torch.inference_mode()
def predict(model: UniAV, ctx: DistributedContext, batch: Batch, task: TaskSpec) -> Prediction:
    with ctx.autocast():
        return model(batch, task.key)


def run_inference(model: UniAV, ctx: DistributedContext, batch: Batch, task: TaskSpec) -> Detections:
    return decode_predictions(predict(model, ctx, batch, task), batch.clips, task)


@torch.no_grad()
def plain_predict(model: UniAV, batch: Batch, task: TaskSpec) -> Prediction:
    return plain_forward(model, batch, task.key)


def plain_detect(model: UniAV, batch: Batch, task: TaskSpec) -> Detections:
    return plain_decode(plain_predict(model, batch, task), batch.clips, task)


def infer_case(setting: Setting, task: TaskSpec, videos: int) -> BenchmarkCase:
    batch = random_batch(setting.config, task, videos, setting.device, cropped=False)

    model = make_model(setting.config, setting.device).eval()

    def variant(way: NetworkVariant) -> Variant:
        ctx = DistributedContext(0, 1, setting.device, way.precision)

        def rough_error(expected: Detections, found: Detections) -> float:
            """Rounded to 8 bits, segments of nearly equal scores take each other's places in NMS: their scores count,
            and the logits and boundaries that they come from."""
            pair = plain_predict(model, batch, task), predict(model, ctx, batch, task)
            (logits, offsets), own = ((p.logits, p.offsets) for p in pair)
            errors = (relative_error([x], [y]) for x, y in zip((logits, offsets), own, strict=True))
            return max(score_error(expected, found), *errors)

        error = detection_error if way.precision == "float32" else rough_error
        run = partial(run_inference, model, ctx, batch, task)
        return Variant(way.name, run, error, DETECTION_TOLERANCES[way.precision], way.warmups)

    return BenchmarkCase(
        f"inference with detections: {task.task_type} batch {videos}",
        "s",
        partial(plain_detect, model, batch, task),
        [variant(way) for way in setting.network_variants if way.compile == "none"],
        PUBLISHED_INFER_S.get(task.task_type) if videos == task.batch_size else None,
    )


def decode_case(setting: Setting, task: TaskSpec) -> BenchmarkCase:
    batch = random_batch(setting.config, task, task.batch_size, setting.device, cropped=False)
    prediction = plain_predict(make_model(setting.config, setting.device).eval(), batch, task)
    return BenchmarkCase(
        f"of which decoding and soft-NMS: {task.task_type}",
        "s",
        partial(plain_decode, prediction, batch.clips, task),
        [
            Variant(
                "float32",
                partial(decode_predictions, prediction, batch.clips, task),
                detection_error,
                DETECTION_TOLERANCES["float32"],
            )
        ],
        PUBLISHED_DECODE_S.get(task.task_type),
    )
