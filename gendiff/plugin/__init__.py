"""Plugin: where components come from, and who answers for them.

hookspecs     what a plugin may tell and hear
discovery     which plugins there are: installed distributions, files that were named
registry      who provides what, by kind and name
import_guard  what a plugin must not change of the process that imports it
observers     who watches a run
reference     what a component says of itself
blame         whose code an error came from
"""
