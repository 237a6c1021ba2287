"""Check a configuration's data before a run: files, annotations, prompts, every number of every feature, splits.

python tools/verify_data.py configs/demo.yaml
python tools/verify_data.py configs/demo.yaml --tasks 2 --json build/data.json --manifest build/data.sha256

The exit status is 1 if there are errors, else 0. train.py runs the checks that need no feature values by itself.
"""

import sys
from pathlib import Path

from joblib import cpu_count
from tabulate import tabulate

from libs.core.cli import add_override_option, build_parser, exit_on_user_error
from libs.core.config import Config
from libs.core.configfile import load_config
from libs.core.errors import ConfigError
from libs.core.files import write_json
from libs.datasets.checks.findings import sanitize
from libs.datasets.checks.lengths import format_histograms
from libs.datasets.checks.manifest import check_manifest, read_manifest, write_manifest
from libs.datasets.checks.verify import VerificationReport, format_findings, verify


def print_report(report: VerificationReport, config: Config) -> None:
    splits = [{key: sanitize(str(value), 60) for key, value in row.items()} for row in report.splits]
    print(tabulate(splits, headers="keys"), end="\n\n")
    for key, found in report.tasks.items():
        print(format_histograms(found["histograms"], config.tasks[key]))
        print(*(f"  -> {suggestion}" for suggestion in found["advice"]), "", sep="\n")
    print(format_findings(report.findings), end="\n\n")
    print(", ".join(f"{n} {severity}{'s' * (n != 1)}" for severity, n in report.count_severities().items()))


@exit_on_user_error
def main() -> None:
    parser = build_parser(__doc__)
    parser.add_argument("config", metavar="CONFIG")
    parser.add_argument("--tasks", metavar="1-2-3", help="default: all tasks of the configuration")
    parser.add_argument("--json", type=Path, metavar="OUT", help="write all findings to this file")
    parser.add_argument("--manifest", type=Path, metavar="FILE", help="compare SHA-256 with FILE, or write it")
    parser.add_argument("--jobs", type=int, default=2 * cpu_count(), metavar="N", help="threads (default: %(default)s)")
    add_override_option(parser)
    args = parser.parse_args()
    if args.jobs < 1:
        raise ConfigError(f"--jobs {args.jobs}: expected at least 1")
    config = load_config(args.config, args.o)
    tasks = config.select_tasks(args.tasks)
    manifest = read_manifest(args.manifest) if args.manifest and args.manifest.exists() else None

    report = verify(config, tasks, args.jobs)
    if manifest is not None:
        report.add("", check_manifest(manifest, report.files))
    print_report(report, config)
    if manifest is not None:
        print(f"{len(report.files)} files compared with {args.manifest}")
    elif args.manifest:
        write_manifest(args.manifest, report.files)
        print(f"SHA-256 of {len(report.files)} files -> {args.manifest}")
    if args.json:
        write_json(args.json, {"config": args.config, **report.to_dict()})
    sys.exit(1 if report.count_severities()["error"] else 0)


if __name__ == "__main__":
    main()
