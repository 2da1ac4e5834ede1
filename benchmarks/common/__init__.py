"""Timing, peers, machines and workloads: what the scripts share."""
