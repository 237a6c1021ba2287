"""infer.py and Localizer: from a checkpoint and a file to events."""

import csv
import glob
import itertools
import json

import numpy as np
import pytest
import torch

from libs.core.configfile import from_tree
from libs.core.errors import CheckpointError, ConfigError, DataError, MediaError, UserError
from libs.core.types import Event
from libs.inference.localizer import Localizer, _pieces
from libs.media.encoders.build import build_encoder
from libs.modeling.uniav import UniAV
from tests.conftest import tiny_tree

pytest.importorskip("av", reason="needs PyAV: pip install -e .[media]")

from tests.clips import write_clip  # noqa: E402

BUILTIN = build_encoder("builtin")


def save_checkpoint(folder, **changes):
    """What train.py saves, of a network with random weights on builtin features."""
    tree = tiny_tree(folder)
    tree["model"] = tree["model"] | {
        "encoder": "builtin",
        "input_dim_visual": BUILTIN.visual_dim,
        "input_dim_audio": BUILTIN.audio_dim,
    }
    config = from_tree(tree)
    torch.manual_seed(0)
    model = UniAV.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape) * 0.3)  # whatever their layout in memory
    counts = {key: task.dataset.num_classes for key, task in config.tasks.items()}
    content = {
        "state_dict_ema": model.state_dict(),
        "config": config.to_tree(),
        "class_names": {key: [f"{key} <class> {i}" for i in range(n)] for key, n in counts.items()},
        "prompts": {key: torch.randn(n, 8) for key, n in counts.items()},
    }
    path = folder / "last.pth.tar"
    torch.save({k: v for k, v in (content | changes).items() if v is not None}, path)
    return path


@pytest.fixture
def clip(tmp_path):
    return write_clip(tmp_path / "ä clip.mp4", 4)


def test_three_lines_of_python(tmp_path, clip):
    localizer = Localizer.from_checkpoint(save_checkpoint(tmp_path), device="cpu")
    events = localizer.localize(clip, min_score=0.01)
    assert {type(event) for event in events} == {Event}
    assert {event.task_type for event in events} == {"TAL", "AVEL", "SED"}
    assert [event.score for event in events] == sorted((event.score for event in events), reverse=True)
    assert all(0 <= event.start < event.end <= 4.1 and 0.01 <= event.score <= 1 for event in events)
    assert all(event.label.startswith(f"{event.task} <class>") for event in events)
    assert localizer.localize(clip, min_score=0.01) == events


def test_it_localizes_as_evaluation_does(tiny, run_script, tmp_path):
    """The same video through extract.py and eval.py, and through Localizer: the same detections."""
    clips = {name: write_clip(tmp_path / f"{name}.mp4", 6, flash=(1, 3), beep=(2, 5)) for name in ("one", "two")}
    checkpoint = save_checkpoint(tmp_path)
    overrides, found = [], Localizer.from_checkpoint(checkpoint, device="cpu")
    for i, kind in ((1, "tal"), (2, "avel"), (3, "sed")):
        stride = 8 if kind == "tal" else 4
        features = tmp_path / f"features_{kind}"
        status, _, err = run_script("extract.py", *clips.values(), "--out", features, "--stride", stride)
        assert status == 0, err
        database = {n: {"subset": "test", "duration": 6.0, "annotations": []} for n in clips}
        database["one"]["annotations"] = [{"segment": [1, 3], "label": "x", "label_id": 0}]
        (tmp_path / f"{kind}.json").write_text(json.dumps({"database": database}))
        overrides += [
            f"TASK{i}.dataset.json_file={tmp_path / f'{kind}.json'}",
            f"TASK{i}.dataset.feat_folder={features}",
            f"TASK{i}.dataset.prompt_file={tmp_path / f'{kind}.npy'}",
        ]
        np.save(tmp_path / f"{kind}.npy", torch.load(checkpoint, weights_only=True)["prompts"][f"TASK{i}"].numpy())
    model = [f"model.input_dim_visual={BUILTIN.visual_dim}", f"model.input_dim_audio={BUILTIN.audio_dim}"]
    arguments = ["--output", tmp_path / "out", "--saveonly", "-o", *overrides, *model, "model.encoder=builtin"]
    status, _, err = run_script("eval.py", tiny / "tiny.yaml", checkpoint, *arguments)
    assert status == 0, err
    for override, said in (
        ("model.encoder=one-peace", "was trained with another network: model.encoder was builtin"),
        ("TASK2.dataset.feat_stride=8", "features_"),
    ):
        status, _, err = run_script("eval.py", tiny / "tiny.yaml", checkpoint, *arguments, override)
        assert status == 2
        assert said in err
        assert override.partition("=")[0] in err
    mine = found.localize(clips["one"], min_score=0.0)
    for key in ("TASK1", "TASK2", "TASK3"):
        evaluated = json.loads((tmp_path / f"out/results_{key}.json").read_text())["results"]["one"]
        expected = [(d["score"], *d["segment"]) for d in evaluated if d["segment"][1] > d["segment"][0]]
        own = [(e.score, e.start, e.end) for e in mine if e.task == key]
        assert len(own) == len(expected) > 0
        # Features pass through float16 files on one way.
        assert own[0] == pytest.approx(expected[0], abs=0.02)


def test_what_infer_writes(tmp_path, clip, run_script):
    checkpoint, out = save_checkpoint(tmp_path), tmp_path / "out"
    status, text, err = run_script(
        "infer.py", clip, "--checkpoint", checkpoint, "--out", out, "--min-score", 0.05, "--tasks", "1-3"
    )
    assert status == 0, err
    assert {path.name for path in out.iterdir()} == {
        f"ä clip.{k}" for k in ("json", "csv", "vtt", "srt", "txt", "html")
    }
    rows = list(csv.DictReader((out / "ä clip.csv").open()))
    assert {row["task"] for row in rows} == {"TAL", "SED"}
    assert all(float(row["score"]) >= 0.05 for row in rows)
    assert "ä clip.mp4" in text
    assert "<class>" not in (out / "ä clip.html").read_text()  # escaped


def test_one_broken_video_does_not_stop_the_rest(tmp_path, clip, run_script):
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"no video")
    arguments = [
        broken,
        clip,
        tmp_path / "absent.mp4",
        "--checkpoint",
        save_checkpoint(tmp_path),
        "--out",
        tmp_path / "o",
    ]
    status, text, err = run_script("infer.py", *arguments)
    assert status == 1
    assert err.count("error: ") == 2
    assert str(broken) in err
    assert "absent.mp4" in err
    assert (tmp_path / "o/ä clip.html").exists()
    assert not (tmp_path / "o/broken.html").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--encoder", "hf:x"], "was trained on features of builtin, not of hf:x"),
        (["--tasks", "9"], "no TASK9"),
        (["--classes", "a,b", "--task", "SED"], "builtin"),
        (["--classes", "a,b", "--task", "DANCE"], "no such task"),
        (["--classes", " , ", "--task", "SED"], "expected names"),
    ],
)
def test_one_line_for_what_cannot_be(tmp_path, clip, run_script, arguments, said):
    status, _, err = run_script("infer.py", clip, "--checkpoint", save_checkpoint(tmp_path), *arguments)
    assert status == 2
    assert err.count("\n") == 1
    assert said in err


@pytest.mark.parametrize("missing", ["config", "prompts", "class_names"])
def test_weights_alone_are_not_enough(tmp_path, missing):
    with pytest.raises(CheckpointError, match="holds weights only"):
        Localizer.from_checkpoint(save_checkpoint(tmp_path, **{missing: None}))


def test_other_classes_by_text(tmp_path, clip, monkeypatch):
    """New prompts near the trained ones, in another order and number, find the same events under new names."""
    path = save_checkpoint(tmp_path)
    trained = torch.load(path, weights_only=True)["prompts"]["TASK3"]
    chosen = [3, 1, 2]
    localizer = Localizer.from_checkpoint(path, tasks="3", device="cpu")
    before = localizer.localize(clip, 0.02)
    monkeypatch.setattr(localizer.encoder, "encode_text", lambda sentences: trained[chosen].numpy())
    localizer.set_classes("SED", ["d", "b", "c"])
    after = localizer.localize(clip, 0.02)
    renamed = {"TASK3 <class> 3": "d", "TASK3 <class> 1": "b", "TASK3 <class> 2": "c"}
    expected = [e._replace(label=renamed[e.label]) for e in before if e.label in renamed]
    assert len(expected) > 5
    for event in expected[:5]:
        assert any(abs(event.score - e.score) < 1e-5 and event.label == e.label for e in after)
    # Another list is compared with the trained prompts again, not with the first list's.
    monkeypatch.setattr(localizer.encoder, "encode_text", lambda sentences: trained.numpy())
    localizer.set_classes("SED", list("abcdef")[: len(trained)])
    assert localizer.nearest["TASK3"].tolist() == list(range(len(trained)))
    monkeypatch.undo()
    with pytest.raises(UserError):
        localizer.set_classes("SED", ["x"])
    with pytest.raises(ConfigError, match="no such task"):
        localizer.set_classes("TAL", ["x"])


def test_a_file_that_is_no_video(tmp_path):
    (tmp_path / "x.mp4").write_bytes(b"")
    with pytest.raises(MediaError):
        Localizer.from_checkpoint(save_checkpoint(tmp_path), device="cpu").localize(tmp_path / "x.mp4")


@pytest.mark.parametrize("place", ["features", "features.h5"])
def test_from_features(tmp_path, clip, run_script, place):
    """With the videos, and without them: the events that decoding leads to, but for features in float16."""
    checkpoint, features = save_checkpoint(tmp_path), tmp_path / place
    assert run_script("extract.py", clip, "--out", features)[0] == 0
    expected = Localizer.from_checkpoint(checkpoint, device="cpu").localize(clip, 0.05)
    for videos, out in (([clip], tmp_path / "with"), ([], tmp_path / "without")):
        status, text, err = run_script(
            "infer.py", *videos, "--features", features, "--checkpoint", checkpoint, "--out", out, "--min-score", 0.05
        )
        assert status == 0, err
        assert "ä clip" in text
        rows = list(csv.DictReader((out / "ä clip.csv").open(encoding="utf-8")))
        assert len(rows) == pytest.approx(len(expected), abs=3)
        best = max(float(row["score"]) for row in rows)
        assert best == pytest.approx(expected[0].score, abs=0.02)
        assert ("clip.mp4" in (out / "ä clip.html").read_text(encoding="utf-8")) == bool(videos)


def test_features_that_are_not_the_networks(tmp_path, clip, run_script):
    checkpoint, features = save_checkpoint(tmp_path), tmp_path / "features"

    def refused(*more):
        status, _, err = run_script(
            "infer.py", clip, "--features", features, "--checkpoint", checkpoint, "--out", tmp_path / "o", *more
        )
        assert err.count("\n") == 1
        return status, err

    assert refused() == (2, f"error: {features}: no features that say what made them; make them with extract.py\n")
    assert run_script("extract.py", clip, "--out", features, "--stride", 8)[0] == 0
    status, err = refused()
    assert (status, "extract with --stride 4" in err) == (1, True)
    note = features / "encoder.json"
    note.write_text(note.read_text().replace("builtin", "hf:x"))
    status, err = refused()
    assert status == 2
    assert "features of hf:x, the checkpoint was trained on those of builtin" in err
    note.write_text(note.read_text().replace("hf:x", "builtin"))
    for path in features.glob("*audio.npy"):
        sound = np.load(path)
        np.save(path, np.where(np.arange(len(sound))[:, None] == 1, np.nan, sound))
        status, err = refused("--encoder", "builtin")
        assert (status, "ä clip has features that are NaN or infinite" in err) == (1, True)
        np.save(path, np.zeros((3, BUILTIN.audio_dim)))
    status, err = refused()
    assert (status, "extract them again" in err) == (1, True)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_features_that_are_not_finite(tmp_path, value):
    features = [np.zeros((40, dim), np.float32) for dim in (BUILTIN.visual_dim, BUILTIN.audio_dim)]
    features[1][3, 0] = value
    with pytest.raises(DataError, match="NaN or infinite"):
        Localizer.from_checkpoint(save_checkpoint(tmp_path), device="cpu").localize_features(*features, 4, 11.0)


def test_two_videos_whose_files_would_have_one_name(tmp_path, run_script):
    clips = [write_clip(tmp_path / name, 2) for name in ("a?.mp4", "a*.mp4")]
    status, text, err = run_script(
        "infer.py",
        *map(glob.escape, map(str, clips)),
        "--checkpoint",
        save_checkpoint(tmp_path),
        "--out",
        tmp_path / "o",
    )
    assert status == 1
    assert "a*.mp4: its files would be named a_, as those of a?.mp4; rename one" in err
    assert "a?.mp4" in text


def test_a_long_video_may_hold_more_events(tmp_path):
    """The most detections of a video, 100 by default, are meant for one of a training clip's length. Seventeen
    lengths go through the network in two pieces that find more events than that of their cores."""
    localizer = Localizer.from_checkpoint(save_checkpoint(tmp_path), tasks="3", device="cpu")
    (task,) = localizer.tasks
    most, length = task.test_cfg.max_seg_num, task.dataset.max_seq_len

    def found(windows):
        rng = np.random.default_rng(0)
        dims = BUILTIN.visual_dim, BUILTIN.audio_dim
        features = (rng.standard_normal((windows, dim)).astype(np.float32) for dim in dims)
        return len(localizer.localize_features(*features, 4, windows / 4 + 1, 0.0))

    assert found(length) <= most < found(20 * length) <= 20 * most
    assert 16 * most < found(17 * length) <= 17 * most


def test_whatever_is_wrong_with_one_video_the_rest_goes_on(tmp_path, clip, run_script, monkeypatch):
    """Errors that nobody foresaw, and memory that runs out."""
    other, localize = write_clip(tmp_path / "other.mp4", 2), Localizer.localize_media
    errors = iter([RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), ValueError("odd\nshape")])

    def fails_on_clip(self, path, *rest):
        if path == clip:
            raise next(errors)
        return localize(self, path, *rest)

    monkeypatch.setattr(Localizer, "localize_media", fails_on_clip)
    for said in (f"{clip}: memory ran out", f"{clip}: ValueError: odd shape"):
        out = tmp_path / "found"
        status, text, err = run_script("infer.py", clip, other, "--checkpoint", save_checkpoint(tmp_path), "--out", out)
        assert status == 1
        assert said in err
        assert err.count("\n") == 1
        assert "other.mp4" in text


def test_pieces_tile_a_long_video():
    for windows in (1, 160, 161, 200, 999, 14_400):
        pieces = _pieces(windows, 10)
        assert (len(pieces) == 1) == (windows <= 160)
        assert pieces[0].first == 0
        assert pieces[-1].last == windows
        assert all(a.core_last == b.core_first for a, b in itertools.pairwise(pieces))
        for piece in pieces:  # each sees at least MARGIN clips' length around its own moments, as far as there are any
            assert piece.last - piece.first == min(windows, 160)
            assert piece.first == 0 or piece.first <= piece.core_first - 20
            assert piece.last == windows or piece.last >= piece.core_last + 20
            assert piece.core_first % 10 == 0 or piece.first == 0


def test_a_long_video_has_the_events_of_its_parts(tmp_path, monkeypatch):
    """In pieces as at once, but for what lies farther away than a piece sees."""
    localizer = Localizer.from_checkpoint(save_checkpoint(tmp_path), tasks="3", device="cpu")
    (task,) = localizer.tasks
    rng, windows = np.random.default_rng(0), 18 * task.dataset.max_seq_len
    features = [
        rng.standard_normal((windows, dim)).astype(np.float32) for dim in (BUILTIN.visual_dim, BUILTIN.audio_dim)
    ]
    calls = []
    piece = localizer._events_of_piece
    monkeypatch.setattr(localizer, "_events_of_piece", lambda *a: calls.append(len(a[1])) or piece(*a))
    min_score = 0.6  # leaves fewer events than the limits on their number
    events = localizer.localize_features(*features, 4, windows / 4 + 0.75, min_score)
    assert calls == [16 * task.dataset.max_seq_len] * 2
    # The end of the video is the end of its second piece.
    first, core = windows - calls[0], _pieces(windows, task.dataset.max_seq_len)[1].core_first
    tail = localizer.localize_features(*(f[first:] for f in features), 4, calls[0] / 4 + 0.75, min_score)
    late = [e for e in tail if e.start > (core - first) / 4]
    assert 5 < len(late) < task.test_cfg.max_seg_num * (windows - core) / task.dataset.max_seq_len
    found = {(e.label, round(e.start, 2), round(e.end, 2)) for e in events}
    assert all((e.label, round(e.start + first / 4, 2), round(e.end + first / 4, 2)) in found for e in late)
