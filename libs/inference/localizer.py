"""From a video to events with a checkpoint alone: `Localizer.from_checkpoint(path).localize("clip.mp4")`."""

import itertools
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from libs.core.config import TaskSpec
from libs.core.configfile import from_tree
from libs.core.errors import CheckpointError, ConfigError, DataError
from libs.core.types import Clip, Event
from libs.datasets.clips import resize
from libs.datasets.loaders import collate
from libs.features.windows import FRAME_RATE_HZ, WINDOW_FRAMES, grid
from libs.inference.result import VideoResult
from libs.inference.tiling import Piece, scale_limits, split_into_pieces
from libs.media.encoders.base import ContextEncoder, Encoder
from libs.media.encoders.build import build_encoder
from libs.media.extract import extract_features
from libs.modeling.postprocess import decode_predictions
from libs.modeling.uniav import UniAV
from libs.training.checkpoint import find_checkpoint, load_checkpoint, load_weights


class Localizer:
    """A trained network with its encoder, class names and prompts.

    A video is decoded once for all tasks: its windows are `stride` frames apart, and each task uses every n-th.
    """

    def __init__(
        self,
        model: UniAV,
        tasks: list[TaskSpec],
        encoder: Encoder,
        class_names: dict[str, list[str]],
        contexts: dict[str, Tensor] | None = None,
    ):
        """Initialize from a model in evaluation mode with the tasks' prompts set.

        Args:
            class_names: by task key, in the order of label_id.
            contexts: learned prompt context (context_length, context_dim) by task key, which `set_classes` embeds.
        """
        self.model, self.tasks, self.encoder, self.class_names = model, tasks, encoder, class_names
        self.contexts = contexts or {}
        self.stride = math.gcd(*(task.dataset.feat_stride for task in tasks))
        self.trained_prompts = {task.key: model.prompts[task.key]().clone() for task in tasks if model.uses_prompts}
        # For replaced classes, by task key: the trained class with the most similar prompt, which lends its boundaries.
        self.nearest_trained: dict[str, Tensor] = {}

    @classmethod
    def from_checkpoint(
        cls, path: str | Path, tasks: str | None = None, encoder: str | None = None, device: str | None = None
    ) -> "Localizer":
        """Load a checkpoint of this project's training.

        Args:
            path: a file, or a run's folder.
            tasks: such as "1-3"; by default all that it was trained on.
            encoder: must be the one that made the training features, which is the default.
            device: by default a GPU if there is one.

        Raises:
            CheckpointError: the checkpoint holds weights only, or was trained on other features.
            UserError: the encoder needs a package that is not installed.
        """
        path = find_checkpoint(Path(path))
        content = load_checkpoint(path)
        if not all(isinstance(content.get(key), dict) for key in ("config", "prompts", "class_names")):
            raise CheckpointError(f"{path}: holds weights only; train with this project, or evaluate it with eval.py")
        config = from_tree(content["config"])
        trained_on, class_names = config.model.encoder, content["class_names"]
        if encoder not in (None, trained_on):
            raise CheckpointError(f"{path}: was trained on features of {trained_on}, not of {encoder}; use its encoder")
        selected = config.select_tasks(tasks or "-".join(key for key in config.tasks if key in class_names))
        for task in selected:
            if task.key not in class_names:
                raise ConfigError(f"{path}: was not trained on {task.key}; choose from {', '.join(class_names)}")
            if (task.dataset.num_frames, task.dataset.default_fps) != (WINDOW_FRAMES, FRAME_RATE_HZ):
                expected = f"{WINDOW_FRAMES} frames at {FRAME_RATE_HZ} fps"
                raise CheckpointError(f"{path}: windows of {task.key} are not {expected}; train on those of extract.py")
        model = UniAV(config)
        load_weights(model, content["state_dict_ema"], path)
        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        model.to(device).eval()
        contexts = {}
        for task in selected if model.uses_prompts else []:
            if config.model.prompts == "context":
                contexts[task.key] = model.get_parameter(f"prompts.{task.key}.learned")
            model.override_prompts(task.key, content["prompts"][task.key].to(device))
        return cls(model, selected, build_encoder(trained_on), class_names, contexts)

    @torch.no_grad()
    def set_classes(self, task_type: str, names: list[str]) -> None:
        """Replace a task's classes by free text, which the encoder embeds in the task's sentence or learned context.

        Where boundaries are regressed for each class, a new class uses those of the trained class with the nearest
        prompt.

        Args:
            task_type: such as "SED", or the task's key.

        Raises:
            ConfigError: there is no such task, or its network cannot use the new prompts.
            UserError: the encoder embeds no text.
        """
        task = next((t for t in self.tasks if task_type in (t.key, t.task_type)), None)
        if task is None:
            known = ", ".join(t.task_type for t in self.tasks)
            raise ConfigError(f"--task {task_type}: no such task in the checkpoint; choose from {known}")
        if not self.model.uses_prompts or self.model.config.prompts == "random":
            raise ConfigError("--classes: needs a network with model.classifier=prompt, and model.prompts not random")
        names = [name.strip() for name in names if name.strip()]
        if not names:
            raise ConfigError("--classes: expected names separated by commas")
        if task.key in self.contexts:
            assert isinstance(self.encoder, ContextEncoder)  # training with learned context requires one
            embed, _ = self.encoder.build_context_embedder(names, self.model.config.context_length)
            prompts = embed(self.contexts[task.key])
        else:
            prompts = torch.from_numpy(self.encoder.encode_text([task.format_prompt(name) for name in names]))
        trained = self.trained_prompts[task.key]
        prompts = prompts.to(trained)
        if prompts.shape[1] != trained.shape[1]:
            raise ConfigError(
                f"{self.encoder.name}: text embeddings have {prompts.shape[1]} numbers, the network's prompts "
                f"{trained.shape[1]}; train with prompts of that encoder"
            )
        similarity = F.normalize(prompts, dim=-1) @ F.normalize(trained, dim=-1).t()
        self.nearest_trained[task.key] = similarity.argmax(dim=1)
        self.model.override_prompts(task.key, prompts)
        self.class_names[task.key] = names

    def localize(self, path: str | Path, min_score: float = 0.1) -> list[Event]:
        """Find the events of a video, best first. Raises MediaError if the file cannot be read."""
        return self.localize_video(path, min_score).events

    def localize_video(
        self, path: str | Path, min_score: float = 0.1, streams: tuple[int | None, int | None] = (None, None)
    ) -> VideoResult:
        """Find the events of a video, and keep what its page shows.

        Args:
            streams: indices of the stream of pictures and of that of sound; None takes the best one.
        """
        path = Path(path)
        media = extract_features(path, self.encoder, self.stride, *streams)
        events = self.localize_features(media.visual, media.audio, self.stride, media.duration, min_score)
        peaks = np.abs(media.waveform_peaks).max(axis=1, initial=0)
        return VideoResult(path.stem, path, events, media.duration, peaks, tuple(media.notes))

    def localize_features(
        self, visual: np.ndarray, audio: np.ndarray, stride: int, duration: float, min_score: float = 0.1
    ) -> list[Event]:
        """Find the events in features of a video, best first.

        Args:
            visual, audio: (T, Dv) and (T, Da), of windows `stride` frames apart.
            duration: of the video, in seconds.

        Raises:
            ConfigError: the features have other widths or another stride than the network needs.
            DataError: the features are NaN or infinite.
        """
        config = self.model.config
        widths, expected = (visual.shape[1], audio.shape[1]), (config.input_dim_visual, config.input_dim_audio)
        if widths != expected:
            raise ConfigError(f"features have widths {widths}, the network needs {expected}; extract with its encoder")
        if not (np.isfinite(visual).all() and np.isfinite(audio).all()):
            raise DataError("features are NaN or infinite; extract them again")
        events = []
        for task in self.tasks:
            step, remainder = divmod(task.dataset.feat_stride, stride)
            if remainder:
                problem = f"windows are {stride} frames apart, {task.key} needs {task.dataset.feat_stride}"
                raise ConfigError(f"{problem}; extract with --stride {self.stride}")
            windows = torch.from_numpy(visual[::step]).float(), torch.from_numpy(audio[::step]).float()
            events += self._localize_task(task, *windows, duration, min_score)
        return sorted(events, key=lambda event: -event.score)

    @torch.inference_mode()
    def _localize_task(
        self, task: TaskSpec, visual: Tensor, audio: Tensor, duration: float, min_score: float
    ) -> Iterator[Event]:
        """Find one task's events in all its windows, piece by piece."""
        spec, num_windows = task.dataset, len(visual)
        window_s = spec.feat_stride / FRAME_RATE_HZ
        # A resized video has one length, however long it is.
        pieces = [Piece(0, num_windows)] if spec.force_upsampling else split_into_pieces(num_windows, spec.max_seq_len)
        for piece in pieces:
            rows, start_s = slice(piece.start, piece.stop), piece.start * window_s
            events = self._localize_piece(task, visual[rows], audio[rows], duration - start_s, min_score)
            events = (event._replace(start=event.start + start_s, end=event.end + start_s) for event in events)
            own = (e for e in events if piece.core_start <= (e.start + e.end) / 2 / window_s < piece.core_stop)
            # As many as the core's length allows, so that the pieces together keep as many as the whole video may.
            core = min(piece.core_stop, num_windows) - max(piece.core_start, 0)
            yield from itertools.islice(own, scale_limits(task, core).test_cfg.max_seg_num)

    def _localize_piece(
        self, task: TaskSpec, visual: Tensor, audio: Tensor, duration: float, min_score: float
    ) -> Iterator[Event]:
        """Find one task's events in what passes the network at once; times are relative to its start."""
        spec, config = task.dataset, self.model.config
        no_events = torch.zeros(0, 2), torch.zeros(0).long()
        clip = Clip("video", duration, FRAME_RATE_HZ, *grid(spec, len(visual)), *no_events)
        if spec.force_upsampling:
            visual, audio = resize(visual, spec.max_seq_len), resize(audio, spec.max_seq_len)
        else:
            task = scale_limits(task, len(visual))
        tight = not config.official_pos_embd
        batch = collate([(clip, visual, audio)], spec.max_seq_len, config.coarsest_stride, tight)
        prediction = self.model(batch.to(next(self.model.parameters()).device), task.key)
        if spec.class_aware and task.key in self.nearest_trained:
            prediction = replace(prediction, offsets=prediction.offsets[:, :, self.nearest_trained[task.key]])
        detections = decode_predictions(prediction, batch.clips, task)
        rows = zip(detections.segments.tolist(), detections.scores.tolist(), detections.labels, strict=True)
        for (start, end), score, label in rows:
            if score >= min_score and end > start:
                yield Event(task.key, task.task_type, self.class_names[task.key][label], start, end, score)
