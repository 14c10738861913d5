"""Evaluation on a tiny corpus: every setting once, encoders once, resumable, and the same whatever the batches."""

import itertools
import json
import logging
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers_checkpoint import TRAINING, save_tiny_checkpoint, write_test_set
from torch import Tensor

from omni_avsr import evaluation, scorer
from omni_avsr.conditions import SWAPPED
from omni_avsr.config import from_mapping
from omni_avsr.data.manifest import read_manifest
from omni_avsr.data.noise_manifest import NoiseClip, write_noise_manifest
from omni_avsr.data.noise_recording import read_wave, samples_sha256
from omni_avsr.data.noise_set import noise_marks, open_noise
from omni_avsr.encoders.build import SpeechEncoder
from omni_avsr.encoders.compact_audio import CompactAudioEncoder
from omni_avsr.evaluation import EvaluateConfig, evaluate
from omni_avsr.features import prepare_video
from omni_avsr.hypotheses import read_hypotheses
from omni_avsr.media import read_audio, read_video, write_audio
from omni_avsr.report import Report, read_report
from omni_avsr.types import MATCHED, Clip, Features, Modality, Rates, Task

SEEN = ("a1", "a2", "a3", "b1", "b2")
ASR, VSR, AVSR = ("2", "5"), ("1", "3"), ("2,1", "2,3", "5,1", "5,3")
SNRS = (0.0, -5.0)
SETTINGS = [
    *((Task.ASR, rates, None, MATCHED) for rates in ASR),
    *((Task.VSR, rates, None, MATCHED) for rates in VSR),
    *((Task.AVSR, rates, None, MATCHED) for rates in AVSR),
    *((task, r, snr, MATCHED) for snr in SNRS for task, rates in ((Task.ASR, ASR), (Task.AVSR, AVSR)) for r in rates),
    *((Task.AVSR, rates, snr, SWAPPED) for snr in (None, *SNRS) for rates in AVSR),
]
"""What a clip with sound and picture is decoded in, in order."""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint and the test set ``corpus``."""
    root = tmp_path_factory.mktemp("evaluation")
    save_tiny_checkpoint(root)
    write_test_set(root / "corpus")
    return root


@pytest.fixture
def _no_plots(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("plot_wer_against_tokens", "plot_wer_against_snr"):
        monkeypatch.setattr(evaluation, name, lambda *args, **kwargs: None)


def config(root: Path, output: Path, data: dict[str, Any] | None = None, **changes: Any) -> EvaluateConfig:
    values: dict[str, Any] = {
        "checkpoint": root / "checkpoint",
        "data": {
            "test_sets": {"tiny": {"manifest": root / "corpus" / "manifest.jsonl", "noisy": True}},
            "test_noise": root / "corpus" / "noise.wav",
        }
        | (data or {}),
        "output": output,
        "snr_db": list(SNRS),
        "swap_video": True,
        "decode": {"max_new_tokens": 6},
        "batch_size": 3,
    }
    return from_mapping(EvaluateConfig, values | changes, "evaluate")


def lines(output: Path, name: str = "tiny") -> bytes:
    return (output / f"hypotheses-{name}.jsonl").read_bytes()


class Inputs:
    """What the encoders were given while this was installed: calls, and each row without its padding."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls = dict.fromkeys(Modality, 0)
        self.rows: dict[Modality, list[Tensor]] = {modality: [] for modality in Modality}
        forward = SpeechEncoder.forward

        def recorded(encoder: SpeechEncoder, inputs: Features) -> Features:
            heard = isinstance(encoder.encoder, CompactAudioEncoder)
            modality = Modality.AUDIO if heard else Modality.VIDEO
            self.calls[modality] += 1
            self.rows[modality] += [
                row[:length].clone() for row, length in zip(inputs.values, inputs.lengths, strict=True)
            ]
            return forward(encoder, inputs)

        monkeypatch.setattr(SpeechEncoder, "forward", recorded)

    def of_length(self, modality: Modality, length: int) -> list[Tensor]:
        """No two clips of the corpus have the same length, so that this is one clip's rows, in order."""
        return [row for row in self.rows[modality] if len(row) == length]


@pytest.fixture(scope="module")
def scored(root: Path) -> tuple[Path, Report, Inputs, str]:
    """The whole evaluation in batches of three: output folder, report, encoder inputs and log."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        inputs = Inputs(monkeypatch)
        records: list[str] = []
        handler = logging.Handler()
        handler.emit = lambda record: records.append(record.getMessage())  # type: ignore[method-assign]
        logging.getLogger("omni_avsr").addHandler(handler)
        logging.getLogger("omni_avsr").setLevel(logging.INFO)
        report = evaluate(config(root, root / "whole"))
        logging.getLogger("omni_avsr").removeHandler(handler)
        logging.getLogger("omni_avsr").setLevel(logging.NOTSET)
    return root / "whole", report, inputs, "\n".join(records)


Scored = tuple[Path, Report, Inputs, str]


def test_every_clip_is_decoded_once_in_each_setting_that_it_allows(scored: Scored) -> None:
    hypotheses = read_hypotheses(scored[0] / "hypotheses-tiny.jsonl")
    found = [(h.id, (h.task, h.rates, h.snr_db, h.condition)) for h in hypotheses]
    heard = [setting for setting in SETTINGS if setting[0] is Task.ASR]
    # In the order of clips and of settings, whatever the batches were.
    expected = [(clip, setting) for clip in SEEN for setting in SETTINGS] + [("sound", setting) for setting in heard]
    assert found == expected
    texts = {"a1": "bin blue", "a2": "set red", "a3": "bin blue", "b1": "lay green now"}
    assert all(h.reference == texts[h.id] for h in hypotheses if h.id in texts)
    assert {(h.split, h.speaker) for h in hypotheses} == {("test", "s1")}


def test_settings_and_clips_lead_to_different_texts(scored: Scored) -> None:
    """Or else the tests of this file could not fail."""
    by_setting: dict[Any, set[tuple[str, ...]]] = {}
    groups: dict[Any, list[str]] = {}
    for h in read_hypotheses(scored[0] / "hypotheses-tiny.jsonl"):
        groups.setdefault((h.task, h.rates, h.snr_db, h.condition), []).append(h.text)
    for (task, *_), texts in groups.items():
        by_setting.setdefault(task, set()).add(tuple(texts))
        assert len(set(texts)) > 1
    assert all(len(different) > 1 for different in by_setting.values())


def test_each_input_is_encoded_once_however_many_settings_read_it(scored: Scored) -> None:
    inputs = scored[2]
    assert len(inputs.rows[Modality.AUDIO]) == (len(SEEN) + 1) * (1 + len(SNRS))
    assert len(inputs.rows[Modality.VIDEO]) == len(SEEN) * 2  # its own video and the swapped one
    assert inputs.calls == {Modality.AUDIO: 3 * (1 + len(SNRS)), Modality.VIDEO: 2 * 2}


def test_the_ratio_of_speech_and_noise_is_the_one_asked_for(scored: Scored, root: Path) -> None:
    for clip in read_manifest(root / "corpus" / "manifest.jsonl"):
        if clip.id not in (*SEEN, "sound"):
            continue
        assert clip.audio is not None
        speech = torch.from_numpy(read_audio(clip.audio))
        clean, *noisy = scored[2].of_length(Modality.AUDIO, len(speech))
        assert torch.equal(clean, speech)
        for row, level in zip(noisy, SNRS, strict=True):
            noise = row - speech
            ratio = 10 * torch.log10(speech.square().mean() / noise.square().mean())
            assert float(ratio) == pytest.approx(level, abs=1e-3)
        # The same piece of noise at every level, so that levels differ in nothing else.
        shapes = [(row - speech) / (row - speech).norm() for row in noisy]
        torch.testing.assert_close(shapes[0], shapes[1], rtol=0, atol=1e-5)


def test_swapped_video_is_another_clips_with_another_text(scored: Scored, root: Path) -> None:
    clips = {clip.id: clip for clip in read_manifest(root / "corpus" / "manifest.jsonl") if clip.id in SEEN}
    videos = {}
    for name, clip in clips.items():
        assert clip.video is not None
        videos[name] = prepare_video(torch.from_numpy(read_video(clip.video, grey=True)))
    sources = {}
    for name, own in videos.items():
        matched, swapped = scored[2].of_length(Modality.VIDEO, len(own))
        assert torch.equal(matched, own)
        (sources[name],) = [other for other in videos if torch.equal(swapped[0], videos[other][0])]
        source = videos[sources[name]]
        shared = min(len(own), len(source))
        assert torch.equal(swapped[:shared], source[:shared])
        assert all(torch.equal(frame, source[-1]) for frame in swapped[shared:])
        assert clips[sources[name]].text != clips[name].text
    # The next one by name, round the end; a clip that cannot be read or shows nothing is passed over.
    assert sources == {"a1": "a2", "a2": "a3", "a3": "b1", "b1": "b2", "b2": "a1"}


def test_a_corrupt_clip_is_left_out_with_its_reason(scored: Scored) -> None:
    output, report, _, log = scored
    left_out = json.loads((output / "table.json").read_text())["metadata"]["left out"]
    assert list(left_out) == ["tiny/corrupt"]
    assert "corrupt.mp4: not a readable media file" in left_out["tiny/corrupt"]
    assert "corrupt.mp4: not a readable media file" in (output / "table.md").read_text()
    assert "left out corrupt: " in log
    assert {s.num_clips for s in report.scores["tiny"]} == {len(SEEN), len(SEEN) + 1}


def test_the_report_is_written_whole(scored: Scored) -> None:
    output, report, _, log = scored
    assert read_report(output / "table.json") == report
    table = (output / "table.md").read_text()
    columns = ["ASR 2", "ASR 5", "VSR 1", "VSR 3", "AVSR 2,1", "AVSR 2,3", "AVSR 5,1", "AVSR 5,3"]
    assert f"|  | {' | '.join(columns)} | Avg |" in table
    for heading in ("tiny, clean", "tiny, 0 dB SNR", "tiny, -5 dB SNR", f"tiny, 0 dB SNR, {SWAPPED}"):
        assert f"## {heading}\n" in table
    assert f"- training domain: {TRAINING['domain']}" in table
    assert f"training domain of this checkpoint: {TRAINING['domain']}" in log
    for plot in ("wer-tokens-tiny.png", "wer-snr-tiny.png"):
        assert (output / plot).read_bytes().startswith(b"\x89PNG")
    assert len(report.scores["tiny"]) == len(SETTINGS)


def test_differences_are_over_the_clips_that_both_sides_have(scored: Scored) -> None:
    compared = scored[1].comparisons["tiny"]
    assert {pair.difference.num_clips for pair in compared} == {len(SEEN)}
    assert (Task.AVSR, Task.ASR) in {(pair.a.task, pair.b.task) for pair in compared}


@pytest.mark.usefixtures("_no_plots")
def test_batches_of_any_size_give_the_same_noise_and_the_same_hypotheses(
    scored: Scored, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for size in (1, 4):
        with monkeypatch.context() as patch:
            inputs = Inputs(patch)
            evaluate(config(root, tmp_path / str(size), batch_size=size))
        assert lines(tmp_path / str(size)) == lines(scored[0])
        for length in {len(row) for row in inputs.rows[Modality.AUDIO]}:
            found, expected = (one.of_length(Modality.AUDIO, length) for one in (inputs, scored[2]))
            assert all(map(torch.equal, found, expected))


class Decoded:
    """The clips of every call of ``decode`` while this was installed."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.ids: list[str] = []
        decode = scorer.decode

        def recorded(model: Any, clips: Sequence[Clip], *arguments: Any) -> Any:
            self.ids += [clip.id for clip in clips]
            return decode(model, clips, *arguments)

        monkeypatch.setattr(scorer, "decode", recorded)


@pytest.mark.usefixtures("_no_plots")
def test_an_interrupted_evaluation_goes_on_where_it_stopped(
    scored: Scored, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    append, count = scorer.append_hypothesis, itertools.count()

    def interrupted(*arguments: Any) -> None:
        if next(count) == 80:
            raise KeyboardInterrupt
        append(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(scorer, "append_hypothesis", interrupted)
        with pytest.raises(KeyboardInterrupt):
            evaluate(config(root, tmp_path))
    path = tmp_path / "hypotheses-tiny.jsonl"
    before = read_hypotheses(path)
    assert len(before) == 80
    complete = {h.id for h in before if sum(other.id == h.id for other in before) == len(SETTINGS)}
    assert complete == {"b1", "a1"}
    assert "sound" in {h.id for h in before}
    with path.open("ab") as file:
        file.write(b'{"id": "a2", "task": "as')  # a kill in the middle of a write
    decoded = Decoded(monkeypatch)
    report = evaluate(config(root, tmp_path))
    assert set(decoded.ids) == {"a2", "a3", "b2"}
    assert lines(tmp_path) == lines(scored[0])
    assert report.scores == scored[1].scores
    assert report.metadata["left out"] == scored[1].metadata["left out"]


@pytest.mark.usefixtures("_no_plots")
def test_a_finished_evaluation_decodes_nothing_and_new_levels_only_themselves(
    scored: Scored, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluate(config(root, tmp_path, snr_db=[], swap_video=False))
    decoded = Decoded(monkeypatch)
    evaluate(config(root, tmp_path))
    again = len(decoded.ids)
    assert again == len(SEEN) * (len(SETTINGS) - 8) + 2 * len(SNRS)
    assert lines(tmp_path) == lines(scored[0])
    report = evaluate(config(root, tmp_path))
    assert len(decoded.ids) == again
    assert report.scores == scored[1].scores


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"decode": {"max_new_tokens": 5}}, "another decoding"),
        ({"seed": 8}, "another noise"),
        ({"data": {"snr_over": "clip"}}, "another noise"),
        ({"llm_dtype": "bfloat16"}, "another llm_dtype"),
        ({"checkpoint": "other"}, "another checkpoint"),
    ],
)
@pytest.mark.usefixtures("_no_plots")
def test_results_of_another_evaluation_are_not_taken_for_this_ones(
    changes: dict[str, Any], message: str, scored: Scored, root: Path
) -> None:
    if "checkpoint" in changes:
        other = root / "other"
        shutil.copytree(root / "checkpoint", other)
        settings = json.loads((other / "config.json").read_text())
        settings["model"]["prompts"]["asr"] = "listen"
        (other / "config.json").write_text(json.dumps(settings))
        changes = {"checkpoint": other}
    with pytest.raises(ValueError, match=f"holds results of {message}; give another folder or delete it"):
        evaluate(config(root, scored[0], **changes))


@pytest.mark.usefixtures("_no_plots")
@pytest.mark.parametrize("change", ["text", "audio"])
def test_hypotheses_of_other_clips_are_not_taken_for_this_ones(change: str, root: Path, tmp_path: Path) -> None:
    corpus = tmp_path / "corpus"
    shutil.copytree(root / "corpus", corpus)
    data = {"test_sets": {"tiny": {"manifest": corpus / "manifest.jsonl"}}}
    few = {"tasks": ["vsr"], "snr_db": [], "swap_video": False}
    evaluate(config(root, tmp_path / "out", data, **few))
    if change == "text":
        manifest = corpus / "manifest.jsonl"
        manifest.write_text(manifest.read_text().replace("set red", "set white"))
    else:  # prepared anew
        write_audio(corpus / "a2.wav", np.zeros(5000))
    with pytest.raises(ValueError, match="holds results of another test set tiny; give another folder or delete it"):
        evaluate(config(root, tmp_path / "out", data, **few))


@pytest.mark.usefixtures("_no_plots")
def test_tasks_limit_what_is_read_and_decoded(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = Inputs(monkeypatch)
    report = evaluate(config(root, tmp_path, tasks=["asr"], swap_video=False, snr_db=[]))
    assert [(s.setting.task, s.setting.rates) for s in report.scores["tiny"]] == [(Task.ASR, rate) for rate in ASR]
    assert inputs.calls[Modality.VIDEO] == 0
    # The clip with the broken picture can be heard.
    assert {s.num_clips for s in report.scores["tiny"]} == {len(SEEN) + 2}
    assert "left out" not in report.metadata


def test_a_model_that_only_hears_is_scored_on_what_it_does(root: Path, tmp_path: Path) -> None:
    save_tiny_checkpoint(tmp_path, video_encoder=None)
    changes = {"checkpoint": tmp_path / "checkpoint", "snr_db": [0]}
    report = evaluate(config(root, tmp_path / "out", **changes))
    assert {s.setting.task for s in report.scores["tiny"]} == {Task.ASR}
    assert len(report.scores["tiny"]) == 2 * len(ASR)
    assert (tmp_path / "out" / "wer-snr-tiny.png").is_file()
    with pytest.raises(ValueError, match="this checkpoint is for asr, not for vsr, avsr"):
        evaluate(config(root, tmp_path / "none", tasks=["vsr", "avsr"], **changes))


@pytest.mark.usefixtures("_no_plots")
def test_only_noisy_sets_are_scored_in_noise(root: Path, tmp_path: Path) -> None:
    manifest = root / "corpus" / "manifest.jsonl"
    sets = {"noisy": {"manifest": manifest, "noisy": True}, "quiet": {"manifest": manifest}}
    report = evaluate(config(root, tmp_path, {"test_sets": sets}, tasks=["asr"], swap_video=False))
    levels = {name: {s.setting.snr_db for s in scores} for name, scores in report.scores.items()}
    assert levels == {"noisy": {None, *SNRS}, "quiet": {None}}
    assert (tmp_path / "hypotheses-noisy.jsonl").is_file()
    assert (tmp_path / "hypotheses-quiet.jsonl").is_file()
    assert "- SNR measured over: the speech\n" in (tmp_path / "table.md").read_text()


@pytest.mark.usefixtures("_no_plots")
def test_a_noise_manifest_gives_each_test_set_the_noise_of_its_split(root: Path, tmp_path: Path) -> None:
    noise = root / "corpus" / "noise.wav"
    write_audio(tmp_path / "other.wav", np.random.default_rng(3).standard_normal(9000) / 10)
    clips = []
    for split, path in (("train", tmp_path / "other.wav"), ("test", noise)):
        samples = read_wave(path)
        clips.append(NoiseClip(split, path, len(samples) / 16_000, split, "hiss", samples_sha256(samples)))  # type: ignore[arg-type]
    write_noise_manifest(tmp_path / "noise.jsonl", clips)
    few: dict[str, Any] = {"tasks": ["asr"], "swap_video": False, "snr_db": [0]}
    evaluate(config(root, tmp_path / "file", **few))
    evaluate(config(root, tmp_path / "manifest", {"test_noise": tmp_path / "noise.jsonl"}, **few))
    assert lines(tmp_path / "manifest") == lines(tmp_path / "file")
    with pytest.raises(ValueError, match="this would train on test noise"):
        evaluate(config(root, tmp_path / "no", {"test_noise": tmp_path / "noise.jsonl", "noise": noise}, **few))
    assert not (tmp_path / "no").exists()


def test_noise_that_the_checkpoint_was_trained_in_is_no_noise_to_test_in(root: Path, tmp_path: Path) -> None:
    """Whatever the file is called now, and whether or not the training noise is named."""
    shutil.copytree(root / "checkpoint", tmp_path / "checkpoint")
    shutil.copyfile(root / "corpus" / "noise.wav", tmp_path / "other name.wav")
    path = tmp_path / "checkpoint" / "config.json"
    info = json.loads(path.read_text())
    info["training"]["noise"] = noise_marks(open_noise(root / "corpus" / "noise.wav", ("train",)))
    path.write_text(json.dumps(info))
    with pytest.raises(ValueError, match=r"trained in the noise .*other name\.wav .* by the sound"):
        evaluate(
            config(
                root,
                tmp_path / "no",
                {"test_noise": tmp_path / "other name.wav"},
                checkpoint=tmp_path / "checkpoint",
            )
        )
    assert not (tmp_path / "no").exists()


@pytest.mark.usefixtures("_no_plots")
def test_video_that_cannot_be_swapped_is_an_error_before_anything_is_decoded(root: Path, tmp_path: Path) -> None:
    manifest = root / "corpus" / "same.jsonl"
    lines = (root / "corpus" / "manifest.jsonl").read_text().splitlines()
    manifest.write_text("\n".join(line for line in lines if '"bin blue"' in line))
    sets = {"test_sets": {"tiny": {"manifest": manifest}}}
    with pytest.raises(ValueError, match="swap_video needs clips of different texts"):
        evaluate(config(root, tmp_path / "out", sets, snr_db=[]))
    assert not list(tmp_path.rglob("*.jsonl"))
    evaluate(config(root, tmp_path / "out", sets, snr_db=[], swap_video=False, tasks=["vsr"]))


@pytest.mark.usefixtures("_no_plots")
def test_a_set_without_video_has_none_to_swap(root: Path, tmp_path: Path) -> None:
    manifest = root / "corpus" / "heard.jsonl"
    lines = (root / "corpus" / "manifest.jsonl").read_text().splitlines()
    manifest.write_text(next(line for line in lines if '"sound"' in line))
    report = evaluate(config(root, tmp_path, {"test_sets": {"tiny": {"manifest": manifest}}}, snr_db=[]))
    assert {s.setting.task for s in report.scores["tiny"]} == {Task.ASR}


@pytest.mark.usefixtures("_no_plots")
def test_beams_are_the_models_beams(root: Path, tmp_path: Path) -> None:
    few = {"tasks": ["avsr"], "snr_db": [], "swap_video": False}
    evaluate(config(root, tmp_path, decode={"num_beams": 3, "max_new_tokens": 6}, **few))
    model = evaluation.load_checkpoint(root / "checkpoint", "float32")
    found = {(h.id, h.rates): h.text for h in read_hypotheses(tmp_path / "hypotheses-tiny.jsonl")}
    clips = [clip for clip in read_manifest(root / "corpus" / "manifest.jsonl") if clip.id in SEEN]
    assert len(found) == len(SEEN) * len(AVSR) == len(clips) * len(AVSR)
    for clip in clips:
        assert clip.audio is not None
        assert clip.video is not None
        inputs = {
            Modality.AUDIO: Features.pad([torch.from_numpy(read_audio(clip.audio))]),
            Modality.VIDEO: Features.pad([prepare_video(torch.from_numpy(read_video(clip.video, grey=True)))]),
        }
        [text] = model.generate(model.encode(inputs), Task.AVSR, Rates(2, 3), num_beams=3, max_new_tokens=6)
        assert found[clip.id, "2,3"] == text


@pytest.mark.usefixtures("_no_plots")
def test_a_device_that_is_not_there_is_a_clear_error(root: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="device nonsense cannot be used"):
        evaluate(config(root, tmp_path / "out", device="nonsense"))
    assert not (tmp_path / "out").exists()


def test_what_cannot_be_scored_is_a_clear_error(root: Path, tmp_path: Path) -> None:
    corpus = root / "corpus"
    manifest = corpus / "manifest.jsonl"
    with pytest.raises(ValueError, match=r"split 'dev' is empty in .*manifest\.jsonl"):
        evaluate(config(root, tmp_path, {"test_sets": {"tiny": {"manifest": manifest, "split": "dev"}}}))
    with pytest.raises(ValueError, match=r"gone\.jsonl: no such manifest"):
        evaluate(config(root, tmp_path, {"test_sets": {"tiny": {"manifest": corpus / "gone.jsonl"}}}))
    with pytest.raises(ValueError, match=r"gone\.wav: no such file"):
        evaluate(config(root, tmp_path, {"test_noise": corpus / "gone.wav"}))
    with pytest.raises(ValueError, match="snr_db names noise levels, but no noise file is given"):
        config(root, tmp_path, {"test_noise": None})
    with pytest.raises(ValueError, match="there is nothing to score"):
        config(root, tmp_path, {"test_sets": {}})
    with pytest.raises(ValueError, match="is no checkpoint"):
        evaluate(config(root, tmp_path, checkpoint=corpus))
    assert list(tmp_path.iterdir()) == []
    for name, message in (("corrupt", r".*corrupt\.mp4"), ("sound", "none has the inputs of vsr")):
        only = corpus / f"{name}.jsonl"
        only.write_text(next(line for line in manifest.read_text().splitlines() if f'"{name}"' in line))
        nothing = config(root, tmp_path / name, {"test_sets": {name: {"manifest": only}}}, tasks=["vsr"])
        with pytest.raises(ValueError, match=f"test set {name}: none of its 1 clips could be scored: {message}"):
            evaluate(nothing)


@pytest.mark.usefixtures("_no_plots")
def test_a_quantised_llm_is_scored_and_told_apart(root: Path, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"snr_db": [], "swap_video": False, "tasks": ["asr"]}
    report = evaluate(config(root, tmp_path / "out", quantization="int8", **settings))
    assert report.metadata["quantization"] == "int8"
    assert report.scores["tiny"]
    with pytest.raises(ValueError, match="results of another quantization"):
        evaluate(config(root, tmp_path / "out", **settings))
