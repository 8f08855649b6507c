"""Speed races: blockpair against its peers, in the same run, on the same kind of files, as ratios of medians.

`./scripts/bench` runs them. Absolute figures of two runs or two machines must not be compared; ratios may be.
"""
