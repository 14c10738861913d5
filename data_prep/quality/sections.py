"""The sections of the quality page as HTML."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from data_prep.quality.charts import DARK, LIGHT, histogram
from data_prep.quality.counts import (
    NUM_EXAMPLES,
    ReasonCount,
    SplitCounts,
    by_split,
    count_clips,
    count_reasons,
    num_shared_speakers,
)
from data_prep.quality.markup import count, percent, visible
from data_prep.quality.measures import MEASURES, Measure, bin_edges, values_by_split
from data_prep.quality.sheets import STRIP_WIDTH, TILE, Strip
from data_prep.rejection import Rejection
from omni_avsr.types import Clip

MAX_SPLITS = 20
MAX_SPLIT_NAME = 40
MAX_TEXT = 160
MAX_DETAIL = 400
SECONDS = {"minutes": 60.0, "hours": 3600.0}


def summary(title: str, clips: Sequence[Clip], rejections: Sequence[Rejection]) -> str:
    num_in = len(clips) + len(rejections)
    seconds = sum(clip.seconds for clip in clips)
    unit = _unit(seconds)
    tiles = [
        ("Clips in", count(num_in), ""),
        ("Prepared", count(len(clips)), percent(len(clips), num_in)),
        ("Rejected", count(len(rejections)), percent(len(rejections), num_in)),
        (f"Prepared {unit}", f"{seconds / SECONDS[unit]:,.1f}", ""),
    ]
    shown = "".join(
        f"<div><dt>{name}</dt><dd>{number} <small>{share}</small></dd></div>\n" for name, number, share in tiles
    )
    parts = "".join(
        f'<i class="{kind}" style="flex-grow: {len(some)}"></i>'
        for kind, some in (("prepared", clips), ("rejected", rejections))
        if some
    )
    return f"""<h1>{visible(title)}</h1>
<dl class="tiles">
{shown}</dl>
<div class="bar" aria-hidden="true">{parts}</div>
"""


def splits(clips: Sequence[Clip]) -> str:
    if not clips:
        return "<h2>Splits</h2>\n<p>No clip was prepared.</p>\n"
    counts = [count_clips(name, group) for name, group in by_split(clips, MAX_SPLITS).items()]
    all_counts = count_clips("all", clips)
    unit = _unit(all_counts.seconds)
    rows = "".join(_split_row(split, unit) for split in counts)
    foot = f"<tfoot>\n{_split_row(all_counts, unit)}</tfoot>\n" if len(counts) > 1 else ""
    columns = ("split", "clips", unit, "words", "speakers", "with video", "with audio")
    head = "".join(f'<th scope="col">{column}</th>' for column in columns)
    return f"""<h2>Splits</h2>
{_speaker_note(counts)}<div class="wide" tabindex="0" role="region" aria-label="Table of splits">
<table>
<thead><tr>{head}</tr></thead>
<tbody>
{rows}</tbody>
{foot}</table>
</div>
"""


def rejected(rejections: Sequence[Rejection], num_in: int) -> str:
    """num_in: prepared and rejected clips together."""
    if not rejections:
        return "<h2>Rejected</h2>\n<p>No clip was rejected.</p>\n"
    rows = "".join(_reason_row(reason, num_in) for reason in count_reasons(rejections))
    return f"""<h2>Rejected</h2>
<p class="soft">By reason, each with its first {NUM_EXAMPLES} clips; rejected.jsonl lists all of them.</p>
<table>
<thead><tr><th scope="col">reason</th><th scope="col">clips</th><th scope="col">of clips in</th></tr></thead>
{rows}</table>
"""


def distributions(clips: Sequence[Clip]) -> str:
    charts = "".join(_chart(measure, clips) for measure in MEASURES)
    return f'<h2>Distributions</h2>\n<div class="charts">\n{charts}</div>\n'


def sheet(title: str, order: str, needed: str, clips: Sequence[Clip], strips: Mapping[str, Strip]) -> str:
    """A contact sheet. needed: what clips must have to be on it, told when none has; strips: by clip id."""
    if not clips:
        return f"<h2>{title}</h2>\n<p>No clip has {needed}.</p>\n"
    cells = "".join(_cell(clip, strips[clip.id]) for clip in clips)
    return f'<h2>{title}</h2>\n<p class="soft">{order}</p>\n<div class="sheet">\n{cells}</div>\n'


def _split_row(split: SplitCounts, unit: str) -> str:
    numbers = (
        count(split.num_clips),
        f"{split.seconds / SECONDS[unit]:,.1f}",
        count(split.num_words),
        count(len(split.speakers)) if split.speakers else "–",
        count(split.num_with_video),
        count(split.num_with_audio),
    )
    cells = "".join(f"<td>{number}</td>" for number in numbers)
    return f'<tr><th scope="row">{visible(split.name, MAX_SPLIT_NAME)}</th>{cells}</tr>\n'


def _speaker_note(counts: Sequence[SplitCounts]) -> str:
    num_shared = num_shared_speakers(counts)
    if not num_shared:
        return ""
    speakers = "1 speaker is" if num_shared == 1 else f"{count(num_shared)} speakers are"
    return f'<p class="soft">{speakers} in more than one split.</p>\n'


def _reason_row(reason: ReasonCount, num_in: int) -> str:
    examples = "".join(
        f"<li><code>{visible(example.id)}</code> {visible(example.detail, MAX_DETAIL)}</li>\n"
        for example in reason.examples
    )
    return f"""<tbody>
<tr class="reason"><th scope="row">{visible(reason.reason.replace("_", " "))}</th><td>{count(reason.num_clips)}</td>\
<td>{percent(reason.num_clips, num_in)}</td></tr>
<tr class="examples"><td colspan="3"><ul>
{examples}</ul></td></tr>
</tbody>
"""


def _chart(measure: Measure, clips: Sequence[Clip]) -> str:
    values = values_by_split(measure, clips)
    if not values:
        return f"<figure><h3>{measure.title}</h3><figcaption>No clip has this figure.</figcaption></figure>\n"
    edges = bin_edges(measure, values)
    light, dark = (histogram(values, edges, measure.label, theme, measure.logarithmic) for theme in (LIGHT, DARK))
    facts = _facts(measure, np.concatenate(list(values.values())), float(edges[-1]))
    return f"""<figure><h3>{measure.title}</h3>
<picture><source media="(prefers-color-scheme: dark)" srcset="{dark}">\
<img src="{light}" alt="Histogram: {facts}"></picture>
<figcaption>{facts}</figcaption></figure>
"""


def _facts(measure: Measure, values: np.ndarray, last_edge: float) -> str:
    clips = "1 clip" if len(values) == 1 else f"{count(len(values))} clips"
    low, median, high = (f"{quantile:,.1f}".removesuffix(".0") for quantile in np.quantile(values, (0, 0.5, 1)))
    if low == high:
        return f"{clips}, all {low}\u00a0{measure.unit}"
    num_beyond = int((values > last_edge).sum())
    beyond = f"; {count(num_beyond)} beyond the scale stand in the last bar" if num_beyond else ""
    return f"{clips}, {low} to {high}\u00a0{measure.unit}, median {median}\u00a0{measure.unit}{beyond}"


def _cell(clip: Clip, strip: Strip) -> str:
    picture = (
        f'<div class="unread">{visible(strip.problem)}</div>'
        if strip.picture is None
        else f'<img src="{strip.picture}" width="{STRIP_WIDTH}" height="{TILE}" alt="Frames of {visible(clip.id)}">'
    )
    problem = f' <span class="problem">{visible(strip.problem)}</span>' if strip.picture and strip.problem else ""
    return f"""<figure>{picture}
<figcaption><code>{visible(clip.id)}</code> {_detection(clip)}{problem}<br>
<span class="text">{visible(clip.text, MAX_TEXT)}</span></figcaption></figure>
"""


def _detection(clip: Clip) -> str:
    facts = []
    if "detected" in clip.quality:
        facts.append(f"face in {percent(clip.quality['detected'], 1)}")
    if "face_size" in clip.quality:
        facts.append(f"{clip.quality['face_size']:.0f}\u00a0px")
    return ", ".join(facts) or "no figures of its face"


def _unit(seconds: float) -> str:
    """The unit in which all lengths of a page are told."""
    return "hours" if seconds >= SECONDS["hours"] else "minutes"
