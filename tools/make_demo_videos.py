"""Write a few hundred short clips with real codecs, in which events of three tasks happen at known times.

python tools/make_demo_videos.py configs/demo_video.yaml
python tools/make_demo_videos.py configs/demo_video.yaml --recordings my_sounds/   # recorded sounds in the background

Annotations and prompts go where the configuration looks for them, the clips to the folder clips/ there, and next to it
long.mp4, a longer clip for infer.py. Files of an earlier run are replaced.
"""

import shutil
from pathlib import Path

import numpy as np
from joblib import Parallel, cpu_count, delayed
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
from libs.media.scenes import HEARD, LABELS, SEEN, Scene, build_scene, write_scene
from libs.media.writing import RATE_HZ

CLIPS_PER_SPLIT = (240, 24, 72)  # train, validation, test
LONG_S = 75.0
MAX_RECORDING_S = 60.0
MARKER = "made_by_make_demo_videos"


def read_recordings(sources: list[str]) -> list[np.ndarray]:
    """Read the sound of media files, (S,) at RATE_HZ, at most a minute of each."""
    videos, problems = find_videos(sources)
    if problems:
        raise ConfigError(f"--recordings: {problems[0]}")
    recordings = []
    for media in (probe(video.path) for video in videos if video.path):
        if media.audio is not None:
            count = round(min(media.duration, MAX_RECORDING_S) * SAMPLE_RATE_HZ)
            samples = np.concatenate(list(decode_sound(media, count, [])))
            at = np.arange(len(samples) * RATE_HZ // SAMPLE_RATE_HZ) * SAMPLE_RATE_HZ / RATE_HZ
            recordings.append(np.interp(at, np.arange(len(samples)), samples).astype(np.float32))
    if sources and not recordings:
        raise ConfigError(f"--recordings: no sound in {', '.join(sources)}")
    return recordings


def cut_recording(recordings: list[np.ndarray], scene: Scene, rng: np.random.Generator) -> np.ndarray | None:
    """Cut a random piece of a random recording, at most as long as the scene."""
    if not recordings:
        return None
    recording, num_samples = recordings[rng.integers(len(recordings))], round(scene.duration * RATE_HZ)
    start = rng.integers(max(1, len(recording) - num_samples))
    return recording[start : start + num_samples]


def build_annotations(task: TaskSpec, scenes: dict[str, list[Scene]]) -> dict:
    """Build annotations in ActivityNet's layout. Training does not read `distractors`."""
    labels, database = LABELS[task.task_type], {}
    for subset, members in scenes.items():
        for scene in members:
            entry = {"subset": subset, "duration": scene.duration, "annotations": [], "distractors": []}
            for event in (event for event in scene.events if event.label in labels):
                complete = (event.seen, event.heard) == (event.label in SEEN, event.label in HEARD)
                label = {"label": event.label, "label_id": labels.index(event.label)}
                row = {"segment": [event.start, event.end], **label}
                entry["annotations" if complete else "distractors"].append(row)
            database[scene.name] = entry
    return {"version": "demo videos", "database": database}


def check_config(config: Config) -> None:
    """Raise ConfigError if the configuration is not one of the video demo."""
    for task in config.tasks.values():
        if len(LABELS.get(task.task_type, [])) != task.dataset.num_classes:
            known = ", ".join(f"{kind} with {len(labels)} classes" for kind, labels in LABELS.items())
            raise ConfigError(f"{task.key}: {task.task_type}, {task.dataset.num_classes} classes; expected {known}")


@exit_on_user_error
def main() -> None:
    parser = build_parser(__doc__)
    parser.add_argument("config", metavar="CONFIG", help="for example configs/demo_video.yaml")
    parser.add_argument("--recordings", nargs="+", default=[], metavar="FILE", help="files or folders of sound")
    add_override_option(parser)
    args = parser.parse_args()
    import_av()
    config = load_config(args.config, args.o)
    check_config(config)
    task, seed = next(iter(config.tasks.values())), config.run.seed  # the tasks share their clips
    folder = Path(task.dataset.json_file).parent.parent
    recordings = read_recordings(args.recordings)
    if folder.exists() and not (folder / MARKER).exists():
        raise ConfigError(f"{folder}: exists and was not made by this tool; move it away or set json_file")
    shutil.rmtree(folder, ignore_errors=True)
    make_folder(folder / "clips")
    (folder / MARKER).touch()

    rng, scenes = np.random.default_rng(seed), {}
    for subset, count in zip((*task.train_split, *task.val_split, *task.test_split), CLIPS_PER_SPLIT, strict=True):
        scenes[subset] = [build_scene(f"{subset}_{i:03d}", rng) for i in range(count)]
    clips = [scene for members in scenes.values() for scene in members]
    scenes["long"] = [build_scene("long", rng, LONG_S)._replace(suffix=".mp4", size=(320, 192), fps=25)]
    for task in config.tasks.values():
        write_json(Path(task.dataset.json_file), build_annotations(task, scenes))
        save_prompts(task.prompt_file, sample_prompts(task.dataset.num_classes, config.model.text_dim, rng))

    paths = [*(folder / "clips" / f"{scene.name}{scene.suffix}" for scene in clips), folder / "long.mp4"]
    calls = (
        delayed(write_scene)(scene, path.absolute(), [seed, i], cut_recording(recordings, scene, rng))
        for i, (scene, path) in enumerate(zip([*clips, *scenes["long"]], paths, strict=True))
    )
    written = Parallel(n_jobs=cpu_count(), return_as="generator_unordered")(calls)
    list(tqdm(written, total=len(paths), unit="clip", disable=None))
    seconds = sum(scene.duration for scene in clips)
    print(f"{len(clips)} clips, {seconds:.0f} s, in {folder / 'clips'}, and {paths[-1]}")


if __name__ == "__main__":
    main()
