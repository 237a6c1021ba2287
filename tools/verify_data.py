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
from libs.core.configfile import load_config
from libs.core.errors import ConfigError
from libs.core.files import write_json
from libs.datasets.checks.findings import SEVERITIES, sanitize
from libs.datasets.checks.lengths import build_histograms, format_histograms, suggest_settings
from libs.datasets.checks.manifest import check_manifest, read_manifest, write_manifest
from libs.datasets.checks.verify import VerificationReport, format_findings, verify

THREADS_PER_CORE = 2  # some wait for the disk


def print_report(report: VerificationReport) -> None:
    rows = [{name: sanitize(str(value)) for name, value in row.items()} for row in report.splits]
    print(tabulate(rows, headers="keys"), end="\n\n")
    for lengths in report.lengths.values():
        print(format_histograms(build_histograms(lengths), lengths.task))
        print(*(f"  -> {suggestion}" for suggestion in suggest_settings(lengths)), "", sep="\n")
    print(format_findings(report.sorted_findings()), end="\n\n")
    counts = {severity: report.count(severity) for severity in SEVERITIES}
    print(", ".join(f"{count} {severity}{'s' * (count != 1)}" for severity, count in counts.items()))


@exit_on_user_error
def main() -> None:
    parser = build_parser(__doc__)
    parser.add_argument("config", metavar="CONFIG")
    parser.add_argument("--tasks", metavar="1-2-3", help="default: all tasks of the configuration")
    parser.add_argument("--json", type=Path, metavar="OUT", help="write all findings to this file")
    parser.add_argument(
        "--manifest", type=Path, metavar="FILE", help="compare the SHA-256 of all files with FILE, or write it"
    )
    parser.add_argument("--jobs", type=int, metavar="N", help=f"threads (default: {THREADS_PER_CORE} per core)")
    add_override_option(parser)
    args = parser.parse_args()
    jobs = THREADS_PER_CORE * cpu_count() if args.jobs is None else args.jobs
    if jobs < 1:
        raise ConfigError(f"--jobs {jobs}: expected at least 1")
    config = load_config(args.config, args.o)
    tasks = config.select_tasks(args.tasks)
    manifest = read_manifest(args.manifest) if args.manifest and args.manifest.exists() else None

    report = verify(config, tasks, jobs)
    if manifest is not None:
        report.add("", check_manifest(manifest, report.files))
    print_report(report)
    if manifest is not None:
        print(f"{len(report.files)} files compared with {args.manifest}")
    elif args.manifest:
        write_manifest(args.manifest, report.files)
        print(f"SHA-256 of {len(report.files)} files -> {args.manifest}")
    if args.json:
        write_json(args.json, {"config": args.config, **report.to_dict()})
    sys.exit(1 if report.count("error") else 0)


if __name__ == "__main__":
    main()
