"""Held-out scores, measures that are not rewarded, the live view and the report of a run."""
