"""Inspect a media file: which streams are used, when the first one starts, how long they last."""

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from libs.core.errors import MediaError
from libs.media.container import decode_stream, format_path, get_frame_duration, iterate_packets, open_container

MAX_DURATION_S = 100 * 3600  # longer durations come from damaged time stamps
MAX_MISSING_S = 1.0  # seconds that a file may be shorter than its header says


@dataclass(frozen=True)
class MediaInfo:
    """The selected streams of a file on one time line.

    Attributes:
        video, audio: indices of the streams; None if there is none.
        start: seconds, the time stamp of the first picture or sample that a player presents.
        duration: seconds from `start` to the end of the stream that ends last.
        notes: sentences for the user.
    """

    path: Path
    video: int | None
    audio: int | None
    start: Fraction
    duration: float
    notes: tuple[str, ...]


def probe(path: Path | str, video_stream: int | None = None, audio_stream: int | None = None) -> MediaInfo:
    """Select streams and find their common time line.

    All packets are read, which is fast compared with decoding.

    Args:
        video_stream, audio_stream: indices in the file; by default the container's best streams.

    Raises:
        MediaError: the file cannot be read, is truncated, has no stream to decode or no duration, or an index is wrong.
    """
    path, notes = Path(path), []
    with open_container(path) as container:
        chosen = {"video": video_stream, "audio": audio_stream}
        streams = {kind: _select_stream(container, kind, index, path, notes) for kind, index in chosen.items()}
        streams = {kind: stream for kind, stream in streams.items() if stream is not None}
        if not streams:
            raise MediaError(f"{format_path(path)}: has neither a picture nor sound")
        ends = _find_ends(container, list(streams.values()), notes)
        _check_header(path, container, list(streams.values()), ends, notes)
        # PyAV's streams must not be used after the container is closed, so only numbers are kept.
        indices = {kind: stream.index for kind, stream in streams.items()}
    starts: dict[str, Fraction] = {}
    for kind, what in (("video", "picture"), ("audio", "sound")):
        start = _find_start(path, indices[kind]) if indices.get(kind) in ends else None
        if start is not None:
            starts[kind] = start
        else:
            why = "that can be decoded" if kind in indices else "in the file"
            notes.append(f"no {what} {why}: its features are zero")
    if not starts:
        raise MediaError(f"{format_path(path)}: neither a picture nor sound can be decoded; write it again")
    start = min(starts.values())
    duration = float(max(ends[indices[kind]] for kind in starts) - start)
    if not 0 < duration <= MAX_DURATION_S:
        expected = f"expected more than 0 and at most {MAX_DURATION_S} s"
        raise MediaError(f"{format_path(path)}: lasts {duration:g} s, {expected}; write it again")
    video, audio = (indices[kind] if kind in starts else None for kind in chosen)
    return MediaInfo(path, video, audio, start, duration, tuple(notes))


def _select_stream(container, kind: str, index: int | None, path: Path, notes: list[str]):
    """Return the stream with this index, or the container's best of a kind; None if there is none or only a cover."""
    if index is None:
        best = container.streams.best(kind)
        if best is not None and best.disposition & type(best.disposition).attached_pic:
            notes.append("its only picture is a cover")
            return None
        return best
    streams = [stream for stream in container.streams if stream.type in ("video", "audio")]
    for stream in streams:
        if (stream.index, stream.type) == (index, kind):
            return stream
    available = ", ".join(f"{s.index} ({s.type}, {getattr(s.codec_context, 'name', 'unknown codec')})" for s in streams)
    raise MediaError(f"{format_path(path)}: no {kind} stream {index}; its streams are {available or 'none'}")


def _find_ends(container, streams: list, notes: list[str]) -> dict[int, Fraction]:
    """Find the end in seconds of each stream that has packets. Headers are often wrong or empty, packets are not.

    A packet without a duration lasts as the stream's rate says, otherwise as long as the packet before it.
    """
    ends, previous = {}, {}
    for packet in iterate_packets(container, streams, notes):
        if packet.size == 0 or packet.is_discard:
            continue
        index, stamp = packet.stream.index, packet.pts if packet.pts is not None else packet.dts
        time = ends.get(index, Fraction(0)) if stamp is None else stamp * packet.time_base
        duration = (packet.duration or 0) * packet.time_base or get_frame_duration(packet.stream)
        duration = duration or max(Fraction(0), time - previous.get(index, time))
        previous[index] = time
        ends[index] = max(ends.get(index, time), time + duration)
    return ends


def _find_start(path: Path, index: int) -> Fraction | None:
    """Find the time in seconds of the first picture or sample that the decoder returns; None if there is none.

    Packets do not tell: the priming of AAC and Opus and pictures before an edit list's start are not presented.
    """
    with open_container(path) as container:
        return next((time for time, _ in decode_stream(container, container.streams[index], [])), None)


def _check_header(path: Path, container, streams: list, ends: dict[int, Fraction], notes: list[str]) -> None:
    """Compare the durations found with the header's.

    MP4 states each stream's duration exactly, so less is an error. Matroska states that of the whole file, so less is
    noted. Other formats only estimate it.
    """
    formats = container.format.name.split(",")
    if "mp4" in formats:
        for stream in streams:
            start = (stream.start_time or 0) * stream.time_base
            stated = float((stream.duration or 0) * stream.time_base)
            found = float(max(Fraction(0), ends.get(stream.index, start) - start))
            if stated - found > MAX_MISSING_S:
                problem = f"truncated, its header says {stated:.1f} s, but its data end after {found:.1f} s"
                raise MediaError(f"{format_path(path)}: {problem}; copy it again")
    elif "matroska" in formats and container.duration:
        stated, found = container.duration / 1e6, float(max(ends.values(), default=0))
        if stated - found > MAX_MISSING_S:
            notes.append(f"its header says {stated:.1f} s, but picture and sound end after {found:.1f} s")
