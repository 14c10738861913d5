"""Tables, verdicts and plots from results/*.json, written beside this script.

python experiments/002-omni-claims/summarize.py
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import pictures
from systems import (
    DEPTHS,
    OMNI,
    SEED,
    SETTINGS,
    TITLES,
    WEIGHTS,
    Compared,
    System,
    compare_averages,
    compare_in_noise,
    compare_pooled,
    compare_rates,
    read_files,
    read_pooled,
    read_systems,
)

from omni_avsr.bootstrap import Difference, Interval, bootstrap_interval
from omni_avsr.error_counts import ClipCounts, wer
from omni_avsr.files import write_atomically
from omni_avsr.types import Task

HERE = Path(__file__).resolve().parent
MARGIN = 0.01
"""How much worse, at the interval's upper end, still counts as "no worse": a point, as in experiment 001."""
PAPERS_COST = 0.009
"""What claim 5 says that AVSR at 16,5 costs."""


@dataclass(frozen=True)
class Verdict:
    """What the arms say of a claim, and by which comparisons."""

    claim: str
    verdict: str
    evidence: Sequence[Compared] = ()
    note: str = ""


@dataclass(frozen=True)
class Report:
    """Everything that the tables tell."""

    systems: Sequence[System]
    pooled: Mapping[str, Mapping[int, Sequence[ClipCounts]]]
    averages: Sequence[Compared]
    rates: Sequence[Compared]
    noise: Sequence[Compared]
    pooling: Sequence[Compared]
    origin: Mapping[str, Sequence[str]]


def main() -> None:
    report = summarize(HERE / "results")
    verdicts = list(judge(report))
    write_atomically(HERE / "table.md", to_markdown(report, verdicts))
    write_atomically(HERE / "table.json", to_json(report, verdicts))
    pictures.plot_settings(HERE / "wer-settings.png", report.systems)
    pictures.plot_tokens(HERE / "wer-tokens.png", report.systems)
    pictures.plot_noise(HERE / "wer-snr.png", report.systems)
    pictures.plot_pooling(HERE / "pooling.png", report.pooled)


def summarize(folder: Path) -> Report:
    """Read the arms' files; a family is left out until all its models are there."""
    files = read_files(folder)
    systems = [system for system in read_systems(files) if system.complete]
    pooled = read_pooled(files)
    return Report(
        systems,
        pooled,
        list(compare_averages(systems)),
        list(compare_rates(systems)),
        list(compare_in_noise(systems)),
        list(compare_pooled(pooled)),
        {key: sorted({values[key] for values in files}) for key in ("commit", "date")},
    )


def judge(report: Report) -> Iterator[Verdict]:
    """A verdict per claim of the paper (Omni-AVSR), in the order of how easily they are checked, and two more."""
    omni = [pair for pair in report.averages if pair.a.startswith(tuple(f"{name}," for name in OMNI))]

    def against(*families: str) -> list[Compared]:
        return [pair for pair in omni if pair.b.partition(",")[0] in families]

    yield no_worse("1. one model does what eight dedicated ones do, at equal LLM passes in all", against("dedicated"))
    yield no_worse("1. the same, when each dedicated model has as many steps as omni", against("long"))
    yield no_worse("1. and what a model per task does, at equal passes", against("per-task"))
    yield no_worse("1. and what a model per pair of rates does, at equal passes", against("per-rates"))
    yield Verdict("2. one model and 3 LLM passes a step, not 3, 4 or 8 models and 8 or 12 passes", "holds by count",
                  note="see models and steps in the first table")  # fmt: skip
    yield parameters(report.systems)
    yield better("4. a weight of 1.5 for VSR beats 1 and 2", against(*WEIGHTS))
    yield tokens([pair for pair in report.rates if pair.a.startswith(tuple(f"{name}," for name in OMNI))])
    loudest = [
        pair for pair in report.noise if pair.over == "-5 dB" and pair.a.startswith(tuple(f"{n}," for n in OMNI))
    ]
    yield better("6. AVSR beats ASR in babble at -5 dB", [pair for pair in loudest if pair.b == "ASR"])
    yield no_worse("6. and omni keeps up with dedicated models there", [pair for pair in loudest if pair.b != "ASR"])
    yield better(
        "7. a larger LLM is better (here: all layers against the first ones of the same LLM)", against(*DEPTHS)
    )
    yield better("8. projectors with layer norm, which the published code lost, beat those without", against("no-norm"))
    yield untrained([pair for pair in report.pooling if pair.over != f"rate {pair.a.removeprefix('pool-')}"])


def no_worse(claim: str, pairs: Sequence[Compared]) -> Verdict:
    """Holds when every upper bound is within the margin, fails when every interval says worse, else open."""
    if not pairs:
        return Verdict(claim, "not tested")
    if all(pair.difference.interval.high <= MARGIN for pair in pairs):
        return Verdict(claim, "holds", pairs)
    return Verdict(claim, "fails" if all(pair.outcome == "worse" for pair in pairs) else "open", pairs)


def better(claim: str, pairs: Sequence[Compared]) -> Verdict:
    """Holds when every interval says better, fails when every one says worse, else open."""
    if not pairs:
        return Verdict(claim, "not tested")
    outcomes = {pair.outcome for pair in pairs}
    found = {"better": "holds", "worse": "fails"}.get(outcomes.pop(), "open") if len(outcomes) == 1 else "open"
    return Verdict(claim, found, pairs)


def parameters(systems: Sequence[System]) -> Verdict:
    """ST trains three sets of adapters more than S, and T two; at work in one task are two sets of ST and one of T."""
    claim = "3. ST trains four sets of adapters and uses two in a task; T trains three and S one, and both use one"
    trained = {system.family: system.trainable for system in systems if system.seed == SEED}
    if not all(name in trained for name in OMNI):
        return Verdict(claim, "not tested")
    one_set = (trained["T"] - trained["S"]) // 2
    right = trained["ST"] - trained["S"] == 3 * one_set and trained["T"] - trained["S"] == 2 * one_set
    note = f"a set has {one_set:,} parameters; trained: " + ", ".join(f"{n} {trained[n]:,}" for n in OMNI)
    return Verdict(claim, "holds by count" if right else "fails", note=note)


def tokens(pairs: Sequence[Compared]) -> Verdict:
    """Where the paper's cost lies: in the intervals, below or above them; all that are found."""
    many, few = (pictures.tokens_per_second(Task.AVSR, rates) for rates in ("4,2", "16,5"))
    claim = f"5. AVSR at 16,5 takes {many / few:.1f} times fewer tokens than at 4,2, for about 0.9 points"
    if not pairs:
        return Verdict(claim, "not tested")
    intervals = [pair.difference.interval for pair in pairs]
    found = {
        "costs less here": any(interval.high < PAPERS_COST for interval in intervals),
        "compatible": any(interval.low <= PAPERS_COST <= interval.high for interval in intervals),
        "costs more here": any(interval.low > PAPERS_COST for interval in intervals),
    }
    return Verdict(claim, " or ".join(name for name, is_found in found.items() if is_found), pairs)


def untrained(pairs: Sequence[Compared]) -> Verdict:
    """Holds when every rate that was not trained is worse than where it was, fails when none is."""
    claim = (
        "9. trained at one rate, a model fails at others (predecessor: 4.3 to 160 %), where one trained at all does not"
    )
    if not pairs:
        return Verdict(claim, "not tested")
    worse = [pair.over for pair in pairs if pair.outcome == "worse"]
    if len(worse) == len(pairs):
        return Verdict(claim, "holds", pairs)
    return Verdict(claim, f"in part: {', '.join(dict.fromkeys(worse))}" if worse else "fails", pairs)


def to_markdown(report: Report, verdicts: Sequence[Verdict]) -> str:
    columns = [f"{task.upper()} {rates}" for task, rates in SETTINGS]
    lines = [
        "# Omni-AVSR's claims on GRID s1",
        "",
        "Word error rates in percent, differences in points, in brackets bootstrap intervals at 95 % over the 80 test "
        "clips (paired where it is a difference). They do not cover what another seed would change.",
        "",
        "## Verdicts",
        "",
        *_table(["claim", "here", "by"], [[v.claim, v.verdict, _evidence(v)] for v in verdicts]),
        "",
        '"No worse" holds when every upper bound is at most '
        f"{100 * MARGIN:g} point; a verdict is open when the comparisons disagree or cannot tell.",
        "",
        "## Clean",
        "",
        *_table(
            ["system", "seed", "models", "LLM passes", "steps each", *columns, "mean", "endless"],
            [
                [TITLES[s.family], str(s.seed), str(s.num_models), str(s.passes), str(s.steps),
                 *(f"{100 * wer(s.counts[*setting, None]):.1f}" for setting in SETTINGS), _rate(s.average()),
                 str(s.runaways())]
                for s in report.systems
            ],
        ),
        "",
        'Endless: transcripts of all eight settings with at least twice the words that were said; a few of them make a '
        "wide interval.",
        "",
        "## Differences, mean of the eight settings",
        "",
        *_differences(report.averages),
        "",
        "## AVSR at 16,5 and at 4,2",
        "",
        *_differences(report.rates),
        "",
        "## In babble: mean over the rates",
        "",
        *_noise(report.systems),
        "",
        *_differences(report.noise),
        "",
        "## Pooling: ASR at rates that were trained, and at others",
        "",
        *_pooling(report.pooled),
        "",
        *_differences(report.pooling),
        "",
        *(f"- {key}: {', '.join(values)}" for key, values in report.origin.items()),
        "",
    ]  # fmt: skip
    return "\n".join(lines)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *rows)]


def _differences(pairs: Sequence[Compared]) -> list[str]:
    rows = [[pair.a, pair.b, pair.over, _points(pair.difference), pair.outcome] for pair in pairs]
    return _table(["a", "b", "over", "a - b", "a is"], rows)


def _noise(systems: Sequence[System]) -> list[str]:
    rows = [
        [TITLES[s.family], str(s.seed), task.upper(), *(_rate(s.in_noise(task, level)) for level in s.levels)]
        for s in systems
        for task in (Task.ASR, Task.AVSR)
        if s.levels
    ]
    levels = next((s.levels for s in systems if s.levels), [])
    return _table(["system", "seed", "task", *(f"{level:g} dB" for level in levels)], rows)


def _pooling(pooled: Mapping[str, Mapping[int, Sequence[ClipCounts]]]) -> list[str]:
    rates = sorted({rate for row in pooled.values() for rate in row})
    rows = [[pictures.POOL_TITLES[arm], *(_rate(row[rate]) for rate in rates)] for arm, row in pooled.items()]
    return _table(["trained at", *(f"rate {rate}" for rate in rates)], rows)


def _evidence(verdict: Verdict) -> str:
    shown = "; ".join(f"{pair.a} - {pair.b}, {pair.over}: {_points(pair.difference)}" for pair in verdict.evidence)
    return shown or verdict.note


def _rate(clips: Sequence[ClipCounts]) -> str:
    return f"{100 * wer(clips):.1f} {_bracket(bootstrap_interval(clips, seed=SEED))}"


def _points(difference: Difference) -> str:
    return f"{100 * difference.value:+.1f} {_bracket(difference.interval, '+')}"


def _bracket(interval: Interval, sign: str = "") -> str:
    return f"[{100 * interval.low:{sign}.1f}, {100 * interval.high:{sign}.1f}]"


def to_json(report: Report, verdicts: Sequence[Verdict]) -> str:
    values = {
        "verdicts": [asdict(verdict) for verdict in verdicts],
        "clean": [
            {
                "system": s.family, "seed": s.seed, "models": s.num_models, "passes": s.passes, "steps": s.steps,
                "trainable": s.trainable, "mean": wer(s.average()), "endless": s.runaways(),
                **{f"{task} {rates}": wer(s.counts[task, rates, None]) for task, rates in SETTINGS},
            }
            for s in report.systems
        ],
        "differences": [asdict(pair) for pair in (*report.averages, *report.rates, *report.noise, *report.pooling)],
        "noise": [
            {"system": s.family, "seed": s.seed, "task": task, "snr_db": level, "wer": wer(s.in_noise(task, level))}
            for s in report.systems for level in s.levels for task in (Task.ASR, Task.AVSR)
        ],
        "pooling": {arm: {rate: wer(clips) for rate, clips in row.items()} for arm, row in report.pooled.items()},
        **report.origin,
    }  # fmt: skip
    return json.dumps(values, indent=1) + "\n"


if __name__ == "__main__":
    main()
