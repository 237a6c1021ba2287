"""Write a few hundred short clips with real codecs, in which events of three tasks happen at known times.

python tools/make_demo_videos.py configs/demo_video.yaml
python tools/make_demo_videos.py configs/demo_video.yaml --recordings my_sounds/   # recorded sounds behind it all

In every clip things happen that are seen (TAL), that are heard (SED), and that are seen and heard at once (AVEL), in
front of a moving picture and a noise. Distractors are AVEL's classes in one modality only. Annotations and prompts go
where the configuration looks for them, the clips to the folder clips/ there, and beside it long.mp4, one to look at. An
earlier run's files are replaced, nothing else is.
"""

import multiprocessing
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import NamedTuple

import numpy as np
from joblib import cpu_count
from tqdm import tqdm

from libs.core.cli import add_override_option, build_parser, exit_on_user_error
from libs.core.config import Config, TaskSpec
from libs.core.configfile import load_config
from libs.core.errors import ConfigError
from libs.core.files import make_folder, write_json
from libs.core.prompts import sample_prompts, save_prompts
from libs.features.windows import SAMPLE_RATE_HZ
from libs.media.container import import_av
from libs.media.decode import decode_sound
from libs.media.inputs import find_videos
from libs.media.probe import probe
from libs.media.writing import RATE_HZ, write_media

CLIPS_PER_SPLIT = (240, 24, 72)  # train, validation, test
DURATION_S, LONG_S = (8.0, 14.0), 75.0
EVENT_S = (1.5, 4.5)
EVENTS_A_TASK = (0.25, 0.5, 0.25)  # chances of none, one and two events of a task in each SPAN_S
SPAN_S = 11.0
PLACING_TRIES = 20
SIZES = ((160, 96), (128, 96), (96, 128))
RATES = (20, 24, 25)  # frames/s
PART_WEBM = 0.3
LONGEST_RECORDING_S = 60.0
MARKER = "made_by_make_demo_videos"


class Look(NamedTuple):
    """How one event is drawn and played: colour (3,) in [0, 1], centre and size in picture heights, pace and pitch
    relative to the usual."""

    colour: np.ndarray
    x: float
    y: float
    size: float
    pace: float
    pitch: float


class Planted(NamedTuple):
    """An event or, of a class that is to be seen and heard, a distractor: only one of it."""

    label: str
    start: float
    end: float
    seen: bool
    heard: bool
    look: Look


# ---- what is seen: paint(picture (H, W, 3), x, y (H, W), seconds since the event began, look) ----


def _disc(picture, x, y, cx, cy, radius, colour) -> None:
    picture[(x - cx) ** 2 + (y - cy) ** 2 < radius**2] = colour


def _box(picture, x, y, cx, cy, half_width, half_height, colour) -> None:
    picture[(np.abs(x - cx) < half_width) & (np.abs(y - cy) < half_height)] = colour


def ball_bouncing(picture, x, y, t, look) -> None:
    _disc(picture, x, y, look.x, 0.85 - 0.6 * abs(np.sin(np.pi * 1.2 * look.pace * t)), 0.12 * look.size, look.colour)


def bar_sweeping(picture, x, y, t, look) -> None:
    width = x[0, -1]
    _box(picture, x, y, (0.5 * look.pace * t * width + look.x) % width, 0.5, 0.07 * look.size, 0.5, look.colour)


def square_growing(picture, x, y, t, look) -> None:
    half = 0.08 + 0.22 * look.size * ((0.8 * look.pace * t) % 1)
    _box(picture, x, y, look.x, look.y, half, half, look.colour)


def light_flickering(picture, x, y, t, look) -> None:
    picture *= 1.0 if (2.5 * look.pace * t) % 1 < 0.5 else 0.35


def stripes_scrolling(picture, x, y, t, look) -> None:
    inside = np.abs(x - look.x) < 0.3 * look.size
    picture[inside & ((6 * (y - 0.5 * look.pace * t)) % 1 < 0.5)] = look.colour


def bell_seen(picture, x, y, t, look) -> None:
    swing = 0.15 * np.sin(2 * np.pi * 1.0 * look.pace * t)
    _disc(picture, x, y, look.x + swing, look.y, 0.13 * look.size, (0.95, 0.85, 0.1))


def siren_seen(picture, x, y, t, look) -> None:
    colour = (0.9, 0.1, 0.1) if (1.5 * look.pace * t) % 1 < 0.5 else (0.1, 0.2, 0.95)
    _disc(picture, x, y, look.x, look.y, 0.15 * look.size, colour)


def drum_seen(picture, x, y, t, look) -> None:
    if (3 * look.pace * t) % 1 < 0.4:
        _box(picture, x, y, look.x, look.y, 0.2 * look.size, 0.12 * look.size, (1.0, 1.0, 1.0))


def engine_seen(picture, x, y, t, look) -> None:
    shake = 0.03 * np.sin(2 * np.pi * 5 * look.pace * t)
    _box(picture, x, y, look.x + shake, look.y, 0.25 * look.size, 0.1 * look.size, (0.1, 0.6, 0.25))


# ---- what is heard: play(seconds since the event began (S,), look, random numbers) -> (S,) within [-1, 1] ----


def beeping(t, look, rng):
    return np.sin(2 * np.pi * 1000 * look.pitch * t) * ((4 * look.pace * t) % 1 < 0.5)


def chirping(t, look, rng):
    phase = (5 * look.pace * t) % 1
    return np.sin(2 * np.pi * (2500 * phase + 600 * phase**2) * look.pitch / (5 * look.pace))


def hissing(t, look, rng):
    return np.diff(rng.uniform(-0.5, 0.5, len(t) + 1))


def clicking(t, look, rng):
    phase = (7 * look.pace * t) % 1 / (7 * look.pace)
    return np.exp(-phase * 400) * np.sin(2 * np.pi * 3000 * look.pitch * phase)


def humming(t, look, rng):
    tone = sum(np.sin(2 * np.pi * 180 * look.pitch * k * t) / k for k in (1, 2, 3))
    return 0.5 * tone * (0.7 + 0.3 * np.sin(2 * np.pi * 6 * look.pace * t))


def bell_heard(t, look, rng):
    phase = (2 * look.pace * t) % 1 / (2 * look.pace)
    partials = sum(np.sin(2 * np.pi * 700 * look.pitch * ratio * phase) for ratio in (1, 2.76, 5.4))
    return 0.33 * np.exp(-4 * phase) * partials


def siren_heard(t, look, rng):
    return np.sin(2 * np.pi * look.pitch * (650 * t - 60 / look.pace * np.cos(2 * np.pi * 0.75 * look.pace * t)))


def drum_heard(t, look, rng):
    phase = (3 * look.pace * t) % 1 / (3 * look.pace)
    return np.exp(-15 * phase) * (np.sin(2 * np.pi * 90 * look.pitch * phase) + 0.3 * rng.uniform(-1, 1, len(t)))


def engine_heard(t, look, rng):
    return 2 * ((75 * look.pitch * (t + 0.002 * np.sin(2 * np.pi * 5 * look.pace * t))) % 1) - 1


SEEN: dict[str, Callable] = {
    "ball bouncing": ball_bouncing,
    "bar sweeping": bar_sweeping,
    "square growing": square_growing,
    "light flickering": light_flickering,
    "stripes scrolling": stripes_scrolling,
    "bell": bell_seen,
    "siren": siren_seen,
    "drum": drum_seen,
    "engine": engine_seen,
}
HEARD: dict[str, Callable] = {
    "beeping": beeping,
    "chirping": chirping,
    "hissing": hissing,
    "clicking": clicking,
    "humming": humming,
    "bell": bell_heard,
    "siren": siren_heard,
    "drum": drum_heard,
    "engine": engine_heard,
}
LABELS = {  # by label_id
    "TAL": [name for name in SEEN if name not in HEARD],
    "AVEL": [name for name in SEEN if name in HEARD],
    "SED": [name for name in HEARD if name not in SEEN],
}


class Scene(NamedTuple):
    """A clip: what happens in it and how it is written."""

    name: str
    suffix: str
    duration: float
    size: tuple[int, int]
    fps: int
    planted: list[Planted]


def make_scene(name: str, rng: np.random.Generator, duration: float | None = None) -> Scene:
    duration = duration or round(float(rng.uniform(*DURATION_S)), 2)
    size = SIZES[rng.integers(len(SIZES))]
    planted: list[Planted] = []
    for task_type, labels in LABELS.items():
        own: list[Planted] = []
        for _ in range(round(duration / SPAN_S)):
            for _ in range(rng.choice(len(EVENTS_A_TASK), p=EVENTS_A_TASK)):
                own += _placed(labels, task_type != "SED", task_type != "TAL", own, duration, size, rng)
            if task_type == "AVEL":
                seen = bool(rng.random() < 0.5)
                own += _placed(labels, seen, not seen, own, duration, size, rng)
        planted += own
    suffix = ".webm" if rng.random() < PART_WEBM else ".mp4"
    return Scene(name, suffix, duration, size, int(rng.choice(RATES)), planted)


def _placed(labels, seen, heard, others, duration, size, rng) -> Iterator[Planted]:
    """An event of one of the labels where nothing else of its task happens, if a place is found."""
    width = size[0] / size[1]
    for _ in range(PLACING_TRIES):
        length = rng.uniform(*EVENT_S)
        start = rng.uniform(0, duration - length)
        if all(other.end + 0.3 < start or other.start > start + length + 0.3 for other in others):
            colour = rng.uniform(0, 1, 3)
            colour = colour / colour.max()
            look = Look(
                colour, rng.uniform(0.25, 0.75) * width, *rng.uniform((0.25, 0.8, 0.85, 0.85), (0.75, 1.3, 1.15, 1.15))
            )
            label = labels[rng.integers(len(labels))]
            yield Planted(label, round(start, 3), round(start + length, 3), seen, heard, look)
            return


def draw(scene: Scene, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """The pictures of a scene, (H, W, 3) uint8: what is seen, before a gradient that drifts, with noise."""
    width, height = scene.size
    y, x = np.mgrid[:height, :width].astype(np.float32) / height
    dark, bright = rng.uniform(0.05, 0.3, 3), rng.uniform(0.3, 0.65, 3)
    angle, pace, grain = rng.uniform(0, 2 * np.pi), rng.uniform(0.1, 0.5), rng.uniform(0.0, 0.02)
    noise = rng.standard_normal((8, height, width, 1)).astype(np.float32)
    slope = 2 * (np.cos(angle) * x + np.sin(angle) * y)
    for i in range(round(scene.duration * scene.fps)):
        at = i / scene.fps
        shade = (0.5 + 0.5 * np.sin(slope + pace * at))[..., None]
        picture = (dark + (bright - dark) * shade).astype(np.float32)
        for event in scene.planted:
            if event.seen and event.start <= at < event.end:
                SEEN[event.label](picture, x, y, at - event.start, event.look)
        picture += grain * noise[i % len(noise)]
        yield (255 * picture.clip(0, 1)).astype(np.uint8)


def play(scene: Scene, rng: np.random.Generator, recording: np.ndarray | None = None) -> np.ndarray:
    """The sound of a scene, (S,) float32 at RATE_HZ: what is heard, in a noise and, if there is one, a recording."""
    samples = round(scene.duration * RATE_HZ)
    heard = rng.uniform(0.002, 0.01) * rng.standard_normal(samples)
    if recording is not None:
        piece = np.resize(recording, samples)
        heard += rng.uniform(0.01, 0.04) * piece / max(float(np.sqrt((piece**2).mean())), 1e-4)
    for event in scene.planted:
        if event.heard:
            first, last = (round(second * RATE_HZ) for second in (event.start, event.end))
            t = np.arange(last - first) / RATE_HZ
            fade = np.minimum(1, np.minimum(t, t[::-1]) / 0.01)
            heard[first:last] += rng.uniform(0.12, 0.3) * fade * HEARD[event.label](t, event.look, rng)
    return heard.clip(-1, 1).astype(np.float32)


def piece_of(recordings: list[np.ndarray], scene: Scene, rng: np.random.Generator) -> np.ndarray | None:
    """A stretch of one of the recordings, as long as the scene if that is as long."""
    if not recordings:
        return None
    recording, samples = recordings[rng.integers(len(recordings))], round(scene.duration * RATE_HZ)
    start = rng.integers(max(1, len(recording) - samples))
    return recording[start : start + samples]


def write_scene(scene: Scene, path: Path, seed: list[int], recording: np.ndarray | None = None) -> None:
    rng = np.random.default_rng(seed)
    sound = play(scene, rng, recording)
    write_media(path, draw(scene, rng), scene.size, scene.fps, sound)


def read_recordings(sources: list[str]) -> list[np.ndarray]:
    """The sound of media files, (S,) at RATE_HZ, a minute of each. Raises UserError where there is none."""
    jobs, problems = find_videos(sources) if sources else ([], [])
    if problems:
        raise ConfigError(f"--recordings: {problems[0]}")
    found = []
    for job in jobs:
        media = probe(job.path)
        if media.audio is not None:
            count = round(min(media.duration, LONGEST_RECORDING_S) * SAMPLE_RATE_HZ)
            samples = np.concatenate(list(decode_sound(media, count, [])))
            at = np.arange(len(samples) * RATE_HZ // SAMPLE_RATE_HZ) * SAMPLE_RATE_HZ / RATE_HZ
            found.append(np.interp(at, np.arange(len(samples)), samples).astype(np.float32))
    if sources and not found:
        raise ConfigError(f"--recordings: no sound in {', '.join(sources)}")
    return found


def annotate(task: TaskSpec, scenes: dict[str, list[Scene]]) -> dict:
    """ActivityNet's layout. `distractors` (not read by training) tells what else of the task's classes happens."""
    labels = LABELS[task.task_type]
    database = {}
    for subset, members in scenes.items():
        for scene in members:
            rows = {"annotations": [], "distractors": []}
            for event in scene.planted:
                if event.label in labels:
                    whole = event.seen == (event.label in SEEN) and event.heard == (event.label in HEARD)
                    row = {"segment": [event.start, event.end], "label": event.label}
                    row["label_id"] = labels.index(event.label)
                    rows["annotations" if whole else "distractors"].append(row)
            database[scene.name] = {"subset": subset, "duration": scene.duration, **rows}
    return {"version": "demo videos", "database": database}


def write_task(task: TaskSpec, config: Config, annotations: dict, rng: np.random.Generator) -> None:
    write_json(Path(task.dataset.json_file), annotations)
    save_prompts(task.prompt_file, sample_prompts(task.dataset.num_classes, config.model.text_dim, rng))


def check(config: Config) -> Path:
    """The folder that all goes to. Raises ConfigError where the configuration is for something else."""
    folders = {Path(task.dataset.json_file).parent.parent for task in config.tasks.values()}
    splits = {(task.train_split, task.val_split, task.test_split) for task in config.tasks.values()}
    for task in config.tasks.values():
        if len(LABELS.get(task.task_type, [])) != task.dataset.num_classes:
            known = ", ".join(f"{kind} with {len(labels)} classes" for kind, labels in LABELS.items())
            raise ConfigError(f"{task.key}: {task.task_type}, {task.dataset.num_classes} classes; expected {known}")
    if len(folders) != 1 or len(splits) != 1:
        raise ConfigError("the demo's tasks share their clips: expected one folder and the same splits for all")
    return folders.pop()


@exit_on_user_error
def main() -> None:
    parser = build_parser(__doc__)
    parser.add_argument("config", metavar="CONFIG", help="for example configs/demo_video.yaml")
    parser.add_argument(
        "--recordings", nargs="+", default=[], metavar="FILE", help="media files, folders: heard behind the events"
    )
    add_override_option(parser)
    args = parser.parse_args()
    import_av()
    config = load_config(args.config, args.o)
    folder, seed = check(config), config.run.seed
    recordings = read_recordings(args.recordings)
    if folder.exists() and not (folder / MARKER).exists():
        raise ConfigError(f"{folder}: exists and was not made by this tool; move it away or set json_file")
    shutil.rmtree(folder, ignore_errors=True)
    make_folder(folder / "clips")
    (folder / MARKER).touch()

    task = next(iter(config.tasks.values()))
    rng, scenes = np.random.default_rng(seed), {}
    for subset, count in zip((*task.train_split, *task.val_split, *task.test_split), CLIPS_PER_SPLIT, strict=True):
        scenes[subset] = [make_scene(f"{subset}_{i:03d}", rng) for i in range(count)]
    scenes["long"] = [make_scene("long", rng, LONG_S)._replace(suffix=".mp4", size=(320, 192), fps=25)]
    for task in config.tasks.values():
        write_task(task, config, annotate(task, scenes), rng)

    clips = [scene for members in scenes.values() for scene in members]
    work = [(scene, folder / "clips" / f"{scene.name}{scene.suffix}") for scene in clips]
    work[-1] = (clips[-1], folder / "long.mp4")
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(cpu_count(), context) as pool:
        waiting = [
            pool.submit(write_scene, scene, path, [seed, i], piece_of(recordings, scene, rng))
            for i, (scene, path) in enumerate(work)
        ]
        for future in tqdm(as_completed(waiting), total=len(work), unit="clip", disable=None):
            future.result()
    seconds = sum(scene.duration for scene in clips[:-1])
    print(f"{len(clips) - 1} clips, {seconds:.0f} s, in {folder / 'clips'}, and {folder / 'long.mp4'}")


if __name__ == "__main__":
    main()
