"""Read what a run left."""

import json

import numpy as np
import torch


def read_log(run) -> list[dict]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def read_losses(run) -> np.ndarray:
    rows = [line for line in read_log(run) if line["kind"] == "train" and "task" in line]
    return np.array([[line[k] for k in ("cls", "reg", "total", "grad_norm")] for line in rows])


def read_weights(path) -> dict:
    content = torch.load(path, weights_only=True)
    return {f"{kind}/{k}": v for kind in ("state_dict", "state_dict_ema") for k, v in content[kind].items()}


def assert_same_weights(a, b):
    a, b = read_weights(a), read_weights(b)
    assert a.keys() == b.keys()
    assert [key for key in a if not torch.equal(a[key], b[key])] == []
