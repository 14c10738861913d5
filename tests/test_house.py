"""The package as an installed thing: light to import, one version, at home on any machine."""

import importlib.metadata
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

FRONT_DOOR = ("omni_avsr",)
TRANSCRIBING = ("omni_avsr.build", "omni_avsr.checkpoint", "omni_avsr.decode")
"""What loading a checkpoint and transcribing import; all else that runs then is imported by these."""

EXTRAS = ("lightning", "pytorch_lightning", "hydra", "omegaconf", "mediapipe", "jiwer", "matplotlib", "torchvision")
"""Import names of what only the extras bring: whoever only transcribes need not have them."""

MACHINE_PATH = re.compile(r"(?<![\w.~$})-])/(?:work|root|home|Users|mnt|scratch)/\w[^\s\"'`]*")


def run_python(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False, cwd=ROOT
    )


def pyproject() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def test_importing_the_package_loads_no_training_or_cropping_library() -> None:
    code = "import sys, omni_avsr; print(*sorted(set(sys.argv[1:]) & set(sys.modules)))"
    done = run_python(code, "lightning", "pytorch_lightning", "hydra", "mediapipe")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == ""


@pytest.mark.parametrize("modules", [FRONT_DOOR, TRANSCRIBING], ids=["front door", "transcribing"])
def test_transcribing_needs_none_of_the_extras(modules: tuple[str, ...]) -> None:
    """Every extra is made impossible to import before the modules are imported."""
    blocked = ", ".join(f"{name}=None" for name in EXTRAS)
    done = run_python(f"import sys; sys.modules.update({blocked}); import {', '.join(modules)}")
    assert done.returncode == 0, done.stderr


def project_files() -> list[Path]:
    """Files under version control or about to be, by git; skips outside a checkout."""
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [ROOT / name for name in listed.split("\0") if name and (ROOT / name).is_file()]


def test_no_file_names_a_path_of_one_machine() -> None:
    wrong = []
    for path in project_files():
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        wrong += [f"{path.relative_to(ROOT)}: {found.group()}" for found in MACHINE_PATH.finditer(text)]
    assert not wrong, "\n".join(wrong)


def test_a_path_of_one_machine_is_seen() -> None:
    home = "/" + "home"
    assert MACHINE_PATH.search(f'weights: "{home}/me/models"')
    assert not MACHINE_PATH.search(f"https://example.org{home}/page and ../work/x and $HOME{home}/x")


def test_the_version_is_the_same_everywhere() -> None:
    version = pyproject()["project"]["version"]
    cited = re.search(r"^version: (\S+)$", (ROOT / "CITATION.cff").read_text(encoding="utf-8"), re.MULTILINE)
    assert cited is not None
    assert importlib.metadata.version("omni-avsr") == version, "installed from another state: run make setup"
    assert cited.group(1) == version


def test_every_extra_but_wandb_is_in_dev() -> None:
    extras = pyproject()["project"]["optional-dependencies"]
    included = re.search(r"\[(.*)\]", extras["dev"][0])
    assert included is not None
    assert set(included.group(1).split(",")) == set(extras) - {"dev", "wandb"}
