"""The process lab: what a process does to data, and what a sampler makes of it, before any network is trained.

forward      what the process does: SNR by frequency band, the steps where the data drown, pictures on their way
diagnosis    what is odd about that, by rules that are stated
recursion    the law of what a sampler draws from Gaussian data, in closed form
prediction   the error of that law, against the number of steps
fitting      parameters of a process for which it is smallest
likelihood   how likely a chain makes its data
figures      the pictures of `gendiff process plot`
"""
