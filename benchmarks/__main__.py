"""Measure the fast path and the plain baseline on this machine, after a check that both compute the same.

python -m benchmarks                         # everything, on the GPU if there is one
python -m benchmarks --only train nms        # the cases whose names begin so
"""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

import torch

from benchmarks import data, evaluation, media, memory, network, nms
from benchmarks.case import BenchmarkCase, Setting
from benchmarks.machine import describe, matmul_rates, slug
from benchmarks.report import as_tree, head, loader_note, table
from benchmarks.runner import run_cases
from libs.core.cli import exit_on_user_error
from libs.core.configfile import load_config
from libs.core.errors import ConfigError
from libs.core.files import make_folder, write_json

CONFIG = Path(__file__).resolve().parent.parent / "configs/multi_task_anet_unav_dcase.yaml"
FOLDER = Path("build/benchmarks")  # not under version control


def all_cases(setting: Setting) -> dict[str, Callable[[], BenchmarkCase]]:
    return {
        name: build
        for part in (network, nms, evaluation, data, memory, media)
        for name, build in part.cases(setting).items()
    }


def choose(
    builders: dict[str, Callable[[], BenchmarkCase]], only: list[str] | None
) -> dict[str, Callable[[], BenchmarkCase]]:
    """The cases whose names begin with one of `only`; all for None. Raises ConfigError where one names nothing."""
    for start in only or []:
        if not any(name.startswith(start) for name in builders):
            raise ConfigError(f"--only {start}: no such case; choose from {', '.join(builders)}")
    return {name: build for name, build in builders.items() if only is None or name.startswith(tuple(only))}


def positive(text: str) -> int:
    if (number := int(text)) < 1:
        raise argparse.ArgumentTypeError("expected 1 or more")
    return number


def run(setting: Setting, builders: dict[str, Callable[[], BenchmarkCase]], repeats: int | None, out: Path) -> int:
    """Measure, print the table, write the JSON, what there is of them also when interrupted. Returns the exit status: 1
    if results differ or a case fails. Raises UserError where the JSON cannot be written."""
    if out.is_dir():
        raise ConfigError(f"{out}: is a folder; name a file to write the JSON to")
    make_folder(out.parent)
    about, rates, results = describe(setting), matmul_rates(setting), []
    print(head(about, rates), flush=True)

    def notes() -> list[str]:
        return setting.left_out + loader_note(results, setting.config.tasks)

    try:
        for result in run_cases(builders, setting.device, repeats):
            results.append(result)
            write_json(out, as_tree(results, about, rates, notes()))
    finally:
        if results:
            print(f"\n{table(results, published=not setting.on_gpu)}\n")
            print(*notes(), f"written to {out}", sep="\n")
    failures = [f"{result.name}: {failure}" for result in results for failure in result.failures.values()]
    for failure in failures:
        print(f"FAILED: {failure}", file=sys.stderr)
    return 1 if failures else 0


@exit_on_user_error
def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", metavar="NAME", help="cases whose names begin with one of these")
    parser.add_argument("--json", type=Path, metavar="OUT", help=f"default: {FOLDER}/<CPU or GPU>[-NAMES].json")
    parser.add_argument("--repeats", type=positive, metavar="N", help="default: as a case's cost allows")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument(
        "--compile",
        nargs="*",
        choices=("inductor", "cuda_graphs"),
        help="measure the network compiled in these ways too; default: cuda_graphs on a GPU, none on a CPU",
    )
    args = parser.parse_args()
    if "cuda_graphs" in (args.compile or ()) and args.device != "cuda":
        raise ConfigError("--compile cuda_graphs: needs a GPU")
    if args.device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("--device cuda: PyTorch finds no GPU; leave it out to measure the CPU")
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False  # "float32" means it, also of the plain baseline's convolutions
    compiled = args.compile if args.compile is not None else ["cuda_graphs"] if args.device == "cuda" else []
    setting = Setting(load_config(CONFIG, []), torch.device(args.device), compiled=tuple(compiled))
    builders = choose(all_cases(setting), args.only)
    # What measures some cases leaves the file of all of them alone.
    out = args.json or FOLDER / f"{'-'.join([slug(describe(setting)), *(args.only or [])])}.json"
    sys.exit(run(setting, builders, args.repeats, out))


if __name__ == "__main__":
    main()
