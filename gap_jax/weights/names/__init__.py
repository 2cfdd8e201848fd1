"""What other people call a network's arrays: one map for each source.

A map goes from a path of ours ("backbone/stages/0/1/conv2/conv/kernel") to a `Source`: the names
there, and the form in which the values stand. Every array of the network has one source and every
name serves one array, which tests hold against the network itself.
"""
