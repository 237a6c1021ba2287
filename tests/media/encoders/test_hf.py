"""Checkpoints of transformers as encoders, with tiny random weights from a folder, up to training and inference."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from libs.core.configfile import from_tree, load_config
from libs.core.errors import UserError
from libs.inference.localizer import Localizer
from libs.media.encoders.build import build_encoder
from libs.modeling.uniav import UniAV
from tests.conftest import tiny_tree
from tests.media.encoders.batches import make_noise, make_pictures, split_windows

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
def test_hf_encoder_embeds_windows_and_text(checkpoints, visual, audio, dims):
    names = ",".join(name if name == "builtin" else str(checkpoints / name) for name in (visual, audio))
    encoder = build_encoder(f"hf:{names}")
    assert encoder.name == f"hf:{names}"
    assert (encoder.visual_dim, encoder.audio_dim, encoder.text_dim) == dims
    assert encoder.short_side == (64 if visual == "builtin" else 32)
    for batch, encode in ((make_pictures(18), encoder.encode_frames), (make_noise(18), encoder.encode_audio)):
        features = encode(batch)
        assert len(features) == 18 and np.isfinite(features).all() and np.ptp(features, axis=0).max() > 0
        assert np.array_equal(features, encode(batch))
        alone = np.concatenate([encode(window) for window in split_windows(batch)])
        assert np.abs(features - alone).max() < 1e-4
    if dims[2]:
        text = encoder.encode_text(["a dog barks", "a car passes", "a dog barks"])
        assert np.allclose(np.linalg.norm(text, axis=1), 1, atol=1e-5)
        assert np.allclose(text[0], text[2], atol=1e-6) and np.abs(text[0] - text[1]).max() > 1e-3
    else:
        with pytest.raises(UserError, match="embeds text"):
            encoder.encode_text(["a"])


def test_hf_encoder_of_unsuitable_checkpoint_is_an_error(checkpoints, tmp_path):
    (tmp_path / "config.json").write_text("{}")
    for names, said in (
        (f"{checkpoints}/clip", "embeds no sound; name one that does second"),
        (f"{checkpoints}/ast", "embeds no pictures; name one that does first"),
        ("a,b,c", r"unknown name; choose builtin, hf:NAME\[,NAME\]"),
        (f"{tmp_path}", "cannot be loaded"),
    ):
        with pytest.raises(UserError, match=said) as caught:
            build_encoder(f"hf:{names}")
        assert "\n" not in str(caught.value)


def test_infer_classes_by_text_after_training_with_text_encoder(checkpoints, tiny, run_script, tmp_path):
    """Features, prompts and a network of one encoder with text; then classes that it was not trained on."""
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


def test_context_embedder_of_placeholders_equals_sentence(checkpoints):
    """The placeholder's own vectors embed as the sentence does; only the vectors get gradients."""
    encoder = build_encoder(f"hf:{checkpoints / 'clip'},{checkpoints / 'clap'}")
    names = ["dog barks", "car"]
    embed, width = encoder.build_context_embedder(names, length=3)
    assert width == 32
    tables = [model.model.text_model.get_input_embeddings().weight for model in encoder.text_models]
    own = torch.cat([table[3].expand(3, -1) for table in tables], dim=1)  # "a" is word 3
    expected = torch.from_numpy(encoder.encode_text([f"a a a {name}." for name in names]))
    torch.testing.assert_close(embed(own), expected, atol=1e-6, rtol=1e-5)
    context = torch.randn(3, 32, requires_grad=True)
    table = embed(context)
    assert table.shape == (2, 16) and not torch.allclose(table, expected, atol=1e-3)
    table[0].sum().backward()
    assert (context.grad.abs().sum(dim=1) > 0).all()
    assert all(p.grad is None for model in encoder.text_models for p in model.model.parameters())


def test_train_with_context_learns_vectors_and_stores_table(checkpoints, tiny, run_script, tmp_path):
    """`prompts: context` from training to evaluation; the checkpoint holds the final table."""
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


def test_set_classes_after_learned_context_uses_learned_vectors(checkpoints, tmp_path):
    """Free text follows the learned vectors, as the trained names do, not a sentence."""
    name = f"hf:{checkpoints / 'clip'},{checkpoints / 'clap'}"
    tree = tiny_tree(tmp_path)
    tree["model"] |= {"prompts": "context", "text_dim": 16, "context_dim": 32, "encoder": name}
    config, encoder = from_tree(tree), build_encoder(name)
    model, task = UniAV(config).eval(), config.tasks["TASK3"]
    context = model.get_parameter("prompts.TASK3.learned").detach()
    model.override_prompts("TASK3", torch.nn.functional.normalize(torch.randn(5, 16), dim=1))
    localizer = Localizer(model, [task], encoder, {"TASK3": list("abcde")}, {"TASK3": context})
    localizer.set_classes("SED", ["dog barks", "car"])
    embed, _ = encoder.build_context_embedder(["dog barks", "car"], 4)
    torch.testing.assert_close(model.prompts["TASK3"](), embed(context))


def test_import_annotations_with_text_encoder_embeds_prompts(checkpoints, run_script, tmp_path, monkeypatch):
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
