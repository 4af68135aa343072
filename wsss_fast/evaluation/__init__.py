"""Scores of label maps and class maps against true masks, curves over thresholds, reports of runs."""
