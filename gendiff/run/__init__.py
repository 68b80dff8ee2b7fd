"""Run: an experiment in a directory, from its configuration to the pictures of its network.

config      every value, from presets, files and flags
directory   a run, opened or made
record      run.json: what is known of it besides its configuration
checkpoint  the state of a training, crash-safe
roll        which files its data were
stored      its process as numbers, which outlive the plugins that made them
recall      its configuration later, with stand-ins for what is gone
module      a network that was given in Python
network     from its configuration to weights
generation  pictures from it
"""
