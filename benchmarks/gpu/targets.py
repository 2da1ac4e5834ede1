"""GPUs described to XLA's compiler, so that none needs to be present."""

from __future__ import annotations

from jax.experimental import topologies

# What XLA needs to know: from NVIDIA's data sheets and CUDA's table of compute capabilities.
TARGETS = {
    "H100": ("NVIDIA H100 80GB HBM3", "sm_90a", 132, 9, 233472, 232448, 3352320000000, 52428800),
    "A100": ("NVIDIA A100-SXM4-80GB", "sm_80", 108, 8, 167936, 166912, 2039000000000, 41943040),
}
CONFIG = """
gpu_device_info {{
  threads_per_block_limit: 1024  threads_per_warp: 32
  shared_memory_per_block: 49152  shared_memory_per_core: {shared}
  shared_memory_per_block_optin: {optin}
  threads_per_core_limit: 2048  core_count: {cores}  fpus_per_core: 64
  block_dim_limit_x: 2147483647  block_dim_limit_y: 65535  block_dim_limit_z: 65535
  memory_bandwidth: {bandwidth}  l2_cache_size: {cache}  clock_rate_ghz: 1.4
  device_memory_size: 84942979072
  registers_per_core_limit: 65536  registers_per_block_limit: 65536
  cuda_compute_capability {{ major: {major} }}
}}
platform_name: "CUDA"
dnn_version_info {{ major: 9 minor: 10 patch: 0 }}
device_description_str: "{kind}"
"""


def describe(device: str, count: int = 1):
    """A topology of ``count`` devices in one machine."""
    kind, _, cores, major, shared, optin, bandwidth, cache = TARGETS[device]
    names = ("kind", "cores", "major", "shared", "optin", "bandwidth", "cache")
    values = (kind, cores, major, shared, optin, bandwidth, cache)
    config = CONFIG.format(**dict(zip(names, values, strict=True)))
    shape = f"1x1x{count}"
    return topologies.get_topology_desc(device, "cuda", target_config=config, topology=shape)
