"""Data sets: from what a user has to what a run reads.

sources      what is meant by a spec or a path
census       what data hold: counts, statistics, what is odd about them
preparation  how each picture becomes an event
packing      any data into one packed set, which `gendiff.datasets.packed` reads
"""
