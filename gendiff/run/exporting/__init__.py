"""Exporting: a trained network for people who have no gendiff."""
