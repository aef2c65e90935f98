"""`recsys.ids`: hashes and packed columns."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys.ids import NOT_FOUND, BytesColumn, HashIndex, hash_id


def test_the_hash_never_changes() -> None:
    # Redis outlives a release: a changed hash would orphan every stored history.
    assert hash_id("item-42") == 0x0D358A34F7FC17EA


@given(st.lists(st.text(max_size=20), unique=True, max_size=50), st.text(max_size=20))
def test_every_id_finds_its_own_row_and_no_other(ids: list[str], stranger: str) -> None:
    index = HashIndex.build(ids)
    assert [index.row(i) for i in ids] == list(range(len(ids)))
    assert index.row(stranger) == (ids.index(stranger) if stranger in ids else NOT_FOUND)
    hashes = np.array([hash_id(i) for i in [*ids, "\x00 never an id \x00"]], dtype=np.uint64)
    assert index.lookup(hashes).tolist() == [*range(len(ids)), NOT_FOUND]


def test_equal_ids_are_refused() -> None:
    with pytest.raises(ValueError, match="two ids are equal"):
        HashIndex.build(["a", "b", "a"])


@given(st.lists(st.binary(max_size=30)))
def test_a_packed_column_gives_back_what_it_was_given(values: list[bytes]) -> None:
    column = BytesColumn.build(values)
    assert [column[row] for row in range(len(column))] == values
