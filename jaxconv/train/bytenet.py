"""ByteNet translates English number names to French, character by character."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from rich.table import Table

from .._src.analysis.cost import cost
from ..models.bytenet import ByteNet
from . import plots, tables
from .recipe import Batch, Data, Recipe, Score
from .run import Run

LARGEST_NUMBER = 9_999
TRAINED, HELD_OUT = 9_000, 1_000
# Every character of the names, at the index that is its id; id 0 ends a name.
ENGLISH = "\0 ,-abcdefghijklmnopqrstuvwxyz"
FRENCH = "\0 -abcdefghijklmnopqrstuvwxyzé"
LENGTH = 48  # characters of the longest name, with its end

COLUMNS = ("number", "English", "translation", "correction")
NAMES_PRINTED, NAMES_DRAWN = 6, 7  # correct ones, and as many wrong ones
COST_LENGTHS = (50, 100, 200, 400, 800)

Row = tuple[str, str, str, str]  # the cells of COLUMNS


def encoded(names: Sequence[str], alphabet: str) -> np.ndarray:
    """Names as ids ``[N, LENGTH]``, padded with 0."""
    ids = {character: index for index, character in enumerate(alphabet)}
    rows = [[ids[character] for character in name.ljust(LENGTH, "\0")] for name in names]
    return np.array(rows, np.int32)


def decoded(ids: np.ndarray, alphabet: str) -> list[str]:
    """The names of rows of ids, up to the first 0."""
    return ["".join(alphabet[i] for i in row).partition("\0")[0] for row in ids]


def data() -> Data:
    """Different random numbers up to 9,999, and their names in both languages by num2words."""
    from num2words import num2words

    numbers = (
        np.random.default_rng(0).permutation(LARGEST_NUMBER + 1)[: TRAINED + HELD_OUT].tolist()
    )
    rows = [(number, num2words(number), num2words(number, lang="fr")) for number in numbers]
    number, english, french = zip(*rows, strict=True)
    columns = {
        "number": np.array(number, np.int32),
        "english": encoded(english, ENGLISH),
        "french": encoded(french, FRENCH),
    }
    train, held_out = slice(TRAINED), slice(TRAINED, None)
    return Data(*({k: v[part] for k, v in columns.items()} for part in (train, held_out)))


def counted(french: jax.Array) -> jax.Array:
    """Whether each id is part of a name or its end, rather than padding."""
    return jnp.pad(french, ((0, 0), (1, 0)), constant_values=1)[:, :-1] > 0


def loss(logits: jax.Array, batch: Batch) -> jax.Array:
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch["french"])
    return losses.mean(where=counted(batch["french"]))


def exact(logits: jax.Array, batch: Batch) -> jax.Array:
    """The fraction of names with every character correct.

    Each character is predicted from the true characters before it. If all are correct, the
    network's own translation, which feeds back its predictions, is the same.
    """
    correct = (logits.argmax(-1) == batch["french"]) | ~counted(batch["french"])
    return correct.all(1).mean()


def report(run: Run) -> None:
    """Translates the held-out names, prints some of them and the cost, and saves the figure."""
    console, held_out = run.console, run.training.data.held_out
    network = cast(ByteNet, run.training.network)
    translate = nnx.jit(lambda network, english: network.translate(english, LENGTH))
    names = [
        held_out["number"].tolist(),
        decoded(held_out["english"], ENGLISH),
        decoded(held_out["french"], FRENCH),
        decoded(np.asarray(translate(network, held_out["english"])), FRENCH),
    ]
    rows = [
        (f"{number:,}", english, translation, "" if translation == french else french)
        for number, english, french, translation in zip(*names, strict=True)
    ]
    macs = {length: translation_macs(network, length) for length in COST_LENGTHS}
    console.print(_examples(rows), "", _costs(macs), "")
    console.print(tables.implementations(run.training), "")
    correct = sum(not row[-1] for row in rows)
    console.print(
        f"Translated {len(rows):,} held-out names: [bold]{correct:,} are exactly right[/bold]"
    )
    plots.save(figure(run, rows, macs), run.folder / "bytenet.png")


def _examples(rows: list[Row]) -> Table:
    """Some held-out names, and some that were translated wrongly."""
    wrong = [row for row in rows if row[-1]]
    table = tables.empty_table("Held-out names, and some translated wrongly", *COLUMNS)
    for column in table.columns:
        column.justify = "left"
    for row in (*rows[:NAMES_PRINTED], *wrong[:NAMES_PRINTED]):
        table.add_row(*row)
    return table


def _costs(macs: dict[int, int]) -> Table:
    columns = ("characters", "multiply-adds", "per character")
    table = tables.empty_table("The cost of a translation is linear in its length", *columns)
    for length, total in macs.items():
        table.add_row(f"{length:,}", f"{total:,}", f"{total // length:,}")
    return table


def translation_macs(network: ByteNet, length: int) -> int:
    """Multiply-adds of one translation between names of ``length`` characters."""
    ids = jax.ShapeDtypeStruct((1, length), jnp.int32)
    return cost(network, ids, ids).macs


def figure(run: Run, rows: list[Row], macs: dict[int, int]):
    """The training curve, the cost by length, and some translations."""
    drawn = plots.figure("ByteNet translates English number names to French", 12, 8.5)
    upper, lower = plots.rows(drawn, 1, 0.9)
    curve, costs = upper.subplots(1, 2)
    plots.training_curve(curve, run.training, run.history)
    lengths, counts = list(macs), np.array(list(macs.values())) / 1e6
    costs.plot(lengths, counts, "o-", color=plots.ACCENT)
    costs.set(xlabel="characters", ylabel="million multiply-adds", xlim=0, ylim=0)
    costs.spines[["top", "right"]].set_visible(False)
    plots.caption(costs, "The cost of one translation is linear in its length")
    _draw_names(lower.subplots(), rows)
    return drawn


def _draw_names(axes, rows: list[Row]) -> None:
    """Some names that were translated correctly and, in red, some that were not."""
    axes.set_axis_off()
    wrong = [row for row in rows if row[-1]]
    correct = [row for row in rows if not row[-1]]
    shown = [COLUMNS, *correct[:NAMES_DRAWN], *wrong[:NAMES_DRAWN]]
    for index, row in enumerate(shown):
        style = {"color": plots.ACCENT if index and row[-1] else plots.INK, "va": "top"}
        style["weight"] = "normal" if index else "bold"
        y = 0.98 - index / (2 * NAMES_DRAWN + 1)
        for x, text in zip((0, 0.05, 0.37, 0.69), row, strict=True):
            axes.text(x, y, text, fontsize=9, **style)
    plots.caption(axes, f"Held-out names: {len(correct):,} correct, {len(wrong):,} wrong (red)")


RECIPE = Recipe(
    name="bytenet",
    unit="names",
    data=data,
    network=lambda rngs: ByteNet(len(ENGLISH), len(FRENCH), features=64, rngs=rngs),
    outputs=lambda network, batch: network(batch["english"], batch["french"]),
    loss=loss,
    loss_label="nats per character",
    score=Score("exact match", exact, "{:.1%}"),
    batch_size=32,
    epochs=12,
    learning_rate=4e-3,
    short_epochs=1,
)
