"""A manifest of the SHA-256 of files, in the format of `sha256sum`."""

import re
from collections.abc import Iterator
from pathlib import Path

from libs.core.errors import DataError
from libs.core.files import replacing
from libs.datasets.checks.findings import Occurrence


def write_manifest(path: Path, files: dict[str, str]) -> None:
    """Write one line for each file. files: name -> SHA-256."""
    lines = []
    for name, digest in sorted(files.items()):
        escaped = name.replace("\\", "\\\\").replace("\n", "\\n").replace("\r", "\\r")
        mark = "" if escaped == name else "\\"  # as sha256sum marks escaped names
        lines.append(f"{mark}{digest}  {escaped}\n")
    with replacing(path) as temporary:
        temporary.write_text("".join(lines), encoding="utf-8", errors="surrogateescape")


def read_manifest(path: Path) -> dict[str, str]:
    """Read a manifest.

    Returns:
        File name -> SHA-256.

    Raises:
        DataError: a line of the file has another format.
    """
    files = {}
    with path.open(encoding="utf-8", errors="surrogateescape") as file:
        for number, line in enumerate(file, start=1):
            digest, _, name = line.rstrip("\n").partition("  ")
            if not name:
                raise DataError(f"{path}, line {number}: expected a SHA-256, two spaces and a file")
            if digest.startswith("\\"):
                name = re.sub(r"\\(.)", lambda match: {"n": "\n", "r": "\r"}.get(match[1], match[1]), name)
            files[name] = digest.removeprefix("\\")
    return files


def check_manifest(manifest: dict[str, str], files: dict[str, str]) -> Iterator[Occurrence]:
    """Compare files with a manifest. A listed file that exists but was not read now, such as another task's, passes."""
    for name in sorted(files.keys() | manifest.keys()):
        if name not in manifest:
            yield Occurrence("", "new file", name, "not in the manifest")
        elif name not in files and not Path(name).exists():
            yield Occurrence("", "lost file", name, "missing")
        elif files.get(name, manifest[name]) != manifest[name]:
            yield Occurrence("", "changed file", name, "its SHA-256 has changed")
