"""Statistics of a fleet's examples, as plans of the same kind as those that train a model.

A device's parameters are then sums over its own examples, and their mean over the devices is all
that a statistic needs: a mean is the devices' mean sum by their mean count. `places` says how the
sums of one round follow those of the round before, `plan` writes the files. Nothing is
differentiated, so these plans need no training build.
"""
