"""Compare fast code with plain baselines on this machine, after checking that both compute the same.

python -m benchmarks                         # all cases, on the GPU if there is one
python -m benchmarks --only train nms        # the cases whose names start with these
"""

import argparse
import re
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks import data, evaluation, media, network, nms
from benchmarks.case import BenchmarkSettings, Builders, run_cases
from benchmarks.report import ROOT, compare_loading, describe_machine, format_table
from libs.core.cli import build_parser, exit_on_user_error
from libs.core.configfile import load_config
from libs.core.errors import ConfigError
from libs.core.files import write_json
from libs.training.distributed import has_bf16

CONFIG = ROOT / "configs/multi_task_anet_unav_dcase.yaml"
FOLDER = Path("build/benchmarks")  # not under version control
GPU_VIDEOS = 64  # of the large batches on a GPU


def list_cases(settings: BenchmarkSettings, only: Sequence[str] = ()) -> Builders:
    """List the cases whose names start with one of `only`, or all.

    Raises:
        ConfigError: one of them matches no case.
    """
    tasks, many = list(settings.config.tasks.values()), GPU_VIDEOS if settings.on_gpu else settings.nms_videos
    table = {
        "train": (network.build_train_case, tasks),
        "step": (partial(network.build_train_case, whole_step=True), tasks[:1]),
        "infer": (network.build_infer_case, tasks),
        "decode": (network.build_decode_case, tasks),
        "targets": (data.build_targets_case, [task for task in tasks if task.dataset.class_aware][:1]),
        "loader": (data.build_loader_case, tasks[:1]),
    }
    large = [tasks[0].model_copy(update={"batch_size": many})] if settings.on_gpu else []
    builders: Builders = {
        **{f"{kind}-{t.task_type}": partial(build, settings, t) for kind, (build, own) in table.items() for t in own},
        **{f"infer-{t.task_type}-{many}": partial(network.build_infer_case, settings, t) for t in large},
        **{f"nms-{videos}": partial(nms.build_nms_case, settings, videos) for videos in (1, many)},
        "map": partial(evaluation.build_map_case, settings),
        "metrics": partial(evaluation.build_metrics_case, settings),
        "memory": partial(network.build_memory_case, settings),
        "media-speed": partial(media.build_speed_case, settings),
        **media.list_long_cases(settings),
    }
    for start in only:
        if not any(name.startswith(start) for name in builders):
            raise ConfigError(f"--only {start}: no such case; choose from {', '.join(builders)}")
    return {name: build for name, build in builders.items() if name.startswith(tuple(only) or "")}


def parse_args() -> argparse.Namespace:
    parser = build_parser(__doc__, prog="python -m benchmarks")
    devices = ["cuda", "cpu"] if torch.cuda.is_available() else ["cpu"]
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help="cases whose names start with these")
    parser.add_argument("--json", type=Path, metavar="OUT", help=f"default: {FOLDER}/<CPU or GPU>[-NAMES].json")
    parser.add_argument("--repeats", type=int, metavar="N", help="default: as a case's cost allows")
    parser.add_argument("--device", choices=devices, default=devices[0], help="cuda where PyTorch finds a GPU")
    parser.add_argument(
        "--compile", nargs="*", choices=("inductor", "cuda_graphs"), help="modes to measure too (GPU: cuda_graphs)"
    )
    return parser.parse_args()


def run_benchmarks(
    settings: BenchmarkSettings, builders: Builders, machine: dict[str, Any], repeats: int | None, out: Path
) -> int:
    """Measure, print the table and write the JSON; an interruption keeps what was measured before.

    Returns:
        The exit status: 1 if results differ or a case fails.

    Raises:
        UserError: the JSON cannot be written.
    """
    print(*(f"{key}: {value}" for key, value in machine.items()), sep="\n", flush=True)
    results, notes = [], []
    if "bf16" not in settings.precisions:
        notes.append("bf16 is not measured: this CPU has no instructions for it and would emulate it very slowly")
    if not settings.compile_modes:
        notes.append("the compiled network is not measured: compiling takes minutes; add --compile inductor")
    tree = {"machine": machine, "notes": notes, "cases": []}
    try:
        for result in run_cases(builders, settings.device, repeats):
            results.append(result)
            tree["cases"].append(asdict(result))
            tree["notes"] = notes + compare_loading(results, next(iter(settings.config.tasks.values())))
            write_json(out, tree)
    finally:
        if results:
            print(f"\n{format_table(results)}\n")
            print(*tree["notes"], f"written to {out}", sep="\n")
    return 1 if any(result.failures for result in results) else 0


@exit_on_user_error
def main() -> None:
    args = parse_args()
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False  # the plain baseline's convolutions are float32 too
    device = torch.device(args.device)
    precisions = ("float32", "bf16") if args.device == "cuda" or has_bf16() else ("float32",)
    modes = ["cuda_graphs"] if args.compile is None and args.device == "cuda" else args.compile or []
    machine = describe_machine(device, precisions)
    # With --only the file has another name, so that the results of all cases stay.
    name = " ".join([machine.get("gpu") or f"{machine['cpu']} {machine['cores']} cores", *args.only])
    out = args.json or FOLDER / f"{re.sub('[^a-z0-9]+', '-', name.lower()).strip('-')}.json"
    with tempfile.TemporaryDirectory() as folder:
        settings = BenchmarkSettings(load_config(CONFIG), device, Path(folder), precisions, tuple(modes))
        sys.exit(run_benchmarks(settings, list_cases(settings, args.only), machine, args.repeats, out))


if __name__ == "__main__":
    main()
