"""The training loop: each step visits the tasks in turn (method.md §6)."""

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
from libs.datasets.clips import ClipDataset
from libs.datasets.loaders import TrainStream
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

# Sections and keys that do not change what is learned, or are meant to be changed: where things lie, how they are
# loaded and logged. (How they are evaluated steers stop-and-go, and so does change it.) With another number of epochs
# a run goes on, but is no longer the one that it was.
RESUME_MAY_CHANGE = frozenset(
    [
        "loader",
        "run.compile",
        "run.checkpointing",
        "run.output_folder",
        "run.tasks",  # the checkpoint says which it has
        "run.init_from",
        "run.print_freq",
        "run.ckpt_freq",
        "json_file",
        "feat_folder",
        "prompt_file",
        "opt.num_train_epochs",
    ]
)


class Pending(NamedTuple):
    """A batch whose loss nobody has looked at yet."""

    task: str
    step: int
    video_ids: tuple[str, ...]
    loss: torch.Tensor


class Trainer:
    """Network, optimizer and all other state of a run. `state_dict` after an epoch holds what the rest follows from:
    batches, schedule and random numbers are functions of the seed and of counters in it."""

    def __init__(
        self,
        config: Config,
        tasks: list[TaskSpec],
        model: UniAV,
        datasets: list[ClipDataset],
        ctx: DistributedContext,
        class_names: dict[str, list[str]] | None = None,
        seen: dict[str, list[int]] | None = None,
    ):
        """model: on its device, prompts set. datasets: the tasks' training clips. class_names: of each task, by
        label_id, for the checkpoint. seen: the label_ids trained on, of tasks that hold classes out.
        Raises UserErrors of TrainStream."""
        self.class_names = class_names or {}
        self.config, self.tasks, self.ctx, self.model = config, tasks, ctx, model
        datasets_of = {task.key: dataset for task, dataset in zip(tasks, datasets, strict=True)}
        momentum = config.opt.loss_normalizer_momentum
        seen = seen or {}
        self.criteria = {task.key: Criterion(task, momentum, seen.get(task.key)).to(ctx.device) for task in tasks}
        self.stop_and_go = {task.key: StopAndGo(config.stop_and_go) for task in tasks}
        self.base_lr = min(task.learning_rate for task in tasks)
        self.optimizer = build_optimizer(model, config.opt, self.base_lr)
        self.ema = EMA(model, config.opt.ema_decay)
        self.parameters = list(model.parameters())  # once: to walk through all modules takes milliseconds
        self.epoch, self.step, self.best = 0, 0, float("-inf")
        self.waited_s = 0.0  # for data, in this epoch
        self.pending: list[Pending] = []
        self.streams = {
            key: TrainStream(dataset, config, ctx.device, ctx.rank, ctx.world_size)
            for key, dataset in datasets_of.items()
        }
        model.backbone.checkpointing = config.run.checkpointing
        compile_network(model, config.run, ctx.device)
        self.parallel: nn.Module = model
        if ctx.world_size > 1:
            # Each task uses its own experts and offset head; the others' gradients must stay None.
            self.parallel = DistributedDataParallel(
                model,
                device_ids=[ctx.device] if ctx.device.type == "cuda" else None,
                broadcast_buffers=False,
                find_unused_parameters=True,
            )

    @property
    def steps_per_epoch(self) -> int:
        epochs = self.config.opt.num_train_epochs
        passes = (task.epochs * self.streams[task.key].batches_per_pass // epochs for task in self.tasks)
        return max(1, *passes)

    def train_epoch(self, log: RunLog) -> None:
        """One epoch, from self.epoch to self.epoch + 1. Raises TrainingError on a non-finite loss."""
        seed = np.random.SeedSequence([self.config.run.seed, self.epoch, self.ctx.rank])
        torch.manual_seed(int(seed.generate_state(1)[0]))
        self.model.train()
        meters, self.waited_s = self.make_meters(), 0.0
        videos, began = 0, Throughput(0, time.perf_counter(), 0.0)
        logged = began
        name = f"epoch {self.epoch + 1}/{self.config.opt.total_epochs}"
        progress = tqdm(
            range(self.steps_per_epoch), desc=name, leave=False, disable=None if self.ctx.is_first else True
        )
        for i in progress:
            videos += self.train_step(meters)
            if self.step % self.config.run.print_freq == 0 or i == self.steps_per_epoch - 1:
                self.check_finite()
                now = Throughput(videos, time.perf_counter(), self.waited_s)
                rate, waiting = now.since(logged)
                logged = now
                lr = self.optimizer.param_groups[0]["lr"]
                losses = {key: meter.read(self.ctx) for key, meter in meters.items() if meter.count}
                for key, means in losses.items():
                    log.write(self.step, "train", task=key, epoch=self.epoch + 1, **means)
                log.write(self.step, "train", epoch=self.epoch + 1, lr=lr, videos_per_s=rate, data_wait=waiting)
                shown = {key: f"{means['total']:.3f}" for key, means in losses.items()}
                progress.set_postfix({**shown, "lr": f"{lr:.1e}", "videos/s": f"{rate:.0f}"})
        self.epoch += 1
        if self.ctx.is_first:
            trained = [f"{key} {meter.mean_total:.3f}" for key, meter in meters.items() if meter.read_steps]
            shown = f"loss {', '.join(trained)}" if trained else "all tasks are paused"
            rate, waiting = now.since(began)
            print(f"{name}: {shown}; lr {lr:.1e}; {rate:.0f} videos/s, {waiting:.0%} waiting for data", flush=True)

    def make_meters(self) -> dict[str, LossMeter]:
        return {task.key: LossMeter() for task in self.tasks}

    def train_step(self, meters: dict[str, LossMeter]) -> int:
        """One step: each task that is not paused in turn. Returns the number of videos, of all ranks."""
        set_lr(self.optimizer, lr_factor(self.config.opt, self.step, self.steps_per_epoch))
        visited = [task for task in self.tasks if self.stop_and_go[task.key].trains_at(self.step)]
        steps = [visited] if self.config.opt.joint_steps else [[task] for task in visited]
        for together in filter(None, steps):  # of paused tasks alone, no step
            losses = {}
            for task in together:
                batch = self._wait_for(self.streams[task.key].next)
                losses[task.key] = self.losses_on(task, batch)
                self.backward(task, losses[task.key])
                ids = tuple(clip.video_id for clip in batch.clips)
                self.pending.append(Pending(task.key, self.step, ids, losses[task.key].total.detach()))
            grad_norm = self.update()
            for task in together:
                meters[task.key].add(losses[task.key], grad_norm)
                self._wait_for(self.streams[task.key].fetch_ahead)
        self.step += 1
        return sum(task.batch_size for task in visited)

    def _wait_for(self, data: Callable[[], T]) -> T:
        asked = time.perf_counter()
        result = data()
        self.waited_s += time.perf_counter() - asked
        return result

    # Nothing from here to check_finite waits for a GPU: it is queued while earlier work is still going on. (With
    # several ranks DistributedDataParallel does, once a step, to learn which experts were used.)

    def losses_on(self, task: TaskSpec, batch: Batch) -> Losses:
        """The losses of a batch on the device, to be differentiated."""
        if self.config.run.compile == "cuda_graphs":  # else importing the compiler would only cost seconds
            torch.compiler.cudagraph_mark_step_begin()
        with self.ctx.autocast():
            prediction = self.parallel(batch, task.key)
        spec = task.dataset
        targets = make_targets(prediction.points, batch.segments, batch.labels, spec.num_classes, spec.class_aware)
        return self.criteria[task.key](prediction, targets)

    def backward(self, task: TaskSpec, losses: Losses) -> None:
        """Add a task's gradients to those that are there."""
        (losses.total * (task.learning_rate / self.base_lr)).backward()

    def update(self) -> torch.Tensor:
        """One optimizer step on the gradients, which are gone then, and the EMA's; their norm before clipping."""
        max_norm = self.config.opt.clip_grad_norm or torch.inf
        grad_norm = torch.nn.utils.clip_grad_norm_(self.parameters, max_norm)
        self.optimizer.step()
        for parameter in self.parameters:  # not to zero: what a task does not use must stay without gradients
            parameter.grad = None
        self.ema.update()
        return grad_norm

    def check_finite(self) -> None:
        """Raise TrainingError if a loss since the last call was not finite on any rank, naming the first such step's
        videos. Later ones follow from it; no checkpoint is written in between."""
        pending, self.pending = self.pending, []
        if not pending:  # on no rank: all tasks are paused
            return
        finite = torch.stack([batch.loss for batch in pending]).isfinite().tolist()
        first = finite.index(False) if False in finite else len(pending)
        earliest = min(self.ctx.all_gather(first))

        def blame() -> None:
            if first == earliest < len(pending):
                task, step, ids, loss = pending[first]
                raise TrainingError(
                    f"{task}: loss is {loss.item()} at step {step + 1} (epoch {self.epoch + 1}), videos "
                    f"{', '.join(ids)}; look for NaN in their features (tools/verify_data.py), or "
                    "lower the learning rate"
                )

        self.ctx.run_on_all(blame)

    def update_stop_and_go(self, scores: dict[str, float]) -> bool:
        """Take an evaluation (average mAP a task) in; whether it is the best so far."""
        for key, value in scores.items():
            state = self.stop_and_go[key]
            before = state.paused
            if state.update(value) != before and state.config.enabled and self.ctx.is_first:
                print(f"{key} is {'paused' if state.paused else 'resumed'} by stop-and-go")
        mean = sum(scores.values()) / len(scores)
        is_best = mean > self.best
        self.best = max(self.best, mean)
        return is_best

    def state_dict(self) -> dict[str, Any]:
        return {
            "epoch": self.epoch,
            "step": self.step,
            "best": self.best,
            "state_dict": self.model.state_dict(),
            "state_dict_ema": self.ema.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "criteria": {key: criterion.state_dict() for key, criterion in self.criteria.items()},
            "stop_and_go": {key: state.state_dict() for key, state in self.stop_and_go.items()},
            "drawn": {key: stream.num_batches_seen for key, stream in self.streams.items()},
            "config": self.config.to_tree(),
            # What localizing in new videos needs besides (libs/inference).
            "class_names": self.class_names,
            "prompts": self._prompts(),
        }

    def _prompts(self) -> dict[str, torch.Tensor]:
        """The tables that the EMA's network uses, with what it has learned of them; none for a linear classifier."""
        if not self.model.uses_prompts:
            return {}
        with torch.no_grad():
            return {task.key: self.ema.model.prompts[task.key]().clone() for task in self.tasks}

    def load_state_dict(self, state: dict[str, Any], path: Path) -> None:
        """Go on where a checkpoint (load_resumable's) stopped. Raises CheckpointError if it is of other tasks, of
        another network, or of a configuration that would not go on with the same training."""
        if list(state["drawn"]) != list(self.streams):
            raise CheckpointError(
                f"{path}: was trained on {'-'.join(state['drawn'])}, not on {'-'.join(self.streams)}; resume with "
                "the same --tasks"
            )
        load_weights(self.model, state["state_dict"], path)
        # Through a Config: what keys were by default when there were fewer.
        changed = diff_configs(from_tree(state["config"]).to_tree(), self.config.to_tree(), RESUME_MAY_CHANGE)
        if changed:
            raise CheckpointError(
                f"{path}: the run had another configuration: {format_list(changed, between='; ')}; resume with the same, or "
                "start anew"
            )
        load_weights(self.ema.model, state["state_dict_ema"], path)
        self.optimizer.load_state_dict(state["optimizer"])
        for parameter, moments in self.optimizer.state.items():  # fused AdamW takes them to lie as the weights do
            for name in ("exp_avg", "exp_avg_sq"):
                moments[name] = torch.empty_like(parameter).copy_(moments[name])
        for key in self.streams:
            self.criteria[key].load_state_dict(state["criteria"][key])
            self.stop_and_go[key].load_state_dict(state["stop_and_go"][key])
        self.epoch, self.step, self.best = state["epoch"], state["step"], state["best"]
        for key, stream in self.streams.items():
            stream.num_batches_seen = state["drawn"][key]
