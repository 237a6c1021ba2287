"""Examine a configuration's data before a run: files, annotations, prompts, every number of every feature, splits.

python tools/verify_data.py configs/demo.yaml
python tools/verify_data.py configs/demo.yaml --tasks 2 --json build/data.json --manifest build/data.sha256

Ends with status 1 if there are errors, 0 if there are none. train.py makes the checks that cost nothing by itself.
"""

import sys
from functools import partial
from pathlib import Path

from joblib import cpu_count
from tabulate import tabulate
from tqdm import tqdm

from libs.core.cli import add_override_option, build_parser, exit_on_user_error
from libs.core.config import Config, TaskSpec
from libs.core.configfile import load_config
from libs.core.errors import ConfigError, UserError
from libs.core.files import write_json
from libs.datasets.checks.findings import SEVERITIES, Occurrence, found, sanitize
from libs.datasets.checks.lengths import format_histograms, histograms, length_advice
from libs.datasets.checks.manifest import check_manifest, read_manifest, write_manifest
from libs.datasets.checks.verify import VerificationReport, findings_table, verify
from libs.features.provenance import check_provenance

JOBS_A_CORE = 2  # threads: some wait for the disk


def check_made_by(config: Config, tasks: list[TaskSpec], report: VerificationReport) -> None:
    unread = {finding.task for finding in report.findings if finding.check == "feature place"}
    for task in tasks:
        try:
            if task.key not in unread:
                check_provenance(task, config.model.encoder)
        except UserError as error:
            report.findings += found(task.key, "", "other features", [Occurrence(task.dataset.feat_folder, str(error))])


def print_report(report: VerificationReport) -> None:
    rows = [{name: sanitize(str(value)) for name, value in row.items()} for row in report.facts]
    print(tabulate(rows, headers="keys"), end="\n\n")
    for lengths in report.lengths.values():
        print(format_histograms(histograms(lengths), lengths.task))
        print(*(f"  -> {sentence}" for sentence in length_advice(lengths)), "", sep="\n")
    print(findings_table(report.sorted_findings()), end="\n\n")
    counts = {severity: report.count(severity) for severity in SEVERITIES}
    print(", ".join(f"{count} {severity}{'s' * (count != 1)}" for severity, count in counts.items()))


@exit_on_user_error
def main() -> None:
    parser = build_parser(__doc__)
    parser.add_argument("config", metavar="CONFIG")
    parser.add_argument("--tasks", metavar="1-2-3", help="default: all of the configuration's")
    parser.add_argument("--json", type=Path, metavar="OUT", help="write everything that was found there")
    parser.add_argument(
        "--manifest", type=Path, metavar="FILE", help="SHA-256 of all files: compare with FILE, or write it"
    )
    parser.add_argument("--jobs", type=int, metavar="N", help=f"threads (default: {JOBS_A_CORE} a core)")
    add_override_option(parser)
    args = parser.parse_args()
    jobs = args.jobs if args.jobs is not None else JOBS_A_CORE * cpu_count()
    if jobs < 1:
        raise ConfigError(f"--jobs {jobs}: expected at least 1")
    config = load_config(args.config, args.o)
    tasks = config.select_tasks(args.tasks)

    known = read_manifest(args.manifest) if args.manifest and args.manifest.exists() else None
    bar = partial(tqdm, desc="examining features", unit="video", leave=False, disable=None)
    report = verify(config, tasks, jobs, lambda total: bar(total=total).update)
    check_made_by(config, tasks, report)
    if known is not None:
        report.findings += check_manifest(known, report.files)
    print_report(report)
    if known is not None:
        print(f"{len(report.files)} files compared with {args.manifest}")
    elif args.manifest:
        write_manifest(args.manifest, report.files)
        print(f"SHA-256 of {len(report.files)} files -> {args.manifest}")
    if args.json:
        write_json(args.json, {"config": args.config, **report.tree()})
    sys.exit(1 if report.count("error") else 0)


if __name__ == "__main__":
    main()
