"""A run's state and its training steps, each of which visits the tasks in turn (method.md §6)."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

from libs.core.config import Config, TaskSpec
from libs.core.configfile import diff_configs, from_tree
from libs.core.errors import CheckpointError, TrainingError, format_list
from libs.core.types import Batch
from libs.datasets.loaders import TrainStream
from libs.datasets.task_data import TaskData
from libs.modeling.losses import Criterion, Losses
from libs.modeling.points import make_targets
from libs.modeling.uniav import UniAV
from libs.training.checkpoint import load_weights
from libs.training.compiling import compile_network
from libs.training.distributed import DistributedContext
from libs.training.ema import EMA
from libs.training.logs import LossMeter, RunLog, Throughput
from libs.training.optimizer import build_optimizer, lr_factor, set_lr
from libs.training.stop_and_go import StopAndGo

T = TypeVar("T")

# Keys that may differ at resume: they say where files are, how they are loaded and logged, or are meant to change (the
# checkpoint has the tasks). Keys of evaluation are not among them, since they steer stop-and-go.
_PLACES = ("json_file", "feat_folder", "prompt_file", "run.output_folder")
_PROCEDURE = ("loader", "run.compile", "run.checkpointing", "run.print_freq", "run.ckpt_freq")
RESUME_MAY_CHANGE = frozenset([*_PLACES, *_PROCEDURE, "run.tasks", "run.init_from", "opt.num_train_epochs"])


class PendingLoss(NamedTuple):
    """A loss that has not been checked for NaN and Inf yet."""

    task: str
    step: int
    video_ids: tuple[str, ...]
    loss: torch.Tensor


class Trainer:
    """Network, optimizer and all other state of a run.

    Batches, schedule and random numbers are functions of the seed and of counters, so `state_dict` after an epoch
    determines the rest of the run.
    """

    def __init__(self, config: Config, model: UniAV, data: list[TaskData], ctx: DistributedContext):
        """Build the state of a run at its start.

        Args:
            model: on its device, prompts set.
            data: of the tasks to train; only `task`, `class_names`, `seen` and `train` are used.

        Raises:
            UserError: if a batch size does not fit the ranks or the number of videos, or compiling needs a GPU.
        """
        self.config, self.model, self.data, self.ctx = config, model, data, ctx
        self.tasks = [task_data.task for task_data in data]
        momentum = config.opt.loss_normalizer_momentum
        self.criteria = {d.task.key: Criterion(d.task, momentum, d.seen).to(ctx.device) for d in data}
        self.stop_and_go = {task.key: StopAndGo(config.stop_and_go) for task in self.tasks}
        self.base_lr = min(task.learning_rate for task in self.tasks)
        self.optimizer = build_optimizer(model, config.opt, self.base_lr)
        self.ema = EMA(model, config.opt.ema_decay)
        self.parameters = list(model.parameters())  # listed once: walking through all modules takes milliseconds
        self.epoch, self.step, self.best = 0, 0, float("-inf")
        self.data_wait_s = 0.0  # in this epoch
        self.pending: list[PendingLoss] = []
        self.streams = {d.task.key: TrainStream(d.train, config, ctx.device, ctx.rank, ctx.world_size) for d in data}
        model.backbone.checkpointing = config.run.checkpointing
        compile_network(model, config.run, ctx.device)
        self.parallel: nn.Module = model
        if ctx.world_size > 1:
            # A task uses its own experts and last layers only; gradients of the others must stay None.
            devices = [ctx.device] if ctx.device.type == "cuda" else None
            self.parallel = DistributedDataParallel(
                model, devices, broadcast_buffers=False, find_unused_parameters=True
            )

    @property
    def steps_per_epoch(self) -> int:
        epochs = self.config.opt.num_train_epochs
        passes = (task.epochs * self.streams[task.key].batches_per_pass // epochs for task in self.tasks)
        return max(1, *passes)

    def train_epoch(self, log: RunLog) -> None:
        """Train from self.epoch to self.epoch + 1; raises TrainingError on a non-finite loss."""
        seed = np.random.SeedSequence([self.config.run.seed, self.epoch, self.ctx.rank])
        torch.manual_seed(int(seed.generate_state(1)[0]))
        self.model.train()
        meters, self.data_wait_s, videos = self.build_meters(), 0.0, 0
        epoch_start = now = Throughput(0, time.perf_counter(), 0.0)
        name = f"epoch {self.epoch + 1}/{self.config.opt.total_epochs}"
        hidden = None if self.ctx.is_first else True  # None: shown on a terminal
        progress = tqdm(range(self.steps_per_epoch), desc=name, leave=False, disable=hidden)
        for i in progress:
            videos += self.train_step(meters)
            if self.step % self.config.run.print_freq == 0 or i == self.steps_per_epoch - 1:
                self.check_losses()
                last, now = now, Throughput(videos, time.perf_counter(), self.data_wait_s)
                progress.set_postfix(self._log_progress(log, meters, *now.since(last)))
        self.epoch += 1
        if self.ctx.is_first:
            trained = [f"{key} {m.read_total / m.read_steps:.3f}" for key, m in meters.items() if m.read_steps]
            losses = f"loss {', '.join(trained)}" if trained else "all tasks are paused"
            rate, waiting = now.since(epoch_start)
            pace = f"{rate:.0f} videos/s, {waiting:.0%} waiting for data"
            print(f"{name}: {losses}; lr {self.lr:.1e}; {pace}", flush=True)

    @property
    def lr(self) -> float:
        return self.optimizer.param_groups[0]["lr"]

    def build_meters(self) -> dict[str, LossMeter]:
        return {task.key: LossMeter() for task in self.tasks}

    def _log_progress(self, log: RunLog, meters: dict[str, LossMeter], rate: float, waiting: float) -> dict[str, str]:
        """Log the mean losses since the last call, the learning rate and the throughput; return them for people."""
        losses = {key: meter.read(self.ctx) for key, meter in meters.items() if meter.count}
        for key, means in losses.items():
            log.write(self.step, "train", task=key, epoch=self.epoch + 1, **means)
        log.write(self.step, "train", epoch=self.epoch + 1, lr=self.lr, videos_per_s=rate, data_wait=waiting)
        totals = {key: f"{means['total']:.3f}" for key, means in losses.items()}
        return {**totals, "lr": f"{self.lr:.1e}", "videos/s": f"{rate:.0f}"}

    def train_step(self, meters: dict[str, LossMeter]) -> int:
        """Train each task that is not paused on one batch; returns the number of videos of all ranks."""
        set_lr(self.optimizer, lr_factor(self.config.opt, self.step, self.steps_per_epoch))
        visited = [task for task in self.tasks if self.stop_and_go[task.key].trains_at(self.step)]
        updates = [visited] if self.config.opt.joint_steps else [[task] for task in visited]
        for together in filter(None, updates):  # no update if all tasks are paused
            losses = {}
            for task in together:
                batch = self._wait_for(self.streams[task.key].next)
                losses[task.key] = self.compute_losses(task, batch)
                self.backward(task, losses[task.key])
                video_ids = tuple(clip.video_id for clip in batch.clips)
                self.pending.append(PendingLoss(task.key, self.step, video_ids, losses[task.key].total.detach()))
            grad_norm = self.update()
            for task in together:
                meters[task.key].add(losses[task.key], grad_norm)
                self._wait_for(self.streams[task.key].fetch_ahead)
        self.step += 1
        return sum(task.batch_size for task in visited)

    def _wait_for(self, load: Callable[[], T]) -> T:
        start = time.perf_counter()
        result = load()
        self.data_wait_s += time.perf_counter() - start
        return result

    # compute_losses, backward and update do not wait for a GPU: their work is queued behind earlier work. (With several
    # ranks, DistributedDataParallel waits once per step to learn which experts were used.)

    def compute_losses(self, task: TaskSpec, batch: Batch) -> Losses:
        """Compute the losses of a batch that is on the device."""
        if self.config.run.compile == "cuda_graphs":  # importing the compiler takes seconds
            torch.compiler.cudagraph_mark_step_begin()
        with self.ctx.autocast():
            prediction = self.parallel(batch, task.key)
        spec = task.dataset
        targets = make_targets(prediction.points, batch.segments, batch.labels, spec.num_classes, spec.class_aware)
        return self.criteria[task.key](prediction, targets)

    def backward(self, task: TaskSpec, losses: Losses) -> None:
        """Add a task's gradients to the accumulated ones."""
        (losses.total * (task.learning_rate / self.base_lr)).backward()

    def update(self) -> torch.Tensor:
        """Clip the gradients, step optimizer and EMA, clear the gradients; returns their norm before clipping."""
        max_norm = self.config.opt.clip_grad_norm or torch.inf
        grad_norm = torch.nn.utils.clip_grad_norm_(self.parameters, max_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()  # to None, not zero: AdamW must pass over what the next task does not use
        self.ema.update()
        return grad_norm

    def check_losses(self) -> None:
        """Raise TrainingError if a loss since the last call was not finite on any rank.

        It names the videos of the first such step, since later ones follow from it; no checkpoint is written between.
        """
        pending, self.pending = self.pending, []
        if not pending:  # on no rank: all tasks are paused
            return
        finite = torch.stack([batch.loss for batch in pending]).isfinite().tolist()
        first = finite.index(False) if False in finite else len(pending)
        earliest = min(self.ctx.all_gather(first))
        if earliest < len(pending):
            self.ctx.run_on_all(lambda: self._raise_non_finite_loss(*pending[first]) if first == earliest else None)

    def _raise_non_finite_loss(self, task: str, step: int, video_ids: tuple[str, ...], loss: torch.Tensor) -> None:
        place = f"step {step + 1} (epoch {self.epoch + 1}), videos {', '.join(video_ids)}"
        remedy = "look for NaN in their features (tools/verify_data.py), or lower the learning rate"
        raise TrainingError(f"{task}: loss is {loss.item()} at {place}; {remedy}")

    def update_stop_and_go(self, scores: dict[str, float]) -> bool:
        """Pause and resume tasks by their average mAP; returns whether the mean of the tasks is the best so far."""
        for key, value in scores.items():
            state = self.stop_and_go[key]
            before = state.paused
            if state.update(value) != before and state.config.enabled and self.ctx.is_first:
                print(f"{key} is {'paused' if state.paused else 'resumed'} by stop-and-go")
        mean = sum(scores.values()) / len(scores)
        is_best = mean > self.best
        self.best = max(self.best, mean)
        return is_best

    @torch.no_grad()
    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint holds: all that a run resumes from, and what inference needs."""
        tasks_with_prompts = self.tasks if self.model.uses_prompts else []
        return {
            "epoch": self.epoch,
            "step": self.step,
            "best": self.best,
            "state_dict": self.model.state_dict(),
            "state_dict_ema": self.ema.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "criteria": {key: criterion.state_dict() for key, criterion in self.criteria.items()},
            "stop_and_go": {key: state.state_dict() for key, state in self.stop_and_go.items()},
            "num_batches_seen": {key: stream.num_batches_seen for key, stream in self.streams.items()},
            "config": self.config.to_tree(),
            # For inference on new videos (libs/inference). Prompts include what was learned of them.
            "class_names": {task_data.task.key: task_data.class_names for task_data in self.data},
            "prompts": {task.key: self.ema.model.prompts[task.key]().clone() for task in tasks_with_prompts},
        }

    def load_state_dict(self, state: dict[str, Any], path: Path) -> None:
        """Go on where a checkpoint (load_resumable's) stopped.

        Raises:
            CheckpointError: if it is of other tasks, another network, or a configuration that trains differently.
        """
        if list(state["num_batches_seen"]) != list(self.streams):
            before, now = ("-".join(tasks) for tasks in (state["num_batches_seen"], self.streams))
            raise CheckpointError(f"{path}: was trained on {before}, not on {now}; resume with the same --tasks")
        load_weights(self.model, state["state_dict"], path)
        # from_tree fills in keys that did not exist when the checkpoint was written.
        before = from_tree(state["config"]).to_tree()
        if changed := format_list(diff_configs(before, self.config.to_tree(), RESUME_MAY_CHANGE), separator="; "):
            raise CheckpointError(f"{path}: was trained otherwise: {changed}; resume with the same, or start anew")
        load_weights(self.ema.model, state["state_dict_ema"], path)
        self.optimizer.load_state_dict(state["optimizer"])
        for parameter, moments in self.optimizer.state.items():  # fused AdamW expects the memory layout of the weights
            for name in ("exp_avg", "exp_avg_sq"):
                moments[name] = torch.empty_like(parameter).copy_(moments[name])
        for key, stream in self.streams.items():
            self.criteria[key].load_state_dict(state["criteria"][key])
            self.stop_and_go[key].load_state_dict(state["stop_and_go"][key])
            stream.num_batches_seen = state["num_batches_seen"][key]
        self.epoch, self.step, self.best = state["epoch"], state["step"], state["best"]
