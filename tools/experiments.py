"""Run a set of configurations, each with several seeds, and put what they find in one table and one plot.

python tools/experiments.py configs/demo.yaml my_change.yaml --seeds 3 --jobs 2 --out ckpt/my_change

Writes table.md, table.csv and plot.png to --out whenever a run ends. The same command goes on where it was interrupted,
and repeats no run that is finished. Each run is a train.py of its own, with the folder <out>/<config>_seed<seed> and
there its log, train.log. Seeds are run.seed, run.seed + 1, …; they change the training, not the data. The cores are
shared evenly by OMP_NUM_THREADS, unless that is set. Exit status 1: a run failed; the table says which and why.
"""

import argparse
import json
import os
import sys
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from joblib import cpu_count

from libs.core.cli import build_parser, exit_on_user_error
from libs.core.config import Config, TaskSpec
from libs.core.configfile import diff_configs, load_config
from libs.core.errors import ConfigError, DataError, UserError, format_list
from libs.core.files import make_folder, read_json, replacing
from libs.core.processes import Job, alone_in, ended_as_interrupted, execute
from libs.evaluation.reports.experiment_table import Experiment, TaskName, draw, markdown, write_csv
from libs.training.checkpoint import LAST
from libs.training.trainer import RESUME_MAY_CHANGE

ROOT = Path(__file__).resolve().parent.parent
# With other data, or another number of epochs, it is another experiment.
MAY_CHANGE = RESUME_MAY_CHANGE - {"json_file", "feat_folder", "prompt_file", "opt.num_train_epochs"}


def parse_args() -> argparse.Namespace:
    parser = build_parser(__doc__)
    parser.add_argument("configs", metavar="CONFIG", nargs="*", help="YAML files; the comment on top: what one asks")
    parser.add_argument("--base", metavar="CONFIG", help="what to compare with, run as well (default: the first)")
    parser.add_argument("--seeds", type=int, default=3, metavar="N", help="runs of each configuration (default: 3)")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="runs at a time (default: 1)")
    parser.add_argument(
        "--out", type=Path, default=Path("ckpt/experiments"), metavar="DIR", help="default: %(default)s"
    )
    parser.add_argument("--tasks", metavar="1-2-3", help="the tasks to train (default: all of each CONFIG)")
    parser.add_argument(
        "-o", nargs="+", action="extend", default=[], metavar="KEY=VALUE", help="set a key in all configurations"
    )
    return parser.parse_args()


class Finished(NamedTuple):
    """What a run left: average mAP in %, minutes of wall-clock and the network's parameters where known."""

    scores: dict[TaskName, float]
    minutes: float | None
    parameters: int | None


@dataclass(frozen=True, eq=False)
class Run:
    """A configuration with a seed, and the folder that train.py makes for it."""

    path: str
    name: str
    seed: int
    folder: Path
    config: Config
    tasks: dict[str, TaskName]  # by key
    options: tuple[str, ...]  # of train.py

    @property
    def metrics(self) -> Path:
        return self.folder / "metrics.json"

    @property
    def job(self) -> Job:
        arguments = (self.path, "--output", f"seed{self.seed}", "--resume", "auto", *self.options)
        command = (sys.executable, str(ROOT / "train.py"), *arguments)
        return Job(f"{self.name}, seed {self.seed}", command, self.folder / "train.log", self.metrics.exists)

    def read(self) -> Finished:
        """Raises DataError if metrics.json is not of this run's tasks and last epoch."""
        tree = read_json(self.metrics, "what train.py writes there")
        try:
            of = Path(tree.get("checkpoint", LAST)).name
            scores = {name: 100 * float(tree[key]["average_mAP"]) for key, name in self.tasks.items()}
        except (AttributeError, KeyError, TypeError, ValueError):
            expected = ", ".join(self.tasks)
            raise DataError(
                f"{self.metrics}: expected an average_mAP for each of {expected}; remove it, and it is made again"
            ) from None
        if of != LAST:
            raise DataError(
                f"{self.metrics}: is eval.py's, of {of}, but runs are compared after their last epoch; remove it, and "
                "it is made again"
            )
        minutes = float(read_json(self.job.minutes_file, "a number")) if self.job.minutes_file.exists() else None
        network = tree.get("network")  # train.py's; eval.py does not say it
        return Finished(scores, minutes, network["parameters"] if network else None)


def plan(args: argparse.Namespace) -> list[list[Run]]:
    """The runs of each configuration, those of the base first, all checked. Raises UserError; writes nothing."""
    if not args.configs:
        raise ConfigError("no configuration; name YAML files, the one to compare with first, such as configs/demo.yaml")
    if args.seeds < 1 or args.jobs < 1:
        raise ConfigError(f"--seeds {args.seeds} --jobs {args.jobs}: expected 1 or more of each")
    for override in args.o:
        if override.partition("=")[0].strip() == "run.output_folder":
            raise ConfigError(f"-o {override}: runs go to folders under --out; set that")
    paths = order(args.configs, args.base)
    plans = [runs_of(path, name, args) for path, name in zip(paths, name_all(paths), strict=True)]
    refuse_other_test_data(plans)
    for run in flat(plans):
        refuse_other_run(run)
    return plans


def flat(plans: list[list[Run]]) -> list[Run]:
    return [run for runs in plans for run in runs]


def order(configs: list[str], base: str | None) -> list[str]:
    """The base first, once. Raises ConfigError if a file is named twice."""
    real = [Path(path).resolve() for path in configs]
    for i, path in enumerate(configs):
        if real[i] in real[:i]:
            raise ConfigError(f"{path}: this configuration is named twice; name each once")
    if base is None:
        return configs
    return [base, *(path for path, r in zip(configs, real, strict=True) if r != Path(base).resolve())]


def name_all(paths: list[str]) -> list[str]:
    """Names that tell the files apart: their stems, after as many of the folders above as that takes."""
    parts = [Path(path).resolve().with_suffix("").parts for path in paths]
    for depth in range(1, max(map(len, parts))):
        names = ["/".join(part[-depth:]) for part in parts]
        if len(set(names)) == len(names):
            return names
    raise ConfigError(f"{', '.join(paths)}: two of these differ in nothing but their ending; rename one")


def runs_of(path: str, name: str, args: argparse.Namespace) -> list[Run]:
    folder, chosen = args.out / name, [] if args.tasks is None else ["--tasks", args.tasks]
    first = load_config(path, args.o).run.seed
    runs = []
    for seed in range(first, first + args.seeds):
        # A JSON string is a YAML string, whatever is in it.
        own = [f"run.output_folder={json.dumps(str(folder.parent), ensure_ascii=False)}", f"run.seed={seed}"]
        config = load_config(path, [*args.o, *own])
        tasks = {task.key: name_of(task) for task in config.select_tasks(args.tasks)}
        of_seed = folder.with_name(f"{folder.name}_seed{seed}")
        runs.append(Run(path, name, seed, of_seed, config, tasks, (*chosen, "-o", *args.o, *own)))
    return runs


def name_of(task: TaskSpec) -> TaskName:
    return TaskName(task.key, task.task_type, task.dataset_name)


def refuse_other_test_data(plans: list[list[Run]]) -> None:
    """Raise ConfigError if a task would be compared on other videos or other thresholds."""
    seen: dict[TaskName, tuple[str, dict]] = {}
    for run, *_ in plans:
        for key, name in run.tasks.items():
            task = run.config.tasks[key]
            measured = {
                "dataset.json_file": task.dataset.json_file,
                "dataset.max_videos": task.dataset.max_videos,
                "test_split": task.test_split,
                "test_cfg.tious": task.tious,
            }
            other, before = seen.setdefault(name, (run.path, measured))
            for what, value in measured.items():
                if value != before[what]:
                    raise ConfigError(
                        f"{run.path}: {key}.{what} is {value}, but {before[what]} in {other}, so their mAP cannot be "
                        "compared; set it alike, or give the task another dataset_name and so columns of its own"
                    )


def refuse_other_run(run: Run) -> None:
    """Raise ConfigError if the run's folder holds one of another configuration."""
    if not run.metrics.exists() and not (run.folder / LAST).exists():
        return
    before = load_config(run.folder / "config.yaml")
    changed = diff_configs(before.to_tree(), run.config.to_tree(), MAY_CHANGE)
    if changed:
        raise ConfigError(
            f"{run.folder}: holds a run of another configuration: {format_list(changed, between='; ')}; choose another --out, "
            "or remove that folder"
        )


def what_it_asks(path: str) -> str:
    """The comment that a configuration begins with, its first line."""
    first = next(iter(Path(path).read_text(encoding="utf-8").splitlines()), "")
    return first.lstrip("#").strip() if first.startswith("#") else ""


class Report:
    """What has been found so far, on the terminal and in the folder."""

    def __init__(self, plans: list[list[Run]], folder: Path):
        """Reads what is finished. Raises DataError on results that are not these runs'."""
        self.plans, self.folder = plans, folder
        self.results: dict[Run, Finished | str] = {run: run.read() for run in flat(plans) if run.metrics.exists()}
        self.with_plot = len(plans) > 1

    @property
    def failed(self) -> bool:
        return any(isinstance(result, str) for result in self.results.values())

    def start(self, run: Run) -> None:
        print(f"{run.job.name}: starts; its log is {run.job.log}", flush=True)

    def end(self, run: Run, error: str | None) -> None:
        try:
            self.results[run] = error or run.read()
        except UserError as unusable:
            self.results[run] = str(unusable)
        of = f"{len(self.results)} of {len(flat(self.plans))} runs"
        result = self.results[run]
        if isinstance(result, Finished):
            mAPs = ", ".join(f"{name.task_type} {score:.2f}" for name, score in result.scores.items())
            took = "" if result.minutes is None else f" in {result.minutes:.1f} minutes"
            print(f"{run.job.name}: done{took}, mAP {mAPs} ({of})", flush=True)
        else:
            print(f"{run.job.name}: failed: {result} ({of})", flush=True)
        self.write()

    def experiment(self, runs: list[Run]) -> Experiment:
        found = {run.seed: self.results[run] for run in runs if run in self.results}
        finished = [result for result in found.values() if isinstance(result, Finished)]
        return Experiment(
            name=runs[0].name,
            asks=what_it_asks(runs[0].path),
            seeds=tuple(run.seed for run in runs),
            scores={name: [f.scores[name] for f in finished] for name in runs[0].tasks.values()},
            minutes=[f.minutes for f in finished if f.minutes is not None],
            parameters=next((f.parameters for f in finished if f.parameters is not None), None),
            errors={seed: result for seed, result in found.items() if isinstance(result, str)},
        )

    def write(self) -> str:
        """table.md, table.csv, plot.png. Returns the first."""
        experiments = [self.experiment(runs) for runs in self.plans]
        table = markdown(experiments)
        with replacing(self.folder / "table.md") as temporary:
            temporary.write_text(table, encoding="utf-8")
        write_csv(experiments, self.folder / "table.csv")
        if self.with_plot:
            draw(experiments, self.folder / "plot.png")
        return table


@exit_on_user_error
def main() -> None:
    args = parse_args()
    plans = plan(args)
    report = Report(plans, args.out)
    make_folder(args.out)
    if report.with_plot and find_spec("matplotlib") is None:
        print('no plot.png without matplotlib, tables only: pip install -e ".[metrics]"')
        report.with_plot = False
    left = {run.job: run for run in flat(plans) if run not in report.results}
    at_once = max(1, min(args.jobs, len(left)))
    seeds = ", ".join(str(run.seed) for run in plans[0])
    environment = {"OMP_NUM_THREADS": str(max(1, cpu_count() // at_once)), **os.environ}
    with alone_in(args.out) as lock, ended_as_interrupted():
        print(
            f"configurations: {len(plans)}; seeds: {seeds}; runs: {len(report.results)} done before, {len(left)} to do"
        )
        report.write()
        try:
            execute(
                list(left),
                at_once,
                environment,
                lock,
                when_started=lambda job: report.start(left[job]),
                when_ended=lambda job, error: report.end(left[job], error),
            )
        except KeyboardInterrupt:
            print("the runs at work were ended; the same command goes on", file=sys.stderr)
            raise
        print(f"\n{report.write()}\nThe tables are in {args.out}")
    sys.exit(1 if report.failed else 0)


if __name__ == "__main__":
    main()
