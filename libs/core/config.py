"""Configuration models: every YAML key with its default, unit and meaning.

libs/core/configfile.py reads YAML files into these frozen, strict models. The published configuration file, which holds
only TASK1 to TASK3, loads unchanged because all other keys default to the published values. docs/configuration.md is
generated from this file, which is over 300 lines because one place describes all keys.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

import numpy as np
import yaml
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from libs.core.errors import ConfigError
from libs.core.types import MODALITIES

PYRAMID_END = 10000.0  # the published "no upper limit" of the last regression range, in grid units


def parse_tious(text: str) -> tuple[float, ...]:
    """Parse tIoU thresholds from "first:last:step" or "a,b,c".

    Ranges are numpy's linspace, as in the official evaluation: its 0.1:0.9:0.1 holds 0.7000000000000001, and overlaps
    of exactly 0.7 occur.

    Raises:
        ConfigError: if the text has another form or a threshold is outside [0, 1].
    """
    try:
        if ":" in text:
            first, last, step = (float(part) for part in text.split(":"))
            num_steps = (last - first) / step
            is_whole = num_steps >= 0 and abs(num_steps - round(num_steps)) < 1e-6
            tious = tuple(np.linspace(first, last, round(num_steps) + 1).tolist()) if is_whole else ()
        else:
            tious = tuple(float(part) for part in text.split(","))
    except (ValueError, ZeroDivisionError, OverflowError):
        tious = ()
    if not tious or not all(0 <= tiou <= 1 for tiou in tious):
        raise ConfigError(f"tious {text!r}: expected tIoU thresholds as first:last:step or a,b,c between 0 and 1")
    return tious


class TaskType(NamedTuple):
    """Defaults of a task type. YAML can override each of them."""

    shows_in: tuple[str, ...]  # modalities in which its planted events show
    tious: tuple[float, ...]  # tIoU thresholds of its mAP
    drop_repeats: bool  # whether its annotations contain repeats to drop (ActivityNet)
    prompt: str  # sentence that is embedded for each class


OTHER_TASK_TYPE = TaskType(("visual", "audio"), parse_tious("0.1:0.9:0.1"), False, "An audio visual event of {label}.")
TASK_TYPES = {
    "TAL": TaskType(("visual",), parse_tious("0.5:0.95:0.05"), True, "A visual event of {label}."),
    "AVEL": OTHER_TASK_TYPE,
    "SED": TaskType(("audio",), parse_tious("0.1:0.9:0.1"), False, "A sound event of {label}."),
}


def _tuple_or(parse: Callable[[str], tuple]) -> BeforeValidator:
    """Accept a list, or a string that `parse` turns into a tuple."""
    return BeforeValidator(lambda v: parse(v) if isinstance(v, str) else tuple(v) if isinstance(v, list) else v)


Split = Annotated[str, AfterValidator(str.lower)]
Splits = Annotated[tuple[Split, ...], _tuple_or(lambda name: (name,)), Field(min_length=1)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Tious = Annotated[tuple[Fraction, ...], _tuple_or(parse_tious), Field(min_length=1)]
Modality = Literal["visual", "audio"]
NmsMethod = Literal["soft", "soft_linear", "hard"]


class Section(BaseModel):
    """Base of all configuration sections. `Section.model_validate({})` has the defaults."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    def list_requirements(self) -> dict[str, bool]:
        """List what must hold between keys: the message of its error, and whether it holds."""
        return {}

    @model_validator(mode="after")
    def _check_requirements(self):
        for message, holds in self.list_requirements().items():
            if not holds:
                raise ValueError(message)
        return self


class PlantedConfig(Section):
    """Features that are generated from annotations and prompts (`feat_folder: planted`)."""

    seed: int = Field(0, ge=0, lt=2**63, description="seed of projections, noise and distractors")
    signal: float = Field(0.5, ge=0, description="root mean square of an event's signal in a feature; the noise has 1")
    correlation: float = Field(0.7, ge=0, lt=1, description="correlation of the noise between neighbouring windows")
    distractors: float = Field(1.0, ge=0, description="mean number of unlabelled distractors per video")
    shows_in: tuple[Modality, ...] | None = Field(None, min_length=1, description="modalities; null: by task_type")


class DatasetConfig(Section):
    """Annotations, features and clips of a task."""

    json_file: str = Field(description="annotation file")
    feat_folder: str = Field(description="folder of .npy files, an HDF5 pack (.h5, .hdf5), or the word `planted`")
    file_prefix: str | None = Field(None, description="prefix of video ids in feature files' names")
    visual_suffix: str = Field("_one_peace_video_finetune", description="suffix of visual feature files' names")
    audio_suffix: str = Field("_one_peace_audio", description="suffix of audio feature files' names")
    prompt_file: str | None = Field(
        None, description="(num_classes, text_dim) .npy; null: <dataset_name>_prompt.npy beside the annotations' folder"
    )
    feat_stride: int = Field(gt=0, description="frames between the starts of two windows")
    num_frames: int = Field(16, gt=0, description="frames in a window")
    default_fps: float | None = Field(16, gt=0, description="frames per second of the features; null: as annotated")
    train_classes: tuple[int | str, ...] | None = Field(
        None, min_length=1, description="ids or names of classes to train on; prompts alone find the others; null: all"
    )
    trunc_thresh: Fraction = Field(0.5, description="smallest fraction of a segment that a crop must keep")
    crop_ratio: tuple[Fraction, Fraction] | None = Field(
        (0.9, 1.0), description="range of the part of a clip that training crops; null: only clips that are too long"
    )
    num_classes: int = Field(gt=0, description="number of classes")
    max_seq_len: int = Field(gt=0, description="longest training clip, in windows")
    max_buffer_len_factor: float = Field(6.0, gt=0, description="not used: points are made for any length")
    force_upsampling: bool = Field(False, description="resize every clip to max_seq_len (ActivityNet)")
    class_aware: bool = Field(True, description="regress a pair of offsets per class; false: one for all")
    drop_repeats: bool | None = Field(None, description="drop repeated annotations; null: by task_type")
    max_videos: int | None = Field(None, gt=0, description="use only a split's first videos, to try things; null: all")
    planted: PlantedConfig = PlantedConfig.model_validate({})

    def list_requirements(self) -> dict[str, bool]:
        first, last = self.crop_ratio or (0.0, 1.0)
        held_out = "train_classes: a held-out class cannot learn its own boundaries; set class_aware to false"
        return {
            held_out: self.train_classes is None or not self.class_aware,
            "crop_ratio: expected the smaller fraction first": first <= last,
        }


class TaskTrainConfig(Section):
    """Losses of a task."""

    loss_weight: float = Field(1.0, description="weight of the regression loss; <= 0: cls/max(reg, .01)")
    init_loss_norm: float = Field(400.0, gt=0, description="first value of the loss normalizer, in positives")
    label_smoothing: Fraction = Field(0.0, description="label smoothing of the classification loss")


class TaskTestConfig(Section):
    """Decoding and evaluation of a task."""

    pre_nms_thresh: Fraction = Field(0.001, description="scores up to this are dropped before NMS")
    pre_nms_topk: int = Field(2000, gt=0, description="(point, class) pairs per level that go to NMS")
    duration_thresh: float = Field(0.05, ge=0, description="segments up to this length are dropped, in grid units")
    nms_method: NmsMethod = Field("soft", description="overlaps lose score by Gaussian or linear decay, or are removed")
    multiclass_nms: bool = Field(True, description="NMS per class; false: over all classes, with segment voting")
    nms_sigma: float = Field(0.4, ge=1e-6, description="soft: scores decay by exp(-IoU^2/sigma)")
    iou_threshold: Fraction = Field(0.7, description="hard and soft_linear: IoU from which segments compete")
    min_score: Fraction = Field(0.001, description="segments with a decayed score below this are dropped")
    max_seg_num: int = Field(100, gt=0, le=100_000, description="detections per video")
    voting_thresh: Fraction = Field(0.75, description="IoU from which segments vote; 0: no voting")
    ext_score_file: str | None = Field(None, description="JSON of video-level class scores to fuse; null: none")
    ext_top_segments: int = Field(200, gt=0, description="fusion: segments per video")
    ext_top_classes: int = Field(2, gt=0, description="fusion: classes per video")
    tious: Tious | None = Field(None, description="tIoU thresholds, a list or first:last:step; null: by task_type")


class TaskSpec(Section):
    """A task: everything in which it differs from other tasks."""

    _key: str = ""  # set by Config
    task_type: str = Field(pattern=r"^[A-Z]\w*$", description="TAL, AVEL, SED or a name of your own; names the experts")
    prompt: str | None = Field(None, description="sentence per class with {label} in it; null: by task_type")
    dataset_name: str = Field(description="name of the data set, in file names")
    train_split: Splits = Field(description="splits to train on, a name or a list")
    val_split: Splits = Field(description="splits for stop-and-go and for choosing the best checkpoint")
    test_split: Splits = Field(description="splits that eval.py reports")
    dataset: DatasetConfig
    train_cfg: TaskTrainConfig = TaskTrainConfig.model_validate({})
    test_cfg: TaskTestConfig = TaskTestConfig.model_validate({})
    batch_size: int = Field(16, gt=0, description="videos per step, over all ranks")
    learning_rate: float = Field(1e-3, gt=0, description="peak; the lowest is the optimizer's, others scale their loss")
    epochs: int = Field(5, gt=0, description="passes over the task's training videos during opt.num_train_epochs")

    def list_requirements(self) -> dict[str, bool]:
        return {"prompt: expected a sentence with {label} in it": self.prompt is None or "{label}" in self.prompt}

    @property
    def key(self) -> str:
        """The name of the task's block: TASK1, TASK2, …"""
        return self._key

    @property
    def defaults(self) -> TaskType:
        return TASK_TYPES.get(self.task_type, OTHER_TASK_TYPE)

    def format_prompt(self, label: str) -> str:
        """Format the prompt sentence of a class (method.md §1)."""
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
    """The network."""

    encoder: str = Field("one-peace", description="encoder of the features that the network works with")
    input_dim_visual: int = Field(1536, gt=0, description="width of visual features")
    input_dim_audio: int = Field(1536, gt=0, description="width of audio features")
    text_dim: int = Field(1536, gt=0, description="width of the prompt tables")
    embd_dim: int = Field(512, gt=0, description="channels per modality in the backbone")
    head_dim: int = Field(512, gt=0, description="channels in the heads")
    n_head: int = Field(4, gt=0, description="attention heads")
    modalities: tuple[Modality, ...] = Field(MODALITIES, min_length=1, description="modalities that the network reads")
    cross_attention: bool = Field(True, description="each modality attends to the other; false: to itself alone")
    attention_window: int | None = Field(None, gt=0, description="odd number of keys around each query; null: all")
    expert_levels: tuple[int, ...] | None = Field(
        None, description="pyramid levels with an expert per task type (blocks before the pyramid: level 0); null: all"
    )
    classifier: Literal["prompt", "linear"] = Field("prompt", description="cosine with prompts, or linear per task")
    prompts: Literal["frozen", "random", "offsets", "context"] = Field(
        "frozen",
        description="tables, random vectors, tables + learned offsets, or learned context before the class name",
    )
    context_length: int = Field(4, gt=0, description="prompts: context: number of learned vectors, in tokens")
    context_dim: int = Field(512, gt=0, description="prompts: context: width of the text encoder's tokens")
    backbone_arch: tuple[int, int, int] = Field((2, 3, 5), description="embeddings, stem blocks + 1, pyramid blocks")
    scale_factor: Literal[1, 2] = Field(2, description="stride of a pyramid block")
    regression_range: tuple[tuple[float, float], ...] = Field(
        ((0, 4), (4, 8), (8, 16), (16, 32), (32, 64), (64, PYRAMID_END)),
        description="range of offsets that each level regresses, in grid units",
    )
    embd_kernel_size: int = Field(3, gt=0, description="kernel of the embedding convolutions, in windows; odd")
    embd_with_ln: bool = Field(True, description="layer norm after each embedding convolution")
    head_kernel_size: int = Field(3, gt=0, description="kernel of the heads' convolutions, in grid points; odd")
    head_num_layers: int = Field(3, gt=0, description="convolutions per head, including the output")
    use_abs_pe: bool = Field(True, description="absolute position encoding")
    official_pos_embd: bool = Field(False, description="published quirk: evaluation squeezes the position table")
    dropout: float = Field(0.0, ge=0, lt=1, description="dropout probability in attention and experts")
    drop_path: float = Field(0.1, ge=0, lt=1, description="probability that a sample skips a residual branch")

    @property
    def input_dims(self) -> tuple[int, int]:
        """Widths of visual and audio features, 0 for a modality that the network does not read."""
        dims = {"visual": self.input_dim_visual, "audio": self.input_dim_audio}
        visual, audio = (dims[modality] if modality in self.modalities else 0 for modality in MODALITIES)
        return visual, audio

    @property
    def reads_prompts(self) -> bool:
        """Whether the network uses the prompt tables."""
        return self.classifier == "prompt" and self.prompts in ("frozen", "offsets")

    @property
    def num_levels(self) -> int:
        return self.backbone_arch[2] + 1

    @property
    def coarsest_stride(self) -> int:
        return self.scale_factor ** self.backbone_arch[2]

    def list_requirements(self) -> dict[str, bool]:
        ranges, levels, window = self.regression_range, self.num_levels, self.attention_window
        odd = self.embd_kernel_size % 2 == self.head_kernel_size % 2 == 1
        embedding, stem, _ = self.backbone_arch
        return {
            "backbone_arch must be at least (1, 1, 0)": min(embedding, stem, levels) >= 1,
            f"regression_range: backbone_arch makes {levels} levels; give one range a level": len(ranges) == levels,
            "regression_range: expected low < high in each range": all(low < high for low, high in ranges),
            f"embd_dim {self.embd_dim} must be a multiple of n_head {self.n_head}": self.embd_dim % self.n_head == 0,
            "embd_kernel_size and head_kernel_size must be odd": odd,
            "modalities: expected each once": len(set(self.modalities)) == len(self.modalities),
            f"attention_window {window} must be odd: as many keys before as after": window is None or window % 2 == 1,
            f"expert_levels: expected 0 to {levels - 1}": set(self.expert_levels or ()) <= set(range(levels)),
        }


class OptimizerConfig(Section):
    """Optimizer (AdamW) and learning rate schedule."""

    weight_decay: float = Field(1e-4, ge=0, description="weight decay of linear and convolution weights")
    clip_proj_lr: float = Field(1e-3, gt=0, description="learning rate of the prompt projection")
    warmup_epochs: int = Field(2, ge=0, description="epochs of linear warm-up, in addition to num_train_epochs")
    num_train_epochs: int = Field(5, gt=0, description="epochs after the warm-up")
    schedule: Literal["cosine", "multistep"] = Field("cosine", description="learning rate after the warm-up")
    milestones: tuple[int, ...] = Field((), description="multistep: epochs after the warm-up at which the rate drops")
    gamma: float = Field(0.1, gt=0, description="multistep: factor of each drop")
    clip_grad_norm: float = Field(1.0, ge=0, description="largest gradient norm; 0: no clipping")
    ema_decay: float = Field(0.999, ge=0, lt=1, description="decay of the averaged weights, which are evaluated")
    joint_steps: bool = Field(False, description="one step on all tasks' losses; false: one step per task")
    loss_normalizer_momentum: float = Field(0.9, ge=0, lt=1, description="momentum of the running mean of positives")

    @property
    def total_epochs(self) -> int:
        return self.warmup_epochs + self.num_train_epochs


class StopAndGoConfig(Section):
    """Stop-and-go: pause the training of tasks that no longer improve."""

    enabled: bool = Field(True, description="whether tasks are paused")
    patience: int = Field(1, ge=0, description="evaluations without progress before a task is paused")
    cooldown: int = Field(1, ge=0, description="evaluations after a change that are not counted")
    threshold: float = Field(0.001, ge=0, description="relative gain that counts as progress")
    continue_threshold: float = Field(0.005, ge=0, description="relative loss from which a paused task resumes")
    train_iter_gap: int = Field(4, gt=0, description="a paused task trains at one step in so many")


class LoaderConfig(Section):
    """Data loading."""

    num_workers: int = Field(2, ge=0, description="loading processes per task and rank; 0: load in the main process")
    eval_batch_size: int = Field(16, gt=0, description="videos of equal padded length that are evaluated together")


class RunConfig(Section):
    """A run: tasks, precision, output and how often things happen. Options of train.py are in brackets."""

    tasks: Annotated[str | None, BeforeValidator(lambda v: str(v) if type(v) is int else v)] = Field(
        None, description="tasks to use, such as 1-2 (--tasks); null: all in the file"
    )
    init_from: str | None = Field(None, description="checkpoint or run whose (EMA) weights to start from (--init-from)")
    output_folder: str = Field("ckpt", description="folder of all runs' folders")
    seed: int = Field(1234567891, ge=0, lt=2**63, description="seed of weights, order and crops")
    precision: Literal["float32", "tf32", "bf16"] = Field(
        "float32", description="of matrix products; with bf16, losses, norms, logits and offsets stay float32"
    )
    compile: Literal["none", "inductor", "cuda_graphs"] = Field(
        "none", description="torch.compile of the network in training; cuda_graphs also replays it as CUDA graphs"
    )
    checkpointing: bool = Field(False, description="recompute activations in the backward pass: less memory, more time")
    print_freq: int = Field(20, gt=0, description="steps between two lines of metrics.jsonl (-p)")
    ckpt_freq: int = Field(1, gt=0, description="epochs between two epoch_NNN.pth.tar (-c)")
    eval_freq: int = Field(1, gt=0, description="epochs between two evaluations; the last epoch always has one")


class Config(Section):
    """The whole configuration of a run."""

    tasks: dict[str, TaskSpec] = Field(min_length=1, description="the TASKn blocks of the file")
    model: ModelConfig = ModelConfig.model_validate({})
    opt: OptimizerConfig = OptimizerConfig.model_validate({})
    stop_and_go: StopAndGoConfig = StopAndGoConfig.model_validate({})
    loader: LoaderConfig = LoaderConfig.model_validate({})
    run: RunConfig = RunConfig.model_validate({})

    def model_post_init(self, context: object) -> None:
        for key, task in self.tasks.items():
            task._key = key

    def list_requirements(self) -> dict[str, bool]:
        graphs = "opt.joint_steps adds up gradients, which run.compile: cuda_graphs overwrites; choose inductor"
        requirements = {graphs: not (self.opt.joint_steps and self.run.compile == "cuda_graphs")}
        knows_prompts = self.model.classifier == "prompt" and self.model.prompts != "random"
        for key, task in self.tasks.items():
            name, length, stride = f"{key}.dataset", task.dataset.max_seq_len, self.model.coarsest_stride
            multiple = f"{name}.max_seq_len {length} must be a multiple of the coarsest pyramid stride {stride}"
            known = (
                f"{name}.train_classes: held-out classes need model.classifier: prompt, and prompts that are not random"
            )
            holds_out = task.dataset.train_classes is not None
            requirements |= {multiple: length % stride == 0, known: knows_prompts or not holds_out}
        return requirements

    @property
    def max_seq_len(self) -> int:
        """Rows of the position table."""
        return max(task.dataset.max_seq_len for task in self.tasks.values())

    def select_tasks(self, tasks: str | None) -> list[TaskSpec]:
        """Select the tasks named by `--tasks 1-2-3`, in that order; None selects run.tasks, or else all tasks."""
        tasks, option = (self.run.tasks, "run.tasks: ") if tasks is None else (tasks, "--tasks ")
        if tasks is None:
            return list(self.tasks.values())
        keys = [f"TASK{part.removeprefix('TASK')}" for part in tasks.split("-")]
        for key in keys:
            if key not in self.tasks:
                raise ConfigError(
                    f"{option}{tasks}: the configuration has no {key}; choose from {', '.join(self.tasks)}"
                )
        if len(set(keys)) < len(keys):
            raise ConfigError(f"{option}{tasks}: a task is named twice; name each once")
        return [self.tasks[key] for key in keys]

    def to_tree(self) -> dict:
        """Convert to the plain tree that `from_tree` reads, for run folders and checkpoints."""
        tree = self.model_dump(mode="json")
        return {**tree.pop("tasks"), **tree}

    def to_yaml(self) -> str:
        return yaml.safe_dump(self.to_tree(), sort_keys=False, allow_unicode=True, width=120)
