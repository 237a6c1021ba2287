"""Evaluate a checkpoint: detections, results files, mAP.

python eval.py configs/demo.yaml ckpt/demo_first
python eval.py configs/demo.yaml ckpt/demo_first --metrics all    # with intervals, error diagnosis and report.html
"""

import argparse
from pathlib import Path

from libs.core.cli import add_launcher_option, add_override_option, build_parser, exit_on_user_error
from libs.core.config import Config, TaskSpec
from libs.core.configfile import load_config
from libs.core.errors import CheckpointError, ConfigError
from libs.core.files import make_folder, write_json
from libs.core.types import Detections
from libs.datasets.annotations import load_annotations
from libs.evaluation.metrics.average_precision import remove_repeats
from libs.evaluation.metrics.compute import METRICS, EvaluationInput, compute_metrics, metrics_to_dict
from libs.evaluation.metrics.selection import expand_metrics
from libs.evaluation.reports.report_page import Part, choose_for_report, write_report
from libs.evaluation.reports.tables import headline_table, score_rows, score_table, score_tree
from libs.evaluation.results import write_results
from libs.features.provenance import check_provenance
from libs.modeling.uniav import UniAV
from libs.training.checkpoint import check_same_network, find_checkpoint, load_checkpoint, load_weights
from libs.training.distributed import DistributedContext, init_distributed
from libs.training.evaluation import EvalSet, run_inference, score
from libs.training.prompts import set_prompts


def parse_args() -> argparse.Namespace:
    parser = build_parser(__doc__)
    parser.add_argument("config", metavar="CONFIG", help="the YAML file the checkpoint was trained with")
    parser.add_argument(
        "checkpoint", metavar="CKPT", type=Path, help="a checkpoint, or a run's folder (best, else last)"
    )
    parser.add_argument("--tasks", metavar="1-2-3", help="the tasks to evaluate (default: all of CONFIG)")
    parser.add_argument(
        "-t", "--topk", type=int, metavar="N", help="detections a video (default: test_cfg.max_seg_num)"
    )
    parser.add_argument(
        "--metrics",
        metavar="NAMES",
        help=f"all, or some of {','.join(METRICS)}: adds them to metrics.json, and a report",
    )
    parser.add_argument("--saveonly", action="store_true", help="write results files, score nothing")
    parser.add_argument(
        "-p", "--print-freq", type=int, default=1, metavar="N", help="batches a step of the progress bar"
    )
    parser.add_argument("--output", type=Path, metavar="DIR", help="where results go (default: beside the checkpoint)")
    add_launcher_option(parser)
    add_override_option(parser)
    args = parser.parse_args()
    if args.metrics is not None and args.saveonly:
        raise ConfigError("--metrics and --saveonly: nothing is scored with --saveonly; leave one of them out")
    return args


def open_all(
    config: Config, tasks: list[TaskSpec], content: dict, path: Path, ctx: DistributedContext
) -> tuple[UniAV, list[EvalSet]]:
    """The network with the EMA weights of a checkpoint's `content`, and each task's test split."""
    model = UniAV.from_config(config)
    check_same_network(content, config.model, path)
    load_weights(model, content["state_dict_ema"], path)
    eval_sets = []
    for task in tasks:
        check_provenance(task, config.model.encoder)
        annotations = load_annotations(task.dataset.json_file, task.dataset.num_classes)
        eval_sets.append(EvalSet.open(task, annotations, task.test_split, config, ctx))
    set_prompts(model, config, eval_sets)
    return model.to(ctx.device).eval(), eval_sets


def measure(data: EvalSet, detections: Detections, chosen: tuple[str, ...]) -> tuple[dict, Part]:
    """The chosen metrics as a tree for metrics.json, and their part of the report. Prints the headline numbers."""
    names, notes = expand_metrics(chosen, sounds=data.task.shows_in == ("audio",))
    videos, class_names = remove_repeats(data.videos), data.annotations.class_names
    evaluated = EvaluationInput(detections, videos, class_names, data.task.tious, seen=data.seen)
    results = compute_metrics(evaluated, names)
    print("\n".join([headline_table(results), *notes]) + "\n", flush=True)
    return metrics_to_dict(results), Part.build(data.name, evaluated, results, tuple(notes))


def only_trained(tasks: list[TaskSpec], asked: str | None, content: dict, path: Path) -> list[TaskSpec]:
    """Those of `tasks` that a checkpoint was trained on. Raises CheckpointError if another was asked for, or none is
    left. (A published checkpoint does not say.)"""
    trained = content.get("drawn", {task.key for task in tasks})
    kept = [task for task in tasks if task.key in trained]
    if not kept or (asked and len(kept) < len(tasks)):
        raise CheckpointError(f"{path}: was trained on {', '.join(trained)} alone; evaluate that with --tasks")
    return kept


@exit_on_user_error
def main() -> None:
    args = parse_args()
    chosen = choose_for_report(args.metrics) if args.metrics is not None else None
    config = load_config(args.config, args.o)
    tasks = config.select_tasks(args.tasks)
    if args.topk is not None:
        topk = [f"{task.key}.test_cfg.max_seg_num={args.topk}" for task in tasks]
        tasks = load_config(args.config, [*args.o, *topk]).select_tasks(args.tasks)
    with init_distributed(args.local_rank, config.run.precision) as ctx:
        path = ctx.run_on_first(lambda: find_checkpoint(args.checkpoint))
        folder = args.output or path.parent
        content = ctx.run_on_all(lambda: load_checkpoint(path))
        trained = ctx.run_on_all(lambda: only_trained(tasks, args.tasks, content, path))
        if ctx.is_first and len(trained) < len(tasks):
            left = ", ".join(task.key for task in tasks if task not in trained)
            print(f"left out, since the checkpoint was not trained on it: {left}")
        model, eval_sets = ctx.run_on_all(lambda: open_all(config, trained, content, path, ctx))
        ctx.run_on_first(lambda: make_folder(folder))
        metrics, parts = {}, {}
        for data in eval_sets:
            detections = run_inference(model, data, ctx, args.print_freq)
            if not ctx.is_first:
                continue
            results = folder / f"results_{data.task.key}.json"
            write_results(results, detections, data.annotations.class_names)
            print(f"{data.name}: {len(detections.scores)} detections in {len(data.videos)} videos -> {results}")
            if not args.saveonly:
                scores = score(detections, data)
                metrics[data.task.key] = {
                    "splits": data.splits,
                    "annotations": str(data.annotations.path),  # what compare.py scores the results with
                    "videos": len(data.videos),
                    **score_tree(scores, data.annotations.class_names, data.seen),
                }
                print(score_table(f"mAP, {data.name}", score_rows(path.name, scores, data.seen)) + "\n", flush=True)
                if chosen:
                    tree, parts[data.task.key] = measure(data, detections, chosen)
                    metrics[data.task.key]["metrics"] = tree
        if parts:
            write_report(folder, f"{path.parent.name}/{path.name}", parts)
        if metrics:
            write_json(folder / "metrics.json", {"checkpoint": str(path), **metrics})


if __name__ == "__main__":
    main()
