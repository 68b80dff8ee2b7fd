"""Comparison: a fair fight between arms.

Every arm gets the same budget, and with each seed the same data order, the same initial weights, the same steps i and noise ε,
and the same event-space noise when it is sampled: all of these are functions of the seed alone (`gendiff.streams`), so that
what is left to differ is the arm. What is not equal is refused, unless it is allowed by name, and then it is said.

    arms, seeds ──▶ plan ──▶ engine: train what is missing, draw, measure, look ──▶ result ──▶ report

An interrupted comparison goes on where it stopped, to the same bits.
"""
