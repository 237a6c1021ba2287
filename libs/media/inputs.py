"""Which videos a user means: files, folders, globs and lists."""

import glob
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from libs.core.types import MEDIA_SUFFIXES
from libs.media.container import format_path


class VideoInput(NamedTuple):
    """The name that a file's features have, and the file, None where only its features are known."""

    name: str
    path: Path | None


def find_videos(inputs: list[str]) -> tuple[list[VideoInput], list[str]]:
    """Files, folders (the media files in them), globs, and lists of those (@FILE or FILE.txt, one a line), in order.

    Also returns what is wrong with some of them, a line each; the others go on. A file's features are named as the
    file is, without its ending: of two files of one name the first is taken.
    """
    paths, problems = _listed(inputs)
    jobs: dict[str, VideoInput] = {}
    seen: set[Path] = set()
    for path in paths:
        if (real := path.resolve()) in seen:
            continue
        seen.add(real)
        name = path.stem
        if format_path(name) != name:
            problems.append(f"{format_path(path)}: its name is not valid UTF-8; rename it")
        elif not name.strip("."):
            problems.append(f"{format_path(path)}: its features would have no name but dots; rename it")
        elif name in jobs:
            problems.append(f"{path}: its features would be named {name}, as those of {jobs[name].path}; rename one")
        else:
            jobs[name] = VideoInput(name, path)
    return list(jobs.values()), problems


def _listed(inputs: list[str]) -> tuple[list[Path], list[str]]:
    """The paths that inputs mean, and what is wrong with some of them."""
    paths, problems = [], []
    for text in _lines(inputs, problems):
        path = Path(text)
        if path.is_dir():
            try:
                found = sorted(p for p in path.iterdir() if p.suffix.lower() in MEDIA_SUFFIXES and not p.is_dir())
            except OSError as error:
                problems.append(f"{format_path(path)}: {error.strerror}")
                continue
            if not found:
                problems.append(f"{format_path(path)}: no video or sound files in this folder")
        elif path.exists() or not glob.has_magic(text):
            found = [path]
        else:
            found = sorted(Path(p) for p in glob.glob(text, recursive=True))  # noqa: PTH207
            if not found:
                problems.append(f"{format_path(path)}: no file has a name like this")
        paths += found
    return paths, problems


def _lines(inputs: list[str], problems: list[str]) -> Iterator[str]:
    for text in inputs:
        is_list = text.startswith("@") and not Path(text).exists()
        if not is_list and not (text.endswith(".txt") and Path(text).is_file()):
            yield text
            continue
        path = Path(text[1:] if is_list else text)
        try:
            yield from (line for line in path.read_text(encoding="utf-8").splitlines() if line.strip())
        except (OSError, UnicodeDecodeError) as error:
            problems.append(
                f"{format_path(path)}: no readable list of videos ({getattr(error, 'strerror', None) or error})"
            )
