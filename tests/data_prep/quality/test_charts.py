"""Bins that suit the values, and pictures that do not depend on the day or on settings."""

import re
from base64 import b64decode
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from matplotlib.figure import Figure

from data_prep.quality import charts
from data_prep.quality.charts import DARK, LIGHT, histogram
from data_prep.quality.measures import MAX_BINS, MEASURES, bin_edges, values_by_split
from omni_avsr.types import Clip

LENGTH, WORDS, FACE_SIZE, DETECTED = MEASURES


def clip(id_: str, split: str = "train", seconds: float = 3.0, **quality: float) -> Clip:
    return Clip(id_, "a few words", split, seconds, video=Path("v.mp4"), num_frames=75, quality=quality)


def svg(uri: str) -> str:
    return b64decode(uri.removeprefix("data:image/svg+xml;base64,")).decode()


def test_values_are_those_of_each_split_and_clips_without_one_are_left_out() -> None:
    clips = [clip("a", face_size=100.0, detected=0.5), clip("b"), clip("c", "test", face_size=90.0, detected=1.0)]
    sizes = values_by_split(FACE_SIZE, clips)
    assert {name: list(values) for name, values in sizes.items()} == {"train": [100.0], "test": [90.0]}
    assert {name: list(values) for name, values in values_by_split(DETECTED, clips).items()} == {"all clips": [50, 100]}
    assert values_by_split(FACE_SIZE, [clip("b")]) == {}


def test_each_whole_number_has_its_own_bin_while_there_is_room() -> None:
    np.testing.assert_allclose(bin_edges(WORDS, {"train": np.array([1.0, 3.0])}), [-0.5, 0.5, 1.5, 2.5, 3.5])
    many = bin_edges(WORDS, {"train": np.arange(200.0)})
    assert len(many) <= MAX_BINS + 2
    assert many[-1] > 199


def test_equal_values_and_zeros_still_have_bins() -> None:
    for values in (np.full(5, 3.0), np.zeros(3)):
        edges = bin_edges(LENGTH, {"train": values})
        assert (np.diff(edges) > 0).all()
        assert edges[0] <= values[0] <= edges[-1]


def test_one_far_outlier_does_not_squeeze_the_others() -> None:
    edges = bin_edges(LENGTH, {"train": np.append(np.full(1000, 3.0), 4000.0)})
    assert edges[-1] < 10


def test_the_scale_of_detection_is_fixed() -> None:
    edges = bin_edges(DETECTED, {"all clips": np.array([99.0])})
    assert (edges[0], edges[-1]) == (0, 100)


def test_same_values_give_the_same_picture_whatever_the_users_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    values, edges = {"train": np.array([1.0, 2.0]), "test": np.array([2.0])}, np.linspace(0, 3, 4)
    first = histogram(values, edges, "seconds", LIGHT)
    monkeypatch.setitem(matplotlib.rcParams, "font.size", 20.0)
    assert histogram(values, edges, "seconds", LIGHT) == first
    assert histogram(values, edges, "seconds", DARK) != first
    assert matplotlib.rcParams["font.size"] == 20.0
    assert not re.search(r"<dc:date>|20\d\d-\d\d-\d\d", svg(first))


def test_one_group_is_drawn_in_one_colour_and_several_in_several() -> None:
    edges = np.linspace(0, 3, 4)
    one = svg(histogram({"train": np.array([1.0])}, edges, "seconds", LIGHT)).lower()
    two = svg(histogram({"train": np.array([1.0]), "test": np.array([2.0])}, edges, "seconds", LIGHT)).lower()
    assert [color.lower() in one for color in LIGHT.groups] == [True, False, False, False]
    assert [color.lower() in two for color in LIGHT.groups] == [True, True, False, False]


def test_values_beyond_the_edges_count_in_the_outer_bins(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = []
    monkeypatch.setattr("matplotlib.axes.Axes.stairs", lambda self, heights, edges, **look: drawn.append(list(heights)))
    histogram({"train": np.array([-1.0, 0.5, 9.0, 9.0])}, np.array([0.0, 1.0, 2.0]), "seconds", LIGHT)
    assert drawn == [[2, 2]]


@pytest.mark.parametrize("logarithmic", [False, True])
def test_the_tallest_bar_and_the_bar_of_a_single_clip_are_within_the_picture(logarithmic: bool) -> None:
    axes = Figure().subplots()
    values = {"all clips": np.append(np.full(20_000, 99.0), 10.0)}
    charts._draw(axes, values, np.linspace(0, 100, 41), LIGHT, logarithmic)
    low, high = axes.get_ylim()
    assert low < 1
    assert 20_000 <= high < 200_000


@pytest.mark.parametrize("name", ["$x_{", "_hidden", "lone \udcff", "<b>", "x" * 500, ""])
def test_the_name_of_a_split_may_be_anything(name: str) -> None:
    values = {name: np.array([1.0]), "test": np.array([2.0])}
    picture = svg(histogram(values, np.linspace(0, 3, 4), "seconds", LIGHT, logarithmic=True))
    # The legend has an entry for each split: two texts more than the axes have.
    assert picture.count('<g id="text_') >= 2
    assert picture.rstrip().endswith("</svg>")
