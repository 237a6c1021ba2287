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
from libs.datasets.annotations import load_annotations
from libs.datasets.checks.validate import suggest_verify_data, validate_task_data
from libs.datasets.loaders import build_dataset
from libs.evaluation.reports.tables import score_rows, score_table, score_tree
from libs.features.provenance import check_provenance
from libs.modeling.uniav import UniAV
from libs.training.checkpoint import (
    BEST,
    LAST,
    find_checkpoint,
    load_checkpoint,
    load_fitting,
    load_resumable,
    save_checkpoint,
)
from libs.training.distributed import DistributedContext, init_distributed
from libs.training.evaluation import EvalSet, run_inference, score, seen_classes, without_unseen
from libs.training.logs import RunLog
from libs.training.profile import profile_steps
from libs.training.prompts import set_prompts
from libs.training.summary import summarize
from libs.training.trainer import Trainer


def parse_args() -> argparse.Namespace:
    parser = build_parser(__doc__)
    parser.add_argument("config", metavar="CONFIG", help="a YAML file, see configs/")
    parser.add_argument("--output", metavar="NAME", help="the run's folder is ckpt/<config>_NAME (default: the time)")
    parser.add_argument("--tasks", metavar="1-2-3", help="the tasks to train (default: all of CONFIG)")
    parser.add_argument("--num_train_epochs", type=int, metavar="N", help="epochs after the warm-up")
    parser.add_argument(
        "--resume", metavar="PATH|auto", help="a checkpoint or run folder to go on from; auto: --output's"
    )
    parser.add_argument(
        "--init-from", metavar="PATH", help="begin with the (EMA) weights of a checkpoint or run folder that fit"
    )
    parser.add_argument("-p", "--print-freq", type=int, metavar="N", help="steps between two lines of metrics.jsonl")
    parser.add_argument("-c", "--ckpt-freq", type=int, metavar="N", help="epochs between two epoch_NNN.pth.tar")
    parser.add_argument("--profile", type=Path, metavar="DIR", help="only profile a few steps; writes DIR/trace.json")
    add_launcher_option(parser)
    add_override_option(parser)
    return parser.parse_args()


def read_config(args: argparse.Namespace) -> Config:
    flags = {
        "opt.num_train_epochs": args.num_train_epochs,
        "run.print_freq": args.print_freq,
        "run.ckpt_freq": args.ckpt_freq,
        "run.tasks": args.tasks,
        "run.init_from": args.init_from,
    }
    # A JSON string is a YAML string, whatever is in it.
    set_flags = [f"{key}={json.dumps(value)}" for key, value in flags.items() if value is not None]
    return load_config(args.config, [*args.o, *set_flags])


def choose_folder(args: argparse.Namespace, config: Config) -> tuple[Path, Path | None]:
    """The run's folder, and the checkpoint to resume from. Raises UserError rather than overwrite a run."""
    if "" in (args.output, args.resume, args.init_from):
        raise ConfigError("--output, --resume and --init-from need a value; leave them out otherwise")
    if args.init_from and args.resume not in (None, "auto"):
        raise ConfigError("--init-from begins a run, --resume goes on with one; give one of them")
    if args.profile and args.resume:
        raise ConfigError("--profile looks at the first steps of a run, which it does not train; leave --resume out")
    name = args.output or time.strftime("%Y-%m-%d_%H-%M-%S")
    folder, resume = Path(config.run.output_folder) / f"{Path(args.config).stem}_{name}", None
    if args.resume == "auto":
        if args.output is None:
            raise ConfigError("--resume auto looks in the run's folder: name it with --output NAME")
        resume = folder / LAST if (folder / LAST).exists() else None
    elif args.resume:
        path = Path(args.resume)
        resume = path / LAST if (path / LAST).is_file() else find_checkpoint(path)
        folder = folder if args.output else resume.parent
    goes_on = resume is not None and resume.parent.resolve() == folder.resolve()
    if (folder / LAST).exists() and not goes_on and not args.profile:
        raise CheckpointError(f"{folder}: already holds a run; go on with --resume auto or choose another --output")
    return folder, resume


def open_all(
    config: Config, tasks: list[TaskSpec], checkpoint: dict | None, resume: Path | None, ctx: DistributedContext
) -> tuple[Trainer, list[EvalSet], list[EvalSet]]:
    """The trainer, where `checkpoint` left it, and what to evaluate on: val_split, and test_split where it differs."""
    torch.manual_seed(config.run.seed)  # every rank starts from the same weights
    model = UniAV.from_config(config)
    if config.run.init_from and not checkpoint:
        init_from = find_checkpoint(Path(config.run.init_from))
        loaded = load_fitting(model, load_checkpoint(init_from), config.model, init_from)
        if ctx.is_first:
            print(loaded)
    datasets, val_sets, test_sets = [], [], []
    for task in tasks:
        check_provenance(task, config.model.encoder)
        annotations = load_annotations(task.dataset.json_file, task.dataset.num_classes)
        videos = annotations.select_splits(task.train_split, task.dataset.max_videos)
        kept, said = without_unseen(videos, seen_classes(task, annotations), annotations, task)
        if said and ctx.is_first:
            print(said)
        datasets.append(build_dataset(kept, task, config))
        val_sets.append(EvalSet.open(task, annotations, task.val_split, config, ctx))
        if task.test_split != task.val_split:
            test_sets.append(EvalSet.open(task, annotations, task.test_split, config, ctx))
    class_names = {data.task.key: data.class_names for data in val_sets}
    seen = {data.task.key: data.seen for data in val_sets}
    set_prompts(model, config, val_sets)
    for dataset, data in zip(datasets, val_sets, strict=True):
        opened = [dataset, *(d.batches.dataset for d in val_sets + test_sets if d.task is data.task)]
        table = model.get_buffer(f"prompts_{data.task.key}").numpy() if config.model.reads_prompts else None
        for odd in validate_task_data(data.task, data.annotations, table, opened):
            if ctx.is_first:
                print(f"warning: {odd}")
    trainer = Trainer(config, tasks, model.to(ctx.device), datasets, ctx, class_names, seen)
    if checkpoint:
        trainer.load_state_dict(checkpoint, resume)
    return trainer, val_sets, test_sets


def evaluate(trainer: Trainer, eval_sets: list[EvalSet], log: RunLog) -> dict:
    """Average mAP a task by the EMA weights, and the metrics' tree; prints a table a task on rank 0."""
    metrics = {}
    for data in eval_sets:
        scores = score(run_inference(trainer.ema.model, data, trainer.ctx), data)
        key = data.task.key
        tree = score_tree(scores, data.annotations.class_names, data.seen)
        metrics[key] = {"splits": list(data.splits), **tree}
        log.write(
            trainer.step,
            "eval",
            task=key,
            epoch=trainer.epoch,
            average_mAP=scores.average,
            **{"splits": list(data.splits), "tiou": list(scores.tious), "mAP": scores.map.tolist()},
        )
        if trainer.ctx.is_first:
            rows = score_rows(f"epoch {trainer.epoch}", scores, data.seen)
            print(score_table(f"mAP, {data.name}", rows), flush=True)
    return metrics


def announce(trainer: Trainer, folder: Path, resumed: bool) -> dict:
    """Write the resolved configuration; say what begins, and what a careful person would object to. Returns what the
    network is (summarize's tree)."""
    for task in trainer.tasks:
        train, val, test = (set(splits) for splits in (task.train_split, task.val_split, task.test_split))
        if val & test:
            print(f"warning: {task.key}: val_split is the test split: stop-and-go watches what is reported")
        if train & test:
            print(f"warning: {task.key}: test_split shares videos with train_split: what is reported was trained on")
        if train & val:
            print(
                f"warning: {task.key}: val_split shares videos with train_split: stop-and-go watches what is trained on"
            )
    with replacing(folder / "config.yaml") as temporary:
        temporary.write_text(trainer.config.to_yaml(), encoding="utf-8")
    begun = f"resumes after epoch {trainer.epoch}" if resumed else "starts"
    keys = ", ".join(task.key for task in trainer.tasks)
    text, network = summarize(trainer.config, trainer.tasks)
    print(text)
    print(f"{folder} {begun}: {keys}, {trainer.steps_per_epoch} steps an epoch", flush=True)
    return network


@exit_on_user_error
def main() -> None:
    args = parse_args()
    config = read_config(args)
    tasks = config.select_tasks(None)
    with init_distributed(args.local_rank, config.run.precision) as ctx:
        folder, resume = ctx.run_on_first(lambda: choose_folder(args, config))
        checkpoint = ctx.run_on_all(lambda: load_resumable(resume)) if resume else None
        finished = checkpoint and checkpoint["epoch"] >= config.opt.total_epochs
        if finished and ctx.run_on_first((folder / "metrics.json").exists):
            if ctx.is_first:
                print(f"{resume}: has finished epoch {checkpoint['epoch']} of {config.opt.total_epochs}; nothing to do")
            return

        # Everything a run needs is opened and checked before anything is written.
        with_advice = suggest_verify_data(args.config, args.tasks, bool(args.o))
        trainer, val_sets, test_sets = ctx.run_on_all(
            with_advice(lambda: open_all(config, tasks, checkpoint, resume, ctx))
        )
        if args.profile:
            table = profile_steps(trainer, args.profile)
            if ctx.is_first:
                print(f"{table}\n{args.profile / 'trace.json'}: for chrome://tracing or ui.perfetto.dev")
            return
        network = ctx.run_on_first(lambda: announce(trainer, folder, resumed=resume is not None))
        log = RunLog(folder if ctx.is_first else None, trainer.step)

        metrics = evaluate(trainer, val_sets, log) if finished else {}  # interrupted while its last scores were made
        while trainer.epoch < config.opt.total_epochs:
            trainer.train_epoch(log)
            is_last, is_best = trainer.epoch == config.opt.total_epochs, False
            if trainer.epoch % config.run.eval_freq == 0 or is_last:
                metrics = evaluate(trainer, val_sets, log)
                # A class that is held out says nothing in training, not even through the choice of a checkpoint.
                watched = {key: tree.get("seen", tree)["average_mAP"] for key, tree in metrics.items()}
                is_best = trainer.update_stop_and_go(watched)
            if ctx.is_first:
                keep = trainer.epoch % config.run.ckpt_freq == 0 or is_last
                names = [f"epoch_{trainer.epoch:03d}.pth.tar"] * keep + [BEST] * is_best
                # LAST at the end: once it is there, the epoch is done.
                save_checkpoint(trainer.state_dict(), *(folder / name for name in [*names, LAST]))

        metrics |= evaluate(trainer, test_sets, log)
        log.close()
        if ctx.is_first:
            write_json(folder / "metrics.json", {"network": network, **metrics})
            print(f"done; the run is in {folder}")


if __name__ == "__main__":
    main()
