"""A plugin of pytest that runs every convolution of ``lax`` on jaxconv."""

import jax
import jax.numpy as jnp

import jaxconv


def pytest_configure():
    jaxconv.install()
    convolution = jax.jit(lambda x, k: jax.lax.conv(x, k, (1, 1), "SAME"))
    program = convolution.lower(jnp.ones((8, 16, 16, 16)), jnp.ones((16, 16, 3, 3))).as_text()
    assert "jaxconv_conv" in program, "the CPU engine is not installed"
