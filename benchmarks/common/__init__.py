"""What the scripts share: workloads, peers, timing, machine, results and tables."""
