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
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from libs.core.cli import add_override_option, build_parser, exit_on_user_error
from libs.core.config import Config, TaskSpec
from libs.core.configfile import diff_configs, load_config
from libs.core.errors import ConfigError, DataError, UserError, format_list
from libs.core.files import make_folder, read_json
from libs.evaluation.metrics.selection import INSTALL, check_installed, find_missing
from libs.evaluation.reports.experiment_table import build_run_table, save_tables
from libs.training.checkpoint import LAST
from libs.training.experiment_runs import TrainingRun, execute_runs, interrupt_on_signals, lock_folder
from libs.training.trainer import RESUME_MAY_CHANGE

ROOT = Path(__file__).resolve().parent.parent
# Other data or another number of epochs make another experiment.
MAY_CHANGE = RESUME_MAY_CHANGE - {"json_file", "feat_folder", "prompt_file", "opt.num_train_epochs"}


def parse_args() -> argparse.Namespace:
    parser = build_parser(__doc__)
    parser.add_argument(
        "configs", metavar="CONFIG", nargs="*", help="YAML files; their first comment is their question"
    )
    parser.add_argument("--base", metavar="CONFIG", help="the configuration to compare with (default: the first)")
    parser.add_argument("--seeds", type=int, default=3, metavar="N", help="runs per configuration (default: 3)")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="runs at the same time (default: 1)")
    parser.add_argument(
        "--out", type=Path, default=Path("ckpt/experiments"), metavar="DIR", help="default: %(default)s"
    )
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
    """The outcome of a finished run; None where unknown."""

    scores: dict[str, float]  # task key -> average mAP in %
    minutes: float | None
    parameters: int | None


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
    for override in args.o:
        if override.partition("=")[0].strip() == "run.output_folder":
            raise ConfigError(f"-o {override}: runs are saved in folders under --out; set --out instead")
    # A configuration that is named twice is trained once.
    paths = {Path(path).resolve(): path for path in [args.base or args.configs[0], *args.configs]}
    names = name_configs(list(paths))
    runs = [run for resolved, path in paths.items() for run in plan_seeds(path, names[resolved], args)]
    check_test_data(runs)
    for run in runs:
        check_folder(run)
    return runs


def name_configs(paths: list[Path]) -> dict[Path, str]:
    """Map resolved paths to unique names: the stem, with as many parent folders as needed."""
    for depth in range(1, max(len(path.parts) for path in paths)):
        names = ["/".join(path.with_suffix("").parts[-depth:]) for path in paths]
        if len(set(names)) == len(names):
            return dict(zip(paths, names, strict=True))
    raise ConfigError(f"{format_list(paths)}: two names differ only in their ending; rename one file")


def plan_seeds(path: str, name: str, args: argparse.Namespace) -> list[SeedRun]:
    folder = args.out / name
    task_options = [] if args.tasks is None else ["--tasks", args.tasks]
    first = load_config(path, args.o).run.seed
    comment = re.match(r"#+\s*(.*)", Path(path).read_text(encoding="utf-8"))
    runs = []
    for seed in range(first, first + args.seeds):
        # A JSON string is a valid YAML string, whatever characters it has.
        output_folder = json.dumps(str(folder.parent), ensure_ascii=False)
        overrides = [*args.o, f"run.output_folder={output_folder}", f"run.seed={seed}"]
        options = ["--output", f"seed{seed}", "--resume", "auto", *task_options, "-o", *overrides]
        config = load_config(path, overrides)
        run = SeedRun(
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
        runs.append(run)
    return runs


def identify_task(task: TaskSpec) -> tuple[str, str, str]:
    """Tasks with the same identity share a column of the table."""
    return task.key, task.task_type, task.dataset_name


def check_test_data(runs: list[SeedRun]) -> None:
    """Raise ConfigError if configurations test the same task on other videos or other thresholds."""
    first: dict[tuple[str, str, str], tuple[str, dict]] = {}
    for run in runs:
        for task in run.tasks:
            settings = {
                "dataset.json_file": task.dataset.json_file,
                "dataset.max_videos": task.dataset.max_videos,
                "test_split": task.test_split,
                "test_cfg.tious": task.tious,
            }
            path, other = first.setdefault(identify_task(task), (run.config_path, settings))
            for key, value in settings.items():
                if value != other[key]:
                    raise ConfigError(
                        f"{run.config_path}: {task.key}.{key} is {value}, but {other[key]} in {path}: their mAP cannot "
                        "be compared; use the same value, or another dataset_name for columns of its own"
                    )


def check_folder(run: SeedRun) -> None:
    """Raise ConfigError if the run's folder holds a run of another configuration."""
    if not run.metrics.exists() and not (run.folder / LAST).exists():
        return
    before = load_config(run.folder / "config.yaml")
    changed = diff_configs(before.to_tree(), run.config.to_tree(), MAY_CHANGE)
    if changed:
        raise ConfigError(
            f"{run.folder}: holds a run of another configuration: {format_list(changed, separator='; ')}; choose "
            "another --out, or remove that folder"
        )


def read_result(run: SeedRun) -> RunResult:
    """Read the result of a finished run. Raises DataError if metrics.json has other tasks or another checkpoint."""
    metrics = read_json(run.metrics, "the metrics that train.py writes")
    try:
        checkpoint = Path(metrics.get("checkpoint", LAST)).name
        scores = {task.key: 100 * float(metrics[task.key]["average_mAP"]) for task in run.tasks}
    except (AttributeError, KeyError, TypeError, ValueError):
        keys = ", ".join(task.key for task in run.tasks)
        raise DataError(f"{run.metrics}: expected an average_mAP for each of {keys}; remove it to run again") from None
    if checkpoint != LAST:
        raise DataError(
            f"{run.metrics}: written by eval.py for {checkpoint}, but runs are compared after their last epoch; remove "
            "it to run again"
        )
    minutes = float(read_json(run.minutes_file, "a number")) if run.minutes_file.exists() else None
    parameters = metrics.get("network", {}).get("parameters")  # train.py writes them, eval.py does not
    return RunResult(scores, minutes, parameters)


class ExperimentResults:
    """The results so far: the RunResult of each finished run, the error of each failed one."""

    def __init__(self, runs: list[SeedRun]):
        """Read the finished runs. Raises DataError if one is not usable."""
        self.runs = runs
        self.results: dict[SeedRun, RunResult | str] = {run: read_result(run) for run in runs if run.metrics.exists()}

    def add(self, run: SeedRun, error: str | None) -> None:
        """Add and print the result of a run that has ended."""
        try:
            result = error or read_result(run)
        except UserError as unusable:
            result = str(unusable)
        self.results[run] = result
        if isinstance(result, str):
            message = f"failed: {result}"
        else:
            minutes = "" if result.minutes is None else f" in {result.minutes:.1f} minutes"
            scores = ", ".join(f"{task.task_type} {result.scores[task.key]:.2f}" for task in run.tasks)
            message = f"done{minutes}, mAP {scores}"
        print(f"{run.title}: {message} ({len(self.results)} of {len(self.runs)} runs)", flush=True)

    def build_table(self) -> pd.DataFrame:
        types = [task_type for _, task_type, _ in {identify_task(task) for run in self.runs for task in run.tasks}]
        rows = []
        for run in self.runs:
            result = self.results.get(run)
            for task in run.tasks:
                name = " ".join(identify_task(task)) if types.count(task.task_type) > 1 else task.task_type
                row = {"configuration": run.config_name, "question": run.question, "seed": run.seed, "task": name}
                if isinstance(result, RunResult):
                    score = result.scores[task.key]
                    row |= {"score": score, "minutes": result.minutes, "parameters": result.parameters}
                rows.append({**row, "error": result if isinstance(result, str) else None})
        return build_run_table(rows)


@exit_on_user_error
def main() -> None:
    args = parse_args()
    runs = plan_runs(args)
    results = ExperimentResults(runs)
    make_folder(args.out)
    with_plot = len(runs) > args.seeds
    if with_plot and find_missing(("matplotlib",)):
        print(f"plot.png is left out, since matplotlib is not installed: {INSTALL}")
        with_plot = False
    pending, seeds = [run for run in runs if run not in results.results], runs[: args.seeds]
    with lock_folder(args.out) as lock, interrupt_on_signals():
        print(
            f"configurations: {len(runs) // args.seeds}; seeds: {', '.join(str(run.seed) for run in seeds)}; "
            f"runs: {len(results.results)} done before, {len(pending)} to do"
        )
        text = save_tables(results.build_table(), args.out, with_plot)
        try:
            with closing(execute_runs(pending, min(args.jobs, max(len(pending), 1)), lock)) as ended:
                for run, error in ended:
                    results.add(run, error)
                    text = save_tables(results.build_table(), args.out, with_plot)
        except KeyboardInterrupt:
            print("the running trainings were stopped; the same command continues", file=sys.stderr)
            raise
    print(f"\n{text}\nThe tables are in {args.out}")
    sys.exit(1 if any(isinstance(result, str) for result in results.results.values()) else 0)


if __name__ == "__main__":
    main()
