"""A manifest of the SHA-256 of files, in the format of `sha256sum`."""

from collections.abc import Iterator
from pathlib import Path

from libs.core.errors import DataError
from libs.core.files import replacing
from libs.datasets.checks.findings import Occurrence


def write_manifest(path: Path, files: dict[str, str]) -> None:
    """Write one line for each file. files: name -> SHA-256."""
    text = "".join(f"{digest}  {name}\n" for name, digest in sorted(files.items()))
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="surrogateescape")


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
            files[name] = digest
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
