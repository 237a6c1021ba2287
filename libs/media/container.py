"""Opening media files and decoding their streams, with what FFmpeg says made into one line.

PyAV is imported where it is used: everything but media works without it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

from libs.core.errors import MediaError, UserError

if TYPE_CHECKING:
    import av

# Text and still pictures, which FFmpeg reads as videos; so it does what ends in _pipe.
NO_VIDEO_FORMATS = ("tty", "image2", "alias_pix", "brender_pix")
FLUSH_ATTEMPTS = 64  # a decoder holds at most so many damaged frames, one a thread


def format_path(path: Path | str) -> str:
    """A path as it can be printed, also where its name is no valid text."""
    return str(path).encode(errors="surrogateescape").decode(errors="replace")


def import_av():
    """PyAV. Raises UserError where it is not installed."""
    try:
        import av
    except ImportError:
        raise UserError("reading videos needs PyAV, which is not installed: pip install -e .[media]") from None
    return av


@contextmanager
def open_container(path: Path) -> Iterator[av.container.InputContainer]:
    """An open media file. Raises MediaError, one line, where it is none, and for what FFmpeg refuses meanwhile."""
    av = import_av()
    if not path.is_file():
        raise MediaError(f"{format_path(path)}: {'a folder, no video' if path.is_dir() else 'no such file'}")
    if path.stat().st_size == 0:
        raise MediaError(f"{format_path(path)}: the file is empty; copy it again")
    try:
        container = av.open(f"file:{path}", metadata_errors="ignore")
    except (av.error.FFmpegError, UnicodeError) as error:
        raise MediaError(
            f"{format_path(path)}: no video or sound file, or a truncated one ({format_error(error)})"
        ) from None
    with container:
        if container.format.name in NO_VIDEO_FORMATS or container.format.name.endswith("_pipe"):
            raise MediaError(f"{format_path(path)}: no video or sound file ({container.format.long_name})")
        try:
            yield container
        except av.error.FFmpegError as error:
            raise MediaError(f"{format_path(path)}: cannot be decoded ({format_error(error)})") from None


def format_error(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)


def frame_step(stream) -> Fraction:
    """Seconds a picture, where the stream says so, else 0."""
    rate = stream.average_rate if stream.type == "video" else None
    return 1 / Fraction(rate) if rate else Fraction(0)


def decode_stream(container, stream, notes: list[str]) -> Iterator[tuple[Fraction, object]]:
    """(time in seconds, frame) of all that can be decoded; how much could not is added to `notes` at the end.

    A frame without a time stamp follows the one before it.
    """
    av = import_av()
    bad, follows = 0, None
    try:
        for packet in iterate_packets(container, stream, notes):
            for _ in range(FLUSH_ATTEMPTS if packet.size == 0 else 1):
                try:
                    frames = packet.decode()
                    break
                except av.error.FFmpegError:
                    frames, bad = [], bad + 1
            for frame in frames:
                if frame.is_corrupt:
                    bad += 1
                    continue
                at = _time(frame)
                at = (follows or Fraction(0)) if at is None else at
                yield at, frame
                follows = at + _length(frame, stream)
    finally:
        if bad:
            notes.append(f"{bad} damaged frame{'s' * (bad > 1)} of {stream.type} stream {stream.index} skipped")


def iterate_packets(container, streams, notes: list[str]) -> Iterator:
    """The packets of a stream or of several, up to where damage ends the reading, which is noted."""
    av = import_av()
    while True:
        try:
            yield from container.demux(streams)
            return
        except IndexError:
            continue  # PyAV fails at a packet of a stream that begins in the middle of a file; the next one follows
        except av.error.FFmpegError as error:
            notes.append(f"reading stops before the end of the file ({format_error(error)})")
            return


def _time(frame) -> Fraction | None:
    stamp = frame.pts if frame.pts is not None else frame.dts
    return None if stamp is None else stamp * Fraction(frame.time_base)


def _length(frame, stream) -> Fraction:
    """Seconds that a frame lasts."""
    return Fraction(frame.samples, frame.sample_rate) if stream.type == "audio" else frame_step(stream)
