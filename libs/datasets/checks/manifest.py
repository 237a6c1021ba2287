"""A manifest of the SHA-256 of files, in the format of `sha256sum`."""

from collections.abc import Iterator
from pathlib import Path

from libs.core.errors import DataError
from libs.core.files import replacing
from libs.datasets.checks.findings import Occurrence

HEX_DIGITS = 64


def write_manifest(path: Path, files: dict[str, str]) -> None:
    """Write one line for each file. files: name -> SHA-256."""
    lines = [_format_line(name, files[name]) for name in sorted(files)]
    with replacing(path) as temporary:
        temporary.write_text("".join(lines), encoding="utf-8", errors="surrogateescape")


def _format_line(name: str, digest: str) -> str:
    """Escape line breaks and backslashes as sha256sum does, which marks the line with a backslash."""
    escaped = name.replace("\\", "\\\\").replace("\n", "\\n").replace("\r", "\\r")
    return f"{'' if escaped == name else chr(92)}{digest}  {escaped}\n"


def read_manifest(path: Path) -> dict[str, str]:
    """Read a manifest.

    Returns:
        File name -> SHA-256.

    Raises:
        DataError: a line of the file has another format.
    """
    files = {}
    text = path.read_text(encoding="utf-8", errors="surrogateescape")
    for number, line in enumerate(text.split("\n"), start=1):
        if not line:
            continue
        digest, _, name = line.removeprefix("\\").partition("  ")
        if len(digest) != HEX_DIGITS or not name:
            raise DataError(f"{path}, line {number}: expected a SHA-256, two spaces and a file; delete the manifest")
        if line.startswith("\\"):
            name = name.replace("\\\\", "\0").replace("\\n", "\n").replace("\\r", "\r").replace("\0", "\\")
        files[name] = digest
    return files


def check_manifest(manifest: dict[str, str], files: dict[str, str]) -> Iterator[Occurrence]:
    """Compare files with a manifest. A listed file that exists but was not read now, such as another task's, passes."""
    for name in sorted(files.keys() & manifest.keys()):
        if files[name] != manifest[name]:
            yield Occurrence("", "changed file", name, "its SHA-256 has changed")
    for name in sorted(manifest.keys() - files.keys()):
        if not Path(name).exists():
            yield Occurrence("", "lost file", name, "missing")
    for name in sorted(files.keys() - manifest.keys()):
        yield Occurrence("", "new file", name, "not in the manifest")
