"""What is in a media file: which streams are taken, when the first of them starts, how long they last."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from libs.core.errors import MediaError
from libs.media.container import decode_stream, format_path, frame_step, import_av, iterate_packets, open_container

LONGEST_S = 100 * 3600  # more is a damaged time stamp
MISSING_S = 1.0  # what a file may last less than its header says


@dataclass(frozen=True)
class Media:
    """A file's chosen streams (indices; None: there is none) on one time line.

    start: seconds, the time stamp of what is seen or heard first; duration: seconds from there to the end of the
    stream that ends last; notes: what a user should know.
    """

    path: Path
    video: int | None
    audio: int | None
    start: Fraction
    duration: float
    notes: tuple[str, ...]


def probe(path: Path | str, video_stream: int | None = None, audio_stream: int | None = None) -> Media:
    """Choose streams and find their common time line by reading all packets, which takes little beside decoding.

    The container's best streams are taken unless an index says otherwise. Raises MediaError on a file without picture
    and sound, of no duration, or truncated, and on an index that is no such stream's.
    """
    path, notes = Path(path), []
    with open_container(path) as container:
        video = _choose(container, "video", video_stream, path, notes)
        audio = _choose(container, "audio", audio_stream, path, notes)
        streams = [stream for stream in (video, audio) if stream is not None]
        if not streams:
            raise MediaError(f"{format_path(path)}: has neither a picture nor sound")
        ends = _ends(container, streams, notes)
        _compare_with_header(path, container, streams, ends, notes)
        # Plain numbers from here: PyAV's streams are not to be touched once the container is closed.
        indices = {stream.type: stream.index for stream in streams}
    starts = {kind: _first_shown(path, index) for kind, index in indices.items() if index in ends}
    starts = {kind: start for kind, start in starts.items() if start is not None}
    if not starts:
        raise MediaError(f"{format_path(path)}: neither a picture nor sound can be decoded; write it again")
    for kind, what in (("video", "picture"), ("audio", "sound")):
        if kind not in starts:
            why = "that can be decoded" if kind in indices else "in the file"
            notes.append(f"no {what} {why}: its features are zero")
            indices.pop(kind, None)
    start = min(starts.values())
    duration = float(max(ends[index] for index in indices.values()) - start)
    if not 0 < duration <= LONGEST_S:
        raise MediaError(
            f"{format_path(path)}: lasts {duration:g} s, expected more than 0 and at most {LONGEST_S} s; write it again"
        )
    return Media(path, indices.get("video"), indices.get("audio"), start, duration, tuple(notes))


def _choose(container, kind: str, index: int | None, path: Path, notes: list[str]):
    """The stream of that index, or the container's best of a kind; None if there is none (a cover picture is none)."""
    av = import_av()
    if index is None:
        best = container.streams.best(kind)
        if best is not None and best.disposition & av.stream.Disposition.attached_pic:
            notes.append("its only picture is a cover")
            return None
        return best
    there = {s.index: s for s in container.streams if s.type in ("video", "audio")}
    if index not in there or there[index].type != kind:
        names = ", ".join(f"{s.index} ({s.type}, {_codec(s)})" for s in there.values()) or "none"
        raise MediaError(f"{format_path(path)}: no {kind} stream {index}; its streams are {names}")
    return there[index]


def _codec(stream) -> str:
    return stream.codec_context.name if stream.codec_context else "unknown codec"


def _ends(container, streams: list, notes: list[str]) -> dict[int, Fraction]:
    """The end of each stream that has packets, in seconds, from the packets themselves: headers lie, or say nothing.

    A packet that does not say its duration lasts as the stream's rate says, else as long as the one before it.
    """
    ends: dict[int, Fraction] = {}
    last: dict[int, Fraction] = {}
    for packet in iterate_packets(container, streams, notes):
        stream, stamp = packet.stream, packet.pts if packet.pts is not None else packet.dts
        if packet.size == 0 or packet.is_discard:
            continue
        at = ends.get(stream.index, Fraction(0)) if stamp is None else stamp * packet.time_base
        if packet.duration:
            step = packet.duration * packet.time_base
        else:
            step = frame_step(stream) or max(Fraction(0), at - last.get(stream.index, at))
        last[stream.index] = at
        ends[stream.index] = max(ends.get(stream.index, at), at + step)
    return ends


def _first_shown(path: Path, index: int) -> Fraction | None:
    """The time of the first picture or sample that comes out of the decoder, in seconds; None if nothing does.

    Packets do not say: the priming of AAC and Opus and the pictures before an edit list's start are not shown.
    """
    with open_container(path) as container:
        for at, _ in decode_stream(container, container.streams[index], []):
            return at
    return None


def _compare_with_header(path: Path, container, streams: list, ends: dict[int, Fraction], notes: list[str]) -> None:
    """MP4's tables say exactly how long a stream is: less is an error. Matroska says it of the whole file: less is
    noted. Others only guess."""
    formats = container.format.name.split(",")
    if "mp4" in formats:
        for stream in streams:
            start = (stream.start_time or 0) * stream.time_base
            stated = (stream.duration or 0) * stream.time_base
            found = max(Fraction(0), ends.get(stream.index, start) - start)
            if stated - found > MISSING_S:
                raise MediaError(
                    f"{format_path(path)}: truncated, its header says {float(stated):.1f} s, but its data end after "
                    f"{float(found):.1f} s; copy it again"
                )
    elif "matroska" in formats and container.duration:
        stated, found = container.duration / 1e6, float(max(ends.values(), default=0))
        if stated - found > MISSING_S:
            notes.append(f"its header says {stated:.1f} s, but picture and sound end after {found:.1f} s")
