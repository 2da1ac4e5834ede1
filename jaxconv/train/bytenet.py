"""English number names to French, character by character: ByteNet."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from .._src.analysis.cost import cost
from ..models.bytenet import ByteNet
from . import plots, report
from .recipe import Batch, Data, Recipe, Run, Score

LARGEST = 9_999
LEARNED, HELD_OUT = 9_000, 1_000
# Every character of the names; its place is its id, and 0 ends a name.
ENGLISH = "\0 ,-abcdefghijklmnopqrstuvwxyz"
FRENCH = "\0 -abcdefghijklmnopqrstuvwxyzé"
LENGTH = 48  # characters of the longest name, and its end

COLUMNS = ("number", "English", "translated", "should be")
EXAMPLES, PICTURED = 6, 7
LENGTHS = (50, 100, 200, 400, 800)


def encoded(names: Sequence[str], alphabet: str) -> np.ndarray:
    """Names as ids ``[N, LENGTH]``, ended and filled with 0."""
    ids = {character: place for place, character in enumerate(alphabet)}
    rows = [[ids[character] for character in name.ljust(LENGTH, "\0")] for name in names]
    return np.array(rows, np.int32)


def decoded(ids: np.ndarray, alphabet: str) -> list[str]:
    """The names that rows of ids spell, up to their first 0."""
    return ["".join(alphabet[i] for i in row).partition("\0")[0] for row in ids]


def data() -> Data:
    """Different random numbers up to 9,999, and what num2words calls them in both languages."""
    from num2words import num2words

    numbers = np.random.default_rng(0).permutation(LARGEST + 1)[: LEARNED + HELD_OUT].tolist()
    both = [(number, num2words(number), num2words(number, lang="fr")) for number in numbers]
    number, english, french = zip(*both, strict=True)
    columns = {
        "number": np.array(number, np.int32),
        "english": encoded(english, ENGLISH),
        "french": encoded(french, FRENCH),
    }
    train, held_out = slice(LEARNED), slice(LEARNED, None)
    return Data(*({k: v[part] for k, v in columns.items()} for part in (train, held_out)))


def counted(french: jax.Array) -> jax.Array:
    """True for a name's characters and its end."""
    return jnp.pad(french, ((0, 0), (1, 0)), constant_values=1)[:, :-1] > 0


def loss(logits: jax.Array, batch: Batch) -> jax.Array:
    surprise = optax.softmax_cross_entropy_with_integer_labels(logits, batch["french"])
    return surprise.mean(where=counted(batch["french"]))


def exact(logits: jax.Array, batch: Batch) -> jax.Array:
    """The share of names with every character right.

    Each was predicted from the true ones before it; where all are right the network's own
    translation, which reads what it wrote, is the same.
    """
    right = (logits.argmax(-1) == batch["french"]) | ~counted(batch["french"])
    return right.all(1).mean()


def finish(run: Run) -> None:
    """Translates the held-out names for itself; prints some, the cost by length; draws."""
    console, held_out = run.console, run.training.data.held_out
    network = cast(ByteNet, run.training.network)
    translate = nnx.jit(lambda network, english: network.translate(english, LENGTH))
    names = [
        held_out["number"].tolist(),
        decoded(held_out["english"], ENGLISH),
        decoded(held_out["french"], FRENCH),
        decoded(np.asarray(translate(network, held_out["english"])), FRENCH),
    ]
    translations = list(zip(*names, strict=True))
    wrong = [translation for translation in translations if translation[2] != translation[3]]
    shown = [*translations[:EXAMPLES], *wrong[:EXAMPLES]]
    table = report.empty_table("Held-out names, and some of those it got wrong", *COLUMNS)
    for column in table.columns:
        column.justify = "left"
    for number, english, french, translated in shown:
        mark = "" if translated == french else french
        table.add_row(f"{number:,}", english, translated, mark)
    spent = {length: macs(network, length) for length in LENGTHS}
    costs = report.empty_table("Linear in length", "characters", "multiply-adds", "a character")
    for length, total in spent.items():
        costs.add_row(f"{length:,}", f"{total:,}", f"{total // length:,}")
    console.print(table, "", costs, "", report.kernels(run.training), "")
    right = len(translations) - len(wrong)
    console.print(
        f"Translated {len(translations):,} held-out names character by character: "
        f"[bold]{right:,} exactly right[/bold]"
    )
    plots.save(picture(run, translations, spent), run.folder / "bytenet.png")


def macs(network: ByteNet, length: int) -> int:
    """Multiply-adds of one translation between names of ``length``."""
    ids = jax.ShapeDtypeStruct((1, length), jnp.int32)
    return cost(network, ids, ids).macs


def picture(run: Run, translations: list[tuple], spent: dict[int, int]):
    """The training curve, the cost by length, and what it got right by the number's size."""
    drawn = plots.figure("English number names to French, by ByteNet", 12, 8.5)
    upper, lower = plots.rows(drawn, 1, 0.9)
    curve, costs = upper.subplots(1, 2)
    plots.training_curve(curve, run.training, run.history)
    lengths, counts = list(spent), np.array(list(spent.values())) / 1e6
    costs.plot(lengths, counts, "o-", color=plots.ACCENT)
    costs.set(xlabel="characters", ylabel="million multiply-adds", xlim=0, ylim=0)
    costs.spines[["top", "right"]].set_visible(False)
    plots.caption(costs, "One translation: work linear in length")
    _names(lower.subplots(), translations)
    return drawn


def _names(axes, translations: list[tuple]) -> None:
    """Some names that it got right, and some that it did not, in red, with what they should be."""
    axes.set_axis_off()
    wrong = [each for each in translations if each[2] != each[3]]
    right = [each for each in translations if each[2] == each[3]]
    rows = [
        (f"{number:,}", english, translated, "" if translated == french else french)
        for number, english, french, translated in (*right[:PICTURED], *wrong[:PICTURED])
    ]
    for row, (number, english, translated, wanted) in enumerate([COLUMNS, *rows]):
        style = {"color": plots.ACCENT if row and wanted else plots.INK, "va": "top"}
        style["weight"] = "normal" if row else "bold"
        y = 0.98 - row / (2 * PICTURED + 1)
        for x, text in zip(
            (0, 0.05, 0.37, 0.69), (number, english, translated, wanted), strict=True
        ):
            axes.text(x, y, text, fontsize=9, **style)
    plots.caption(axes, f"Held-out names: {len(right):,} right, {len(wrong):,} wrong (red)")


RECIPE = Recipe(
    name="bytenet",
    unit="names",
    data=data,
    network=lambda rngs: ByteNet(len(ENGLISH), len(FRENCH), features=64, rngs=rngs),
    outputs=lambda network, batch: network(batch["english"], batch["french"]),
    loss=loss,
    loss_label="nats a character",
    score=Score("exact match", exact, "{:.1%}"),
    report=finish,
    batch_size=32,
    epochs=12,
    learning_rate=4e-3,
    short_epochs=1,
)
