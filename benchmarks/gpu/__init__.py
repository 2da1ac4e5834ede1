"""The GPU kernels: timed on a device, and compiled for devices that are not there."""
