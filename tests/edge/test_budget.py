"""What a board leaves to one process."""

import pytest

from omni_avsr.edge.budget import Profile, memory_gib, process_bytes
from omni_avsr.edge.meter import GIB


@pytest.mark.parametrize(
    ("text", "gib"), [("8GB", 8.0), ("8 GiB", 8.0), ("8", 8.0), ("0.5g", 0.5), ("3072MB", 3.0), ("7.4gb", 7.4)]
)
def test_memory_is_read_as_it_is_written(text: str, gib: float) -> None:
    assert memory_gib(text) == gib


@pytest.mark.parametrize("text", ["", "much", "-8GB", "8TB", "0GB", "1.2.3GB"])
def test_other_texts_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="such as 8GB"):
        memory_gib(text)


@pytest.mark.parametrize(("board", "process"), [(4.0, 2.25), (8.0, 6.0), (16.0, 13.5)])
def test_eight_gigabytes_leave_six(board: float, process: float) -> None:
    assert process_bytes(board) == process * GIB
    assert Profile(process_gib=process).process_bytes == process_bytes(board)


def test_a_board_that_leaves_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match=r"a board of 1 GB leaves 0\.00 GiB"):
        process_bytes(1.0)
