"""Fusing what follows a convolution in a program with it: finds epilogues and replaces them."""
