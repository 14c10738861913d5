"""The floors of the package: what each module may import, read from the syntax trees and never by importing."""

import ast
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

FLOORS: tuple[tuple[str, ...], ...] = (
    ("types", "config", "files", "pickles", "provenance", "weights", "users", "side_by_side"),
    (
        "archive",
        "media",
        "features",
        "linear",
        "gradients",
        "numerals",
        "normalize",
        "streaming",
        "transcript",
        "windows",
    ),
    ("data", "mouth", "hypotheses", "error_counts", "bootstrap", "metrics", "report", "plots", "quantization"),
    ("encoders", "compression", "projector", "signals", "skeleton"),
    ("sequence", "adapters", "llm", "gated_mlp", "vocabulary", "beams", "drafts", "speculative"),
    ("model", "build", "shapes", "stages", "model_card"),
    ("objectives", "checkpoint", "hub", "resume", "sharding", "start", "export", "decode", "recording", "pieces"),
    ("flops",),
    ("edge",),
    (
        "facts",
        "training",
        "callbacks",
        "stage_data",
        "stage_origin",
        "trainer",
        "loggers",
        "run",
        "personal",
        "further",
        "evaluation",
        "scorer",
        "conditions",
        "transcribe",
        "llm_export",
        "web",
        "published",
        "scaling",
    ),
    ("cli", "__init__"),
)
"""Floor by floor, the parts of omni_avsr: a module, or a folder with all in it. ``__init__`` is the front door."""

DATA_PREP_CEILING = 2
COMMAND_LINE = "cli"
SYS_PATH = ("sys", "path")


def source_files(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


def module_name(path: Path) -> str:
    """``omni_avsr/data/noise.py`` -> ``omni_avsr.data.noise``; a package's ``__init__`` bears the package's name."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for package in ("omni_avsr", "data_prep") for path in source_files(package)}


def part(module: str) -> str:
    """The entry of ``FLOORS`` that a module of omni_avsr belongs to."""
    names = module.split(".")
    return names[1] if len(names) > 1 else "__init__"


def floor(module: str) -> int:
    for number, parts in enumerate(FLOORS):
        if part(module) in parts:
            return number
    raise AssertionError(f"{module} stands on no floor: add {part(module)!r} to FLOORS in tests/test_floors.py")


def imported_names(path: Path) -> Iterator[tuple[int, str]]:
    """Line and dotted name of every import, inside functions and ``if TYPE_CHECKING`` too; relative ones resolved."""
    package = path.relative_to(ROOT).parent.parts
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else ()
            source = ".".join((*above, *([node.module] if node.module else [])))
            for alias in node.names:
                name = f"{source}.{alias.name}"
                yield node.lineno, name if name in MODULES else source


def own_imports(path: Path) -> list[tuple[int, str]]:
    return [(line, name) for line, name in imported_names(path) if name.split(".")[0] in ("omni_avsr", "data_prep")]


def may_import(importer: str, imported: str) -> bool:
    """Lower floors and siblings: files of the same folder, or single modules that share a floor."""
    if imported.split(".")[0] == "data_prep":
        return importer.split(".")[0] == "data_prep" or part(importer) == COMMAND_LINE
    if importer.split(".")[0] == "data_prep":
        return floor(imported) <= DATA_PREP_CEILING
    if floor(imported) != floor(importer):
        return floor(imported) < floor(importer)
    folders = {part(module) for module in (importer, imported) if (ROOT / "omni_avsr" / part(module)).is_dir()}
    return not folders or part(importer) == part(imported)


@pytest.mark.parametrize("module", sorted(MODULES))
def test_module_imports_only_lower_floors_and_siblings(module: str) -> None:
    if module.startswith("omni_avsr"):
        floor(module)
    path = MODULES[module]
    wrong = [
        f"{path.relative_to(ROOT)}:{line} imports {imported}"
        for line, imported in own_imports(path)
        if not may_import(module, imported)
    ]
    assert not wrong, "\n".join(wrong)


def test_no_import_goes_round_in_a_circle() -> None:
    graph = {module: {name for _, name in own_imports(path)} - {module} for module, path in MODULES.items()}
    list(TopologicalSorter(graph).static_order())


@pytest.mark.parametrize(
    ("importer", "imported", "allowed"),
    [
        ("omni_avsr.model", "omni_avsr.sequence", True),
        ("omni_avsr.sequence", "omni_avsr.model", False),
        ("omni_avsr.build", "omni_avsr.model", True),
        ("omni_avsr.encoders.whisper", "omni_avsr.encoders.base", True),
        ("omni_avsr.compression", "omni_avsr.encoders.base", False),
        ("omni_avsr.cli.train", "omni_avsr.training", True),
        ("omni_avsr.data.dataset", "omni_avsr", False),
        ("omni_avsr.cli.prepare", "data_prep.corpora.grid", True),
        ("omni_avsr.media", "data_prep.corpora.grid", False),
        ("data_prep.corpora.grid", "omni_avsr.data.manifest", True),
        ("data_prep.corpora.grid", "omni_avsr.encoders.base", False),
    ],
)
def test_the_rule_itself(importer: str, imported: str, allowed: bool) -> None:
    assert may_import(importer, imported) is allowed


def test_no_part_stands_on_two_floors() -> None:
    parts = [part for parts in FLOORS for part in parts]
    assert len(parts) == len(set(parts))


@pytest.mark.parametrize("package", ["omni_avsr", "data_prep", "tests", "benchmarks"])
def test_nothing_imports_experiments(package: str) -> None:
    wrong = [
        f"{path.relative_to(ROOT)}:{line}"
        for path in source_files(package)
        for line, name in imported_names(path)
        if name.split(".")[0] == "experiments"
    ]
    assert not wrong, "\n".join(wrong)


def forbidden(node: ast.AST) -> str | None:
    """What a syntax node does that the package never does, or None."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print":
        return "print(): use logging, or rich in the command line"
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "cuda":
        return ".cuda(): the device is an argument"
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and (node.value.id, node.attr) == SYS_PATH:
        return "sys.path: install the package"
    if isinstance(node, ast.ImportFrom) and (node.module, "path") == SYS_PATH:
        return "sys.path: install the package" if any(alias.name == "path" for alias in node.names) else None
    return None


@pytest.mark.parametrize("module", sorted(MODULES))
def test_module_keeps_the_habits(module: str) -> None:
    path = MODULES[module]
    tree = ast.parse(path.read_text(encoding="utf-8"))
    wrong = [f"{path.relative_to(ROOT)}:{node.lineno} {why}" for node in ast.walk(tree) if (why := forbidden(node))]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    "code", ["print(1)", "x.to(y).cuda()", "import sys\nsys.path.append('')", "from sys import path"]
)
def test_a_broken_habit_is_seen(code: str) -> None:
    assert any(forbidden(node) for node in ast.walk(ast.parse(code)))
