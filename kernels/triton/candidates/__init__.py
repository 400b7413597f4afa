"""Logits and losses of candidate items."""
