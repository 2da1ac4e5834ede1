"""TPU generations to compile for, and what the compiler needs to find when there is no TPU."""

from __future__ import annotations

import os

# The topology's name, and the device kind by which jaxconv knows the generation.
TOPOLOGIES = {
    "v4": ("v4:2x2x1", "TPU v4"),
    "v5e": ("v5e:2x2", "TPU v5 lite"),
    "v5p": ("v5p:2x2x1", "TPU v5"),
    "v6e": ("v6e:2x2", "TPU v6 lite"),
    "v7x": ("tpu7x:2x2x1", "TPU7x"),
}


def prepare() -> None:
    """Sets the environment; must run before jax and libtpu are loaded."""
    os.environ["JAX_PLATFORMS"] = "cpu"
    os.environ["TPU_SKIP_MDS_QUERY"] = "1"  # there is no TPU to query
    os.environ.update(TPU_WORKER_HOSTNAMES="localhost", TPU_WORKER_ID="0")
    os.environ["TPU_ACCELERATOR_TYPE"] = "v5litepod-4"
    os.environ["ALLOW_MULTIPLE_LIBTPU_LOAD"] = "1"
