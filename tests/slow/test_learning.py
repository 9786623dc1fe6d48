"""A short run on real photographs learns: the loss falls, k-NN rises, and shuffled labels are at chance."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
import torch

from poa_plugin.config.load import load_config
from poa_plugin.data import build_dataset
from poa_plugin.evaluate.knn import knn_accuracy
from poa_plugin.evaluate.splits import EvaluationImages
from poa_plugin.extraction.network import extract
from poa_plugin.runs.run import open_run
from poa_plugin.train.loop import train

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
RECIPE = Path(__file__).resolve().parents[2] / "configs/ssl/demo_vit.yaml"
NETWORKS = ("w32_d1", "w32_d3", "w48_d2", "w64_d1", "w64_d3")
K = 20


def test_a_run_on_photographs_learns(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    words = [
        "student.vit.max_width=64",
        "student.vit.max_depth=3",
        "ibot.start_epoch=0",
        "optim.epochs=5",
        f"output_dir={tmp_path / 'run'}",
    ]
    config = load_config(RECIPE, words)
    assert train(config).finished

    lines = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    falling = ("cross_view_intact_local", "cross_view_elastic_local", "masked_patch_elastic")
    for term in falling:  # the same-view target moves: its entropy rises while it is met better
        values = [line["terms"][term] for line in lines]
        assert sum(values[-3:]) < sum(values[:3]), term
    assert lines[-1]["loss"] < lines[0]["loss"] - 0.2

    run = open_run(tmp_path / "run")
    splits = [build_dataset(config, split) for split in ("train", "test")]
    labels = [split.labels for split in splits]
    shuffled = [random.Random(0).sample(own, len(own)) for own in labels]
    accuracy = {}
    for kind, backbone in (("before", run.untrained_backbone()), ("after", run.backbone())):
        images = [EvaluationImages(split, config.evaluation, 10**9) for split in splits]
        for name in NETWORKS:
            network = extract(backbone, run.space[name])
            with torch.inference_mode():
                features = [
                    torch.cat([network(x)["x_norm_clstoken"] for x in split.batches(0, 64)])
                    for split in images
                ]
            found = knn_accuracy(features[0], labels[0], features[1], labels[1], [K])
            accuracy[kind, name] = found[K]
            chance = knn_accuracy(features[0], shuffled[0], features[1], shuffled[1], [K])[K]
            assert chance < 40, f"{name}: {chance} with shuffled labels"
    gains = [accuracy["after", name] - accuracy["before", name] for name in NETWORKS]
    assert min(gains) > 0, accuracy
    assert sum(gains) / len(gains) > 3, accuracy  # one network's has a standard error of two points
    print(accuracy)
