"""What a checkpoint has learnt of one person: a small folder beside it, which leaves the checkpoint as it is.

``user.json``            for which checkpoint, which of its settings differ, and how it did before and after
``trained.safetensors``  the tensors that take the place of the checkpoint's own

Nothing that the person said is in it, nor where it lay.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import field, replace
from pathlib import Path

import torch
from pydantic.dataclasses import dataclass
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from omni_avsr.config import STRICT, AnyProjectorConfig, ModelConfig, from_mapping, to_mapping
from omni_avsr.files import replacing_folder
from omni_avsr.types import Task

SETTINGS, TRAINED = "user.json", "trained.safetensors"
PARTS = (SETTINGS, TRAINED)
UNFINISHED = ".unfinished-"
"""What the name of a folder begins with in which someone is being enrolled."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


@dataclass(frozen=True, config=STRICT)
class Enrolment:
    """What is known of a person's weights.

    checkpoint_sha256: the checkpoint that they belong to. method: by its name. projector: in place of the checkpoint's,
    if it is another one. prompts: by task, in place of the checkpoint's (Tiny-Align's instruction injection).
    num_clips, seconds: that were trained on. own_wer, other_wer: word error rates on clips of theirs that were held
    back, and on other talkers', each before and after; None where there were none.
    """

    checkpoint_sha256: str
    method: str
    commit: str
    date: str
    seed: int
    num_clips: int
    seconds: float
    projector: AnyProjectorConfig | None = None
    prompts: dict[Task, str] = field(default_factory=dict)
    own_wer: tuple[float, float] | None = None
    other_wer: tuple[float, float] | None = None

    @property
    def replaced(self) -> tuple[str, ...]:
        """What the names begin with of the checkpoint's tensors that this person's model does not have."""
        return () if self.projector is None else ("projectors.",)

    def applied(self, config: ModelConfig) -> ModelConfig:
        """The settings of the model with what is this person's."""
        return replace(config, projector=self.projector or config.projector, prompts=config.prompts | self.prompts)


def users_folder() -> Path:
    """Where people are kept by default: ``OMNI_AVSR_USERS``, or a folder among the user's own data."""
    folder = os.environ.get("OMNI_AVSR_USERS")
    if folder:
        return Path(folder).expanduser()
    data = os.environ.get("XDG_DATA_HOME")
    return (Path(data) if data else Path.home() / ".local" / "share") / "omni_avsr" / "users"


def user_folder(name: str, users: Path | None = None) -> Path:
    """The folder of one person. ValueError: a name that is no file's."""
    if not _NAME.fullmatch(name):
        raise ValueError(f"user {name!r}: a name has up to 64 letters, digits, '.', '-' and '_', a letter first")
    return (users or users_folder()) / name


def unfinished_folder(name: str, users: Path | None = None) -> Path:
    """Where a person is enrolled: with clips, features and resume points, all of them gone at the end."""
    own = user_folder(name, users)
    return own.with_name(f"{UNFINISHED}{name}")


def save_enrolment(folder: Path, enrolment: Enrolment, tensors: Mapping[str, Tensor]) -> None:
    """Write a person's folder, whole or not at all; float tensors in half precision, as a checkpoint's."""
    stored = {n: (v.half() if v.is_floating_point() else v).cpu().contiguous() for n, v in tensors.items()}
    if bad := [name for name, value in stored.items() if not bool(value.isfinite().all())]:
        raise ValueError(f"{len(bad)} tensors are not finite in float16, such as {sorted(bad)[0]}")
    with replacing_folder(folder, PARTS) as partial:
        (partial / SETTINGS).write_text(json.dumps(to_mapping(enrolment), indent=2, allow_nan=False) + "\n")
        (partial / TRAINED).write_bytes(save(stored))


def read_enrolment(folder: Path) -> Enrolment:
    """What is known of a person.

    Raises:
        ValueError: there is no such person, or the file cannot be read.
    """
    path = folder / SETTINGS
    if not path.is_file():
        known = sorted(entry.parent.name for entry in folder.parent.glob(f"*/{SETTINGS}"))
        raise ValueError(
            f"there is no user {folder.name} in {folder.parent} (known: {', '.join(known) or 'nobody'}); "
            "omni-avsr personalize enrols one"
        )
    try:
        return from_mapping(Enrolment, json.loads(path.read_text(encoding="utf-8")), "user")
    except ValueError as error:
        raise ValueError(f"{path} cannot be read: {error}") from error


def read_tensors(folder: Path) -> dict[str, Tensor]:
    """A person's tensors by their names in the whole model, in float32. ValueError: the file cannot be read."""
    try:
        tensors = load_file(folder / TRAINED)
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{folder / TRAINED} cannot be read: {error}") from error
    return {name: value.to(torch.float32) if value.is_floating_point() else value for name, value in tensors.items()}


def forget(name: str, users: Path | None = None) -> bool:
    """Delete all that is kept of a person, an unfinished enrolment included; whether there was anything."""
    folders = [folder for folder in (user_folder(name, users), unfinished_folder(name, users)) if folder.exists()]
    for folder in folders:
        shutil.rmtree(folder)
    return bool(folders)
