"""Least squares after channel selection: the weights that remain make up for the removed inputs.

He et al. (AMC, arXiv:1802.03494, and channel pruning, arXiv:1707.06168) re-solve each layer on
stored activations. Only second moments of a layer's inputs are needed: ``moments`` gathers them in
one pass, ``solve`` has the algebra, ``least_squares`` and ``progressive`` apply it to a compressed
network, ``curves`` reads the error of every width off the same factors. ``rows`` turns a layer's
input into the matrix that its weight multiplies.
"""
