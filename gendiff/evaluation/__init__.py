"""Evaluation: how far samples are from data, in numbers with their conditions and intervals.

event_set    events that are compared with others, and their rows of features
event_files  folders, archives and arrays of events
distances    between two sets of rows, and intervals by subsampling
number       a measurement and its conditions; which of them may be compared
measuring    samples and a reference in, numbers out
"""
