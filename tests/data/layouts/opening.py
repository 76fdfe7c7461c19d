"""How the tests of layouts open the scenes of a folder, or are refused them."""

from __future__ import annotations

from pathlib import Path

import pytest

from swath.data.card import Card
from swath.data.layouts import open_source
from swath.data.scene import Scene
from swath.errors import DataError


def opened(card: Card, folder: Path, name: str | None = None) -> Scene:
    """A scene of a folder, the first unless named."""
    source = open_source(card, folder)
    scene = source.open(name or source.names[0])
    assert isinstance(scene, Scene)
    return scene


def refused(card: Card, folder: Path) -> str:
    """The one line in which the first scene, or the first part of published patches, is refused."""
    with pytest.raises(DataError) as told:
        source = open_source(card, folder)
        source.open(source.names[0])
    assert "\n" not in str(told.value)
    return str(told.value)
