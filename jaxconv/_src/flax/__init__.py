"""What the modules of both Flax APIs share."""
