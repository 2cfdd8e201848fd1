"""Maps from our array names to those of other libraries, one for each source.

A map goes from a path of ours ("backbone/stages/0/1/conv2/conv/kernel") to a `Source`: the foreign
names, and the form of the values. Every array of the network has one source and every name is used
for one array; tests compare the maps with the networks.
"""
