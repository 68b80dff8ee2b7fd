"""Machine: what the computer does besides computing.

stopping       requests to stop, heard where nothing is lost
memory         allocations that fail
threads        how many compute
waiting        how they wait for each other
load           what other processes compute
workers        processes that prepare data
jobs           work of any kind, several pieces at a time
determinism    the same bits again on a GPU
world          processes that train together
hardware       what this machine is made of
installation   which gendiff this is
"""
