"""What programs hold: convolutions, costs, receptive fields, layers, and measuring them."""
