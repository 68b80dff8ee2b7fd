"""Travelling: code that goes with an exported folder as it is; it must not import gendiff."""
