"""The same training steps in PyTorch; needs torch."""
