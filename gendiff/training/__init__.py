"""Training: from a configuration to weights.

recipe        rate, averages and optimiser at a step
agenda        after which steps a run logs, saves and shows what it has
step          one step of the optimiser, on the device
weights       those of a network that trains, their averages and moments, out into a checkpoint and in
law           by which the noise levels of a run are drawn
capture       whether steps are recorded
compilation   whether and when the network is compiled
recomputing   activations that are computed twice instead of kept
refusals      what a run is refused for before its first step
failure       what is said of one that gives up
trainer       a network on its way, one step after the other
loop          a trainer taken to the last step of its run
continuation  what it takes to go on with a run
cost          what that takes of memory, time and disk, before it is begun
preview       what a run shows of itself meanwhile
library       all that the command does, from Python
"""
