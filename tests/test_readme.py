"""What the README says can be done can be done: its commands, its Python, its links and its tree."""

import re
import tomllib
from pathlib import Path

import pytest
from helpers_checkpoint import random_audio, random_video, save_tiny_checkpoint, write_muxed
from helpers_commands import README, ROOT, blocks, commands, settings_of

DEMO = (ROOT / "experiments" / "000-demo" / "README.md").read_text(encoding="utf-8")
ALL = [*commands(README), *commands(DEMO)]
OWN = [command for command in ALL if command.startswith("omni-avsr ")]
CHECKED = ("omni-avsr ", "make", "pip install ")


def test_there_is_no_command_that_nothing_here_checks() -> None:
    assert len(OWN) > 8
    assert not [command for command in ALL if not command.startswith(CHECKED)]


@pytest.mark.parametrize("command", OWN)
def test_every_command_of_ours_has_settings_that_it_takes(command: str) -> None:
    assert settings_of(command)


def test_commands_in_the_text_are_right_as_well() -> None:
    written = re.findall(r"`(omni-avsr (?:prepare|train|evaluate) [^`]*)`", README)
    assert written
    for command in written:
        assert settings_of(command.replace("\n", " "))


def test_every_make_target_exists() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = {command.split()[1] for command in ALL if command.startswith("make ")}
    assert {"demo", "test"} <= targets
    assert not {target for target in targets if not re.search(rf"^{target}:.*## ", makefile, re.MULTILINE)}


def test_every_extra_exists() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    named = {name for group in re.findall(r"pip install '\.\[(.*?)\]'", README) for name in group.split(",")}
    assert named
    assert named <= set(extras)


def test_the_python_runs_as_it_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a tiny checkpoint in place of the one that is named, whose base models not everybody has."""
    save_tiny_checkpoint(tmp_path, compression={"audio_rates": [2, 4, 5], "video_rates": [1, 2, 3]})
    write_muxed(tmp_path / "talk.mp4", random_audio(9, 1), random_video(9, 1))
    [code] = blocks(README, "python")
    named = re.findall(r'"(experiments/[^"]+)"', code)
    assert [(ROOT / name / "config.json").is_file() for name in named] == [True]
    monkeypatch.chdir(tmp_path)
    exec(compile(code.replace(named[0], "checkpoint"), "README.md", "exec"), {})
    assert (tmp_path / "my-model" / "README.md").is_file()


@pytest.mark.parametrize(
    "file",
    [
        "README.md",
        "experiments/000-demo/README.md",
        "experiments/001-grid-s1/README.md",
        "experiments/002-omni-claims/README.md",
        "experiments/003-efin/README.md",
        "experiments/004-edge/README.md",
        "experiments/005-one-person/README.md",
        "experiments/006-mouth-crops/README.md",
        "experiments/published/README.md",
    ],
)
def test_every_link_and_picture_is_there(file: str) -> None:
    links = re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", (ROOT / file).read_text(encoding="utf-8"))
    own = [link for link in links if not link.startswith("http")]
    assert own
    assert not [link for link in own if not ((ROOT / file).parent / link).exists()]


def test_the_tree_names_every_module_and_nothing_else() -> None:
    [tree] = blocks(README.partition("## Where things are")[2], "")[:1]
    package, _, rest = tree.partition("conf/ ")
    named = {
        name for line in package.splitlines()[1:] for name in re.findall(r"(\w+(?:\.py|/))", line[:72].split("   ")[0])
    }
    there = {path.name for path in (ROOT / "omni_avsr").glob("*.py")} - {"__init__.py"}
    there |= {f"{path.parent.name}/" for path in (ROOT / "omni_avsr").glob("*/__init__.py")}
    assert named == there
    folders = {line.split("/")[0] for line in ("conf/ " + rest).splitlines() if line}
    assert all((ROOT / folder).is_dir() for folder in folders)
