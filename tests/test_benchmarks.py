"""The benchmarks of the published recipe at tiny shapes: every figure has its unit, and what is split adds up."""

from dataclasses import replace

import pytest

from benchmarks import published, real_size, run
from benchmarks.cases import all_cases, published_cases, quick_cases, real_size_cases
from benchmarks.measure import UNITS, available_memory_gib
from benchmarks.tables import LEDGER, tables

TINY_PUBLISHED = replace(published_cases(2, seed=0)[0], size="tiny", clip_seconds=[0.4, 0.4])
TINY_REAL_SIZE = replace(real_size_cases(seed=0)[0], size="tiny", clip_seconds=[0.4])


def test_the_published_step_is_split_into_its_parts() -> None:
    figures = published.measure(TINY_PUBLISHED)
    assert figures.keys() <= UNITS.keys()
    parts = ("encode_audio", "encode_video", "assemble", "llm", "loss", "backward")
    assert all(figures[f"{part}_seconds"] > 0 for part in parts)
    assert figures["total_seconds"] == pytest.approx(sum(figures[f"{part}_seconds"] for part in parts), rel=0.5)
    assert len(tables([(TINY_PUBLISHED, figures)])) == 1


def test_the_ledger_of_real_size_adds_up_to_the_peak_of_its_step() -> None:
    figures = real_size.measure(TINY_REAL_SIZE)
    assert figures.keys() <= UNITS.keys()
    held = [figures[f"{part}_mib"] for part in LEDGER if part not in ("libraries", "activations")]
    assert all(size > 0 for size in held)
    assert figures["optimizer_mib"] == pytest.approx(2 * figures["gradients_mib"], rel=0.01)
    trained = 4 * figures["trainable_parameters"] / 1024**2
    assert (
        figures["gradients_mib"] < trained == pytest.approx(figures["adapters_mib"] + figures["projectors_mib"], 0.01)
    )
    assert sum(figures[f"{part}_mib"] for part in LEDGER) <= figures["peak_memory_mib"]
    assert len(tables([(TINY_REAL_SIZE, figures)])) == 2


def test_real_size_is_left_out_where_memory_is_short(monkeypatch: pytest.MonkeyPatch) -> None:
    assert available_memory_gib() > 0
    monkeypatch.setattr(run, "available_memory_gib", lambda: 3.0)
    assert run.shortage(replace(TINY_REAL_SIZE, needed_gib=4.0)) == "needs 4 GiB, 3.0 are free"
    assert run.shortage(replace(TINY_REAL_SIZE, needed_gib=2.0)) is None
    assert run.shortage(TINY_PUBLISHED) is None


def test_every_kind_of_case_has_a_name_and_a_tiny_variant() -> None:
    kinds = {type(case) for case in all_cases(1, seed=0)}
    assert kinds == {type(case) for case in quick_cases(seed=0)}
    assert kinds <= run.NAMES.keys()
