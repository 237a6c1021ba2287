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
from libs.datasets.task_data import TaskData, load_task_data
from libs.evaluation.metrics.average_precision import remove_repeats
from libs.evaluation.metrics.compute import METRICS, EvaluationInput, compute_metrics, metrics_to_dict
from libs.evaluation.metrics.selection import expand_metrics
from libs.evaluation.reports.report_page import Part, choose_for_report, write_report
from libs.evaluation.reports.tables import build_score_rows, format_headline_table, format_score_table, scores_to_dict
from libs.evaluation.results import write_results
from libs.modeling.uniav import UniAV
from libs.training.checkpoint import check_same_network, find_checkpoint, load_checkpoint, load_weights
from libs.training.distributed import DistributedContext, init_distributed
from libs.training.evaluation import EvalSet, run_inference
from libs.training.prompts import set_prompts


def parse_args() -> argparse.Namespace:
    parser = build_parser(__doc__)
    parser.add_argument("config", metavar="CONFIG", help="the YAML file the checkpoint was trained with")
    parser.add_argument("checkpoint", metavar="CKPT", type=Path, help="a checkpoint, or a run (best, else last)")
    parser.add_argument("--tasks", metavar="1-2-3", help="the tasks to evaluate (default: all of CONFIG)")
    parser.add_argument("-t", "--topk", type=int, metavar="N", help="detections a video (test_cfg.max_seg_num)")
    names = f"all, or some of {','.join(METRICS)}: adds them to metrics.json, and a report"
    parser.add_argument("--metrics", metavar="NAMES", help=names)
    parser.add_argument("--saveonly", action="store_true", help="write results files, score nothing")
    parser.add_argument("-p", "--print-freq", type=int, default=1, metavar="N", help="batches a step of the progress")
    parser.add_argument("--output", type=Path, metavar="DIR", help="where results go (default: beside the checkpoint)")
    add_launcher_option(parser)
    add_override_option(parser)
    args = parser.parse_args()
    if args.metrics is not None and args.saveonly:
        raise ConfigError("--metrics and --saveonly: nothing is scored with --saveonly; leave one of them out")
    return args


def select_trained(tasks: list[TaskSpec], requested: str | None, checkpoint: dict, path: Path) -> list[TaskSpec]:
    """Select the tasks that a checkpoint was trained on; a published one does not say and counts for all.

    Raises:
        CheckpointError: if another task was requested, or none is left.
    """
    trained = checkpoint.get("num_batches_seen", {task.key for task in tasks})
    selected = [task for task in tasks if task.key in trained]
    if not selected or (requested and len(selected) < len(tasks)):
        raise CheckpointError(f"{path}: was trained on {', '.join(trained)} alone; evaluate that with --tasks")
    return selected


def build_model(config: Config, data: list[TaskData], checkpoint: dict, path: Path, ctx: DistributedContext) -> UniAV:
    """Build the network with the EMA weights of a checkpoint and its prompts, in evaluation mode."""
    model = UniAV(config)
    check_same_network(checkpoint, config.model, path)
    load_weights(model, checkpoint["state_dict_ema"], path)
    set_prompts(model, config, data)
    return model.to(ctx.device).eval()


def compute_report(eval_set: EvalSet, detections: Detections, metrics: tuple[str, ...]) -> tuple[dict, Part]:
    """Compute metrics and print their headline numbers; returns metrics.json's tree and the report's part."""
    names, notes = expand_metrics(metrics, sounds=eval_set.task.shows_in == ("audio",))
    data = eval_set.data
    evaluated = EvaluationInput(
        detections, remove_repeats(eval_set.videos), data.annotations.class_names, eval_set.task.tious, seen=data.seen
    )
    results = compute_metrics(evaluated, names)
    print("\n".join([format_headline_table(results), *notes]) + "\n", flush=True)
    return metrics_to_dict(results), Part.build(eval_set.name, evaluated, results, tuple(notes))


@exit_on_user_error
def main() -> None:
    args = parse_args()
    report_metrics = choose_for_report(args.metrics) if args.metrics is not None else None
    config = load_config(args.config, args.o)
    tasks = config.select_tasks(args.tasks)
    if args.topk is not None:
        topk = [f"{task.key}.test_cfg.max_seg_num={args.topk}" for task in tasks]
        config = load_config(args.config, [*args.o, *topk])
        tasks = config.select_tasks(args.tasks)
    with init_distributed(args.local_rank, config.run.precision) as ctx:
        # Checkpoint, data and network are checked before anything is written.
        path = ctx.run_on_first(lambda: find_checkpoint(args.checkpoint))
        checkpoint = ctx.run_on_all(lambda: load_checkpoint(path))
        trained = ctx.run_on_all(lambda: select_trained(tasks, args.tasks, checkpoint, path))
        if ctx.is_first and len(trained) < len(tasks):
            left_out = ", ".join(task.key for task in tasks if task not in trained)
            print(f"left out, since the checkpoint was not trained on it: {left_out}")
        data = ctx.run_on_all(lambda: [load_task_data(config, task, ("test",)) for task in trained])
        model = ctx.run_on_all(lambda: build_model(config, data, checkpoint, path, ctx))
        eval_sets = ctx.run_on_all(lambda: [EvalSet.build(task_data, "test", config, ctx) for task_data in data])
        folder = args.output or path.parent
        ctx.run_on_first(lambda: make_folder(folder))

        metrics, parts = {}, {}
        for eval_set in eval_sets:
            detections = run_inference(model, eval_set, ctx, args.print_freq)
            if not ctx.is_first:
                continue
            key, task_data = eval_set.task.key, eval_set.data
            class_names = task_data.annotations.class_names
            results = folder / f"results_{key}.json"
            write_results(results, detections, class_names)
            print(f"{eval_set.name}: {len(detections.scores)} detections in {len(eval_set.videos)} videos -> {results}")
            if args.saveonly:
                continue
            scores = eval_set.score(detections)
            metrics[key] = {
                "splits": eval_set.splits,
                "annotations": str(task_data.annotations.path),  # tools/compare.py scores the results with them
                "videos": len(eval_set.videos),
                **scores_to_dict(scores, class_names, task_data.seen),
            }
            rows = build_score_rows(path.name, scores, task_data.seen)
            print(format_score_table(f"mAP, {eval_set.name}", rows) + "\n", flush=True)
            if report_metrics:
                metrics[key]["metrics"], parts[key] = compute_report(eval_set, detections, report_metrics)
        if parts:
            write_report(folder, f"{path.parent.name}/{path.name}", parts)
        if metrics:
            write_json(folder / "metrics.json", {"checkpoint": str(path), **metrics})


if __name__ == "__main__":
    main()
