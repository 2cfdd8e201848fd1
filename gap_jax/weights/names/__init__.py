"""Maps from our paths, as backbone/conv1/conv/kernel, to the names and forms of other libraries.

Every array of a network has one source and every name is used for one array, which tests check.
"""
