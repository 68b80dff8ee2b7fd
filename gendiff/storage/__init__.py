"""Storage: files that survive a crash, and directories that one process writes at a time.

files   operations that survive a crash
sealed  JSON in which any changed byte shows
json_text  JSON that every reader takes
lock    one writer per directory
folder  new directories, numbered or empty
staging directories that are whole or not there
cache   what can be computed again
"""
