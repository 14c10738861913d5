"""What fits a budget, in which order, and what is refused with which numbers."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from helpers_model import model_values
from helpers_scores import evaluation

from omni_avsr.config import ModelConfig, from_mapping
from omni_avsr.edge.device import Device
from omni_avsr.edge.known_errors import known_wers
from omni_avsr.edge.ledger import WEIGHT_FORMATS, Memory, MemoryConstants, WeightFormat
from omni_avsr.edge.meter import GIB
from omni_avsr.edge.plan import Budget, Candidate, Option, WerKey, all_options, decide
from omni_avsr.edge.request import Request
from omni_avsr.edge.timing import PassConstants, Seconds, TimeConstants
from omni_avsr.metrics import score
from omni_avsr.report import Report, write_report
from omni_avsr.shapes import shaped_model
from omni_avsr.types import Modality, Rates, Task

MEMORY = MemoryConstants(libraries=0, overhead=0, scale=1.0)
PASS = PassConstants(layer=1e-3, byte=1e-10, flop=1e-11)
TIMED = Device(MEMORY, TimeConstants(dict.fromkeys(Modality, 1e-11), {"float32": PASS, "int8": PASS}))
UNTIMED = Device(MEMORY)
ROOM = Budget(8 * GIB)


@pytest.fixture(scope="module")
def candidate(tmp_path_factory: pytest.TempPathFactory) -> Candidate:
    values = model_values(tmp_path_factory.mktemp("plan"))
    model = shaped_model(from_mapping(ModelConfig, values), 0, "meta")
    return Candidate("tiny", model, ("float32", "int8", "nf4"))


def options_of(
    candidates: Candidate | Sequence[Candidate], budget: Budget = ROOM, device: Device = TIMED, **changes: Any
) -> list[Option]:
    settings: dict[str, Any] = {"task": Task.AVSR, "seconds": 4.0, "new_tokens": 8, "beams": (1, 3), "wers": {}}
    settings |= changes
    several = [candidates] if isinstance(candidates, Candidate) else candidates
    return list(all_options(several, device=device, budget=budget, **settings))


def option(name: str = "one", peak: float = 1.0, **changes: Any) -> Option:
    """Made up; peak in GiB."""
    plain = Option(
        llm=name,
        num_parameters=100,
        weight_format="bfloat16",
        request=Request(Task.AVSR, Rates(4, 2), 10.0),
        memory=Memory({"prompt": {"libraries": GIB // 2, "llm": round((peak - 0.5) * GIB)}}),
        seconds=Seconds({}, 0.1, 0.2),
        wer=None,
        longest=30.0,
    )
    return replace(plain, **changes)


def test_every_setting_is_an_option_with_what_it_takes(candidate: Candidate) -> None:
    found = options_of(candidate)
    assert len(found) == 3 * 4 * 2
    assert len({(one.weight_format, one.request.rates, one.request.num_beams) for one in found}) == len(found)
    assert all(one.longest == 60.0 for one in found)
    assert {one.weight_format for one in found if one.seconds is None} == {"nf4"}  # which was not measured
    weights = {one.weight_format: one.memory.stages["reading"]["llm"] for one in found}
    assert weights["float32"] > weights["int8"] > weights["nf4"]
    assert [one.num_parameters for one in found] == [found[0].num_parameters] * len(found)


def test_the_longest_clip_is_what_memory_allows(candidate: Candidate) -> None:
    floats = replace(candidate, formats=("float32",))

    def most(seconds: float) -> int:
        return max(one.memory.peak for one in options_of(floats, seconds=seconds, new_tokens=round(2 * seconds)))

    budget = Budget((most(15.0) + most(20.0)) // 2)
    found = options_of(floats, budget)
    assert min(one.longest for one in found) == 15.0
    assert {one.longest for one in options_of(floats, Budget(1000))} == {0.0}


def test_known_errors_come_first_then_size_format_compression_and_beams() -> None:
    request = Request(Task.AVSR, Rates(4, 2), 10.0)
    ordered = [
        option("known", wer=0.01, weight_format="nf4", num_parameters=50),
        option("known", wer=0.02),
        option("large", num_parameters=300, weight_format="int8"),
        option("large", num_parameters=300, weight_format="nf4"),
        option("one"),
        option("one", request=replace(request, num_beams=5)),
        option("one", request=replace(request, rates=Rates(4, 5))),
        option("one", request=replace(request, rates=Rates(16, 5))),
        option("one", weight_format="int8"),
    ]
    plan = decide(reversed(ordered), ROOM)
    assert list(plan.options) == ordered
    assert "lowest known word error rate" in plan.reason
    assert "of 9 settings within 8.00 GiB" in plan.reason
    unknown = decide([one for one in ordered if one.wer is None], ROOM)
    assert unknown.best.llm == "large"
    assert "none of known error rate" in unknown.reason


def test_what_does_not_fit_is_refused_with_its_numbers() -> None:
    found = [
        option("small"),
        option("large", 7.0),
        option("large", 6.5, weight_format="int8"),
        option("slow", seconds=Seconds({}, 1.0, 2.0)),
    ]
    plan = decide(found, Budget(6 * GIB, latency=0.5))
    assert [one.llm for one in plan.options] == ["small"]
    assert plan.refusals == {
        "large, bfloat16": "7.00 GiB at least, of 6.00 GiB (llm: 6.50 GiB)",
        "large, int8": "6.50 GiB at least, of 6.00 GiB (llm: 6.00 GiB)",
        "slow, bfloat16": "3.00 s at least, of 0.5 s",
    }


def test_a_time_that_nobody_measured_keeps_no_limit() -> None:
    unknown = option("unknown", seconds=None)
    assert decide([unknown], ROOM).best == unknown
    with pytest.raises(ValueError, match="not known: measure the device with calibrate-device"):
        decide([unknown], Budget(6 * GIB, latency=0.5))


def test_nothing_that_fits_is_an_error_with_all_the_numbers() -> None:
    with pytest.raises(ValueError) as error:
        decide([option("one", 7.0), option("two", 9.0)], Budget(6 * GIB))
    assert str(error.value).splitlines() == [
        "nothing fits 6.00 GiB:",
        "  one, bfloat16: 7.00 GiB at least, of 6.00 GiB (llm: 6.50 GiB)",
        "  two, bfloat16: 9.00 GiB at least, of 6.00 GiB (llm: 8.50 GiB)",
    ]


def test_a_part_that_is_not_settled_by_memory_alone_is_told(candidate: Candidate) -> None:
    found = options_of(candidate, device=UNTIMED)
    assert all(one.seconds is None for one in found)
    assert len(decide(found, ROOM).options) == len(found)


def write_table(folder: Path, **metadata: Any) -> Path:
    write_report(folder, Report({"first": score(evaluation(), seed=0)}, metadata=metadata))
    return folder / "table.json"


@pytest.mark.parametrize(
    ("metadata", "formats", "beams"),
    [
        ({"decoding": "1 beam(s), at most 32 tokens"}, ("float32", "bfloat16"), 1),
        ({"decoding": "15 beam(s), at most 32 tokens", "llm_dtype": "float32"}, ("float32",), 15),
        ({"llm_dtype": "bfloat16", "quantization": "nf4"}, ("nf4",), 1),
        ({"llm_dtype": "bfloat16", "quantization": "none"}, ("bfloat16",), 1),
    ],
)
def test_error_rates_are_of_clean_clips_and_of_the_format_that_was_scored(
    tmp_path: Path, metadata: dict[str, Any], formats: tuple[WeightFormat, ...], beams: int
) -> None:
    found = known_wers([write_table(tmp_path, **metadata)])
    assert len(found) == 8 * len(formats)
    for name in WEIGHT_FORMATS:
        expected = 0.04 if name in formats else None
        assert found.get(WerKey(Task.AVSR, "4,2", beams, name)) == expected


def test_a_test_set_is_chosen_by_its_name(tmp_path: Path) -> None:
    path = write_table(tmp_path)
    assert known_wers([path], "first") == known_wers([path])
    with pytest.raises(ValueError, match="no test set other; there are first"):
        known_wers([path], "other")


def test_known_errors_reach_the_options(candidate: Candidate) -> None:
    wers = {WerKey(Task.AVSR, "5,3", 3, "int8"): 0.125}
    plan = decide(options_of(candidate, wers=wers), ROOM)
    best = plan.best
    assert (best.wer, best.request.rates, best.request.num_beams, best.weight_format) == (0.125, Rates(5, 3), 3, "int8")
