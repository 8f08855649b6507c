"""Whether all is as it should be, on a node and between nodes: facts in, findings with remedies out. Nothing
is changed. ``machine`` gathers a node's facts; everything else here is pure.
"""
