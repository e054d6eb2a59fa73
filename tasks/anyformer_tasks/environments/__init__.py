"""Gymnasium's environments, with attempts under way in them, here and in other processes."""
