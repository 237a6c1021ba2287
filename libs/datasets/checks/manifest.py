"""A manifest of files' SHA-256, as `sha256sum -c` reads it."""

from collections.abc import Iterator
from pathlib import Path

from libs.core.errors import DataError
from libs.core.files import replacing
from libs.datasets.checks.findings import Finding, Occurrence, found

HEX_DIGITS = 64


def write_manifest(path: Path, files: dict[str, str]) -> None:
    """files: name -> SHA-256. Names with line breaks or backslashes are escaped as sha256sum does."""
    with replacing(path) as temporary:
        temporary.write_text(
            "".join(_line(name, files[name]) for name in sorted(files)), encoding="utf-8", errors="surrogateescape"
        )


def _line(name: str, digest: str) -> str:
    escaped = name.replace("\\", "\\\\").replace("\n", "\\n").replace("\r", "\\r")
    return f"{'' if escaped == name else chr(92)}{digest}  {escaped}\n"


def read_manifest(path: Path) -> dict[str, str]:
    """name -> SHA-256. Raises DataError where it is none."""
    files = {}
    try:
        lines = path.read_text(encoding="utf-8", errors="surrogateescape").split("\n")
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}, expected a manifest") from None
    for number, line in enumerate(lines, start=1):
        if not line:
            continue
        digest, _, name = line.removeprefix("\\").partition("  ")
        if len(digest) != HEX_DIGITS or not name:
            raise DataError(f"{path}, line {number}: expected a SHA-256, two spaces and a file; remove the manifest")
        if line.startswith("\\"):
            name = name.replace("\\\\", "\0").replace("\\n", "\n").replace("\\r", "\r").replace("\0", "\\")
        files[name] = digest
    return files


def check_manifest(before: dict[str, str], files: dict[str, str]) -> Iterator[Finding]:
    """What has changed since the manifest `before` was written. What it names and lies there, but was not examined now
    (another task's), is passed over."""
    changed = [
        Occurrence(name, "not the same content")
        for name in sorted(files)
        if before.get(name, files[name]) != files[name]
    ]
    lost = [Occurrence(name, "missing") for name in sorted(before.keys() - files.keys()) if not Path(name).exists()]
    yield from found("", "", "changed file", changed)
    yield from found("", "", "lost file", lost)
    yield from found("", "", "new file", (Occurrence(name, "new") for name in sorted(files.keys() - before.keys())))
