"""Averaged over the symmetries of a square, an answer moves with its image and not otherwise."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from swath.errors import RunError
from swath.learn.calibrate import calibrate
from swath.learn.networks import load
from swath.learn.predict import predict_patches
from swath.learn.symmetry import SymmetryAveraged


def eight(image: Tensor) -> list[Tensor]:
    """All eight, by another way than the module's: quarter turns, and those of the mirror image."""
    return [torch.rot90(x, k, (-2, -1)) for x in (image, image.flip(-1)) for k in range(4)]


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_a_label_by_patch_is_the_mean_of_eight_answers(save_model, layout) -> None:
    network, _ = load(save_model("cnn", width=4))
    averaged = SymmetryAveraged(network)
    image = torch.randn(3, 4, 16, 16).contiguous(memory_format=layout)
    with torch.inference_mode():
        expected = torch.stack([network(x) for x in eight(image)]).mean(dim=0)
        torch.testing.assert_close(averaged(image), expected)
        for moved in eight(image):
            torch.testing.assert_close(averaged(moved), expected)
        assert not torch.allclose(network(image), expected, atol=1e-4)


def test_a_label_by_pixel_moves_with_its_image(save_model) -> None:
    network, _ = load(save_model("unet", width=4))
    averaged = SymmetryAveraged(network)
    image = torch.randn(2, 4, 32, 48)
    with torch.inference_mode():
        answer = averaged(image)
        assert answer.shape == (2, 3, 32, 48)
        for moved, expected in zip(eight(image), eight(answer), strict=True):
            torch.testing.assert_close(averaged(moved), expected, atol=1e-4, rtol=1e-4)
        assert not torch.allclose(network(image.flip(-1)).flip(-1), answer, atol=1e-3)


def test_a_file_says_that_its_network_is_averaged(patch_set, save_model, tmp_path) -> None:
    model, patches, which = save_model("cnn", width=4), patch_set(60), np.arange(60)
    told = calibrate(model, patches, which, tmp_path / "a.ckpt", tta=True)
    network, facts = load(tmp_path / "a.ckpt")
    assert isinstance(network, SymmetryAveraged) and facts["tta"] and told["tta"]
    assert not isinstance(load(model)[0], SymmetryAveraged)
    answers = [predict_patches(path, patches, which)[1] for path in (model, tmp_path / "a.ckpt")]
    # The temperature was fitted to the averaged answers: without them it would be another.
    alone = calibrate(model, patches, which, tmp_path / "b.ckpt")
    assert abs(alone["temperature"] - told["temperature"]) > 1e-3
    assert np.abs(answers[0] - answers[1]).max() > 0.003


def test_patches_that_are_not_square_cannot_be_averaged(
    patch_set, statistics, sections, tmp_path
) -> None:
    from dataclasses import replace

    from swath.data.mapped import Mapped
    from swath.learn.train import train

    patches = patch_set(24)
    image = patches.image.gather(np.arange(24))[..., :12].copy()
    with pytest.raises(RunError, match=r"trainer\.tta: patches of 16 x 12 px cannot be turned"):
        train(
            replace(patches, image=Mapped((image,), image.shape)),
            np.array(["train", "val"] * 12),
            statistics,
            tmp_path,
            **sections(
                "cnn", "classification", trainer__tta=True, trainer__augment={"turn": False}
            ),
            seed=0,
        )
