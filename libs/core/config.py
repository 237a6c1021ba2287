"""Configuration: YAML -> frozen, strict models. Every key, its default and its unit stand here.

`base: other.yaml` inherits (mappings merge, everything else replaces); `-o a.b=c` sets any key. The published
configuration file, which holds only TASK1/2/3, loads unchanged: all other keys have the published values as defaults.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

import numpy as np
import yaml
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

from libs.core.errors import ConfigError
from libs.core.types import MODALITIES

PYRAMID_END = 10000.0  # the published "no upper limit" of the last regression range, in grid units


MAX_TIOU_STEPS = 1000


class TaskType(NamedTuple):
    """What a task of a type is by default; all of it can be set per task in YAML."""

    shows_in: tuple[str, ...]  # modalities in which its events show
    tious: tuple[float, ...]  # temporal IoU thresholds of its mAP
    drop_repeats: bool  # its annotations repeat themselves (ActivityNet)
    prompt: str  # the sentence whose embedding stands for a class


def parse_tious(text: str) -> tuple[float, ...]:
    """tIoU thresholds from "first:last:step" or "a,b,c". Raises ValueError on anything else or outside [0, 1].

    Ranges are numpy's linspace, as in the official evaluation: its 0.1:0.9:0.1 holds 0.7000000000000001, and
    overlaps of exactly 0.7 are not rare.
    """
    try:
        if ":" in text:
            first, last, step = (float(part) for part in text.split(":"))
            steps = (last - first) / step
            fits = 0 <= steps <= MAX_TIOU_STEPS and abs(steps - round(steps)) < 1e-6
            tious = tuple(np.linspace(first, last, round(steps) + 1).tolist()) if fits else ()
        else:
            tious = tuple(float(part) for part in text.split(","))
    except (ValueError, ZeroDivisionError, OverflowError):
        tious = ()
    if not tious or not all(0 <= tiou <= 1 for tiou in tious):
        raise ValueError(f"expected tIoU thresholds as first:last:step or a,b,c between 0 and 1, got {text!r}")
    return tious


OTHER_TASK_TYPE = TaskType(("visual", "audio"), parse_tious("0.1:0.9:0.1"), False, "An audio visual event of {label}.")
TASK_TYPES = {
    "TAL": TaskType(("visual",), parse_tious("0.5:0.95:0.05"), True, "A visual event of {label}."),
    "AVEL": OTHER_TASK_TYPE,
    "SED": TaskType(("audio",), parse_tious("0.1:0.9:0.1"), False, "A sound event of {label}."),
}


def _tuple_or(parse: Callable[[str], tuple]) -> BeforeValidator:
    """A list, or a string that `parse` makes a tuple of."""
    return BeforeValidator(lambda v: parse(v) if isinstance(v, str) else tuple(v) if isinstance(v, list) else v)


def _lower(splits: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(split.lower() for split in splits)


Splits = Annotated[tuple[str, ...], _tuple_or(lambda name: (name,)), AfterValidator(_lower), Field(min_length=1)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Tious = Annotated[tuple[Fraction, ...], _tuple_or(parse_tious), Field(min_length=1)]


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class PlantedConfig(Section):
    """Features made on the fly from annotations and prompts (`feat_folder: planted`)."""

    seed: int = Field(0, ge=0, lt=2**63, description="seed of projections, noise and distractors")
    signal: float = Field(0.5, ge=0, description="root mean square of an event's signal in a feature; the noise has 1")
    correlation: float = Field(0.7, ge=0, lt=1, description="correlation of the noise of neighbouring windows")
    distractors: float = Field(1.0, ge=0, description="mean number of unlabelled distractors a video")
    shows_in: tuple[Literal["visual", "audio"], ...] | None = Field(
        None, min_length=1, description="modalities in which the task's events show; null: as its task_type says"
    )


class DatasetConfig(Section):
    json_file: str = Field(description="annotation file")
    feat_folder: str = Field(description="folder of .npy files, an HDF5 pack (.h5, .hdf5), or the word `planted`")
    file_prefix: str | None = Field(None, description="what precedes a video's id in its feature files' names")
    visual_suffix: str = Field("_one_peace_video_finetune", description="what follows the id of visual features")
    audio_suffix: str = Field("_one_peace_audio", description="what follows the id of audio features")
    prompt_file: str | None = Field(
        None, description="(num_classes, text_dim) .npy; null: <dataset_name>_prompt.npy beside the annotations' folder"
    )
    feat_stride: int = Field(gt=0, description="frames between the starts of two windows")
    num_frames: int = Field(16, gt=0, description="frames in a window")
    default_fps: float | None = Field(16, gt=0, description="frames/s of the features; null: the annotation's fps")
    train_classes: tuple[int | str, ...] | None = Field(
        None,
        min_length=1,
        description="ids or names of the classes trained on; the others are held out, and found by their prompts alone",
    )
    trunc_thresh: Fraction = Field(0.5, description="least part of a segment that a crop must keep")
    crop_ratio: tuple[Fraction, Fraction] | None = Field(
        (0.9, 1.0), description="training crops a window of this part of a clip; null: only what is too long"
    )
    num_classes: int = Field(gt=0)
    max_seq_len: int = Field(gt=0, description="longest training clip, in windows")
    max_buffer_len_factor: float = Field(
        6.0, gt=0, description="accepted from published files, not needed: points are made for any length"
    )
    force_upsampling: bool = Field(False, description="resize every clip to max_seq_len (ActivityNet)")
    class_aware: bool = Field(True, description="regress one pair of offsets a class, not one for all")
    drop_repeats: bool | None = Field(None, description="drop repeated annotations; null: as the task_type says")
    max_videos: int | None = Field(None, gt=0, description="use a split's first videos only, to try things out")
    planted: PlantedConfig = PlantedConfig()

    @model_validator(mode="after")
    def _held_out_can_be_found(self):
        if self.train_classes is not None and self.class_aware:
            raise ValueError(
                "train_classes: a class that is held out cannot learn boundaries of its own; set class_aware to false"
            )
        return self

    @field_validator("crop_ratio")
    @classmethod
    def _rising(cls, ratio):
        if ratio is not None and ratio[0] > ratio[1]:
            raise ValueError(f"expected the smaller part first, got {list(ratio)}")
        return ratio


class TaskTrainConfig(Section):
    loss_weight: float = Field(1.0, description="weight of the regression loss; <= 0: cls/max(reg, .01)")
    init_loss_norm: float = Field(400.0, gt=0, description="first value of the loss normaliser, in positives")
    label_smoothing: Fraction = 0.0


class TaskTestConfig(Section):
    pre_nms_thresh: Fraction = Field(0.001, description="scores up to this are dropped before NMS")
    pre_nms_topk: int = Field(2000, gt=0, description="(point, class) pairs a level that go to NMS")
    duration_thresh: float = Field(0.05, ge=0, description="segments no longer than this are dropped, grid units")
    nms_method: Literal["soft", "soft_linear", "hard"] = "soft"
    multiclass_nms: bool = Field(True, description="NMS a class; false: over all classes, with segment voting")
    nms_sigma: float = Field(0.4, ge=1e-6, description="soft-NMS: scores decay by exp(-IoU^2/sigma)")
    iou_threshold: Fraction = Field(0.7, description="hard NMS and linear decay: IoU from which segments compete")
    min_score: Fraction = Field(0.001, description="segments whose score decays below this are dropped")
    max_seg_num: int = Field(100, gt=0, le=100_000, description="detections a video")
    voting_thresh: Fraction = Field(0.75, description="IoU from which segments vote; 0: no voting")
    ext_score_file: str | None = Field(None, description="JSON of video-level class scores to fuse with")
    ext_top_segments: int = Field(200, gt=0, description="fusion: segments a video")
    ext_top_classes: int = Field(2, gt=0, description="fusion: classes a video")
    tious: Tious | None = Field(
        None, description="tIoU thresholds, a list or first:last:step; null: as the task_type says"
    )


class TaskSpec(Section):
    """One task: all that distinguishes it from the others. `key` is its name in the file (TASK1, …)."""

    key: str = Field(exclude=True)
    task_type: str = Field(pattern=r"^[A-Z]\w*$", description="names the task's experts in the network")
    prompt: str | None = Field(
        None, description="the sentence that stands for a class, with {label} in it; null: as the task_type says"
    )
    dataset_name: str
    train_split: Splits
    val_split: Splits = Field(description="watched by stop-and-go and the choice of the best checkpoint")
    test_split: Splits = Field(description="what is reported")
    dataset: DatasetConfig
    train_cfg: TaskTrainConfig = TaskTrainConfig()
    test_cfg: TaskTestConfig = TaskTestConfig()
    batch_size: int = Field(16, gt=0, description="videos a step, of all ranks together")
    learning_rate: float = Field(
        1e-3, gt=0, description="highest; the least of the chosen tasks' is the optimizer's, others scale their loss"
    )
    epochs: int = Field(5, gt=0, description="passes over the task's training videos in num_train_epochs")

    @field_validator("prompt")
    @classmethod
    def _names_label(cls, prompt):
        if prompt is not None and "{label}" not in prompt:
            raise ValueError(f"expected a sentence with {{label}} in it, got {prompt!r}")
        return prompt

    @property
    def defaults(self) -> TaskType:
        return TASK_TYPES.get(self.task_type, OTHER_TASK_TYPE)

    def format_prompt(self, label: str) -> str:
        """A class's prompt (method.md §1)."""
        return (self.prompt or self.defaults.prompt).replace("{label}", label)

    @property
    def tious(self) -> tuple[float, ...]:
        return self.test_cfg.tious or self.defaults.tious

    @property
    def shows_in(self) -> tuple[str, ...]:
        return self.dataset.planted.shows_in or self.defaults.shows_in

    @property
    def drop_repeats(self) -> bool:
        chosen = self.dataset.drop_repeats
        return self.defaults.drop_repeats if chosen is None else chosen

    @property
    def prompt_file(self) -> Path:
        folder = Path(self.dataset.json_file).parent.parent
        return Path(self.dataset.prompt_file or folder / f"{self.dataset_name}_prompt.npy")


class ModelConfig(Section):
    encoder: str = Field("one-peace", description="what made the features; a checkpoint refuses those of another")
    input_dim_visual: int = Field(1536, gt=0)
    input_dim_audio: int = Field(1536, gt=0)
    text_dim: int = Field(1536, gt=0, description="width of the prompt tables")
    embd_dim: int = Field(512, gt=0, description="channels of a modality in the backbone")
    head_dim: int = Field(512, gt=0)
    n_head: int = Field(4, gt=0)
    modalities: tuple[Literal["visual", "audio"], ...] = Field(
        MODALITIES, min_length=1, description="what the network is built for; the other is not looked at"
    )
    cross_attention: bool = Field(
        True, description="each modality asks the other; false: itself, and both are joined in the heads alone"
    )
    attention_window: int | None = Field(
        None, gt=0, description="keys around a query that it attends to, points of its level, odd; null: all"
    )
    expert_levels: tuple[int, ...] | None = Field(
        None,
        description="pyramid levels whose blocks have an expert a task type; elsewhere all share one. The blocks "
        "before the pyramid are of level 0. null: all levels",
    )
    classifier: Literal["prompt", "linear"] = Field(
        "prompt", description="logits by cosine similarity with prompts, or by a convolution a task that knows none"
    )
    prompts: Literal["frozen", "random", "offsets", "context"] = Field(
        "frozen",
        description="the prompt tables as they are; random unit vectors instead; learned offsets added to them; or the "
        "encoder's embedding of learned vectors before the class name",
    )
    context_length: int = Field(4, gt=0, description="prompts: context: learned vectors, tokens")
    context_dim: int = Field(512, gt=0, description="prompts: context: width of the text encoder's tokens")
    backbone_arch: tuple[int, int, int] = Field((2, 3, 5), description="embedding layers, stem blocks + 1, pyramid")
    scale_factor: Literal[1, 2] = Field(2, description="stride of a pyramid block")
    regression_range: tuple[tuple[float, float], ...] = Field(
        ((0, 4), (4, 8), (8, 16), (16, 32), (32, 64), (64, PYRAMID_END)), description="a level, grid units"
    )
    embd_kernel_size: int = Field(3, gt=0, description="windows; odd")
    embd_with_ln: bool = True
    head_kernel_size: int = Field(3, gt=0, description="grid points; odd")
    head_num_layers: int = Field(3, gt=0, description="convolutions a head, the output's included")
    use_abs_pe: bool = Field(True, description="absolute position encoding")
    official_pos_embd: bool = Field(
        False, description="the published quirk: evaluation squeezes the whole position table into a task's length"
    )
    dropout: float = Field(0.0, ge=0, lt=1, description="probability, in attention and experts")
    drop_path: float = Field(0.1, ge=0, lt=1, description="probability that a sample skips a branch")

    @property
    def input_dims(self) -> tuple[int, int]:
        """Widths of visual and audio features, 0 of a modality that the network is not built for."""
        dims = {"visual": self.input_dim_visual, "audio": self.input_dim_audio}
        visual, audio = (dims[modality] if modality in self.modalities else 0 for modality in MODALITIES)
        return visual, audio

    @property
    def reads_prompts(self) -> bool:
        """Whether the network is told what is in the prompt tables."""
        return self.classifier == "prompt" and self.prompts in ("frozen", "offsets")

    @property
    def num_levels(self) -> int:
        return self.backbone_arch[2] + 1

    @property
    def coarsest_stride(self) -> int:
        return self.scale_factor ** self.backbone_arch[2]

    @model_validator(mode="after")
    def _fits_together(self):
        if len(self.regression_range) != self.num_levels:
            raise ValueError(
                f"regression_range has {len(self.regression_range)} ranges, but backbone_arch makes "
                f"{self.num_levels} levels (backbone_arch[2] + 1): give one range a level"
            )
        if any(low >= high for low, high in self.regression_range):
            raise ValueError(f"regression_range: expected low < high in each range, got {list(self.regression_range)}")
        if self.embd_dim % self.n_head:
            raise ValueError(f"embd_dim {self.embd_dim} must be a multiple of n_head {self.n_head}")
        if self.embd_kernel_size % 2 == 0 or self.head_kernel_size % 2 == 0:
            raise ValueError("embd_kernel_size and head_kernel_size must be odd")
        if self.backbone_arch[0] < 1 or self.backbone_arch[1] < 1 or self.backbone_arch[2] < 0:
            raise ValueError("backbone_arch must be at least (1, 1, 0)")
        if len(set(self.modalities)) < len(self.modalities):
            raise ValueError(f"modalities: expected each once, got {list(self.modalities)}")
        if self.attention_window is not None and self.attention_window % 2 == 0:
            raise ValueError(f"attention_window {self.attention_window} must be odd: as many keys before as after")
        wrong = sorted(level for level in self.expert_levels or () if not 0 <= level < self.num_levels)
        if wrong:
            raise ValueError(f"expert_levels: {wrong[0]}, expected levels from 0 to {self.num_levels - 1}")
        return self


class OptimizerConfig(Section):
    weight_decay: float = Field(1e-4, ge=0, description="of weights of linear and convolution layers")
    clip_proj_lr: float = Field(1e-3, gt=0, description="learning rate of the prompt projection")
    warmup_epochs: int = Field(2, ge=0, description="epochs before num_train_epochs, lr rising linearly")
    num_train_epochs: int = Field(5, gt=0, description="epochs after the warm-up")
    schedule: Literal["cosine", "multistep"] = "cosine"
    milestones: tuple[int, ...] = Field((), description="multistep: epochs after the warm-up at which lr falls")
    gamma: float = Field(0.1, gt=0, description="multistep: by this factor")
    clip_grad_norm: float = Field(1.0, ge=0, description="largest gradient norm; 0: not clipped")
    ema_decay: float = Field(0.999, ge=0, lt=1, description="of the weights that are validated and reported")
    joint_steps: bool = Field(False, description="one optimizer step on all tasks' losses, not one a task")
    loss_normalizer_momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9

    @property
    def total_epochs(self) -> int:
        return self.warmup_epochs + self.num_train_epochs


class StopAndGoConfig(Section):
    enabled: bool = True
    patience: int = Field(1, ge=0, description="evaluations without progress before a task is paused")
    cooldown: int = Field(1, ge=0, description="evaluations after a change in which nothing is counted")
    threshold: float = Field(0.001, ge=0, description="relative gain that counts as progress")
    continue_threshold: float = Field(0.005, ge=0, description="relative loss from which a paused task goes on")
    train_iter_gap: int = Field(4, gt=0, description="a paused task trains at steps divisible by this")


class LoaderConfig(Section):
    num_workers: int = Field(2, ge=0, description="loading processes a task and rank; 0: load in the main process")
    eval_batch_size: int = Field(16, gt=0, description="videos of one padded length evaluated together")


class RunConfig(Section):
    tasks: Annotated[str | None, BeforeValidator(lambda v: str(v) if type(v) is int else v)] = Field(
        None, description="those to train and evaluate (--tasks), as 1-2; null: all of the file's"
    )
    init_from: str | None = Field(
        None, description="checkpoint or run folder with whose (EMA) weights a run begins, those that fit (--init-from)"
    )
    output_folder: str = "ckpt"
    seed: int = Field(1234567891, ge=0, lt=2**63)
    precision: Literal["float32", "tf32", "bf16"] = Field(
        "float32", description="of matrix products; with bf16 losses, norms, logits and offsets stay float32"
    )
    compile: Literal["none", "inductor", "cuda_graphs"] = Field(
        "none", description="of the network in training, by torch.compile; cuda_graphs: also replayed without launches"
    )
    checkpointing: bool = Field(
        False, description="keep no activations inside blocks for the backward pass: less memory, more time"
    )
    print_freq: int = Field(20, gt=0, description="steps between two lines of metrics.jsonl (-p)")
    ckpt_freq: int = Field(1, gt=0, description="epochs between two epoch_NNN.pth.tar (-c)")
    eval_freq: int = Field(1, gt=0, description="epochs between two evaluations; the last epoch always has one")


class Config(Section):
    tasks: dict[str, TaskSpec] = Field(min_length=1, description="the TASKn blocks of the file")
    model: ModelConfig = ModelConfig()
    opt: OptimizerConfig = OptimizerConfig()
    stop_and_go: StopAndGoConfig = StopAndGoConfig()
    loader: LoaderConfig = LoaderConfig()
    run: RunConfig = RunConfig()

    @model_validator(mode="after")
    def _fits_together(self):
        for key, task in self.tasks.items():
            if task.dataset.max_seq_len % self.model.coarsest_stride:
                raise ValueError(
                    f"{key}.dataset.max_seq_len {task.dataset.max_seq_len} must be a multiple of the coarsest "
                    f"pyramid stride {self.model.coarsest_stride}"
                )
            blind = self.model.classifier == "linear" or self.model.prompts == "random"
            if blind and task.dataset.train_classes is not None:
                raise ValueError(
                    f"{key}.dataset.train_classes: held-out classes are found by what their prompts say; set "
                    "model.classifier to prompt, and model.prompts to another than random"
                )
        if self.opt.joint_steps and self.run.compile == "cuda_graphs":
            raise ValueError(
                "opt.joint_steps adds up gradients, which graphs of run.compile: cuda_graphs overwrite; choose inductor"
            )
        return self

    @property
    def max_seq_len(self) -> int:
        """Rows of the position table."""
        return max(task.dataset.max_seq_len for task in self.tasks.values())

    def select_tasks(self, tasks: str | None) -> list[TaskSpec]:
        """The tasks named by `--tasks 1-2-3`, in that order; for None those of run.tasks, or all of the file's."""
        tasks, named_by = (self.run.tasks, "run.tasks: ") if tasks is None else (tasks, "--tasks ")
        if tasks is None:
            return list(self.tasks.values())
        keys = [f"TASK{part.removeprefix('TASK')}" for part in tasks.split("-")]
        for key in keys:
            if key not in self.tasks:
                raise ConfigError(
                    f"{named_by}{tasks}: the configuration has no {key}; choose from {', '.join(self.tasks)}"
                )
        if len(set(keys)) < len(keys):
            raise ConfigError(f"{named_by}{tasks}: a task is named twice; name each once")
        return [self.tasks[key] for key in keys]

    def to_tree(self) -> dict:
        """The plain tree that `from_tree` reads back, as written to a run's folder and into checkpoints."""
        tree = self.model_dump(mode="json")
        return {**tree.pop("tasks"), **tree}

    def to_yaml(self) -> str:
        return yaml.safe_dump(self.to_tree(), sort_keys=False, allow_unicode=True, width=120)
