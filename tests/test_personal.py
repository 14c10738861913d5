"""One person on top of a checkpoint: enrolled, kept or not, used, resumed, forgotten; the checkpoint stays as it is."""

import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers_checkpoint import RATES, save_tiny_checkpoint
from helpers_model import stage_values, tiny_batch, write_corpus

from omni_avsr import personal, run
from omni_avsr.checkpoint import checkpoint_sha256, load_checkpoint
from omni_avsr.cli.hydra_app import config_folder, read_yaml
from omni_avsr.config import BridgeFormerConfig, from_mapping
from omni_avsr.data.manifest import read_manifest, write_manifest
from omni_avsr.edge.budget import Profile, process_bytes
from omni_avsr.edge.meter import run_limited
from omni_avsr.personal import Method, PersonalConfig, own_clips, personalize, split_clips
from omni_avsr.provenance import file_sha256
from omni_avsr.stages import matching_names
from omni_avsr.types import Hypothesis, Task
from omni_avsr.users import UNFINISHED, forget, read_enrolment, read_tensors, user_folder, users_folder

LORA = {"stages": {"adapters": stage_values("joint", 2, trainable=["llm.*lora_*"], augment=None, feature_variants=1)}}
BRIDGE = {"kind": "bridgeformer", "hidden_dim": 8, "num_layers": 1, "num_heads": 2, "ffn_dim": 16, "num_tokens": 4}
LINK = {
    "projector": BRIDGE,
    "prompts": {"asr": "hear it"},
    "stages": {
        "link": stage_values(
            "joint",
            2,
            objective={"kind": "embed_link", "targets": "pooled"},
            trainable=["projectors.*"],
            augment=None,
            feature_variants=1,
        )
    },
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint, ten clips of "anna" and two of "ben"."""
    made = tmp_path_factory.mktemp("personal")
    save_tiny_checkpoint(made, torch.float32)
    clips = read_manifest(write_corpus(made / "corpus"))
    speakers = [replace(clip, speaker="anna" if clip.split == "train" else "ben") for clip in clips]
    write_manifest(made / "corpus" / "manifest.jsonl", speakers)
    return made


def settings(folder: Path, users: Path, method: dict[str, Any] = LORA, **changes: Any) -> PersonalConfig:
    return PersonalConfig(
        checkpoint=folder / "checkpoint",
        clips=folder / "corpus" / "manifest.jsonl",
        user="anna",
        method=from_mapping(Method, method),
        method_name="tried",
        users=users,
        speaker="anna",
        **changes,
    )


def judge(monkeypatch: pytest.MonkeyPatch, errors: dict[tuple[str, str], float]) -> list[str]:
    """Let scores be ``errors`` by (set, before or after); returns what was scored, as it goes."""
    scored = []

    def score(_: Any, path: Path, name: str) -> list[Hypothesis]:
        kind = path.stem, path.parent.name
        scored.append(" ".join(kind))
        wrong = round(100 * errors[kind])
        return [Hypothesis("a", Task.ASR, "2", " ".join("a" * 100), " ".join("b" * wrong + "a" * (100 - wrong)))]

    monkeypatch.setattr(personal.Scorer, "run", score)
    return scored


@pytest.mark.parametrize("method", [LORA, LINK], ids=["lora", "link"])
def test_a_person_is_enrolled_and_the_checkpoint_stays_as_it_is(folder: Path, tmp_path: Path, method: Any) -> None:
    files = [path for path in (folder / "checkpoint").rglob("*") if path.is_file()]
    before = file_sha256(*files)
    outcome = personalize(settings(folder, tmp_path, method, others=folder / "corpus" / "manifest.jsonl"))
    assert file_sha256(*files) == before
    enrolment = outcome.enrolment
    assert (enrolment.num_clips, enrolment.method, enrolment.seed) == (8, "tried", 7)
    assert enrolment.own_wer is not None
    assert enrolment.other_wer is not None
    assert outcome.kept is (enrolment.own_wer[1] <= enrolment.own_wer[0])
    left = sorted(path.name for path in tmp_path.rglob("*"))
    assert left == (["anna", "trained.safetensors", "user.json"] if outcome.kept else [])


def test_their_weights_take_the_place_of_the_checkpoints(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    judge(monkeypatch, {("own", "before"): 0.5, ("own", "after"): 0.2})
    for method in (LORA, LINK):
        own = personalize(settings(folder, tmp_path, method)).folder
        tensors, base = read_tensors(own), load_checkpoint(folder / "checkpoint")
        model = load_checkpoint(folder / "checkpoint", user=own)
        for name, value in model.state_dict().items():
            if name in tensors:
                torch.testing.assert_close(value, tensors[name])
            else:
                assert torch.equal(value, base.state_dict()[name]), name
        assert any(not torch.equal(tensors[name], base.state_dict().get(name, torch.empty(0))) for name in tensors)
        batch = tiny_batch()
        assert len(model.generate(model.encode(batch.inputs), Task.ASR, RATES, max_new_tokens=4)) == len(batch)
    assert model.config.projector == from_mapping(BridgeFormerConfig, BRIDGE)
    assert model.config.prompts == base.config.prompts | {Task.ASR: "hear it"}
    assert {name.split(".")[0] for name in tensors} == {"projectors"}


def test_worse_weights_are_not_kept_and_the_old_ones_stay(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scored = judge(monkeypatch, {("own", "before"): 0.5, ("own", "after"): 0.51})
    outcome = personalize(settings(folder, tmp_path))
    assert not outcome.kept
    assert outcome.reason == "WER on the clips held back rose from 50.0% to 51.0%"
    assert list(tmp_path.iterdir()) == []
    judge(monkeypatch, {("own", "before"): 0.5, ("own", "after"): 0.5})
    first = personalize(settings(folder, tmp_path)).folder
    kept = file_sha256(*sorted(first.iterdir()))
    judge(monkeypatch, {("own", "before"): 0.5, ("own", "after"): 0.6})
    assert not personalize(settings(folder, tmp_path, seed=8)).kept
    assert file_sha256(*sorted(first.iterdir())) == kept
    assert scored == ["own before", "own after"]


def test_what_was_before_is_the_persons_own_state(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    judge(monkeypatch, {("own", "before"): 0.5, ("own", "after"): 0.5})
    loaded: list[Path | None] = []
    load = personal.load_checkpoint

    def watched(*args: Any, user: Path | None = None, **more: Any) -> Any:
        loaded.append(user)
        return load(*args, user=user, **more)

    monkeypatch.setattr(personal, "load_checkpoint", watched)
    for _ in range(2):
        own = personalize(settings(folder, tmp_path)).folder
    work = tmp_path / f"{UNFINISHED}anna" / "candidate"
    assert loaded == [None, work, own, work]


def test_other_talkers_may_lose_so_much_and_no_more(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    others = folder / "corpus" / "manifest.jsonl"
    errors = {("own", "before"): 0.5, ("own", "after"): 0.2, ("others", "before"): 0.1, ("others", "after"): 0.2}
    judge(monkeypatch, errors)
    outcome = personalize(settings(folder, tmp_path, others=others, max_other_loss=0.05))
    assert outcome.reason == "WER on other talkers rose from 10.0% to 20.0%, more than 5.0%"
    outcome = personalize(settings(folder, tmp_path, others=others, max_other_loss=0.15))
    assert outcome.kept
    assert read_enrolment(outcome.folder).other_wer == (0.1, 0.2)


def test_an_interrupted_enrolment_goes_on_and_ends_as_an_unbroken_one(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    judge(monkeypatch, {("own", "before"): 0.5, ("own", "after"): 0.5})
    method = {"stages": {"one": LORA["stages"]["adapters"], "two": LORA["stages"]["adapters"]}}
    expected = read_tensors(personalize(settings(folder, tmp_path / "unbroken", method)).folder)
    stages, trained = run.run_stage, []

    def dies_in_two(config: Any, name: str, *args: Any) -> None:
        trained.append(name)
        if trained == ["one", "two"]:
            raise KeyboardInterrupt
        stages(config, name, *args)

    monkeypatch.setattr(run, "run_stage", dies_in_two)
    with pytest.raises(KeyboardInterrupt):
        personalize(settings(folder, tmp_path / "broken", method))
    assert not (tmp_path / "broken" / "anna").exists()
    with pytest.raises(ValueError, match="seed"):
        personalize(settings(folder, tmp_path / "broken", method, seed=8))
    found = read_tensors(personalize(settings(folder, tmp_path / "broken", method)).folder)
    assert trained == ["one", "two", "two"]
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], value) for name, value in expected.items())


def test_nothing_that_was_said_is_in_a_persons_folder(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    judge(monkeypatch, {("own", "before"): 0.5, ("own", "after"): 0.5})
    own = personalize(settings(folder, tmp_path)).folder
    said = (own / "user.json").read_text()
    for clip in read_manifest(folder / "corpus" / "manifest.jsonl"):
        assert clip.id not in said
        assert f'"{clip.text}"' not in said
    assert str(folder) not in said
    assert json.loads(said)["checkpoint_sha256"] == checkpoint_sha256(folder / "checkpoint")


def test_forgetting_deletes_everything(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    judge(monkeypatch, {("own", "before"): 0.5, ("own", "after"): 0.5})
    personalize(settings(folder, tmp_path))
    (tmp_path / f"{UNFINISHED}anna" / "clips").mkdir(parents=True)
    (tmp_path / "ben").mkdir()
    assert forget("anna", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["ben"]
    assert not forget("anna", tmp_path)
    with pytest.raises(ValueError, match="there is no user anna"):
        load_checkpoint(folder / "checkpoint", user=tmp_path / "anna")


def test_what_does_not_fit_is_refused(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    judge(monkeypatch, {("own", "before"): 0.5, ("own", "after"): 0.5})
    with pytest.raises(ValueError, match=r"has 2 clips of ben; at least 4"):
        own_clips(replace(settings(folder, tmp_path), speaker="ben"))
    with pytest.raises(ValueError, match=r"clips of 2 speakers \(anna, ben"):
        _two_speakers(folder, tmp_path)
    with pytest.raises(ValueError, match=r"user '\.\./anna'"):
        personalize(replace(settings(folder, tmp_path), user="../anna"))
    small = Profile(process_gib=0.1)
    with pytest.raises(ValueError, match=r"asr of 8 x .* of 0\.10 GiB"):  # to score; training runs no LLM
        personalize(settings(folder, tmp_path, LINK, profile=small))
    with monkeypatch.context() as patch:
        patch.setattr(personal, "check_transcribing", lambda *_: None)
        with pytest.raises(ValueError, match=r"stage adapters .* of 0\.10 GiB"):
            personalize(settings(folder, tmp_path, profile=small))
    assert not (tmp_path / "anna").exists()
    own = personalize(settings(folder, tmp_path)).folder
    save_tiny_checkpoint(tmp_path / "other")
    with pytest.raises(ValueError, match="anna was enrolled for another checkpoint"):
        load_checkpoint(tmp_path / "other" / "checkpoint", user=own)
    with pytest.raises(ValueError, match="adapters of anna cannot be merged"):
        load_checkpoint(folder / "checkpoint", merged_task=Task.ASR, user=own)


@pytest.mark.skipif(sys.platform != "linux", reason="memory is measured by /proc")
def test_an_enrolment_stays_below_its_limit(folder: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-c", "from omni_avsr.cli.main import main; main()", "personalize", "--user", "anna"]
    command += ["--checkpoint", f"{folder}/checkpoint", "--clips", f"{folder}/corpus/manifest.jsonl"]
    command += ["--speaker", "anna", "--users", f"{tmp_path}", "--method", "embed_link", "--minutes", "0.02"]
    limit = process_bytes(4.0)
    outcome = run_limited([*command, "--memory", "4GB"], limit)
    assert not outcome.killed
    assert "WER on clips that were held back" in outcome.output, outcome.errors
    assert 0 < outcome.peak <= limit
    refused = run_limited([*command, "--memory", "1.9GB"], limit)
    assert refused.exit_code != 0
    assert "that the profile leaves to a process" in refused.errors


def _two_speakers(folder: Path, scratch: Path) -> Sequence[Any]:
    clips = [replace(c, split="train") for c in read_manifest(folder / "corpus" / "manifest.jsonl")]
    write_manifest(scratch / "two.jsonl", clips)
    return own_clips(replace(settings(folder, scratch), clips=scratch / "two.jsonl", speaker=None))


@pytest.mark.parametrize(("number", "expected"), [(4, 2), (5, 2), (20, 4)])
def test_clips_are_held_back_by_the_seed(folder: Path, number: int, expected: int) -> None:
    clips = [replace(read_manifest(folder / "corpus" / "manifest.jsonl")[0], id=str(n)) for n in range(number)]
    train, held = split_clips(clips, 0.2, seed=1)
    assert len(held) == expected
    assert sorted([*train, *held], key=lambda clip: int(clip.id)) == clips
    assert split_clips(clips, 0.2, seed=1) == (train, held)
    assert any(split_clips(clips, 0.2, seed=seed)[1] != held for seed in range(2, 6))


@pytest.mark.parametrize("path", sorted((config_folder() / "personal").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_method_with_a_name_can_be_read_and_fits_a_checkpoint(path: Path, folder: Path) -> None:
    method = from_mapping(Method, read_yaml(path), path.stem)
    names = load_checkpoint(folder / "checkpoint").state_dict()
    for stage in method.stages.values():
        assert matching_names(names, stage.trainable, "parameter")
        assert not any(glob.startswith("encoders") for glob in stage.trainable)


def test_people_are_kept_where_the_environment_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("OMNI_AVSR_USERS", str(tmp_path))
    assert user_folder("anna") == tmp_path / "anna"
    monkeypatch.delenv("OMNI_AVSR_USERS")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert users_folder() == tmp_path / "omni_avsr" / "users"
