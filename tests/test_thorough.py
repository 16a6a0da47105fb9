"""The table of exhaustive tests names tests that exist."""

import pytest
from support import ROOT
from thorough import KEPT


@pytest.mark.parametrize("key", KEPT)
def test_every_entry_names_a_test(key: str) -> None:
    file, _, name = key.partition("::")
    assert f"def {name}" in (ROOT / file).read_text()
