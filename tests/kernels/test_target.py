"""The device that Pallas kernels are compiled for."""

import jax
import pytest
from jax.sharding import AbstractDevice, AbstractMesh

from jaxconv._src.dispatch.choose import choose_implementation
from jaxconv._src.geometry.spec import ConvSpec, Operator
from jaxconv._src.kernels import target
from jaxconv._src.kernels.gpu import plan

H200, V5E = "NVIDIA H200", "TPU v5 lite"
SPEC = ConvSpec(8, 256, 256, (56, 56), (3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1), 256)


def mesh_on(kind: str, platform: str) -> AbstractMesh:
    return AbstractMesh((), (), abstract_device=AbstractDevice(kind, 1, platform))


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="the process has an accelerator")
def test_without_a_device_the_kind_is_unknown():
    assert target.device_kind("cuda") == target.device_kind("tpu") == ""


@pytest.mark.parametrize(("platform", "kind", "own"), [("cuda", H200, "gpu"), ("tpu", V5E, "tpu")])
def test_the_mesh_in_use_describes_the_device(platform, kind, own):
    other = "tpu" if platform == "cuda" else "cuda"
    with jax.sharding.use_abstract_mesh(mesh_on(kind, own)):
        assert target.device_kind(platform) == kind
        assert target.device_kind(other) != kind


def test_compile_for_takes_precedence_and_ends_with_its_block():
    before = target.device_kind("cuda"), target.interpret()
    mesh = jax.sharding.use_abstract_mesh(mesh_on("NVIDIA A100-SXM4-80GB", "gpu"))
    with mesh, target.compile_for(H200, interpret=True):
        assert target.device_kind("cuda") == H200
        assert target.interpret() is True
    assert (target.device_kind("cuda"), target.interpret()) == before


def test_jit_traces_again_for_another_target():
    traces = []
    traced = jax.jit(lambda x: traces.append(target.device_kind("tpu")) or x)
    for kind in ("v4", "v5e", "v4"):
        with target.compile_for(kind):
            traced(1.0)
    assert traces == ["v4", "v5e"]


@pytest.mark.parametrize("operator", Operator, ids=lambda operator: operator.value)
def test_dispatch_chooses_the_tile_for_the_target(operator):
    for kind in (H200, "NVIDIA B200"):
        with target.compile_for(kind):
            choice = choose_implementation(operator, "cuda", SPEC, "float32")
        assert choice.implementation == "pallas"
        assert choice.tile == plan.tile_config(operator, SPEC, "float32", kind)
