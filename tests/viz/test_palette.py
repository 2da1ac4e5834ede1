"""The palette of pictures: colors that any color vision tells apart, and text that can be read."""

import itertools
import pathlib
import re

import numpy as np
import pytest

from jaxconv.viz import canvas

# Linear RGB as seen without one type of cone: G. Machado, M. Oliveira, L. Fernandes, "A
# physiologically-based model for simulation of color vision deficiency" (2009), severity 1.0.
VISION = {
    "normal": np.eye(3),
    "protanopia": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "deuteranopia": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
    "tritanopia": [
        [1.255528, -0.076749, -0.178779],
        [-0.078411, 0.930809, 0.147602],
        [0.004733, 0.691367, 0.303900],
    ],
}
TO_XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
WHITE = np.array([0.9505, 1.0, 1.089])


def linear(color: str) -> np.ndarray:
    """``#rrggbb`` as linear RGB from 0 to 1."""
    encoded = np.array([int(color[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    return np.where(encoded <= 0.04045, encoded / 12.92, ((encoded + 0.055) / 1.055) ** 2.4)


def lab(rgb: np.ndarray) -> np.ndarray:
    """CIE L*a*b*, in which 1 is about the smallest difference that can be seen."""
    xyz = TO_XYZ @ np.clip(rgb, 0, 1) / WHITE
    root = np.where(xyz > 216 / 24389, np.cbrt(xyz), (24389 / 27 * xyz + 16) / 116)
    return np.array([116 * root[1] - 16, 500 * (root[0] - root[1]), 200 * (root[1] - root[2])])


def difference(a: str, b: str, vision: str = "normal") -> float:
    seen = np.asarray(VISION[vision])
    return float(np.linalg.norm(lab(seen @ linear(a)) - lab(seen @ linear(b))))


def contrast(a: str, b: str) -> float:
    """The contrast ratio of WCAG 2, from 1 to 21."""
    dark, light = sorted(float(linear(color) @ TO_XYZ[1]) for color in (a, b))
    return (light + 0.05) / (dark + 0.05)


def over(under: str, color: str, alpha: float) -> str:
    """A color that lies half transparent on another."""
    pairs = [(int(under[i : i + 2], 16), int(color[i : i + 2], 16)) for i in (1, 3, 5)]
    return "#" + "".join(f"{round(a + (b - a) * alpha):02x}" for a, b in pairs)


@pytest.mark.parametrize("vision", VISION)
def test_channels_are_told_apart(vision):
    pairs = itertools.combinations(canvas.CHANNELS, 2)
    assert min(difference(a, b, vision) for a, b in pairs) > 15


@pytest.mark.parametrize("vision", VISION)
def test_input_kernel_and_output_are_told_apart(vision):
    pairs = itertools.combinations((canvas.INPUT, canvas.KERNEL, canvas.OUTPUT), 2)
    assert min(difference(a, b, vision) for a, b in pairs) > 10


def test_the_simulation_tells_what_it_should():
    """Red and green of equal lightness are alike without one of their cones, and only then."""
    red, green = "#c05a5a", "#6f7a3a"
    assert difference(red, green) > 40
    assert difference(red, green, "deuteranopia") < 15
    assert contrast("#000000", "#ffffff") == pytest.approx(21)


PLAYGROUND = pathlib.Path(__file__).parents[2] / "docs" / "playground"


def test_the_playground_has_the_same_hues():
    script = (PLAYGROUND / "picture" / "palette.js").read_text()
    hues = re.search(r"^const HUES = \{(.*)\};", script, re.MULTILINE)
    assert dict(re.findall(r'(\w+): "(#\w{6})"', hues[1])) == canvas.HUES
    assert set(canvas.HUES.values()) < set(canvas.CHANNELS)
    light = re.search(r"^  light: \{(.*?)^  \}", script, re.MULTILINE | re.DOTALL)
    assert f'frame: "{canvas.FRAME}"' in light[1]
    mark = re.search(r"^\.mark \{(.*?)^\}", (PLAYGROUND / "style.css").read_text(), re.M | re.S)
    assert set(re.findall(r"#\w{6}", mark[1])) == {canvas.HUES["kernel"], canvas.HUES["input"]}
    bars = re.findall(r"--bar: (#\w{6})", (PLAYGROUND / "style.css").read_text())
    assert bars == [canvas.CHANNELS[1], canvas.HUES["input"]]


COVERED = over(canvas.PAD, canvas.KERNEL, 0.75)
TEXTS = {
    "title": (canvas.INK, canvas.CARD),
    "input": (canvas.INK, canvas.INPUT),
    "kernel": (canvas.INK, canvas.KERNEL),
    "output": (canvas.INK, canvas.OUTPUT),
    "padding": (canvas.FAINT, canvas.PAD),
    "faint": (canvas.FAINT, canvas.CARD),
    "padding under a tap": (canvas.COVERED, COVERED),
    "weight over padding": (canvas.WEIGHT, COVERED),
    "weight": (canvas.WEIGHT, over(canvas.INPUT, canvas.KERNEL, 0.75)),
    **{
        f"channel {at}": (canvas.INK, over(canvas.CARD, color, 0.35))
        for at, color in enumerate(canvas.CHANNELS)
    },
}


@pytest.mark.parametrize("name", TEXTS)
def test_text_can_be_read(name):
    assert contrast(*TEXTS[name]) >= 4.5
