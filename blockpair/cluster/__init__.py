"""This node among the others: calls from node to node, who may make them, and who is a member."""
