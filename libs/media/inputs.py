"""Find the videos that command-line arguments name: files, folders, globs and lists."""

import glob
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from libs.core.types import MEDIA_SUFFIXES
from libs.media.container import format_error, format_path


class VideoInput(NamedTuple):
    """The name under which a file's features are stored, and the file; None if only its features are known."""

    name: str
    path: Path | None

    def __str__(self) -> str:
        return format_path(self.path or self.name)


def find_videos(inputs: list[str]) -> tuple[list[VideoInput], list[str]]:
    """Find media files and name each for its file, without the ending.

    Args:
        inputs: files, folders (all media files in them), globs, and lists of these (@FILE or FILE.txt, one per line).

    Returns:
        The videos in order, each file once, and one line per problem. Of two files of one name the first is used.
    """
    videos: dict[str, Path] = {}
    problems: list[str] = []
    for path in _find_paths(inputs, problems):
        name = path.stem
        if format_path(name) != name:
            problems.append(f"{format_path(path)}: its name is not valid UTF-8; rename it")
        elif videos.setdefault(name, path).resolve() != path.resolve():
            problems.append(f"{path}: its features would be named {name}, like those of {videos[name]}; rename one")
    return [VideoInput(name, path) for name, path in videos.items()], list(dict.fromkeys(problems))


def _find_paths(inputs: list[str], problems: list[str]) -> Iterator[Path]:
    for text in _expand_lists(inputs, problems):
        path, found = Path(text), [Path(text)]
        if path.is_dir():
            found = sorted(p for p in path.iterdir() if p.suffix.lower() in MEDIA_SUFFIXES and not p.is_dir())
        elif not path.exists() and glob.has_magic(text):
            found = sorted(Path(p) for p in glob.glob(text, recursive=True))  # noqa: PTH207
        if not found:
            what = "no video or sound files in this folder" if path.is_dir() else "no file matches this pattern"
            problems.append(f"{format_path(path)}: {what}")
        yield from found


def _expand_lists(inputs: list[str], problems: list[str]) -> Iterator[str]:
    """Replace lists of videos by their lines."""
    for text in inputs:
        is_list = text.startswith("@") and not Path(text).exists()
        if not is_list and not (text.endswith(".txt") and Path(text).is_file()):
            yield text
            continue
        path = Path(text[1:] if is_list else text)
        try:
            yield from (line for line in path.read_text(encoding="utf-8").splitlines() if line.strip())
        except (OSError, UnicodeDecodeError) as error:
            problems.append(f"{format_path(path)}: not a readable list of videos ({format_error(error)})")
