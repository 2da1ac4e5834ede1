"""The GPU kernels: timed on a device, and compiled without one."""
