"""Scores of label maps and class maps, curves over thresholds, reports of runs."""
