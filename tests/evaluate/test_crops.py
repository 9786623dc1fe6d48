"""Crops equal torchvision's transforms on PIL images, pixel for pixel."""

from __future__ import annotations

import pytest
import torch
import torchvision.transforms as T
import torchvision.transforms.v2.functional as TF
from omegaconf import OmegaConf
from PIL import Image
from torch import Tensor

from poa_plugin.config.schema import EvaluationConfig
from poa_plugin.evaluate.crops import evaluation_crop
from poa_plugin.evaluate.evaluator import raw_pixels
from poa_plugin.evaluate.splits import EvaluationImages

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SIDES = [(375, 500), (500, 375), (60, 61), (31, 17), (256, 256), (257, 300), (2, 40), (300, 255)]
SIZES = [(256, 224), (255, 224), (48, 48), (33, 20)]


class Pictures:
    """Noise, whose neighboring levels are far apart: what resizing does shows in every pixel."""

    labels, classes = None, ()

    def __init__(self, channels: int) -> None:
        generator = torch.Generator().manual_seed(channels)
        self.images = [
            torch.randint(0, 256, (channels, *sides), generator=generator, dtype=torch.uint8)
            for sides in SIDES
        ]

    def __len__(self) -> int:
        return len(self.images)

    def image(self, index: int) -> Tensor:
        return self.images[index]

    def name(self, index: int) -> str:
        return str(index)


def pil(image: Tensor) -> Image.Image:
    mode = "L" if len(image) == 1 else "RGB"
    return Image.fromarray(image.permute(1, 2, 0).squeeze(2).numpy(), mode)


@pytest.mark.filterwarnings("ignore:'mode' parameter is deprecated")
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("resize_size", "crop_size"), SIZES)
def test_crops_are_those_of_the_published_protocol(
    channels: int, resize_size: int, crop_size: int
) -> None:
    pictures = Pictures(channels)
    published = T.Compose(
        [T.Resize(resize_size, T.InterpolationMode.BICUBIC), T.CenterCrop(crop_size)]
    )
    evaluation = OmegaConf.structured(EvaluationConfig(resize_size, crop_size, batch_size=3))
    for image in pictures.images:
        wanted = TF.pil_to_tensor(published(pil(image)))
        assert torch.equal(evaluation_crop(image, evaluation), wanted)
    whole = T.Compose([published, T.Grayscale(3), T.ToTensor(), T.Normalize(MEAN, STD)])
    if channels == 3:
        whole.transforms.pop(1)
    wanted = torch.stack([whole(pil(image)) for image in pictures.images])
    for found in (
        torch.cat(list(EvaluationImages(pictures, evaluation, 0).batches(0, 5))),
        torch.cat(list(EvaluationImages(pictures, evaluation, 10**9).batches(0, 5))),
    ):
        assert torch.allclose(found, wanted, rtol=0, atol=1e-6)
    assert torch.equal(EvaluationImages(pictures, evaluation, 0).first(), found[:1])


@pytest.mark.filterwarnings("ignore:'mode' parameter is deprecated")
@pytest.mark.parametrize("channels", [1, 3])
def test_raw_pixels_are_those_of_a_pil_image(channels: int) -> None:
    pictures = Pictures(channels)
    shrink = T.Resize((32, 32))
    rows = [T.ToTensor()(shrink(pil(image))).expand(3, -1, -1) for image in pictures.images]
    for workers in (0, 1):
        assert torch.equal(
            torch.cat(list(raw_pixels(pictures, 0, workers))), torch.stack(rows).flatten(1)
        )
