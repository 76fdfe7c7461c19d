"""Chunked arrays: gathered as one array would be, whatever the lengths of the chunks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from swath.data.mapped import Mapped


@given(
    lengths=st.lists(st.integers(1, 7), min_size=1, max_size=6),
    data=st.data(),
)
def test_gathering_is_indexing_the_whole(lengths: list[int], data: st.DataObject) -> None:
    whole = np.arange(sum(lengths) * 6, dtype=np.uint16).reshape(-1, 2, 3)
    chunks = np.split(whole, np.cumsum(lengths)[:-1])
    mapped = Mapped(tuple(chunks), whole.shape)
    which = np.array(
        data.draw(st.lists(st.integers(0, len(whole) - 1), max_size=20)), dtype=np.int64
    )
    gathered = mapped.gather(which)
    assert gathered.dtype == np.uint16 and gathered.shape == (len(which), 2, 3)
    np.testing.assert_array_equal(gathered, whole[which])
    views = list(mapped.views(which))
    for view, expected in zip(views, whole[which], strict=True):
        np.testing.assert_array_equal(view, expected)
        assert np.shares_memory(view, whole)
    assert (len(mapped), mapped.dtype) == (len(whole), np.uint16)


def test_what_is_announced_is_read_from_the_file_unchanged(tmp_path: Path) -> None:
    whole = np.arange(5000 * 4, dtype=np.int16).reshape(5000, 4)
    whole.tofile(tmp_path / "0")
    chunk = np.memmap(tmp_path / "0", np.int16, "r", shape=(5000, 4))
    # The rest of a chunk is not the set's: shards end with shorter ones.
    mapped = Mapped((chunk[:4000], chunk[4100:]), (4900, 4))
    which = np.array([4899, 3, 4000, 3999, 4, 4])
    mapped.announce(which)
    np.testing.assert_array_equal(mapped.gather(which), whole[[4999, 3, 4100, 3999, 4, 4]])
