"""Compare fast code with plain baselines on this machine, after checking that both compute the same.

python -m benchmarks                         # all cases, on the GPU if there is one
python -m benchmarks --only train nms        # the cases whose names start with these
"""

import argparse
import sys
from pathlib import Path

import torch

from benchmarks import data, evaluation, media, memory, network, nms
from benchmarks.case import BenchmarkSettings, Builders
from benchmarks.machine import ROOT, describe_machine, measure_matmul, slugify_device
from benchmarks.report import compare_loading, format_machine, format_table, to_tree
from benchmarks.runner import run_cases
from libs.core.cli import build_parser, exit_on_user_error
from libs.core.configfile import load_config
from libs.core.errors import ConfigError
from libs.core.files import make_folder, write_json

CONFIG = ROOT / "configs/multi_task_anet_unav_dcase.yaml"
FOLDER = Path("build/benchmarks")  # not under version control


def list_all_cases(settings: BenchmarkSettings) -> Builders:
    modules = (network, nms, evaluation, data, memory, media)
    return {name: build for module in modules for name, build in module.list_cases(settings).items()}


def select_cases(builders: Builders, only: list[str] | None) -> Builders:
    """Select the cases whose names start with one of `only`, None for all.

    Raises:
        ConfigError: one of them matches no case.
    """
    for start in only or []:
        if not any(name.startswith(start) for name in builders):
            raise ConfigError(f"--only {start}: no such case; choose from {', '.join(builders)}")
    return {name: build for name, build in builders.items() if only is None or name.startswith(tuple(only))}


def parse_positive(text: str) -> int:
    if (number := int(text)) < 1:
        raise argparse.ArgumentTypeError("expected 1 or more")
    return number


def parse_args() -> argparse.Namespace:
    parser = build_parser(__doc__, prog="python -m benchmarks")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="cases whose names start with one of these")
    parser.add_argument("--json", type=Path, metavar="OUT", help=f"default: {FOLDER}/<CPU or GPU>[-NAMES].json")
    parser.add_argument("--repeats", type=parse_positive, metavar="N", help="default: as a case's cost allows")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument(
        "--compile",
        nargs="*",
        choices=("inductor", "cuda_graphs"),
        help="also measure the network compiled in these modes; default: cuda_graphs on a GPU, none on a CPU",
    )
    args = parser.parse_args()
    if args.device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("--device cuda: PyTorch finds no GPU; leave it out to measure the CPU")
    if args.device == "cpu" and "cuda_graphs" in (args.compile or ()):
        raise ConfigError("--compile cuda_graphs: needs a GPU")
    if args.compile is None:
        args.compile = ["cuda_graphs"] if args.device == "cuda" else []
    return args


def run_benchmarks(settings: BenchmarkSettings, builders: Builders, repeats: int | None, out: Path) -> int:
    """Measure, print the table and write the JSON; an interruption keeps what was measured before.

    Returns:
        The exit status: 1 if results differ or a case fails.

    Raises:
        UserError: the JSON cannot be written.
    """
    if out.is_dir():
        raise ConfigError(f"{out}: is a folder; name a file to write the JSON to")
    make_folder(out.parent)
    machine, rates, results, notes = describe_machine(settings), measure_matmul(settings), [], settings.notes
    print(format_machine(machine, rates), flush=True)
    try:
        for result in run_cases(builders, settings.device, repeats):
            results.append(result)
            notes = settings.notes + compare_loading(results, settings.config.tasks)
            write_json(out, to_tree(results, machine, rates, notes))
    finally:
        if results:
            print(f"\n{format_table(results)}\n")
            print(*notes, f"written to {out}", sep="\n")
    failures = [f"{result.name}: {failure}" for result in results for failure in result.failures.values()]
    for failure in failures:
        print(f"FAILED: {failure}", file=sys.stderr)
    return 1 if failures else 0


@exit_on_user_error
def main() -> None:
    args = parse_args()
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False  # the plain baseline's convolutions are float32 too
    settings = BenchmarkSettings(load_config(CONFIG, []), torch.device(args.device), tuple(args.compile))
    builders = select_cases(list_all_cases(settings), args.only)
    # With --only the file has another name, so that the results of all cases stay.
    name = "-".join([slugify_device(describe_machine(settings)), *(args.only or [])])
    sys.exit(run_benchmarks(settings, builders, args.repeats, args.json or FOLDER / f"{name}.json"))


if __name__ == "__main__":
    main()
