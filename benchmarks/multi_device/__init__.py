"""What is sent between devices, and how long it takes."""
