"""Maps from each of our paths, as backbone/conv1/conv/kernel, to other libraries' names."""
