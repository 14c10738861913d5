"""The page of the paper's rows: row, command, the paper's error rates, and those that the commands measured here.

    python experiments/published/page.py

Writes README.md beside this file, from conf/experiment/, paper.yaml and what `omni-avsr evaluate` left in results/.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from hydra import compose, initialize_config_dir
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from omni_avsr.cli.hydra_app import config_folder
from omni_avsr.compression import task_rates
from omni_avsr.config import from_mapping
from omni_avsr.files import write_atomically
from omni_avsr.metrics import Setting
from omni_avsr.report import read_report
from omni_avsr.run import RunConfig
from omni_avsr.stages import RecognitionObjectiveConfig
from omni_avsr.types import Task

HERE = Path(__file__).resolve().parent
KINDS = ("published", "corrected")
NOT_MEASURED = "not measured"
INTRODUCTION = """\
# The paper's rows

Every row of the tables and of the figure of LLMs in Omni-AVSR, with the experiment that repeats it: as the authors'
code behaves (`published`), and with our defaults (`corrected`). What the two differ in: [README](../../README.md)
("Where the published code differs"). The paper's numbers are theirs; ours stand here only where the commands below
measured them. Word error rates in %; `~` was read off a figure. The paper's 0 dB is most likely not 0 dB, but a level
drawn for each clip; `published` draws it too. For VSR the authors' script tests three times, and which of the three
results is printed is not said; here it is one.

This page is written by `python experiments/published/page.py`. Training needs two GPUs; `LRS2`, `LRS3` are what
`omni-avsr prepare` makes of them, `NOISE` holds the authors' `babble_noise.wav` for `published` and the `noise.jsonl`
of `omni-avsr noise` for `corrected`. AV-HuBERT's `large_vox_iter5.pt` and, without a network, the other base models
are looked for in the folder of `OMNI_AVSR_MODELS`.
"""


@dataclass(frozen=True)
class Job:
    """One training run of an experiment: the values that its sweep gives it, and its settings."""

    overrides: tuple[str, ...]
    config: RunConfig

    @property
    def name(self) -> str:
        """Of its folder under the experiment's; empty where the experiment is one run."""
        values = [override.partition("=")[2].strip("[]") for override in self.overrides]
        return "_".join(values)

    @property
    def objective(self) -> RecognitionObjectiveConfig:
        [stage] = self.config.stages.values()
        assert isinstance(stage.objective, RecognitionObjectiveConfig)
        return stage.objective

    def settings(self) -> Iterator[tuple[Task, str]]:
        """The tasks and rates that its model is tested at."""
        for task in self.objective.tasks:
            for rates in task_rates(self.config.model.compression, task):
                yield task, rates.label(task)


@cache
def jobs_of(experiment: str) -> list[Job]:
    """The runs of ``experiment``: those of its sweep, or the one that it is."""
    swept = _compose("train", f"experiment={experiment}", hydra=True).hydra.sweeper.params or {}
    parsed = OverridesParser.create().parse_overrides([f"{key}={value}" for key, value in swept.items()])
    batches = BasicSweeper.split_arguments(parsed, max_batch_size=None)
    paths = ("data.root=CORPUS", "data.noise_root=NOISE", "output=RUN")
    jobs = []
    for overrides in (job for batch in batches for job in batch):
        composed = _compose("train", f"experiment={experiment}", *overrides, *paths)
        values = OmegaConf.to_container(composed, resolve=True, throw_on_missing=True)
        assert isinstance(values, dict)
        jobs.append(Job(tuple(overrides), from_mapping(RunConfig, {str(k): v for k, v in values.items()})))
    return jobs


def _compose(name: str, *overrides: str, hydra: bool = False) -> Any:
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        return compose(name, list(overrides), return_hydra_config=hydra)


def read_tables() -> list[dict[str, Any]]:
    """The paper's tables, as ``paper.yaml`` has them."""
    tables = OmegaConf.to_container(OmegaConf.load(HERE / "paper.yaml"))
    assert isinstance(tables, list)
    return tables


def read_column(name: str) -> Setting:
    """ "avsr 4,2 -5 dB" -> its setting."""
    task, rates, *level = name.split()
    return Setting(Task(task), rates, float(level[0]) if level else None)


def measured(folder: Path, kind: str) -> dict[Setting, float]:
    """WER in % by setting, of all tables below ``folder``; empty where there are none.

    Raises:
        ValueError: a table was not made by this kind's test.
    """
    found = {}
    for path in sorted(folder.rglob("table.json")):
        report = read_report(path)
        if f"experiment={kind}/evaluate_" not in str(report.metadata.get("command")):
            raise ValueError(f"{path} was not made by omni-avsr evaluate experiment={kind}/evaluate_...")
        found |= {score.setting: 100 * score.wer for scores in report.scores.values() for score in scores}
    return found


def table_of(table: Mapping[str, Any], results: Path) -> Iterator[str]:
    """The lines of one of the paper's tables."""
    columns = [read_column(name) for name in table["columns"]]
    headings = [_heading(column) for column in columns]
    yield f"## {table['title']}"
    yield ""
    yield f"| row | | {' | '.join(headings)} | Avg |"
    yield f"|---|---|{'---:|' * (len(headings) + 1)}"
    for name, (label, *values) in table["rows"].items():
        average = table["averages"][name] if "averages" in table else ""
        yield f"| [{label}](#{name}) | paper | {' | '.join(map(str, [*values, average]))} |"
        for kind in KINDS:
            cells = _ours(columns, measured(results / kind / name, kind))
            yield f"| | `experiment={kind}/{name}` | {' | '.join(cells)} |"
    yield ""


def _heading(column: Setting) -> str:
    level = "" if column.snr_db is None else f", {column.snr_db:g} dB"
    return f"{column.task.upper()} {column.rates}{level}"


def _ours(columns: Sequence[Setting], found: Mapping[Setting, float]) -> list[str]:
    if not found:
        return [NOT_MEASURED, *[""] * len(columns)]
    cells = [f"{found[column]:.1f}" if column in found else "" for column in columns]
    return [*cells, f"{np.mean([found[column] for column in columns]):.1f}" if all(cells) else ""]


def commands_of(kind: str, name: str, columns: Mapping[str, Sequence[Setting]], jobs: Sequence[Job]) -> Iterator[str]:
    """Train the row's models, then test each of them. ``columns``: what each test has to give."""
    experiment = f"{kind}/{name}"
    data = f"data.root={name.partition('_')[0].upper()} data.noise_root=NOISE"
    yield f"omni-avsr train experiment={experiment} {data}"
    for test, wanted in columns.items():
        for job in jobs:
            tasks = [str(task) for task in job.objective.tasks]
            if not {(column.task, column.rates) for column in wanted} & set(job.settings()):
                continue
            place = "/".join(part for part in (experiment, job.name) if part)
            parts = ["omni-avsr", "evaluate", f"experiment={kind}/{test}", f"checkpoint=runs/{place}/checkpoint"]
            parts += [*data.split(), "device=cuda", f"output=experiments/published/results/{place}/{test}"]
            if len(tasks) < len(Task):
                parts += [f"tasks=[{','.join(tasks)}]"]
            if kind == "published" and "Qwen" in job.config.model.llm.weights:
                parts += ["decode.published.temperature=null"]
            yield shlex.join(parts)


def row_of(name: str, label: str, columns: Mapping[str, Sequence[Setting]]) -> Iterator[str]:
    """A row's counts and commands."""
    yield f"### {name}"
    yield ""
    yield f"{label}."
    for kind in KINDS:
        jobs = jobs_of(f"{kind}/{name}")
        facts = jobs[0].config.facts
        assert facts is not None
        trained = " or ".join(f"{number:,} ({tasks})" for tasks, number in facts.trained_parameters.items())
        yield ""
        yield (
            f"`{kind}`: {facts.models} model{'s' if facts.models > 1 else ''}, {facts.llm_passes} LLM passes a step, "
            f"{trained} parameters trained, {facts.active_parameters:,} active at AVSR."
        )
        yield ""
        yield "```sh"
        yield from commands_of(kind, name, columns, jobs)
        yield "```"
    yield ""


def page(results: Path) -> str:
    """The whole page, with what stands below ``results``."""
    tables = read_tables()
    lines = [INTRODUCTION]
    labels: dict[str, str] = {}
    columns: dict[str, dict[str, list[Setting]]] = {}
    for table in tables:
        lines += table_of(table, results)
        for name, (label, *_) in table["rows"].items():
            labels.setdefault(name, f"{label} ({table['title']})")
            wanted = columns.setdefault(name, {}).setdefault(table["test"], [])
            wanted += [read_column(column) for column in table["columns"]]
    lines += ["## Commands", ""]
    for name, label in labels.items():
        lines += row_of(name, label, columns[name])
    return "\n".join(lines).rstrip("\n") + "\n"


if __name__ == "__main__":
    write_atomically(HERE / "README.md", page(HERE / "results"))
