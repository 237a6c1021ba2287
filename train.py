"""Train one network on several tasks: YAML -> data, model, loop, checkpoints.

python train.py configs/demo.yaml --output first
torchrun --nproc_per_node 2 train.py configs/demo.yaml
"""

import argparse
import json
import time
from pathlib import Path

import torch

from libs.core.cli import add_launcher_option, add_override_option, build_parser, exit_on_user_error
from libs.core.config import Config, TaskSpec
from libs.core.configfile import load_config
from libs.core.errors import CheckpointError, ConfigError
from libs.core.files import replacing, write_json
from libs.core.prompts import load_prompts
from libs.datasets.checks.validate import suggest_verify_data, validate_task_data
from libs.datasets.task_data import TaskData, load_task_data
from libs.evaluation.reports.tables import build_score_rows, format_score_table, scores_to_dict
from libs.modeling.uniav import UniAV
from libs.training.checkpoint import BEST, LAST, find_checkpoint, load_fitting, load_resumable, save_checkpoint
from libs.training.distributed import DistributedContext, init_distributed
from libs.training.evaluation import EvalSet, run_inference
from libs.training.logs import RunLog
from libs.training.profile import profile_steps
from libs.training.prompts import set_prompts
from libs.training.summary import summarize
from libs.training.trainer import Trainer

# ---- options, configuration, the run's folder ----


def parse_args() -> argparse.Namespace:
    parser = build_parser(__doc__)
    parser.add_argument("config", metavar="CONFIG", help="a YAML file, see configs/")
    parser.add_argument("--output", metavar="NAME", help="the run's folder is ckpt/<config>_NAME (default: the time)")
    parser.add_argument("--tasks", metavar="1-2-3", help="the tasks to train (default: all of CONFIG)")
    parser.add_argument("--num_train_epochs", type=int, metavar="N", help="epochs after the warm-up")
    parser.add_argument("--resume", metavar="PATH|auto", help="a checkpoint or run to go on from; auto: --output's")
    parser.add_argument("--init-from", metavar="PATH", help="start from those (EMA) weights of a checkpoint that fit")
    parser.add_argument("-p", "--print-freq", type=int, metavar="N", help="steps between two lines of metrics.jsonl")
    parser.add_argument("-c", "--ckpt-freq", type=int, metavar="N", help="epochs between two epoch_NNN.pth.tar")
    parser.add_argument("--profile", type=Path, metavar="DIR", help="only profile a few steps; writes DIR/trace.json")
    add_launcher_option(parser)
    add_override_option(parser)
    return parser.parse_args()


def read_config(args: argparse.Namespace) -> Config:
    """Read CONFIG with -o overrides; options of their own come last."""
    options = {
        "opt.num_train_epochs": args.num_train_epochs,
        "run.print_freq": args.print_freq,
        "run.ckpt_freq": args.ckpt_freq,
        "run.tasks": args.tasks,
        "run.init_from": args.init_from,
    }
    # A JSON string is a YAML string, whatever it contains.
    overrides = [f"{key}={json.dumps(value)}" for key, value in options.items() if value is not None]
    return load_config(args.config, [*args.o, *overrides])


def choose_folder(args: argparse.Namespace, config: Config) -> tuple[Path, Path | None]:
    """Choose the run's folder and the checkpoint to resume from; raises UserError rather than overwrite a run."""
    if "" in (args.output, args.resume, args.init_from):
        raise ConfigError("--output, --resume and --init-from need a value; leave them out otherwise")
    if args.init_from and args.resume not in (None, "auto"):
        raise ConfigError("--init-from starts a run, --resume goes on with one; give one of them")
    if args.profile and args.resume:
        raise ConfigError("--profile looks at the first steps of a new run; leave --resume out")
    name = args.output or time.strftime("%Y-%m-%d_%H-%M-%S")
    folder, resume = Path(config.run.output_folder) / f"{Path(args.config).stem}_{name}", None
    if args.resume == "auto":
        if args.output is None:
            raise ConfigError("--resume auto looks in the run's folder: name it with --output NAME")
        resume = folder / LAST if (folder / LAST).exists() else None
    elif args.resume is not None:
        path = Path(args.resume)
        resume = path / LAST if (path / LAST).is_file() else find_checkpoint(path)
        folder = folder if args.output else resume.parent
    continues = resume is not None and resume.parent.resolve() == folder.resolve()
    if (folder / LAST).exists() and not continues and not args.profile:
        raise CheckpointError(f"{folder}: already holds a run; go on with --resume auto or choose another --output")
    return folder, resume


# ---- data, model, trainer ----


def load_data(config: Config, tasks: list[TaskSpec], ctx: DistributedContext) -> list[TaskData]:
    """Load and check the data of all tasks; prints what is unusual."""
    data = []
    for task in tasks:
        task_data = load_task_data(config, task)
        prompts = load_prompts(task, config.model.text_dim) if config.model.reads_prompts else None
        evaluated = [task_data.val] if task.val_split == task.test_split else [task_data.val, task_data.test]
        warnings = validate_task_data(task, task_data.annotations, prompts, [task_data.train, *evaluated])
        if ctx.is_first:
            if task_data.seen is not None:
                total = len(task_data.annotations.select_splits(task.train_split, task.dataset.max_videos))
                print(
                    f"{task.key}: trains on {len(task_data.seen)} of {task.dataset.num_classes} classes, and on the "
                    f"{len(task_data.train.videos)} of {total} videos that show no other"
                )
            print(*(f"warning: {warning}\n" for warning in warnings), sep="", end="", flush=True)
        data.append(task_data)
    return data


def build_model(config: Config, data: list[TaskData], init: bool, ctx: DistributedContext) -> UniAV:
    """Build the network with its prompts; with `init`, run.init_from's weights replace random ones."""
    torch.manual_seed(config.run.seed)  # every rank starts from the same weights
    model = UniAV(config)
    if init and config.run.init_from is not None:
        loaded = load_fitting(model, config.model, find_checkpoint(Path(config.run.init_from)))
        if ctx.is_first:
            print(loaded)
    set_prompts(model, config, data)
    return model.to(ctx.device)


def start_run(trainer: Trainer, folder: Path, resumed: bool) -> dict:
    """Write the resolved configuration and print what starts; returns the network's sizes (summarize)."""
    for task in trainer.tasks:
        train, val, test = (set(splits) for splits in (task.train_split, task.val_split, task.test_split))
        for shared, message in (
            (val & test, "val_split is the test split: stop-and-go watches what is reported"),
            (train & test, "test_split shares videos with train_split: what is reported was trained on"),
            (train & val, "val_split shares videos with train_split: stop-and-go watches what is trained on"),
        ):
            if shared:
                print(f"warning: {task.key}: {message}")
    with replacing(folder / "config.yaml") as temporary:
        temporary.write_text(trainer.config.to_yaml(), encoding="utf-8")
    text, network = summarize(trainer.config, trainer.tasks)
    action = f"resumes after epoch {trainer.epoch}" if resumed else "starts"
    keys = ", ".join(task.key for task in trainer.tasks)
    print(f"{text}\n{folder} {action}: {keys}, {trainer.steps_per_epoch} steps an epoch", flush=True)
    return network


# ---- evaluation ----


def evaluate(trainer: Trainer, eval_sets: list[EvalSet], log: RunLog) -> dict:
    """Score the EMA weights and print a table a task; returns metrics.json's tree by task."""
    metrics = {}
    for eval_set in eval_sets:
        scores = eval_set.score(run_inference(trainer.ema.model, eval_set, trainer.ctx))
        key, splits, data = eval_set.task.key, list(eval_set.splits), eval_set.data
        metrics[key] = {"splits": splits, **scores_to_dict(scores, data.annotations.class_names, data.seen)}
        numbers = {"average_mAP": scores.average, "splits": splits, "tiou": list(scores.tious)}
        log.write(trainer.step, "eval", task=key, epoch=trainer.epoch, **numbers, mAP=scores.map.tolist())
        if trainer.ctx.is_first:
            rows = build_score_rows(f"epoch {trainer.epoch}", scores, data.seen)
            print(format_score_table(f"mAP, {eval_set.name}", rows), flush=True)
    return metrics


# ---- the run ----


@exit_on_user_error
def main() -> None:
    args = parse_args()
    config = read_config(args)
    tasks = config.select_tasks(None)
    with init_distributed(args.local_rank, config.run.precision) as ctx:
        folder, resume = ctx.run_on_first(lambda: choose_folder(args, config))
        checkpoint = ctx.run_on_all(lambda: load_resumable(resume)) if resume else None
        finished = checkpoint is not None and checkpoint["epoch"] >= config.opt.total_epochs
        if checkpoint and finished and ctx.run_on_first((folder / "metrics.json").exists):
            if ctx.is_first:
                print(f"{resume}: has finished epoch {checkpoint['epoch']} of {config.opt.total_epochs}; nothing to do")
            return

        # Everything a run needs is opened and checked before anything is written.
        @suggest_verify_data(args.config, args.tasks, bool(args.o))
        def prepare() -> tuple[Trainer, list[EvalSet], list[EvalSet]]:
            data = load_data(config, tasks, ctx)
            trainer = Trainer(config, build_model(config, data, checkpoint is None, ctx), data, ctx)
            if checkpoint and resume:
                trainer.load_state_dict(checkpoint, resume)
            tested = [task_data for task_data in data if task_data.task.test_split != task_data.task.val_split]
            val_sets = [EvalSet.build(task_data, "val", config, ctx) for task_data in data]
            return trainer, val_sets, [EvalSet.build(task_data, "test", config, ctx) for task_data in tested]

        trainer, val_sets, test_sets = ctx.run_on_all(prepare)
        if args.profile:
            table = profile_steps(trainer, args.profile)
            if ctx.is_first:
                print(f"{table}\n{args.profile / 'trace.json'}: for chrome://tracing or ui.perfetto.dev")
            return
        network = ctx.run_on_first(lambda: start_run(trainer, folder, resumed=resume is not None))
        log = RunLog(folder if ctx.is_first else None, trainer.step)

        # A finished run without metrics.json was interrupted in its last evaluation, which is repeated.
        metrics = evaluate(trainer, val_sets, log) if finished else {}
        while trainer.epoch < config.opt.total_epochs:
            trainer.train_epoch(log)
            is_last, is_best = trainer.epoch == config.opt.total_epochs, False
            if trainer.epoch % config.run.eval_freq == 0 or is_last:
                metrics = evaluate(trainer, val_sets, log)
                # Held-out classes must not influence training, not even the choice of a checkpoint.
                scores = {key: tree.get("seen", tree)["average_mAP"] for key, tree in metrics.items()}
                is_best = trainer.update_stop_and_go(scores)
            if ctx.is_first:
                keep = trainer.epoch % config.run.ckpt_freq == 0 or is_last
                names = [f"epoch_{trainer.epoch:03d}.pth.tar"] * keep + [BEST] * is_best
                # LAST is written last: its presence marks the epoch as complete.
                save_checkpoint(trainer.state_dict(), *(folder / name for name in [*names, LAST]))

        metrics |= evaluate(trainer, test_sets, log)
        log.close()
        if ctx.is_first:
            write_json(folder / "metrics.json", {"network": network, **metrics})
            print(f"done; the run is in {folder}")


if __name__ == "__main__":
    main()
