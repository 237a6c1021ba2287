"""Training and inference of the network at the published setting, with random features and random unit prompts.

In training each variant has a network of its own with the same weights, since steps and compiling change it.
Evaluation never compiles.
"""

from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.case import TOLERANCES, BenchmarkCase, BenchmarkSettings, Builders, RunOptions, Variant
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

STEP_TOLERANCES = {"float32": 0.01, "bf16": 0.05}
DETECTION_TOLERANCES = {"float32": 0.01, "bf16": 0.05}  # of scores, and of the share of other detections
LR_FACTOR = 0.01  # of the learning rate, so that repeated steps on one batch do not make the loss explode


def list_cases(settings: BenchmarkSettings) -> Builders:
    tasks = list(settings.config.tasks.values())
    first = tasks[0]
    builders: Builders = {f"train-{task.task_type}": partial(build_train_case, settings, task) for task in tasks}
    builders[f"step-{first.task_type}"] = partial(build_step_case, settings, first)
    for task in tasks:
        builders[f"infer-{task.task_type}"] = partial(build_infer_case, settings, task, task.batch_size)
    if settings.on_gpu:
        many = settings.gpu_batch
        builders[f"infer-{first.task_type}-{many}"] = partial(build_infer_case, settings, first, many)
    for task in tasks:
        builders[f"decode-{task.task_type}"] = partial(build_decode_case, settings, task)
    return builders


def build_model(config: Config, device: torch.device) -> UniAV:
    """Build a network with the same random weights and prompts at each call."""
    torch.manual_seed(0)
    model = UniAV.from_config(config)
    for key, task in config.tasks.items():
        model.set_prompts(key, F.normalize(torch.randn(task.dataset.num_classes, config.model.text_dim), dim=-1))
    return model.to(device)


def build_trainer(settings: BenchmarkSettings, options: RunOptions | None) -> Trainer | PlainTraining:
    """Build the training of a variant, None for the plain one.

    Drop path draws random numbers but never drops a branch, so that results can be compared.
    """
    model_config = settings.config.model.model_copy(update={"drop_path": 1e-30})
    run_config = settings.config.run.model_copy(update=(options or RunOptions())._asdict())
    config = settings.config.model_copy(update={"model": model_config, "run": run_config})
    model = build_model(config, settings.device).train()
    if options is None:
        trainer = PlainTraining(model, config)
    else:
        ctx = DistributedContext(0, 1, settings.device, options.precision)
        trainer = Trainer(config, model, [task_data_without_clips(task) for task in config.tasks.values()], ctx)
    set_lr(trainer.optimizer, lambda base: LR_FACTOR * base)
    return trainer


def build_train_case(settings: BenchmarkSettings, task: TaskSpec) -> BenchmarkCase:
    batch = random_batch(settings.config, task, task.batch_size, settings.device, cropped=True)

    def compute_gradients(trainer: Trainer | PlainTraining) -> tuple[Losses, list[Tensor]]:
        if isinstance(trainer, PlainTraining):
            trainer.normalizer[task.key] = task.train_cfg.init_loss_norm
        else:
            trainer.criteria[task.key].normalizer.fill_(task.train_cfg.init_loss_norm)
        trainer.model.zero_grad(set_to_none=True)
        losses = trainer.compute_losses(task, batch)
        losses.total.backward()
        return losses, [p.grad for p in trainer.model.parameters() if p.grad is not None]

    def compute_error(expected: tuple[Losses, list[Tensor]], found: tuple[Losses, list[Tensor]]) -> float:
        return max(relative_error(x, y) for x, y in zip(expected, found, strict=True))

    def build_variant(options: RunOptions) -> Variant:
        run = partial(compute_gradients, build_trainer(settings, options))
        return Variant(options.name, run, compute_error, TOLERANCES[options.precision], options.num_warmups)

    title = f"training, forward and backward: {task.task_type} batch {task.batch_size}"
    plain = partial(compute_gradients, build_trainer(settings, None))
    return BenchmarkCase(title, "s", plain, [build_variant(options) for options in settings.run_options])


def build_step_case(settings: BenchmarkSettings, task: TaskSpec) -> BenchmarkCase:
    batch = random_batch(settings.config, task, task.batch_size, settings.device, cropped=True)

    def step(trainer: Trainer | PlainTraining) -> tuple[Losses, Tensor, UniAV]:
        losses = trainer.compute_losses(task, batch)
        trainer.backward(task, losses)
        return losses, trainer.update(), trainer.model

    def build_variant(options: RunOptions) -> Variant:
        run = partial(step, build_trainer(settings, options))
        lr = LR_FACTOR * task.learning_rate if options.precision == "float32" else None
        compute_error = partial(_compute_step_error, lr=lr)
        return Variant(options.name, run, compute_error, STEP_TOLERANCES[options.precision], options.num_warmups)

    title = f"training, whole step (clipping, AdamW, EMA): {task.task_type} batch {task.batch_size}"
    variants = [build_variant(options) for options in settings.run_options]
    return BenchmarkCase(title, "s", partial(step, build_trainer(settings, None)), variants, repeatable=False)


def _compute_step_error(
    expected: tuple[Losses, Tensor, UniAV], found: tuple[Losses, Tensor, UniAV], lr: float | None
) -> float:
    """Compare losses, gradient norm and, if `lr` is given, the weights after the first step.

    The difference of weights (root mean square) is relative to `lr`, by which Adam's first step changes each weight;
    in bf16 the signs of small gradients differ too often for that.
    """
    error = max(relative_error(expected[0], found[0]), relative_error([expected[1]], [found[1]]))
    if lr is None:
        return error
    weights = zip(expected[2].parameters(), found[2].parameters(), strict=True)
    trained = [(x - y).detach() for x, y in weights if x.grad is not None]
    squares, count = sum(float(x.square().sum()) for x in trained), sum(x.numel() for x in trained)
    return max(error, (squares / count) ** 0.5 / lr)


@torch.inference_mode()
def predict(model: UniAV, ctx: DistributedContext, batch: Batch, task: TaskSpec) -> Prediction:
    with ctx.autocast():
        return model(batch, task.key)


@torch.no_grad()
def plain_predict(model: UniAV, batch: Batch, task: TaskSpec) -> Prediction:
    return plain_forward(model, batch, task.key)


def build_infer_case(settings: BenchmarkSettings, task: TaskSpec, videos: int) -> BenchmarkCase:
    batch = random_batch(settings.config, task, videos, settings.device, cropped=False)
    model = build_model(settings.config, settings.device).eval()

    def build_variant(options: RunOptions) -> Variant:
        ctx = DistributedContext(0, 1, settings.device, options.precision)

        def run_inference() -> Detections:
            return decode_predictions(predict(model, ctx, batch, task), batch.clips, task)

        def bf16_error(expected: Detections, found: Detections) -> float:
            """Compare scores, logits and offsets: rounding swaps segments of nearly equal scores in NMS."""
            plain, own = plain_predict(model, batch, task), predict(model, ctx, batch, task)
            pairs = (plain.logits, own.logits), (plain.offsets, own.offsets)
            return max(score_error(expected, found), *(relative_error([x], [y]) for x, y in pairs))

        compute_error = detection_error if options.precision == "float32" else bf16_error
        return Variant(options.name, run_inference, compute_error, DETECTION_TOLERANCES[options.precision])

    return BenchmarkCase(
        f"inference with detections: {task.task_type} batch {videos}",
        "s",
        lambda: plain_decode(plain_predict(model, batch, task), batch.clips, task),
        [build_variant(options) for options in settings.run_options if options.compile == "none"],
    )


def build_decode_case(settings: BenchmarkSettings, task: TaskSpec) -> BenchmarkCase:
    batch = random_batch(settings.config, task, task.batch_size, settings.device, cropped=False)
    prediction = plain_predict(build_model(settings.config, settings.device).eval(), batch, task)
    arguments = prediction, batch.clips, task
    fast = partial(decode_predictions, *arguments)
    variants = [Variant("float32", fast, detection_error, DETECTION_TOLERANCES["float32"])]
    return BenchmarkCase(
        f"of which decoding and soft-NMS: {task.task_type}", "s", partial(plain_decode, *arguments), variants
    )
