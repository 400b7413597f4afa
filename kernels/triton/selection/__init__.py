"""Top-m items and pools of negatives over the unobserved corpus."""
