"""Storage: files that survive a crash, and directories that one process writes at a time.

files   operations that survive a crash, and touch nothing but what they name
reading nothing is read before it is looked at
arrays  files of NumPy
plain   JSON and TOML: bounded where they are read, of finite numbers where they are written
sealed  JSON in which any changed byte shows
lock    one writer per directory
folder  new directories, numbered or empty
staging directories that are whole or not there
cache   what can be computed again
"""
