"""Trains on handwritten digits in several processes, each batch cut over their devices.

    python examples/data_parallel.py                            2 processes on this machine
    python examples/data_parallel.py --processes 4 --devices 2  4 processes of 2 CPU devices each

The command starts the processes, trains in one process besides, and compares every loss. Gradients
are summed over the devices, and so are the statistics of batch normalisation: nothing else is sent.
When a process dies the others end, and the same command goes on from the last checkpoint. With two
machines that share a folder, on the first and on the second:

    python examples/data_parallel.py --index 0 --coordinator FIRST:9876
    python examples/data_parallel.py --index 1 --coordinator FIRST:9876
"""

import dataclasses
import sys

from together import main

from jaxconv.train import digits
from jaxconv.train.recipe import Data


def data() -> Data:
    train, held_out = digits.data()
    return Data({name: array[::4] for name, array in train.items()}, held_out)  # short epochs


RECIPE = dataclasses.replace(digits.RECIPE, name="data_parallel", data=data, epochs=4)

if __name__ == "__main__":
    sys.exit(main(RECIPE, "batch", __doc__.splitlines()[0]))
