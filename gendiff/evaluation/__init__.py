"""Evaluation: how far samples are from data, in numbers with intervals.

event_files  samples and pictures as files
event_set    events that are compared, from wherever they are
likeness     of single events: PSNR, SSIM, the spectrum of an error
statistics   mean and covariance of features
distances    between two sets of features
number       a number, its interval, and what it depends on
measuring    a run, a folder or a file against its reference
"""
