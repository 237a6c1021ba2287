"""From a video to events, with nothing but a checkpoint: `Localizer.from_checkpoint(path).localize("clip.mp4")`."""

import itertools
import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from libs.core.config import ModelConfig, TaskSpec
from libs.core.configfile import from_tree
from libs.core.errors import CheckpointError, ConfigError, DataError
from libs.core.types import Clip, Event
from libs.datasets.clips import resize
from libs.datasets.loaders import collate
from libs.features.windows import FRAME_RATE_HZ, WINDOW_FRAMES
from libs.media.encoders.base import Encoder
from libs.media.encoders.build import build_encoder
from libs.media.extract import Extracted, extract
from libs.modeling.postprocess import decode_predictions
from libs.modeling.uniav import UniAV
from libs.training.checkpoint import find_checkpoint, load_checkpoint, load_weights

# In lengths of training clips: what goes through the network at once, and what a piece sees beyond its own.
PIECE, MARGIN = 16, 2


@dataclass(frozen=True)
class Localized:
    """One video's events, the best first, and what was read of the video."""

    events: list[Event]
    media: Extracted


class Localizer:
    """A network with its encoder, class names and prompts, all from a checkpoint of this project's training."""

    def __init__(self, model: UniAV, tasks: list[TaskSpec], encoder: Encoder, class_names: dict[str, list[str]]):
        """model: in evaluation mode, the tasks' prompts set. class_names: of each task, by label_id."""
        self.model, self.tasks, self.encoder, self.class_names = model, tasks, encoder, class_names
        self.trained = {task.key: model.prompts(task.key).clone() for task in tasks if model.uses_prompts}
        self.nearest: dict[str, Tensor] = {}  # of replaced classes: the trained class whose boundaries each takes
        # One decoding serves all tasks: windows at the largest common stride, of which each task takes every n-th.
        self.stride = math.gcd(*(task.dataset.feat_stride for task in tasks))

    @classmethod
    def from_checkpoint(
        cls, path: str | Path, tasks: str | None = None, encoder: str | None = None, device: str | None = None
    ) -> "Localizer":
        """tasks as "1-2-3", those it was trained on by default; encoder: by default the one that made its features.

        Raises CheckpointError on a checkpoint that does not say what is needed, or that was trained on another
        encoder's features; UserError where the encoder needs what is not installed.
        """
        path = find_checkpoint(Path(path))
        content = load_checkpoint(path)
        if not all(isinstance(content.get(key), dict) for key in ("config", "prompts", "class_names")):
            raise CheckpointError(
                f"{path}: holds weights only, no configuration, prompts and class names; train with this project, or "
                "evaluate it with eval.py"
            )
        config = from_tree(content["config"])
        provenance = config.model.encoder
        if encoder is not None and encoder != provenance:
            raise CheckpointError(
                f"{path}: was trained on features of {provenance}, not of {encoder}; use --encoder {provenance}"
            )
        trained = [task for key, task in config.tasks.items() if key in content["class_names"]]
        chosen = trained if tasks is None else config.select_tasks(tasks)
        for task in chosen:
            if task not in trained:
                raise ConfigError(
                    f"{path}: was not trained on {task.key}; choose from {', '.join(t.key for t in trained)}"
                )
            if task.dataset.num_frames != WINDOW_FRAMES or task.dataset.default_fps != FRAME_RATE_HZ:
                raise CheckpointError(
                    f"{path}: {task.key}'s windows are not {WINDOW_FRAMES} frames at {FRAME_RATE_HZ} fps"
                )
        model = UniAV.from_config(config)
        load_weights(model, content["state_dict_ema"], path)
        for task in chosen:
            if model.uses_prompts:
                model.override_prompts(task.key, content["prompts"][task.key])
        where = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        names = {task.key: list(content["class_names"][task.key]) for task in chosen}
        return cls(model.to(where).eval(), chosen, _checked(build_encoder(provenance), config.model, path), names)

    def set_classes(self, task_type: str, names: list[str]) -> None:
        """Replace a task's classes by free text, which the encoder embeds: other prompts are other classes.

        A task that regresses boundaries class by class takes, for each new one, those of the trained class whose prompt
        is nearest. Raises UserError where the encoder embeds no text, ConfigError where there is no such task.
        """
        task = next((t for t in self.tasks if task_type in (t.key, t.task_type)), None)
        if task is None:
            known = ", ".join(t.task_type for t in self.tasks)
            raise ConfigError(f"--task {task_type}: the checkpoint has no such task; choose from {known}")
        if task.key not in self.trained:
            raise ConfigError("--classes: its linear classifier knows no prompts; train with classifier: prompt")
        if self.model.config.prompts == "random":
            raise ConfigError("--classes: the checkpoint was trained with random prompts, to which text means nothing")
        trained = self.trained[task.key]
        prompts = self._embed(task, names).to(trained)
        if prompts.shape[1] != trained.shape[1]:
            raise ConfigError(
                f"{self.encoder.name}: embeds text in {prompts.shape[1]} numbers, the network's prompts have "
                f"{trained.shape[1]}; train with prompts of that encoder"
            )
        self.nearest[task.key] = (F.normalize(prompts, dim=-1) @ F.normalize(trained, dim=-1).t()).argmax(dim=1)
        self.model.override_prompts(task.key, prompts)
        self.class_names[task.key] = names

    @torch.no_grad()
    def _embed(self, task: TaskSpec, names: list[str]) -> Tensor:
        """Class names as the network has learned to read them: in the task's sentence, or after learned vectors."""
        if self.model.config.prompts == "context":
            embed, _ = self.encoder.context_embedder(names, self.model.config.context_length)
            return embed(self.model.learned_prompts[task.key])
        return torch.from_numpy(self.encoder.encode_text([task.format_prompt(name) for name in names]))

    def localize(self, path: str | Path, min_score: float = 0.1) -> list[Event]:
        """The events of a video, the best first. Raises MediaError on a file that cannot be read."""
        return self.localize_media(path, min_score).events

    def localize_media(
        self, path: str | Path, min_score: float, video_stream: int | None = None, audio_stream: int | None = None
    ) -> Localized:
        """`localize`, and what was read of the video. Streams are indices in the file, None the container's best."""
        media = extract(path, self.encoder, self.stride, video_stream, audio_stream)
        return Localized(
            self.localize_features(media.visual, media.audio, self.stride, media.duration, min_score), media
        )

    def localize_features(
        self, visual: np.ndarray, audio: np.ndarray, stride: int, duration: float, min_score: float = 0.1
    ) -> list[Event]:
        """The events of features (T, Dv) and (T, Da), windows `stride` frames apart, of a video of `duration` seconds.

        Raises ConfigError where the widths are not the network's, or a task's windows are not every n-th of these;
        DataError where they are not finite.
        """
        config = self.model.config
        found, expected = (visual.shape[1], audio.shape[1]), (config.input_dim_visual, config.input_dim_audio)
        if found != expected:
            raise ConfigError(f"features of {found} numbers, the network takes {expected}; extract with its encoder")
        if not (np.isfinite(visual).all() and np.isfinite(audio).all()):
            raise DataError("features that are NaN or infinite; extract them again")
        for task in self.tasks:
            if task.dataset.feat_stride % stride:
                raise ConfigError(
                    f"windows {stride} frames apart, {task.key} needs {task.dataset.feat_stride}; extract with "
                    f"--stride {self.stride}"
                )
        streams = torch.from_numpy(visual), torch.from_numpy(audio)
        events = [e for task in self.tasks for e in self._events(task, *streams, stride, duration, min_score)]
        return sorted(events, key=lambda event: -event.score)

    @torch.inference_mode()
    def _events(
        self, task: TaskSpec, visual: Tensor, audio: Tensor, stride: int, duration: float, min_score: float
    ) -> Iterable[Event]:
        """Of the whole video, or of overlapping pieces of a very long one, so that time and memory grow with length.

        An event belongs to the piece in whose core its middle lies: the pieces' cores tile the video. Of those a piece
        keeps as many as its core's length allows, so that all together are as many as the video's length does.
        """
        spec, step = task.dataset, task.dataset.feat_stride // stride
        visual, audio = visual[::step].float(), audio[::step].float()
        window_s = spec.feat_stride / FRAME_RATE_HZ
        for piece in [_Piece(0, len(visual))] if spec.force_upsampling else _pieces(len(visual), spec.max_seq_len):
            begins_s = piece.first * window_s
            rows = slice(piece.first, piece.last)
            events = self._events_of_piece(task, visual[rows], audio[rows], duration - begins_s, min_score)
            moved = (e._replace(start=e.start + begins_s, end=e.end + begins_s) for e in events)
            own = (e for e in moved if piece.core_first <= (e.start + e.end) / 2 / window_s < piece.core_last)
            core = min(piece.core_last, len(visual)) - max(piece.core_first, 0)
            yield from itertools.islice(own, _for_length(task, core).test_cfg.max_seg_num)

    def _events_of_piece(
        self, task: TaskSpec, visual: Tensor, audio: Tensor, duration: float, min_score: float
    ) -> Iterable[Event]:
        spec = task.dataset
        no_events = torch.zeros(0, 2), torch.zeros(0).long()
        clip = Clip("video", duration, FRAME_RATE_HZ, spec.feat_stride, spec.num_frames, *no_events)
        if spec.force_upsampling:
            frames = ((len(visual) - 1) * spec.feat_stride + spec.num_frames) / spec.max_seq_len
            clip = replace(clip, feat_stride=frames, num_frames=frames)
            visual, audio = resize(visual, spec.max_seq_len), resize(audio, spec.max_seq_len)
        else:
            task = _for_length(task, len(visual))
        tight = not self.model.config.official_pos_embd
        batch = collate([(clip, visual, audio)], spec.max_seq_len, self.model.config.coarsest_stride, tight)
        prediction = self.model(batch.to(next(self.model.parameters()).device), task.key)
        if spec.class_aware and task.key in self.nearest:
            prediction = replace(prediction, offsets=prediction.offsets[:, :, self.nearest[task.key]])
        found = decode_predictions(prediction, batch.clips, task)
        for (start, end), score, label in zip(found.segments.tolist(), found.scores, found.labels, strict=True):
            if score >= min_score and end > start:
                yield Event(task.key, task.task_type, self.class_names[task.key][label], start, end, float(score))


class _Piece(NamedTuple):
    """Windows first … last of a video, and which moments (in windows) are its own."""

    first: int
    last: int
    core_first: float = -math.inf
    core_last: float = math.inf


def _pieces(windows: int, max_seq_len: int) -> list[_Piece]:
    """One of up to PIECE training clips' length; else several that overlap by twice MARGIN, the last by more. Their
    cores begin at whole training clips."""
    size, margin = PIECE * max_seq_len, MARGIN * max_seq_len
    if windows <= size:
        return [_Piece(0, windows)]
    step = size - 2 * margin
    count = math.ceil((windows - 2 * margin) / step)
    cores = [-math.inf, *(size - margin + step * i for i in range(count - 1)), math.inf]
    firsts = (min(step * i, windows - size) for i in range(count))
    return [_Piece(first, first + size, *cores[i : i + 2]) for i, first in enumerate(firsts)]


def _for_length(task: TaskSpec, windows: float) -> TaskSpec:
    """The task with its limits on detections, which are of one training clip's length, for a longer video."""
    times, limits = math.ceil(windows / task.dataset.max_seq_len), task.test_cfg
    more = {key: getattr(limits, key) * times for key in ("pre_nms_topk", "max_seg_num")}
    return task.model_copy(update={"test_cfg": limits.model_copy(update=more)})


def _checked(encoder: Encoder, config: ModelConfig, path: Path) -> Encoder:
    """The encoder, if its features are as wide as the network's inputs."""
    made, expected = (encoder.visual_dim, encoder.audio_dim), (config.input_dim_visual, config.input_dim_audio)
    if made != expected:
        raise CheckpointError(f"{path}: expects features of {expected} numbers, {encoder.name} gives {made}")
    return encoder
