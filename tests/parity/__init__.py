"""What the parity tests and the parity table share: fixtures, flipped switches, disturbed tensors."""
