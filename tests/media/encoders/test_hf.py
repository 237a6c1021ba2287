"""Encoders: what builtin sees and hears, and transformers' checkpoints, tiny and random, from a folder."""

import json
import shutil
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch

from libs.core.configfile import from_tree, load_config
from libs.core.errors import UserError
from libs.features.windows import WINDOW_FRAMES, WINDOW_SAMPLES, WindowBatch
from libs.inference.localizer import Localizer
from libs.media.encoders.build import build_encoder
from libs.modeling.uniav import UniAV
from tests.conftest import tiny_tree

RANDOM = np.random.default_rng(0)


def pictures(count: int, stride: int = 4, size: tuple[int, int] = (36, 64)) -> WindowBatch:
    data = RANDOM.integers(0, 256, ((count - 1) * stride + WINDOW_FRAMES, *size, 3), dtype=np.uint8)
    return WindowBatch(data, WINDOW_FRAMES, stride)


def noise(count: int, stride: int = 4) -> WindowBatch:
    hop = stride * 1000
    data = (0.1 * RANDOM.standard_normal((count - 1) * hop + WINDOW_SAMPLES)).astype(np.float32)
    return WindowBatch(data, WINDOW_SAMPLES, hop)


def each(batch: WindowBatch) -> list[WindowBatch]:
    return [WindowBatch(window, batch.length, batch.hop) for window in batch.windows]


def tone(hz: float) -> WindowBatch:
    sound = 0.3 * np.sin(2 * np.pi * hz * np.arange(WINDOW_SAMPLES) / 16000)
    return WindowBatch(sound.astype(np.float32), WINDOW_SAMPLES, WINDOW_SAMPLES)


class TestBuiltin:
    encoder = build_encoder("builtin")

    @pytest.mark.parametrize("stride", [4, 8])
    def test_a_window_is_a_window_whatever_lies_beside_it(self, stride):
        """What overlapping windows share is computed once, to the bit as if each stood alone."""
        for make, encode, dim in (
            (pictures, self.encoder.encode_frames, self.encoder.visual_dim),
            (noise, self.encoder.encode_audio, self.encoder.audio_dim),
        ):
            batch = make(5, stride)
            features = encode(batch)
            assert features.shape == (5, dim) and features.dtype == np.float32 and np.isfinite(features).all()
            assert np.array_equal(features, np.concatenate([encode(one) for one in each(batch)]))

    @pytest.mark.parametrize("size", [(1, 1), (3, 500), (64, 2), (48, 64)])
    def test_any_size(self, size):
        assert np.isfinite(self.encoder.encode_frames(pictures(2, size=size))).all()

    def test_scales(self):
        """Features are of the order of 1 on anything, black and silence included."""
        still = WindowBatch(np.zeros((16, 36, 64, 3), np.uint8), WINDOW_FRAMES, 4)
        silence = WindowBatch(np.zeros(WINDOW_SAMPLES, np.float32), WINDOW_SAMPLES, 4000)
        for features in (
            self.encoder.encode_frames(still),
            self.encoder.encode_frames(pictures(2)),
            self.encoder.encode_audio(silence),
            self.encoder.encode_audio(noise(2)),
            self.encoder.encode_audio(tone(1000)),
        ):
            assert 0.1 < np.abs(features).mean() < 3 and np.abs(features).max() < 12

    def test_sees_where_a_square_is_and_where_to_it_moves(self):
        def moving(step: int) -> np.ndarray:
            frames = np.full((16, 64, 64, 3), 40, np.uint8)
            for i in range(16):
                left = 24 + step * (i - 8)
                frames[i, 20:36, left : left + 16] = (200, 40, 40)
            return self.encoder.encode_frames(WindowBatch(frames, WINDOW_FRAMES, 4))[0]

        right, left, still = moving(2), moving(-2), moving(0)
        across = slice(12 * 16, 13 * 16)  # motion along x, a number a cell
        assert right[across].sum() > 1 and left[across].sum() < -1 and abs(still[across]).max() < 1e-6
        assert still[:16].reshape(4, 4)[1].argmax() in (1, 2)  # brightest cell: second row, in the middle

    def test_hears_pitch(self):
        bands = [self.encoder.encode_audio(tone(hz))[0, :64].argmax() for hz in (200, 500, 1000, 2000, 4000)]
        assert bands == sorted(set(bands))

    def test_no_text(self):
        with pytest.raises(UserError, match="embeds no text"):
            self.encoder.encode_text(["a dog"])


@pytest.mark.parametrize("spec", ["", "resnet", "hf", "hf:", "builtin:x"])
def test_unknown_encoder(spec):
    with pytest.raises(UserError, match="unknown name; choose builtin"):
        build_encoder(spec)


@pytest.mark.parametrize(
    ("missing", "spec", "said"),
    [("transformers", "hf:x", r"pip install -e .\[hf\]"), ("one_peace", "one-peace", "github.com/OFA-Sys/ONE-PEACE")],
)
def test_what_is_not_installed(monkeypatch, missing, spec, said):
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(UserError, match=said):
        build_encoder(spec)


def test_one_peace(monkeypatch, tmp_path):
    """The adapter against a stand-in with that library's interface; files reach it whole and in order."""

    class Model:
        def process_image(self, paths):
            from PIL import Image

            return torch.tensor([np.asarray(Image.open(path)).mean() for path in paths])

        def process_audio(self, paths):
            import wave

            sounds = []
            for path in paths:
                with wave.open(path) as file:
                    sounds.append(np.frombuffer(file.readframes(WINDOW_SAMPLES), "<i2") / 32767)
            return torch.tensor(np.stack(sounds)), None

        def process_text(self, sentences):
            return torch.tensor([len(s) for s in sentences])

        def _widened(self, values):
            return torch.stack((values, torch.ones_like(values)), 1).repeat(1, 768)

        def extract_image_features(self, images):
            return self._widened(images)

        def extract_audio_features(self, sounds, masks):
            return self._widened(sounds.abs().amax(1))

        def extract_text_features(self, tokens):
            return self._widened(tokens.float())

    pytest.importorskip("PIL")
    library = types.ModuleType("one_peace.models")
    library.from_pretrained = lambda name, device, dtype: Model()
    monkeypatch.setitem(sys.modules, "one_peace", types.ModuleType("one_peace"))
    monkeypatch.setitem(sys.modules, "one_peace.models", library)
    encoder = build_encoder("one-peace")
    sounds = noise(20)
    heard = encoder.encode_audio(sounds)
    assert heard.shape == (20, 1536)
    assert np.allclose(heard[:, 0] / heard[:, 1], np.abs(sounds.windows).max(1), atol=1e-4)
    assert encoder.encode_frames(pictures(20)).shape == (20, 1536)
    assert encoder.encode_text(["a", "bc"]).shape == (2, 1536)


SMALL = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
PICTURE = {"image_size": 32, "patch_size": 8}
TEXT = {**SMALL, "vocab_size": 32, "max_position_embeddings": 16, "projection_dim": 8}


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    """Folders with tiny random checkpoints: clip, siglip, videomae, ast, clap."""
    transformers = pytest.importorskip("transformers", reason="needs transformers: pip install -e .[hf]")
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    t, root = transformers, tmp_path_factory.mktemp("checkpoints")
    sizes = {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}
    torch.manual_seed(0)
    clip = t.CLIPConfig(text_config=TEXT, vision_config={**SMALL, **PICTURE, "projection_dim": 8}, projection_dim=8)
    siglip = t.SiglipConfig(text_config={**TEXT, "projection_size": 16}, vision_config={**SMALL, **PICTURE})
    clap_audio = {
        "patch_embeds_hidden_size": 8, "depths": [1, 1, 1, 1], "num_attention_heads": [1, 1, 1, 1], "hidden_size": 64,
        "num_mel_bins": 64, "spec_size": 256, "window_size": 8, "projection_dim": 8, "enable_fusion": True,
    }  # fmt: skip
    clap = t.ClapConfig(text_config={**TEXT, "max_position_embeddings": 20}, audio_config=clap_audio, projection_dim=8)
    parts = {
        "clip": (t.CLIPModel(clip), t.CLIPImageProcessor(**sizes)),
        "siglip": (t.SiglipModel(siglip), t.SiglipImageProcessor(size={"height": 32, "width": 32})),
        "videomae": (t.VideoMAEModel(t.VideoMAEConfig(**SMALL, **PICTURE)), t.VideoMAEImageProcessor(**sizes)),
        "ast": (
            t.ASTModel(t.ASTConfig(**SMALL, max_length=128, num_mel_bins=32)),
            t.ASTFeatureExtractor(max_length=128, num_mel_bins=32),
        ),
        "clap": (t.ClapModel(clap), t.ClapFeatureExtractor()),
        "resnet": (
            t.ResNetModel(t.ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1])),
            t.ConvNextImageProcessor(size={"shortest_edge": 32}),
        ),
        "half": (t.VideoMAEModel(t.VideoMAEConfig(**SMALL, **PICTURE)).half(), t.VideoMAEImageProcessor(**sizes)),
    }
    for name, saved in parts.items():
        for part in (*saved, _tokenizer(transformers)):
            part.save_pretrained(root / name)
    return root


def _tokenizer(transformers):
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = {word: i for i, word in enumerate(("<pad>", "<eos>", "<unk>", "a", "dog", "barks", "car", "passes"))}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>", model_max_length=16
    )


@pytest.mark.parametrize(
    ("visual", "audio", "dims"),
    [
        ("clip", "clap", (8, 8, 16)),
        ("siglip", "ast", (16, 16, 16)),
        ("videomae", "builtin", (16, 240, 0)),
        ("builtin", "clap", (256, 8, 8)),
        ("resnet", "builtin", (16, 240, 0)),
        ("half", "builtin", (16, 240, 0)),
    ],
)
def test_hf(checkpoints, visual, audio, dims):
    names = ",".join(name if name == "builtin" else str(checkpoints / name) for name in (visual, audio))
    encoder = build_encoder(f"hf:{names}")
    assert encoder.name == f"hf:{names}"
    assert (encoder.visual_dim, encoder.audio_dim, encoder.text_dim) == dims
    assert encoder.short_side == (64 if visual == "builtin" else 32)
    for batch, encode in ((pictures(18), encoder.encode_frames), (noise(18), encoder.encode_audio)):
        features = encode(batch)
        assert len(features) == 18 and np.isfinite(features).all() and np.ptp(features, axis=0).max() > 0
        assert np.array_equal(features, encode(batch))
        alone = np.concatenate([encode(one) for one in each(batch)])
        assert np.abs(features - alone).max() < 1e-4
    if dims[2]:
        text = encoder.encode_text(["a dog barks", "a car passes", "a dog barks"])
        assert np.allclose(np.linalg.norm(text, axis=1), 1, atol=1e-5)
        assert np.allclose(text[0], text[2], atol=1e-6) and np.abs(text[0] - text[1]).max() > 1e-3
    else:
        with pytest.raises(UserError, match="embeds text"):
            encoder.encode_text(["a"])


def test_hf_errors(checkpoints, tmp_path):
    (tmp_path / "config.json").write_text("{}")
    for names, said in (
        (f"{checkpoints}/clip", "embeds no sound; name one that does second"),
        (f"{checkpoints}/ast", "embeds no pictures; name one that does first"),
        ("a,b,c", "expected hf:NAME or hf:VISUAL,AUDIO"),
        (f"{tmp_path}", "cannot be loaded"),
    ):
        with pytest.raises(UserError, match=said) as caught:
            build_encoder(f"hf:{names}")
        assert "\n" not in str(caught.value)


def test_other_classes_by_text_from_training_on(checkpoints, tiny, run_script, tmp_path):
    """Features, prompts and a network of one encoder with text; then classes that it was never trained on."""
    pytest.importorskip("av", reason="needs PyAV: pip install -e .[media]")
    from tests.media.clips import write_clip

    encoder = f"hf:{checkpoints / 'clip'},{checkpoints / 'clap'}"
    json_file = load_config(tiny / "tiny.yaml").tasks["TASK3"].dataset.json_file
    tree = json.loads(Path(json_file).read_text())
    videos, words = tree["database"], ("a dog", "dog barks", "car", "car passes", "passes")  # that the tokenizer knows
    for video in videos.values():
        for event in video["annotations"]:
            event["label"] = words[event["label_id"]]
            event["segment"] = [time * 4 / video["duration"] for time in event["segment"]]
        video["duration"] = 4.0
    Path(json_file).write_text(json.dumps(tree))
    clip = write_clip(tmp_path / "clip.mp4", 4)
    status, _, err = run_script("extract.py", clip, "--encoder", encoder, "--out", tmp_path / "features")
    assert status == 0, err
    for path in (tmp_path / "features").glob("clip*.npy"):
        for name in videos:
            shutil.copy(path, path.with_name(path.name.replace("clip", name, 1)))
    settings = ["--tasks", "3", "-o", f"model.encoder={encoder}", "model.text_dim=16"]
    settings += ["model.input_dim_visual=8", "model.input_dim_audio=8"]
    settings += [
        f"TASK3.dataset.feat_folder={tmp_path / 'features'}",
        f"TASK3.dataset.prompt_file={tmp_path / 'p.npy'}",
    ]
    status, out, err = run_script("tools/make_prompts.py", tiny / "tiny.yaml", *settings)
    assert status == 0, err
    assert "A sound event of a dog." in out
    status, _, err = run_script("tools/make_prompts.py", tiny / "tiny.yaml", *settings)
    assert (status, "--replace replaces it" in err) == (2, True)
    status, _, err = run_script("train.py", tiny / "tiny.yaml", "--output", "t", *settings)
    assert status == 0, err
    found = ("infer.py", clip, "--checkpoint", tiny / "ckpt/tiny_t", "--min-score", 0, "--out", tmp_path / "found")
    status, _, err = run_script(*found, "--classes", "a dog barks, a car passes", "--task", "SED")
    assert status == 0, err
    text = (tmp_path / "found/clip.csv").read_text()
    assert "SED,a dog barks" in text and "SED,a car passes" in text


def test_learned_context(checkpoints):
    """Vectors that are the placeholder's own give what the sentence does; gradients reach the vectors alone."""
    encoder = build_encoder(f"hf:{checkpoints / 'clip'},{checkpoints / 'clap'}")
    names = ["dog barks", "car"]
    embed, width = encoder.build_context_embedder(names, length=3)
    assert width == 32
    parts = [model.build_context_embedder(names, 3) for model in encoder.text_models]
    own = torch.cat([part.tokens.weight[3].expand(3, -1) for part in parts], dim=1)  # "a" is word 3
    expected = torch.from_numpy(encoder.encode_text([f"a a a {name}." for name in names]))
    torch.testing.assert_close(embed(own), expected, atol=1e-6, rtol=1e-5)
    context = torch.randn(3, 32, requires_grad=True)
    table = embed(context)
    assert table.shape == (2, 16) and not torch.allclose(table, expected, atol=1e-3)
    table[0].sum().backward()
    assert (context.grad.abs().sum(dim=1) > 0).all()
    assert all(p.grad is None for model in encoder.text_models for p in model.model.parameters())


def test_training_learns_context(checkpoints, tiny, run_script, tmp_path):
    """`prompts: context` from training to evaluation; the checkpoint holds the table that it ended with."""
    encoder = f"hf:{checkpoints / 'clip'},{checkpoints / 'clap'}"
    settings = ["--tasks", "3", "-o", f"model.encoder={encoder}", "model.text_dim=16", "model.prompts=context"]
    settings += ["TASK3.dataset.prompt_file=none.npy"]
    status, _, err = run_script("train.py", tiny / "tiny.yaml", "--output", "t", *settings)
    assert (status, "set model.text_dim to 16 and model.context_dim to 32" in err) == (2, True), err
    settings += ["model.context_dim=32"]
    status, _, err = run_script("train.py", tiny / "tiny.yaml", "--output", "t", *settings)
    assert status == 0, err
    content = torch.load(tiny / "ckpt/tiny_t/last.pth.tar", weights_only=True)
    context = content["state_dict_ema"]["prompts.TASK3.learned"]
    assert context.shape == (4, 32) and content["prompts"]["TASK3"].shape == (5, 16)
    status, _, err = run_script("eval.py", tiny / "tiny.yaml", tiny / "ckpt/tiny_t", *settings)
    assert status == 0, err


def test_other_classes_after_learned_context(checkpoints, tmp_path):
    """Free text is read as the trained names were: after the learned vectors, not in a sentence."""
    name = f"hf:{checkpoints / 'clip'},{checkpoints / 'clap'}"
    tree = tiny_tree(tmp_path)
    tree["model"] |= {"prompts": "context", "text_dim": 16, "context_dim": 32, "encoder": name}
    config, encoder = from_tree(tree), build_encoder(name)
    model, task = UniAV.from_config(config).eval(), config.tasks["TASK3"]
    model.override_prompts("TASK3", torch.nn.functional.normalize(torch.randn(5, 16), dim=1))
    Localizer(model, [task], encoder, {"TASK3": list("abcde")}).set_classes("SED", ["dog barks", "car"])
    embed, _ = encoder.build_context_embedder(["dog barks", "car"], 4)
    torch.testing.assert_close(model.prompts["TASK3"](), embed(model.prompts["TASK3"].learned).detach())


def test_an_import_embeds_its_prompts(checkpoints, run_script, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = "".join(f"v{i},1,2,{'dog' if i % 2 else 'cat'}\n" for i in range(12))
    Path("e.csv").write_text(f"video,start,end,label\n{rows}")
    encoder = f"hf:{checkpoints / 'clip'},builtin"
    call = ("tools/import_annotations.py", "e.csv", "--name", "mine", "--task-type", "SED", "--duration", 4)
    status, out, err = run_script(*call, "--encoder", encoder)
    assert status == 0, err
    assert "such as 'A sound event of cat.'" in out
    model = load_config("configs/mine.yaml").model
    text = build_encoder(encoder).encode_text(["A sound event of cat.", "A sound event of dog."])
    assert (model.encoder, model.text_dim) == (encoder, text.shape[1])
    assert np.allclose(np.load("data/mine/mine_prompt.npy"), text, atol=1e-6)
