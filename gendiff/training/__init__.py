"""Training: from a configuration to weights.

trainer       a network on its way, one step after the other
loop          a trainer taken to the last step of its run
continuation  what it takes to go on with a run
cost          what that takes of memory, time and disk, before it is begun
preview       what a run shows of itself meanwhile
library       all that the command does, from Python
"""
