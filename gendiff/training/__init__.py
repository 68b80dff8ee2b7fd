"""Training: from a configuration to weights.

recipe        rate, averages and optimiser at a step
recomputing   activations that are computed twice instead of kept
step          one step of the optimiser, on the device
trainer       a network on its way, one step after the other
loop          a trainer taken to the last step of its run
continuation  what it takes to go on with a run
cost          what that takes of memory, time and disk, before it is begun
preview       what a run shows of itself meanwhile
library       all that the command does, from Python
"""
