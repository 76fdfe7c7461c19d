"""Networks of timm, segmentation-models-pytorch and torchgeo, by their names there.

The libraries are an optional extra (`pip install 'swath[zoo]'`). Pretrained weights come from a
file, never from a network: whatever number of bands and classes it was trained on, the first
convolution is adapted to ours and the classifier begins afresh.
"""

from __future__ import annotations

import importlib
import logging
import pickle
from collections.abc import Callable, Iterable
from pathlib import Path
from textwrap import shorten
from typing import Any

import torch
from torch import Tensor, nn

from swath.errors import ConfigError, RunError, nearest
from swath.registry import registered

log = logging.getLogger(__name__)

NEVER = {
    "checkpoint_path", "encoder_weights", "pretrained", "pretrained_cfg", "pretrained_cfg_overlay",
    "weights",
}  # fmt: skip
"""Arguments of the libraries by which they would fetch weights from a network, or read them from a
file in ways of their own."""


@registered("model")
def timm(
    bands: int,
    classes: int,
    *,
    architecture: str,
    weights: str | None = None,
    options: dict[str, Any] = {},  # noqa: B006
) -> nn.Module:
    """A network of timm, for one label a patch: (batch, band, y, x) -> (batch, class).

    Args:
        bands: number of input bands.
        classes: number of classes.
        architecture: its name in timm (`timm.list_models()`), e.g. resnet18, convnext_atto.
        weights: file of pretrained weights; None trains from scratch. See `start_from`.
        options: further arguments of `timm.create_model`, e.g. {drop_path_rate: 0.1}; a
            transformer of fixed side takes {img_size: 64}.

    Raises:
        RunError: timm is not installed, or the weights do not fit.
        ConfigError: timm has no such architecture, or it does not take the options.

    Source:
        Wightman: PyTorch Image Models, 2019 (doi:10.5281/zenodo.4414861).
    """
    library = _library("timm", "timm")
    names = library.list_models()
    _known(architecture, [n for n in names if n[:2] == architecture[:2]], "timm.list_models()")
    return _made(
        lambda: library.create_model(
            architecture, pretrained=False, in_chans=bands, num_classes=classes, **options
        ),
        "timm", architecture, options, weights, bands,
    )  # fmt: skip


@registered("model")
def smp(
    bands: int,
    classes: int,
    *,
    architecture: str,
    encoder: str = "resnet34",
    weights: str | None = None,
    options: dict[str, Any] = {},  # noqa: B006
) -> nn.Module:
    """A network of segmentation-models-pytorch: (batch, band, y, x) -> (batch, class, y, x).

    Most of them take sides that are multiples of 32 px.

    Args:
        bands: number of input bands.
        classes: number of classes.
        architecture: its name there, e.g. Unet, FPN, DeepLabV3Plus, Segformer.
        encoder: name of its encoder, e.g. resnet34, mit_b0, or tu- and a name of timm's.
        weights: file of pretrained weights, of all of the network or of its encoder; None trains
            from scratch. See `start_from`.
        options: further arguments of the architecture, e.g. {encoder_depth: 4}.

    Raises:
        RunError: the library is not installed, or the weights do not fit.
        ConfigError: it has no such architecture or encoder, or does not take the options.

    Source:
        Iakubovskii: Segmentation Models Pytorch, 2019
        (https://github.com/qubvel-org/segmentation_models.pytorch), which names the paper of each,
        e.g. of Unet arXiv:1505.04597.
    """
    library = _library("segmentation_models_pytorch", "smp")
    known = library.MODEL_ARCHITECTURES_MAPPING
    if architecture.lower() not in known:
        _known(architecture, [made.__name__ for made in known.values()], "")
    return _made(
        lambda: library.create_model(
            architecture,
            encoder_name=encoder,
            encoder_weights=None,
            in_channels=bands,
            classes=classes,
            **options,
        ),
        "smp", architecture, options, weights, bands,
    )  # fmt: skip


@registered("model")
def torchgeo(
    bands: int,
    classes: int,
    *,
    architecture: str,
    weights: str | None = None,
    options: dict[str, Any] = {},  # noqa: B006
) -> nn.Module:
    """A network of torchgeo: (batch, band, y, x) -> (batch, class), or with y, x where it is unet.

    Its residual networks, vision and Swin transformers and its U-Net, which are those that its
    published weights of satellite images fit. Its models of given wavelengths or of several
    sensors at once (dofa, croma, …) take more than an image, and are left out.

    Args:
        bands: number of input bands.
        classes: number of classes.
        architecture: its name in torchgeo (`torchgeo.models.list_models()`), e.g. resnet50.
        weights: file of pretrained weights; None trains from scratch. See `start_from`.
        options: further arguments of the architecture, e.g. {img_size: 64} for a vit.

    Raises:
        RunError: torchgeo is not installed, or the weights do not fit.
        ConfigError: it has no such architecture, or it does not take the options.

    Source:
        Stewart et al.: TorchGeo: Deep Learning With Geospatial Data, SIGSPATIAL 2022
        (doi:10.1145/3557915.3560953).
    """
    library = _library("torchgeo.models", "torchgeo")
    kinds = ("resnet", "vit_", "swin_", "unet")
    _known(architecture, [n for n in library.list_models() if n.startswith(kinds)], "")

    def make() -> nn.Module:
        if architecture == "unet":
            network: nn.Module = library.unet(
                classes=classes, encoder_weights=None, in_channels=bands, **options
            )
        elif architecture.startswith("swin_"):
            network = library.get_model(architecture, num_classes=classes, **options)
            _take_bands(network.features[0], bands)  # type: ignore[index, arg-type]
        else:
            network = library.get_model(
                architecture, in_chans=bands, num_classes=classes, **options
            )
        return network

    return _made(make, "torchgeo", architecture, options, weights, bands)


def start_from(network: nn.Module, weights: Path, bands: int) -> None:
    """Fill a network with pretrained weights.

    - Its first convolution takes those of another number of bands by `adapted`.
    - Its last layer, the classifier, begins afresh where the number of classes differs or the file
      has none; parts of the file that the network lacks (another classifier) are left out.
    - The file may hold the encoder alone, as published for segmentation; the decoder then begins
      afresh.

    Args:
        network: of the file's architecture.
        weights: a state dict, saved by safetensors or by torch (alone, or below `state_dict`,
            `model` or, as swath's own models have it, `weights`). It is read as data: no code in it
            runs.
        bands: number of bands of the network's input.

    Raises:
        RunError: the file is damaged or holds more than data, or is of another architecture.
    """
    own = network.state_dict()
    given = _read(weights)
    parts = {name.split(".")[0] for name in own}
    if "encoder" in parts and not any(name.startswith("encoder.") for name in given):
        given = {f"encoder.{name}": value for name, value in given.items()}
        own = {name: value for name, value in own.items() if name.startswith("encoder.")}
        parts = {".".join(name.split(".")[:2]) for name in own}
    # The first and the last layer that have weights: what sees the bands, and the classifier.
    layers = [n for n, m in network.named_modules() if isinstance(m, nn.Linear | nn.Conv2d)]
    filled, fresh = {}, []
    for name, value in own.items():
        found = given.pop(name, None)
        is_first, is_head = (name.rpartition(".")[0] == layers[end] for end in (0, -1))
        if found is None:
            if not is_head and not name.endswith("num_batches_tracked"):
                raise _misfit(weights, f"lacks {name}")
            fresh.append(name)
        elif found.shape == value.shape:
            filled[name] = found
        elif is_first and value.ndim == 4 and _same_but(found, value, 1):
            filled[name] = adapted(found, bands)
        elif is_head and _same_but(found, value, 0):
            fresh.append(name)
        else:
            raise _misfit(
                weights, f"has {name} of {tuple(found.shape)}, the network of {tuple(value.shape)}"
            )
    deeper = [name for name in given if any(name.startswith(f"{part}.") for part in parts)]
    if deeper:
        raise _misfit(weights, f"has {deeper[0]}, which the network lacks")
    network.load_state_dict(filled, strict=False)
    log.info("%s: %d of %d arrays begin as in it", weights, len(filled), len(filled) + len(fresh))


def adapted(weight: Tensor, bands: int) -> Tensor:
    """The weights of a first convolution, adapted to another number of bands.

    The bands of the source are repeated in turn, cut off at `bands`, and divided by their number as
    timm does it; what a grey image (all bands equal) would then be answered more or less than
    before is shared among the bands, so that it is answered exactly as before. For a multiple of
    the source's bands, and for one, that is timm's answer.

    Args:
        weight: (filter, band, y, x) of the source.
        bands: number of bands wanted.

    Returns:
        (filter, `bands`, y, x).

    Source:
        `adapt_input_conv` of timm (doi:10.5281/zenodo.4414861), to which the last step is added.
    """
    source = weight.shape[1]
    if source == bands:
        return weight
    repeated = weight.repeat(1, -(-bands // source), 1, 1)[:, :bands] * (source / bands)
    lost = weight.sum(dim=1, keepdim=True) - repeated.sum(dim=1, keepdim=True)
    return repeated + lost / bands


def _library(module: str, model: str) -> Any:
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as absent:
        raise RunError(
            f"needs the package {str(absent.name).split('.')[0]}, which is not installed",
            where=f"model {model}",
            mend="pip install 'swath[zoo]'",
        ) from None
    except (ImportError, RuntimeError) as broken:
        raise RunError(
            f"{module} does not import ({str(broken).splitlines()[0]})",
            where=f"model {model}",
            mend=f"install the torchvision that was built for torch {torch.__version__}",
        ) from None


def _known(architecture: str, names: Iterable[str], where_all: str) -> None:
    if architecture not in (names := list(names)):
        raise ConfigError(
            f"no architecture is named '{architecture}'",
            where="model.architecture",
            mend=nearest(architecture, names) if names else f"{where_all} has them all",
        )


def _made(
    make: Callable[[], nn.Module],
    model: str,
    architecture: str,
    options: dict[str, Any],
    weights: str | None,
    bands: int,
) -> nn.Module:
    if refused := sorted(NEVER & options.keys()):
        raise ConfigError(
            "pretrained weights come from a file",
            where=f"model.options.{refused[0]}",
            mend="give its path as model.weights",
        )
    try:
        network = make()
    except Exception as wrong:  # of whatever kind: it is the library's answer to the settings
        reason = str(wrong).splitlines()[0] if str(wrong) else type(wrong).__name__
        raise ConfigError(
            f"{architecture} cannot be built ({shorten(reason, 300)})",
            where=f"model {model}",
            mend="change model.options" if options else "choose another architecture",
        ) from None
    if weights is None:
        return network
    if Path(weights).is_file():
        start_from(network, Path(weights), bands)
    else:
        _refuse_without(network, weights, model)
    return network


def _refuse_without(network: nn.Module, weights: str, model: str) -> None:
    """Let a network whose weights are not at hand answer only once it was given its weights.

    So a trained model, which has them all, can be used where the pretrained ones are not; and a
    training without them is refused at its first step.
    """

    def refuse(*_: Any) -> None:
        raise RunError(
            f"there is no file {weights}",
            where=f"model {model}: model.weights",
            mend="give the path of the weights, or null to train from scratch",
        )

    refusal = network.register_forward_pre_hook(refuse)
    network.register_load_state_dict_post_hook(lambda *_: refusal.remove())


def _take_bands(layers: nn.Sequential, bands: int) -> None:
    """Put a first convolution of so many bands in the place of another."""
    old = layers[0]
    assert isinstance(old, nn.Conv2d)
    layers[0] = nn.Conv2d(bands, old.out_channels, old.kernel_size, old.stride)  # type: ignore[arg-type]


def _same_but(one: Tensor, other: Tensor, dimension: int) -> bool:
    """Whether two shapes differ in one dimension alone."""
    shapes = [list(array.shape) for array in (one, other)]
    for shape in shapes:
        shape[dimension] = -1
    return shapes[0] == shapes[1]


def _read(path: Path) -> dict[str, Tensor]:
    """The arrays of a file of weights by name; no code in it runs."""
    try:
        if path.suffix == ".safetensors":
            content: Any = _library("safetensors.torch", path.name).load_file(path)
        else:
            content = torch.load(path, map_location="cpu", weights_only=True)
    except RunError:
        raise
    except pickle.UnpicklingError:
        raise _misfit(path, "holds other things than weights, so that it was not read") from None
    except Exception as broken:
        reason = str(broken).splitlines()[0] if str(broken) else type(broken).__name__
        raise _misfit(path, f"cannot be read ({reason})") from None
    for key in ("state_dict", "model", "weights"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    by_name = content if isinstance(content, dict) else {}
    arrays = {
        str(name).removeprefix("module."): value
        for name, value in by_name.items()
        if isinstance(value, Tensor)
    }
    if not arrays:
        raise _misfit(path, "holds no arrays by name")
    return arrays


def _misfit(weights: Path, what: str) -> RunError:
    return RunError(
        what, where=weights, mend="give model.weights a state dict of this model.architecture"
    )
