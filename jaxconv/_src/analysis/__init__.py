"""Analysis of traced programs: convolutions, cost, receptive fields, layers, and tuning."""
