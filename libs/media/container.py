"""Open media files and decode their streams; FFmpeg's errors become one line.

PyAV is imported where it is used because everything but media works without it.
"""

from collections.abc import Generator, Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

from libs.core.errors import MediaError, UserError

# Formats of text and still pictures, which FFmpeg also reads as video; so are all formats that end in _pipe.
NO_VIDEO_FORMATS = ("tty", "image2", "alias_pix", "brender_pix")
FLUSH_ATTEMPTS = 64  # at the end of a stream, a decoder returns at most one damaged frame per thread


def format_path(path: Path | str) -> str:
    """Format a path for printing; bytes of its name that are not UTF-8 become replacement characters."""
    return str(path).encode(errors="surrogateescape").decode(errors="replace")


def import_av() -> Any:
    """Import PyAV. Raises UserError if it is not installed."""
    try:
        import av
    except ImportError:
        raise UserError("reading videos needs PyAV, which is not installed: pip install -e .[media]") from None
    return av


@contextmanager
def open_container(path: Path) -> Iterator[Any]:
    """Open a media file with PyAV.

    Raises:
        MediaError: if it is not a media file, and in place of any FFmpeg error inside the `with` block.
    """
    av = import_av()
    try:
        with av.open(f"file:{path}", metadata_errors="ignore") as container:
            if container.format.name in NO_VIDEO_FORMATS or container.format.name.endswith("_pipe"):
                raise MediaError(f"{format_path(path)}: not a video or sound file ({container.format.long_name})")
            yield container
    except (av.error.FFmpegError, UnicodeError) as error:
        problem = f"not readable as video or sound ({format_error(error)})"
        hint = "check the path, or copy the file again if it is truncated"
        raise MediaError(f"{format_path(path)}: {problem}; {hint}") from None


def format_error(error: Exception) -> str:
    """Return an error's text without its number and file name."""
    return getattr(error, "strerror", None) or str(error)


def get_frame_duration(stream, frame=None) -> Fraction:
    """Return the seconds of a frame of sound, or of a picture at the stream's average rate; 0 where it is unknown."""
    if stream.type == "video":
        return 1 / Fraction(stream.average_rate) if stream.average_rate else Fraction(0)
    return Fraction(frame.samples, frame.sample_rate) if frame else Fraction(0)


def decode_stream(container, stream, notes: list[str]) -> Generator[tuple[Fraction, Any], None, None]:
    """Decode all frames of a stream that can be decoded.

    A frame without a time stamp follows the previous frame.

    Args:
        notes: gets one sentence at the end if damaged frames were skipped.

    Yields:
        The time in seconds and the frame.
    """
    av = import_av()
    num_damaged, next_time = 0, Fraction(0)
    try:
        for packet in iterate_packets(container, stream, notes):
            frames = []
            for _ in range(FLUSH_ATTEMPTS if packet.size == 0 else 1):
                try:
                    frames = packet.decode()
                    break
                except av.error.FFmpegError:
                    num_damaged += 1
            for frame in frames:
                if frame.is_corrupt:
                    num_damaged += 1
                    continue
                stamp = frame.pts if frame.pts is not None else frame.dts
                time = next_time if stamp is None else stamp * Fraction(frame.time_base)
                yield time, frame
                next_time = time + get_frame_duration(stream, frame)
    finally:
        if num_damaged:
            frames = f"{num_damaged} damaged frame{'s' * (num_damaged > 1)}"
            notes.append(f"{frames} of {stream.type} stream {stream.index} skipped")


def iterate_packets(container, streams, notes: list[str]) -> Iterator[Any]:
    """Read the packets of one or several streams until the end of the file, or until damage ends the reading.

    Args:
        notes: gets one sentence if reading ends early.
    """
    av = import_av()
    while True:
        try:
            yield from container.demux(streams)
            return
        except IndexError:
            continue  # PyAV fails on a packet of a stream that begins in the middle of a file; reading can go on
        except av.error.FFmpegError as error:
            notes.append(f"reading stops before the end of the file ({format_error(error)})")
            return
