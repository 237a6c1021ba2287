"""Train several configurations with several seeds each, and compare their mAP in one table and one plot.

python tools/experiments.py configs/demo.yaml my_change.yaml --seeds 3 --jobs 2 --out ckpt/my_change

Each run is a separate train.py with the folder <out>/<config>_seed<seed> and its log there, train.log. table.md,
table.csv and plot.png in --out are updated when a run ends. The same command continues after an interruption and skips
finished runs. Seeds are run.seed, run.seed + 1, …; they change the training, not the data. Unless OMP_NUM_THREADS is
set, the jobs share the CPU cores evenly. Exit status 1: a run failed; the table shows which one and why.
"""

import argparse
import json
import re
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from typing import NamedTuple

from libs.core.cli import add_override_option, build_parser, exit_on_user_error
from libs.core.config import Config, TaskSpec
from libs.core.configfile import diff_configs, load_config
from libs.core.errors import ConfigError, DataError, format_list
from libs.core.files import make_folder, read_json
from libs.evaluation.metrics.selection import INSTALL, check_installed, find_missing
from libs.evaluation.reports.experiment_table import build_run_table, save_tables
from libs.training.checkpoint import LAST
from libs.training.experiment_runs import METRICS, MINUTES, TrainingRun, execute_runs, interrupt_on_signals, lock_folder
from libs.training.trainer import RESUME_MAY_CHANGE

ROOT = Path(__file__).resolve().parent.parent
TEST_DATA = ("dataset.json_file", "dataset.max_videos", "test_split", "test_cfg.tious")  # what mAP is computed on
# Other data or another number of epochs make another experiment.
MAY_CHANGE = RESUME_MAY_CHANGE - {"json_file", "feat_folder", "prompt_file", "opt.num_train_epochs"}


def parse_args() -> argparse.Namespace:
    parser = build_parser(__doc__)
    parser.add_argument("configs", metavar="CONFIG", nargs="*", help="YAML files that begin with a question (comment)")
    parser.add_argument("--base", metavar="CONFIG", help="the configuration to compare with (default: the first)")
    parser.add_argument("--seeds", type=int, default=3, metavar="N", help="runs per configuration (default: 3)")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="runs at the same time (default: 1)")
    parser.add_argument("--out", type=Path, default="ckpt/experiments", metavar="DIR", help="default: %(default)s")
    parser.add_argument("--tasks", metavar="1-2-3", help="the tasks to train (default: all of each CONFIG)")
    add_override_option(parser)
    return parser.parse_args()


@dataclass(frozen=True, eq=False)
class SeedRun(TrainingRun):
    """One configuration trained with one seed."""

    config_path: str
    config_name: str
    question: str
    seed: int
    config: Config
    tasks: list[TaskSpec]


class RunResult(NamedTuple):
    """The outcome of a run that has ended; None where unknown."""

    scores: dict[str, float]  # task key -> average mAP in %; empty if the run failed
    minutes: float | None = None
    parameters: int | None = None
    error: str | None = None


# ---- plan ----


def plan_runs(args: argparse.Namespace) -> list[SeedRun]:
    """List all runs, those of the base first, and check them. Writes nothing.

    Raises:
        UserError: an argument, a configuration or a folder of an earlier run is not usable.
    """
    if not args.configs:
        raise ConfigError("no configuration: name YAML files, the one to compare with first, such as configs/demo.yaml")
    if args.seeds < 1 or args.jobs < 1:
        raise ConfigError(f"--seeds {args.seeds} --jobs {args.jobs}: expected 1 or more of each")
    if args.seeds > 1:
        check_installed(("scipy",), "the interval of two or more --seeds")
    if any(override.partition("=")[0].strip() == "run.output_folder" for override in args.o):
        raise ConfigError("-o run.output_folder: runs are saved in folders under --out; set --out instead")
    # A configuration that is named twice is trained once.
    paths = {Path(path).resolve(): path for path in [args.base or args.configs[0], *args.configs]}
    names = name_configs(list(paths))
    runs = [run for name, path in zip(names, paths.values(), strict=True) for run in plan_seeds(path, name, args)]
    check_test_data(runs)
    for run in runs:
        check_folder(run)
    return runs


def name_configs(paths: list[Path]) -> list[str]:
    """Give resolved paths unique names: the stem, with as many parent folders as needed."""
    for depth in range(1, max(len(path.parts) for path in paths)):
        names = ["/".join(path.with_suffix("").parts[-depth:]) for path in paths]
        if len(set(names)) == len(names):
            return names
    raise ConfigError(f"{format_list(paths)}: two names differ only in their ending; rename one file")


def plan_seeds(path: str, name: str, args: argparse.Namespace) -> Iterator[SeedRun]:
    folder = args.out / name
    # A JSON string is a valid YAML string, whatever characters it has.
    overrides = [*args.o, f"run.output_folder={json.dumps(str(folder.parent), ensure_ascii=False)}"]
    first = load_config(path, overrides).run.seed
    comment = re.match(r"#+\s*(.*)", Path(path).read_text(encoding="utf-8"))
    for seed in range(first, first + args.seeds):
        options = ["--output", f"seed{seed}", "--resume", "auto"] + (["--tasks", args.tasks] if args.tasks else [])
        options += ["-o", *overrides, f"run.seed={seed}"]
        config = load_config(path, [*overrides, f"run.seed={seed}"])
        yield SeedRun(
            title=f"{name}, seed {seed}",
            command=(sys.executable, str(ROOT / "train.py"), path, *options),
            folder=folder.with_name(f"{folder.name}_seed{seed}"),
            config_path=path,
            config_name=name,
            question=comment[1].strip() if comment else "",
            seed=seed,
            config=config,
            tasks=config.select_tasks(args.tasks),
        )


def identify_task(task: TaskSpec) -> tuple[str, str, str]:
    """Tasks with the same identity share a column of the table."""
    return task.key, task.task_type, task.dataset_name


def check_test_data(runs: list[SeedRun]) -> None:
    """Raise ConfigError if configurations test the same task on other videos or other thresholds."""
    first: dict[tuple[str, str, str], tuple[SeedRun, TaskSpec]] = {}
    for run in runs:
        for task in run.tasks:
            other_run, other = first.setdefault(identify_task(task), (run, task))
            for key in TEST_DATA:
                get = attrgetter(key.replace("test_cfg.tious", "tious"))  # with the default of the task type
                value, expected = get(task), get(other)
                if value != expected:
                    raise ConfigError(
                        f"{run.config_path}: {task.key}.{key} is {value}, but {expected} in {other_run.config_path}: "
                        "their mAP cannot be compared; use the same value, or another dataset_name for own columns"
                    )


def check_folder(run: SeedRun) -> None:
    """Raise ConfigError if the run's folder holds a run of another configuration."""
    if not (run.folder / METRICS).exists() and not (run.folder / LAST).exists():
        return
    before = load_config(run.folder / "config.yaml")
    if changed := diff_configs(before.to_tree(), run.config.to_tree(), MAY_CHANGE):
        changes = format_list(changed, separator="; ")
        advice = "choose another --out, or remove that folder"
        raise ConfigError(f"{run.folder}: holds a run of another configuration: {changes}; {advice}")


# ---- results ----


def read_result(run: SeedRun) -> RunResult:
    """Read the result of a finished run. Raises DataError if metrics.json has other tasks or another checkpoint."""
    path = run.folder / METRICS
    metrics = read_json(path, "the metrics that train.py writes")
    try:
        checkpoint = Path(metrics.get("checkpoint", LAST)).name
        scores = {task.key: 100 * float(metrics[task.key]["average_mAP"]) for task in run.tasks}
    except (AttributeError, KeyError, TypeError, ValueError):
        keys = ", ".join(task.key for task in run.tasks)
        raise DataError(f"{path}: expected an average_mAP for each of {keys}; remove it to run again") from None
    if checkpoint != LAST:
        problem = f"written by eval.py for {checkpoint}, but runs are compared after their last epoch"
        raise DataError(f"{path}: {problem}; remove it to run again")
    minutes = float(read_json(run.folder / MINUTES, "a number")) if (run.folder / MINUTES).exists() else None
    parameters = metrics.get("network", {}).get("parameters")  # train.py writes them, eval.py does not
    return RunResult(scores, minutes, parameters)


def finish_run(run: SeedRun, error: str | None, progress: str) -> RunResult:
    """Read and print the result of a run that has ended."""
    result = RunResult({}, error=error) if error else read_result(run)
    minutes = "" if result.minutes is None else f" in {result.minutes:.1f} minutes"
    scores = ", ".join(f"{task.task_type} {result.scores[task.key]:.2f}" for task in run.tasks if result.scores)
    message = f"failed: {result.error}" if result.error else f"done{minutes}, mAP {scores}"
    print(f"{run.title}: {message} ({progress})", flush=True)
    return result


def save_results(runs: list[SeedRun], results: dict[SeedRun, RunResult], folder: Path, with_plot: bool) -> str:
    """Save the tables of the results so far. Returns table.md."""
    types = [task_type for _, task_type, _ in {identify_task(task) for run in runs for task in run.tasks}]
    rows = []
    for run in runs:
        result = results.get(run, RunResult({}))
        for task in run.tasks:
            name = " ".join(identify_task(task)) if types.count(task.task_type) > 1 else task.task_type
            row = {"configuration": run.config_name, "question": run.question, "seed": run.seed, "task": name}
            rows.append({**row, "score": result.scores.get(task.key), **result._asdict()})
    return save_tables(build_run_table(rows), folder, with_plot)


@exit_on_user_error
def main() -> None:
    args = parse_args()
    runs = plan_runs(args)
    results = {run: read_result(run) for run in runs if (run.folder / METRICS).exists()}
    pending = [run for run in runs if run not in results]
    make_folder(args.out)
    with_plot = len(runs) > args.seeds
    if with_plot and find_missing(("matplotlib",)):
        print(f"plot.png is left out, since matplotlib is not installed: {INSTALL}")
        with_plot = False
    with lock_folder(args.out) as lock, interrupt_on_signals():
        seeds = ", ".join(str(run.seed) for run in runs[: args.seeds])
        counts = f"{len(results)} done before, {len(pending)} to do"
        print(f"configurations: {len(runs) // args.seeds}; seeds: {seeds}; runs: {counts}")
        text = save_results(runs, results, args.out, with_plot)
        try:
            with closing(execute_runs(pending, min(args.jobs, max(len(pending), 1)), lock)) as ended:
                for run, error in ended:
                    results[run] = finish_run(run, error, f"{len(results) + 1} of {len(runs)} runs")
                    text = save_results(runs, results, args.out, with_plot)
        except KeyboardInterrupt:
            print("the running trainings were stopped; the same command continues", file=sys.stderr)
            raise
    print(f"\n{text}\nThe tables are in {args.out}")
    sys.exit(1 if any(result.error for result in results.values()) else 0)


if __name__ == "__main__":
    main()
