"""Machine: what the computer does besides computing.

stopping       requests to stop, heard where nothing is lost
memory         allocations that fail
threads        how many compute
load           what other processes compute
workers        processes that prepare data
determinism    the same bits again on a GPU
world          processes that train together
hardware       what this machine is made of
installation   which gendiff this is
"""
