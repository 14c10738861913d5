"""The main figures of the benchmarks as tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.table import Table

from benchmarks.cases import (
    AnyCase,
    DecodingCase,
    ImportCase,
    PreparationCase,
    PublishedCase,
    RealSizeCase,
    TrainingCase,
)

Figures = Mapping[str, float]
LEDGER = (
    "libraries",
    "audio_encoder",
    "video_encoder",
    "llm",
    "embeddings",
    "adapters",
    "projectors",
    "gradients",
    "optimizer",
    "activations",
)
"""The parts that add up to the peak of a step at real size."""


def tables(results: Sequence[tuple[AnyCase, Figures]]) -> list[Table]:
    """One table for each benchmark that has results."""
    made = (
        _training([(case, figures) for case, figures in results if isinstance(case, TrainingCase)]),
        _published([(case, figures) for case, figures in results if isinstance(case, PublishedCase)]),
        _real_size([(case, figures) for case, figures in results if isinstance(case, RealSizeCase)]),
        _ledger([(case, figures) for case, figures in results if isinstance(case, RealSizeCase)]),
        _decoding([(case, figures) for case, figures in results if isinstance(case, DecodingCase)]),
        _imports([(case, figures) for case, figures in results if isinstance(case, ImportCase)]),
        _preparation([(case, figures) for case, figures in results if isinstance(case, PreparationCase)]),
    )
    return [table for table in made if table.row_count]


def _training(results: Sequence[tuple[TrainingCase, Figures]]) -> Table:
    parts = ("encode", "forward", "backward", "total")
    table = _table("training step of three tasks, seconds", "clips", *parts, "clips/s", "tokens/s", "padded", "MiB")
    for case, figures in results:
        table.add_row(
            case.label,
            *(f"{figures[f'{part}_seconds']:.2f}" for part in parts),
            f"{figures['clips_per_second']:.2f}",
            f"{figures['llm_tokens_per_second']:.0f}",
            f"{figures['padded_token_share']:.1%}",
            f"{figures['peak_memory_mib']:.0f}",
        )
    return table


def _published(results: Sequence[tuple[PublishedCase, Figures]]) -> Table:
    parts = ("encode_audio", "encode_video", "assemble", "llm", "loss", "backward", "total")
    table = _table("the published recipe's step, seconds", "clips", *(part.replace("_", " ") for part in parts), "MiB")
    for case, figures in results:
        seconds = (f"{figures[f'{part}_seconds']:.2f}" for part in parts)
        table.add_row(case.label, *seconds, f"{figures['peak_memory_mib']:.0f}")
    return table


def _real_size(results: Sequence[tuple[RealSizeCase, Figures]]) -> Table:
    parts = ("build", "encode", "forward", "backward", "optimizer", "generate")
    table = _table("the published recipe at its size, seconds", "clips", *parts, "MiB")
    for case, figures in results:
        seconds = (f"{figures[f'{part}_seconds']:.2f}" for part in parts)
        table.add_row(case.label, *seconds, f"{figures['peak_memory_mib']:.0f}")
    return table


def _ledger(results: Sequence[tuple[RealSizeCase, Figures]]) -> Table:
    table = _table("where the bytes are in its step", "part", "MiB")
    for _, figures in results:
        for part in LEDGER:
            table.add_row(part.replace("_", " "), f"{figures[f'{part}_mib']:.0f}")
        table.add_row("all", f"{sum(figures[f'{part}_mib'] for part in LEDGER):.0f}")
    return table


def _decoding(results: Sequence[tuple[DecodingCase, Figures]]) -> Table:
    parts = ("encode", "generate")
    table = _table("decoding, seconds", "task", "rates", "beams", "batch", *parts, "real time", "passes", "MiB")
    for case, figures in results:
        table.add_row(
            case.task.upper(),
            case.rates,
            str(case.num_beams),
            str(len(case.clip_seconds)),
            *(f"{figures[f'{part}_seconds']:.3f}" for part in parts),
            f"{figures['real_time_factor']:.3f}",
            f"{figures['llm_passes']:.0f}",
            f"{figures['peak_memory_mib']:.0f}",
        )
    return table


def _imports(results: Sequence[tuple[ImportCase, Figures]]) -> Table:
    table = _table("import", "module", "seconds", "MiB")
    for case, figures in results:
        table.add_row(case.module, f"{figures['import_seconds']:.3f}", f"{figures['peak_memory_mib']:.0f}")
    return table


def _preparation(results: Sequence[tuple[PreparationCase, Figures]]) -> Table:
    parts = ("search_decode", "search", "crop_decode", "crop", "video_encode", "audio")
    headers = ("decode", "find faces", "decode again", "crop", "encode", "audio")
    table = _table("preparation, ms a clip in one process", "faces by", "processes", "x real time", *headers, "MiB")
    for case, figures in results:
        table.add_row(
            case.finder,
            str(case.num_workers),
            f"{figures['times_real_time']:.1f}",
            *(f"{1000 * figures[f'{part}_seconds']:.0f}" for part in parts),
            f"{figures['peak_memory_mib']:.0f}",
        )
    return table


def _table(title: str, first: str, *others: str) -> Table:
    table = Table(first, title=title)
    for header in others:
        table.add_column(header, justify="right")
    return table
