"""Draws the README's picture: speedups over lax and PyTorch on the CPU.

python docs/speedups.py
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.common import results  # noqa: E402
from benchmarks.common.timing import geometric_mean  # noqa: E402
from benchmarks.cpu.tables import speedups  # noqa: E402

MEASUREMENT = results.FOLDER / "cpu_operators.json"
PICTURE = ROOT / "docs" / "images" / "speedups.png"
PEERS = {"lax": ("over lax", "#2f6fb0"), "torch": ("over PyTorch", "#e08a2c")}

# Workloads of the picture, with the networks that they stand for.
WORKLOADS = {
    "depthwise 3x3 8x56x56x128": "depthwise 3×3 (MobileNet)",
    "depthwise 3x3 s2 8x28x28x256": "depthwise 3×3, stride 2",
    "depthwise 3x3 d2 8x56x56x64": "depthwise 3×3, dilation 2",
    "depthwise 7x7 8x56x56x96": "depthwise 7×7 (ConvNeXt)",
    "depthwise 31x31 1x28x28x128": "depthwise 31×31",
    "depthwise causal k4 8x1024x768": "depthwise causal, 4 taps",
    "depthwise 3x3x3 2x16x32x32x64": "depthwise 3×3×3",
    "grouped g32 3x3 8x28x28x256": "grouped 3×3, 32 groups (ResNeXt)",
    "dense 3x3 8x56x56x64": "dense 3×3 (ResNet)",
    "dense 3x3x3 2x16x32x32x32": "dense 3×3×3",
    "causal k2 d64 4x8000 64>128": "dense causal, dilation 64 (WaveNet)",
    "pointwise 8x28x28 256>512": "1×1",
}


class Bars(NamedTuple):
    """The speedups of one workload: geometric means of forward, input and filter gradient."""

    label: str
    speedup: dict[str, float]


def bars(rows: list[results.Row]) -> list[Bars]:
    found = []
    for name, label in WORKLOADS.items():
        group = [row for row in rows if row["workload"] == name]
        found.append(Bars(label, {peer: geometric_mean(speedups(group, peer)) for peer in PEERS}))
    return found


def description(bars: list[Bars]) -> str:
    """The bars in words, kept in the picture's file."""
    values = (
        ", ".join(f"{bar.speedup[peer]:.3g} {label}" for peer, (label, _) in PEERS.items())
        for bar in bars
    )
    return "; ".join(f"{bar.label}: {text}" for bar, text in zip(bars, values, strict=True))


def draw(bars: list[Bars], caption: str):
    import matplotlib.pyplot as plt
    from matplotlib.layout_engine import ConstrainedLayoutEngine
    from matplotlib.ticker import FuncFormatter

    height = 0.38
    layout = ConstrainedLayoutEngine(rect=(0.01, 0.015, 0.98, 0.87))
    figure, ax = plt.subplots(figsize=(9, 6), facecolor="white", layout=layout)
    for offset, (peer, (label, color)) in zip(
        (-height / 2, height / 2), PEERS.items(), strict=True
    ):
        values = [bar.speedup[peer] for bar in bars]
        places = [place + offset for place in range(len(bars))]
        # From 1, where both are equally fast: a bar to the left is a slowdown.
        ax.barh(places, [v - 1 for v in values], height, left=1, label=label, color=color)
        for place, value in zip(places, values, strict=True):
            ax.annotate(
                f"{value:.0f}×"
                if value >= 10
                else f"{value:.1f}×"
                if value > 1
                else f"{value:.2f}×",
                (max(value, 1), place),
                xytext=(4, 0),
                textcoords="offset points",
                va="center",
                fontsize=9,
                color="#333333",
            )
    ax.set_xscale("log")
    ax.set_xlim(0.8, 2.5 * max(max(bar.speedup.values()) for bar in bars))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}×"))
    ax.set_yticks(range(len(bars)), [bar.label for bar in bars], fontsize=10.5)
    ax.set_ylim(len(bars) - 0.4, -0.6)
    ax.axvline(1, color="#333333", linewidth=0.9)
    ax.grid(axis="x", color="#dddddd", linewidth=0.7)
    ax.set_axisbelow(True)
    ax.spines[["top", "right", "left"]].set_visible(False)
    ax.tick_params(axis="y", length=0)
    ax.legend(loc="lower right", frameon=False, fontsize=11)
    figure.suptitle(
        "Speedup of jaxconv on a CPU", x=0.02, y=0.97, ha="left", fontsize=15, weight="bold"
    )
    figure.text(0.02, 0.895, caption, fontsize=9.5, color="#555555")
    return figure


def main() -> None:
    report = results.read(MEASUREMENT)
    caption = (
        "Forward, input gradient and filter gradient (geometric mean), float32. "
        f"{report.machine['processor']}, {report.machine['threads']} threads."
    )
    PICTURE.parent.mkdir(exist_ok=True)
    drawn = bars(report.rows)
    # Without matplotlib's version, so that the file depends on the measurement alone.
    metadata = {"Software": None, "Description": description(drawn)}
    draw(drawn, caption).savefig(PICTURE, dpi=160, metadata=metadata)
    print(f"wrote {PICTURE.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
