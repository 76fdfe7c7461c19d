"""The zoo: the first layer's bands, weights from a file, refusals; and the real libraries."""

from __future__ import annotations

import importlib
import pickle
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from swath import registry
from swath.errors import ConfigError, RunError, SwathError
from swath.models.zoo import _made, adapted, start_from


class Tiny(nn.Module):
    """A network of one label a patch, as the libraries name its parts."""

    def __init__(self, bands: int, classes: int, *, width: int = 4, depth: int = 1) -> None:
        super().__init__()
        self.stem = nn.Conv2d(bands, width, 3, padding=1)
        self.layers = nn.Sequential(*(nn.Conv2d(width, width, 1) for _ in range(depth)))
        self.norm = nn.BatchNorm2d(width)
        self.head = nn.Linear(width, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        answer: torch.Tensor = self.head(self.norm(self.layers(self.stem(x))).mean(dim=(2, 3)))
        return answer


class Segmenter(nn.Module):
    """A network of one label a pixel, whose encoder is another's body."""

    def __init__(self, bands: int, classes: int) -> None:
        super().__init__()
        self.encoder = Tiny(bands, 1)
        del self.encoder.head
        self.decoder = nn.Conv2d(4, 4, 1)
        self.head = nn.Conv2d(4, classes, 1)


def tiny(bands: int, classes: int, seed: int = 0, **given: int) -> Tiny:
    torch.manual_seed(seed)
    return Tiny(bands, classes, **given).eval()


@pytest.fixture
def saved(tmp_path: Path) -> Callable[..., Path]:
    """Writes anything with torch.save."""

    def save(content: Any) -> Path:
        path = tmp_path / "weights.pt"
        torch.save(content, path)
        return path

    return save


def line(error: pytest.ExceptionInfo[SwathError]) -> str:
    text = str(error.value)
    assert "\n" not in text
    return text


# ---- the first convolution --------------------------------------------------------------------


@pytest.mark.parametrize("bands", [1, 2, 3, 4, 5, 6, 10, 13, 220])
def test_a_grey_image_is_answered_as_before(bands: int) -> None:
    torch.manual_seed(0)
    source = torch.randn(8, 3, 5, 5)
    grey = torch.rand(2, 1, 9, 9)
    before = nn.functional.conv2d(grey.expand(-1, 3, -1, -1), source)
    weight = adapted(source, bands)
    assert weight.shape == (8, bands, 5, 5)
    after = nn.functional.conv2d(grey.expand(-1, bands, -1, -1), weight)
    torch.testing.assert_close(after, before, atol=1e-4, rtol=1e-4)


def test_bands_are_repeated_in_turn_and_divided_by_their_number() -> None:
    source = torch.tensor([1.0, 2.0, 6.0]).reshape(1, 3, 1, 1)
    assert adapted(source, 3) is source
    assert adapted(source, 6).flatten().tolist() == [0.5, 1.0, 3.0, 0.5, 1.0, 3.0]
    assert adapted(source, 1).flatten().tolist() == [9.0]
    # (1, 2, 6, 1) · 3/4 sums up to 7.5; what is lost of 9 is shared by the four.
    assert adapted(source, 4).flatten().tolist() == [1.125, 1.875, 4.875, 1.125]


# ---- weights from a file ----------------------------------------------------------------------


@pytest.mark.parametrize("wrapped", [None, "state_dict", "model", "weights"])
def test_a_network_begins_as_the_file(saved: Callable[..., Path], wrapped: str | None) -> None:
    source, ours = tiny(3, 10), tiny(3, 10, seed=1)
    weights: dict[str, Any] = {f"module.{k}": v for k, v in source.state_dict().items()}
    start_from(ours, saved({wrapped: weights, "epoch": 3} if wrapped else weights), 3)
    image = torch.randn(2, 3, 6, 6)
    assert torch.equal(ours(image), source(image))


def test_other_bands_are_adapted_and_other_classes_begin_afresh(
    saved: Callable[..., Path],
) -> None:
    source, ours = tiny(3, 10), tiny(5, 2, seed=1)
    fresh = ours.head.weight.detach().clone()
    start_from(ours, saved(source.state_dict()), 5)
    assert torch.equal(ours.stem.weight, adapted(source.stem.weight, 5))
    assert torch.equal(ours.layers[0].weight, source.layers[0].weight)
    assert torch.equal(ours.head.weight, fresh)


def test_a_file_without_the_classifier_or_with_another_will_do(
    saved: Callable[..., Path],
) -> None:
    source, ours = tiny(3, 10), tiny(3, 10, seed=1)
    fresh = ours.head.weight.detach().clone()
    weights = {k: v for k, v in source.state_dict().items() if not k.startswith("head")}
    weights |= {"fc.weight": torch.zeros(3, 4)}
    start_from(ours, saved(weights), 3)
    assert torch.equal(ours.stem.weight, source.stem.weight)
    assert torch.equal(ours.head.weight, fresh)


def test_the_weights_of_an_encoder_fill_the_encoder(saved: Callable[..., Path]) -> None:
    source, ours = tiny(3, 10), Segmenter(5, 2)
    fresh = ours.decoder.weight.detach().clone()
    start_from(ours, saved(source.state_dict()), 5)
    assert torch.equal(ours.encoder.stem.weight, adapted(source.stem.weight, 5))
    assert torch.equal(ours.encoder.layers[0].weight, source.layers[0].weight)
    assert torch.equal(ours.decoder.weight, fresh)


@pytest.mark.parametrize(
    "source, words",
    [
        ({"width": 8}, "has stem.weight of (8, 3, 3, 3), the network of (4, 3, 3, 3)"),
        ({"depth": 2}, "has layers.1.weight, which the network lacks"),
        ({"depth": 0}, "lacks layers.0.weight"),
    ],
)
def test_weights_of_another_architecture_are_refused(
    saved: Callable[..., Path], source: dict[str, int], words: str
) -> None:
    path = saved(tiny(3, 10, **source).state_dict())
    with pytest.raises(RunError) as error:
        start_from(tiny(3, 10), path, 3)
    assert line(error) == (
        f"{path}: {words}; give model.weights a state dict of this model.architecture"
    )


def test_the_encoder_of_another_architecture_is_refused(saved: Callable[..., Path]) -> None:
    with pytest.raises(RunError, match=r"has encoder\.layers\.1\.weight, which the network lacks"):
        start_from(Segmenter(3, 2), saved(tiny(3, 10, depth=2).state_dict()), 3)


class Harmful:
    """Its pickle makes a file when it is read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def test_a_file_with_code_in_it_is_refused_and_the_code_does_not_run(
    saved: Callable[..., Path], tmp_path: Path
) -> None:
    made = tmp_path / "made"
    path = saved({"stem.weight": Harmful(made)})
    with pytest.raises(RunError) as error:
        start_from(tiny(3, 10), path, 3)
    assert "holds other things than weights" in line(error)
    assert not made.exists()
    pickle.loads(pickle.dumps(Harmful(made)))
    assert made.exists(), "it would have run"


@pytest.mark.parametrize("content", [[1, 2], {"epoch": 3}, torch.zeros(3)])
def test_a_file_without_arrays_by_name_is_refused(saved: Callable[..., Path], content: Any) -> None:
    with pytest.raises(RunError, match="holds no arrays by name"):
        start_from(tiny(3, 10), saved(content), 3)


def test_a_damaged_file_is_refused(saved: Callable[..., Path]) -> None:
    path = saved(tiny(3, 10).state_dict())
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(RunError) as error:
        start_from(tiny(3, 10), path, 3)
    assert line(error).startswith(f"{path}: cannot be read (")


def test_a_network_without_its_file_answers_once_it_has_its_weights(tmp_path: Path) -> None:
    """So a trained model serves where the pretrained weights are not, and no training starts."""
    absent = str(tmp_path / "absent.pt")
    network = _made(lambda: tiny(3, 10, seed=1), "timm", "tiny", {}, absent, 3)
    image = torch.randn(2, 3, 6, 6)
    with pytest.raises(RunError) as error:
        network(image)
    assert line(error) == (
        f"model timm: model.weights: there is no file {absent}; "
        "give the path of the weights, or null to train from scratch"
    )
    trained = tiny(3, 10)
    network.load_state_dict(trained.state_dict())
    assert torch.equal(network(image), trained(image))


# ---- what is refused --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "model, package",
    [("timm", "timm"), ("smp", "segmentation_models_pytorch"), ("torchgeo", "torchgeo")],
)
def test_an_absent_package_is_told_with_what_to_install(
    monkeypatch: pytest.MonkeyPatch, model: str, package: str
) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(RunError) as error:
        registry.load("model", model)(3, 10, architecture="resnet18")
    assert line(error) == (
        f"model {model}: needs the package {package}, which is not installed; "
        "pip install 'swath[zoo]'"
    )


def test_a_torchvision_that_does_not_fit_is_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As a torchvision that was built for CUDA fails beside a torch that was not."""
    (tmp_path / "timm.py").write_text(
        "raise RuntimeError('operator torchvision::nms does not exist')"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "timm", raising=False)
    importlib.invalidate_caches()
    with pytest.raises(RunError) as error:
        registry.load("model", "timm")(3, 10, architecture="resnet18")
    assert line(error) == (
        "model timm: timm does not import (operator torchvision::nms does not exist); "
        f"install the torchvision that was built for torch {torch.__version__}"
    )


@pytest.mark.parametrize("option", ["pretrained", "checkpoint_path", "encoder_weights", "weights"])
def test_weights_by_another_way_are_refused(option: str) -> None:
    with pytest.raises(ConfigError) as error:
        _made(lambda: tiny(3, 10), "timm", "tiny", {option: True}, None, 3)
    assert line(error) == (
        f"model.options.{option}: pretrained weights come from a file; "
        "give its path as model.weights"
    )


# ---- the real libraries, where they are -------------------------------------------------------


def real(model: str, bands: int, classes: int, **given: Any) -> nn.Module:
    """A network of a library; the test is left out where the library is not installed."""
    try:
        network: nn.Module = registry.load("model", model)(bands, classes, **given)
    except RunError as absent:
        if "swath[zoo]" not in absent.mend:
            raise
        pytest.skip(str(absent))
    return network.eval()


@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
def test_timm_starts_from_a_file_of_other_bands_and_classes(tmp_path: Path, suffix: str) -> None:
    source = real("timm", 3, 10, architecture="resnet18")
    path = tmp_path / f"resnet18.{suffix}"
    if suffix == "pt":
        torch.save(source.state_dict(), path)
    else:
        importlib.import_module("safetensors.torch").save_file(source.state_dict(), path)
    ours = real("timm", 5, 7, architecture="resnet18", weights=str(path))
    assert torch.equal(ours.conv1.weight, adapted(source.conv1.weight, 5))
    assert torch.equal(ours.layer4[1].conv2.weight, source.layer4[1].conv2.weight)
    grey = torch.randn(2, 1, 64, 64)
    torch.testing.assert_close(
        ours.forward_features(grey.expand(-1, 5, -1, -1)),
        source.forward_features(grey.expand(-1, 3, -1, -1)),
        atol=1e-3, rtol=1e-3,
    )  # fmt: skip


def test_timm_refuses_weights_of_a_deeper_network(tmp_path: Path) -> None:
    torch.save(real("timm", 3, 10, architecture="resnet34").state_dict(), tmp_path / "34.pt")
    with pytest.raises(RunError, match=r"34\.pt: has layer1\.2\..*, which the network lacks"):
        real("timm", 3, 10, architecture="resnet18", weights=str(tmp_path / "34.pt"))


def test_a_transformer_of_fixed_side_is_given_its_side() -> None:
    given = {"architecture": "vit_tiny_patch16_224", "options": {"img_size": 64, "depth": 1}}
    assert real("timm", 4, 7, **given)(torch.zeros(1, 4, 64, 64)).shape == (1, 7)


def test_smp_takes_the_weights_of_its_encoder(tmp_path: Path) -> None:
    source = real("timm", 3, 10, architecture="resnet18")
    torch.save(source.state_dict(), tmp_path / "encoder.pt")
    ours = real(
        "smp", 5, 7, architecture="Unet", encoder="resnet18", weights=str(tmp_path / "encoder.pt")
    )
    assert torch.equal(ours.encoder.conv1.weight, adapted(source.conv1.weight, 5))
    assert torch.equal(ours.encoder.layer4[1].conv2.weight, source.layer4[1].conv2.weight)
    assert ours(torch.zeros(1, 5, 32, 64)).shape == (1, 7, 32, 64)


@pytest.mark.parametrize("architecture", ["resnet18", "swin_t", "unet"])
def test_torchgeo_starts_from_thirteen_bands(tmp_path: Path, architecture: str) -> None:
    source = real("torchgeo", 13, 10, architecture=architecture)
    torch.save(source.state_dict(), tmp_path / "weights.pt")
    ours = real("torchgeo", 4, 7, architecture=architecture, weights=str(tmp_path / "weights.pt"))
    first = next(name for name, value in source.state_dict().items() if value.ndim == 4)
    assert source.state_dict()[first].shape[1] == 13
    assert torch.equal(ours.state_dict()[first], adapted(source.state_dict()[first], 4))
    pixels = (64, 64) if architecture == "unet" else ()
    assert ours(torch.zeros(1, 4, 64, 64)).shape == (1, 7, *pixels)


@pytest.mark.parametrize(
    "model, given, words",
    [
        ("timm", {"architecture": "resnet181"}, "did you mean 'resnet18'?"),
        ("timm", {"architecture": "hf-hub:timm/x"}, "timm.list_models() has them all"),
        ("timm", {"architecture": "resnet18", "options": {"f": 1}}, "'f'); change model.options"),
        ("smp", {"architecture": "Unett"}, "did you mean 'Unet'?"),
        ("smp", {"architecture": "Unet", "encoder": "resnet19"}, "Wrong encoder name `resnet19`"),
        ("torchgeo", {"architecture": "dofa_base_patch16_224"}, "no architecture is named"),
    ],
)  # fmt: skip
def test_what_a_library_does_not_have_is_told_in_a_line(
    model: str, given: dict[str, Any], words: str
) -> None:
    with pytest.raises(ConfigError) as error:
        real(model, 3, 10, **given)
    assert words in line(error) and len(line(error)) < 500
