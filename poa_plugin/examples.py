"""Worked examples for the help of each command; a test runs all of them through the parser."""

from __future__ import annotations

EXAMPLES: dict[str, list[str]] = {
    "poa": [
        "poa train demo_vit",
        "poa extract runs/demo_vit --network all --to networks",
        "poa report runs/demo_vit",
    ],
    "poa train": [
        "poa train vit data.path=/data/imagenet output_dir=runs/vit",
        "poa train runs/vit                          # where that run stopped",
        "poa train runs/vit optim.epochs=400 train.accept_changes=true",
    ],
    "poa plan": [
        "poa plan vit --device a100-80g",
        "poa plan vit train.shards=8 --memory 24G --peak 165T --utilization 0.3",
    ],
    "poa submit": [
        "poa submit vit data.path=/data/imagenet output_dir=runs/vit --profile published",
        "poa submit vit --seeds 0 1 2 --profile my_cluster.yaml profile.nodes=2 --dry-run",
        "poa submit sweep runs/vit sweep.data=/data/pets --profile one_gpu",
    ],
    "poa jobs": [
        "poa jobs",
        "poa jobs logs runs/vit --rank 3",
        "poa jobs resume runs/vit",
    ],
    "poa jobs cancel": ["poa jobs cancel 1234 runs/swin"],
    "poa jobs resume": ["poa jobs resume runs/vit"],
    "poa jobs logs": ["poa jobs logs 1234 --rank 3"],
    "poa recipes": ["poa recipes", "poa recipes vit > my_vit.yaml"],
    "poa config": ["poa config", "poa config optim.base_lr"],
    "poa networks": [
        "poa networks vit",
        "poa networks runs/vit --image-size 448",
    ],
    "poa extract": [
        "poa extract runs/vit --network small --to vit_small",
        "poa extract runs/vit --network all --to networks --with-heads",
    ],
    "poa export": [
        "poa export vit_small --format onnx --to vit_small_onnx",
        "poa export vit_small --format hf --to vit_small_hf --license apache-2.0",
    ],
    "poa import": [
        "poa import teacher_checkpoint.pth --to runs/published",
        "poa import model.safetensors --to runs/timm --format timm --drop head",
    ],
    "poa eval": ["poa eval knn runs/vit --network small base"],
    "poa eval knn": [
        "poa eval knn runs/vit",
        "poa eval knn runs/vit --network small base large --k 10 20 --untrained",
    ],
    "poa sweep": [
        "poa sweep runs/vit --memory 16G",
        "poa sweep runs/vit --data /data/pets --widths 384 448 --no-latency",
    ],
    "poa pick": [
        "poa pick runs/vit --max-params 30M --max-flops 5G",
        "poa pick runs/vit --max-latency-ms 12 --to vit_fast",
    ],
    "poa checkpoint": ["poa checkpoint verify runs/vit"],
    "poa checkpoint inspect": [
        "poa checkpoint inspect runs/vit",
        "poa checkpoint inspect runs/vit --step 1000",
        "poa checkpoint inspect runs/vit/ckpt/1000",
    ],
    "poa checkpoint verify": ["poa checkpoint verify runs/vit"],
    "poa checkpoint consolidate": ["poa checkpoint consolidate runs/vit --step 1000"],
    "poa data": ["poa data check /data/imagenet --dataset imagenet"],
    "poa data check": [
        "poa data check /data/photos",
        "poa data check /data/imagenet --dataset imagenet --workers 8",
    ],
    "poa report": [
        "poa report runs/vit                         # into runs/vit/report",
        "poa report runs/vit runs/dinov2 --to both.html",
    ],
    "poa demo": [
        "poa demo",
        "poa demo demo_vit --minutes 3 --to runs/short_demo",
    ],
    "poa completion": [
        "source <(poa completion bash)               # for this shell; in ~/.bashrc, for all",
        'poa completion zsh > "${fpath[1]}/_poa"      # then start zsh anew',
        "poa completion tcsh > ~/.poa.tcsh           # and `source ~/.poa.tcsh` in ~/.tcshrc",
    ],
}
"""Command lines by command."""


def epilog(command: str) -> str:
    """Return what is printed below a command's help."""
    lines = EXAMPLES.get(command, [])
    return "\n".join(["examples:", *(f"  {line}" for line in lines)]) if lines else ""
