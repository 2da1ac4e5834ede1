"""What a convolution is: sizes, padding, checks of arguments, and the spec they give."""
