"""The quality page: one HTML file that needs nothing else, with what to know of a preparation before training on it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from data_prep.parallel import run_jobs
from data_prep.quality import sections
from data_prep.quality.markup import visible
from data_prep.quality.sheets import Strip, film_strip, random_clips, worst_clips
from data_prep.rejection import Problem, Rejection
from omni_avsr.files import write_atomically
from omni_avsr.types import Clip

# Nothing may be loaded and no script may run, whatever the names and texts of a corpus hold.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
_STYLE = Path(__file__).with_name("style.css")


def write_quality_page(
    path: Path,
    clips: Sequence[Clip],
    rejections: Sequence[Rejection],
    title: str,
    seed: int = 0,
    time_limit: float | None = None,
) -> None:
    """Write the page of a preparation; atomic. Same input, same bytes.

    Its size and the time it takes to make are bounded whatever the size of the corpus: at most 48 clips are decoded.
    A clip that cannot be read appears as such.

    Args:
        clips: what was prepared, as in the manifest.
        rejections: what was not.
        seed: chooses the clips of the random contact sheet.
        time_limit: seconds for the frames of one clip, which are then decoded in another process, so that a decoder
            that hangs or crashes costs that clip alone. None decodes in this process: for files that the preparation
            itself has written.
    """
    chance, worst = random_clips(clips, seed), worst_clips(clips)
    strips = _strips(list({clip.id: clip for clip in [*chance, *worst]}.values()), time_limit)
    body = [
        sections.summary(title, clips, rejections),
        sections.splits(clips),
        sections.rejected(rejections, len(clips) + len(rejections)),
        sections.distributions(clips),
        sections.sheet("Random clips", f"Drawn with seed {seed} from all clips with video.", "video", chance, strips),
        sections.sheet(
            "Worst clips",
            "Lowest share of frames with a face first; of equal ones, the smallest face.",
            "video and figures of its face",
            worst,
            strips,
        ),
    ]
    head = f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{_POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{visible(title)}</title>
<style>
{_STYLE.read_text(encoding="utf-8")}</style>
</head>
"""
    write_atomically(path, f"{head}<body>\n<main>\n{''.join(body)}</main>\n</body>\n</html>\n")


def _strips(clips: Sequence[Clip], time_limit: float | None) -> dict[str, Strip]:
    """By clip id."""
    if time_limit is None:
        return {clip.id: film_strip(clip) for clip in clips}
    results = run_jobs(film_strip, clips, workers=1, progress=False, time_limit=time_limit)
    return {clip.id: Strip(None, result.detail) if isinstance(result, Problem) else result for clip, result in results}
