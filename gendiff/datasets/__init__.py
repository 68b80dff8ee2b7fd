"""Data sets: from what a user has to batches of events.

tensors      a tensor, an array or a data set of torch as data
images       image files as events
packed       a packed set, read
packing      any data into one packed set
preparation  how each picture becomes an event
sources      what is meant by a spec or a path
census       what data hold: counts, statistics, what is odd about them
batches      what step t trains on
pictures     events as pictures: sheets, strips, animations
"""
