"""What a convolution is: its sizes, padding, argument checks and the resulting spec."""
