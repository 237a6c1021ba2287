"""Check the implementation against golden numbers of the published code: `python -m tests.golden FOLDER`.

Prints a row per check with its largest error, and exits with status 1 if one is out of tolerance. An error is the
smaller of the absolute error and the error relative to the expected value. Checks of files that a folder lacks are left
out. tests/test_golden.py runs the same checks on the small files in tests/golden_data. The file is over 300 lines
because it holds one check per golden file.
"""

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from tabulate import tabulate

from benchmarks.plain.training import dense_offsets
from libs.core.config import Config
from libs.core.configfile import from_tree
from libs.core.types import MODALITIES, Batch, Clip
from libs.datasets.annotations import load_annotations
from libs.datasets.clips import ClipDataset
from libs.datasets.loaders import collate
from libs.features.sources import open_feature_files
from libs.modeling.losses import Criterion
from libs.modeling.points import make_points, make_targets
from libs.modeling.postprocess import decode_predictions
from libs.modeling.published import from_published, published_name
from libs.modeling.uniav import UniAV
from libs.ops.nms import nms_1d, vote_segments
from libs.training.ema import EMA
from libs.training.optimizer import build_optimizer, lr_factor, set_lr
from libs.training.stop_and_go import StopAndGo

FORWARD_TOLERANCE, NMS_TOLERANCE, CURVE_TOLERANCE, SCHEDULE_TOLERANCE = 1e-4, 1e-5, 1e-4, 1e-12


class Check(NamedTuple):
    name: str
    error: float
    tolerance: float

    @property
    def passed(self) -> bool:
        return self.error <= self.tolerance


def error(actual, expected) -> float:
    """Compute the largest error; infinite for NaN and for different shapes."""
    actual, expected = (np.asarray(x.detach() if torch.is_tensor(x) else x, np.float64) for x in (actual, expected))
    if actual.shape != expected.shape:
        return np.inf
    if actual.size == 0:
        return 0.0
    difference = np.abs(actual - expected) / np.maximum(1, np.abs(expected))
    return float(np.nan_to_num(difference, nan=np.inf).max())


def small_config(folder: Path, **model) -> Config:
    """Build the configuration of the small network; `model` overrides keys of the model section."""
    tree = json.loads((folder / "small_model.json").read_text())
    tasks, decoding = tree.pop("tasks"), tree.pop("test_cfg")
    momentum = tree.pop("loss_normalizer_momentum")
    config = {
        "model": {**tree, "drop_path": 0.1, **model},
        "opt": {"warmup_epochs": 2, "num_train_epochs": 3, "loss_normalizer_momentum": momentum},
    }
    in_dataset = ("num_classes", "max_seq_len", "class_aware", "feat_stride", "num_frames")
    in_training = ("label_smoothing", "init_loss_norm", "loss_weight")
    for key, task in tasks.items():
        config[key] = {
            "task_type": task["task_type"],
            "dataset_name": key.lower(),
            "train_split": "train",
            "val_split": "val",
            "test_split": "val",
            "dataset": {
                "json_file": "none",
                "feat_folder": "none",
                "default_fps": task["fps"],
                **{k: task[k] for k in in_dataset},
            },
            "train_cfg": {k: task[k] for k in in_training},
            "test_cfg": {**decoding, "nms_sigma": task["nms_sigma"]},
        }
    return from_tree(config)


def small_model(folder: Path, config: Config) -> UniAV:
    model = UniAV(config)
    path = folder / "official_small.pth.tar"
    state = torch.load(path, map_location="cpu", weights_only=True)["state_dict_ema"]
    model.load_state_dict(from_published(state, model.state_dict()))
    prompts = np.load(folder / "small_prompts.npz")
    for key in config.tasks:
        model.set_prompts(key, torch.from_numpy(prompts[key]))
    return model


def read_batch(data, prefix: str, task: str, config: Config) -> Batch:
    """Collate the clips `{prefix}in{i}_*` of a file."""
    spec = config.tasks[task].dataset
    items = []
    while f"{prefix}in{len(items)}_visual" in data:
        visual, audio, segments, labels, duration = (
            data[f"{prefix}in{len(items)}_{k}"] for k in ("visual", "audio", "segments", "labels", "duration")
        )
        clip = Clip(
            str(len(items)),
            float(duration),
            spec.default_fps or 0.0,
            spec.feat_stride,
            spec.num_frames,
            torch.from_numpy(segments),
            torch.from_numpy(labels),
        )
        items.append((clip, torch.from_numpy(visual.T), torch.from_numpy(audio.T)))
    return collate(items, spec.max_seq_len, config.model.coarsest_stride)


def check_forward(folder: Path, name: str) -> Iterator[Check]:
    task = name.split("_")[1]
    data = np.load(folder / f"{name}.npz")
    config = small_config(folder, official_pos_embd=name.endswith("official_pe"))
    spec = config.tasks[task]
    model = small_model(folder, config).eval()
    batch = read_batch(data, "", task, config)
    with torch.no_grad():
        features = {"visual": batch.visual, "audio": batch.audio}
        levels = model.backbone(features, batch.mask[..., None], spec.task_type, spec.dataset.max_seq_len)
        prediction = model(batch, task)
    worst = max(
        error(level.features[m].transpose(1, 2), data[f"level{i}_{m}"])
        for i, level in enumerate(levels)
        for m in MODALITIES
    )
    yield Check(f"{name} pyramid", worst, FORWARD_TOLERANCE)
    masks = max(error(level.mask.transpose(1, 2), data[f"level{i}_mask"]) for i, level in enumerate(levels))
    yield Check(f"{name} masks", masks, 0)
    logits, offsets = (x.split(prediction.level_sizes, dim=1) for x in (prediction.logits, prediction.offsets))
    worst = max(error(x, data[f"level{i}_cls_logits"]) for i, x in enumerate(logits))
    yield Check(f"{name} logits", worst, FORWARD_TOLERANCE)
    # At padded points, offsets are ReLU(scale·0) in both codes.
    worst = max(error(x.flatten(2).transpose(1, 2), data[f"level{i}_offsets"]) for i, x in enumerate(offsets))
    yield Check(f"{name} offsets", worst, FORWARD_TOLERANCE)

    detections = decode_predictions(prediction, batch.clips, spec)
    for column, tolerance in (("segments", FORWARD_TOLERANCE), ("scores", FORWARD_TOLERANCE), ("labels", 0)):
        worst = max(
            error(getattr(detections, column)[detections.video == i], data[f"det{i}_{column}"])
            for i in range(len(batch.clips))
        )
        yield Check(f"{name} detections' {column}", worst, tolerance)
    if "target0_cls" in data:
        yield from _check_losses(name, data, spec, model, batch, prediction, config)


def _check_losses(name, data, spec, model, batch, prediction, config) -> Iterator[Check]:
    targets = make_targets(
        prediction.points, batch.segments, batch.labels, spec.dataset.num_classes, spec.dataset.class_aware
    )
    yield Check(
        f"{name} targets' classes",
        max(error(targets.classes[i], data[f"target{i}_cls"]) for i in range(len(batch.clips))),
        0,
    )
    offsets = dense_offsets(targets, prediction.offsets.shape[2])
    used = targets.classes > 0 if spec.dataset.class_aware else targets.classes.amax(-1, keepdim=True) > 0
    worst = max(
        error(offsets[i][used[i]], data[f"target{i}_offsets"].reshape(offsets.shape[1:])[used[i].numpy()])
        for i in range(len(batch.clips))
    )
    yield Check(f"{name} targets' offsets", worst, FORWARD_TOLERANCE)

    model.train()
    for module in model.modules():
        if hasattr(module, "prob"):  # switch drop path off, but keep its scales
            module.prob = 0.0
    with torch.no_grad():
        prediction = model(batch, spec.key)
    criterion = Criterion(spec, config.opt.loss_normalizer_momentum)
    losses = criterion(prediction, targets)
    expected = [data[f"loss_{k}_loss"] for k in ("cls", "reg", "final")]
    yield Check(f"{name} losses", error(torch.stack(losses), np.stack(expected)), FORWARD_TOLERANCE)
    yield Check(f"{name} normaliser", error(criterion.normalizer, data["loss_normalizer_after"]), FORWARD_TOLERANCE)
    balanced = spec.model_copy(update={"train_cfg": spec.train_cfg.model_copy(update={"loss_weight": 0.0})})
    total = Criterion(balanced, config.opt.loss_normalizer_momentum)(prediction, targets).total
    yield Check(f"{name} balanced loss", error(total, data["loss_auto_final_loss"]), FORWARD_TOLERANCE)


def check_nms(folder: Path) -> Iterator[Check]:
    data = np.load(folder / "nms.npz")
    kinds = {  # method, multiclass, sigma, voting_thresh
        "soft_multiclass": ("soft", True, 0.4, None),
        "hard_multiclass": ("hard", True, 0.4, None),
        "soft_agnostic_voting": ("soft", False, 0.75, 0.75),
        "hard_agnostic": ("hard", False, 0.4, None),
    }
    cases = sum(1 for key in data if key.endswith("_soft_multiclass_scores"))
    for kind, (method, multiclass, sigma, voting) in kinds.items():
        numbers, labels_off = 0.0, 0.0
        for case in range(cases):
            segments, scores, labels = (
                torch.from_numpy(data[f"case{case}_{k}"]) for k in ("segments", "scores", "labels")
            )
            splits = torch.tensor([0, len(scores)])
            rows, kept, counts = nms_1d(
                segments, scores, labels, splits, method=method, multiclass=multiclass, sigma=sigma
            )
            rows, kept = rows[0, : counts[0]], kept[0, : counts[0]]
            found = segments[rows]
            if voting is not None:
                found = vote_segments(found[None], segments, scores, splits, voting)[0]
            expected = {k: data[f"case{case}_{kind}_{k}"] for k in ("segments", "scores", "labels")}
            numbers = max(numbers, error(kept, expected["scores"]), error(found, expected["segments"]))
            labels_off = max(labels_off, error(labels[rows], expected["labels"]))
        yield Check(f"nms {kind}", numbers, NMS_TOLERANCE)
        yield Check(f"nms {kind} labels", labels_off, 0)


def dataset_config(folder: Path, name: str, dims: tuple[int, int]) -> Config:
    """Build the configuration of dataset_{name}.npz, with its settings as TASK1."""
    on_disk, task_type, subsets, stride, max_seq_len, trunc, classes, prefix = {
        "anet": ("activitynet13", "TAL", ("training", "validation"), 8, 64, 0.5, 5, "v_"),
        "unav100": ("unav100", "AVEL", ("train", "test"), 4, 256, 0.5, 4, None),
        "dcase": ("desed", "SED", ("validation", "public_eval"), 4, 64, 0.3, 3, None),
    }[name]
    root = folder / "dataset" / on_disk
    return from_tree(
        {
            "model": {
                "input_dim_visual": dims[0],
                "input_dim_audio": dims[1],
                "backbone_arch": [2, 2, 3],
                "regression_range": [[0, 4], [4, 8], [8, 16], [16, 10000]],
            },
            "TASK1": {
                "task_type": task_type,
                "dataset_name": name,
                "train_split": subsets[0],
                "val_split": subsets[1],
                "test_split": subsets[1],
                "dataset": {
                    "json_file": str(next((root / "annotations").glob("*.json"))),
                    "feat_folder": str(root / "av_features"),
                    "file_prefix": prefix,
                    "feat_stride": stride,
                    "trunc_thresh": trunc,
                    "crop_ratio": None,
                    "num_classes": classes,
                    "max_seq_len": max_seq_len,
                    "force_upsampling": task_type == "TAL",
                    "class_aware": task_type != "TAL",
                },
            },
        }
    )


def check_dataset(folder: Path, name: str) -> Iterator[Check]:
    """Check the data set anet, unav100 or dcase."""
    data = np.load(folder / f"dataset_{name}.npz")
    dims = tuple(data[f"train0_{m}"].shape[0] for m in MODALITIES)
    config = dataset_config(folder, name, dims)
    spec = config.tasks["TASK1"]
    classes, max_seq_len = spec.dataset.num_classes, spec.dataset.max_seq_len
    annotations = load_annotations(spec.dataset.json_file, classes)
    for part, splits in (("train", spec.train_split), ("eval", spec.val_split)):
        dataset = ClipDataset(annotations.select_splits(splits), open_feature_files(spec.dataset, dims), spec)
        ids = [video.video_id for video in dataset.videos]
        worst: dict[str, float] = {"ids": float(ids != data[f"{part}_ids"].tolist())}
        for i in range(len(ids)):
            clip, visual, audio = dataset[(0, i) if part == "train" else i]
            points, _ = make_points(config.model, max_seq_len)
            batch = collate([(clip, visual, audio)], max_seq_len, config.model.coarsest_stride)
            targets = make_targets(points, batch.segments, batch.labels, classes, spec.dataset.class_aware)
            target_offsets = dense_offsets(targets, classes if spec.dataset.class_aware else 1)[0]
            expected_offsets = data[f"{part}{i}_target_offsets"].reshape(target_offsets.shape)
            unused = (targets.classes[0].amax(-1) == 0).numpy()
            expected_offsets[unused] = 0
            found = {
                "visual": visual.t(),
                "audio": audio.t(),
                "segments": clip.segments,
                "labels": clip.labels,
                "feat_stride": clip.feat_stride,
                "feat_num_frames": clip.num_frames,
                "points": points,
                "target_cls": targets.classes[0],
                "target_offsets": target_offsets,
            }
            for key, value in found.items():
                expected = expected_offsets if key == "target_offsets" else data[f"{part}{i}_{key}"]
                worst[key] = max(worst.get(key, 0), error(value, expected))
        for key, value in worst.items():
            exact = key in ("ids", "labels", "points", "target_cls")
            yield Check(f"dataset_{name} {part} {key}", value, 0 if exact else FORWARD_TOLERANCE)


def check_training(folder: Path) -> Iterator[Check]:
    data = np.load(folder / "training.npz")
    config = small_config(folder, drop_path=0.0)
    model = small_model(folder, config).train()
    ema = EMA(model, 0.999)
    tasks = list(config.tasks.values())
    optimizer = build_optimizer(model, config.opt, base_lr=1e-3)
    criteria = {task.key: Criterion(task, config.opt.loss_normalizer_momentum) for task in tasks}
    batches = {task.key: read_batch(data, f"{task.key}_", task.key, config) for task in tasks}
    losses, lrs = np.zeros_like(data["losses"]), np.zeros_like(data["lrs"])
    for step in range(len(losses)):
        set_lr(optimizer, lr_factor(config.opt, step, steps_per_epoch=3))
        lrs[step] = [group["lr"] for group in optimizer.param_groups]
        for i, task in enumerate(tasks):
            optimizer.zero_grad(set_to_none=True)
            prediction = model(batches[task.key], task.key)
            spec = task.dataset
            targets = make_targets(
                prediction.points,
                batches[task.key].segments,
                batches[task.key].labels,
                spec.num_classes,
                spec.class_aware,
            )
            loss = criteria[task.key](prediction, targets)
            loss.total.backward()
            norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            ema.update()
            losses[step, i] = [x.item() for x in (*loss, norm)]
    yield Check(
        "training losses and gradient norms", error(losses / data["losses"], np.ones_like(losses)), CURVE_TOLERANCE
    )
    yield Check("training lrs", error(lrs, data["lrs"]), SCHEDULE_TOLERANCE)
    for kind, state in (("final", model.state_dict()), ("ema", ema.model.state_dict())):
        published = {published_name(name): value for name, value in state.items()}
        worst = 0.0
        for key in data:
            if key.startswith(f"{kind}/"):
                value = published[key.partition("/")[2]]
                worst = max(worst, error(value.reshape(data[key].shape), data[key]))
        yield Check(f"training {kind} weights", worst, FORWARD_TOLERANCE)


def check_optimizer_groups(folder: Path) -> Iterator[Check]:
    model = UniAV(small_config(folder))
    names = {parameter: published_name(name) for name, parameter in model.named_parameters()}
    config = small_config(folder).opt
    found = {
        (group["weight_decay"], group["base_lr"], frozenset(names[p] for p in group["params"]))
        for group in build_optimizer(model, config, base_lr=1e-3).param_groups
    }
    golden = json.loads((folder / "optimizer_groups.json").read_text())
    expected = {(g["weight_decay"], g["base_lr"], frozenset(g["params"])) for g in golden}
    yield Check("optimizer groups", float(len(found ^ expected)), 0)


def check_schedules(folder: Path, name: str) -> Iterator[Check]:
    """Check the schedule cosine or multistep."""
    config = small_config(folder).opt.model_copy(
        update={"schedule": name, "milestones": (2, 3), "warmup_epochs": 2, "num_train_epochs": 5}
    )
    expected = np.load(folder / f"schedule_{name}.npy")
    found = [lr_factor(config, step, steps_per_epoch=7)(1e-3) for step in range(len(expected))]
    yield Check(f"schedule {name}", error(np.array(found) / 1e-3, expected / 1e-3), SCHEDULE_TOLERANCE)


def check_stop_and_go(folder: Path) -> Iterator[Check]:
    golden = json.loads((folder / "stop_and_go.json").read_text())
    config = small_config(folder).stop_and_go
    wrong = 0
    for sequence in golden["sequences"]:
        state = StopAndGo(config)
        wrong += sum(state.update(x) != paused for x, paused in zip(sequence["map"], sequence["stopped"], strict=True))
    yield Check("stop-and-go", float(wrong), 0)


def _named(pattern: str, prefix: str, check: Callable) -> Callable[[Path], Iterator[Check]]:
    """Make a check that runs `check(folder, name)` for each file of a pattern; name is its stem without the prefix."""

    def run(folder: Path) -> Iterator[Check]:
        for path in sorted(folder.glob(pattern)):
            yield from check(folder, path.stem.removeprefix(prefix))

    return run


CHECKS: dict[str, Callable[[Path], Iterator[Check]]] = {  # file or pattern: its check
    "forward_*.npz": _named("forward_*.npz", "", check_forward),
    "nms.npz": check_nms,
    "dataset_*.npz": _named("dataset_*.npz", "dataset_", check_dataset),
    "training.npz": check_training,
    "optimizer_groups.json": check_optimizer_groups,
    "schedule_*.npy": _named("schedule_*.npy", "schedule_", check_schedules),
    "stop_and_go.json": check_stop_and_go,
}


def run_checks(folder: Path, pattern: str) -> list[Check]:
    """Run the checks of an entry of CHECKS; none if the folder lacks its files."""
    return list(CHECKS[pattern](folder)) if list(folder.glob(pattern)) else []


def main() -> None:
    parser = argparse.ArgumentParser(description="Check the implementation against golden numbers.")
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="a folder of golden numbers")
    folder = parser.parse_args().folder
    checks = [check for pattern in CHECKS for check in run_checks(folder, pattern)]
    if not checks:
        sys.exit(f"{folder}: no golden files there")
    rows = [(c.name, f"{c.error:.2e}", f"{c.tolerance:g}", "ok" if c.passed else "OUT OF TOLERANCE") for c in checks]
    print(tabulate(rows, headers=("check", "largest error", "tolerance", "")))
    failed = sum(not check.passed for check in checks)
    print(f"\n{len(checks) - failed} of {len(checks)} checks in tolerance")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
