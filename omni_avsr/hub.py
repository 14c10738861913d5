"""Share checkpoint folders by the Hugging Face Hub, and find them there."""

from __future__ import annotations

from pathlib import Path

import huggingface_hub

from omni_avsr.checkpoint import CONFIG, read_info
from omni_avsr.weights import is_hub_id

_FILES = ("*.json", "*.safetensors", "*.md")


def checkpoint_folder(reference: str | Path, revision: str | None = None) -> Path:
    """A local folder, or one that the Hub has by this id, downloaded or, offline, taken from its cache.

    Raises:
        ValueError: there is none.
    """
    folder = Path(reference)
    if folder.exists() or not is_hub_id(str(reference)):
        return folder
    try:
        found = huggingface_hub.snapshot_download(str(reference), revision=revision, allow_patterns=list(_FILES))
    except Exception as error:  # of the Hub, or of whatever HTTP library it uses in its version
        raise ValueError(
            f"checkpoint {str(reference)!r}: no such local folder, and the Hugging Face Hub did not give it "
            f"({type(error).__name__}). Without a network, download it on another machine (hf download {reference} "
            "--local-dir FOLDER), copy the folder here and give its path"
        ) from error
    return Path(found)


def push_to_hub(folder: Path, repo_id: str, private: bool = True) -> str:
    """Upload a checkpoint folder, making the repository when it is missing; returns the commit's address.

    Raises:
        ValueError: the folder is no checkpoint, or the Hub cannot be reached or refuses it.
    """
    read_info(folder)
    interface = huggingface_hub.HfApi()
    try:
        interface.create_repo(repo_id, private=private, exist_ok=True)
        done = interface.upload_folder(
            repo_id=repo_id,
            folder_path=folder,
            commit_message=f"Checkpoint with {CONFIG}, trained tensors and adapters",
            allow_patterns=list(_FILES),
        )
    except Exception as error:  # as in checkpoint_folder
        raise ValueError(f"{folder} could not be pushed to {repo_id}: {error}") from error
    return str(done)
