"""What a file of images is made of: which HDU, which axes, which times, which images are lost."""
