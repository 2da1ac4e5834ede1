"""Trains on handwritten digits in several processes, each batch sharded over their devices.

    python examples/data_parallel.py                            2 processes on this machine
    python examples/data_parallel.py --processes 4 --devices 2  4 processes of 2 CPU devices each

The command also trains in one process and compares every loss. Devices exchange only sums: of the
gradients and of the statistics of batch normalization. If a process dies the others end, and the
same command resumes from the last checkpoint. With two machines that share a folder, run on the
first and on the second:

    python examples/data_parallel.py --index 0 --coordinator FIRST:9876
    python examples/data_parallel.py --index 1 --coordinator FIRST:9876
"""

import dataclasses
import sys

from together import main

from jaxconv.train import digits
from jaxconv.train.recipe import Data


def data() -> Data:
    """A quarter of the digits, for short epochs."""
    train, held_out = digits.data()
    return Data({name: array[::4] for name, array in train.items()}, held_out)


RECIPE = dataclasses.replace(digits.RECIPE, name="data_parallel", data=data, epochs=4)

if __name__ == "__main__":
    sys.exit(main(RECIPE, "batch", __doc__.splitlines()[0]))
