"""Every preset of a model: builds, answers in the right shape, is repeatable, and learns.

The walk is over `conf/model`; a preset whose package is not installed is left out with the line
that a user would read.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import nn
from torch.nn import functional as F

from swath import registry, settings
from swath.errors import RunError

CONF = Path(__file__).parents[2] / "conf" / "model"
PRESETS = sorted(path.stem for path in CONF.glob("*.yaml"))
BANDS, CLASSES, SIDE = 5, 7, 64

PARAMETERS = {
    "cnn": 696_807,
    "hybrid_3d": 41_853,
    "mlp": 5_277_703,
    "perceptron": 42,
    "plain_cnn": 530_183,
    "resnet": 11_288_991,
    "smp": 24_443_511,
    "spectral_1d": 6_907,
    "spectral_2d": 148_871,
    "spectral_mlp": 9_863,
    "timm": 11_186_375,
    "torchgeo": 11_186_375,
    "unet": 483_127,
    "vit": 2_732_551,
}
"""Parameters of each preset for 5 bands, 7 classes and patches of 64 px."""
SMALL: dict[str, dict[str, Any]] = {
    "cnn": {"width": 8},
    "mlp": {"hidden": [16]},
    "resnet": {"width": 8, "blocks": [1, 1]},
    "unet": {"width": 8, "depth": 2},
    "vit": {"width": 48, "depth": 2},
}
"""Settings with which a preset learns eight patches in seconds."""


def section(preset: str) -> dict[str, Any]:
    """The complete section of a preset."""
    return settings.check("model", yaml.safe_load((CONF / f"{preset}.yaml").read_text()))


def built(preset: str, side: tuple[int, int] = (SIDE, SIDE), **changed: Any) -> nn.Module:
    """The network of a preset, tried on an empty patch as training does."""
    chosen = section(preset) | changed
    torch.manual_seed(0)
    try:
        network: nn.Module = registry.load("model", chosen.pop("name"))(BANDS, CLASSES, **chosen)
    except RunError as absent:
        if "swath[zoo]" not in absent.mend:
            raise
        pytest.skip(str(absent))
    with torch.inference_mode():
        network.eval()(torch.zeros(1, BANDS, *side))
    return network.train()


def images(count: int = 2, side: tuple[int, int] = (SIDE, SIDE)) -> torch.Tensor:
    return torch.randn(count, BANDS, *side, generator=torch.Generator().manual_seed(1))


def test_every_model_has_a_preset() -> None:
    assert {section(preset)["name"] for preset in PRESETS} == set(registry.entries("model"))
    assert set(PARAMETERS) == set(PRESETS)


@pytest.mark.parametrize("preset", PRESETS)
def test_it_has_so_many_parameters(preset: str) -> None:
    assert sum(p.numel() for p in built(preset).parameters()) == PARAMETERS[preset]


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("side", [(SIDE, SIDE), (96, 32)], ids=["square", "oblong"])
def test_it_answers_by_patch_or_by_pixel(preset: str, side: tuple[int, int]) -> None:
    answer = built(preset, side)(images(side=side))
    assert tuple(answer.shape) in {(2, CLASSES), (2, CLASSES, *side)}
    assert torch.isfinite(answer).all()


@pytest.mark.parametrize("preset", PRESETS)
def test_gradients_reach_every_parameter(preset: str) -> None:
    network = built(preset, (32, 32))
    draw = torch.Generator().manual_seed(2)
    with torch.no_grad():  # a step from the start, where a scale of 0 lets no gradient through
        for value in network.parameters():
            value += 0.02 * torch.randn(value.shape, generator=draw)
    answer = network(images(16, (32, 32)))  # so many that no block is left out for all
    (answer * torch.randn(answer.shape, generator=draw)).sum().backward()
    for parameter, value in network.named_parameters():
        assert value.grad is not None, parameter
        assert value.grad.abs().sum() > 0, parameter


@pytest.mark.parametrize("preset", PRESETS)
def test_it_runs_in_channels_last_and_in_bf16(preset: str) -> None:
    network = built(preset).eval()
    plain = network(images())
    moved = network.to(memory_format=torch.channels_last)
    image = images().contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(moved(image), plain, atol=5e-4, rtol=1e-4)
    with torch.autocast("cpu", torch.bfloat16):
        answer = moved(image)
    assert answer.shape == plain.shape
    assert torch.isfinite(answer).all()


@pytest.mark.parametrize("preset", PRESETS)
def test_a_seed_decides_its_weights_and_what_it_drops(preset: str) -> None:
    def answer(seed: int) -> torch.Tensor:
        network = built(preset, (32, 32))
        torch.manual_seed(seed)
        answered: torch.Tensor = network(images(4, (32, 32)))
        return answered

    drops = any(
        getattr(module, "p", 0) or getattr(module, "rate", 0) for module in built(preset).modules()
    )
    assert torch.equal(answer(3), answer(3))
    assert torch.equal(answer(3), answer(4)) != drops
    weights = [dict(built(preset).state_dict()) for _ in range(2)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


@pytest.mark.parametrize("preset", PRESETS)
def test_it_learns_eight_patches_by_heart(preset: str) -> None:
    """Patches of fields of 8 px; a patch has a class drawn by lot, a pixel the sign of a band."""
    network = built(preset, (32, 32), **SMALL.get(preset, {}))
    image = images(8, (4, 4)).repeat_interleave(8, dim=2).repeat_interleave(8, dim=3)
    if network(image).ndim == 2:
        label, enough = torch.arange(8) % CLASSES, 1.0
    else:
        label, enough = (image[:, 0] > 0).long(), 0.85
    # The perceptron's few weights have far to go.
    lr = 0.1 if preset == "perceptron" else 0.01
    optimizer = torch.optim.AdamW(network.parameters(), lr=lr)
    for _ in range(30):
        optimizer.zero_grad()
        F.cross_entropy(network(image), label).backward()
        optimizer.step()
    with torch.inference_mode():
        right = (network.eval()(image).argmax(dim=1) == label).float().mean()
    assert float(right) >= enough


@pytest.mark.parametrize("name", registry.entries("model"))
def test_it_says_what_it_is_and_where_it_comes_from(name: str) -> None:
    doc = registry.entry("model", name).doc
    assert "(batch, band, y, x)" in doc
    assert "Source:" in doc and ("doi:" in doc or "arXiv:" in doc)
    for setting in registry.entry("model", name).settings:
        assert f"{setting}: " in doc, "each setting is explained"
