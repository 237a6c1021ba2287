"""Train several configurations with several seeds each, and compare their mAP in one table and one plot.

python tools/experiments.py configs/demo.yaml my_change.yaml --seeds 3 --jobs 2 --out ckpt/my_change

Each run is a separate train.py with the folder <out>/<config>_seed<seed> and its log there, train.log. table.md,
table.csv and plot.png in --out are updated when a run ends. The same command continues after an interruption and skips
finished runs. Seeds are run.seed, run.seed + 1, …; they change the training, not the data. Unless OMP_NUM_THREADS is
set, the jobs share the CPU cores evenly. Exit status 1: a run failed; the table shows which one and why.
"""

import argparse
import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import pandas as pd
from joblib import cpu_count

from libs.core.cli import build_parser, exit_on_user_error
from libs.core.config import Config, TaskSpec
from libs.core.configfile import diff_configs, load_config
from libs.core.errors import ConfigError, DataError, UserError, format_list
from libs.core.files import make_folder, read_json, replacing
from libs.evaluation.metrics.selection import INSTALL, check_installed, find_missing
from libs.evaluation.reports.experiment_table import build_run_table, format_markdown, plot_differences, save_csv
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
    parser.add_argument(
        "-o", nargs="+", action="extend", default=[], metavar="KEY=VALUE", help="set a key in all configurations"
    )
    return parser.parse_args()


class RunResult(NamedTuple):
    """The outcome of a finished run."""

    scores: dict[str, float]  # task key -> average mAP in %
    minutes: float | None
    parameters: int | None


@dataclass(frozen=True, eq=False)
class SeedRun(TrainingRun):
    """One configuration trained with one seed."""

    config_path: str
    name: str  # of the configuration
    seed: int
    config: Config
    tasks: list[TaskSpec]


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
    paths = order_configs(args.configs, args.base)
    runs = [run for path, name in name_configs(paths).items() for run in plan_seeds(path, name, args)]
    check_test_data(runs)
    for run in runs:
        check_folder(run)
    return runs


def order_configs(configs: list[str], base: str | None) -> list[str]:
    """List the configurations, the base first."""
    resolved = [Path(path).resolve() for path in configs]
    for i, path in enumerate(configs):
        if resolved[i] in resolved[:i]:
            raise ConfigError(f"{path}: this configuration is named twice; name each once")
    if base is None:
        return configs
    return [base, *(path for path, r in zip(configs, resolved, strict=True) if r != Path(base).resolve())]


def name_configs(paths: list[str]) -> dict[str, str]:
    """Map each path to a unique name: its stem, with as many parent folders as needed."""
    parts = [Path(path).resolve().with_suffix("").parts for path in paths]
    for depth in range(1, max(map(len, parts))):
        names = ["/".join(part[-depth:]) for part in parts]
        if len(set(names)) == len(names):
            return dict(zip(paths, names, strict=True))
    raise ConfigError(f"{', '.join(paths)}: two names differ only in their ending; rename one file")


def plan_seeds(path: str, name: str, args: argparse.Namespace) -> list[SeedRun]:
    parent, stem = (args.out / name).parent, Path(name).name
    task_options = [] if args.tasks is None else ["--tasks", args.tasks]
    first = load_config(path, args.o).run.seed
    runs = []
    for seed in range(first, first + args.seeds):
        # A JSON string is a valid YAML string, whatever characters it has.
        overrides = [*args.o, f"run.output_folder={json.dumps(str(parent), ensure_ascii=False)}", f"run.seed={seed}"]
        config = load_config(path, overrides)
        options = ["--output", f"seed{seed}", "--resume", "auto", *task_options, "-o", *overrides]
        command = (sys.executable, str(ROOT / "train.py"), path, *options)
        title, folder, tasks = f"{name}, seed {seed}", parent / f"{stem}_seed{seed}", config.select_tasks(args.tasks)
        runs.append(SeedRun(title, command, folder, path, name, seed, config, tasks))
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
            other_path, other = first.setdefault(identify_task(task), (run.config_path, settings))
            for key, value in settings.items():
                if value != other[key]:
                    raise ConfigError(
                        f"{run.config_path}: {task.key}.{key} is {value}, but {other[key]} in {other_path}: their mAP "
                        "cannot be compared; use the same value, or another dataset_name for columns of its own"
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
    network = metrics.get("network")  # train.py writes it, eval.py does not
    return RunResult(scores, minutes, network["parameters"] if network else None)


def read_question(path: str) -> str:
    """Read the first line of a configuration if it is a comment."""
    first = next(iter(Path(path).read_text(encoding="utf-8").splitlines()), "")
    return first.lstrip("#").strip() if first.startswith("#") else ""


class ExperimentResults:
    """The results so far: a RunResult or an error for each run that has ended. Prints and saves them."""

    def __init__(self, runs: list[SeedRun], folder: Path, with_plot: bool):
        """Read the finished runs. Raises DataError if one is not usable."""
        self.runs, self.folder, self.with_plot = runs, folder, with_plot
        self.results: dict[TrainingRun, RunResult | str] = {
            run: read_result(run) for run in runs if run.metrics.exists()
        }

    @property
    def any_failed(self) -> bool:
        return any(isinstance(result, str) for result in self.results.values())

    def add(self, run: SeedRun, error: str | None) -> None:
        """Add a run that has ended."""
        try:
            result = error or read_result(run)
        except UserError as unusable:
            result = str(unusable)
        self.results[run] = result
        if isinstance(result, RunResult):
            minutes = "" if result.minutes is None else f" in {result.minutes:.1f} minutes"
            scores = ", ".join(f"{task.task_type} {result.scores[task.key]:.2f}" for task in run.tasks)
            message = f"done{minutes}, mAP {scores}"
        else:
            message = f"failed: {result}"
        print(f"{run.title}: {message} ({len(self.results)} of {len(self.runs)} runs)", flush=True)
        self.save()

    def build_table(self) -> pd.DataFrame:
        identities = list(dict.fromkeys(identify_task(task) for run in self.runs for task in run.tasks))
        types = [task_type for _, task_type, _ in identities]
        rows = []
        for run in self.runs:
            result = self.results.get(run)
            for task in run.tasks:
                same_type = types.count(task.task_type) > 1
                row = {
                    "configuration": run.name,
                    "question": read_question(run.config_path),
                    "seed": run.seed,
                    "task": " ".join(identify_task(task)) if same_type else task.task_type,
                }
                if isinstance(result, RunResult):
                    row["score"] = result.scores[task.key]
                    row |= {"minutes": result.minutes, "parameters": result.parameters}
                rows.append({**row, "error": result if isinstance(result, str) else None})
        return build_run_table(rows)

    def save(self) -> str:
        """Save table.md, table.csv and plot.png, and return the first."""
        table = self.build_table()
        text = format_markdown(table)
        with replacing(self.folder / "table.md") as temporary:
            temporary.write_text(text, encoding="utf-8")
        save_csv(table, self.folder / "table.csv")
        if self.with_plot:
            plot_differences(table, self.folder / "plot.png")
        return text


@exit_on_user_error
def main() -> None:
    args = parse_args()
    runs = plan_runs(args)
    num_configs = len({run.name for run in runs})
    no_matplotlib = num_configs > 1 and find_missing(("matplotlib",))
    results = ExperimentResults(runs, args.out, with_plot=num_configs > 1 and not no_matplotlib)
    make_folder(args.out)
    if no_matplotlib:
        print(f"plot.png is left out, since matplotlib is not installed: {INSTALL}")
    pending = [run for run in runs if run not in results.results]
    num_jobs = max(1, min(args.jobs, len(pending)))
    environment = {"OMP_NUM_THREADS": str(max(1, cpu_count() // num_jobs)), **os.environ}
    seeds = ", ".join(str(run.seed) for run in runs[: args.seeds])
    with lock_folder(args.out) as lock, interrupt_on_signals():
        done = len(results.results)
        print(f"configurations: {num_configs}; seeds: {seeds}; runs: {done} done before, {len(pending)} to do")
        results.save()
        try:
            execute_runs(
                pending,
                num_jobs,
                environment,
                lock,
                on_start=lambda run: print(f"{run.title}: starts; its log is {run.log}", flush=True),
                on_end=results.add,
            )
        except KeyboardInterrupt:
            print("the running trainings were stopped; the same command continues", file=sys.stderr)
            raise
        print(f"\n{results.save()}\nThe tables are in {args.out}")
    sys.exit(1 if results.any_failed else 0)


if __name__ == "__main__":
    main()
